//! What the tests of the delegator need beside the shared tools: the four ways in, the sums that must hold, and a census
//! of the threads.

#![allow(dead_code, reason = "every test file is a crate of its own and uses its own part of this")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use workpath::{Delegator, Job, JobHandle, ShutdownReport, Stats, SubmitError, Submitter};

use crate::common::{BRIEF, Counter, FOREVER, Gate, PATIENCE, yields};

/// One of the four ways to submit, with the time that the timed ones get.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Form {
    Submit,
    Try,
    Timeout(Duration),
    Deadline(Duration),
}

/// The four forms; those that wait would wait forever.
pub(crate) const FORMS: [Form; 4] =
    [Form::Submit, Form::Try, Form::Timeout(FOREVER), Form::Deadline(FOREVER)];

/// The forms that wait for room.
pub(crate) const WAITING: [Form; 3] = [Form::Submit, Form::Timeout(FOREVER), Form::Deadline(FOREVER)];

/// The forms that take no for an answer at once.
pub(crate) const NOT_WAITING: [Form; 3] =
    [Form::Try, Form::Timeout(Duration::ZERO), Form::Deadline(Duration::ZERO)];

/// Whatever takes jobs.
pub(crate) trait Door {
    fn enter(&self, form: Form, job: Job) -> Result<JobHandle, SubmitError>;
}

impl Door for Delegator {
    fn enter(&self, form: Form, job: Job) -> Result<JobHandle, SubmitError> {
        match form {
            Form::Submit => self.submit(job),
            Form::Try => self.try_submit(job),
            Form::Timeout(limit) => self.submit_timeout(job, limit),
            Form::Deadline(limit) => self.submit_deadline(job, Instant::now() + limit),
        }
    }
}

impl Door for Submitter {
    fn enter(&self, form: Form, job: Job) -> Result<JobHandle, SubmitError> {
        match form {
            Form::Submit => self.submit(job),
            Form::Try => self.try_submit(job),
            Form::Timeout(limit) => self.submit_timeout(job, limit),
            Form::Deadline(limit) => self.submit_deadline(job, Instant::now() + limit),
        }
    }
}

/// A delegator with so many workers and so many places in its queue.
pub(crate) fn sized(workers: usize, capacity: usize) -> Delegator {
    Delegator::builder().workers(workers).queue_capacity(capacity).build().expect("a delegator")
}

/// A name for the threads of one delegator that no other delegator of this process has, short enough for Linux to show
/// it whole.
pub(crate) fn own_name() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("t{}t", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Puts `count` jobs that end at once into the queue, which must have room for them.
#[track_caller]
pub(crate) fn fill(delegator: &Delegator, count: usize) -> Vec<JobHandle> {
    (0..count).map(|_| delegator.try_submit(yields("filler", "")).expect("room for a filler")).collect()
}

/// A job that owns `kept` for as long as its operation lives, and ends at once.
pub(crate) fn keeps(name: &'static str, kept: impl Send + 'static) -> Job {
    Job::new(name, move |_| {
        let _owned = &kept;
        Ok(Vec::new())
    })
}

/// A job that opens `started` and ends when its context does, with the context's error.
pub(crate) fn obedient(name: &'static str, started: &Gate) -> Job {
    let started = started.clone();
    Job::new(name, move |ctx| {
        started.open();
        ctx.sleep(PATIENCE)?;
        Err("nobody ended the context".into())
    })
}

/// A hook that counts how often it is called.
pub(crate) fn counts(calls: &Counter) -> impl Fn(usize) + Send + Sync + use<> {
    let calls = calls.clone();
    move |_| {
        calls.add();
    }
}

/// Gives another thread time to block, where nobody can see it block. A test is right however short this is: it then
/// only looks at less.
pub(crate) fn pause() {
    thread::sleep(BRIEF);
}

/// Checks the sum that holds whenever nothing is changing.
#[track_caller]
pub(crate) fn assert_balanced(stats: &Stats) {
    let ended = stats.completed + stats.failed + stats.panicked + stats.cancelled + stats.timed_out;
    assert_eq!(stats.submitted, (stats.queued + stats.running) as u64 + ended, "does not add up: {stats:?}");
}

/// The number of jobs that a shutdown accounts for.
#[track_caller]
pub(crate) fn covered(report: &ShutdownReport) -> usize {
    let jobs =
        report.completed + report.failed + report.cancelled + report.unstarted.len() + report.stuck.len();
    assert_eq!(report.total(), jobs);
    jobs
}

/// The ids of this process's threads whose name starts with `prefix`, as the system knows them; `None` where it does
/// not say.
#[cfg(target_os = "linux")]
pub(crate) fn threads_named(prefix: &str) -> Option<usize> {
    let tasks = std::fs::read_dir("/proc/self/task").ok()?;
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    Some(names.filter(|name| name.starts_with(prefix)).count())
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn threads_named(_: &str) -> Option<usize> {
    None
}

/// Waits until no thread has a name that starts with `prefix`. A joined thread stays in the list for a moment.
#[track_caller]
pub(crate) fn assert_threads_gone(prefix: &str) {
    crate::common::eventually("its threads are gone", || threads_named(prefix).unwrap_or(0) == 0);
}
