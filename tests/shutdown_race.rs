//! Ten thousand submissions that race a shutdown: whatever was accepted ends exactly once, whatever was refused never
//! runs, and nobody hangs.

mod common;
#[path = "common/pool.rs"]
mod pool;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use common::{Counter, PATIENCE, occupy, within};
use pool::{Door, FORMS, Form, assert_balanced, covered, sized};
use workpath::{
    Context, Delegator, Job, JobHandle, JobId, JobState, Retention, Shutdown, ShutdownReport, SubmitError,
    Submitter,
};

/// Submissions in each test.
const SUBMISSIONS: usize = 10_000;

/// What one job went through.
#[derive(Clone, Default)]
struct Trace {
    runs: Arc<AtomicU32>,
    /// Counts one when the operation is dropped.
    drops: Arc<AtomicU32>,
}

/// Counts its own drop.
struct Owned(Arc<AtomicU32>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Trace {
    fn job(&self) -> Job {
        let (runs, owned) = (Arc::clone(&self.runs), Owned(Arc::clone(&self.drops)));
        Job::new("racer", move |_| {
            let _owned = &owned;
            runs.fetch_add(1, Ordering::SeqCst);
            Ok(Vec::new())
        })
    }

    fn runs(&self) -> u32 {
        self.runs.load(Ordering::SeqCst)
    }

    fn drops(&self) -> u32 {
        self.drops.load(Ordering::SeqCst)
    }
}

/// What came of one submission.
enum Fate {
    Accepted(JobHandle),
    Full,
    Closed,
}

/// Submits in all forms until the delegator is closed, or so many times.
fn submit_until_closed(submitter: &Submitter, most: usize, taken: &AtomicUsize) -> Vec<(Trace, Fate)> {
    const BRIEFLY: Duration = Duration::from_micros(100);
    let forms = [FORMS[0], FORMS[1], FORMS[2], FORMS[3], Form::Timeout(BRIEFLY), Form::Deadline(BRIEFLY)];
    let mut fates = Vec::new();
    for n in 0..most {
        let trace = Trace::default();
        let fate = match submitter.enter(forms[n % forms.len()], trace.job()) {
            Ok(handle) => Fate::Accepted(handle),
            Err(SubmitError::Full(_) | SubmitError::Timeout(_)) => Fate::Full,
            Err(SubmitError::ShutDown(_)) => Fate::Closed,
            Err(other) => panic!("{other}"),
        };
        taken.fetch_add(1, Ordering::Relaxed);
        let closed = matches!(fate, Fate::Closed);
        fates.push((trace, fate));
        if closed {
            break;
        }
    }
    fates
}

/// Races `close` against four submitting threads, again and again, and checks what became of every single job. `close`
/// returns the ids of the jobs that came back, and how many jobs it accounts for, where it knows.
fn race(close: impl Fn(&mut Option<Delegator>, usize) -> (HashSet<JobId>, Option<usize>)) {
    let mut submissions = 0;
    let mut round = 0;
    while submissions < SUBMISSIONS {
        round += 1;
        let capacity = [0, 1, 4, 64][round % 4];
        let delegator = Delegator::builder()
            .workers(1 + round % 3)
            .queue_capacity(capacity)
            .retain(Retention::last(1_000_000))
            .build()
            .unwrap();
        let submitter = delegator.submitter();
        let mut delegator = Some(delegator);
        let barrier = Barrier::new(5);
        let taken = AtomicUsize::new(0);
        let (fates, unstarted, reported) = thread::scope(|scope| {
            let racers: Vec<_> = (0..4)
                .map(|_| {
                    let (submitter, barrier, taken) = (submitter.clone(), &barrier, &taken);
                    scope.spawn(move || {
                        barrier.wait();
                        submit_until_closed(&submitter, 1_000, taken)
                    })
                })
                .collect();
            barrier.wait();
            // Somewhere between the very beginning and the middle of it.
            while taken.load(Ordering::Relaxed) < (round * 7) % 60 {
                thread::yield_now();
            }
            let (unstarted, reported) = close(&mut delegator, round);
            let fates: Vec<_> = racers.into_iter().flat_map(|racer| racer.join().unwrap()).collect();
            (fates, unstarted, reported)
        });

        let (mut accepted, mut ran) = (0, 0);
        let mut seen = HashSet::new();
        for (trace, fate) in &fates {
            let Fate::Accepted(handle) = fate else {
                assert_eq!(trace.runs(), 0, "a refused job ran");
                assert_eq!(trace.drops(), 1, "a refused job is still somewhere");
                continue;
            };
            accepted += 1;
            let record = handle.wait_timeout(PATIENCE).expect("an accepted job never ended");
            assert!(seen.insert(record.id()), "one id, two jobs");
            assert_eq!(trace.drops(), 1, "what a job owned is dropped once");
            match record.state() {
                JobState::Completed => assert_eq!(trace.runs(), 1),
                JobState::Cancelled => assert_eq!(trace.runs(), 0, "it ran and was handed back"),
                other => panic!("{other}"),
            }
            ran += trace.runs();
            let came_back = unstarted.contains(&handle.id());
            assert_eq!(record.state() == JobState::Cancelled, came_back, "neither run nor handed back");
        }
        assert!(unstarted.iter().all(|id| seen.contains(id)), "a job came back that was never accepted");
        assert!(reported.is_none_or(|reported| (unstarted.len()..=accepted).contains(&reported)));
        if let Some(delegator) = delegator {
            let stats = delegator.stats();
            assert_balanced(&stats);
            assert_eq!((stats.queued, stats.running), (0, 0));
            assert_eq!((stats.submitted, stats.completed), (accepted as u64, u64::from(ran)));
            assert_eq!(stats.cancelled, unstarted.len() as u64);
            assert_eq!(stats.rejected, (fates.len() - accepted) as u64);
            assert_eq!(delegator.registry().len(), accepted);
        }
        submissions += fates.len();
    }
}

fn shut_down(delegator: &Option<Delegator>, shutdown: Shutdown) -> ShutdownReport {
    delegator.as_ref().expect("still there").shutdown(shutdown)
}

/// What [`race`] wants to know.
fn gist(report: &ShutdownReport) -> (HashSet<JobId>, Option<usize>) {
    (report.unstarted.iter().map(Job::id).collect(), Some(covered(report)))
}

#[test]
fn submissions_that_race_a_drain_all_run_or_are_refused() {
    within(4 * PATIENCE, || {
        race(|delegator, _| {
            let report = shut_down(delegator, Shutdown::drain());
            assert_eq!(report.completed, covered(&report), "{report:?}");
            gist(&report)
        });
    });
}

#[test]
fn submissions_that_race_a_cancel_run_or_come_back_or_are_refused() {
    within(4 * PATIENCE, || {
        race(|delegator, _| {
            let report = shut_down(delegator, Shutdown::cancel());
            assert_eq!(report.completed + report.unstarted.len(), covered(&report), "{report:?}");
            gist(&report)
        });
    });
}

#[test]
fn submissions_that_race_a_shutdown_with_a_limit_all_end() {
    within(4 * PATIENCE, || {
        race(|delegator, round| {
            let limit = Duration::from_micros(round as u64 % 3 * 50);
            let shutdown = if round % 2 == 0 { Shutdown::drain() } else { Shutdown::cancel() };
            gist(&shut_down(delegator, shutdown.within(limit)))
        });
    });
}

#[test]
fn submissions_that_race_a_drop_all_run_or_are_refused() {
    within(4 * PATIENCE, || {
        race(|delegator, _| {
            drop(delegator.take());
            (HashSet::new(), None)
        });
    });
}

#[test]
fn submissions_that_race_two_different_shutdowns_all_end() {
    within(4 * PATIENCE, || {
        race(|delegator, round| {
            let delegator = &*delegator;
            let other =
                if round % 2 == 0 { Shutdown::cancel() } else { Shutdown::drain().within(Duration::ZERO) };
            let (one, two) = thread::scope(|scope| {
                let one = scope.spawn(|| shut_down(delegator, Shutdown::drain()));
                let two = scope.spawn(|| shut_down(delegator, other));
                (one.join().unwrap(), two.join().unwrap())
            });
            assert!(covered(&one) == 0 || covered(&two) == 0, "{one:?} {two:?}");
            gist(if covered(&one) == 0 { &two } else { &one })
        });
    });
}

#[test]
fn submitters_that_are_all_blocked_return_when_the_delegator_closes() {
    within(4 * PATIENCE, || {
        for round in 0..30 {
            let delegator = Arc::new(sized(1, round % 2));
            let busy = occupy(&delegator);
            let returned = Counter::new();
            let blocked: Vec<_> = (0..12)
                .map(|n| {
                    let (submitter, returned) = (delegator.submitter(), returned.clone());
                    thread::spawn(move || {
                        let trace = Trace::default();
                        let result = submitter.enter(FORMS[[0, 2, 3][n % 3]], trace.job());
                        returned.add();
                        (trace, result)
                    })
                })
                .collect();
            thread::yield_now();
            let closing = thread::spawn({
                let delegator = Arc::clone(&delegator);
                move || {
                    delegator.shutdown(if round % 3 == 0 { Shutdown::cancel() } else { Shutdown::drain() })
                }
            });
            // The worker is busy until all have returned.
            returned.wait_for(12);
            busy.release();
            let report = closing.join().unwrap();
            let mut accepted = 0;
            for thread in blocked {
                let (trace, result) = thread.join().unwrap();
                match result {
                    Ok(handle) => {
                        accepted += 1;
                        assert_eq!(u32::from(handle.wait().state() == JobState::Completed), trace.runs());
                    }
                    Err(error) => {
                        assert!(matches!(error, SubmitError::ShutDown(_)));
                        assert_eq!(trace.runs(), 0);
                    }
                }
            }
            assert!(accepted <= round % 2);
            assert_eq!(covered(&report), accepted + 1);
            assert_balanced(&delegator.stats());
        }
    });
}

#[test]
fn cancels_and_waits_that_race_a_shutdown_agree_on_every_job() {
    within(4 * PATIENCE, || {
        for round in 0..150 {
            let delegator = sized(2, 64);
            let (ctx, canceller) = Context::background().with_cancel();
            let traces: Vec<_> = (0..20).map(|_| Trace::default()).collect();
            let handles: Vec<_> = (0..)
                .zip(&traces)
                .map(|(n, trace)| {
                    let job = if n % 4 == 0 { trace.job().with_context(&ctx) } else { trace.job() };
                    delegator.submit(job).expect("room")
                })
                .collect();
            let unstarted: HashSet<JobId> = thread::scope(|scope| {
                scope.spawn(|| {
                    handles
                        .iter()
                        .skip(1)
                        .step_by(2)
                        .map(JobHandle::cancel)
                        .filter(|cancelled| *cancelled)
                        .count()
                });
                scope.spawn(|| canceller.cancel());
                let waiter =
                    scope.spawn(|| handles.iter().map(|handle| handle.wait().state()).collect::<Vec<_>>());
                let shutdown = match round % 3 {
                    0 => Shutdown::drain(),
                    1 => Shutdown::cancel(),
                    _ => Shutdown::drain().within(Duration::from_micros(30)),
                };
                let report = delegator.shutdown(shutdown);
                assert!(waiter.join().unwrap().iter().all(|state| state.is_finished()));
                report.unstarted.iter().map(Job::id).collect()
            });
            for (trace, handle) in traces.iter().zip(&handles) {
                let state = handle.wait().state();
                assert_eq!(u32::from(state == JobState::Completed), trace.runs(), "{state}");
                assert_eq!(trace.drops(), 1);
                assert!(!unstarted.contains(&handle.id()) || state == JobState::Cancelled);
            }
            let stats = delegator.stats();
            assert_balanced(&stats);
            assert_eq!((stats.submitted, stats.completed + stats.cancelled), (20, 20));
        }
    });
}

#[test]
fn jobs_that_submit_jobs_while_the_delegator_closes_all_end() {
    within(4 * PATIENCE, || {
        for round in 0..100 {
            let delegator = sized(2, 2);
            let (accepted, ran) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let started = Counter::new();
            let parents: Vec<_> = (0..2)
                .map(|_| {
                    let (submitter, accepted, ran) =
                        (delegator.submitter(), Arc::clone(&accepted), Arc::clone(&ran));
                    let started = started.clone();
                    let parent = Job::new("parent", move |_| {
                        started.add();
                        loop {
                            let ran = Arc::clone(&ran);
                            let child = submitter.submit(Job::new("child", move |_| {
                                ran.fetch_add(1, Ordering::SeqCst);
                                Ok(Vec::new())
                            }));
                            match child {
                                Ok(child) => {
                                    accepted.fetch_add(1, Ordering::SeqCst);
                                    assert!(child.wait().state().is_finished());
                                }
                                Err(error) => break assert!(matches!(error, SubmitError::ShutDown(_))),
                            }
                        }
                        Ok(Vec::new())
                    });
                    delegator.submit(parent).expect("room")
                })
                .collect();
            started.wait_for(2);
            while accepted.load(Ordering::SeqCst) < round % 10 {
                thread::yield_now();
            }
            let report =
                delegator.shutdown(if round % 2 == 0 { Shutdown::drain() } else { Shutdown::cancel() });
            assert!(parents.iter().all(|parent| parent.wait().state().is_finished()));
            let stats = delegator.stats();
            assert_balanced(&stats);
            assert_eq!(stats.submitted, accepted.load(Ordering::SeqCst) as u64 + 2);
            let back = report.unstarted.len();
            assert_eq!(ran.load(Ordering::SeqCst) + back, accepted.load(Ordering::SeqCst));
        }
    });
}
