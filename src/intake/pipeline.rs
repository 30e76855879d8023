//! Chunks through several threads at once, results in the chunks' order.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{JoinHandle, available_parallelism, spawn};

use super::chunks::{Chunk, Chunks, ReadError};

/// How many chunks wait for one thread, and how many of its results wait for the consumer.
const WAITING: usize = 1;
const THREADS: usize = 4;

/// The results of a function over all chunks, in order.
pub(super) struct Pipeline<T> {
    /// One for each thread. Chunks are dealt in turn, so results come in turn.
    results: Vec<Receiver<Result<T, ReadError>>>,
    turn: usize,
    threads: Vec<JoinHandle<()>>,
}

impl<T: Send + 'static> Pipeline<T> {
    /// Starts one thread that reads and some that call `work`.
    pub(super) fn start(chunks: Chunks, work: impl Fn(Chunk) -> T + Send + Sync + 'static) -> Self {
        let work = Arc::new(work);
        let mut pipeline = Self { results: Vec::new(), turn: 0, threads: Vec::new() };
        let mut inputs = Vec::new();
        for _ in 0..available_parallelism().map_or(1, usize::from).min(THREADS) {
            let (input, chunks) = sync_channel::<Result<Chunk, ReadError>>(WAITING);
            let (output, results) = sync_channel(WAITING);
            let work = Arc::clone(&work);
            inputs.push(input);
            pipeline.results.push(results);
            pipeline.threads.push(spawn(move || {
                for chunk in chunks {
                    // The consumer has gone: nobody wants the rest.
                    let Ok(()) = output.send(chunk.map(|chunk| work(chunk))) else {
                        return;
                    };
                }
            }));
        }
        pipeline.threads.push(spawn(move || deal(chunks, &inputs)));
        pipeline
    }
}

fn deal(chunks: Chunks, inputs: &[SyncSender<Result<Chunk, ReadError>>]) {
    for (chunk, input) in chunks.zip(inputs.iter().cycle()) {
        let Ok(()) = input.send(chunk) else { return };
    }
}

impl<T> Iterator for Pipeline<T> {
    type Item = Result<T, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let results = self.results.get(self.turn)?;
        if let Ok(result) = results.recv() {
            self.turn = (self.turn + 1) % self.results.len();
            return Some(result);
        }
        self.results.clear();
        for thread in self.threads.drain(..) {
            // A thread that panicked must not look like the end of the input.
            if let Err(panic) = thread.join() {
                resume_unwind(panic);
            }
        }
        None
    }
}

impl<T> Drop for Pipeline<T> {
    fn drop(&mut self) {
        self.results.clear();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
