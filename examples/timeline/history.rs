//! Records, as places on one time line.

use std::time::SystemTime;

use workpath::{JobRecord, JobState};

/// What became of one job. Times are seconds since the first job was made.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) name: String,
    pub(crate) state: JobState,
    /// `None` if it never started: here no submitter runs jobs itself.
    pub(crate) worker: Option<usize>,
    /// How many jobs it ran inside of.
    pub(crate) depth: usize,
    pub(crate) created: f64,
    /// When it stopped waiting: it started, or ended without.
    pub(crate) left: f64,
    pub(crate) completed: f64,
}

#[derive(Debug)]
pub(crate) struct History {
    /// In the order in which they stopped waiting.
    pub(crate) jobs: Vec<Span>,
    /// When the last one ended.
    pub(crate) end: f64,
}

impl History {
    pub(crate) fn of(records: &[JobRecord]) -> History {
        let origin = records.iter().map(JobRecord::created_at).min();
        let mut jobs: Vec<Span> = records.iter().map(|record| span(record, origin)).collect();
        jobs.sort_by(|a, b| a.left.total_cmp(&b.left).then(b.completed.total_cmp(&a.completed)));
        nest(&mut jobs);
        let end = jobs.iter().map(|job| job.completed).fold(0.0, f64::max);
        History { jobs, end }
    }

    /// How many ended like this.
    pub(crate) fn count(&self, state: JobState) -> usize {
        self.jobs.iter().filter(|job| job.state == state).count()
    }

    /// How many jobs wait from each moment on.
    pub(crate) fn waiting(&self) -> Vec<(f64, usize)> {
        let mut changes: Vec<(f64, bool)> =
            self.jobs.iter().flat_map(|job| [(job.created, true), (job.left, false)]).collect();
        // What comes and goes at the same moment comes first.
        changes.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        let mut waiting = 0;
        let steps = changes.into_iter().map(|(time, comes)| {
            waiting = if comes { waiting + 1 } else { waiting - 1 };
            (time, waiting)
        });
        steps.collect()
    }
}

fn span(record: &JobRecord, origin: Option<SystemTime>) -> Span {
    let seconds = |time: SystemTime| {
        origin.and_then(|origin| time.duration_since(origin).ok()).map_or(0.0, |time| time.as_secs_f64())
    };
    Span {
        name: record.name().to_owned(),
        state: record.state(),
        worker: record.worker(),
        depth: 0,
        created: seconds(record.created_at()),
        left: seconds(record.started_at().unwrap_or(record.completed_at())),
        completed: seconds(record.completed_at()),
    }
}

/// A worker is in two jobs at a time only if one runs inside the other. The clock is not the same for all jobs to the last
/// microsecond, so that one job can seem to begin a little before another one ends.
fn nest(jobs: &mut [Span]) {
    let mut open: Vec<(usize, f64)> = Vec::new();
    for job in jobs {
        let Some(worker) = job.worker else { continue };
        open.retain(|(other, end)| *other != worker || *end > job.left);
        job.depth = open.iter().filter(|(other, end)| *other == worker && *end >= job.completed).count();
        open.push((worker, job.completed));
    }
}
