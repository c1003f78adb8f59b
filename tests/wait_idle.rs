//! Waiting until a delegator has nothing left to do.

mod common;
#[path = "common/pool.rs"]
mod pool;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use common::{Counter, FOREVER, Gate, delegator, occupy, panics, watchdog, yields};
use pool::{fill, obedient, pause, sized};
use workpath::{Context, Job, JobHandle, JobState, Shutdown};

#[test]
fn a_delegator_without_jobs_is_idle() {
    watchdog(|| {
        let delegator = delegator(2);
        for _ in 0..3 {
            delegator.wait_idle();
            assert!(delegator.wait_idle_timeout(Duration::ZERO));
            assert!(delegator.wait_idle_timeout(Duration::MAX));
            assert!(delegator.wait_idle_timeout(FOREVER));
        }
    });
}

#[test]
fn it_waits_for_what_runs_and_for_what_is_queued() {
    watchdog(|| {
        let delegator = Arc::new(sized(1, 8));
        let first = occupy(&delegator);
        let (started, release) = (Gate::new(), Gate::new());
        let second = delegator.submit(common::gated("second", &started, &release)).expect("room");
        let last = fill(&delegator, 1).remove(0);
        let idle = thread::spawn({
            let delegator = Arc::clone(&delegator);
            move || delegator.wait_idle()
        });
        pause();
        assert!(!idle.is_finished(), "one runs, two are queued");
        first.release();
        started.wait();
        pause();
        assert!(!idle.is_finished(), "one runs, one is queued");
        release.open();
        idle.join().unwrap();
        assert!(second.is_finished() && last.is_finished());
    });
}

#[test]
fn a_wait_with_a_limit_says_whether_it_is_idle_and_is_never_early() {
    watchdog(|| {
        let delegator = delegator(1);
        let busy = occupy(&delegator);
        let limit = Duration::from_millis(30);
        let start = Instant::now();
        assert!(!delegator.wait_idle_timeout(limit));
        assert!(start.elapsed() >= limit);
        assert!(!delegator.wait_idle_timeout(Duration::ZERO));
        assert!(!delegator.wait_idle_timeout(Duration::from_nanos(1)));
        busy.release();
        assert!(delegator.wait_idle_timeout(FOREVER));
        assert!(busy.handle.is_finished());
    });
}

#[test]
fn a_wait_without_an_end_needs_no_special_number() {
    watchdog(|| {
        let delegator = Arc::new(delegator(1));
        let busy = occupy(&delegator);
        let idle = thread::spawn({
            let delegator = Arc::clone(&delegator);
            move || delegator.wait_idle_timeout(Duration::MAX)
        });
        pause();
        assert!(!idle.is_finished());
        busy.release();
        assert!(idle.join().unwrap());
    });
}

#[test]
fn many_threads_can_wait_and_all_wake_up() {
    watchdog(|| {
        let delegator = Arc::new(delegator(2));
        let busy = occupy(&delegator);
        let waiting: Vec<_> = (0..60)
            .map(|n| {
                let delegator = Arc::clone(&delegator);
                thread::spawn(move || {
                    if n % 2 == 0 {
                        delegator.wait_idle();
                        true
                    } else {
                        delegator.wait_idle_timeout(FOREVER)
                    }
                })
            })
            .collect();
        pause();
        assert!(waiting.iter().all(|thread| !thread.is_finished()));
        busy.release();
        assert!(waiting.into_iter().all(|thread| thread.join().unwrap()));
    });
}

#[test]
fn it_can_be_waited_for_in_waves() {
    watchdog(|| {
        let delegator = sized(2, 16);
        let ran = Arc::new(AtomicUsize::new(0));
        for wave in 1..=100 {
            for _ in 0..8 {
                let ran = Arc::clone(&ran);
                drop(delegator.submit(Job::new("surfer", move |_| {
                    ran.fetch_add(1, Ordering::SeqCst);
                    Ok(Vec::new())
                })));
            }
            delegator.wait_idle();
            assert_eq!(ran.load(Ordering::SeqCst), wave * 8);
            delegator.wait_idle();
        }
    });
}

#[test]
fn a_waiter_from_before_is_not_held_up_by_jobs_of_another_delegator() {
    watchdog(|| {
        let (one, two) = (delegator(1), delegator(1));
        let busy = occupy(&two);
        one.submit(yields("short", "")).expect("room").wait();
        one.wait_idle();
        assert!(!two.wait_idle_timeout(Duration::ZERO));
        busy.release();
        two.wait_idle();
    });
}

#[test]
fn jobs_that_end_badly_or_never_run_leave_a_delegator_idle() {
    watchdog(|| {
        let delegator = sized(1, 16);
        let busy = occupy(&delegator);
        let (ctx, canceller) = Context::background().with_cancel();
        let started = Gate::new();
        let mut handles = vec![
            delegator.submit(panics("ugly", "no")).expect("room"),
            delegator.submit(yields("stopped", "").with_context(&ctx)).expect("room"),
            delegator.submit(yields("late", "").with_timeout(Duration::from_millis(1))).expect("room"),
            delegator.submit(yields("stillborn", "").with_timeout(Duration::ZERO)).expect("accepted"),
            delegator.submit(obedient("stopped", &started)).expect("room"),
        ];
        handles.extend(fill(&delegator, 2));
        canceller.cancel();
        assert!(handles[5].cancel());
        busy.release();
        started.wait();
        assert!(!delegator.wait_idle_timeout(Duration::ZERO));
        assert!(handles[4].cancel());
        delegator.wait_idle();
        assert!(handles.iter().all(JobHandle::is_finished));
        assert_eq!(handles[6].state(), JobState::Completed);
    });
}

#[test]
fn a_queued_job_that_is_cancelled_no_longer_counts() {
    watchdog(|| {
        let delegator = Arc::new(sized(1, 8));
        let busy = occupy(&delegator);
        let queued = fill(&delegator, 3);
        let idle = thread::spawn({
            let delegator = Arc::clone(&delegator);
            move || delegator.wait_idle()
        });
        assert!(queued.iter().all(JobHandle::cancel));
        pause();
        assert!(!idle.is_finished());
        busy.release();
        idle.join().unwrap();
        assert!(busy.handle.is_finished());
    });
}

#[test]
fn children_count_as_well() {
    watchdog(|| {
        let delegator = sized(2, 8);
        let ended = Counter::new();
        for round in 1..=30 {
            let (submitter, ended) = (delegator.submitter(), ended.clone());
            let parent = Job::new("parent", move |_| {
                let child = Job::new("child", {
                    let (submitter, ended) = (submitter.clone(), ended.clone());
                    move |_| {
                        let ended = ended.clone();
                        drop(submitter.submit(Job::new("grandchild", move |_| {
                            ended.add();
                            Ok(Vec::new())
                        }))?);
                        Ok(Vec::new())
                    }
                });
                drop(submitter.submit(child)?);
                Ok(Vec::new())
            });
            drop(delegator.submit(parent).expect("room"));
            delegator.wait_idle();
            // A parent submits its child before it ends: there is no moment in between.
            assert_eq!(delegator.stats().completed, 3 * round);
        }
        assert_eq!(ended.get(), 30);
    });
}

#[test]
fn a_shutdown_lets_those_go_who_wait() {
    watchdog(|| {
        for shutdown in [Shutdown::drain(), Shutdown::cancel()] {
            let delegator = Arc::new(sized(1, 8));
            let busy = occupy(&delegator);
            let _queued = fill(&delegator, 2);
            let idle = thread::spawn({
                let delegator = Arc::clone(&delegator);
                move || delegator.wait_idle()
            });
            let closing = thread::spawn({
                let delegator = Arc::clone(&delegator);
                move || delegator.shutdown(shutdown)
            });
            pause();
            assert!(!idle.is_finished(), "one job still runs");
            busy.release();
            idle.join().unwrap();
            closing.join().unwrap();
            delegator.wait_idle();
        }
    });
}

#[test]
fn a_stuck_job_keeps_a_delegator_from_being_idle() {
    watchdog(|| {
        let delegator = delegator(1);
        let busy = occupy(&delegator);
        let report = delegator.shutdown(Shutdown::cancel().within(Duration::ZERO));
        assert_eq!(report.stuck.len(), 1);
        assert!(!delegator.wait_idle_timeout(Duration::from_millis(5)));
        busy.release();
        delegator.wait_idle();
        assert!(busy.handle.is_finished());
    });
}

#[test]
fn a_wait_that_races_the_last_job_never_hangs() {
    watchdog(|| {
        let delegator = Arc::new(sized(2, 16));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        drop(delegator.submit(yields("short", "")).expect("room"));
                        delegator.wait_idle();
                    }
                });
            }
            scope.spawn(|| {
                for _ in 0..500 {
                    let _either = delegator.wait_idle_timeout(Duration::from_micros(20));
                }
            });
        });
        delegator.wait_idle();
        assert_eq!(delegator.stats().completed, 1_000);
    });
}

#[test]
fn a_submission_that_is_refused_at_the_last_moment_does_not_keep_it_waiting() {
    watchdog(|| {
        const ROUNDS: usize = 2_000;
        // Without places, a job is refused until the very end of the one before it.
        let delegator = sized(1, 0);
        let (together, accepted) = (Barrier::new(2), AtomicUsize::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..ROUNDS {
                    together.wait();
                    for _ in 0..1 + round % 8 {
                        if delegator.try_submit(yields("other", "")).is_ok() {
                            accepted.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    together.wait();
                }
            });
            for _ in 0..ROUNDS {
                together.wait();
                drop(delegator.submit(yields("one", "")).expect("a worker"));
                delegator.wait_idle();
                together.wait();
                delegator.wait_idle();
            }
        });
        assert_eq!(delegator.stats().completed as usize, ROUNDS + accepted.load(Ordering::Relaxed));
    });
}
