//! Prints the text of an answer as it comes.

use std::pin::pin;

use futures_util::{Stream, StreamExt as _};
use gq::queue::{Answer, QueueError, Said};

use super::exit::ExitStatus;
use super::failure::{Failure, Result};
use super::output::Output;

/// Prints what is said, and returns the answer at the end.
pub(crate) async fn speak(
    out: &Output,
    said: impl Stream<Item = std::result::Result<Said, QueueError>>,
) -> Result<Answer> {
    let mut said = pin!(said);
    let mut flow = out.flow()?;
    let mut in_line = false;
    while let Some(said) = said.next().await {
        match said? {
            Said::Text(text) => {
                flow.write(&text).await?;
                in_line = !text.ends_with('\n');
            }
            Said::Restarted => {
                if in_line {
                    flow.write("\n").await?;
                }
                in_line = false;
                out.warning("the answer broke off; it begins anew");
            }
            Said::Finished(answer) => {
                if in_line {
                    flow.write("\n").await?;
                }
                return Ok(*answer);
            }
        }
    }
    Err(Failure::new(ExitStatus::Failure, "the text ended without an answer; a bug in gq"))
}

/// Says why there is no answer, if there is none.
pub(crate) fn end(out: &Output, answer: &Answer) {
    if let Some(error) = &answer.job.error {
        out.error(format!("{}: {}: {}", answer.job.state.as_str(), error.kind, error.message));
    }
}
