//! The digests of lines that were checked, for the pass that stores them, in little memory.

use std::iter::Peekable;
use std::sync::Arc;
use std::vec;

use super::error::IntakeError;
use super::spill::Spill;

/// Digests that are read back together: whole blocks, so that none of a part that is over waits in
/// memory.
const TOGETHER: u64 = 100 * Spill::<24>::IN_BLOCK as u64;

/// The digests of one source's good lines, in the lines' order.
#[derive(Debug, Default)]
pub(super) struct Digests {
    /// The number of a line, and its digest.
    spill: Spill<24>,
    count: u64,
}

impl Digests {
    pub(super) fn add(&mut self, line: u64, digest: [u8; 16]) -> Result<(), IntakeError> {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&line.to_be_bytes());
        bytes[8..].copy_from_slice(&digest);
        let part = usize::try_from(self.count / TOGETHER).unwrap_or(usize::MAX);
        self.count += 1;
        self.spill.push(part, bytes)
    }
}

/// Reads digests in the lines' order.
pub(super) struct DigestsOfLines {
    digests: Arc<Digests>,
    part: usize,
    current: Peekable<vec::IntoIter<[u8; 24]>>,
}

impl DigestsOfLines {
    pub(super) fn of(digests: &Arc<Digests>) -> Self {
        Self { digests: Arc::clone(digests), part: 0, current: Vec::new().into_iter().peekable() }
    }

    /// Returns the digest of a line behind the last one asked for, if it was a good one.
    pub(super) fn of_line(&mut self, line: u64) -> Result<Option<[u8; 16]>, IntakeError> {
        let line = line.to_be_bytes();
        loop {
            while let Some(bytes) = self.current.next_if(|bytes| bytes[..8] <= line[..]) {
                let (number, digest) = bytes.split_at(8);
                if number == line {
                    return Ok(digest.try_into().ok());
                }
            }
            if self.current.peek().is_some() || self.part >= self.digests.spill.parts() {
                return Ok(None);
            }
            self.current = self.digests.spill.part(self.part)?.into_iter().peekable();
            self.part += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_good_line_has_its_own_digest_and_others_have_none() {
        let mut digests = Digests::default();
        let digest = |line: u64| u128::from(line).to_be_bytes();
        let good: Vec<u64> = (1..200_000).filter(|line| line % 3 != 0).collect();
        for line in &good {
            digests.add(*line, digest(*line)).unwrap();
        }
        let digests = Arc::new(digests);
        let mut all = DigestsOfLines::of(&digests);
        for line in &good {
            assert_eq!(all.of_line(*line).unwrap(), Some(digest(*line)));
        }
        let mut some = DigestsOfLines::of(&digests);
        for line in good.iter().skip(1).step_by(70_001) {
            assert_eq!(some.of_line(*line).unwrap(), Some(digest(*line)));
        }
        let mut gaps = DigestsOfLines::of(&digests);
        for line in 1..1_000 {
            let wanted = (line % 3 != 0).then(|| digest(line));
            assert_eq!(gaps.of_line(line).unwrap(), wanted, "{line}");
        }
    }
}
