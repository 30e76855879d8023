-- Which answers hold a value: `json` is JSON text, `enum` is the value itself. It stands with the
-- small columns because a request can be long, and results are read without it.
PRAGMA user_version = 2;

ALTER TABLE jobs ADD COLUMN output TEXT CHECK (output = 'json' OR output = 'enum');

UPDATE jobs
   SET output = f.output
  FROM (SELECT c.job_id,
               CASE coalesce(c.config ->> '$.responseMimeType', c.config ->> '$.response_mime_type')
                    WHEN 'text/x.enum' THEN 'enum' ELSE 'json' END AS output
          FROM (SELECT job_id, coalesce(request -> '$.generationConfig',
                                        request -> '$.generation_config') AS config
                  FROM inputs WHERE instr(request, 'chema') > 0) AS c
         WHERE coalesce(c.config ->> '$.responseSchema', c.config ->> '$.response_schema',
                        c.config ->> '$.responseJsonSchema', c.config ->> '$.response_json_schema',
                        c.config ->> '$._responseJsonSchema',
                        c.config ->> '$._response_json_schema') IS NOT NULL) AS f
 WHERE jobs.id = f.job_id;

-- The text of an answer that does not fit its schema is shown too.
DROP VIEW job_results;

CREATE VIEW job_results AS
SELECT j.task_id, b.name AS batch, j.state, i.metadata,
       CASE WHEN j.state = 'succeeded' OR (j.state = 'failed' AND t.outcome = 'invalid_output') THEN
           (SELECT group_concat(part.value ->> '$.text', '')
              FROM json_each(a.raw, '$.candidates[0].content.parts') AS part
             WHERE part.value ->> '$.text' IS NOT NULL
               AND coalesce(part.value ->> '$.thought', 0) = 0)
       END AS response,
       CASE WHEN j.state != 'succeeded' THEN t.outcome END AS error_kind,
       CASE WHEN j.state != 'succeeded' THEN t.message END AS error_message,
       t.http_status, m.name AS model, t.prompt_tokens, t.cached_tokens, t.output_tokens,
       t.thought_tokens, t.total_tokens, j.attempts, k.name AS key, j.line, j.created_at,
       j.started_at, j.finished_at, a.raw
  FROM jobs AS j
  JOIN batches AS b ON b.id = j.batch_id
  JOIN models AS m ON m.id = j.model_id
  JOIN inputs AS i ON i.job_id = j.id
  LEFT JOIN answers AS a ON a.job_id = j.id
  LEFT JOIN attempts AS t ON t.job_id = j.id AND t.attempt = j.told_by
  LEFT JOIN keys AS k ON k.id = j.key_id;
