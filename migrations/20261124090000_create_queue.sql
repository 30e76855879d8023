-- Jobs are hot and small; what is written once lives beside them.
PRAGMA application_id = 1734435180;
PRAGMA user_version = 1;

CREATE TABLE meta (
    id              INTEGER PRIMARY KEY CHECK (id = 1),
    salt            BLOB NOT NULL,
    next_call_at    INTEGER NOT NULL DEFAULT 0,
    calls           INTEGER NOT NULL DEFAULT 0,
    tokens          INTEGER NOT NULL DEFAULT 0,
    cost            INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO meta (id, salt) VALUES (1, randomblob(16));

CREATE TABLE models (
    id              INTEGER PRIMARY KEY,
    name            TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE batches (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    name            TEXT NOT NULL UNIQUE,
    created_at      INTEGER NOT NULL,
    pending         INTEGER NOT NULL DEFAULT 0 CHECK (pending >= 0),
    running         INTEGER NOT NULL DEFAULT 0 CHECK (running >= 0),
    succeeded       INTEGER NOT NULL DEFAULT 0 CHECK (succeeded >= 0),
    failed          INTEGER NOT NULL DEFAULT 0 CHECK (failed >= 0),
    cancelled       INTEGER NOT NULL DEFAULT 0 CHECK (cancelled >= 0),
    calls           INTEGER NOT NULL DEFAULT 0,
    tokens          INTEGER NOT NULL DEFAULT 0,
    cost            INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE workers (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    token           TEXT NOT NULL UNIQUE,
    pid             INTEGER NOT NULL,
    workers         INTEGER NOT NULL,
    heartbeat_at    INTEGER NOT NULL
) STRICT;

CREATE TABLE keys (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    name            TEXT NOT NULL UNIQUE,
    fingerprint     BLOB NOT NULL,
    status          TEXT NOT NULL DEFAULT 'available' CHECK (status IN ('available', 'cooldown',
                        'temporarily_exhausted', 'fully_exhausted', 'failed_init', 'disabled')),
    exhausted_count INTEGER NOT NULL DEFAULT 0,
    total_exhausted_count INTEGER NOT NULL DEFAULT 0,
    available_at    INTEGER,
    reason          TEXT,
    disabled        INTEGER NOT NULL DEFAULT 0 CHECK (disabled IN (0, 1)),
    failed_reason   TEXT,
    cooldown_until  INTEGER
) STRICT;

CREATE TABLE slots (
    key_id          INTEGER NOT NULL REFERENCES keys (id) ON DELETE CASCADE,
    model_id        INTEGER NOT NULL REFERENCES models (id),
    streak          INTEGER NOT NULL DEFAULT 0,
    total           INTEGER NOT NULL DEFAULT 0,
    rest_until      INTEGER,
    is_full         INTEGER NOT NULL DEFAULT 0 CHECK (is_full IN (0, 1)),
    is_never        INTEGER NOT NULL DEFAULT 0 CHECK (is_never IN (0, 1)),
    exhausted_at    INTEGER,
    reason          TEXT,
    PRIMARY KEY (key_id, model_id)
) STRICT, WITHOUT ROWID;

-- Batch and model are no declared references: each would be looked up again for every new job,
-- and the statement that adds jobs has just read both.
CREATE TABLE jobs (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    batch_id        INTEGER NOT NULL,
    task_id         TEXT NOT NULL,
    line            INTEGER NOT NULL,
    model_id        INTEGER NOT NULL,
    state           TEXT NOT NULL DEFAULT 'pending',
    priority        INTEGER NOT NULL,
    due_at          INTEGER NOT NULL,
    -- The user's own; every other time in `due_at` is set by us and never far off.
    not_before      INTEGER,
    attempts        INTEGER NOT NULL DEFAULT 0,
    max_attempts    INTEGER NOT NULL,
    -- The number of the last claim; it fences: nothing but a success counts from an older one.
    claim           INTEGER NOT NULL DEFAULT 0,
    deaths          INTEGER NOT NULL DEFAULT 0,
    worker_id       INTEGER,
    key_id          INTEGER,
    -- Milliseconds of the boot-time clock of the worker's machine, which no wall clock moves.
    lease_until     INTEGER,
    -- The attempt whose record tells the answer, or the last failure.
    told_by         INTEGER,
    created_at      INTEGER NOT NULL,
    started_at      INTEGER,
    finished_at     INTEGER,
    UNIQUE (batch_id, task_id),
    -- One chain of comparisons that mostly ends with its first: a list would be a look-up in a
    -- temporary table for every row written.
    CHECK (CASE state WHEN 'pending' THEN finished_at IS NULL AND worker_id IS NULL
                      WHEN 'running' THEN finished_at IS NULL AND worker_id IS NOT NULL
                      WHEN 'succeeded' THEN finished_at IS NOT NULL AND worker_id IS NULL
                      WHEN 'failed' THEN finished_at IS NOT NULL AND worker_id IS NULL
                      WHEN 'cancelled' THEN finished_at IS NOT NULL AND worker_id IS NULL
                      ELSE 0 END)
) STRICT;

-- Each ends with the row's id, unsaid.
CREATE INDEX jobs_due ON jobs (model_id, priority DESC, due_at) WHERE state = 'pending';
CREATE INDEX jobs_due_in_batch ON jobs (batch_id, model_id, priority DESC, due_at)
    WHERE state = 'pending';
CREATE INDEX jobs_running ON jobs (worker_id) WHERE state = 'running';
CREATE INDEX jobs_in_batch ON jobs (batch_id);

CREATE TABLE inputs (
    job_id          INTEGER PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
    digest          TEXT NOT NULL,
    metadata        TEXT,
    request         TEXT NOT NULL
) STRICT;

CREATE TABLE answers (
    job_id          INTEGER PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
    raw             TEXT NOT NULL
) STRICT;

CREATE TABLE attempts (
    job_id          INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    attempt         INTEGER NOT NULL,
    key_id          INTEGER,
    started_at      INTEGER NOT NULL,
    ended_at        INTEGER NOT NULL,
    http_status     INTEGER,
    outcome         TEXT NOT NULL,
    message         TEXT,
    paid            TEXT NOT NULL CHECK (paid IN ('no', 'maybe', 'yes')),
    prompt_tokens   INTEGER,
    cached_tokens   INTEGER,
    output_tokens   INTEGER,
    thought_tokens  INTEGER,
    total_tokens    INTEGER,
    PRIMARY KEY (job_id, attempt)
) STRICT, WITHOUT ROWID;

-- Finished jobs in each ten seconds, for the rate of the last minute.
CREATE TABLE throughput (
    bucket          INTEGER PRIMARY KEY,
    finished        INTEGER NOT NULL
) STRICT;

CREATE VIEW job_results AS
SELECT j.task_id, b.name AS batch, j.state, i.metadata,
       CASE WHEN j.state = 'succeeded' THEN
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

CREATE VIEW key_slots AS
SELECT k.name AS key, m.name AS model,
       CASE WHEN s.is_never THEN 'fully_exhausted'
            WHEN s.rest_until IS NULL OR s.rest_until <= unixepoch('subsec') * 1000 THEN 'available'
            WHEN s.is_full THEN 'fully_exhausted'
            ELSE 'temporarily_exhausted' END AS status,
       s.streak AS exhausted_count, s.total AS total_exhausted_count,
       s.rest_until AS available_at, s.reason
  FROM slots AS s
  JOIN keys AS k ON k.id = s.key_id
  JOIN models AS m ON m.id = s.model_id;
