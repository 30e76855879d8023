-- Media that go to the API as files of their own: what is in a file, which key has uploaded it,
-- until when that may be used, and which jobs wait for it.
PRAGMA user_version = 4;

-- What a file held when it looked like this; or why it could not be read, for a short while.
CREATE TABLE contents (
    path            TEXT NOT NULL,
    size            INTEGER NOT NULL,
    modified        INTEGER NOT NULL,
    sha256          TEXT,
    message         TEXT,
    until           INTEGER,
    PRIMARY KEY (path, size, modified),
    CHECK ((sha256 IS NULL) = (message IS NOT NULL)),
    CHECK ((message IS NULL) = (until IS NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX contents_by_hash ON contents (sha256);

-- Ids are never used twice: a late report of an upload finds its own row or none.
CREATE TABLE uploads (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    key_id          INTEGER NOT NULL REFERENCES keys (id) ON DELETE CASCADE,
    -- The address of the API: a stand-in's files are of no use elsewhere.
    api             TEXT NOT NULL,
    sha256          TEXT NOT NULL,
    mime_type       TEXT NOT NULL,
    size            INTEGER NOT NULL,
    state           TEXT NOT NULL CHECK (state IN ('uploading', 'processing', 'ready', 'failed')),
    -- Who is at it, and until when on the boot-time clock; a file that the API is at work on may
    -- have nobody who asks for it.
    worker_id       INTEGER,
    lease_until     INTEGER,
    -- The API's name for the file, and its address.
    name            TEXT,
    uri             TEXT,
    -- Until when it is used, or told to jobs where it failed.
    until           INTEGER,
    error_kind      TEXT,
    message         TEXT,
    UNIQUE (key_id, sha256, mime_type),
    CHECK ((worker_id IS NULL) = (lease_until IS NULL)),
    CHECK (CASE state
           WHEN 'uploading' THEN worker_id IS NOT NULL AND name IS NULL
           WHEN 'processing' THEN name IS NOT NULL AND uri IS NOT NULL AND until IS NOT NULL
           WHEN 'ready' THEN worker_id IS NULL AND name IS NOT NULL AND uri IS NOT NULL
                AND until IS NOT NULL
           ELSE worker_id IS NULL AND error_kind IS NOT NULL AND message IS NOT NULL
                AND until IS NOT NULL END)
) STRICT;

CREATE INDEX uploads_by_hash ON uploads (sha256);
CREATE INDEX uploads_of_worker ON uploads (worker_id) WHERE worker_id IS NOT NULL;
CREATE INDEX uploads_by_end ON uploads (until) WHERE until IS NOT NULL;

-- Pending jobs that were put off, with the time at which they were due.
CREATE TABLE waits (
    -- The id of an upload, `hash`, or `room`.
    subject         TEXT NOT NULL,
    job_id          INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    due_at          INTEGER NOT NULL,
    PRIMARY KEY (subject, job_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX waits_of_job ON waits (job_id);
