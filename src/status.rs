//! A look at the workers from outside.

use std::borrow::Cow;
use std::time::Duration;

use crate::clock::Tick;
use crate::engine::{AtWork, Running, Slot};
use crate::id::JobId;
use crate::notes::{Checkpoint, Progress};
use crate::sync::Arc;

/// What a worker is doing at one moment.
///
/// # Examples
///
/// ```
/// use workpath::Delegator;
///
/// let delegator = Delegator::builder().workers(2).build()?;
/// for worker in delegator.workers() {
///     let name = worker.job_name.as_deref().unwrap_or("nothing");
///     println!("{}: {name} for {:?}", worker.thread_name, worker.running_for);
///     if let Some(checkpoint) = worker.checkpoint {
///         println!("  at {checkpoint}, {:?} ago", checkpoint.age());
///     }
/// }
/// # Ok::<(), workpath::BuildError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerStatus {
    /// Which worker: from zero. Those that [replace](crate::Builder::replacements) others come after the first ones, and the
    /// number after all of these stands for the thread of a submitter that runs a job itself.
    pub index: usize,
    /// The name of its thread, in full. Linux itself keeps the first 15 bytes.
    pub thread_name: String,
    /// The job it is in; of jobs that wait for jobs they run inline, the innermost. What follows is about this job.
    pub running: Option<JobId>,
    /// The job's name.
    pub job_name: Option<Cow<'static, str>>,
    /// Since when its operation runs.
    pub running_for: Option<Duration>,
    /// How long ago its deadline was; `None` before, and without one.
    pub overdue: Option<Duration>,
    /// Whether it was reported as stuck: see [`Builder::stuck_after`](crate::Builder::stuck_after).
    pub stuck: bool,
    /// What its operation last said with [`Context::checkpoint`](crate::Context::checkpoint).
    pub checkpoint: Option<Checkpoint>,
    /// What its operation last said with [`Context::progress`](crate::Context::progress).
    pub progress: Option<Progress>,
}

/// Each worker that there is, with the job it is in.
pub(crate) fn of_workers(slots: &[Arc<Slot>]) -> Vec<WorkerStatus> {
    let now = Tick::now();
    let slots = slots.iter().enumerate();
    slots
        .filter_map(|(index, slot)| {
            let at_work = slot.lock();
            at_work.live.then(|| of(index, slot, &at_work, at_work.stack.last(), now))
        })
        .collect()
}

/// The worker with each of its jobs, from the one that it took from the queue to the one it is in.
pub(crate) fn of_jobs(index: usize, slot: &Slot) -> Vec<WorkerStatus> {
    let now = Tick::now();
    let at_work = slot.lock();
    at_work.stack.iter().map(|running| of(index, slot, &at_work, Some(running), now)).collect()
}

fn of(index: usize, slot: &Slot, at_work: &AtWork, running: Option<&Running>, now: Tick) -> WorkerStatus {
    let task = running.map(|running| &running.task);
    let notes = running.and_then(|running| at_work.scope_of(running).notes());
    let noted = notes.map(|notes| notes.read()).unwrap_or_default();
    WorkerStatus {
        index,
        thread_name: slot.thread_name.clone(),
        running: task.map(|task| task.id),
        job_name: task.map(|task| task.name.clone()),
        running_for: task.map(|task| now.since(task.started().unwrap_or(now)).unwrap_or_default()),
        overdue: task.and_then(|task| now.since(task.deadline)),
        stuck: running.is_some_and(|running| running.stuck),
        checkpoint: noted.checkpoint.zip(task).map(|(note, task)| note.seen_by(task.wall)),
        progress: noted.progress,
    }
}
