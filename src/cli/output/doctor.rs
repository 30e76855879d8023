//! What the doctor found, as a list to read or as JSON.

use gq::domain::health::Finding;
use serde::Serialize;

use super::columns::aligned;
use super::json::pretty;

/// Returns the findings as a JSON list.
pub(crate) fn json_list(findings: &[Finding]) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Item<'a> {
        check: &'a str,
        verdict: &'static str,
        message: &'a str,
        hint: Option<&'a str>,
    }
    let items = findings.iter().map(|finding| Item {
        check: &finding.check,
        verdict: finding.verdict.as_str(),
        message: &finding.message,
        hint: finding.hint.as_deref(),
    });
    pretty(&items.collect::<Vec<_>>())
}

/// Returns the findings one a line, each with what to do below it.
pub(crate) fn text(findings: &[Finding]) -> String {
    let mut rows = Vec::new();
    for Finding { check, verdict, message, hint } in findings {
        rows.push(vec![verdict.as_str().to_owned(), check.clone(), message.clone()]);
        if let Some(hint) = hint {
            rows.push(vec![String::new(), String::new(), format!("→ {hint}")]);
        }
    }
    aligned(&rows)
}

#[cfg(test)]
mod tests {
    use gq::domain::health::Verdict;

    use super::*;

    #[test]
    fn what_to_do_stands_below_what_was_found() {
        let findings = [
            Finding::new("clock", Verdict::Fine, "right"),
            Finding::new("disk space", Verdict::Problem, "none").hint("make room"),
        ];
        let shown = "ok       clock       right\n\
                     problem  disk space  none\n                     → make room\n";
        assert_eq!(text(&findings), shown);
        let json: serde_json::Value = serde_json::from_str(&json_list(&findings).unwrap()).unwrap();
        assert_eq!(json[0]["hint"], serde_json::Value::Null);
        assert_eq!(
            (&json[1]["verdict"], &json[1]["hint"]),
            (&"problem".into(), &"make room".into())
        );
    }
}
