//! What becomes of a job that finds the queue full, form by form; and of one that would start too late.

mod common;
#[path = "common/pool.rs"]
mod pool;

use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use common::{Counter, DropFlag, FOREVER, Gate, delegator, eventually, gated, occupy, watchdog, yields};
use pool::{assert_balanced, covered, fill, keeps, obedient, pause, sized};
use workpath::{
    Context, Delegator, Displaced, Error, Event, Job, JobHandle, JobState, Overflow, Priority, Retention,
    Shutdown, ShutdownReport, SubmitError,
};

/// Why it was cancelled, if in favour of another.
fn displaced(handle: &JobHandle) -> Option<Displaced> {
    let record = handle.try_wait().expect("it has ended");
    record.error().and_then(Error::get_ref).and_then(|cause| cause.downcast_ref()).copied()
}

fn nap(seconds: u64) -> Job {
    Job::new("nap", move |ctx| ctx.sleep(Duration::from_secs(seconds)).map(|()| Vec::new()))
}

#[test]
fn every_policy_takes_a_job_for_which_there_is_room() {
    watchdog(|| {
        let delegator = delegator(1);
        for overflow in [
            Overflow::Block,
            Overflow::Fail,
            Overflow::Timeout(Duration::ZERO),
            Overflow::CallerRuns,
            Overflow::DropOldest,
        ] {
            let handle = delegator.submit_with(yields("work", [7]), overflow).expect("room");
            assert_eq!(handle.wait().worker(), Some(0), "{overflow:?}");
        }
        assert_eq!(delegator.stats().dropped, 0);
    });
}

#[test]
fn every_policy_refuses_when_it_is_shut_down() {
    watchdog(|| {
        let delegator = delegator(1);
        delegator.shutdown(Shutdown::drain());
        for overflow in [Overflow::Block, Overflow::Fail, Overflow::CallerRuns, Overflow::DropOldest] {
            let refused = delegator.submitter().submit_with(yields("late", []), overflow);
            assert!(matches!(refused, Err(SubmitError::ShutDown(_))), "{overflow:?}: {refused:?}");
        }
    });
}

#[test]
fn the_policies_with_forms_of_their_own_are_those_forms() {
    watchdog(|| {
        let delegator = sized(1, 1);
        let busy = occupy(&delegator);
        let _queued = fill(&delegator, 1);
        let failed = delegator.submit_with(yields("work", []), Overflow::Fail);
        assert!(matches!(failed, Err(SubmitError::Full(_))));
        let timed_out = delegator.submit_with(yields("work", []), Overflow::Timeout(common::BRIEF));
        assert!(matches!(timed_out, Err(SubmitError::Timeout(_))));
        let submitter = delegator.submitter();
        let blocked = thread::spawn(move || submitter.submit_with(yields("work", [1]), Overflow::Block));
        pause();
        assert!(!blocked.is_finished());
        busy.release();
        assert_eq!(blocked.join().unwrap().expect("room in the end").join().unwrap(), [1]);
    });
}

#[test]
fn a_caller_runs_what_finds_no_room() {
    watchdog(|| {
        let delegator = sized(1, 1);
        let busy = occupy(&delegator);
        let _queued = fill(&delegator, 1);
        let events = delegator.subscribe(10);
        let ctx = Context::background().with_value("n", 7_u8);
        let where_it_ran = Arc::new(Mutex::new(None));
        let job = {
            let where_it_ran = Arc::clone(&where_it_ran);
            Job::new("here", move |ctx| {
                *where_it_ran.lock().unwrap() = Some(thread::current().id());
                Ok(vec![*ctx.value::<u8>("n").ok_or("no value")?])
            })
        };
        let handle = delegator.submit_with(job.with_context(&ctx), Overflow::CallerRuns).expect("done");
        let record = handle.try_wait().expect("it has ended when the call returns");
        assert_eq!((record.payload(), record.worker()), (Some(&[7][..]), None));
        assert!(record.started_at().is_some());
        assert_eq!(*where_it_ran.lock().unwrap(), Some(thread::current().id()));
        assert!(record.to_string().contains("\"here\" completed in its caller: ran "), "{record}");
        assert!(delegator.registry().get(handle.id()).is_some());
        let told: Vec<Event> = events.try_iter().collect();
        assert!(
            matches!(
                told[..],
                [Event::Submitted { .. }, Event::Started { worker: 1, .. }, Event::Finished(_)]
            ),
            "{told:?}"
        );
        busy.release();
        delegator.wait_idle();
        assert_balanced(&delegator.stats());
        assert_eq!(delegator.stats().completed, 3);
    });
}

#[test]
fn what_a_caller_runs_may_panic_fail_and_be_late() {
    watchdog(|| {
        let delegator = sized(1, 1);
        let _busy = occupy(&delegator);
        let _queued = fill(&delegator, 1);
        let state = |job: Job| delegator.submit_with(job, Overflow::CallerRuns).expect("done").state();
        assert_eq!(state(common::panics("broken", "boom")), JobState::Panicked);
        assert_eq!(state(common::fails("broken", "no")), JobState::Failed);
        assert_eq!(state(nap(1000).with_timeout(common::BRIEF)), JobState::TimedOut);
        assert_eq!(state(nap(1000).with_timeout(Duration::ZERO)), JobState::TimedOut);
        let stats = delegator.stats();
        assert_eq!((stats.panicked, stats.failed, stats.timed_out, stats.running), (1, 1, 2, 1));
        assert_balanced(&stats);
    });
}

/// A job that another thread is in as its caller, since the only worker is busy and the queue is full.
fn caller_in(delegator: &Delegator, job: Job) -> thread::JoinHandle<Result<JobHandle, SubmitError>> {
    let submitter = delegator.submitter();
    thread::Builder::new()
        .name("caller".to_owned())
        .spawn(move || submitter.submit_with(job, Overflow::CallerRuns))
        .expect("a thread")
}

/// A shutdown on a thread of its own, which has begun.
fn shut_down_beside(
    delegator: Delegator,
    how: Shutdown,
) -> (thread::JoinHandle<()>, mpsc::Receiver<ShutdownReport>) {
    let submitter = delegator.submitter();
    let (report, came) = mpsc::channel();
    let shutter = thread::spawn(move || report.send(delegator.shutdown(how)).unwrap());
    eventually("the shutdown has begun", || {
        matches!(submitter.try_submit(yields("late", [])), Err(SubmitError::ShutDown(_)))
    });
    (shutter, came)
}

#[test]
fn a_shutdown_waits_for_callers_and_counts_their_jobs() {
    watchdog(|| {
        for how in [Shutdown::drain(), Shutdown::drain().within(FOREVER), Shutdown::cancel()] {
            let delegator = sized(1, 1);
            let busy = occupy(&delegator);
            let _queued = fill(&delegator, 1);
            let (started, release) = (Gate::new(), Gate::new());
            let caller = caller_in(&delegator, gated("here", &started, &release));
            started.wait();
            assert_eq!(delegator.stats().running, 2);
            let (shutter, came) = shut_down_beside(delegator, how);
            busy.release();
            pause();
            assert!(came.try_recv().is_err(), "it did not wait");
            release.open();
            let report = came.recv().expect("a report");
            assert_eq!(covered(&report), 3, "{report:?}");
            assert!(report.stuck.is_empty());
            assert_eq!(caller.join().unwrap().expect("accepted").wait().state(), JobState::Completed);
            shutter.join().unwrap();
        }
    });
}

#[test]
fn every_shutdown_waits_for_callers_and_all_hear_of_their_end() {
    watchdog(|| {
        let delegator = Arc::new(sized(1, 1));
        let busy = occupy(&delegator);
        let _queued = fill(&delegator, 1);
        let (started, release) = (Gate::new(), Gate::new());
        let caller = caller_in(&delegator, gated("here", &started, &release));
        started.wait();
        let limits = [None, Some(FOREVER), None];
        let shutters = limits.map(|limit| {
            let delegator = Arc::clone(&delegator);
            let how = limit.map_or(Shutdown::drain(), |limit| Shutdown::drain().within(limit));
            thread::spawn(move || covered(&delegator.shutdown(how)))
        });
        eventually("the first of them has begun", || {
            matches!(delegator.try_submit(yields("late", [])), Err(SubmitError::ShutDown(_)))
        });
        busy.release();
        pause();
        assert!(shutters.iter().all(|shutter| !shutter.is_finished()));
        release.open();
        assert_eq!(shutters.map(|shutter| shutter.join().unwrap()).iter().sum::<usize>(), 3);
        assert_eq!(caller.join().unwrap().expect("accepted").wait().state(), JobState::Completed);
    });
}

#[test]
fn a_shutdown_cancels_what_a_caller_runs() {
    watchdog(|| {
        let delegator = sized(1, 1);
        let busy = occupy(&delegator);
        let _queued = fill(&delegator, 1);
        let started = Gate::new();
        let caller = caller_in(&delegator, obedient("here", &started));
        started.wait();
        let (shutter, came) = shut_down_beside(delegator, Shutdown::cancel());
        busy.release();
        let report = came.recv().expect("a report");
        shutter.join().unwrap();
        assert_eq!((covered(&report), report.stuck.len()), (3, 0), "{report:?}");
        assert_eq!(caller.join().unwrap().expect("accepted").wait().state(), JobState::Cancelled);
    });
}

#[test]
fn a_caller_that_does_not_return_is_stuck_under_its_name() {
    watchdog(|| {
        let delegator = sized(1, 1);
        let busy = occupy(&delegator);
        let _queued = fill(&delegator, 1);
        let (started, release) = (Gate::new(), Gate::new());
        let caller = caller_in(&delegator, gated("here", &started, &release));
        started.wait();
        busy.release();
        delegator.wait_idle_timeout(common::BRIEF);
        let report = delegator.shutdown(Shutdown::drain().within(common::BRIEF));
        assert_eq!(report.stuck.len(), 1, "{report:?}");
        assert_eq!((report.stuck[0].index, report.stuck[0].thread_name.as_str()), (1, "caller"));
        release.open();
        let handle = caller.join().unwrap().expect("accepted");
        assert_eq!(report.stuck[0].running, Some(handle.id()));
    });
}

#[test]
fn a_caller_may_submit_wait_and_shut_down_from_inside_its_job() {
    watchdog(|| {
        let delegator = Arc::new(sized(1, 1));
        let busy = occupy(&delegator);
        let _queued = fill(&delegator, 1);
        let inside = Arc::downgrade(&delegator);
        let job = Job::new("here", move |_| {
            let delegator = inside.upgrade().ok_or("gone")?;
            // The queue is full and the worker busy: both run on this thread.
            let inner = delegator.submit(yields("inner", [1]))?;
            let again = delegator.submit_with(yields("again", [2]), Overflow::CallerRuns)?;
            busy.release();
            let report = delegator.shutdown(Shutdown::drain());
            let sum = inner.join()?[0] + again.join()?[0];
            Ok(vec![sum, u8::try_from(covered(&report)).unwrap_or(u8::MAX)])
        });
        let handle = delegator.submit_with(job, Overflow::CallerRuns).expect("done");
        let payload = handle.join().expect("it does");
        assert_eq!(payload[0], 3);
        assert!(payload[1] <= 2, "the job itself is not in the report: {payload:?}");
        assert_eq!(delegator.stats().completed, 5);
    });
}

#[test]
fn two_callers_that_shut_down_do_not_wait_for_each_other() {
    watchdog(|| {
        let delegator = Arc::new(sized(1, 1));
        let busy = occupy(&delegator);
        let _queued = fill(&delegator, 1);
        let both = Arc::new(std::sync::Barrier::new(2));
        let callers: Vec<_> = (0..2)
            .map(|_| {
                let (both, inside) = (Arc::clone(&both), Arc::downgrade(&delegator));
                let job = Job::new("here", move |_| {
                    let delegator = inside.upgrade().ok_or("gone")?;
                    both.wait();
                    delegator.shutdown(Shutdown::drain());
                    Ok(Vec::new())
                });
                caller_in(&delegator, job)
            })
            .collect();
        eventually("both run in their callers", || delegator.stats().running == 3);
        busy.release();
        for caller in callers {
            let handle = caller.join().unwrap().expect("accepted");
            assert_eq!(handle.wait().state(), JobState::Completed);
        }
    });
}

#[test]
fn callers_and_workers_share_a_flood_and_nothing_is_lost() {
    watchdog(|| {
        let delegator = Delegator::builder().workers(2).queue_capacity(2).latencies(true).build().unwrap();
        let runs = Counter::new();
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        let runs = runs.clone();
                        let job = Job::new("work", move |_| {
                            runs.add();
                            Ok(Vec::new())
                        });
                        let _ = delegator.submit_with(job, Overflow::CallerRuns).expect("never refused");
                    }
                });
            }
        });
        delegator.wait_idle();
        assert_eq!((runs.get(), delegator.stats().completed, delegator.stats().rejected), (900, 900, 0));
        assert_eq!(delegator.latencies().run_time.count(), 900);
        let report = delegator.shutdown(Shutdown::drain());
        assert_eq!(report.total(), 0);
    });
}

#[test]
fn a_manual_delegator_has_callers_too() {
    let delegator = Delegator::builder().queue_capacity(1).manual().unwrap();
    let queued = delegator.submit(nap(10)).unwrap();
    let here = delegator.submit_with(nap(60), Overflow::CallerRuns).expect("done");
    let record = here.try_wait().expect("it has ended");
    assert_eq!((record.run_time(), record.worker()), (Duration::from_secs(60), None));
    assert_eq!(queued.state(), JobState::Queued);
    let inside = delegator.submitter();
    let outer = Job::new("outer", move |_| inside.submit(yields("inner", [3]))?.join());
    let outer = delegator.submit_with(outer, Overflow::CallerRuns).expect("done");
    assert_eq!(outer.join().unwrap(), [3]);
    assert_eq!(delegator.shutdown(Shutdown::drain()).completed, 1);
}

#[test]
fn the_oldest_gives_way_and_says_for_whom() {
    watchdog(|| {
        let delegator = sized(1, 2);
        let busy = occupy(&delegator);
        let (flag, dropped) = DropFlag::new();
        let oldest = delegator.try_submit(keeps("oldest", flag)).expect("room");
        let older = delegator.try_submit(yields("older", [1])).expect("room");
        let events = delegator.subscribe(10);
        let new = delegator.submit_with(yields("new", [2]), Overflow::DropOldest).expect("always");
        assert_eq!(oldest.state(), JobState::Cancelled);
        assert!(dropped.is_open(), "its captures are gone");
        assert_eq!(displaced(&oldest), Some(Displaced::Dropped { by: new.id() }));
        let error = oldest.wait().error().expect("cancelled").to_string();
        assert_eq!(error, format!("cancelled: dropped from the full queue for job {}", new.id()));
        let told: Vec<Event> = events.try_iter().collect();
        assert!(
            matches!(&told[..], [Event::Submitted { .. }, Event::Finished(record)] if record.id() == oldest.id()),
            "{told:?}"
        );
        let stats = delegator.stats();
        assert_eq!((stats.dropped, stats.cancelled, stats.rejected, stats.queued), (1, 1, 0, 2));
        assert_balanced(&stats);
        busy.release();
        assert_eq!((older.join().unwrap(), new.join().unwrap()), (vec![1], vec![2]));
    });
}

#[test]
fn who_runs_is_scheduled_or_of_another_priority_does_not_give_way() {
    watchdog(|| {
        for priority in [Priority::High, Priority::Normal, Priority::Low] {
            let delegator = sized(1, 1);
            let busy = occupy(&delegator);
            let all = [Priority::High, Priority::Normal, Priority::Low];
            let queued = all.map(|priority| {
                delegator.try_submit(yields("queued", []).with_priority(priority)).expect("room")
            });
            let later = delegator.submit(yields("later", []).with_delay(FOREVER)).expect("no room needed");
            let new = yields("new", []).with_priority(priority);
            let new = delegator.submit_with(new, Overflow::DropOldest).expect("always");
            for (handle, own) in queued.iter().zip(all) {
                let expected = if own == priority { JobState::Cancelled } else { JobState::Queued };
                assert_eq!(handle.state(), expected, "{own} for {priority}");
            }
            assert_eq!((later.state(), busy.handle.state()), (JobState::Scheduled, JobState::Running));
            busy.release();
            assert_eq!(new.wait().state(), JobState::Completed);
        }
    });
}

#[test]
fn one_that_has_ended_in_the_queue_gives_its_place_without_being_dropped() {
    watchdog(|| {
        let delegator = sized(1, 2);
        let _busy = occupy(&delegator);
        let cancelled = delegator.try_submit(yields("cancelled", [])).expect("room");
        let late = delegator.try_submit(yields("late", []).with_timeout(common::BRIEF)).expect("room");
        cancelled.cancel();
        thread::sleep(common::BRIEF);
        for _ in 0..2 {
            let _ = delegator.submit_with(yields("new", []), Overflow::DropOldest).expect("always");
        }
        assert_eq!(displaced(&cancelled), None);
        assert_eq!((late.state(), delegator.stats().dropped), (JobState::TimedOut, 0));
    });
}

#[test]
fn nothing_gives_way_where_nothing_waits() {
    watchdog(|| {
        let delegator = sized(1, 0);
        let busy = occupy(&delegator);
        let refused = delegator.submit_with(yields("new", []), Overflow::DropOldest);
        assert!(matches!(refused, Err(SubmitError::Full(_))), "{refused:?}");
        let here = delegator.submit_with(yields("here", []), Overflow::CallerRuns).expect("done");
        assert_eq!(here.state(), JobState::Completed);
        busy.release();
    });
}

#[test]
fn a_flood_of_droppers_ends_every_job_once() {
    watchdog(|| {
        let delegator =
            Delegator::builder().workers(2).queue_capacity(3).retain(Retention::none()).build().unwrap();
        let runs = Counter::new();
        let handles: Vec<JobHandle> = thread::scope(|scope| {
            let threads: Vec<_> = (0..3)
                .map(|n| {
                    let (delegator, runs) = (&delegator, &runs);
                    scope.spawn(move || -> Vec<JobHandle> {
                        (0..500)
                            .map(|_| {
                                let runs = runs.clone();
                                let job = Job::new("work", move |_| {
                                    runs.add();
                                    Ok(Vec::new())
                                });
                                let overflow = if n == 0 { Overflow::Block } else { Overflow::DropOldest };
                                delegator.submit_with(job, overflow).expect("never refused")
                            })
                            .collect()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let ran = handles.iter().filter(|handle| handle.wait().state() == JobState::Completed).count();
        let stats = delegator.stats();
        assert_eq!((ran, ran as u64), (runs.get(), stats.completed));
        assert_eq!(stats.dropped + stats.completed, 1500);
        assert_balanced(&stats);
    });
}

#[test]
fn a_job_inside_a_full_delegator_may_drop_the_oldest() {
    let delegator = Delegator::builder().queue_capacity(1).manual().unwrap();
    let inside = delegator.submitter();
    let outer = delegator
        .submit(Job::new("outer", move |_| {
            let first = inside.submit(yields("first", []))?;
            let second = inside.submit_with(yields("second", [2]), Overflow::DropOldest)?;
            assert_eq!(displaced(&first), Some(Displaced::Dropped { by: second.id() }));
            second.join()
        }))
        .unwrap();
    assert_eq!(outer.join().unwrap(), [2]);
}

/// A manual delegator that has learned how long a nap is, with so many of them in its queue.
fn hopeless(queued: usize) -> workpath::Manual {
    let delegator = Delegator::builder().refuse_hopeless(true).manual().unwrap();
    delegator.submit(nap(10)).unwrap().wait();
    let _queued: Vec<_> = (0..queued).map(|_| delegator.submit(nap(10)).unwrap()).collect();
    delegator
}

fn within_secs(seconds: u64) -> Job {
    yields("work", []).with_timeout(Duration::from_secs(seconds))
}

#[test]
fn a_job_that_would_start_too_late_is_refused() {
    let delegator = hopeless(5);
    let job = within_secs(49);
    let id = job.id();
    let refused = delegator.submit(job).expect_err("fifty seconds are before it");
    assert!(matches!(refused, SubmitError::WouldMissDeadline(_)), "{refused:?}");
    assert_eq!(refused.to_string(), "job \"work\" was not accepted: it would not start before its deadline");
    assert_eq!(refused.into_job().id(), id);
    assert_eq!(delegator.stats().rejected, 1);
    for accepted in [within_secs(51), yields("work", [])] {
        let handle = delegator.submit(accepted).expect("in time");
        assert_eq!(handle.wait().state(), JobState::Completed);
    }
}

#[test]
fn every_form_refuses_what_would_start_too_late() {
    let delegator = hopeless(5);
    let late =
        |result: Result<JobHandle, SubmitError>| matches!(result, Err(SubmitError::WouldMissDeadline(_)));
    assert!(late(delegator.try_submit(within_secs(1))));
    assert!(late(delegator.submit_timeout(within_secs(1), FOREVER)));
    for overflow in [Overflow::Block, Overflow::Fail, Overflow::CallerRuns, Overflow::DropOldest] {
        assert!(late(delegator.submit_with(within_secs(1), overflow)), "{overflow:?}");
    }
    let refused = delegator.submit_all([within_secs(60), within_secs(1), within_secs(60)]).unwrap_err();
    assert_eq!((refused.accepted.len(), refused.rest.len()), (1, 2));
    let delayed = within_secs(1).with_delay(Duration::from_millis(5));
    assert!(delegator.submit(delayed).is_ok(), "who knows how long the queue is by then");
}

#[test]
fn only_what_goes_first_delays() {
    let delegator = hopeless(5);
    assert!(delegator.submit(within_secs(49).with_priority(Priority::Low)).is_err());
    assert!(delegator.submit(within_secs(1).with_priority(Priority::High)).is_ok());
    let next = hopeless(0);
    assert!(next.submit(within_secs(1)).is_ok(), "nothing is before it");
}

#[test]
fn a_refused_job_has_no_default_timeout() {
    let delegator =
        Delegator::builder().refuse_hopeless(true).default_timeout(Duration::from_secs(15)).manual().unwrap();
    delegator.submit(nap(10)).unwrap().wait();
    let _queued = [delegator.submit(nap(10)).unwrap(), delegator.submit(nap(10)).unwrap()];
    let refused = delegator.submit(nap(10)).expect_err("twenty seconds before it");
    assert_eq!(refused.into_job().context().deadline(), None);
}

#[test]
fn what_it_knows_follows_the_recent_runs() {
    let delegator = hopeless(0);
    for _ in 0..60 {
        delegator.submit(nap(1)).unwrap().wait();
    }
    let _queued: Vec<_> = (0..10).map(|_| delegator.submit(nap(1)).unwrap()).collect();
    assert!(delegator.submit(within_secs(12)).is_ok());
    assert!(delegator.submit(within_secs(9)).is_err());
}

#[test]
fn nothing_is_refused_unasked() {
    let delegator = Delegator::manual();
    delegator.submit(nap(10)).unwrap().wait();
    let _queued: Vec<_> = (0..5).map(|_| delegator.submit(nap(10)).unwrap()).collect();
    assert!(delegator.submit(within_secs(1)).is_ok());
}
