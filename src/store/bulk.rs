//! Many rows in one statement: as one JSON array, read by `json_each`; or, where speed counts
//! most, as a list of parameters.

use futures_util::TryStreamExt as _;
use futures_util::future::join;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{Arguments, AssertSqlSafe, Either, Encode, Executor as _, FromRow, Type};

use crate::store::error::StoreError;

/// Statements take at most about this many bytes of rows, so that memory stays flat.
pub(super) const CHUNK_BYTES: usize = 4 << 20;

/// Rows of one statement with parameters: enough that its own cost is small, and within SQLite's
/// 32,766 parameters.
const STATEMENT_ROWS: usize = 512;

/// Returns `rows` as JSON arrays of a few megabytes; a larger row stands alone.
pub(super) fn arrays<T: Serialize>(rows: &[T]) -> Result<Vec<String>, StoreError> {
    let mut arrays = Vec::new();
    let mut current = String::new();
    for row in rows {
        let text = json(row)?;
        if !current.is_empty() && current.len() + text.len() > CHUNK_BYTES {
            current.push(']');
            arrays.push(std::mem::take(&mut current));
        }
        current.push(if current.is_empty() { '[' } else { ',' });
        current.push_str(&text);
    }
    if !current.is_empty() {
        current.push(']');
        arrays.push(current);
    }
    Ok(arrays)
}

/// Returns `value` as JSON text.
pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Value(error.to_string()))
}

/// Returns what JSON text that SQLite made holds.
pub(super) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Value(error.to_string()))
}

/// Runs statements that go to SQLite together, and returns the rows of each. One way to its thread
/// and back takes longer than a small statement.
///
/// They have one list of parameters, `$1` and so on. A `?2` would not do: SQLite knows a `?1` that
/// a statement leaves out too, and sqlx would take it for one without a number.
pub(super) async fn together<const STATEMENTS: usize>(
    connection: &mut SqliteConnection,
    query: Query<'_, Sqlite, SqliteArguments>,
) -> Result<[Vec<SqliteRow>; STATEMENTS], StoreError> {
    let mut rows = [const { Vec::new() }; STATEMENTS];
    let mut statement = 0;
    let mut steps = connection.fetch_many(query);
    while let Some(step) = steps.try_next().await? {
        match step {
            Either::Left(_) => statement += 1,
            Either::Right(row) => rows[statement].push(row),
        }
    }
    Ok(rows)
}

/// Reads rows as what they stand for.
pub(super) fn read<T>(rows: &[SqliteRow]) -> Result<Vec<T>, StoreError>
where
    T: for<'r> FromRow<'r, SqliteRow>,
{
    Ok(rows.iter().map(T::from_row).collect::<Result<_, _>>()?)
}

/// An INSERT of many rows by parameters: no text is parsed, neither by us nor by SQLite.
pub(super) struct Insert {
    /// What stands before `VALUES`.
    pub(super) into: &'static str,
    /// Parameters of a row.
    pub(super) columns: usize,
    /// What stands after the rows.
    pub(super) end: &'static str,
}

/// The parameters of some rows.
#[derive(Default)]
pub(super) struct Parameters {
    values: SqliteArguments,
    error: Option<sqlx::error::BoxDynError>,
}

impl Parameters {
    /// Adds the next one.
    pub(super) fn add<'t, T>(&mut self, value: T) -> &mut Self
    where
        T: Encode<'t, Sqlite> + Type<Sqlite>,
    {
        if let Err(error) = self.values.add(value) {
            self.error.get_or_insert(error);
        }
        self
    }
}

impl Insert {
    /// Inserts `rows`, whose parameters `add` adds, and returns how many were inserted.
    ///
    /// The next statement is made while SQLite runs the last.
    pub(super) async fn run<T>(
        &self,
        connection: &mut SqliteConnection,
        rows: &[T],
        add: impl Fn(&mut Parameters, &T),
    ) -> Result<usize, StoreError> {
        let make = |rows: &[T]| {
            let mut parameters = Parameters::default();
            parameters.values.reserve(rows.len() * self.columns, 0);
            for row in rows {
                add(&mut parameters, row);
            }
            (rows.len(), parameters)
        };
        let mut statements = rows.chunks(STATEMENT_ROWS).map(make);
        let mut next = statements.next();
        let mut inserted = 0;
        while let Some((count, parameters)) = next {
            if let Some(error) = parameters.error {
                return Err(sqlx::Error::Encode(error).into());
            }
            let running = sqlx::query_with(AssertSqlSafe(self.statement(count)), parameters.values)
                // One of each size would fill the cache of prepared statements.
                .persistent(count == STATEMENT_ROWS)
                .execute(&mut *connection);
            let (done, following) = join(running, async { statements.next() }).await;
            inserted += usize::try_from(done?.rows_affected()).unwrap_or(usize::MAX);
            next = following;
        }
        Ok(inserted)
    }

    fn statement(&self, rows: usize) -> String {
        let row = format!("({})", vec!["?"; self.columns].join(","));
        format!("{} VALUES {} {}", self.into, vec![row.as_str(); rows].join(","), self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_split_by_size_and_none_is_lost() {
        let rows: Vec<String> = (0..5).map(|_| "x".repeat(3 << 20)).collect();
        let arrays = arrays(&rows).unwrap();
        assert_eq!(arrays.len(), 5);
        let small = super::arrays(&[(1, "a"), (2, "b")]).unwrap();
        assert_eq!(small, [r#"[[1,"a"],[2,"b"]]"#]);
    }
}
