//! Counts what is asked of SQLite, by what sqlx tells of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

/// What was asked since the last look.
#[derive(Clone, Default)]
pub(crate) struct Told(Arc<Counts>);

#[derive(Default)]
struct Counts {
    /// Statements that went to SQLite together count as one.
    asked: AtomicU64,
    rows: AtomicU64,
}

/// Begins to count, for the rest of the process.
pub(crate) fn count() -> Told {
    let told = Told::default();
    let subscriber = tracing_subscriber::registry().with(told.clone());
    tracing::subscriber::set_global_default(subscriber).unwrap();
    told
}

impl Told {
    /// Compares, and begins anew.
    pub(crate) fn end(&self, what: &str, asked: u64, rows: u64) {
        let found = [&self.0.asked, &self.0.rows].map(|count| count.swap(0, Ordering::SeqCst));
        println!("{what}: {} times to SQLite, {} rows from it", found[0], found[1]);
        assert_eq!(found, [asked, rows], "{what}: times to SQLite, rows from it");
    }
}

impl<S: Subscriber> Layer<S> for Told {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == "sqlx::query" {
            self.0.asked.fetch_add(1, Ordering::SeqCst);
            event.record(&mut Rows(&self.0.rows));
        }
    }
}

struct Rows<'a>(&'a AtomicU64);

impl Visit for Rows<'_> {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "rows_returned" {
            self.0.fetch_add(value, Ordering::SeqCst);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}
