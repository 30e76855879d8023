//! What is well with a queue and its surroundings, and what is not: the verdicts of `gq doctor`.

use std::time::Duration;

use crate::domain::view::Counts;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing to do.
    Fine,
    /// It works, and something should be known or done.
    Warning,
    /// It does not work, or not as it should.
    Problem,
}

impl Verdict {
    /// Returns the word that people and scripts see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Finding {
    /// Returns a finding without a hint.
    pub fn new(check: impl Into<String>, verdict: Verdict, message: impl Into<String>) -> Self {
        Self { check: check.into(), verdict, message: message.into(), hint: None }
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A batch whose counts are not those of its jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Miscount {
    /// Its name.
    pub batch: String,
    /// What it says.
    pub stored: Counts,
    /// What its jobs come to.
    pub counted: Counts,
}

/// Judges what answers at the API's address, by its status to a call without a key.
pub fn endpoint(url: &str, status: u16) -> Finding {
    if matches!(status, 200 | 400 | 401 | 403 | 429) {
        return Finding::new("endpoint", Verdict::Fine, format!("`{url}` answers"));
    }
    let message = format!("`{url}` answers with status {status}, which the API does not");
    Finding::new("endpoint", Verdict::Problem, message)
        .hint("look at `--base-url` and GEMINI_BASE_URL, and at a proxy on the way")
}

/// Judges what SQLite, and what the queue's own rules, say of the database's pages and rows.
pub fn integrity(faults: &[String]) -> Finding {
    match faults {
        [] => Finding::new("integrity", Verdict::Fine, "every page, index and row is sound"),
        [first, rest @ ..] => {
            let more =
                if rest.is_empty() { String::new() } else { format!(", and {} more", rest.len()) };
            Finding::new("integrity", Verdict::Problem, format!("{first}{more}"))
                .hint("stop the workers, keep a copy of the files, and go back to a `gq backup`")
        }
    }
}

/// Judges the counts of the batches.
pub fn counters(miscounts: &[Miscount]) -> Finding {
    let Some(Miscount { batch, stored, counted }) = miscounts.first() else {
        let message = "each batch counts what its jobs come to";
        return Finding::new("counters", Verdict::Fine, message);
    };
    let message = format!(
        "batch `{batch}` says {}; its jobs come to {}{}",
        in_words(stored),
        in_words(counted),
        match miscounts.len() {
            1 => String::new(),
            number => format!(" ({number} batches are wrong)"),
        }
    );
    Finding::new("counters", Verdict::Problem, message)
        .hint("`gq doctor --repair-counters` counts anew")
}

fn in_words(counts: &Counts) -> String {
    let Counts { pending, running, succeeded, failed, cancelled } = counts;
    format!(
        "{pending} pending, {running} running, {succeeded} succeeded, {failed} failed, \
         {cancelled} cancelled"
    )
}

/// Judges who may read the database, which holds prompts and answers.
pub fn file_mode(mode: u32) -> Finding {
    let (permissions, others) = (mode & 0o777, mode & 0o077);
    if others == 0 {
        let message = format!("only its owner may read it (mode {permissions:04o})");
        return Finding::new("file mode", Verdict::Fine, message);
    }
    let message = format!("others on this machine may read or write it (mode {permissions:04o})");
    Finding::new("file mode", Verdict::Warning, message).hint("`chmod 600` the database")
}

/// File systems on which a database is not safe, by the numbers of Linux's `statfs(2)`.
const NETWORKS: [(u64, &str); 11] = [
    (0x6969, "NFS"),
    (0xFF53_4D42, "CIFS"),
    (0xFE53_4D42, "SMB"),
    (0x517B, "SMB"),
    (0x0102_1997, "9P"),
    (0x00C3_6400, "Ceph"),
    (0x5346_414F, "AFS"),
    (0x6B41_4653, "AFS"),
    (0x0BD0_0BD0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x786F_4256, "a virtual machine's shared folder"),
];

/// Those that are gone at the next start of the machine.
const MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58F6];

/// File systems of programs: some are a disk of this machine, some another's.
const FUSE: u64 = 0x6573_5546;

/// Judges the file system that the database lies on, by its number in Linux's `statfs(2)`.
pub fn file_system(kind: u64) -> Finding {
    if let Some((_, name)) = NETWORKS.iter().find(|(number, _)| *number == kind) {
        let message = format!("it lies on {name}: locks and memory shared by processes fail there");
        return Finding::new("file system", Verdict::Problem, message)
            .hint("move the database to a disk of this machine");
    }
    if kind == FUSE {
        let message = "it lies on a file system that a program makes (FUSE)";
        return Finding::new("file system", Verdict::Warning, message)
            .hint("where that reaches another machine, move the database to a disk of this one");
    }
    if MEMORY.contains(&kind) {
        let message = "it lies in memory: the next start of the machine loses it";
        return Finding::new("file system", Verdict::Warning, message)
            .hint("move the database to a disk");
    }
    Finding::new("file system", Verdict::Fine, "it lies on a disk of this machine")
}

/// The log of the database grows to this, and what is added needs room too.
const LEAST_ROOM: u64 = 100_000_000;

/// A night's answers are soon as much.
const LITTLE_ROOM: u64 = 1_000_000_000;

/// Judges the room that is left for the database, in bytes.
pub fn room(free: u64) -> Finding {
    let message = format!("{} MB are free", free / 1_000_000);
    let (verdict, hint) = if free < LEAST_ROOM {
        (Verdict::Problem, "make room: nothing can be recorded on a full disk")
    } else if free < LITTLE_ROOM {
        (Verdict::Warning, "make room, or look how much the answers will take")
    } else {
        return Finding::new("disk space", Verdict::Fine, message);
    };
    Finding::new("disk space", verdict, message).hint(hint)
}

/// A clock may differ from the server's by the time of an answer, which tells whole seconds.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(30);

/// Judges this machine's clock, which is `ahead` milliseconds ahead of the server's.
pub fn clock(ahead: i64) -> Finding {
    let off = Duration::from_millis(ahead.unsigned_abs());
    if off <= CLOCK_TOLERANCE {
        return Finding::new("clock", Verdict::Fine, "it goes with the server's");
    }
    let way = if ahead > 0 { "ahead of" } else { "behind" };
    let message = format!("it is {} s {way} the server's", off.as_secs());
    Finding::new("clock", Verdict::Warning, message)
        .hint("set the clock: the end of a day's quota and `not_before` go by it")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(finding: &Finding) -> (Verdict, bool) {
        (finding.verdict, finding.hint.is_some())
    }

    #[test]
    fn what_is_not_fine_says_what_to_do() {
        use Verdict::{Fine, Problem, Warning};
        for (finding, verdict) in [
            (file_mode(0o100_600), Fine),
            (file_mode(0o100_640), Warning),
            (file_mode(0o100_602), Warning),
            (file_system(0xEF53), Fine),
            (file_system(0x6969), Problem),
            (file_system(0x6573_5546), Warning),
            (file_system(0x0102_1994), Warning),
            (room(5_000_000_000), Fine),
            (room(500_000_000), Warning),
            (room(99_999_999), Problem),
            (endpoint("x", 403), Fine),
            (endpoint("x", 404), Problem),
            (endpoint("x", 302), Problem),
            (endpoint("x", 502), Problem),
            (clock(29_000), Fine),
            (clock(-30_000), Fine),
            (clock(31_000), Warning),
            (clock(i64::MIN), Warning),
            (integrity(&[]), Fine),
            (counters(&[]), Fine),
        ] {
            assert_eq!(judged(&finding), (verdict, verdict != Fine), "{finding:?}");
        }
    }

    #[test]
    fn the_clock_is_ahead_or_behind() {
        assert_eq!(clock(60_500).message, "it is 60 s ahead of the server's");
        assert_eq!(clock(-86_400_000).message, "it is 86400 s behind the server's");
    }

    #[test]
    fn the_first_of_many_faults_is_told() {
        let faults = ["page 3 is never used", "wrong # of entries"].map(str::to_owned);
        assert_eq!(integrity(&faults).message, "page 3 is never used, and 1 more");
        let miscount = |batch: &str| Miscount {
            batch: batch.to_owned(),
            stored: Counts { pending: 3, ..Counts::default() },
            counted: Counts { pending: 2, failed: 1, ..Counts::default() },
        };
        let told = counters(&[miscount("a"), miscount("b")]).message;
        assert!(told.starts_with("batch `a` says 3 pending, 0 running"), "{told}");
        assert!(told.contains("come to 2 pending"), "{told}");
        assert!(told.ends_with("(2 batches are wrong)"), "{told}");
    }
}
