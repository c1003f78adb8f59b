//! Much of everything at once, in sizes that a small machine can bear. What is counted must come out exactly.

mod common;
#[path = "common/pool.rs"]
mod pool;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use common::{CountOnDrop, Counter, DropFlag, FOREVER, PATIENCE, panics, within, yields};
use pool::{Door, FORMS, WAITING, assert_balanced, assert_threads_gone, keeps, own_name, sized};
use workpath::{Context, Delegator, Job, JobHandle, JobState, Retention, Shutdown, Submitter};

/// A small random number generator; the seed makes a failure repeatable.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// More time than any of these needs.
const LIMIT: Duration = Duration::from_secs(4 * PATIENCE.as_secs());

#[test]
fn a_great_many_small_jobs_all_arrive() {
    within(LIMIT, || {
        let delegator =
            Delegator::builder().workers(2).queue_capacity(256).retain(Retention::none()).build().unwrap();
        let sum = Arc::new(AtomicU64::new(0));
        for n in 0..30_000_u64 {
            let sum = Arc::clone(&sum);
            drop(delegator.submit(Job::new("tiny", move |_| {
                sum.fetch_add(n, Ordering::Relaxed);
                Ok(Vec::new())
            })));
        }
        delegator.wait_idle();
        assert_eq!(sum.load(Ordering::Relaxed), (0..30_000).sum::<u64>());
        let stats = delegator.stats();
        assert_eq!((stats.completed, stats.running, stats.queued), (30_000, 0, 0));
    });
}

#[test]
fn many_threads_submit_in_all_forms_and_every_job_runs_once() {
    within(LIMIT, || {
        for (workers, capacity) in [(1, 1), (2, 0), (3, 8), (2, 1_000)] {
            let delegator = sized(workers, capacity);
            let runs: Arc<Vec<AtomicUsize>> = Arc::new((0..2_000).map(|_| AtomicUsize::new(0)).collect());
            let dropped = Counter::new();
            thread::scope(|scope| {
                for producer in 0..4 {
                    let (submitter, runs, dropped) = (delegator.submitter(), &runs, &dropped);
                    scope.spawn(move || {
                        for n in (producer..runs.len()).step_by(4) {
                            let (seen, owned) = (Arc::clone(runs), CountOnDrop(dropped.clone()));
                            let mut job = Job::new("counted", move |_| {
                                let _owned = &owned;
                                seen[n].fetch_add(1, Ordering::Relaxed);
                                Ok(Vec::new())
                            });
                            while let Err(error) = submitter.enter(FORMS[n % FORMS.len()], job) {
                                job = error.into_job();
                                thread::yield_now();
                            }
                        }
                    });
                }
            });
            delegator.wait_idle();
            assert!(runs.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            assert_eq!(dropped.get(), runs.len());
            let stats = delegator.stats();
            assert_eq!((stats.submitted, stats.completed), (2_000, 2_000));
            assert_balanced(&stats);
        }
    });
}

#[test]
fn one_job_after_another_is_waited_for() {
    within(LIMIT, || {
        let delegator = sized(2, 4);
        for n in 0..5_000_u32 {
            let handle = delegator.submit(yields("oneshot", n.to_le_bytes())).expect("room");
            assert_eq!(handle.wait().payload(), Some(&n.to_le_bytes()[..]));
        }
    });
}

#[test]
fn work_that_arrives_while_workers_fall_asleep_is_not_forgotten() {
    within(LIMIT, || {
        let seed = 0x9e37_79b9_7f4a_7c15;
        let mut random = Random(seed);
        let delegator = sized(3, 16);
        let start = Instant::now();
        let mut round = 0;
        while round < 2_000 && start.elapsed() < Duration::from_secs(4) {
            round += 1;
            // Pauses of the length of what a worker does before it sleeps.
            match random.below(4) {
                0 => {}
                1 => (0..random.below(2_000)).for_each(|_| std::hint::spin_loop()),
                2 => thread::yield_now(),
                _ => thread::sleep(Duration::from_micros(random.below(150))),
            }
            // Now and then as many as there are workers, none of which ends before all have begun.
            let together = random.below(3) == 0;
            let count = if together { 3 } else { random.below(5) + 1 };
            let barrier = Arc::new(Barrier::new(if together { 3 } else { 1 }));
            let handles: Vec<_> = (0..count)
                .map(|n| {
                    let barrier = Arc::clone(&barrier);
                    let job = Job::new("wakes", move |_| {
                        barrier.wait();
                        Ok(Vec::new())
                    });
                    delegator.enter(WAITING[n as usize % 3], job).expect("room")
                })
                .collect();
            for handle in handles {
                let record = handle.wait_timeout(PATIENCE);
                assert!(
                    record.is_some(),
                    "round {round} of seed {seed:#x}: nobody woke up: {:?}",
                    delegator.stats()
                );
            }
        }
    });
}

#[test]
fn delegators_come_and_go() {
    within(LIMIT, || {
        let name = own_name();
        for round in 0..300_usize {
            let delegator = Delegator::builder()
                .workers(1 + round % 3)
                .queue_capacity(round % 4)
                .thread_name(name.as_str())
                .build()
                .unwrap();
            let handles: Vec<_> =
                (0..round % 6).map(|_| delegator.submit(yields("short", "")).expect("room")).collect();
            match round % 4 {
                0 => drop(delegator),
                1 => drop(delegator.shutdown(Shutdown::drain())),
                2 => drop(delegator.shutdown(Shutdown::cancel())),
                _ => delegator.wait_idle(),
            }
            assert!(handles.iter().all(|handle| handle.wait_timeout(PATIENCE).is_some()));
        }
        assert_threads_gone(&name);
    });
}

#[test]
fn cancels_deadlines_panics_and_children_leave_the_sums_right() {
    fn random_job(random: &mut Random, submitter: &Submitter, owned: CountOnDrop) -> Job {
        let submitter = submitter.clone();
        let kind = random.below(6);
        let job = Job::new("mixed", move |ctx| {
            let _owned = &owned;
            match kind {
                0 => panic!("as agreed"),
                1 => Err("as agreed".into()),
                2 => {
                    let child = submitter.submit(yields("child", "").with_context(ctx))?;
                    let grandchild = submitter.submit(panics("child", "as agreed"))?;
                    assert!(child.wait().state().is_finished() && grandchild.wait().state().is_finished());
                    Ok(Vec::new())
                }
                3 => ctx.sleep(Duration::from_micros(300)).map(|()| Vec::new()),
                4 => ctx.check().map(|()| Vec::new()),
                _ => Ok(Vec::new()),
            }
        });
        match random.below(5) {
            0 => job.with_timeout(Duration::from_micros(random.below(500))),
            1 => job.with_timeout(FOREVER),
            _ => job,
        }
    }

    within(LIMIT, || {
        let delegator = Arc::new(
            Delegator::builder().workers(3).queue_capacity(16).retain(Retention::last(50)).build().unwrap(),
        );
        let (made, dropped, stop) = (AtomicUsize::new(0), Counter::new(), AtomicBool::new(false));
        thread::scope(|scope| {
            let producers: Vec<_> = (1..=3)
                .map(|producer| {
                    let (delegator, made, dropped) = (Arc::clone(&delegator), &made, &dropped);
                    scope.spawn(move || {
                        let mut random = Random(0x2545_f491_4f6c_dd1d * producer);
                        let submitter = delegator.submitter();
                        let mut open: Vec<JobHandle> = Vec::new();
                        for n in 0..1_500 {
                            made.fetch_add(1, Ordering::Relaxed);
                            let mut job = random_job(&mut random, &submitter, CountOnDrop(dropped.clone()));
                            let (ctx, canceller) = Context::background().with_cancel();
                            if n % 7 == 0 {
                                job = job.with_context(&ctx);
                            }
                            if let Ok(handle) = submitter.enter(FORMS[n % FORMS.len()], job) {
                                open.push(handle);
                            }
                            match random.below(6) {
                                0 => canceller.cancel(),
                                1 => open.iter().rev().take(2).for_each(|handle| {
                                    handle.cancel();
                                }),
                                2 => drop(open.pop().map(|handle| handle.wait())),
                                3 => drop(open.pop()),
                                _ => {}
                            }
                        }
                        assert!(open.into_iter().all(|handle| handle.wait().state().is_finished()));
                    })
                })
                .collect();
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for record in delegator.registry().records() {
                        assert!(record.state().is_finished());
                        assert_eq!(record.payload().is_some(), record.state() == JobState::Completed);
                        assert_eq!(record.error().is_none(), record.state() == JobState::Completed);
                    }
                    thread::yield_now();
                }
            });
            let results: Vec<_> = producers.into_iter().map(|producer| producer.join()).collect();
            stop.store(true, Ordering::Relaxed);
            assert!(results.iter().all(Result::is_ok));
        });
        delegator.wait_idle();
        let stats = delegator.stats();
        assert_balanced(&stats);
        assert_eq!((stats.queued, stats.running), (0, 0));
        assert_eq!(dropped.get(), made.load(Ordering::Relaxed));
        assert!(delegator.registry().len() <= 50);
    });
}

#[test]
fn timed_waits_and_timed_submits_mixed_lose_nothing() {
    within(LIMIT, || {
        let delegator = sized(2, 2);
        let (accepted, ran) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..400_u64 {
                        let ran = Arc::clone(&ran);
                        let job = Job::new("timed", move |_| {
                            ran.fetch_add(1, Ordering::Relaxed);
                            Ok(Vec::new())
                        });
                        let Ok(handle) = delegator.submit_timeout(job, Duration::from_micros(n % 50)) else {
                            continue;
                        };
                        accepted.fetch_add(1, Ordering::Relaxed);
                        while handle.wait_timeout(Duration::from_micros(n % 20)).is_none() {}
                        assert_eq!(handle.state(), JobState::Completed);
                    }
                });
            }
        });
        delegator.wait_idle();
        assert_eq!(ran.load(Ordering::Relaxed), accepted.load(Ordering::Relaxed));
        let stats = delegator.stats();
        assert_eq!((stats.submitted + stats.rejected, stats.completed), (1_600, stats.submitted));
    });
}

#[test]
fn a_context_shared_by_many_jobs_ends_them_all_and_leaves_nothing() {
    within(LIMIT, || {
        let delegator = sized(2, 512);
        for _ in 0..20 {
            let (flag, dropped) = DropFlag::new();
            let (ctx, canceller) = Context::background().with_value("owned", flag).with_cancel();
            let handles: Vec<_> = (0..200)
                .map(|_| {
                    let job = Job::new("member", |ctx| ctx.sleep(FOREVER).map(|()| Vec::new()));
                    delegator.submit(job.with_context(&ctx)).expect("room")
                })
                .collect();
            canceller.cancel_with("all of you");
            for handle in &handles {
                let record = handle.wait();
                assert_eq!(record.state(), JobState::Cancelled);
                assert_eq!(
                    record.error().and_then(|e| e.get_ref()).map(ToString::to_string).as_deref(),
                    Some("all of you")
                );
            }
            delegator.wait_idle();
            drop((ctx, canceller, handles));
            dropped.wait();
        }
    });
}

#[test]
fn a_chain_of_jobs_is_passed_through_many_delegators() {
    within(LIMIT, || {
        let delegators: Vec<_> = (0..5).map(|_| sized(1, 1)).collect();
        let submitters: Vec<_> = delegators.iter().map(Delegator::submitter).collect();
        fn pass_on(submitters: &[Submitter], at: usize) -> Job {
            let owned = submitters.to_vec();
            Job::new("passed on", move |_| match owned.get(at + 1) {
                Some(next) => next.submit(pass_on(&owned, at + 1))?.join(),
                None => Ok(b"the end of the chain".to_vec()),
            })
        }
        for _ in 0..200 {
            let handle = submitters[0].submit(pass_on(&submitters, 0)).expect("room");
            assert_eq!(handle.join().expect("completed"), b"the end of the chain");
        }
        assert!(delegators.iter().all(|delegator| delegator.stats().completed == 200));
    });
}

#[test]
fn handles_are_dropped_by_many_threads_while_their_jobs_end() {
    within(LIMIT, || {
        let delegator = sized(2, 64);
        let dropped = Counter::new();
        for _ in 0..500 {
            let handle = delegator.submit(keeps("owner", CountOnDrop(dropped.clone()))).expect("room");
            thread::scope(|scope| {
                for _ in 0..2 {
                    let handle = handle.clone();
                    scope.spawn(move || drop((handle.done(), handle)));
                }
                drop(handle);
            });
        }
        delegator.wait_idle();
        assert_eq!(dropped.get(), 500);
    });
}
