//! Rows for bulk statements: many rows as one JSON array, read by `json_each`.

use serde::Serialize;

use crate::store::error::StoreError;

/// Statements take at most about this many bytes of rows, so that memory stays flat.
const CHUNK_BYTES: usize = 4 << 20;

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
