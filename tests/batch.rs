//! `submit_all` and `try_submit_all`: the order of the handles, what does not fit, and who is woken.

mod common;
#[path = "common/pool.rs"]
mod pool;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use common::{Gate, gated, occupy, watchdog, yields};
use pool::{assert_balanced, sized};
use workpath::{Context, Delegator, Job, JobId, JobState, Shutdown, SubmitErrorKind};

fn numbered(count: u32) -> Vec<Job> {
    (0..count).map(|n| Job::new(format!("job {n}"), move |_| Ok(n.to_le_bytes().to_vec()))).collect()
}

fn ids(jobs: &[Job]) -> Vec<JobId> {
    jobs.iter().map(Job::id).collect()
}

#[test]
fn handles_come_in_the_order_of_the_jobs_whatever_fits() {
    watchdog(|| {
        for (workers, capacity) in [(1, 0), (3, 0), (1, 1), (2, 3), (2, 64), (2, 1000)] {
            let delegator = sized(workers, capacity);
            let jobs = numbered(200);
            let expected = ids(&jobs);
            let handles = delegator.submit_all(jobs).expect("open");
            assert_eq!(handles.iter().map(|handle| handle.id()).collect::<Vec<_>>(), expected);
            for (n, handle) in (0_u32..).zip(&handles) {
                assert_eq!(handle.wait().payload(), Some(&n.to_le_bytes()[..]), "{workers} {capacity}");
            }
            delegator.wait_idle();
            assert_eq!(delegator.stats().completed, 200);
            assert_balanced(&delegator.stats());
        }
    });
}

#[test]
fn one_wake_up_brings_all_sleeping_workers() {
    watchdog(|| {
        let delegator = sized(4, 64);
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(1));
            let barrier = Arc::new(Barrier::new(4));
            let meet = || {
                let barrier = Arc::clone(&barrier);
                Job::new("meet", move |_| {
                    barrier.wait();
                    Ok(Vec::new())
                })
            };
            for handle in delegator.submit_all([meet(), meet(), meet(), meet()]).expect("open") {
                assert_eq!(handle.wait().state(), JobState::Completed);
            }
        }
    });
}

#[test]
fn what_does_not_fit_comes_back_in_order_and_can_be_submitted_again() {
    watchdog(|| {
        let delegator = sized(1, 5);
        let busy = occupy(&delegator);
        let jobs = numbered(8);
        let expected = ids(&jobs);
        let refused = delegator.try_submit_all(jobs).expect_err("room for five");
        assert_eq!(refused.kind, SubmitErrorKind::Full);
        assert_eq!(refused.to_string(), "3 of 8 jobs were not accepted: the queue is full");
        assert_eq!(refused.accepted.iter().map(|handle| handle.id()).collect::<Vec<_>>(), expected[..5]);
        assert_eq!(ids(&refused.rest), expected[5..]);
        let stats = delegator.stats();
        assert_eq!((stats.submitted, stats.queued, stats.rejected), (6, 5, 3));
        busy.release();
        for handle in delegator.submit_all(refused.rest).expect("open") {
            assert_eq!(handle.wait().state(), JobState::Completed);
        }
        delegator.wait_idle();
        assert_balanced(&delegator.stats());
    });
}

#[test]
fn a_hand_off_takes_as_many_as_workers_are_free() {
    watchdog(|| {
        let delegator = sized(3, 0);
        let release = Gate::new();
        let jobs = (0..5).map(|_| gated("hold", &Gate::new(), &release));
        let refused = delegator.try_submit_all(jobs).expect_err("three workers");
        assert_eq!((refused.accepted.len(), refused.rest.len()), (3, 2));
        release.open();
        for handle in delegator.submit_all(refused.rest).expect("open") {
            assert_eq!(handle.wait().state(), JobState::Completed);
        }
    });
}

#[test]
fn a_batch_from_inside_a_job_runs_what_does_not_fit() {
    watchdog(|| {
        for capacity in [0, 1, 7] {
            let delegator = sized(1, capacity);
            let submitter = delegator.submitter();
            let outer = Job::new("outer", move |_| {
                let handles = submitter.submit_all(numbered(20))?;
                let sum: u8 = handles.iter().map(|handle| handle.wait().payload().unwrap()[0]).sum();
                Ok(vec![sum])
            });
            let expected = (0..20).sum::<u32>() as u8;
            assert_eq!(delegator.submit(outer).expect("room").join().expect("completed"), [expected]);
        }
    });
}

#[test]
fn jobs_that_are_over_end_at_once_at_their_place() {
    watchdog(|| {
        let delegator = sized(1, 2);
        let busy = occupy(&delegator);
        let (cancelled, canceller) = Context::background().with_cancel();
        canceller.cancel();
        let batch = [
            yields("a", "a"),
            yields("late", "").with_timeout(Duration::ZERO),
            yields("b", "b"),
            yields("gone", "").with_context(&cancelled),
        ];
        let handles = delegator.try_submit_all(batch).expect("room for the two that are not over");
        assert_eq!(
            handles.iter().map(|handle| handle.name()).collect::<Vec<_>>(),
            ["a", "late", "b", "gone"]
        );
        assert_eq!(handles[1].state(), JobState::TimedOut);
        assert_eq!(handles[3].state(), JobState::Cancelled);
        busy.release();
        assert_eq!(handles[2].wait().payload(), Some(&b"b"[..]));
        delegator.wait_idle();
        assert_balanced(&delegator.stats());
    });
}

#[test]
fn a_default_timeout_is_given_to_what_is_accepted_and_taken_back_from_the_rest() {
    watchdog(|| {
        let builder = Delegator::builder().workers(1).queue_capacity(3);
        let delegator = builder.default_timeout(Duration::from_secs(3600)).build().expect("a delegator");
        let (started, release) = (Gate::new(), Gate::new());
        let _busy = delegator.submit(gated("busy", &started, &release)).expect("room");
        started.wait();
        let sees = || Job::new("sees", |ctx| Ok(vec![u8::from(ctx.deadline().is_some())]));
        let refused = delegator.try_submit_all((0..5).map(|_| sees())).expect_err("room for three");
        assert!(refused.rest.iter().all(|job| job.context().deadline().is_none()));
        release.open();
        for handle in refused.accepted {
            assert_eq!(handle.join().expect("completed"), [1]);
        }
    });
}

#[test]
fn a_shut_down_delegator_hands_all_back() {
    let delegator = sized(1, 4);
    delegator.shutdown(Shutdown::drain());
    let refused = delegator.submit_all(numbered(3)).expect_err("shut down");
    assert_eq!((refused.kind, refused.rest.len()), (SubmitErrorKind::ShutDown, 3));
    assert_eq!(delegator.stats().rejected, 3);
    assert!(delegator.submit_all([]).expect("nothing to refuse").is_empty());
}

#[test]
fn batches_that_race_a_shutdown_are_accounted_for_job_by_job() {
    watchdog(|| {
        for round in 0..200 {
            let delegator = sized(2, 256);
            let producers = [(); 2].map(|()| {
                let submitter = delegator.submitter();
                thread::spawn(move || {
                    let mut accepted = Vec::new();
                    loop {
                        match submitter.submit_all(numbered(30)) {
                            Ok(handles) => accepted.extend(handles),
                            Err(refused) => {
                                assert_eq!(refused.accepted.len() + refused.rest.len(), 30);
                                accepted.extend(refused.accepted);
                                return (accepted, refused.rest.len());
                            }
                        }
                    }
                })
            });
            thread::sleep(Duration::from_micros(100 * (round % 5)));
            let how = if round % 2 == 0 { Shutdown::drain() } else { Shutdown::cancel() };
            delegator.shutdown(how);
            let (mut accepted, mut rejected) = (Vec::new(), 0);
            for producer in producers {
                let (handles, refused) = producer.join().expect("no panic");
                accepted.extend(handles);
                rejected += refused;
            }
            let ended = accepted.iter().map(|handle| handle.wait().state());
            let completed = ended.filter(|state| *state == JobState::Completed).count();
            let stats = delegator.stats();
            assert_eq!((stats.submitted, stats.completed), (accepted.len() as u64, completed as u64));
            assert_eq!(stats.rejected, rejected as u64);
            assert_balanced(&stats);
            delegator.wait_idle();
        }
    });
}

#[test]
fn an_iterator_that_panics_has_submitted_nothing() {
    let delegator = sized(1, 8);
    let broken = (0..5).map(|n| if n < 3 { yields("fine", "") } else { panic!("no more") });
    assert!(catch_unwind(AssertUnwindSafe(|| delegator.submit_all(broken))).is_err());
    assert_eq!(delegator.stats().submitted, 0);
}

#[test]
fn a_default_timeout_of_zero_ends_all_at_once() {
    let delegator = Delegator::builder().workers(1).default_timeout(Duration::ZERO).build().unwrap();
    let handles = delegator.submit_all(numbered(3)).unwrap();
    assert_eq!(delegator.stats().timed_out, 3, "before anybody looks at them");
    assert!(handles.iter().all(|handle| handle.state() == JobState::TimedOut));
}
