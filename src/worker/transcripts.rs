//! The texts of streaming calls as they come, until a turn has stored them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::store::Piece;

/// Takes down the text of one call.
#[derive(Debug, Clone)]
pub(super) struct Scribe {
    /// What was not taken yet.
    text: Arc<Mutex<String>>,
    news: Arc<Notify>,
}

impl Scribe {
    pub(super) fn write(&self, piece: &str) {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).push_str(piece);
        self.news.notify_one();
    }

    fn take(&self) -> String {
        std::mem::take(&mut *self.text.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The texts of all streaming calls in flight, by job and claim.
#[derive(Debug, Default)]
pub(super) struct Transcripts {
    open: HashMap<(i64, i64), Open>,
    news: Arc<Notify>,
    has_news: bool,
    /// Pieces that are not known to be on disk.
    unsaved: Vec<Piece>,
}

#[derive(Debug)]
struct Open {
    scribe: Scribe,
    /// How much of the text was taken, in bytes.
    taken: usize,
}

impl Transcripts {
    /// Begins the text of an attempt.
    pub(super) fn begin(&mut self, job: i64, claim: i64) -> Scribe {
        let scribe = Scribe { text: Arc::default(), news: self.news.clone() };
        self.open.insert((job, claim), Open { scribe: scribe.clone(), taken: 0 });
        scribe
    }

    /// Ends the text of an attempt. That of an answer is not needed any more; of another attempt
    /// it stays to be read until the next one.
    pub(super) fn end(&mut self, job: i64, claim: i64, answered: bool) {
        if !answered {
            self.collect(Some((job, claim)));
        }
        self.open.remove(&(job, claim));
    }

    /// Waits for news. May be dropped and called again; nothing is missed by that.
    pub(super) async fn listen(&mut self) {
        self.news.notified().await;
        self.has_news = true;
    }

    /// Returns whether a text has grown since the last turn took it.
    pub(super) fn has_news(&self) -> bool {
        self.has_news
    }

    /// Returns what a turn has to store: also what an earlier one may not have.
    pub(super) fn take(&mut self) -> Vec<Piece> {
        self.has_news = false;
        self.collect(None);
        self.unsaved.clone()
    }

    /// Takes note that what was taken last is stored.
    pub(super) fn saved(&mut self, taken: usize) {
        self.unsaved.drain(..taken.min(self.unsaved.len()));
    }

    fn collect(&mut self, only: Option<(i64, i64)>) {
        for (&(job, claim), open) in &mut self.open {
            if only.is_some_and(|only| only != (job, claim)) {
                continue;
            }
            let text = open.scribe.take();
            if !text.is_empty() {
                let place = open.taken;
                open.taken += text.len();
                self.unsaved.push(Piece { job, claim, place, text });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(job: i64, place: usize, text: &str) -> Piece {
        Piece { job, claim: 1, place, text: text.to_owned() }
    }

    #[tokio::test]
    async fn pieces_are_kept_until_they_are_stored() {
        let mut transcripts = Transcripts::default();
        let scribe = transcripts.begin(7, 1);
        assert_eq!(transcripts.take(), []);
        scribe.write("ä");
        scribe.write("b");
        transcripts.listen().await;
        assert!(transcripts.has_news());
        assert_eq!(transcripts.take(), [piece(7, 0, "äb")]);
        assert!(!transcripts.has_news());
        scribe.write("c");
        // The turn failed: the next one gets all.
        assert_eq!(transcripts.take(), [piece(7, 0, "äb"), piece(7, 3, "c")]);
        scribe.write("d");
        transcripts.end(7, 1, false);
        transcripts.saved(2);
        assert_eq!(transcripts.take(), [piece(7, 4, "d")]);
    }

    #[test]
    fn the_rest_of_an_answers_text_is_not_needed() {
        let mut transcripts = Transcripts::default();
        let (first, second) = (transcripts.begin(7, 1), transcripts.begin(8, 1));
        first.write("a");
        second.write("b");
        transcripts.end(7, 1, true);
        assert_eq!(transcripts.take(), [piece(8, 0, "b")]);
    }
}
