//! Reading jobs with their answers and attempts, page by page: no snapshot is held for long.

use std::collections::{BTreeSet, HashMap};

use futures_util::TryStreamExt as _;
use serde::Deserialize;

use crate::domain::outcome::{ErrorKind, Usage};
use crate::domain::time::Timestamp;
use crate::domain::view::{AttemptView, Counts, JobError, JobState, JobView};
use crate::store::{Store, StoreError, bulk};

/// Which jobs are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResultFilter {
    /// Only jobs with these names.
    pub task_ids: Vec<String>,
    /// Only jobs of this batch.
    pub batch: Option<String>,
    /// Only jobs in these states.
    pub states: Vec<JobState>,
}

/// When a job finished; the order of jobs that finish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finish {
    /// The time.
    pub at: Timestamp,
    /// Its row.
    pub job: i64,
}

/// Jobs in input order, and where to go on.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The jobs.
    pub jobs: Vec<JobView>,
    /// The row to give for the next page; absent at the end.
    pub next: Option<i64>,
}

/// Jobs of one page.
const PAGE_ROWS: i64 = 2000;

/// Bytes of the answers of one page; a larger answer is a page by itself. Images are large, and the
/// next page is read while one is written.
const PAGE_BYTES: usize = 16 << 20;

/// What a page selects: the small columns as one value, since each of its own is copied twice on its
/// way from SQLite's thread; metadata, answer, and text so far.
type Columns = (String, Option<String>, Option<String>, Option<String>);

/// A job as it is stored.
struct Row {
    small: Small,
    metadata: Option<String>,
    raw: Option<String>,
    text: Option<String>,
}

/// The small columns of a job, a list of these; its batch, model and key by their ids.
#[derive(Deserialize)]
struct Small {
    id: i64,
    task_id: String,
    batch: i64,
    state: String,
    outcome: Option<String>,
    message: Option<String>,
    http_status: Option<u16>,
    model: i64,
    tokens: Tokens,
    attempts: i64,
    key: Option<i64>,
    line: i64,
    created_at: i64,
    started_at: Option<i64>,
    finished_at: Option<i64>,
    due_at: i64,
    output: Option<String>,
    /// 0 or 1.
    stream: u8,
}

/// The names of batches, models and keys by their ids.
#[derive(Default)]
struct Names([HashMap<i64, String>; 3]);

impl Names {
    /// Reads those that `rows` need.
    async fn of(rows: &[Row], store: &Store) -> Result<Self, StoreError> {
        let batches: BTreeSet<i64> = rows.iter().map(|row| row.small.batch).collect();
        let found: Vec<(i64, i64, String)> = sqlx::query_as(
            "SELECT 0, id, name FROM batches WHERE id IN (SELECT value FROM json_each(?1))
              UNION ALL SELECT 1, id, name FROM models UNION ALL SELECT 2, id, name FROM keys",
        )
        .bind(bulk::json(&batches)?)
        .fetch_all(&store.readers)
        .await?;
        let mut names = Self::default();
        for (kind, id, name) in found {
            if let Some(names) = usize::try_from(kind).ok().and_then(|kind| names.0.get_mut(kind)) {
                names.insert(id, name);
            }
        }
        Ok(names)
    }
}

/// What a page selects; the end of the statement says which jobs. See `due` for the operator that
/// stands before the limit.
macro_rules! select_jobs {
    ($tail:literal) => {
        concat!(
            "SELECT json_array(j.id, j.task_id, j.batch_id, j.state, t.outcome, t.message,
                               t.http_status, j.model_id,
                               json_array(t.prompt_tokens, t.cached_tokens, t.output_tokens,
                                          t.thought_tokens, t.total_tokens),
                               j.attempts, j.key_id, j.line, j.created_at, j.started_at,
                               j.finished_at, j.due_at, j.output, j.stream),
                    i.metadata, a.raw,
                    CASE WHEN j.stream AND j.state IN ('pending', 'running') THEN
                        (SELECT group_concat(p.text, '' ORDER BY p.place) FROM pieces AS p
                          WHERE p.job_id = j.id AND p.claim = j.claim) END
               FROM jobs AS j
               JOIN inputs AS i ON i.job_id = j.id
               LEFT JOIN answers AS a ON a.job_id = j.id
               LEFT JOIN attempts AS t ON t.job_id = j.id AND t.attempt = j.told_by
              WHERE j.id > ?1 AND (?3 = '[]' OR j.state IN (SELECT value FROM json_each(?3)))
                AND (?4 = '[]' OR j.task_id IN (SELECT value FROM json_each(?4)))",
            $tail,
            " ORDER BY j.id LIMIT +?5"
        )
    };
}

impl Store {
    /// Returns the jobs after row `after` that fit `filter`, in the order they came in.
    pub async fn results(&self, filter: &ResultFilter, after: i64) -> Result<Page, StoreError> {
        let batch = match &filter.batch {
            Some(name) => match self.batch_id(name).await? {
                Some(id) => Some(id),
                None => return Ok(Page::default()),
            },
            None => None,
        };
        let states: Vec<&str> = filter.states.iter().map(|state| state.as_str()).collect();
        let query = match (batch.is_some(), filter.task_ids.is_empty()) {
            (true, true) => select_jobs!(" AND j.batch_id = ?2"),
            (true, false) => select_jobs!(
                " AND j.id IN (SELECT id FROM jobs WHERE batch_id = ?2
                                AND task_id IN (SELECT value FROM json_each(?4)))"
            ),
            (false, true) => select_jobs!(" AND ?2 IS NULL"),
            (false, false) => select_jobs!(
                " AND ?2 IS NULL AND j.id IN
                  (SELECT n.id FROM batches AS o CROSS JOIN json_each(?4) AS e
                    CROSS JOIN jobs AS n ON n.batch_id = o.id AND n.task_id = e.value)"
            ),
        };
        let (states, tasks) = (bulk::json(&states)?, bulk::json(&filter.task_ids)?);
        self.page(query, after, batch, [states, tasks, String::new()]).await
    }

    /// Returns those of the jobs `ids` after row `after`, in the order they came in.
    pub async fn results_of(&self, ids: &[i64], after: i64) -> Result<Page, StoreError> {
        let query = select_jobs!(" AND ?2 IS NULL AND j.id IN (SELECT value FROM json_each(?6))");
        let all = "[]".to_owned();
        self.page(query, after, None, [all.clone(), all, bulk::json(ids)?]).await
    }

    async fn page(
        &self,
        query: &'static str,
        after: i64,
        batch: Option<i64>,
        [states, tasks, ids]: [String; 3],
    ) -> Result<Page, StoreError> {
        let mut found = sqlx::query_as::<_, Columns>(query)
            .bind(after)
            .bind(batch)
            .bind(states)
            .bind(tasks)
            .bind(PAGE_ROWS)
            .bind(ids)
            .fetch(&self.readers);
        let mut rows = Vec::new();
        let mut bytes = 0;
        let mut cut = false;
        while let Some((small, metadata, raw, text)) = found.try_next().await? {
            bytes += raw.as_ref().or(text.as_ref()).map_or(0, String::len);
            cut = bytes > PAGE_BYTES && !rows.is_empty();
            if cut {
                break;
            }
            rows.push(Row { small: bulk::parse(&small)?, metadata, raw, text });
        }
        // What was read beyond the page goes at once: it may be large.
        drop(found);
        let full = cut || i64::try_from(rows.len()).is_ok_and(|rows| rows == PAGE_ROWS);
        let next = rows.last().map(|row| row.small.id).filter(|_| full);
        let names = Names::of(&rows, self).await?;
        let jobs = rows.into_iter().filter_map(|row| row.view(&names).transpose());
        let jobs = jobs.collect::<Result<_, _>>()?;
        Ok(Page { jobs, next })
    }

    /// Returns up to 1,000 jobs that fit `filter` and finished after `from`, in the order in which
    /// they did.
    pub async fn finished(
        &self,
        filter: &ResultFilter,
        from: Finish,
    ) -> Result<Vec<Finish>, StoreError> {
        let states: Vec<&str> = filter.states.iter().map(|state| state.as_str()).collect();
        let rows: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT j.finished_at, j.id FROM jobs AS j INDEXED BY jobs_finished
              WHERE j.finished_at >= ?1 AND (j.finished_at, j.id) > (?1, ?2)
                AND (?3 IS NULL OR j.batch_id = (SELECT id FROM batches WHERE name = ?3))
                AND (?4 = '[]' OR j.state IN (SELECT value FROM json_each(?4)))
                AND (?5 = '[]' OR j.task_id IN (SELECT value FROM json_each(?5)))
              ORDER BY j.finished_at, j.id LIMIT 1000",
        )
        .bind(from.at.0)
        .bind(from.job)
        .bind(&filter.batch)
        .bind(bulk::json(&states)?)
        .bind(bulk::json(&filter.task_ids)?)
        .fetch_all(&self.readers)
        .await?;
        Ok(rows.into_iter().map(|(at, job)| Finish { at: Timestamp(at), job }).collect())
    }

    /// Returns the attempts at the jobs called `task_id`, each with its batch, in order.
    pub async fn attempts(
        &self,
        task_id: &str,
        batch: &str,
    ) -> Result<Vec<AttemptView>, StoreError> {
        let rows: Vec<Attempt> = sqlx::query_as(
            "WITH job AS (SELECT j.* FROM jobs AS j JOIN batches AS b ON b.id = j.batch_id
                           WHERE b.name = ?2 AND j.task_id = ?1)
             SELECT t.attempt, k.name AS key, t.started_at, t.ended_at, t.http_status, t.outcome,
                    t.message, t.paid, t.prompt_tokens, t.cached_tokens, t.output_tokens,
                    t.thought_tokens, t.total_tokens
               FROM job JOIN attempts AS t ON t.job_id = job.id
               LEFT JOIN keys AS k ON k.id = t.key_id
              UNION ALL
             SELECT job.claim, k.name, job.started_at, NULL, NULL, 'running', NULL, 'maybe',
                    NULL, NULL, NULL, NULL, NULL
               FROM job LEFT JOIN keys AS k ON k.id = job.key_id WHERE job.state = 'running'
              ORDER BY 1",
        )
        .bind(task_id)
        .bind(batch)
        .fetch_all(&self.readers)
        .await?;
        Ok(rows.into_iter().map(Attempt::view).collect())
    }

    /// Returns how many of the jobs that fit `filter` are in each state.
    pub async fn count(&self, filter: &ResultFilter) -> Result<Counts, StoreError> {
        let all = self.count_all(filter).await?;
        let mut counts = Counts::default();
        for state in JobState::ALL {
            if filter.states.is_empty() || filter.states.contains(&state) {
                counts.add(state, all.of(state));
            }
        }
        Ok(counts)
    }

    /// Counts the jobs of the batch and with the task ids, whatever states are asked for.
    async fn count_all(&self, filter: &ResultFilter) -> Result<Counts, StoreError> {
        if filter.task_ids.is_empty() {
            let batches = self.batches().await?;
            let mut counts = Counts::default();
            for batch in batches {
                if filter.batch.as_ref().is_none_or(|name| *name == batch.name) {
                    for state in JobState::ALL {
                        counts.add(state, batch.counts.of(state));
                    }
                }
            }
            return Ok(counts);
        }
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "SELECT j.state, count(*)
               FROM batches AS b CROSS JOIN json_each(?1) AS e
               CROSS JOIN jobs AS j ON j.batch_id = b.id AND j.task_id = e.value
              WHERE ?2 IS NULL OR b.name = ?2
              GROUP BY j.state",
        )
        .bind(bulk::json(&filter.task_ids)?)
        .bind(&filter.batch)
        .fetch_all(&self.readers)
        .await?;
        let mut counts = Counts::default();
        for (state, number) in rows {
            counts.add(state.parse().map_err(StoreError::Value)?, number);
        }
        Ok(counts)
    }

    /// Returns those of `task_ids` that no job in scope has.
    pub async fn unknown_tasks(&self, filter: &ResultFilter) -> Result<Vec<String>, StoreError> {
        Ok(sqlx::query_scalar(
            "SELECT e.value FROM json_each(?1) AS e WHERE NOT EXISTS
                (SELECT 1 FROM batches AS b CROSS JOIN jobs AS j
                         ON j.batch_id = b.id AND j.task_id = e.value
                  WHERE ?2 IS NULL OR b.name = ?2)",
        )
        .bind(bulk::json(&filter.task_ids)?)
        .bind(&filter.batch)
        .fetch_all(&self.readers)
        .await?)
    }

    /// Returns the row of the batch called `name`.
    pub async fn batch_id(&self, name: &str) -> Result<Option<i64>, StoreError> {
        Ok(sqlx::query_scalar("SELECT id FROM batches WHERE name = ?1")
            .bind(name)
            .fetch_optional(&self.readers)
            .await?)
    }
}

/// An attempt as it is stored, or one that runs.
#[derive(sqlx::FromRow)]
struct Attempt {
    attempt: i64,
    key: Option<String>,
    started_at: i64,
    ended_at: Option<i64>,
    http_status: Option<u16>,
    outcome: String,
    message: Option<String>,
    paid: String,
    prompt_tokens: Option<i64>,
    cached_tokens: Option<i64>,
    output_tokens: Option<i64>,
    thought_tokens: Option<i64>,
    total_tokens: Option<i64>,
}

impl Attempt {
    fn view(self) -> AttemptView {
        let usage = usage((
            self.prompt_tokens,
            self.cached_tokens,
            self.output_tokens,
            self.thought_tokens,
            self.total_tokens,
        ));
        AttemptView {
            attempt: self.attempt,
            key: self.key,
            started_at: Timestamp(self.started_at),
            ended_at: self.ended_at.map(Timestamp),
            http_status: self.http_status,
            outcome: self.outcome,
            message: self.message,
            paid: self.paid,
            usage,
        }
    }
}

/// Tokens of the prompt, cached ones, of the output, of thoughts, and all.
type Tokens = (Option<i64>, Option<i64>, Option<i64>, Option<i64>, Option<i64>);

fn usage(tokens: Tokens) -> Option<Usage> {
    Some(Usage {
        prompt_tokens: tokens.0?,
        cached_tokens: tokens.1.unwrap_or(0),
        output_tokens: tokens.2.unwrap_or(0),
        thought_tokens: tokens.3.unwrap_or(0),
        total_tokens: tokens.4.unwrap_or(0),
    })
}

impl Row {
    /// Returns what is shown of it; nothing if its batch is gone, for then it is gone itself.
    fn view(self, Names([batches, models, keys]): &Names) -> Result<Option<JobView>, StoreError> {
        let Self { small: row, metadata, raw, text } = self;
        let (Some(batch), Some(model)) = (batches.get(&row.batch), models.get(&row.model)) else {
            return Ok(None);
        };
        let state: JobState = row.state.parse().map_err(StoreError::Value)?;
        let failure = row.outcome.as_deref().and_then(|name| name.parse::<ErrorKind>().ok());
        let error = match state {
            JobState::Succeeded => None,
            JobState::Cancelled => Some(JobError {
                kind: ErrorKind::Cancelled,
                message: "cancelled by request".to_owned(),
                http_status: None,
            }),
            _ => failure.map(|kind| JobError {
                kind,
                message: row.message.unwrap_or_else(|| kind.as_str().to_owned()),
                http_status: row.http_status,
            }),
        };
        Ok(Some(JobView {
            id: row.id,
            task_id: row.task_id,
            batch: batch.clone(),
            state,
            metadata,
            raw,
            error,
            model: model.clone(),
            usage: usage(row.tokens),
            attempts: row.attempts,
            key: row.key.and_then(|key| keys.get(&key).cloned()),
            line: row.line,
            created_at: Timestamp(row.created_at),
            started_at: row.started_at.map(Timestamp),
            finished_at: row.finished_at.map(Timestamp),
            due_at: Timestamp(row.due_at),
            stream: row.stream != 0,
            text,
            output: row.output.map(|form| form.parse()).transpose().map_err(StoreError::Value)?,
        }))
    }
}
