//! Sends a streamed body piece by piece.
//!
//! Owns waiting between the pieces and how the connection ends. Decides nothing.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::stream;

use super::reply::{cut, stopped, waited};
use super::script::scramble;
use super::service::{Flight, Held, Shared};
use super::stream::{Ending, Plan, Step};
use super::wire::Wire;

/// A body on its way; its call counts as answered only when all of it was sent.
struct Delivery {
    shared: Arc<Shared>,
    steps: std::vec::IntoIter<Step>,
    plan: Box<Plan>,
    wire: Wire,
    flight: Flight,
    /// Pieces that were sent.
    sent: u64,
    is_over: bool,
}

/// Returns the body that sends `plan`.
pub(super) fn body(shared: Arc<Shared>, mut plan: Box<Plan>, wire: Wire, flight: Flight) -> Body {
    let steps = std::mem::take(&mut plan.steps).into_iter();
    let delivery = Delivery { shared, steps, plan, wire, flight, sent: 0, is_over: false };
    Body::from_stream(stream::unfold(delivery, Delivery::next))
}

impl Delivery {
    async fn next(mut self) -> Option<(io::Result<Bytes>, Self)> {
        if self.is_over {
            return None;
        }
        // What was sent before goes out by itself.
        tokio::task::yield_now().await;
        let Some(step) = self.steps.next() else {
            self.is_over = true;
            return self.end().await;
        };
        if !self.wait(&step).await {
            self.is_over = true;
            self.wire.reset();
            return Some((Err(cut()), self));
        }
        self.shared.book.chunks(step.chunks);
        self.sent += 1;
        // A client may leave once it has the last one.
        if self.steps.as_slice().is_empty()
            && !self.plan.holds_end
            && self.plan.ending == Ending::Whole
        {
            self.flight.landed();
        }
        Some((Ok(step.bytes), self))
    }

    /// Waits as a piece has to; returns whether the stand-in goes on.
    async fn wait(&self, step: &Step) -> bool {
        if step.hold && !self.released().await {
            return false;
        }
        if !step.begins_chunk {
            return true;
        }
        let random = scramble(self.sent);
        let delay = Duration::from_millis(self.plan.delay.pick(random));
        waited(delay, self.shared.stopping.subscribe()).await
    }

    /// Waits for a release; returns whether the stand-in goes on.
    async fn released(&self) -> bool {
        let _held = Held::new(&self.shared.book);
        tokio::select! {
            () = self.shared.gate.pass() => true,
            () = stopped(self.shared.stopping.subscribe()) => false,
        }
    }

    async fn end(mut self) -> Option<(io::Result<Bytes>, Self)> {
        if self.plan.holds_end && !self.released().await {
            self.wire.reset();
            return Some((Err(cut()), self));
        }
        self.flight.landed();
        match self.plan.ending {
            Ending::Whole => return None,
            Ending::Cut => {}
            Ending::Reset => self.wire.reset(),
            Ending::Stall => stopped(self.shared.stopping.subscribe()).await,
        }
        Some((Err(cut()), self))
    }
}
