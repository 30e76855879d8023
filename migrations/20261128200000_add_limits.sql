-- What slots may take and have taken, what people say of keys, and how models stand overload.
PRAGMA user_version = 6;

-- Limits that 429s have named, as a list of requests a minute, tokens a minute and requests a day:
-- each null, or a list of the limit, when it was named, and whether our own use explains the 429.
ALTER TABLE slots ADD COLUMN learned TEXT NOT NULL DEFAULT '[null,null,null]';
-- The calls of the last minute: how long a minute is, then for each second how much later it began
-- than the one before (the first since 1970), how long it lasts, its calls and its tokens.
ALTER TABLE slots ADD COLUMN recent TEXT NOT NULL DEFAULT '';
-- When the next call of a long queue is due.
ALTER TABLE slots ADD COLUMN next_at INTEGER NOT NULL DEFAULT 0;
-- The last day in America/Los_Angeles with a call, and its calls.
ALTER TABLE slots ADD COLUMN day INTEGER NOT NULL DEFAULT 0;
ALTER TABLE slots ADD COLUMN day_calls INTEGER NOT NULL DEFAULT 0;

-- Thousandths of calls that may be in flight; null where they are not limited.
ALTER TABLE models ADD COLUMN allowed INTEGER;
ALTER TABLE models ADD COLUMN lowered_at INTEGER;
-- Overloads in a row with one call at a time, and until when none is made.
ALTER TABLE models ADD COLUMN overloads INTEGER NOT NULL DEFAULT 0;
ALTER TABLE models ADD COLUMN rest_until INTEGER;
-- Tokens that calls had, in thousandths of those that they were expected to have.
ALTER TABLE models ADD COLUMN token_rate INTEGER NOT NULL DEFAULT 1000;

-- The project that the API named when it refused the key.
ALTER TABLE keys ADD COLUMN consumer TEXT;
-- A key that ran out in the same moment.
ALTER TABLE keys ADD COLUMN twin_id INTEGER;

-- Limits that the worker was told for each slot.
ALTER TABLE workers ADD COLUMN rpm TEXT;
ALTER TABLE workers ADD COLUMN tpm TEXT;
ALTER TABLE workers ADD COLUMN rpd TEXT;

CREATE TABLE key_settings (
    key_id          INTEGER NOT NULL REFERENCES keys (id) ON DELETE CASCADE,
    origin          TEXT NOT NULL CHECK (origin = 'environment' OR origin = 'command'),
    rpm             TEXT,
    tpm             TEXT,
    rpd             TEXT,
    project         TEXT,
    tier            TEXT CHECK (tier = 'free' OR tier = 'paid'),
    PRIMARY KEY (key_id, origin)
) STRICT, WITHOUT ROWID;

DROP VIEW key_slots;

-- Keys of one project share a row, that of the first of them.
CREATE VIEW key_slots AS
SELECT k.name AS key, m.name AS model,
       CASE WHEN s.is_never THEN 'fully_exhausted'
            WHEN s.rest_until IS NULL OR s.rest_until <= unixepoch('subsec') * 1000 THEN 'available'
            WHEN s.is_full THEN 'fully_exhausted'
            ELSE 'temporarily_exhausted' END AS status,
       s.streak AS exhausted_count, s.total AS total_exhausted_count,
       s.rest_until AS available_at, s.reason, s.learned ->> '$[0][0]' AS learned_rpm,
       s.learned ->> '$[1][0]' AS learned_tpm, s.learned ->> '$[2][0]' AS learned_rpd
  FROM slots AS s
  JOIN keys AS k ON k.id = s.key_id
  JOIN models AS m ON m.id = s.model_id;

-- A job that a person cancelled says so, as results do.
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
       CASE WHEN j.state = 'cancelled' THEN 'cancelled'
            WHEN j.state != 'succeeded' THEN t.outcome END AS error_kind,
       CASE WHEN j.state = 'cancelled' THEN 'cancelled by request'
            WHEN j.state != 'succeeded' THEN t.message END AS error_message,
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
