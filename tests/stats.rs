//! The numbers of a delegator: what is counted, when, and that it always adds up.

mod common;
#[path = "common/pool.rs"]
mod pool;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::{BRIEF, Counter, FOREVER, Gate, delegator, fails, occupy, panics, watchdog, yields};
use pool::{Door, FORMS, Form, assert_balanced, fill, obedient, sized};
use workpath::{Context, Delegator, Job, JobState, Manual, Overflow, Retention, Retry, Shutdown, Stats};

/// All numbers, in the order of their declaration.
fn numbers(stats: &Stats) -> [u64; 9] {
    [
        stats.queued as u64,
        stats.running as u64,
        stats.submitted,
        stats.completed,
        stats.failed,
        stats.panicked,
        stats.cancelled,
        stats.timed_out,
        stats.rejected,
    ]
}

/// One of everything that is counted, and more of some.
fn of_every_kind(delegator: &Manual) {
    let no_time = yields("late", []).with_timeout(Duration::ZERO);
    let retried = fails("again", "no").with_retry(Retry::fixed(Duration::ZERO).max_attempts(2));
    for job in [no_time, panics("panics", "no"), retried] {
        delegator.submit(job).expect("room").wait();
    }
    for overflow in [Overflow::Block, Overflow::DropOldest, Overflow::Fail] {
        let _ = delegator.submit_with(yields("plain", []), overflow);
    }
    let waits = delegator.submit(yields("waits", []).with_key("key")).expect("room");
    assert!(waits.cancel());
    delegator.run_until_idle();
}

#[test]
fn a_difference_has_every_count_of_what_happened_in_between() {
    let delegator = Delegator::builder().queue_capacity(1).manual().unwrap();
    let start = delegator.stats();
    of_every_kind(&delegator);
    let first = delegator.stats();
    assert_eq!(first.since(&start), first);
    of_every_kind(&delegator);
    assert_eq!(delegator.stats().since(&first), first);
    let counts = [first.submitted, first.completed, first.failed, first.panicked, first.cancelled];
    let others = [first.timed_out, first.retried, first.rejected, first.dropped];
    assert_eq!((counts, others), ([6, 1, 1, 1, 2], [1, 1, 1, 1]));
}

#[test]
fn a_new_delegator_has_counted_nothing() {
    let delegator = delegator(3);
    assert_eq!(numbers(&delegator.stats()), [0; 9]);
    let workers = delegator.workers();
    assert_eq!(workers.iter().map(|worker| worker.index).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(workers.iter().all(|worker| worker.running.is_none()));
}

#[test]
fn every_outcome_has_its_own_number() {
    watchdog(|| {
        let delegator = sized(1, 16);
        let (cancelled, canceller) = Context::background().with_cancel();
        canceller.cancel();
        let jobs = [
            yields("good", ""),
            yields("good", ""),
            fails("bad", "no"),
            panics("ugly", "no"),
            yields("stillborn", "").with_context(&cancelled),
            yields("late", "").with_timeout(Duration::ZERO),
            Job::new("late", |ctx| ctx.sleep(FOREVER).map(|()| Vec::new())).with_timeout(BRIEF),
        ];
        let jobs = jobs.map(|job| delegator.submit(job).expect("accepted"));
        let started = Gate::new();
        let stopped = delegator.submit(obedient("stopped", &started)).expect("room");
        started.wait();
        stopped.cancel();
        stopped.wait();
        assert!(jobs.iter().all(|job| job.wait().state().is_finished()));
        assert_eq!(numbers(&delegator.stats()), [0, 0, 8, 2, 1, 1, 2, 2, 0]);
        assert_balanced(&delegator.stats());
    });
}

#[test]
fn the_numbers_are_exact_at_every_step() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let first = occupy(&delegator);
        assert_eq!(numbers(&delegator.stats()), [0, 1, 1, 0, 0, 0, 0, 0, 0]);
        let queued = fill(&delegator, 3);
        assert_eq!(numbers(&delegator.stats()), [3, 1, 4, 0, 0, 0, 0, 0, 0]);
        assert!(queued[1].cancel());
        assert_eq!(numbers(&delegator.stats()), [2, 1, 4, 0, 0, 0, 1, 0, 0]);
        first.release();
        queued[2].wait();
        assert_eq!(numbers(&delegator.stats()), [0, 0, 4, 3, 0, 0, 1, 0, 0]);
    });
}

#[test]
fn a_wave_after_another_adds_up_at_every_step() {
    watchdog(|| {
        const WAVE: usize = 3;
        let delegator = sized(WAVE, 64);
        let (started, gates) = (Counter::new(), [(); 3 * WAVE].map(|()| Gate::new()));
        let handles: Vec<_> = gates
            .iter()
            .map(|gate| {
                let (started, gate) = (started.clone(), gate.clone());
                let job = Job::new("wave", move |_| {
                    started.add();
                    gate.wait();
                    Ok(Vec::new())
                });
                delegator.submit(job).expect("room")
            })
            .collect();
        for wave in 0..3 {
            started.wait_for((wave + 1) * WAVE);
            let stats = delegator.stats();
            assert_eq!((stats.running, stats.queued), (WAVE, (2 - wave) * WAVE));
            assert_eq!((stats.submitted, stats.completed), (9, (wave * WAVE) as u64));
            assert_balanced(&stats);
            gates[wave * WAVE..][..WAVE].iter().for_each(Gate::open);
            for handle in &handles[wave * WAVE..][..WAVE] {
                handle.wait();
            }
        }
        assert_eq!(delegator.stats().completed, 9);
    });
}

#[test]
fn every_refusal_of_every_form_counts_as_rejected_and_as_nothing_else() {
    watchdog(|| {
        let delegator = sized(1, 1);
        let submitter = delegator.submitter();
        let busy = occupy(&delegator);
        let _queued = fill(&delegator, 1);
        let mut rejected = 0;
        for form in [Form::Try, Form::Timeout(Duration::ZERO), Form::Timeout(BRIEF), Form::Deadline(BRIEF)] {
            assert!(delegator.enter(form, yields("refused", "")).is_err());
            assert!(submitter.enter(form, yields("refused", "")).is_err());
            rejected += 2;
            assert_eq!(numbers(&delegator.stats()), [1, 1, 2, 0, 0, 0, 0, 0, rejected]);
        }
        busy.release();
        delegator.shutdown(Shutdown::drain());
        for form in FORMS {
            assert!(delegator.enter(form, yields("refused", "")).is_err());
            rejected += 1;
        }
        assert_eq!(numbers(&delegator.stats()), [0, 0, 2, 2, 0, 0, 0, 0, rejected]);
    });
}

#[test]
fn a_job_that_was_refused_and_then_accepted_counts_once_as_each() {
    watchdog(|| {
        let delegator = sized(1, 1);
        let busy = occupy(&delegator);
        let _queued = fill(&delegator, 1);
        let mut job = yields("stubborn", "");
        for _ in 0..5 {
            job = delegator.try_submit(job).expect_err("full").into_job();
        }
        busy.release();
        delegator.submit(job).expect("room").wait();
        assert_eq!(numbers(&delegator.stats()), [0, 0, 3, 3, 0, 0, 0, 0, 5]);
    });
}

#[test]
fn unstarted_jobs_of_a_shutdown_count_as_cancelled() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let busy = occupy(&delegator);
        let _queued = fill(&delegator, 4);
        let report = delegator.shutdown(Shutdown::cancel().within(Duration::ZERO));
        assert_eq!(report.unstarted.len(), 4);
        assert_eq!(numbers(&delegator.stats()), [0, 1, 5, 0, 0, 0, 4, 0, 0]);
        busy.release();
        busy.handle.wait();
        assert_eq!(numbers(&delegator.stats()), [0, 0, 5, 1, 0, 0, 4, 0, 0]);
    });
}

#[test]
fn half_of_many_jobs_fail_and_all_are_counted() {
    watchdog(|| {
        let delegator =
            Delegator::builder().workers(2).queue_capacity(32).retain(Retention::none()).build().unwrap();
        for n in 0..3_000 {
            drop(
                delegator
                    .submit(if n % 2 == 0 { yields("good", "") } else { fails("bad", "no") })
                    .expect("room"),
            );
        }
        delegator.wait_idle();
        assert_eq!(numbers(&delegator.stats()), [0, 0, 3_000, 1_500, 1_500, 0, 0, 0, 0]);
    });
}

#[test]
fn jobs_run_inside_other_jobs_are_counted_like_all_others() {
    watchdog(|| {
        let delegator = sized(1, 1);
        let submitter = delegator.submitter();
        let outer = Job::new("outer", move |_| {
            for _ in 0..10 {
                let (one, two) =
                    (submitter.submit(yields("one", ""))?, submitter.submit(fails("two", "no"))?);
                assert_eq!(one.wait().state(), JobState::Completed);
                assert_eq!(two.wait().state(), JobState::Failed);
            }
            Ok(Vec::new())
        });
        delegator.submit(outer).expect("room").join().expect("completed");
        delegator.wait_idle();
        assert_eq!(numbers(&delegator.stats()), [0, 0, 21, 11, 10, 0, 0, 0, 0]);
    });
}

#[test]
fn a_job_that_ran_inside_another_is_counted_while_the_other_goes_on() {
    watchdog(|| {
        let delegator = Arc::new(sized(1, 1));
        let inside = Arc::clone(&delegator);
        let outer = Job::new("outer", move |_| {
            let queued = inside.submit(yields("queued", ""))?;
            assert!(inside.submit(yields("at once", ""))?.is_finished());
            assert_eq!(numbers(&inside.stats()), [1, 1, 3, 1, 0, 0, 0, 0, 0]);
            drop(queued);
            Ok(Vec::new())
        });
        delegator.submit(outer).expect("room").join().expect("completed");
        delegator.wait_idle();
        assert_eq!(numbers(&delegator.stats()), [0, 0, 3, 3, 0, 0, 0, 0, 0]);
    });
}

#[test]
fn the_numbers_of_what_is_over_never_go_down() {
    watchdog(|| {
        let delegator = Arc::new(sized(2, 16));
        let stop = Arc::new(AtomicBool::new(false));
        let observer = thread::spawn({
            let (delegator, stop) = (Arc::clone(&delegator), Arc::clone(&stop));
            move || {
                let mut last = numbers(&delegator.stats());
                while !stop.load(Ordering::Relaxed) {
                    let stats = delegator.stats();
                    let next = numbers(&stats);
                    assert!(
                        last[2..].iter().zip(&next[2..]).all(|(old, new)| old <= new),
                        "{last:?} then {next:?}"
                    );
                    assert!(stats.running <= 2, "more jobs run than there are workers: {stats:?}");
                    last = next;
                    thread::yield_now();
                }
            }
        });
        for n in 0..2_000 {
            let handle = delegator.submit(if n % 3 == 0 { fails("bad", "no") } else { yields("good", "") });
            if n % 5 == 0 {
                handle.expect("room").cancel();
            }
        }
        delegator.wait_idle();
        stop.store(true, Ordering::Relaxed);
        observer.join().unwrap();
        assert_balanced(&delegator.stats());
        assert_eq!(delegator.stats().submitted, 2_000);
    });
}

#[test]
fn the_numbers_of_one_delegator_are_its_own() {
    watchdog(|| {
        let (one, two) = (delegator(1), delegator(1));
        one.submit(yields("good", "")).expect("room").wait();
        assert_eq!((one.stats().completed, two.stats().completed), (1, 0));
        assert_eq!(numbers(&two.stats()), [0; 9]);
    });
}

#[test]
fn forgetting_records_changes_no_number() {
    watchdog(|| {
        let delegator = Delegator::builder().workers(1).retain(Retention::last(1)).build().unwrap();
        for _ in 0..3 {
            delegator.submit(yields("good", "")).expect("room").wait();
        }
        delegator.registry().clear();
        assert_eq!(delegator.stats().completed, 3);
        assert!(delegator.registry().is_empty());
    });
}
