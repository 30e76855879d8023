//! gq: a persistent job queue for the Gemini API.
//!
//! A prompt is a row in SQLite. A worker claims it together with a key, calls the API, and records
//! answer, key state and counters in one transaction. `docs/ARCHITECTURE.md` has the whole picture.
//!
//! | module | owns | invariant |
//! | --- | --- | --- |
//! | [`domain`] | what jobs, slots, input lines and outcomes mean | pure: no I/O, no clock, no randomness |
//! | [`store`] | every SQL statement | one writing task; a job moves only together with its batch's counters; no transaction is open during a call |
//! | [`gemini`] | the API's JSON, one call, its errors by type | knows nothing of queues; no message holds a secret |
//! | [`worker`] | turns, calls in flight, stopping | only the dispatcher writes; a claim is on disk before its call goes out |
//! | [`intake`] | from files and standard input to checked jobs | all lines are checked before the first job is yielded; stores and prints nothing |
//! | [`queue`] | the queue for programs that embed it | one watch for all who wait; stores nothing of its own |
//! | [`config`] | environment, `.env`, keys, endpoint | a file may choose where keys go only if it brings all of them |
//! | [`mock`] | a local stand-in for the API | knows nothing of queues |
//! | [`clock`] | the time | its only reader |
//!
//! Arrows between them go one way: `queue` uses `worker`, `store` and `intake`; `worker` uses `store` and `gemini`; these, `intake` and `mock`
//! use `domain`; `domain` uses none of the others. The binary's `cli` uses them all.
pub mod clock;
pub mod config;
pub mod domain;
pub mod gemini;
pub mod intake;
pub mod mock;
pub mod queue;
pub mod store;
pub mod worker;
