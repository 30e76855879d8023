//! Records of one length in numbered parts, most of them in an unlinked temporary file.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::error::IntakeError;

/// How many bytes of one part wait in memory.
const BLOCK: usize = 16_000;

/// Parts of records of `N` bytes.
#[derive(Debug, Default)]
pub(super) struct Spill<const N: usize> {
    parts: Vec<Part<N>>,
    file: Option<File>,
    length: u64,
}

#[derive(Debug, Default)]
struct Part<const N: usize> {
    waiting: Vec<[u8; N]>,
    /// Where its full blocks stand in the file.
    blocks: Vec<u64>,
}

impl<const N: usize> Spill<N> {
    /// Records that are written together.
    pub(super) const IN_BLOCK: usize = BLOCK / N;

    pub(super) fn push(&mut self, part: usize, record: [u8; N]) -> Result<(), IntakeError> {
        if self.parts.len() <= part {
            self.parts.resize_with(part + 1, Part::default);
        }
        let slot = &mut self.parts[part];
        slot.waiting.push(record);
        if slot.waiting.len() == Self::IN_BLOCK {
            let file = match &mut self.file {
                Some(file) => file,
                none => none.insert(tempfile::tempfile().map_err(IntakeError::Temporary)?),
            };
            let block = slot.waiting.as_flattened();
            file.write_all_at(block, self.length).map_err(IntakeError::Temporary)?;
            slot.blocks.push(self.length);
            self.length += block.len() as u64;
            slot.waiting.clear();
        }
        Ok(())
    }

    /// Returns how many parts there are.
    pub(super) fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Returns all records of a part.
    pub(super) fn part(&self, part: usize) -> Result<Vec<[u8; N]>, IntakeError> {
        let slot = &self.parts[part];
        let full = slot.blocks.len() * Self::IN_BLOCK;
        let mut records = vec![[0; N]; full];
        if let Some(file) = &self.file {
            for (block, at) in records.chunks_mut(Self::IN_BLOCK).zip(&slot.blocks) {
                file.read_exact_at(block.as_flattened_mut(), *at)
                    .map_err(IntakeError::Temporary)?;
            }
        }
        records.extend_from_slice(&slot.waiting);
        Ok(records)
    }
}
