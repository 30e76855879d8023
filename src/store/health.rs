//! Looking whether the database is sound, and counting anew.

use crate::domain::health::Miscount;
use crate::domain::view::Counts;
use crate::store::{Store, StoreError};

/// How many faults are told at most.
const FAULTS: usize = 20;

/// What the queue's own rules ask of its rows, each with how many break it.
const RULES: [(&str, &str); 4] = [
    (
        "succeeded jobs have no answer",
        "SELECT count(*) FROM jobs AS j WHERE state = 'succeeded'
            AND NOT EXISTS (SELECT 1 FROM answers WHERE job_id = j.id)",
    ),
    (
        "jobs have no request",
        "SELECT count(*) FROM jobs AS j
          WHERE NOT EXISTS (SELECT 1 FROM inputs WHERE job_id = j.id)",
    ),
    (
        "jobs belong to no batch",
        "SELECT count(*) FROM jobs WHERE batch_id NOT IN (SELECT id FROM batches)",
    ),
    ("rows refer to rows that are not there", "SELECT count(*) FROM pragma_foreign_key_check"),
];

/// How many jobs of each state a batch has, by counting them.
macro_rules! counted {
    () => {
        "counted AS MATERIALIZED (
            SELECT b.id, count(*) FILTER (WHERE j.state = 'pending') AS pending,
                   count(*) FILTER (WHERE j.state = 'running') AS running,
                   count(*) FILTER (WHERE j.state = 'succeeded') AS succeeded,
                   count(*) FILTER (WHERE j.state = 'failed') AS failed,
                   count(*) FILTER (WHERE j.state = 'cancelled') AS cancelled
              FROM batches AS b LEFT JOIN jobs AS j ON j.batch_id = b.id GROUP BY b.id)"
    };
}

/// One statement, so that it sees the counts and the jobs of one moment.
const MISCOUNTS: &str = concat!(
    "WITH ",
    counted!(),
    "SELECT b.name, b.pending, b.running, b.succeeded, b.failed, b.cancelled,
            c.pending, c.running, c.succeeded, c.failed, c.cancelled
       FROM batches AS b JOIN counted AS c ON c.id = b.id
      WHERE (b.pending, b.running, b.succeeded, b.failed, b.cancelled) IS NOT
            (c.pending, c.running, c.succeeded, c.failed, c.cancelled)
      ORDER BY b.id"
);

const RECOUNT: &str = concat!(
    "WITH ",
    counted!(),
    "UPDATE batches
        SET (pending, running, succeeded, failed, cancelled) =
            (c.pending, c.running, c.succeeded, c.failed, c.cancelled)
       FROM counted AS c
      WHERE c.id = batches.id
        AND (batches.pending, batches.running, batches.succeeded, batches.failed,
             batches.cancelled) IS NOT
            (c.pending, c.running, c.succeeded, c.failed, c.cancelled)"
);

impl Store {
    /// Reads every page, index and row, and returns what is wrong with them in words, up to 20.
    ///
    /// # Errors
    /// What SQLite says where it cannot even look.
    pub async fn faults(&self) -> Result<Vec<String>, StoreError> {
        let said: Vec<String> =
            sqlx::query_scalar("PRAGMA integrity_check(20)").fetch_all(&self.readers).await?;
        // A row may have many lines, of which the first names the part.
        let lines = said.iter().flat_map(|row| row.lines());
        let faults = lines.filter(|line| *line != "ok" && !line.starts_with("***"));
        let mut faults: Vec<String> = faults.map(str::to_owned).collect();
        for (rule, count) in RULES {
            let broken: i64 = sqlx::query_scalar(count).fetch_one(&self.readers).await?;
            if broken > 0 {
                faults.push(format!("{broken} {rule}"));
            }
        }
        faults.truncate(FAULTS);
        Ok(faults)
    }

    /// Returns the batches whose counts are not those of their jobs.
    pub async fn miscounts(&self) -> Result<Vec<Miscount>, StoreError> {
        type Row = (String, i64, i64, i64, i64, i64, i64, i64, i64, i64, i64);
        let rows: Vec<Row> = sqlx::query_as(MISCOUNTS).fetch_all(&self.readers).await?;
        let counts = |pending, running, succeeded, failed, cancelled| Counts {
            pending,
            running,
            succeeded,
            failed,
            cancelled,
        };
        let miscount = |row: Row| Miscount {
            batch: row.0,
            stored: counts(row.1, row.2, row.3, row.4, row.5),
            counted: counts(row.6, row.7, row.8, row.9, row.10),
        };
        Ok(rows.into_iter().map(miscount).collect())
    }

    /// Counts the jobs of each batch anew and returns how many batches that changed.
    pub async fn recount(&self) -> Result<u64, StoreError> {
        self.writer
            .write(|connection| {
                Box::pin(async move {
                    Ok(sqlx::query(RECOUNT).execute(connection).await?.rows_affected())
                })
            })
            .await
    }
}
