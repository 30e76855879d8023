-- What each turn of a worker reads and writes, made smaller: calls in flight are counted by an index
-- alone, and what was used in all is the sum over the batches. The columns of `meta` for it stay, for
-- workers of the version before, which may still run.
PRAGMA user_version = 7;

DROP INDEX jobs_running;
CREATE INDEX jobs_running ON jobs (model_id, key_id, started_at, worker_id) WHERE state = 'running';
