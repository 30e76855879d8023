-- The text of answers that are still coming, for readers in other processes; and a way to the jobs
-- that finished last.
PRAGMA user_version = 5;

ALTER TABLE jobs ADD COLUMN stream INTEGER NOT NULL DEFAULT 0 CHECK (stream = 0 OR stream = 1);

CREATE INDEX jobs_finished ON jobs (finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE pieces (
    job_id          INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    -- The attempt whose text it is: a later one starts anew, and only the job's last one counts.
    claim           INTEGER NOT NULL,
    -- Where in the text of that attempt it begins, in bytes.
    place           INTEGER NOT NULL,
    text            TEXT NOT NULL,
    PRIMARY KEY (job_id, claim, place)
) STRICT, WITHOUT ROWID;

-- The pieces are put in order by a query of their own: a view with an order inside of the aggregate
-- would keep every SQLite before 3.44 from reading the database at all.
DROP VIEW job_results;

CREATE VIEW job_results AS
SELECT j.task_id, b.name AS batch, j.state, i.metadata,
       CASE WHEN j.state = 'succeeded' OR (j.state = 'failed' AND t.outcome = 'invalid_output') THEN
           (SELECT group_concat(part.value ->> '$.text', '')
              FROM json_each(a.raw, '$.candidates[0].content.parts') AS part
             WHERE part.value ->> '$.text' IS NOT NULL
               AND coalesce(part.value ->> '$.thought', 0) = 0)
            WHEN j.stream AND (j.state = 'pending' OR j.state = 'running') THEN
           (SELECT group_concat(o.text, '')
              FROM (SELECT p.text FROM pieces AS p
                     WHERE p.job_id = j.id AND p.claim = j.claim ORDER BY p.place) AS o)
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
