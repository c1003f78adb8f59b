//! Jobs that are not to start before their time.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::{DropFlag, delegator, eventually, occupy, watchdog, yields};
use workpath::{Context, Delegator, Job, JobState, Overflow, Priority, Shutdown, SubmitError};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);

fn later(delay: Duration) -> Job {
    yields("later", [1]).with_delay(delay)
}

#[test]
fn a_job_starts_when_its_delay_is_over_and_not_before() {
    let delegator = Delegator::manual();
    let handle = delegator.submit(later(SECOND)).unwrap();
    assert_eq!(handle.state(), JobState::Scheduled);
    assert_eq!((delegator.stats().scheduled, delegator.stats().queued), (1, 0));
    delegator.advance(SECOND - Duration::from_nanos(1));
    assert_eq!(handle.state(), JobState::Scheduled);
    assert_eq!(delegator.advance(Duration::from_nanos(1)), 1);
    assert_eq!(handle.wait().queue_time(), SECOND);
    assert_eq!((delegator.stats().scheduled, delegator.stats().completed), (0, 1));
}

#[test]
fn a_wait_lets_the_time_come() {
    let delegator = Delegator::manual();
    assert_eq!(delegator.submit(later(HOUR)).unwrap().wait().queue_time(), HOUR);
}

#[test]
fn an_instant_is_as_good_as_a_delay_and_a_past_one_is_none() {
    let delegator = Delegator::manual();
    let at = delegator.submit(yields("at", []).not_before(delegator.now() + SECOND)).unwrap();
    let past = delegator.submit(yields("past", []).not_before(delegator.now())).unwrap();
    assert_eq!((at.state(), past.state()), (JobState::Scheduled, JobState::Queued));
    assert_eq!(at.wait().queue_time(), SECOND);
}

#[test]
fn jobs_start_in_the_order_of_their_times_then_of_their_submission() {
    let delegator = Delegator::manual();
    let handles: Vec<_> =
        [3, 1, 2, 1].map(|seconds| delegator.submit(later(seconds * SECOND)).unwrap()).into();
    delegator.advance(HOUR);
    let order: Vec<_> = delegator.registry().records().iter().map(|record| record.id()).collect();
    assert_eq!(order, [1, 3, 2, 0].map(|n: usize| handles[n].id()));
}

#[test]
fn a_cancelled_one_leaves_nothing_behind() {
    let delegator = Delegator::manual();
    let (flag, dropped) = DropFlag::new();
    let job = Job::new("never", move |_| {
        let _ = &flag;
        Ok(Vec::new())
    });
    let handle = delegator.submit(job.with_delay(Duration::MAX)).unwrap();
    assert!(handle.cancel() && dropped.is_open() && !handle.cancel());
    assert_eq!((handle.state(), delegator.stats().scheduled), (JobState::Cancelled, 0));
    assert!(delegator.wait_idle_timeout(Duration::ZERO));
}

#[test]
fn a_cancel_of_the_context_ends_it_at_once() {
    let delegator = Delegator::manual();
    let (session, canceller) = Context::background().with_cancel();
    let handle = delegator.submit(later(HOUR).with_context(&session)).unwrap();
    canceller.cancel();
    assert_eq!((delegator.stats().cancelled, delegator.stats().scheduled), (1, 0));
    assert_eq!(handle.state(), JobState::Cancelled);
}

#[test]
fn the_deadline_ends_it_while_it_is_scheduled() {
    let delegator = Delegator::manual();
    let handle = delegator.submit(later(HOUR).with_timeout(SECOND)).unwrap();
    let heard = delegator.submit(later(HOUR).with_timeout(SECOND)).unwrap();
    let done = heard.done();
    delegator.advance(SECOND);
    assert!(common::fired(&done));
    assert_eq!((delegator.stats().timed_out, delegator.stats().scheduled), (2, 0));
    assert_eq!(handle.wait().round_trip_time(), SECOND);
    assert!(delegator.wait_idle_timeout(Duration::ZERO));
}

#[test]
fn a_deadline_that_somebody_listens_to_ends_it_and_a_worker_drops_what_is_left() {
    watchdog(|| {
        let delegator = delegator(1);
        let (captured, dropped) = DropFlag::new();
        let job = Job::new("later", move |_| {
            let _ = &captured;
            Ok(Vec::new())
        });
        let handle = delegator.submit(job.with_delay(HOUR).with_timeout(Duration::from_millis(20))).unwrap();
        let done = handle.done();
        done.recv().unwrap_err();
        assert_eq!(handle.state(), JobState::TimedOut);
        dropped.wait();
        eventually("it is forgotten", || delegator.stats().scheduled == 0);
        let stats = delegator.stats();
        assert_eq!((stats.submitted, stats.timed_out, stats.queued), (1, 1, 0));
        let busy = occupy(&delegator);
        assert!(!delegator.wait_idle_timeout(Duration::ZERO), "another runs");
        drop(busy);
    });
}

#[test]
fn a_default_timeout_counts_from_when_it_is_due() {
    let delegator = Delegator::builder().default_timeout(SECOND).manual().unwrap();
    assert_eq!(delegator.submit(later(HOUR)).unwrap().wait().state(), JobState::Completed);
}

#[test]
fn more_are_due_than_fit_in_the_queue() {
    let delegator = Delegator::builder().queue_capacity(2).manual().unwrap();
    for _ in 0..100 {
        let _ = delegator.submit(later(SECOND)).unwrap();
    }
    delegator.advance(2 * SECOND);
    assert_eq!(delegator.stats().completed, 100);
}

/// In which order jobs are run, when one is due while the queue is full, and another comes as soon as there is room.
fn order_around_what_is_due(capacity: usize) -> Vec<String> {
    let delegator = Delegator::builder().queue_capacity(capacity).manual().unwrap();
    let submitter = delegator.submitter();
    let nap = Job::new("nap", move |ctx| {
        for _ in 0..capacity {
            let _ = submitter.submit(yields("queued", []))?;
        }
        ctx.sleep(2 * SECOND)?;
        assert!(matches!(submitter.try_submit(yields("one more", [])), Err(SubmitError::Full(_))));
        Ok(Vec::new())
    });
    let _ = delegator.submit(nap).unwrap();
    let due = delegator.submit(later(SECOND)).unwrap();
    assert!(delegator.step());
    assert_eq!((due.state(), delegator.stats().places.normal), (JobState::Queued, capacity + 1));
    assert!(delegator.step());
    let _ = delegator.try_submit(yields("after", [])).unwrap();
    while delegator.step() {}
    delegator.registry().records().iter().map(|record| record.name().to_owned()).collect()
}

#[test]
fn what_is_due_goes_before_those_who_wait_for_room() {
    assert_eq!(order_around_what_is_due(1), ["nap", "queued", "later", "after"]);
}

#[test]
fn what_is_due_goes_behind_what_is_queued() {
    assert_eq!(order_around_what_is_due(3), ["nap", "queued", "queued", "queued", "later", "after"]);
}

#[test]
fn one_gives_way_for_one_however_many_are_due() {
    for priority in [Priority::Low, Priority::Normal, Priority::High] {
        let delegator = Delegator::builder().queue_capacity(1).manual().unwrap();
        let submitter = delegator.submitter();
        let nap = Job::new("nap", move |ctx| {
            let _ = submitter.submit(yields("first", []).with_priority(priority))?;
            ctx.sleep(2 * SECOND)?;
            let _ =
                submitter.submit_with(yields("pushes", []).with_priority(priority), Overflow::DropOldest)?;
            Ok(Vec::new())
        });
        let _ = delegator.submit(nap).unwrap();
        for _ in 0..3 {
            let _ = delegator.submit(later(SECOND).with_priority(priority)).unwrap();
        }
        while delegator.step() {}
        let stats = delegator.stats();
        assert_eq!((stats.dropped, stats.cancelled, stats.completed), (1, 1, 5), "{priority:?}");
    }
}

#[test]
fn what_is_due_takes_no_worker_that_is_promised_to_another() {
    let delegator = Delegator::builder().queue_capacity(0).manual().unwrap();
    let nap = Job::new("nap", |ctx| ctx.sleep(2 * SECOND).map(|()| Vec::new()));
    let _ = delegator.submit(nap).unwrap();
    let due = delegator.submit(later(SECOND)).unwrap();
    assert!(delegator.step());
    assert_eq!(due.state(), JobState::Queued);
    let promised = delegator.try_submit(yields("promised", [])).unwrap();
    assert!(delegator.step());
    assert_eq!((promised.state(), due.state()), (JobState::Completed, JobState::Queued));
    assert!(delegator.step());
    assert_eq!(due.state(), JobState::Completed);
    assert!(delegator.try_submit(yields("next", [])).is_ok());
}

#[test]
fn what_is_due_gets_a_worker_that_others_would_keep_busy() {
    for capacity in [0, 1] {
        watchdog(move || {
            let delegator = Delegator::builder().workers(1).queue_capacity(capacity).build().unwrap();
            let over = AtomicBool::new(false);
            thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        while !over.load(Ordering::Relaxed) {
                            let _ = delegator.submit(yields("busy", [])).unwrap();
                        }
                    });
                }
                for _ in 0..20 {
                    let due = delegator.submit(later(Duration::from_millis(1))).unwrap();
                    assert_eq!(due.wait().state(), JobState::Completed);
                }
                over.store(true, Ordering::Relaxed);
            });
        });
    }
}

#[test]
fn a_drain_hands_scheduled_jobs_back_and_finishes_those_that_are_due() {
    let delegator = Delegator::builder().queue_capacity(1).manual().unwrap();
    let nap = Job::new("nap", |ctx| ctx.sleep(2 * SECOND).map(|()| Vec::new()));
    let _ = delegator.submit(nap).unwrap();
    for _ in 0..3 {
        let _ = delegator.submit(later(SECOND)).unwrap();
    }
    let far = delegator.submit(later(HOUR)).unwrap();
    delegator.step();
    delegator.step();
    let report = delegator.shutdown(Shutdown::drain());
    assert_eq!((report.completed, report.unstarted.len()), (2, 1));
    assert_eq!((far.wait().state(), report.unstarted[0].id()), (JobState::Cancelled, far.id()));
    assert!(matches!(delegator.submit(later(SECOND)), Err(SubmitError::ShutDown(_))));
}

#[test]
fn a_cancel_hands_all_of_them_back() {
    let delegator = delegator(1);
    let handles: Vec<_> = (0..10).map(|_| delegator.submit(later(HOUR)).unwrap()).collect();
    let report = delegator.shutdown(Shutdown::cancel());
    assert_eq!((report.unstarted.len(), report.total()), (10, 10));
    assert!(handles.iter().all(|handle| handle.state() == JobState::Cancelled));
}

#[test]
fn a_worker_that_waits_for_one_runs_it_when_it_is_due() {
    watchdog(|| {
        let delegator = delegator(1);
        let submitter = delegator.submitter();
        let outer = Job::new("outer", move |_| submitter.submit(later(Duration::from_millis(5)))?.join());
        assert_eq!(delegator.submit(outer).unwrap().join().unwrap(), [1]);
    });
    let manual = Delegator::manual();
    let submitter = manual.submitter();
    let outer = Job::new("outer", move |_| submitter.submit(later(HOUR))?.join());
    assert_eq!(manual.submit(outer).unwrap().wait().run_time(), HOUR);
}

#[test]
fn a_set_on_the_only_worker_runs_a_member_when_it_is_due() {
    watchdog(|| {
        for _ in 0..20 {
            let delegator = delegator(1);
            let submitter = delegator.submitter();
            let outer = Job::new("outer", move |_| {
                let mut set = submitter.job_set();
                set.submit(later(Duration::from_millis(1)))?;
                set.submit(later(Duration::from_millis(2)))?;
                Ok(vec![u8::try_from(set.wait_all().len())?])
            });
            assert_eq!(delegator.submit(outer).unwrap().join().unwrap(), [2]);
        }
    });
}

#[test]
fn a_set_hears_of_a_scheduled_member_that_ends_at_its_deadline() {
    watchdog(|| {
        let delegator = delegator(1);
        let busy = occupy(&delegator);
        let mut set = delegator.job_set();
        set.submit(later(HOUR).with_timeout(Duration::from_millis(5))).unwrap();
        assert_eq!(set.wait_all()[0].state(), JobState::TimedOut);
        busy.release();
    });
}

#[test]
fn threads_keep_the_time_and_wait_for_room() {
    watchdog(|| {
        let delegator = Delegator::builder().workers(1).queue_capacity(1).build().unwrap();
        let busy = occupy(&delegator);
        let delay = Duration::from_millis(5);
        let handles: Vec<_> = (0..20).map(|_| delegator.submit(later(delay)).unwrap()).collect();
        eventually("they are due", || delegator.stats().scheduled == 0);
        assert_eq!(delegator.stats().queued, 20);
        busy.release();
        for handle in handles {
            assert!(handle.wait().queue_time() >= delay);
        }
    });
}
