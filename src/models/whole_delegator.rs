//! Whole delegators under random schedules: they are built, jobs are submitted in all forms, cancelled, waited for from
//! outside and from inside, and the delegator is shut down or dropped meanwhile. Every job that was accepted ends once
//! and is in the numbers, every other comes back, every wait returns.
//!
//! `WORKPATH_SEED` gives the seed, `WORKPATH_RUNS` the number of schedules. A failure prints the seed that repeats it.

use std::time::{Duration, Instant};

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::thread::spawn;
use shuttle::{Config, Runner};

use super::{Count, PANICS, Watch, count_panics, tell};
use crate::sync::Arc;
use crate::{Context, Delegator, Job, JobHandle, JobState, Shutdown, SubmitError, Submitter};

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn explore(scenario: impl Fn() + Send + Sync + Copy + 'static) {
    let seed = number("WORKPATH_SEED").unwrap_or_else(|| {
        let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        u64::from(since.subsec_nanos())
    });
    let runs = usize::try_from(number("WORKPATH_RUNS").unwrap_or(3000)).expect("a number of runs");
    count_panics();
    let begun = Instant::now();
    eprintln!("WORKPATH_SEED={seed}");
    let checked = move || {
        scenario();
        assert_eq!(PANICS.get(), 0, "something panicked");
    };
    let mut config = Config::default();
    config.silence_warnings = true;
    config.stack_size = 256 * 1024;
    Runner::new(RandomScheduler::new_from_seed(seed, runs / 2), config.clone()).run(checked);
    Runner::new(PctScheduler::new_from_seed(seed, 3, runs - runs / 2), config).run(checked);
    tell(runs, begun);
}

/// What became of submissions, by somebody who has seen them all.
#[derive(Clone, Default)]
struct Tally {
    accepted: Count,
    refused: Count,
    watch: Watch,
}

impl Tally {
    fn take(&self, submitted: Result<JobHandle, SubmitError>) -> Option<JobHandle> {
        match submitted {
            Ok(handle) => {
                self.accepted.add();
                Some(handle)
            }
            Err(error) => {
                self.refused.add();
                drop(error.into_job());
                None
            }
        }
    }

    /// Submits one in every form.
    fn submit_all(&self, to: &Submitter) -> Vec<JobHandle> {
        let (ctx, canceller) = Context::background().with_cancel();
        let job = |name| self.watch.job(name);
        let first = self.take(to.submit(job("submit")));
        let second = self.take(to.try_submit(job("try_submit").with_context(&ctx)));
        canceller.cancel_with("the context");
        let third = self.take(to.submit_timeout(job("submit_timeout"), Duration::from_millis(40)));
        let fourth = self.take(to.submit(job("done").with_context(&ctx)));
        [first, second, third, fourth].into_iter().flatten().collect()
    }

    fn check(&self, delegator: &Delegator, handed_back: usize) {
        let stats = delegator.stats();
        let ended = stats.completed + stats.failed + stats.panicked + stats.cancelled + stats.timed_out;
        assert_eq!(stats.submitted, self.accepted.get() as u64, "{stats:?}");
        assert_eq!(ended, stats.submitted, "{stats:?}");
        assert_eq!((stats.queued, stats.running), (0, 0), "{stats:?}");
        assert_eq!(stats.rejected, self.refused.get() as u64, "{stats:?}");
        let dropped = self.accepted.get() + self.refused.get() - handed_back;
        assert_eq!(self.watch.drops.get(), dropped, "every capture once");
        assert_eq!(stats.completed, self.watch.runs.get() as u64);
    }
}

fn build(workers: usize, capacity: usize) -> Delegator {
    Delegator::builder().workers(workers).queue_capacity(capacity).build().expect("threads")
}

/// Submitters, a thread that cancels, and a shutdown of either kind when they are done.
fn busy(workers: usize, capacity: usize, how: Shutdown) {
    let (delegator, tally) = (build(workers, capacity), Tally::default());
    let submitters = [(); 2].map(|()| {
        let (submitter, tally) = (delegator.submitter(), tally.clone());
        spawn(move || {
            let handles = tally.submit_all(&submitter);
            handles.first().map(JobHandle::cancel);
            handles.iter().for_each(|handle| assert!(handle.wait().state().is_finished()));
        })
    });
    submitters.into_iter().for_each(|submitter| submitter.join().unwrap());
    delegator.wait_idle();
    let report = delegator.shutdown(how);
    assert_eq!(report.total(), 0);
    tally.check(&delegator, 0);
}

/// The same with the shutdown in the middle of it.
fn interrupted(workers: usize, capacity: usize, how: Shutdown) {
    let (delegator, tally) = (build(workers, capacity), Tally::default());
    let submitter = {
        let (submitter, tally) = (delegator.submitter(), tally.clone());
        spawn(move || {
            let handles = tally.submit_all(&submitter);
            handles.iter().for_each(|handle| assert!(handle.wait().state().is_finished()));
        })
    };
    let mine = tally.submit_all(&delegator.submitter());
    let report = delegator.shutdown(how);
    assert!(report.stuck.is_empty());
    submitter.join().unwrap();
    mine.iter().for_each(|handle| assert!(handle.is_finished()));
    tally.check(&delegator, report.unstarted.len());
    drop(report);
}

#[test]
fn drained_when_idle() {
    explore(|| busy(2, 1, Shutdown::drain()));
}

#[test]
fn cancelled_when_idle() {
    explore(|| busy(1, 2, Shutdown::cancel()));
}

#[test]
fn without_a_queue() {
    explore(|| busy(2, 0, Shutdown::drain()));
}

#[test]
fn drained_in_the_middle() {
    explore(|| interrupted(2, 1, Shutdown::drain()));
}

#[test]
fn cancelled_in_the_middle() {
    explore(|| interrupted(2, 1, Shutdown::cancel()));
}

/// Jobs that submit and wait on a single worker, whose queue has room for one.
#[test]
fn nested() {
    explore(|| {
        let (delegator, tally) = (build(1, 1), Tally::default());
        let outer = |submitter: Submitter, tally: Tally| {
            Job::new("outer", move |_| {
                let inner = tally.take(submitter.submit(tally.watch.job("inner")));
                tally.watch.runs.add();
                match inner.map(|inner| inner.wait().state()) {
                    None | Some(JobState::Completed) => Ok(Vec::new()),
                    Some(other) => panic!("{other}"),
                }
            })
        };
        let other = {
            let (submitter, tally) = (delegator.submitter(), tally.clone());
            spawn(move || {
                let job = outer(submitter.clone(), tally.clone());
                tally.take(submitter.submit(job)).map(|handle| handle.wait().state())
            })
        };
        let job = outer(delegator.submitter(), tally.clone());
        let mine = tally.take(delegator.submit(job)).expect("open");
        assert_eq!(mine.wait().state(), JobState::Completed);
        assert_eq!(other.join().unwrap(), Some(JobState::Completed));
        delegator.shutdown(Shutdown::drain());
        let stats = delegator.stats();
        assert_eq!((stats.submitted, stats.completed), (4, 4), "{stats:?}");
    });
}

/// Dropped while it works, and shut down from inside a job at the same time.
#[test]
fn dropped() {
    explore(|| {
        let (delegator, tally) = (Arc::new(build(2, 2)), Tally::default());
        let inside = Arc::downgrade(&delegator);
        let ends = Job::new("ends", move |_| {
            if let Some(delegator) = inside.upgrade() {
                let _ = delegator.shutdown(Shutdown::drain());
            }
            Ok(Vec::new())
        });
        let handle = delegator.submit(ends).expect("open");
        let others = tally.submit_all(&delegator.submitter());
        drop(delegator);
        assert_eq!(handle.wait().state(), JobState::Completed);
        others.iter().for_each(|handle| assert!(handle.wait().state().is_finished()));
    });
}

/// Two that shut down at once, one of them in a hurry.
#[test]
fn hurried() {
    explore(|| {
        let (delegator, tally) = (Arc::new(build(2, 2)), Tally::default());
        let handles = tally.submit_all(&delegator.submitter());
        let other = {
            let delegator = Arc::clone(&delegator);
            spawn(move || delegator.shutdown(Shutdown::drain()))
        };
        let mine = delegator.shutdown(Shutdown::cancel());
        let theirs = other.join().unwrap();
        assert!(mine.total() == 0 || theirs.total() == 0, "the first reports everything");
        handles.iter().for_each(|handle| assert!(handle.is_finished()));
        tally.check(&delegator, mine.unstarted.len() + theirs.unstarted.len());
    });
}

/// Jobs that are late or just in time while their worker is replaced, with a shutdown in the middle of it or afterwards.
fn replaced(capacity: usize, how: Shutdown, at_once: bool) {
    let builder = Delegator::builder().workers(1).queue_capacity(capacity);
    let delegator = builder.stuck_after(Duration::from_millis(4)).replacements(2).build().expect("threads");
    let tally = Tally::default();
    let late = |name| {
        let (runs, captured) = (tally.watch.runs.clone(), tally.watch.drops.on_drop());
        let job = Job::new(name, move |ctx| {
            let _ = &captured;
            runs.add();
            // Every look takes a millisecond.
            for _ in 0..6 {
                ctx.remaining();
                shuttle::thread::yield_now();
            }
            Ok(vec![1])
        });
        job.with_timeout(Duration::from_millis(30))
    };
    let other = {
        let (submitter, tally, job) = (delegator.submitter(), tally.clone(), late("other"));
        spawn(move || {
            let handles =
                [tally.take(submitter.submit(job)), tally.take(submitter.submit(tally.watch.job("x")))];
            handles.iter().flatten().for_each(|handle| assert!(handle.wait().state().is_finished()));
        })
    };
    let mine: Vec<_> =
        ["one", "two"].map(|name| tally.take(delegator.submit(late(name)))).into_iter().flatten().collect();
    mine.first().map(JobHandle::cancel);
    if !at_once {
        mine.iter().for_each(|handle| assert!(handle.wait().state().is_finished()));
        other.join().unwrap();
        let report = delegator.shutdown(how);
        assert!(report.stuck.is_empty());
        return tally.check(&delegator, report.unstarted.len());
    }
    let report = delegator.shutdown(how);
    assert!(report.stuck.is_empty());
    mine.iter().for_each(|handle| assert!(handle.is_finished()));
    other.join().unwrap();
    tally.check(&delegator, report.unstarted.len());
}

#[test]
fn workers_are_replaced() {
    explore(|| replaced(2, Shutdown::drain(), false));
}

#[test]
fn workers_are_replaced_without_a_queue() {
    explore(|| replaced(0, Shutdown::drain(), false));
}

#[test]
fn workers_are_replaced_during_a_drain() {
    explore(|| replaced(2, Shutdown::drain(), true));
}

#[test]
fn workers_are_replaced_during_a_cancel() {
    explore(|| replaced(1, Shutdown::cancel(), true));
}
