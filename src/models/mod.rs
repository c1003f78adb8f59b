//! Models: small programs on the crate's own types, run in every order that a model checker can think of.
//!
//! Under `--cfg loom` each file explores one protocol with two or three threads: all interleavings up to a number of
//! preemptions, and all values that a load may see. Under `--cfg shuttle` whole delegators run under random schedules.
//! Out of the models' sight are the order in which reference counts change, and the timer thread: where a deadline is
//! part of a protocol, a model plays the timer itself. `.ci/models` runs them, `.ci/faults-run` shows what they notice.

#[cfg(loom)]
mod cancel_and_listen;
#[cfg(loom)]
mod claim;
#[cfg(loom)]
mod complete_and_wait;
#[cfg(loom)]
mod hand_over;
#[cfg(loom)]
mod idle;
#[cfg(loom)]
mod job_set;
#[cfg(loom)]
mod keys;
#[cfg(loom)]
mod nested_wait;
#[cfg(loom)]
mod notes;
#[cfg(loom)]
mod periodic;
#[cfg(loom)]
mod retry;
#[cfg(loom)]
mod schedule;
#[cfg(loom)]
mod sleep_and_wake;
#[cfg(loom)]
mod stuck;
#[cfg(loom)]
mod submit_and_shut_down;
#[cfg(shuttle)]
mod whole_delegator;

use std::cell::Cell;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::sync::Arc;

thread_local! {
    static PANICS: Cell<usize> = const { Cell::new(0) };
}

/// Counts panics, so that one in a model is noticed even where the crate contains it as a user's.
fn count_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();

    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.set(PANICS.get() + 1);
            usual(panic);
        }));
    });
    PANICS.set(0);
}

/// Says how far an exploration went, past the capture of the test harness.
fn tell(runs: usize, begun: Instant) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or_default().trim_start_matches("models::");
    let line = format!("{name}: {runs} runs, {:.1} s\n", begun.elapsed().as_secs_f64());
    let _ = std::io::stdout().write_all(line.as_bytes());
}

/// Runs the model in every order with up to so many preemptions; `LOOM_MAX_PREEMPTIONS` overrides the number.
#[cfg(loom)]
fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    explore_from(preemptions, move || {
        loom::explore();
        model();
    });
}

/// The same in every order of looks at the clock too.
#[cfg(loom)]
fn explore_clocked(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    crate::sync::CLOCK_MATTERS.set(true);
    explore(preemptions, model);
}

/// The same from where the model says `loom::explore()`; what it does before, it does in one order only.
#[cfg(loom)]
fn explore_from(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.expect_explicit_explore = true;
    builder.preemption_bound.get_or_insert(preemptions);
    builder.max_branches = 20_000;
    count_panics();
    let (runs, begun) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let counter = Arc::clone(&runs);
    builder.check(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        model();
        assert_eq!(PANICS.get(), 0, "something panicked");
    });
    tell(runs.load(Ordering::Relaxed), begun);
}

/// Counts things without being part of the model.
#[derive(Clone, Default)]
struct Count(Arc<AtomicUsize>);

impl Count {
    fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Something that counts its drop: what an operation captures.
    fn on_drop(&self) -> OnDrop {
        OnDrop(self.clone())
    }
}

struct OnDrop(Count);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.add();
    }
}

/// An operation's two ends, counted.
#[derive(Clone, Default)]
struct Watch {
    runs: Count,
    drops: Count,
}

impl Watch {
    fn job(&self, name: &'static str) -> crate::Job {
        let (runs, captured) = (self.runs.clone(), self.drops.on_drop());
        crate::Job::new(name, move |_| {
            let _ = &captured;
            runs.add();
            Ok(vec![1])
        })
    }
}

#[cfg(loom)]
use self::rig::Rig;

#[cfg(loom)]
mod rig {
    use std::time::Duration;

    use crate::delegator::parts;
    use crate::directive::Directive;
    use crate::engine::{Engine, Settings};
    use crate::handle::JobHandle;
    use crate::job::Job;
    use crate::queue::{Phase, Queue};
    use crate::registry::{Registry, Retention};
    use crate::sync::channel::{Receiver, unbounded};
    use crate::sync::{Arc, JoinHandle};
    use crate::{Shutdown, ShutdownReport, SubmitError, Submitter, worker};

    /// A delegator without its thread: a model starts the workers that it wants.
    #[derive(Clone)]
    pub(super) struct Rig {
        pub(super) engine: Arc<Engine>,
        closing: Arc<parts::Closing>,
        _directives: Receiver<Directive>,
    }

    impl Rig {
        pub(super) fn new(workers: usize, capacity: usize) -> Rig {
            let (admin, directives) = unbounded();
            let engine = Engine::new(
                Queue::new(capacity, workers, 0),
                0,
                Registry::new(Retention::last(4)),
                (0..workers).map(|index| index.to_string()),
                workers,
                admin,
                Settings { stuck_after: Duration::from_secs(1), ..Settings::default() },
            );
            Rig { engine, closing: Arc::new(parts::Closing::new(workers)), _directives: directives }
        }

        pub(super) fn submit(&self, job: Job) -> Result<JobHandle, SubmitError> {
            parts::submit(&self.engine, job)
        }

        pub(super) fn submitter(&self) -> Submitter {
            Submitter { engine: Arc::clone(&self.engine) }
        }

        pub(super) fn accepted(&self, job: Job) -> JobHandle {
            self.submit(job).expect("room for it, and open")
        }

        /// No more jobs; workers end when there are none left.
        pub(super) fn close(&self) {
            self.engine.queue.close(Phase::Draining);
        }

        pub(super) fn worker(&self, index: usize) -> JoinHandle<()> {
            let rig = self.clone();
            loom::thread::spawn(move || {
                worker::run(Arc::clone(&rig.engine), index, None, None, false);
                parts::worker_stopped(&rig.closing, index);
            })
        }

        pub(super) fn shut_down(&self, how: Shutdown) -> ShutdownReport {
            parts::shutdown(&self.engine, &self.closing, how)
        }

        /// Every job that was accepted is in one of the numbers, and this many were.
        pub(super) fn check_accounts(&self, accepted: u64) {
            let stats = parts::stats(&self.engine);
            assert_eq!(stats.submitted, accepted, "{stats:?}");
            let ended = stats.completed + stats.failed + stats.panicked + stats.cancelled + stats.timed_out;
            assert_eq!(ended, accepted, "{stats:?}");
        }
    }
}
