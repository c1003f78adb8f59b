//! Priorities: who starts first, that nobody waits for ever, and that everything else about a queue holds at every level.

mod common;
#[path = "common/pool.rs"]
mod pool;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::{Counter, Gate, eventually, gated, occupy, watchdog, yields};
use pool::{Door, FORMS, NOT_WAITING, WAITING, assert_balanced, pause, sized};
use workpath::{Delegator, Job, JobState, Priority, Shutdown, SubmitError, Submitter};

const ALL: [Priority; 3] = [Priority::High, Priority::Normal, Priority::Low];

/// The letters of jobs in the order in which they ran.
#[derive(Clone, Default)]
struct Trace(Arc<Mutex<String>>);

impl Trace {
    fn job(&self, priority: Priority) -> Job {
        let trace = self.clone();
        let letter = letter(priority);
        Job::new(priority.to_string(), move |_| {
            trace.0.lock().unwrap().push(letter);
            Ok(Vec::new())
        })
        .with_priority(priority)
    }

    fn take(&self) -> String {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

fn letter(priority: Priority) -> char {
    match priority {
        Priority::High => 'h',
        Priority::Normal => 'n',
        Priority::Low => 'l',
    }
}

/// The order in which one worker runs so many jobs of each priority that are all there from the start.
fn order_of(high: usize, normal: usize, low: usize) -> String {
    let delegator = sized(1, 256);
    let trace = Trace::default();
    let busy = occupy(&delegator);
    for (priority, count) in [(Priority::Low, low), (Priority::Normal, normal), (Priority::High, high)] {
        for _ in 0..count {
            let _ = delegator.try_submit(trace.job(priority)).expect("room");
        }
    }
    busy.release();
    delegator.wait_idle();
    assert_balanced(&delegator.stats());
    trace.take()
}

/// What the documentation says.
fn promised(high: usize, normal: usize, low: usize) -> String {
    let mut left = [('h', high), ('n', normal), ('l', low)];
    let patience = [usize::MAX, 8, 32];
    let mut passed = [0; 3];
    let mut order = String::new();
    loop {
        let waits: Vec<usize> = (0..3).filter(|&level| left[level].1 > 0).collect();
        let due = waits.iter().rev().find(|&&level| passed[level] >= patience[level]);
        let Some(&level) = due.or(waits.first()) else { return order };
        left[level].1 -= 1;
        order.push(left[level].0);
        passed[level] = 0;
        waits.iter().filter(|&&lower| lower > level).for_each(|&lower| passed[lower] += 1);
    }
}

#[test]
fn a_higher_priority_goes_first() {
    watchdog(|| {
        assert_eq!(order_of(3, 3, 3), "hhhnnnlll");
        assert_eq!(order_of(3, 0, 3), "hhhlll");
        assert_eq!(order_of(0, 3, 3), "nnnlll");
    });
}

#[test]
fn jobs_of_one_priority_keep_their_order() {
    watchdog(|| {
        for priority in ALL {
            let delegator = sized(1, 64);
            let busy = occupy(&delegator);
            let order = Arc::new(Mutex::new(Vec::new()));
            for n in 0..50 {
                let order = Arc::clone(&order);
                let job = Job::new("numbered", move |_| {
                    order.lock().unwrap().push(n);
                    Ok(Vec::new())
                });
                let _ = delegator.submit(job.with_priority(priority)).expect("room");
            }
            busy.release();
            delegator.wait_idle();
            assert_eq!(*order.lock().unwrap(), (0..50).collect::<Vec<_>>(), "{priority}");
        }
    });
}

#[test]
fn a_normal_job_is_passed_over_eight_times() {
    watchdog(|| assert_eq!(order_of(20, 3, 0), "hhhhhhhhnhhhhhhhhnhhhhn"));
}

#[test]
fn a_low_job_is_passed_over_thirty_two_times() {
    watchdog(|| {
        let n32 = "n".repeat(32);
        assert_eq!(order_of(0, 70, 2), format!("{n32}l{n32}lnnnnnn"));
    });
}

#[test]
fn the_order_is_the_promised_one() {
    watchdog(|| {
        for (high, normal, low) in [(200, 30, 10), (100, 100, 100), (33, 4, 1), (9, 1, 1), (64, 0, 5)] {
            assert_eq!(order_of(high, normal, low), promised(high, normal, low), "{high} {normal} {low}");
        }
    });
}

/// Submits its successor before it returns, so that there is always another one of high priority.
fn endless(submitter: Submitter, stop: Gate, runs: Counter) -> Job {
    Job::new("endless", move |_| {
        runs.add();
        if !stop.is_open() {
            let next = endless(submitter.clone(), stop.clone(), runs.clone());
            let _ = submitter.submit(next).map_err(SubmitError::into_job);
        }
        Ok(Vec::new())
    })
    .with_priority(Priority::High)
}

#[test]
fn a_low_job_runs_while_high_ones_never_end() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let (stop, runs) = (Gate::new(), Counter::new());
        let busy = occupy(&delegator);
        let low = delegator.submit(yields("low", "").with_priority(Priority::Low)).expect("room");
        let count = runs.clone();
        let normal = Job::new("normal", move |_| Ok(count.get().to_le_bytes().to_vec()));
        let normal = delegator.submit(normal).expect("room");
        let _ = delegator.submit(endless(delegator.submitter(), stop.clone(), runs.clone())).expect("room");
        busy.release();
        assert_eq!(low.wait().state(), JobState::Completed);
        assert_eq!(normal.join().expect("a count"), 8_usize.to_le_bytes());
        stop.open();
        assert!(runs.get() >= 32);
    });
}

#[test]
fn each_priority_has_the_whole_capacity() {
    watchdog(|| {
        let delegator = sized(1, 2);
        let busy = occupy(&delegator);
        let mut handles = Vec::new();
        for priority in [Priority::Low, Priority::Normal, Priority::High] {
            for _ in 0..2 {
                handles.push(delegator.try_submit(yields("job", "").with_priority(priority)).expect("room"));
            }
            for form in NOT_WAITING {
                let refused = delegator.enter(form, yields("more", "").with_priority(priority));
                let job = refused.expect_err("no room").into_job();
                assert_eq!(job.priority(), priority, "it comes back as it was");
            }
        }
        let places = delegator.stats().places;
        assert_eq!((places.high, places.normal, places.low), (2, 2, 2));
        assert_eq!(delegator.stats().queued, 6);
        assert_eq!(delegator.stats().rejected, 9);
        busy.release();
        delegator.wait_idle();
        let places = delegator.stats().places;
        assert_eq!((places.high, places.normal, places.low), (0, 0, 0));
        assert!(handles.iter().all(|handle| handle.state() == JobState::Completed));
        assert_balanced(&delegator.stats());
    });
}

#[test]
fn a_blocked_submitter_gets_the_place_that_its_priority_has_again() {
    watchdog(|| {
        for priority in ALL {
            for form in WAITING {
                let delegator = Arc::new(sized(1, 1));
                let busy = occupy(&delegator);
                let _ = delegator.submit(yields("first", "").with_priority(priority)).expect("room");
                let blocked = {
                    let delegator = Arc::clone(&delegator);
                    thread::spawn(move || {
                        delegator.enter(form, yields("second", "2").with_priority(priority))
                    })
                };
                pause();
                assert!(!blocked.is_finished());
                busy.release();
                let handle = blocked.join().expect("no panic").expect("room in the end");
                assert_eq!(handle.join().expect("a payload"), b"2", "{priority} {form:?}");
            }
        }
    });
}

#[test]
fn a_shutdown_sends_every_line_away() {
    watchdog(|| {
        let delegator = Arc::new(sized(1, 1));
        let busy = occupy(&delegator);
        let blocked: Vec<_> = ALL
            .into_iter()
            .map(|priority| {
                let _ = delegator.submit(yields("first", "").with_priority(priority)).expect("room");
                let delegator = Arc::clone(&delegator);
                thread::spawn(move || delegator.submit(yields("second", "").with_priority(priority)))
            })
            .collect();
        pause();
        let shutdown = {
            let delegator = Arc::clone(&delegator);
            thread::spawn(move || delegator.shutdown(Shutdown::drain()))
        };
        for blocked in blocked {
            let refused = blocked.join().expect("no panic").expect_err("shut down");
            assert!(matches!(refused, SubmitError::ShutDown(_)), "{refused:?}");
        }
        busy.release();
        let report = shutdown.join().expect("no panic");
        assert_eq!(report.completed, 4, "what was in is done, at every level");
    });
}

#[test]
fn what_is_handed_back_keeps_its_priority() {
    watchdog(|| {
        let delegator = sized(1, 4);
        let busy = occupy(&delegator);
        for priority in ALL {
            let _ = delegator.submit(yields("job", "").with_priority(priority)).expect("room");
        }
        let report = delegator.shutdown(Shutdown::cancel().within(Duration::ZERO));
        busy.release();
        let mut back: Vec<Priority> = report.unstarted.iter().map(Job::priority).collect();
        back.sort();
        assert_eq!(back, [Priority::Low, Priority::Normal, Priority::High]);
    });
}

#[test]
fn a_job_waits_inline_for_one_of_any_priority() {
    watchdog(|| {
        for priority in ALL {
            let delegator = sized(1, 4);
            let submitter = delegator.submitter();
            let outer = Job::new("outer", move |_| {
                submitter.submit(yields("inner", "in").with_priority(priority))?.join()
            });
            assert_eq!(delegator.submit(outer).expect("room").join().expect("the payload"), b"in");
            delegator.wait_idle();
            assert_balanced(&delegator.stats());
        }
    });
}

#[test]
fn a_full_level_makes_a_worker_do_the_job_itself() {
    watchdog(|| {
        for priority in ALL {
            let delegator = sized(1, 1);
            let submitter = delegator.submitter();
            let runs = Counter::new();
            let seen = runs.clone();
            let outer = Job::new("outer", move |_| {
                for _ in 0..3 {
                    let runs = seen.clone();
                    let inner = Job::new("inner", move |_| {
                        runs.add();
                        Ok(Vec::new())
                    });
                    let _ = submitter.submit(inner.with_priority(priority))?;
                }
                Ok(seen.get().to_le_bytes().to_vec())
            });
            let at_the_end = delegator.submit(outer).expect("room").join().expect("a count");
            assert_eq!(at_the_end, 2_usize.to_le_bytes(), "one in the queue, two done: {priority}");
            delegator.wait_idle();
            assert_eq!(runs.get(), 3);
        }
    });
}

#[test]
fn a_hand_off_takes_jobs_of_every_priority() {
    watchdog(|| {
        let delegator = sized(1, 0);
        for priority in ALL {
            for form in FORMS {
                eventually("the worker is free", || {
                    delegator.try_submit(yields("probe", "")).map(|handle| handle.wait()).is_ok()
                });
                eventually("it takes this one too", || {
                    let job = yields("job", "").with_priority(priority);
                    delegator.enter(form, job).map(|handle| handle.wait()).is_ok()
                });
            }
        }
        let busy = occupy_handed_off(&delegator);
        let refused = delegator.try_submit(yields("more", "").with_priority(Priority::High));
        assert!(matches!(refused, Err(SubmitError::Full(_))));
        drop(busy);
    });
}

fn occupy_handed_off(delegator: &Delegator) -> Release {
    let (started, release) = (Gate::new(), Gate::new());
    let _ = delegator.submit(common::gated("busy", &started, &release)).expect("open");
    started.wait();
    Release(release)
}

struct Release(Gate);

impl Drop for Release {
    fn drop(&mut self) {
        self.0.open();
    }
}

#[test]
fn the_last_priority_counts() {
    let job = yields("job", "").with_priority(Priority::High).with_priority(Priority::Low);
    assert_eq!(job.priority(), Priority::Low);
    assert_eq!(job.with_priority(Priority::Normal).priority(), Priority::Normal);
}

/// Whoever pushes whatever while workers fall asleep, everything is done.
#[test]
fn no_job_of_any_priority_is_forgotten() {
    const PRODUCERS: usize = 3;
    const JOBS: usize = if cfg!(miri) { 20 } else { 2000 };
    watchdog(|| {
        let delegator = Arc::new(sized(2, 4));
        let runs = Arc::new(AtomicUsize::new(0));
        let producers: Vec<_> = (0..PRODUCERS)
            .map(|producer| {
                let (delegator, runs) = (Arc::clone(&delegator), Arc::clone(&runs));
                thread::spawn(move || {
                    let mut waiting = VecDeque::new();
                    for n in 0..JOBS {
                        let runs = Arc::clone(&runs);
                        let job = Job::new("one of many", move |_| {
                            runs.fetch_add(1, Ordering::Relaxed);
                            Ok(Vec::new())
                        });
                        let priority = ALL[(n * 7 + producer) % 3];
                        waiting.push_back(delegator.submit(job.with_priority(priority)).expect("open"));
                        if n % 5 == 0 {
                            waiting.drain(..).for_each(|handle| assert!(handle.wait().payload().is_some()));
                        }
                    }
                })
            })
            .collect();
        producers.into_iter().for_each(|producer| producer.join().expect("no panic"));
        delegator.wait_idle();
        assert_eq!(runs.load(Ordering::Relaxed), PRODUCERS * JOBS);
        assert_balanced(&delegator.stats());
    });
}

#[test]
fn a_place_at_one_level_is_for_who_waits_at_that_level() {
    watchdog(|| {
        let delegator = sized(1, 1);
        let busy = occupy(&delegator);
        let (started, release) = (Gate::new(), Gate::new());
        let first = gated("first", &started, &release).with_priority(Priority::High);
        for job in [first, yields("last", []).with_priority(Priority::Low)] {
            let _ = delegator.try_submit(job).expect("room");
        }
        // Who waits for the other level came before.
        let [low, high] = [Priority::Low, Priority::High].map(|priority| {
            let (submitter, job) = (delegator.submitter(), yields("waits", []).with_priority(priority));
            let waiting = thread::spawn(move || submitter.submit(job).map(drop));
            pause();
            waiting
        });
        busy.release();
        started.wait();
        high.join().unwrap().expect("the place of the first is free");
        release.open();
        low.join().unwrap().expect("and then that of the last");
    });
}
