-- What goes into requests when they are sent: files as they were when their job was added, and
-- bytes that came with it, once each.
PRAGMA user_version = 3;

CREATE TABLE blobs (
    id              INTEGER PRIMARY KEY,
    sha256          BLOB NOT NULL UNIQUE,
    bytes           BLOB NOT NULL
) STRICT;

CREATE TABLE media (
    job_id          INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    -- Where in the text of the request they belong, in bytes.
    place           INTEGER NOT NULL,
    mime_type       TEXT NOT NULL,
    size            INTEGER NOT NULL,
    path            TEXT,
    -- Nanoseconds since 1970.
    modified        INTEGER,
    blob_id         INTEGER REFERENCES blobs (id),
    PRIMARY KEY (job_id, place),
    CHECK ((path IS NULL) = (modified IS NULL)),
    CHECK ((path IS NULL) = (blob_id IS NOT NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX media_of_blob ON media (blob_id) WHERE blob_id IS NOT NULL;
