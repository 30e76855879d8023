//! The text of answers that are still coming, piece by piece.

use serde::Serialize;
use sqlx::sqlite::SqliteConnection;

use crate::store::{Store, StoreError, bulk};

/// A piece of a text that comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Piece {
    /// The job's row.
    pub job: i64,
    /// The number of the claim.
    pub claim: i64,
    /// Where in the text of that attempt it begins, in bytes.
    pub place: usize,
    /// The piece.
    pub text: String,
}

/// How far a reader is in the text of a job; the default is its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Heard {
    /// The attempt whose text it is.
    pub claim: i64,
    /// How much of it the reader has, in bytes.
    pub bytes: usize,
}

/// A job that somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    /// The job's row.
    pub job: i64,
    /// How far the reader is in its text; absent where only its end counts.
    pub heard: Option<Heard>,
}

/// What has become of a job that somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// It was removed.
    Gone,
    /// It is finished: its answer says all.
    Finished,
    /// Its text has grown.
    Text {
        /// The attempt whose text it is; where the reader heard another one's, the text begins
        /// anew.
        claim: i64,
        /// What follows the part that the reader has, or all of a text that began anew.
        text: String,
    },
}

/// Adds pieces of attempts that still own their job. The same ones again change nothing.
pub(super) async fn append(
    connection: &mut SqliteConnection,
    pieces: &[Piece],
) -> Result<(), StoreError> {
    if pieces.is_empty() {
        return Ok(());
    }
    if pieces.iter().any(|piece| piece.place == 0) {
        sqlx::query(
            "DELETE FROM pieces WHERE (job_id, claim) IN
                (SELECT p.job_id, p.claim FROM json_each(?1) AS e
                  CROSS JOIN pieces AS p ON p.job_id = e.value ->> 'job'
                                        AND p.claim < e.value ->> 'claim')",
        )
        .bind(bulk::json(pieces)?)
        .execute(&mut *connection)
        .await?;
    }
    for rows in bulk::arrays(pieces)? {
        sqlx::query(
            "INSERT OR REPLACE INTO pieces (job_id, claim, place, text)
             SELECT j.id, j.claim, e.value ->> 'place', e.value ->> 'text'
               FROM json_each(?1) AS e
               CROSS JOIN jobs AS j ON j.id = e.value ->> 'job'
              WHERE j.state = 'running' AND j.claim = e.value ->> 'claim'",
        )
        .bind(rows)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Removes the pieces of jobs whose answer says all.
pub(super) async fn forget(
    connection: &mut SqliteConnection,
    jobs: &[i64],
) -> Result<(), StoreError> {
    if jobs.is_empty() {
        return Ok(());
    }
    sqlx::query("DELETE FROM pieces WHERE job_id IN (SELECT value FROM json_each(?1))")
        .bind(bulk::json(jobs)?)
        .execute(connection)
        .await?;
    Ok(())
}

impl Store {
    /// Returns the row of the job called `task_id` in the batch called `batch`.
    pub async fn job_id(&self, batch: &str, task_id: &str) -> Result<Option<i64>, StoreError> {
        Ok(sqlx::query_scalar(
            "SELECT j.id FROM batches AS b CROSS JOIN jobs AS j ON j.batch_id = b.id
              WHERE b.name = ?1 AND j.task_id = ?2",
        )
        .bind(batch)
        .bind(task_id)
        .fetch_optional(&self.readers)
        .await?)
    }

    /// Returns what is new for each reader, with the reader's place in `interests`; nothing for
    /// those for whom nothing is.
    pub async fn news(&self, interests: &[Interest]) -> Result<Vec<(usize, News)>, StoreError> {
        let asked: Vec<(i64, Option<i64>, Option<usize>)> = interests
            .iter()
            .map(|it| {
                (it.job, it.heard.map(|heard| heard.claim), it.heard.map(|heard| heard.bytes))
            })
            .collect();
        let rows: Vec<(i64, Option<bool>, Option<i64>, Option<String>)> = sqlx::query_as(
            "SELECT e.key, j.finished_at IS NOT NULL, j.claim,
                    (SELECT group_concat(p.text, '' ORDER BY p.place) FROM pieces AS p
                      WHERE p.job_id = j.id AND p.claim = j.claim
                        AND p.place >= iif(j.claim = e.value ->> 1, e.value ->> 2, 0))
               FROM json_each(?1) AS e LEFT JOIN jobs AS j ON j.id = e.value ->> 0
              WHERE j.id IS NULL OR j.finished_at IS NOT NULL OR j.claim != e.value ->> 1
                 OR EXISTS (SELECT 1 FROM pieces AS p
                             WHERE p.job_id = j.id AND p.claim = j.claim
                               AND p.place >= e.value ->> 2)",
        )
        .bind(bulk::json(&asked)?)
        .fetch_all(&self.readers)
        .await?;
        let news = rows.into_iter().map(|(place, finished, claim, text)| {
            let news = match (finished, claim) {
                (_, None) => News::Gone,
                (Some(true), _) => News::Finished,
                (_, Some(claim)) => News::Text { claim, text: text.unwrap_or_default() },
            };
            (usize::try_from(place).unwrap_or(usize::MAX), news)
        });
        Ok(news.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::outcome::{ErrorKind, Outcome};
    use crate::store::contract::{Bench, ended, job, policy};
    use crate::store::{Claimed, OnConflict, ResultFilter, TurnRequest};

    fn piece(claimed: &Claimed, place: usize, text: &str) -> Piece {
        Piece { job: claimed.job, claim: claimed.claim, place, text: text.to_owned() }
    }

    fn from_start(claimed: &Claimed) -> Interest {
        Interest { job: claimed.job, heard: Some(Heard::default()) }
    }

    fn text(claim: i64, text: &str) -> News {
        News::Text { claim, text: text.to_owned() }
    }

    async fn streaming() -> (Bench, Vec<Claimed>) {
        let bench = Bench::with_jobs(0).await;
        let jobs =
            (0..2).map(|number| crate::domain::input::NewJob { stream: true, ..job(number, "x") });
        bench.enqueue(jobs, OnConflict::Refuse).await.unwrap();
        let claimed = bench.claim(&bench.first, 1, 9).await;
        assert!(claimed.iter().all(|job| job.at_claim.is_stream()));
        (bench, claimed)
    }

    async fn say(bench: &Bench, pieces: Vec<Piece>) {
        let request = TurnRequest { pieces, ..bench.request(1, 0) };
        bench.first.turn(request, policy()).await.unwrap();
    }

    async fn texts(bench: &Bench) -> Vec<Option<String>> {
        let page = bench.second.results(&ResultFilter::default(), 0).await.unwrap();
        page.jobs.into_iter().map(|job| job.text).collect()
    }

    #[tokio::test]
    async fn readers_get_what_follows_the_part_that_they_have() {
        let (bench, claimed) = streaming().await;
        say(&bench, vec![piece(&claimed[0], 0, "äb"), piece(&claimed[1], 0, "other")]).await;
        say(&bench, vec![piece(&claimed[0], 3, "c"), piece(&claimed[0], 3, "c")]).await;
        let after = |bytes| Interest {
            heard: Some(Heard { claim: claimed[0].claim, bytes }),
            ..from_start(&claimed[0])
        };
        let end = Interest { heard: None, ..from_start(&claimed[0]) };
        let interests = [from_start(&claimed[0]), after(3), after(4), end, from_start(&claimed[1])];
        let news = bench.second.news(&interests).await.unwrap();
        let claim = claimed[0].claim;
        assert_eq!(news, [(0, text(claim, "äbc")), (1, text(claim, "c")), (4, text(1, "other"))]);
        assert_eq!(texts(&bench).await, [Some("äbc".to_owned()), Some("other".to_owned())]);
    }

    #[tokio::test]
    async fn a_new_attempt_begins_anew_and_late_pieces_of_the_old_one_are_dropped() {
        let (bench, claimed) = streaming().await;
        say(&bench, vec![piece(&claimed[0], 0, "old"), piece(&claimed[1], 0, "other")]).await;
        let failed = ended(&claimed[0], Outcome::Failed(ErrorKind::Network));
        bench.settle(&bench.first, 1, vec![failed]).await;
        assert_eq!(texts(&bench).await[0].as_deref(), Some("old"), "it waits for its next attempt");
        let again = bench.claim(&bench.first, 1, 9).await.remove(0);
        assert_eq!(texts(&bench).await[0], None);
        let heard = Some(Heard { claim: claimed[0].claim, bytes: 3 });
        let interest = [Interest { job: again.job, heard }];
        assert_eq!(bench.second.news(&interest).await.unwrap(), [(0, text(2, ""))]);
        say(&bench, vec![piece(&claimed[0], 3, "late"), piece(&again, 0, "new")]).await;
        assert_eq!(bench.second.news(&interest).await.unwrap(), [(0, text(2, "new"))]);
        let texts = texts(&bench).await;
        assert_eq!(texts, [Some("new".to_owned()), Some("other".to_owned())]);
    }

    #[tokio::test]
    async fn a_finished_job_keeps_no_pieces_and_its_neighbour_does() {
        let (bench, claimed) = streaming().await;
        say(&bench, vec![piece(&claimed[0], 0, "a"), piece(&claimed[1], 0, "b")]).await;
        bench.settle(&bench.first, 1, vec![ended(&claimed[0], Outcome::Answered)]).await;
        let interests = [from_start(&claimed[0]), from_start(&claimed[1])];
        let news = bench.second.news(&interests).await.unwrap();
        assert_eq!(news, [(0, News::Finished), (1, text(1, "b"))]);
        assert_eq!(texts(&bench).await, [None, Some("b".to_owned())]);
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM pieces")
            .fetch_one(&bench.second.readers)
            .await
            .unwrap();
        assert_eq!(left, 1);
        let gone = Interest { job: 99, heard: None };
        assert_eq!(bench.second.news(&[gone]).await.unwrap(), [(0, News::Gone)]);
    }
}
