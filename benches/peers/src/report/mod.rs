//! What a run found, and the two forms that it is shown in.

mod chart;
mod table;

pub use self::chart::svg;
pub use self::table::markdown;

use peers::machine::Machine;
use peers::stats::{Spread, thousands};

use crate::contender::tree_size;
use crate::roster::{Entry, Role};
use crate::workload::{BURST, DEPTH, Load, Sample, Workload};

pub struct Results {
    pub machine: Machine,
    pub rounds: usize,
    pub load: Load,
    pub tables: Vec<(Workload, Vec<Row>)>,
}

/// One contender in one workload, over all rounds.
pub struct Row {
    pub entry: Entry,
    pub main: Spread,
    pub side: Option<Spread>,
    /// Processor time, nanoseconds.
    pub cpu: f64,
    pub switches: f64,
    pub allocations: f64,
    pub bytes: f64,
    pub foreign_frees: f64,
}

impl Row {
    /// `None` for a contender that did not run.
    pub fn new(entry: Entry, samples: Vec<Sample>) -> Option<Self> {
        let per_job = |read: fn(&Sample) -> f64| Spread::of(samples.iter().map(|s| read(s) / s.jobs));
        Some(Self {
            entry,
            main: Spread::of(samples.iter().map(|sample| sample.main))?,
            side: Spread::of(samples.iter().filter_map(|sample| sample.side)),
            cpu: per_job(|sample| sample.cost.cpu.as_nanos() as f64)?.median,
            switches: per_job(|sample| sample.cost.switches as f64)?.median,
            allocations: per_job(|sample| sample.cost.memory.allocations as f64)?.median,
            bytes: per_job(|sample| sample.cost.memory.bytes as f64)?.median,
            foreign_frees: per_job(|sample| sample.cost.memory.foreign_frees as f64)?.median,
        })
    }
}

/// How a workload's figures are to be read.
struct Reading {
    title: String,
    what: String,
    main: &'static str,
    side: Option<&'static str>,
    higher_is_better: bool,
}

impl Reading {
    fn of(workload: Workload, load: Load) -> Self {
        let window = thousands(load.window as i64);
        let (title, what, main, side) = match workload {
            Workload::Stream => (
                "one producer".into(),
                format!("One thread submits empty jobs and takes their results in order, at most {window} untaken."),
                "ns per job",
                None,
            ),
            Workload::Fanin => (
                format!("{} producers", load.producers),
                format!("{} threads do so at once, {window} results untaken between them.", load.producers),
                "ns per job",
                None,
            ),
            Workload::Burst => (
                format!("{} jobs at once", thousands(BURST as i64)),
                format!("One thread submits {} empty jobs before it takes the first result.", thousands(BURST as i64)),
                "ns per job",
                None,
            ),
            Workload::Pingpong => (
                "submit, wait, repeat".into(),
                "One thread submits an empty job and waits for it before the next; medians of whole round trips.".into(),
                "p50, ns",
                Some("p99, ns"),
            ),
            Workload::Work => (
                "10 µs of work per job".into(),
                "Jobs that compute for 10 µs, submitted as in `stream`. The ideal is the time that two bare threads take \
                 for the same computation, measured just before each run."
                    .into(),
                "share of ideal",
                Some("ns per job and worker"),
            ),
            Workload::Many => (
                "64 workers".into(),
                "`stream` with 64 workers instead of two.".into(),
                "ns per job",
                Some("against its own run with two workers"),
            ),
            Workload::Deadline => (
                "a timeout on every job".into(),
                "`stream` on workpath with a timeout on every job, beside the same without.".into(),
                "ns per job",
                None,
            ),
            Workload::Nested => (
                format!("trees of jobs, {DEPTH} deep"),
                format!(
                    "Every job submits two others and waits for them, {} jobs in all. Only those that do not run out of \
                     workers that way.",
                    thousands(tree_size(DEPTH) as i64)
                ),
                "ns per job",
                None,
            ),
        };
        Self { title, what, main, side, higher_is_better: workload == Workload::Work }
    }

    /// How many times as much time `row` takes as `other`.
    fn ratio(&self, row: &Row, other: &Row) -> f64 {
        if self.higher_is_better {
            other.main.median / row.main.median
        } else {
            row.main.median / other.main.median
        }
    }
}

/// The peer that takes the least time.
fn best_peer<'a>(reading: &Reading, rows: &'a [Row]) -> Option<&'a Row> {
    let peers = rows.iter().filter(|row| row.entry.role == Role::Peer);
    peers.min_by(|a, b| reading.ratio(a, b).total_cmp(&1.0))
}

fn subject(rows: &[Row]) -> Option<&Row> {
    rows.iter().find(|row| row.entry.role == Role::Subject)
}
