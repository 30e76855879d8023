//! The table of measures, on the screen and as JSON.

use std::path::Path;

use serde_json::{Value, json};

/// What a figure has to reach.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(bound) => format!("≥ {}", short(bound)),
            Self::AtMost(bound) => format!("≤ {}", short(bound)),
        }
    }
}

/// One measure; what is wanted holds for the ratio where there is a baseline.
struct Row {
    measure: String,
    figure: f64,
    baseline: Option<f64>,
    wanted: Option<Bound>,
}

impl Row {
    fn judged(&self) -> f64 {
        self.baseline.map_or(self.figure, |baseline| self.figure / baseline)
    }
}

#[derive(Default)]
pub(crate) struct Report(Vec<Row>);

impl Report {
    pub(crate) fn begin() -> Self {
        println!(
            "{:<46} {:>12} {:>12} {:>8} {:>10}",
            "measure", "figure", "baseline", "ratio", "wanted"
        );
        Self::default()
    }

    /// Tells a figure that stands for itself.
    pub(crate) fn figure(&mut self, measure: &str, figure: f64, wanted: Option<Bound>) {
        self.add(Row { measure: measure.to_owned(), figure, baseline: None, wanted });
    }

    /// Tells a figure beside that of a baseline of the same run; what is wanted is said of the ratio.
    pub(crate) fn ratio(
        &mut self,
        measure: &str,
        figure: f64,
        baseline: f64,
        wanted: Option<Bound>,
    ) {
        self.add(Row { measure: measure.to_owned(), figure, baseline: Some(baseline), wanted });
    }

    fn add(&mut self, row: Row) {
        let baseline = row.baseline.map_or_else(|| "-".to_owned(), short);
        let ratio = row.baseline.map_or_else(|| "-".to_owned(), |_| format!("{:.2}", row.judged()));
        let wanted = row.wanted.map(Bound::text).unwrap_or_default();
        let missed = row.wanted.is_some_and(|wanted| !wanted.holds(row.judged()));
        println!(
            "{:<46} {:>12} {baseline:>12} {ratio:>8} {wanted:>10}{}",
            row.measure,
            short(row.figure),
            if missed { "  missed" } else { "" }
        );
        self.0.push(row);
    }

    /// Writes what was measured, with the machine that measured it.
    pub(crate) fn write(&self, path: &Path) {
        let rows: Vec<Value> = self.0.iter().map(|row| {
            json!({
                "measure": row.measure, "figure": row.figure, "baseline": row.baseline,
                "ratio": row.baseline.map(|_| row.judged()), "wanted": row.wanted.map(Bound::text),
                "holds": row.wanted.map(|wanted| wanted.holds(row.judged())),
            })
        }).collect();
        let report =
            json!({ "machine": machine(), "version": env!("CARGO_PKG_VERSION"), "measures": rows });
        let text = serde_json::to_string_pretty(&report).expect("figures are JSON");
        std::fs::write(path, text + "\n").expect("the report can be written");
        println!("written to {}", path.display());
    }
}

fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let model = processors.lines().find_map(|line| line.strip_prefix("model name"));
    let kernel = read("/proc/sys/kernel/osrelease");
    json!({
        "processor": model.map(|model| model.trim_start_matches([':', ' ', '\t'])),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": kernel.trim(),
    })
}

fn short(figure: f64) -> String {
    if figure >= 1_000.0 {
        format!("{figure:.0}")
    } else if figure >= 10.0 {
        format!("{figure:.1}")
    } else {
        format!("{figure:.2}")
    }
}
