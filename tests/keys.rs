//! Jobs with keys: their order, their limit, who gets in between, and that a key is free again whatever becomes of its jobs.

mod common;
#[path = "common/pool.rs"]
mod pool;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use common::{Counter, DropFlag, FOREVER, Gate, delegator, eventually, gated, occupy, watchdog, yields};
use pool::{assert_balanced, covered, keeps, obedient, pause, sized};
use workpath::{
    Coalesced, Context, Delegator, Displaced, Error, Event, Job, JobHandle, JobState, Manual, Overflow,
    Priority, Retry, Shutdown, SubmitError,
};

/// The numbers of jobs in the order in which they ran.
#[derive(Clone, Default)]
struct Trace(Arc<Mutex<Vec<u32>>>);

impl Trace {
    fn job(&self, n: u32) -> Job {
        let trace = self.clone();
        Job::new(format!("job {n}"), move |_| {
            trace.0.lock().unwrap().push(n);
            Ok(vec![1])
        })
    }

    fn take(&self) -> Vec<u32> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// How many are in at a time.
#[derive(Clone, Default)]
struct Meter(Arc<(AtomicUsize, AtomicUsize)>);

impl Meter {
    fn within<T>(&self, inside: impl FnOnce() -> T) -> T {
        let now = self.0.0.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.1.fetch_max(now, Ordering::SeqCst);
        let result = inside();
        self.0.0.fetch_sub(1, Ordering::SeqCst);
        result
    }

    fn most(&self) -> usize {
        self.0.1.load(Ordering::SeqCst)
    }
}

/// Waits until no key is in use any more.
fn assert_no_residue(delegator: &Delegator) {
    eventually("no key is left", || delegator.stats().keys == 0);
}

/// A key that a running job has until it is released.
fn hold(delegator: &Delegator, key: &str) -> (JobHandle, Gate) {
    let (started, release) = (Gate::new(), Gate::new());
    let handle = delegator.submit(gated("holder", &started, &release).with_key(key)).expect("room");
    started.wait();
    (handle, release)
}

#[test]
fn jobs_with_one_key_run_one_at_a_time_and_in_order() {
    watchdog(|| {
        let delegator = sized(4, 8);
        let (trace, meter) = (Trace::default(), Meter::default());
        for n in 0..300 {
            let (trace, meter) = (trace.clone(), meter.clone());
            let job = Job::new("work", move |_| {
                meter.within(|| {
                    trace.0.lock().unwrap().push(n);
                    thread::yield_now();
                });
                Ok(Vec::new())
            });
            let _ = delegator.submit(job.with_key("one")).expect("room in the end");
        }
        delegator.wait_idle();
        assert_eq!((trace.take(), meter.most()), ((0..300).collect(), 1));
        assert_no_residue(&delegator);
        assert_balanced(&delegator.stats());
    });
}

#[test]
fn the_limit_is_the_builders_or_the_jobs_and_is_used() {
    watchdog(|| {
        for (of_builder, of_job, limit) in [(1, Some(3), 3), (2, None, 2), (3, Some(0), 1), (0, None, 1)] {
            let delegator = Delegator::builder().workers(4).key_limit(of_builder).build().unwrap();
            let (together, meter) = (Arc::new(Barrier::new(limit)), Meter::default());
            for _ in 0..limit * 5 {
                let (together, meter) = (Arc::clone(&together), meter.clone());
                let job = Job::new("work", move |_| {
                    meter.within(|| together.wait());
                    Ok(Vec::new())
                });
                let job = job.with_key("shared");
                let job = if let Some(limit) = of_job { job.with_key_limit(limit) } else { job };
                let _ = delegator.submit(job).expect("room");
            }
            delegator.wait_idle();
            assert_eq!(meter.most(), limit, "{of_builder} {of_job:?}");
        }
    });
}

#[test]
fn who_waits_for_a_key_holds_nobody_else_up() {
    watchdog(|| {
        let delegator = delegator(2);
        let (holder, release) = hold(&delegator, "busy");
        let held: Vec<_> =
            (0..20).map(|_| delegator.submit(yields("held", []).with_key("busy")).expect("room")).collect();
        assert_eq!(delegator.submit(yields("plain", [1])).unwrap().join().unwrap(), [1]);
        assert_eq!(delegator.submit(yields("other", [2]).with_key("idle")).unwrap().join().unwrap(), [2]);
        assert!(held.iter().all(|handle| handle.state() == JobState::Queued));
        release.open();
        for handle in held.into_iter().chain([holder]) {
            assert_eq!(handle.wait().state(), JobState::Completed);
        }
    });
}

#[test]
fn a_key_with_many_jobs_lines_up_again_behind_the_others() {
    let delegator = Delegator::manual();
    let trace = Trace::default();
    let submit = |n: u32, key: &str| drop(delegator.submit(trace.job(n).with_key(key)).unwrap());
    (0..4).for_each(|n| submit(n, "many"));
    (10..12).for_each(|n| submit(n, "some"));
    submit(20, "one");
    delegator.run_until_idle();
    assert_eq!(trace.take(), [0, 10, 20, 1, 11, 2, 3]);
}

#[test]
fn jobs_with_and_without_keys_take_turns() {
    let delegator = Delegator::manual();
    let trace = Trace::default();
    for n in 0..4 {
        let _ = delegator.submit(trace.job(n)).unwrap();
    }
    for n in 10..13 {
        let _ = delegator.submit(trace.job(n).with_key(n.to_string())).unwrap();
    }
    delegator.run_until_idle();
    assert_eq!(trace.take(), [0, 10, 1, 11, 2, 12, 3]);
}

#[test]
fn held_jobs_are_queued_and_take_places() {
    watchdog(|| {
        let delegator = sized(2, 2);
        let (_holder, release) = hold(&delegator, "busy");
        let held = [0, 1].map(|_| delegator.try_submit(yields("held", []).with_key("busy")).expect("room"));
        let stats = delegator.stats();
        assert_eq!((stats.queued, stats.places.normal, stats.keys), (2, 2, 1));
        for key in ["busy", "idle"] {
            let refused = delegator.try_submit(yields("more", []).with_key(key));
            assert!(matches!(refused, Err(SubmitError::Full(_))), "{refused:?}");
        }
        assert!(
            delegator.try_submit(yields("plain", [])).is_ok(),
            "those without a key have their own places"
        );
        held[0].cancel();
        assert!(
            delegator.try_submit(yields("more", []).with_key("busy")).is_ok(),
            "its place is free at once"
        );
        let submitter = delegator.submitter();
        let blocked = thread::spawn(move || submitter.submit(yields("blocked", [7]).with_key("busy")));
        pause();
        assert!(!blocked.is_finished());
        release.open();
        assert_eq!(blocked.join().unwrap().expect("room in the end").join().unwrap(), [7]);
        delegator.wait_idle();
        assert_balanced(&delegator.stats());
    });
}

/// Has a job with a key end in this way, in the queue or held back, and sees whether the next with that key runs.
fn ends_and_lets_the_next_run(name: &str, end: impl Fn(&Delegator, bool) -> JobState) {
    for held in [false, true] {
        let delegator = delegator(1);
        let busy = if held {
            delegator.submit(yields("before", []).with_key("key"))
        } else {
            Ok(occupy(&delegator).handle.clone())
        };
        let _ = busy.expect("room");
        let state = end(&delegator, held);
        let next = delegator.submit(yields("next", [1]).with_key("key")).expect("room");
        assert_eq!(next.join().unwrap(), [1], "{name}, held back: {held}");
        let counts = delegator.stats();
        assert!(state.is_finished() && counts.running <= 1, "{name}: {state}");
        assert_no_residue(&delegator);
        delegator.wait_idle();
        assert_balanced(&delegator.stats());
    }
}

#[test]
fn the_key_is_free_again_however_a_job_ends() {
    watchdog(|| {
        let wait = |job: Job| {
            move |delegator: &Delegator, _: bool| {
                delegator.submit(job_like(&job).with_key("key")).expect("room").wait().state()
            }
        };
        ends_and_lets_the_next_run("completes", wait(yields("works", [])));
        ends_and_lets_the_next_run("fails", |delegator, _| {
            delegator.submit(common::fails("fails", "no").with_key("key")).unwrap().wait().state()
        });
        ends_and_lets_the_next_run("panics", |delegator, _| {
            delegator.submit(common::panics("panics", "boom").with_key("key")).unwrap().wait().state()
        });
        ends_and_lets_the_next_run("is cancelled at once", |delegator, _| {
            let handle = delegator.submit(yields("cancelled", []).with_key("key")).unwrap();
            handle.cancel();
            handle.wait().state()
        });
        ends_and_lets_the_next_run("has no time", |delegator, _| {
            let job = yields("late", []).with_key("key").with_timeout(Duration::ZERO);
            delegator.submit(job).unwrap().wait().state()
        });
        ends_and_lets_the_next_run("is cancelled by its context", |delegator, _| {
            let (ctx, canceller) = Context::background().with_cancel();
            let handle =
                delegator.submit(yields("cancelled", []).with_key("key").with_context(&ctx)).unwrap();
            canceller.cancel();
            handle.wait().state()
        });
    });
}

/// Another job of the same kind.
fn job_like(job: &Job) -> Job {
    Job::new(job.name().to_owned(), |_| Ok(Vec::new()))
}

#[test]
fn a_job_that_ends_while_it_is_queued_lets_the_next_start() {
    watchdog(|| {
        for held in [false, true] {
            let delegator = delegator(2);
            let (first, second) = (occupy(&delegator), occupy(&delegator));
            let before = held.then(|| delegator.submit(yields("before", []).with_key("key")).expect("room"));
            let (flag, dropped) = DropFlag::new();
            let late = keeps("late", flag).with_key("key").with_timeout(common::BRIEF);
            let late = delegator.submit(late).expect("room");
            let cancelled = delegator.submit(yields("cancelled", []).with_key("key")).expect("room");
            let next = delegator.submit(yields("next", [1]).with_key("key")).expect("room");
            // The timer ends it.
            common::wait_fired(&late.done());
            assert!(cancelled.cancel());
            first.release();
            eventually("a worker has dropped what the timer left", || dropped.is_open());
            assert_eq!(next.join().unwrap(), [1]);
            assert_eq!((late.state(), cancelled.state()), (JobState::TimedOut, JobState::Cancelled));
            assert!(before.is_none_or(|before| before.wait().state() == JobState::Completed));
            second.release();
            assert_no_residue(&delegator);
        }
    });
}

#[test]
fn a_held_job_ends_at_its_deadline_for_whoever_waits() {
    watchdog(|| {
        let delegator = delegator(2);
        let (_holder, release) = hold(&delegator, "key");
        let late = delegator.submit(yields("late", []).with_key("key").with_timeout(common::BRIEF)).unwrap();
        assert_eq!(late.wait().state(), JobState::TimedOut);
        release.open();
    });
}

#[test]
fn held_jobs_past_their_deadline_take_no_place_from_others() {
    watchdog(|| {
        let delegator = sized(1, 2);
        let (_holder, release) = hold(&delegator, "key");
        let late = [0, 1].map(|_| {
            let late = yields("late", []).with_key("key").with_timeout(common::BRIEF);
            delegator.try_submit(late).expect("room")
        });
        thread::sleep(common::BRIEF);
        let next = delegator.try_submit(yields("next", []).with_key("other")).expect("nobody else wants it");
        assert!(late.iter().all(|late| late.state() == JobState::TimedOut));
        let stays = delegator.try_submit(yields("stays", []).with_key("key").with_timeout(FOREVER));
        let stays = stays.expect("room");
        assert!(delegator.try_submit(yields("more", []).with_key("key")).is_err());
        release.open();
        assert_eq!((next.wait().state(), stays.wait().state()), (JobState::Completed, JobState::Completed));
    });
}

#[test]
fn ten_thousand_keys_leave_nothing() {
    watchdog(|| {
        let delegator = sized(2, 1024);
        for n in 0..10_000_u32 {
            let _ = delegator.submit(yields("work", []).with_key(n.to_string())).expect("room in the end");
        }
        delegator.wait_idle();
        assert_no_residue(&delegator);
        assert_eq!(delegator.stats().completed, 10_000);
    });
}

#[test]
fn a_drain_runs_what_is_held_back() {
    watchdog(|| {
        let delegator = delegator(2);
        let (_holder, release) = hold(&delegator, "key");
        let trace = Trace::default();
        for n in 0..30 {
            let _ = delegator.submit(trace.job(n).with_key("key")).expect("room");
        }
        let opener = thread::spawn(move || {
            pause();
            release.open();
        });
        let report = delegator.shutdown(Shutdown::drain());
        opener.join().unwrap();
        assert_eq!((report.completed, covered(&report)), (31, 31));
        assert_eq!(trace.take(), (0..30).collect::<Vec<_>>());
        assert_eq!(delegator.stats().keys, 0);
    });
}

#[test]
fn a_drain_loses_nothing_when_what_is_ready_is_cancelled() {
    watchdog(|| {
        for _ in 0..300 {
            let delegator = delegator(1);
            let busy = occupy(&delegator);
            let ready = delegator.submit(yields("ready", []).with_key("key")).expect("room");
            let held = delegator.submit(yields("held", [1]).with_key("key")).expect("room");
            let canceller = thread::spawn(move || ready.cancel());
            busy.release();
            let report = delegator.shutdown(Shutdown::drain());
            canceller.join().unwrap();
            assert_eq!(held.state(), JobState::Completed, "{report:?}");
        }
    });
}

#[test]
fn a_cancel_hands_back_what_is_held_and_in_order() {
    watchdog(|| {
        let delegator = delegator(1);
        let started = Gate::new();
        let _running = delegator.submit(obedient("running", &started).with_key("key")).expect("room");
        started.wait();
        let handles: Vec<_> =
            (0..5).map(|_| delegator.submit(yields("held", [3]).with_key("key")).expect("room")).collect();
        let report = delegator.shutdown(Shutdown::cancel());
        assert_eq!((covered(&report), report.cancelled), (6, 1), "{report:?}");
        let ids: Vec<_> = report.unstarted.iter().map(Job::id).collect();
        assert_eq!(ids, handles.iter().map(JobHandle::id).collect::<Vec<_>>());
        assert_eq!(delegator.stats().keys, 0);
        let elsewhere = sized(1, 8);
        for job in report.unstarted {
            assert_eq!(job.key(), Some("key"));
            assert_eq!(elsewhere.submit(job).expect("room").join().unwrap(), [3]);
        }
    });
}

#[test]
fn a_job_lends_its_key_to_one_that_it_waits_for() {
    watchdog(|| {
        for workers in [1, 3] {
            let delegator = delegator(workers);
            let inside = delegator.submitter();
            let trace = Trace::default();
            let traced = trace.clone();
            let outer = Job::new("outer", move |_| {
                let stranger = inside.submit(traced.job(1).with_key("key"))?;
                let inner = inside.submit(traced.job(2).with_key("key"))?;
                inner.wait();
                assert!(!stranger.is_finished());
                inner.join()
            });
            let outer = delegator.submit(outer.with_key("key")).expect("room");
            assert_eq!(outer.join().unwrap(), [1]);
            delegator.wait_idle();
            assert_eq!(trace.take(), [2, 1], "{workers} workers");
            assert_no_residue(&delegator);
        }
    });
}

#[test]
fn a_job_runs_what_keeps_its_child_from_running() {
    watchdog(|| {
        let delegator = delegator(1);
        let inside = delegator.submitter();
        let trace = Trace::default();
        let traced = trace.clone();
        let outer = Job::new("outer", move |_| {
            let _before = [1, 2].map(|n| inside.submit(traced.job(n).with_key("key")));
            let child = inside.submit(traced.job(3).with_key("key"))?;
            let _after = inside.submit(traced.job(4).with_key("key"))?;
            child.wait();
            Ok(Vec::new())
        });
        assert_eq!(delegator.submit(outer).expect("room").wait().state(), JobState::Completed);
        delegator.wait_idle();
        assert_eq!(trace.take(), [1, 2, 3, 4]);
    });
}

#[test]
fn a_job_waits_for_a_child_whose_key_another_worker_has() {
    watchdog(|| {
        let delegator = delegator(2);
        let (_holder, release) = hold(&delegator, "key");
        let waits = Gate::new();
        let (inside, waiting) = (delegator.submitter(), waits.clone());
        let outer = Job::new("outer", move |_| {
            let _before = inside.submit(yields("before", []).with_key("key"))?;
            let child = inside.submit(yields("child", [5]).with_key("key"))?;
            waiting.open();
            child.join()
        });
        let outer = delegator.submit(outer).expect("room");
        waits.wait();
        pause();
        release.open();
        assert_eq!(outer.join().unwrap(), [5]);
    });
}

#[test]
fn a_job_that_waits_for_a_key_is_told_what_is_left_to_do_for_it() {
    watchdog(|| {
        let delegator = delegator(2);
        let (started, ready, release, done) = (Gate::new(), Gate::new(), Gate::new(), Gate::new());
        let outer = {
            let (inside, started, ready) = (delegator.submitter(), started.clone(), ready.clone());
            let done = done.clone();
            Job::new("outer", move |_| {
                started.wait();
                let _before = inside.submit(yields("before", []).with_key("key"))?;
                let child = inside.submit(yields("child", [5]).with_key("key"))?;
                ready.open();
                let payload = child.join();
                done.open();
                payload
            })
        };
        let outer = delegator.submit(outer).expect("room");
        let other = {
            let (inside, release) = (delegator.submitter(), release.clone());
            Job::new("other", move |_| {
                inside.submit(gated("holder", &started, &release).with_key("key"))?.wait();
                // So that nobody but the first worker is left to run what the holder let start.
                done.wait();
                Ok(Vec::new())
            })
        };
        let _other = delegator.submit(other).expect("room");
        ready.wait();
        pause();
        release.open();
        assert_eq!(outer.join().unwrap(), [5]);
    });
}

#[test]
fn everybody_who_waits_for_a_key_is_told() {
    watchdog(|| {
        let delegator = sized(4, 32);
        let holders: Vec<_> = (0..2)
            .map(|_| {
                let (started, release) = (Gate::new(), Gate::new());
                let job = gated("holder", &started, &release).with_key("key").with_key_limit(2);
                let handle = delegator.submit(job).expect("room");
                started.wait();
                (handle, release)
            })
            .collect();
        // Each needs the other.
        let both = Arc::new(Barrier::new(2));
        let meet = || {
            let both = Arc::clone(&both);
            Job::new("meet", move |_| {
                both.wait();
                Ok(Vec::new())
            })
        };
        for _ in 0..2 {
            let _ = delegator.submit(meet().with_key("key").with_key_limit(2)).expect("room");
        }
        let outer: Vec<_> = (0..2)
            .map(|_| {
                let (inside, waits) = (delegator.submitter(), Gate::new());
                let waiting = waits.clone();
                let job = Job::new("outer", move |_| {
                    let child = inside.submit(yields("child", [5]).with_key("key").with_key_limit(2))?;
                    waiting.open();
                    child.join()
                });
                let handle = delegator.submit(job).expect("room");
                waits.wait();
                pause();
                handle
            })
            .collect();
        // What the holders' workers do next, so that only those who wait are left to run what may start.
        let done = Gate::new();
        for _ in 0..2 {
            let job = gated("busy", &Gate::new(), &done).with_priority(Priority::High);
            let _ = delegator.submit(job).expect("room");
        }
        for (holder, release) in holders {
            release.open();
            assert_eq!(holder.wait().state(), JobState::Completed);
        }
        for outer in outer {
            assert_eq!(outer.join().unwrap(), [5]);
        }
        done.open();
    });
}

#[test]
fn a_set_inside_a_job_gets_its_members_done() {
    watchdog(|| {
        for (own, workers) in [(None, 1), (Some("key"), 1), (Some("key"), 2)] {
            let delegator = delegator(workers);
            let inside = delegator.submitter();
            let outer = Job::new("outer", move |_| {
                let mut set = inside.job_set();
                for n in 0..10 {
                    set.submit(yields("member", [n]).with_key(if n % 2 == 0 { "key" } else { "other" }))?;
                }
                Ok(set.wait_all().iter().filter_map(|record| record.payload()).flatten().copied().collect())
            });
            let outer = if let Some(key) = own { outer.with_key(key) } else { outer };
            let payload = delegator.submit(outer).expect("room").join().unwrap();
            assert_eq!(payload, (0..10).collect::<Vec<u8>>(), "{own:?} {workers}");
        }
    });
}

#[test]
fn a_shutdown_inside_a_job_runs_what_waits_for_its_key() {
    watchdog(|| {
        let delegator = Arc::new(delegator(1));
        let inside = Arc::downgrade(&delegator);
        let trace = Trace::default();
        let traced = trace.clone();
        let outer = Job::new("outer", move |_| {
            let delegator = inside.upgrade().ok_or("gone")?;
            for n in 0..3 {
                let _ = delegator.submit(traced.job(n).with_key("key"))?;
            }
            Ok(vec![u8::try_from(delegator.shutdown(Shutdown::drain()).completed).unwrap_or(u8::MAX)])
        });
        let outer = delegator.submit(outer.with_key("key")).expect("room");
        assert_eq!(outer.join().unwrap(), [3]);
        assert_eq!(trace.take(), [0, 1, 2]);
    });
}

#[test]
fn a_submission_inside_a_job_never_waits_for_a_key() {
    watchdog(|| {
        let delegator = sized(1, 1);
        let inside = delegator.submitter();
        let trace = Trace::default();
        let traced = trace.clone();
        let outer = Job::new("outer", move |_| {
            for n in 0..5 {
                let _ = inside.submit(traced.job(n).with_key("key"))?;
            }
            Ok(Vec::new())
        });
        let outer = delegator.submit(outer.with_key("key")).expect("room");
        assert_eq!(outer.wait().state(), JobState::Completed);
        delegator.wait_idle();
        assert_eq!(trace.take(), [0, 1, 2, 3, 4]);
        assert_no_residue(&delegator);
    });
}

#[test]
fn a_hand_off_waits_for_the_key_too() {
    watchdog(|| {
        let delegator = sized(2, 0);
        let (holder, release) = hold(&delegator, "key");
        let refused = delegator.try_submit(yields("taken", []).with_key("key"));
        assert!(matches!(refused, Err(SubmitError::Full(_))), "{refused:?}");
        assert!(delegator.try_submit(yields("free", []).with_key("other")).is_ok());
        let submitter = delegator.submitter();
        let blocked = thread::spawn(move || submitter.submit(yields("blocked", [1]).with_key("key")));
        pause();
        release.open();
        assert_eq!(blocked.join().unwrap().expect("free in the end").join().unwrap(), [1]);
        holder.wait();
        let inside = delegator.submitter();
        let outer = Job::new("outer", move |_| {
            let _other = inside.submit(yields("inner", []).with_key("other"))?;
            inside.submit(yields("own", [2]).with_key("key"))?.join()
        });
        assert_eq!(delegator.submit(outer.with_key("key")).unwrap().join().unwrap(), [2]);
        delegator.wait_idle();
        assert_no_residue(&delegator);
    });
}

#[test]
fn priorities_hold_between_keys_and_not_within_one() {
    let delegator = Delegator::manual();
    let trace = Trace::default();
    let submit = |n: u32, key: &str, priority: Priority| {
        drop(delegator.submit(trace.job(n).with_key(key).with_priority(priority)).unwrap());
    };
    submit(1, "a", Priority::Low);
    submit(2, "a", Priority::High);
    submit(3, "b", Priority::Normal);
    submit(4, "c", Priority::High);
    let places = delegator.stats().places;
    assert_eq!((places.low, places.normal, places.high), (1, 1, 2));
    delegator.run_until_idle();
    assert_eq!(trace.take(), [4, 3, 1, 2]);
}

#[test]
fn a_scheduled_job_has_its_key_from_when_it_is_due() {
    let delegator = Delegator::manual();
    let trace = Trace::default();
    let later = trace.job(1).with_key("key").with_delay(Duration::from_secs(10));
    let later = delegator.submit(later).unwrap();
    let cancelled = trace.job(9).with_key("key").with_delay(Duration::from_secs(10));
    let cancelled = delegator.submit(cancelled).unwrap();
    assert_eq!(delegator.stats().keys, 0);
    assert!(matches!(delegator.coalesce("key", trace.job(2)).unwrap(), Coalesced::Submitted(_)));
    cancelled.cancel();
    delegator.advance(Duration::from_secs(9));
    let nap = Job::new("nap", |ctx| ctx.sleep(Duration::from_secs(5)).map(|()| Vec::new()));
    let nap = delegator.submit(nap.with_key("key")).unwrap();
    assert_eq!(later.wait().queue_time(), Duration::from_secs(14), "after the nap");
    assert!(nap.is_finished());
    assert_eq!(trace.take(), [2, 1]);
    assert_eq!(delegator.stats().keys, 0);
}

#[test]
fn scheduled_jobs_wait_for_room_and_a_drain_runs_them() {
    let delegator = Delegator::builder().queue_capacity(1).manual().unwrap();
    let trace = Trace::default();
    for n in 0..4 {
        let _ = delegator.submit(trace.job(n).with_key("key").with_delay(Duration::from_secs(1))).unwrap();
    }
    let nap = Job::new("nap", |ctx| ctx.sleep(Duration::from_secs(5)).map(|()| Vec::new()));
    let inside = delegator.submitter();
    let outer = Job::new("outer", move |ctx| {
        ctx.sleep(Duration::from_secs(2))?;
        let _ = &inside;
        Ok(Vec::new())
    });
    let _ = delegator.submit(nap.with_key("key")).unwrap();
    let _ = delegator.submit(outer).unwrap();
    delegator.step();
    let report = delegator.shutdown(Shutdown::drain());
    assert_eq!(covered(&report), 5, "{report:?}");
    assert_eq!(trace.take().len() + report.unstarted.len(), 4);
    assert_eq!(delegator.stats().keys, 0);
}

#[test]
fn a_batch_keeps_the_order_of_its_keys() {
    watchdog(|| {
        let delegator = sized(3, 16);
        let traces = [Trace::default(), Trace::default()];
        let jobs = (0..200).map(|n| traces[n as usize % 2].job(n).with_key(["even", "odd"][n as usize % 2]));
        assert_eq!(delegator.submit_all(jobs).expect("room in the end").len(), 200);
        delegator.wait_idle();
        for (first, trace) in traces.iter().enumerate() {
            assert_eq!(trace.take(), (first as u32..200).step_by(2).collect::<Vec<_>>());
        }
    });
}

#[test]
fn a_seed_changes_the_order_of_keys_but_not_that_within_one() {
    let run = |seed| {
        let delegator = Delegator::manual().seeded(seed);
        let trace = Trace::default();
        for n in 0..60 {
            let _ = delegator.submit(trace.job(n).with_key(["a", "b", "c"][n as usize % 3])).unwrap();
        }
        delegator.run_until_idle();
        assert_eq!(delegator.stats().keys, 0);
        trace.take()
    };
    let (one, other) = (run(1), run(2));
    assert_eq!(one, run(1));
    assert_ne!(one, other);
    for order in [one, other] {
        for key in 0..3 {
            let of_key: Vec<u32> = order.iter().copied().filter(|n| n % 3 == key).collect();
            assert_eq!(of_key, (key..60).step_by(3).collect::<Vec<_>>());
        }
    }
}

/// Why it was cancelled, if in favour of another.
fn displaced(handle: &JobHandle) -> Option<Displaced> {
    let record = handle.wait();
    record.error().and_then(Error::get_ref).and_then(|cause| cause.downcast_ref()).copied()
}

#[test]
fn the_oldest_of_those_with_a_key_gives_way() {
    watchdog(|| {
        let delegator = sized(1, 2);
        let (_holder, release) = hold(&delegator, "a");
        let held = delegator.try_submit(yields("held", []).with_key("a")).expect("room");
        let ready = delegator.try_submit(yields("ready", []).with_key("b")).expect("room");
        let drop_oldest = |key: &str| {
            delegator.submit_with(yields("new", []).with_key(key), Overflow::DropOldest).expect("always")
        };
        let one = drop_oldest("a");
        assert_eq!(displaced(&ready), Some(Displaced::Dropped { by: one.id() }));
        let two = drop_oldest("a");
        assert_eq!(displaced(&held), Some(Displaced::Dropped { by: two.id() }));
        let three = drop_oldest("a");
        assert_eq!(displaced(&one), Some(Displaced::Dropped { by: three.id() }));
        assert_eq!(delegator.stats().dropped, 3);
        release.open();
        assert_eq!((two.wait().state(), three.wait().state()), (JobState::Completed, JobState::Completed));
        assert_no_residue(&delegator);
    });
}

#[test]
fn what_is_held_gives_way_to_one_without_a_key_of_its_priority() {
    watchdog(|| {
        let delegator = sized(1, 1);
        let (_holder, release) = hold(&delegator, "a");
        let low = || yields("low", []).with_priority(Priority::Low);
        let held = delegator.try_submit(low().with_key("a")).expect("room");
        let new = delegator.submit_with(low(), Overflow::DropOldest).expect("always");
        assert_eq!(displaced(&held), Some(Displaced::Dropped { by: new.id() }));
        release.open();
        assert_eq!(new.wait().state(), JobState::Completed);
    });
}

#[test]
fn a_caller_runs_a_job_only_with_its_key() {
    watchdog(|| {
        let delegator = sized(1, 1);
        let busy = occupy(&delegator);
        let _ready = delegator.try_submit(yields("ready", []).with_key("taken")).expect("room");
        let here = delegator.submit_with(yields("here", []).with_key("free"), Overflow::CallerRuns).unwrap();
        assert_eq!((here.state(), here.wait().worker()), (JobState::Completed, None));
        let submitter = delegator.submitter();
        let blocked = thread::spawn(move || {
            submitter.submit_with(yields("there", []).with_key("taken"), Overflow::CallerRuns)
        });
        pause();
        assert!(!blocked.is_finished());
        busy.release();
        assert_eq!(blocked.join().unwrap().expect("room in the end").wait().worker(), Some(0));
        assert_no_residue(&delegator);
    });
}

#[test]
fn a_drain_runs_what_waits_for_the_key_of_a_caller() {
    watchdog(|| {
        let delegator = sized(1, 1);
        let busy = occupy(&delegator);
        let _ready = delegator.try_submit(yields("ready", []).with_key("other")).expect("room");
        let (started, release) = (Gate::new(), Gate::new());
        let (submitter, job) = (delegator.submitter(), gated("here", &started, &release).with_key("key"));
        let caller = thread::spawn(move || submitter.submit_with(job, Overflow::CallerRuns));
        started.wait();
        busy.release();
        eventually("there is room", || delegator.stats().places.normal == 0);
        let held = delegator.try_submit(yields("held", [1]).with_key("key")).expect("room");
        let opener = thread::spawn(move || {
            pause();
            release.open();
        });
        let report = delegator.shutdown(Shutdown::drain());
        opener.join().unwrap();
        assert_eq!(held.state(), JobState::Completed, "{report:?}");
        assert_eq!(caller.join().unwrap().expect("accepted").state(), JobState::Completed);
    });
}

#[test]
fn coalesced_jobs_are_one() {
    watchdog(|| {
        let delegator = delegator(2);
        let (holder, release) = hold(&delegator, "key");
        let events = delegator.subscribe(10);
        let (flag, dropped) = DropFlag::new();
        let joined = delegator.coalesce("key", keeps("not needed", flag)).expect("open");
        assert!(matches!(&joined, Coalesced::Joined(handle) if handle.id() == holder.id()));
        assert!(dropped.is_open());
        let queued = delegator.submit(yields("queued", [4]).with_key("key")).expect("room");
        let joined = delegator.coalesce("key", yields("not needed", [])).expect("open");
        assert_eq!(joined.handle().id(), queued.id(), "the newest");
        let stats = delegator.stats();
        assert_eq!((stats.submitted, stats.rejected), (2, 0));
        let told: Vec<Event> = events.try_iter().collect();
        assert!(
            matches!(&told[..], [Event::Submitted { id, .. }, Event::Joined { id: same, to, .. }, ..]
                if id == same && *to == holder.id()),
            "{told:?}"
        );
        release.open();
        assert_eq!(joined.into_handle().join().unwrap(), [4]);
        let again = delegator.coalesce("key", yields("again", [5])).expect("open");
        assert!(matches!(again, Coalesced::Submitted(_)), "the others have ended");
        assert_eq!(again.into_handle().join().unwrap(), [5]);
        delegator.wait_idle();
        assert_balanced(&delegator.stats());
        assert_no_residue(&delegator);
    });
}

#[test]
fn of_many_that_come_at_once_one_is_run() {
    watchdog(|| {
        let delegator = sized(1, 1);
        for _ in 0..50 {
            let busy = occupy(&delegator);
            let (runs, start) = (Counter::new(), Barrier::new(4));
            let results: Vec<Coalesced> = thread::scope(|scope| {
                let threads: Vec<_> = (0..4)
                    .map(|_| {
                        scope.spawn(|| {
                            let runs = runs.clone();
                            let job = Job::new("once", move |_| Ok(vec![u8::try_from(runs.add()).unwrap()]));
                            start.wait();
                            delegator.coalesce("key", job).expect("open")
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            busy.release();
            let submitted = results.iter().filter(|result| matches!(result, Coalesced::Submitted(_))).count();
            assert!(results.iter().all(|result| result.handle().wait().payload() == Some(&[1])));
            assert_eq!((submitted, runs.get()), (1, 1));
        }
    });
}

#[test]
fn nobody_joins_one_that_has_ended() {
    watchdog(|| {
        let delegator = delegator(1);
        let busy = occupy(&delegator);
        let late = yields("late", []).with_timeout(common::BRIEF);
        let late = delegator.coalesce("key", late).expect("open");
        thread::sleep(common::BRIEF);
        let next = delegator.coalesce("key", yields("next", [])).expect("open");
        assert!(matches!(next, Coalesced::Submitted(_)));
        assert_eq!(late.handle().state(), JobState::TimedOut);
        next.handle().cancel();
        let last = delegator.coalesce("key", yields("last", [])).expect("open");
        assert!(matches!(last, Coalesced::Submitted(_)));
        busy.release();
        assert_eq!(last.handle().wait().state(), JobState::Completed);
        delegator.shutdown(Shutdown::drain());
        assert!(matches!(delegator.coalesce("key", yields("work", [])), Err(SubmitError::ShutDown(_))));
    });
}

#[test]
fn nobody_joins_one_of_many_whose_time_is_over() {
    for delay in [0, 1] {
        let delegator = Delegator::manual();
        let _late = [(); 5].map(|()| {
            let job = yields("late", []).with_key("key").with_timeout(Duration::from_secs(1));
            delegator.submit(job).unwrap()
        });
        let pass = Job::new("pass", |ctx| ctx.sleep(Duration::from_secs(2)).map(|()| Vec::new()));
        let _ = delegator.submit(pass.with_priority(Priority::High)).unwrap();
        assert!(delegator.step());
        let next = yields("next", []).with_delay(Duration::from_secs(delay));
        let next = delegator.coalesce("key", next).unwrap();
        assert!(matches!(next, Coalesced::Submitted(_)));
        assert_eq!(delegator.stats().timed_out, 5);
        assert_eq!(next.handle().wait().state(), JobState::Completed);
    }
}

#[test]
fn whoever_waits_for_room_may_still_join() {
    watchdog(|| {
        let delegator = sized(1, 1);
        let busy = occupy(&delegator);
        let _full = delegator.try_submit(yields("full", []).with_key("other")).expect("room");
        let spawn = |n: u8| {
            let submitter = delegator.submitter();
            thread::spawn(move || submitter.coalesce("key", yields("work", [n])))
        };
        let both = [spawn(1), spawn(2)];
        pause();
        busy.release();
        let both = both.map(|thread| thread.join().unwrap().expect("open"));
        let payloads = both.map(|result| result.into_handle().join().unwrap());
        assert!(payloads.iter().all(|payload| [[1], [2]].contains(&[payload[0]])));
        delegator.wait_idle();
        assert_balanced(&delegator.stats());
    });
}

#[test]
fn whoever_waits_for_room_joins_nobody_whose_time_is_over() {
    let delegator = Delegator::builder().queue_capacity(1).manual().unwrap();
    let second = Duration::from_secs(1);
    let long = Job::new("long", move |ctx| ctx.sleep(3 * second).map(|()| Vec::new()));
    let _full = delegator.submit(long.with_key("other")).unwrap();
    let late = yields("late", []).with_key("key").with_delay(second).with_timeout(2 * second);
    let late = delegator.submit(late).unwrap();
    // It is due, and over, before there is room.
    let new = delegator.coalesce("key", yields("new", [1])).unwrap();
    assert!(matches!(new, Coalesced::Submitted(_)));
    assert_eq!(late.state(), JobState::TimedOut);
    assert_eq!(new.into_handle().join().unwrap(), [1]);
}

#[test]
fn the_later_job_supersedes_the_older_ones() {
    watchdog(|| {
        let delegator = delegator(1);
        let started = Gate::new();
        let running = delegator.supersede("key", obedient("running", &started)).expect("open");
        started.wait();
        let queued = delegator.submit(yields("queued", []).with_key("key")).expect("room");
        let other = delegator.submit(yields("other", []).with_key("other")).expect("room");
        let new = delegator.supersede("key", yields("new", [1])).expect("open");
        for older in [&running, &queued] {
            assert_eq!(displaced(older), Some(Displaced::Superseded { by: new.id() }));
            assert_eq!(older.state(), JobState::Cancelled);
        }
        assert_eq!((new.join().unwrap(), other.wait().state()), (vec![1], JobState::Completed));
        assert_no_residue(&delegator);
        delegator.wait_idle();
        assert_balanced(&delegator.stats());
    });
}

#[test]
fn what_is_held_is_superseded_before_what_runs() {
    watchdog(|| {
        let delegator = delegator(1);
        let (queued, seen) = (Arc::new(Mutex::new(None::<JobHandle>)), Arc::new(Mutex::new(None)));
        let (started, other) = (Gate::new(), Arc::clone(&queued));
        let (opened, sees) = (started.clone(), Arc::clone(&seen));
        let running = Job::new("running", move |ctx| {
            let (other, sees) = (Arc::clone(&other), Arc::clone(&sees));
            // Called by whoever cancels.
            let _told = ctx.on_done(move || {
                *sees.lock().unwrap() = other.lock().unwrap().as_ref().map(JobHandle::state);
            });
            opened.open();
            ctx.sleep(FOREVER).map(|()| Vec::new())
        });
        let running = delegator.submit(running.with_key("key")).expect("room");
        started.wait();
        *queued.lock().unwrap() = Some(delegator.submit(yields("queued", []).with_key("key")).expect("room"));
        let new = delegator.supersede("key", yields("new", [])).expect("open");
        assert_eq!(*seen.lock().unwrap(), Some(JobState::Cancelled));
        assert_eq!((running.wait().state(), new.wait().state()), (JobState::Cancelled, JobState::Completed));
    });
}

#[test]
fn a_refused_job_supersedes_nothing() {
    watchdog(|| {
        let delegator = delegator(1);
        let (holder, release) = hold(&delegator, "key");
        let submitter = delegator.submitter();
        let shutter = thread::spawn(move || delegator.shutdown(Shutdown::drain()));
        let refused = loop {
            // Until the shutdown has begun, it would be accepted.
            match submitter.try_submit(yields("probe", [])) {
                Err(SubmitError::ShutDown(_)) => break submitter.supersede("key", yields("late", [])),
                _ => thread::yield_now(),
            }
        };
        assert!(matches!(refused, Err(SubmitError::ShutDown(_))), "{refused:?}");
        release.open();
        assert_eq!(holder.wait().state(), JobState::Completed);
        shutter.join().unwrap();
    });
}

#[test]
fn superseding_needs_no_more_than_one_place() {
    watchdog(|| {
        let delegator = sized(1, 1);
        let (_holder, release) = hold(&delegator, "key");
        let mut last = delegator.supersede("key", yields("first", [0])).expect("open");
        for n in 0..5000_u32 {
            // Were there no room, this would wait for ever.
            let next = delegator.supersede("key", yields("next", n.to_le_bytes())).expect("open");
            assert_eq!(last.state(), JobState::Cancelled);
            last = next;
        }
        assert_eq!(delegator.stats().places.normal, 1);
        release.open();
        assert_eq!(last.join().unwrap(), 4999_u32.to_le_bytes());
    });
}

#[test]
fn superseding_takes_no_place_of_another_priority() {
    let delegator = Delegator::builder().queue_capacity(1).manual().unwrap();
    let trace = Trace::default();
    let first = delegator.submit(trace.job(0).with_key("key")).unwrap();
    let held = delegator.submit(trace.job(1).with_key("key").with_priority(Priority::Low)).unwrap();
    // The place of its own priority is the first's, which has to run.
    let new = delegator.supersede("key", trace.job(2)).unwrap();
    assert_eq!((first.state(), held.state()), (JobState::Completed, JobState::Cancelled));
    assert_eq!(delegator.stats().places.normal, 1);
    assert_eq!(new.join().unwrap(), [1]);
    assert_eq!(trace.take(), [0, 2]);
}

#[test]
fn everything_at_once_keeps_order_limit_and_accounts() {
    watchdog(|| {
        const KEYS: [&str; 4] = ["a", "b", "c", "d"];
        let delegator = Delegator::builder().workers(3).queue_capacity(6).build().unwrap();
        let meters: Vec<Meter> = KEYS.map(|_| Meter::default()).into();
        let ended = Counter::new();
        thread::scope(|scope| {
            for seed in 0..3_usize {
                let (delegator, meters, ended) = (&delegator, &meters, &ended);
                scope.spawn(move || {
                    let mut random = 7919 * (seed + 1);
                    for n in 0..600 {
                        random =
                            random.wrapping_mul(6_364_136_223_846_793_005_u64 as usize).wrapping_add(n | 1);
                        let choice = random >> 7;
                        let which = choice % KEYS.len();
                        let meter = meters[which].clone();
                        let inside = delegator.submitter();
                        let nests = choice / 8 % 5 == 0;
                        let job = Job::new("work", move |_| {
                            meter.within(thread::yield_now);
                            if nests {
                                let child = yields("child", []).with_key(KEYS[which]);
                                let child = inside.submit(child)?;
                                child.wait();
                            }
                            if n % 11 == 0 { panic!("now and then") } else { Ok(Vec::new()) }
                        });
                        let job = job.with_key(KEYS[which]);
                        let job = if n % 13 == 0 { job.with_priority(Priority::High) } else { job };
                        let result = match choice / 64 % 6 {
                            0 => delegator.submit_with(job, Overflow::DropOldest),
                            1 => delegator.submit_with(job, Overflow::CallerRuns),
                            2 => delegator.supersede(KEYS[which], job),
                            3 => delegator.coalesce(KEYS[which], job).map(Coalesced::into_handle),
                            4 => delegator.submit(job.with_timeout(Duration::from_micros(300))),
                            _ => delegator.submit(job),
                        };
                        let handle = result.expect("never refused");
                        if choice % 7 == 0 {
                            handle.cancel();
                        }
                        handle.wait_timeout(Duration::from_micros(50));
                        ended.add();
                    }
                });
            }
        });
        assert!(delegator.wait_idle_timeout(FOREVER));
        assert!(
            meters.iter().all(|meter| meter.most() <= 1),
            "{:?}",
            meters.iter().map(Meter::most).collect::<Vec<_>>()
        );
        assert_balanced(&delegator.stats());
        assert_no_residue(&delegator);
        let stats = delegator.stats();
        assert_eq!((stats.places.high, stats.places.normal, ended.get()), (0, 0, 1800));
        assert_eq!(delegator.shutdown(Shutdown::drain()).total(), 0);
    });
}

#[test]
fn a_job_that_waits_for_its_next_attempt_leaves_the_key_to_others_and_takes_it_again() {
    let delegator = Delegator::manual();
    let order = Arc::new(Mutex::new(Vec::new()));
    let flaky = {
        let order = Arc::clone(&order);
        Job::new("flaky", move |_| {
            let mut order = order.lock().unwrap();
            order.push("flaky");
            if order.iter().filter(|name| **name == "flaky").count() < 3 {
                Err("no".into())
            } else {
                Ok(Vec::new())
            }
        })
    };
    let other = |name: &'static str, time: u64| {
        let order = Arc::clone(&order);
        Job::new(name, move |ctx| {
            order.lock().unwrap().push(name);
            ctx.sleep(Duration::from_secs(time)).map(|()| Vec::new())
        })
    };
    let retry = workpath::Retry::fixed(Duration::from_secs(5)).max_attempts(3);
    let flaky = delegator.submit(flaky.with_key("k").with_retry(retry)).unwrap();
    let short = delegator.submit(other("short", 1).with_key("k")).unwrap();
    assert!(delegator.step());
    assert_eq!((flaky.state(), delegator.stats().keys), (JobState::Scheduled, 1));
    assert!(delegator.step(), "the key is free meanwhile");
    assert_eq!((short.state(), delegator.stats().keys), (JobState::Completed, 0));
    // It is due while another has the key, and has to wait for that.
    delegator.advance(Duration::from_secs(3));
    let long = delegator.submit(other("long", 10).with_key("k")).unwrap();
    let last = delegator.submit(other("last", 0).with_key("k")).unwrap();
    delegator.run_until_idle();
    delegator.advance(Duration::from_secs(60));
    assert_eq!(*order.lock().unwrap(), ["flaky", "short", "long", "last", "flaky", "flaky"]);
    assert_eq!((flaky.wait().attempts(), flaky.state()), (3, JobState::Completed));
    assert!([long, last].iter().all(|handle| handle.state() == JobState::Completed));
    assert_eq!(delegator.stats().keys, 0);
}

/// A job with a key that fails, run by one that waits for another with that key, while its place in the queue stays.
fn run_out_of_turn(
    delegator: &Manual,
    trace: &Trace,
    after: impl Fn(&Context) + Send + Sync + 'static,
) -> JobHandle {
    let retry = Retry::fixed(Duration::from_secs(5));
    let again = trace.clone();
    let flaky = Job::new("flaky", move |_| {
        again.0.lock().unwrap().push(1);
        Err("no".into())
    });
    let flaky = delegator.submit(flaky.with_key("key").with_retry(retry)).unwrap();
    let (inside, traced) = (delegator.submitter(), trace.clone());
    let outer = Job::new("outer", move |ctx| {
        inside.submit(traced.job(2).with_key("key"))?.wait();
        after(ctx);
        Ok(Vec::new())
    });
    let _ = delegator.submit(outer.with_priority(Priority::High)).unwrap();
    assert!(delegator.step());
    assert_eq!((&trace.take()[..2], flaky.attempts()), (&[1, 2][..], 1));
    flaky
}

#[test]
fn a_job_that_was_run_out_of_turn_and_failed_waits_for_its_time() {
    let (delegator, trace) = (Delegator::manual(), Trace::default());
    let flaky = run_out_of_turn(&delegator, &trace, |_| ());
    assert_eq!(delegator.run_until_idle(), 0, "its old place in the queue starts nothing");
    assert_eq!((flaky.state(), flaky.attempts()), (JobState::Scheduled, 1));
    assert_eq!(delegator.advance(Duration::from_secs(5)), 1);
    assert_eq!(flaky.attempts(), 2);
}

#[test]
fn a_job_that_was_run_out_of_turn_and_failed_waits_for_its_key() {
    let (delegator, trace) = (Delegator::manual(), Trace::default());
    let (inside, traced) = (delegator.submitter(), trace.clone());
    let flaky = run_out_of_turn(&delegator, &trace, move |ctx| {
        let _ = inside.submit(traced.job(3).with_key("key")).unwrap();
        // It is due, and held back.
        ctx.sleep(Duration::from_secs(6)).unwrap();
    });
    assert_eq!(flaky.state(), JobState::Queued);
    assert_eq!(delegator.run_until_idle(), 2);
    assert_eq!(trace.take(), [3, 1]);
}

#[test]
fn a_job_that_was_run_out_of_turn_and_failed_has_no_place_to_give() {
    let delegator = Delegator::builder().queue_capacity(1).manual().unwrap();
    let flaky = run_out_of_turn(&delegator, &Trace::default(), |_| ());
    let new = yields("new", []).with_key("other");
    let new = delegator.submit_with(new, Overflow::DropOldest).unwrap();
    assert_eq!((flaky.state(), delegator.stats().dropped), (JobState::Scheduled, 0));
    assert_eq!(new.wait().state(), JobState::Completed);
}

#[test]
fn a_job_that_waits_for_a_key_runs_nothing_for_one_whose_time_is_over() {
    let (delegator, trace) = (Delegator::manual(), Trace::default());
    let second = Duration::from_secs(1);
    let slow = Job::new("slow", move |ctx| ctx.sleep(2 * second).map(|()| Vec::new()));
    let _ = delegator.submit(slow.with_key("key")).unwrap();
    let before = delegator.submit(trace.job(1).with_key("key")).unwrap();
    let (inside, traced) = (delegator.submitter(), trace.clone());
    let outer = Job::new("outer", move |_| {
        let late = inside.submit(traced.job(2).with_key("key").with_timeout(second))?.wait();
        assert_eq!(late.state(), JobState::TimedOut);
        Ok(Vec::new())
    });
    let outer = delegator.submit(outer.with_priority(Priority::High)).unwrap();
    assert!(delegator.step());
    assert_eq!((outer.state(), before.state()), (JobState::Completed, JobState::Queued));
    assert_eq!(delegator.run_until_idle(), 1);
    assert_eq!(trace.take(), [1]);
}

#[test]
fn held_jobs_past_their_deadlines_end_in_the_order_in_which_they_came() {
    let delegator = Delegator::builder().queue_capacity(40).manual().unwrap();
    let mut late = Vec::new();
    for n in 0..20 {
        let key = n.to_string();
        let _ = delegator.submit(yields("holder", []).with_key(&*key)).unwrap();
        let job = yields("late", []).with_key(&*key).with_timeout(Duration::from_secs(1));
        late.push(delegator.submit(job).unwrap().id());
    }
    let pass = Job::new("pass", |ctx| ctx.sleep(Duration::from_secs(2)).map(|()| Vec::new()));
    let _ = delegator.submit(pass.with_priority(Priority::High)).unwrap();
    assert!(delegator.step());
    assert!(delegator.try_submit(yields("more", []).with_key("more")).is_ok());
    let records = delegator.registry().records();
    assert_eq!(records[1..].iter().map(|record| record.id()).collect::<Vec<_>>(), late);
}

// Without a queue.

fn hand_off() -> Manual {
    Delegator::builder().queue_capacity(0).manual().unwrap()
}

/// Lets time pass outside of jobs: what is due meanwhile is queued, and nothing runs.
fn pass(time: Duration) {
    Context::background().sleep(time).unwrap();
}

#[test]
fn without_a_queue_what_is_due_starts_in_its_order_whatever_its_key_and_priority() {
    let (delegator, trace) = (hand_off(), Trace::default());
    let second = Duration::from_secs(1);
    let due = |n| trace.job(n).with_delay(second);
    let jobs = [
        due(1).with_priority(Priority::Low).with_key("one"),
        due(2),
        due(3).with_priority(Priority::High).with_key("other"),
        due(4).with_priority(Priority::Low),
        due(5).with_priority(Priority::High).with_key("one"),
        due(6),
    ];
    jobs.into_iter().for_each(|job| assert!(delegator.submit(job).is_ok()));
    delegator.advance(second);
    // The fifth lines up again when it has the key.
    assert_eq!(trace.take(), [1, 2, 3, 4, 6, 5]);
}

#[test]
fn without_a_queue_what_is_due_has_the_worker() {
    for key in [None, Some("key")] {
        let (delegator, second) = (hand_off(), Duration::from_secs(1));
        let due = yields("due", []).with_delay(second);
        let due = delegator.submit(if let Some(key) = key { due.with_key(key) } else { due }).unwrap();
        pass(second);
        assert_eq!(due.state(), JobState::Queued);
        let refused = delegator.try_submit(yields("new", []));
        assert!(matches!(refused, Err(SubmitError::Full(_))), "{key:?}: {refused:?}");
        assert!(delegator.step());
        assert!(delegator.try_submit(yields("new", [])).is_ok());
    }
}

#[test]
fn without_a_queue_not_even_what_is_held_back_gives_way() {
    let (delegator, second) = (hand_off(), Duration::from_secs(1));
    for name in ["holder", "held"] {
        let _ = delegator.submit(yields(name, []).with_delay(second).with_key("key")).unwrap();
    }
    pass(second);
    let refused = delegator.submit_with(yields("new", []).with_key("new"), Overflow::DropOldest);
    assert!(matches!(refused, Err(SubmitError::Full(_))), "{refused:?}");
    assert_eq!((delegator.run_until_idle(), delegator.stats().dropped), (2, 0));
}

#[test]
fn a_job_supersedes_the_one_that_it_is_inside_of_with_a_queue_or_without() {
    for capacity in [0, 1, 100] {
        let delegator = Delegator::builder().queue_capacity(capacity).manual().unwrap();
        let inside = delegator.submitter();
        let outer = Job::new("outer", move |ctx| {
            let calls = AtomicUsize::new(0);
            let flaky = Job::new("inner", move |_| match calls.fetch_add(1, Ordering::Relaxed) {
                0 => Err("once".into()),
                _ => Ok(Vec::new()),
            });
            let _ = inside.supersede("key", flaky.with_retry(Retry::fixed(Duration::from_secs(1))))?;
            ctx.check().map(|()| Vec::new())
        });
        let outer = delegator.submit(outer.with_key("key")).unwrap();
        delegator.advance(Duration::from_secs(1));
        assert_eq!(outer.state(), JobState::Cancelled, "capacity {capacity}");
        assert_eq!(delegator.stats().completed, 1, "it does not supersede itself");
    }
}

#[test]
fn without_a_queue_a_key_that_a_caller_had_is_told_to_those_who_wait_for_it() {
    watchdog(|| {
        let delegator = Arc::new(sized(1, 0));
        let busy = occupy(&delegator);
        let (started, release) = (Gate::new(), Gate::new());
        let first = gated("first", &started, &release);
        let caller = {
            let delegator = Arc::clone(&delegator);
            thread::spawn(move || delegator.submit_with(first.with_key("key"), Overflow::CallerRuns))
        };
        started.wait();
        busy.release();
        eventually("the worker is free", || delegator.stats().running == 1);
        let next = {
            let delegator = Arc::clone(&delegator);
            thread::spawn(move || delegator.submit(yields("next", [2]).with_key("key")))
        };
        pause();
        assert!(!next.is_finished());
        release.open();
        assert_eq!(caller.join().unwrap().expect("done").state(), JobState::Completed);
        assert_eq!(next.join().unwrap().expect("accepted").join().unwrap(), [2]);
    });
}

#[test]
fn without_a_queue_a_job_makes_way_for_one_that_it_submits() {
    watchdog(|| {
        let delegator = Arc::new(sized(1, 0));
        let (started, release) = (Gate::new(), Gate::new());
        let (inside, is_in, may_go) = (delegator.submitter(), started.clone(), release.clone());
        let outer = Job::new("outer", move |_| {
            is_in.open();
            may_go.wait();
            // The worker that the other waits for is this one.
            inside.submit(yields("inner", [1]).with_key("key"))?.join()
        });
        let outer = delegator.submit(outer).unwrap();
        started.wait();
        let due = yields("due", [2]).with_key("key").with_delay(Duration::from_millis(1));
        let due = delegator.submit(due).unwrap();
        eventually("it is due", || due.state() == JobState::Queued && delegator.stats().keys == 1);
        release.open();
        assert_eq!((outer.join().unwrap(), due.join().unwrap()), (vec![1], vec![2]));
    });
}

#[test]
fn what_is_held_back_for_too_long_makes_room_for_who_would_be_refused() {
    watchdog(|| {
        let delegator = sized(1, 1);
        let (started, release) = (Gate::new(), Gate::new());
        let _ = delegator.submit(gated("runs", &started, &release).with_key("key")).unwrap();
        started.wait();
        let held =
            delegator.submit(yields("held", []).with_key("key").with_timeout(Duration::from_millis(20)));
        let held = held.unwrap();
        thread::sleep(Duration::from_millis(30));
        let next = delegator.try_submit(yields("next", []).with_key("key")).unwrap();
        assert_eq!(held.state(), JobState::TimedOut);
        release.open();
        assert_eq!(next.wait().state(), JobState::Completed);
    });
}
