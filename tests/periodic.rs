//! Jobs by the wall clock, and jobs that come again and again.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{Counter, DropFlag, Gate, delegator, eventually, occupy, watchdog, yields};
use workpath::{
    Context, Delegator, Error, Event, Every, Job, JobState, Manual, Missed, Overflow as OverflowPolicy,
    Overlap, Periodic, PeriodicError, Priority, Retention, Retry, Shutdown,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
/// How often the wall clock is looked at.
const LOOK: Duration = Duration::from_secs(30);

fn work() -> Job {
    yields("work", [1])
}

/// Sleeps for this long.
fn nap(time: Duration) -> Job {
    Job::new("nap", move |ctx: &Context| ctx.sleep(time).map(|()| Vec::new()))
}

fn every(delegator: &Delegator, every: impl Into<Every>) -> Periodic {
    delegator.every(every, work).unwrap()
}

/// When the jobs of this delegator started, in seconds after `start`.
fn starts(delegator: &Manual, start: SystemTime) -> Vec<u64> {
    let records = delegator.registry().records();
    records
        .iter()
        .map(|record| record.started_at().unwrap().duration_since(start).unwrap().as_secs())
        .collect()
}

// The wall clock.

#[test]
fn a_time_of_the_wall_clock_is_kept() {
    let delegator = Delegator::manual();
    let at = delegator.submit(work().not_before(delegator.wall_clock() + HOUR)).unwrap();
    let past = delegator.submit(work().not_before(delegator.wall_clock())).unwrap();
    let long_ago = delegator.submit(work().not_before(UNIX_EPOCH - HOUR)).unwrap();
    assert_eq!((at.state(), past.state()), (JobState::Scheduled, JobState::Queued));
    assert_eq!(long_ago.state(), JobState::Queued);
    assert_eq!((delegator.stats().scheduled, delegator.stats().queued), (1, 2));
    delegator.advance(HOUR - Duration::from_nanos(1));
    assert_eq!(at.state(), JobState::Scheduled);
    delegator.advance(Duration::from_nanos(1));
    assert_eq!(at.wait().queue_time(), HOUR);
    assert_eq!(delegator.stats().scheduled, 0);
}

#[test]
fn a_clock_that_is_set_forward_is_noticed_soon() {
    let delegator = Delegator::manual();
    let noon = delegator.wall_clock() + 10 * HOUR;
    let handle = delegator.submit(work().not_before(noon)).unwrap();
    delegator.advance(HOUR);
    delegator.set_wall_clock(noon + MINUTE);
    assert_eq!(handle.state(), JobState::Scheduled, "nobody has looked");
    delegator.advance(LOOK);
    assert_eq!(handle.state(), JobState::Completed);
}

#[test]
fn a_clock_that_is_set_back_makes_it_wait() {
    let delegator = Delegator::manual();
    let noon = delegator.wall_clock() + HOUR;
    let by_wall = delegator.submit(work().not_before(noon)).unwrap();
    let by_instant = delegator.submit(work().not_before(delegator.now() + HOUR)).unwrap();
    delegator.set_wall_clock(noon - 3 * HOUR);
    delegator.advance(HOUR);
    assert_eq!((by_wall.state(), by_instant.state()), (JobState::Scheduled, JobState::Completed));
    delegator.advance(2 * HOUR - SECOND);
    assert_eq!(by_wall.state(), JobState::Scheduled);
    delegator.advance(SECOND);
    assert_eq!(by_wall.state(), JobState::Completed);
}

#[test]
fn jobs_by_the_wall_clock_start_in_the_order_of_their_times() {
    let delegator = Delegator::manual();
    let start = delegator.wall_clock();
    for seconds in [5, 3, 4, 3] {
        let _ = delegator.submit(work().not_before(start + seconds * SECOND)).unwrap();
    }
    delegator.advance(MINUTE);
    assert_eq!(starts(&delegator, start), [3, 3, 4, 5]);
}

#[test]
fn a_deadline_a_cancel_and_a_shutdown_end_what_waits_for_the_wall_clock() {
    let delegator = Delegator::manual();
    let tomorrow = delegator.wall_clock() + 24 * HOUR;
    let (flag, dropped) = DropFlag::new();
    let late = Job::new("late", move |_| {
        let _ = &flag;
        Ok(Vec::new())
    });
    let late = delegator.submit(late.not_before(tomorrow).with_timeout(SECOND)).unwrap();
    let cancelled = delegator.submit(work().not_before(tomorrow)).unwrap();
    let (session, canceller) = Context::background().with_cancel();
    let ended = delegator.submit(work().not_before(tomorrow).with_context(&session)).unwrap();
    let left = delegator.submit(work().not_before(tomorrow)).unwrap();
    let done = late.done();
    assert!(cancelled.cancel());
    canceller.cancel();
    delegator.advance(SECOND);
    assert!(dropped.is_open() && common::fired(&done));
    assert_eq!(
        (late.state(), cancelled.state(), ended.state()),
        (JobState::TimedOut, JobState::Cancelled, JobState::Cancelled)
    );
    assert_eq!(delegator.stats().scheduled, 1);
    let report = delegator.shutdown(Shutdown::drain());
    assert_eq!((report.unstarted.len(), left.state()), (1, JobState::Cancelled));
}

#[test]
fn threads_keep_the_time_of_the_wall_clock() {
    watchdog(|| {
        let delegator = delegator(1);
        let start = SystemTime::now() + Duration::from_millis(20);
        delegator.submit(work().not_before(start)).unwrap().wait();
        assert!(SystemTime::now() >= start);
        let far = delegator.submit(work().not_before(start + 100 * 365 * 24 * HOUR)).unwrap();
        assert!(far.state() == JobState::Scheduled && far.cancel());
    });
}

#[test]
fn many_jobs_are_cancelled_without_residue() {
    let delegator = Delegator::manual();
    let start = delegator.wall_clock();
    let handles: Vec<_> = (0..10_000_u32)
        .map(|n| {
            let job = work().with_timeout(HOUR);
            let job = if n % 2 == 0 {
                job.with_delay(n * SECOND)
            } else {
                job.not_before(start + (n + 1) * SECOND)
            };
            delegator.submit(job).unwrap()
        })
        .collect();
    assert!(handles.iter().all(|handle| handle.cancel()));
    assert_eq!((delegator.stats().scheduled, delegator.stats().cancelled), (0, 10_000));
    assert_eq!(delegator.advance(100 * HOUR), 0);
    assert!(delegator.wait_idle_timeout(Duration::ZERO));
}

#[test]
fn jobs_that_are_cancelled_wake_nobody() {
    let delegator = Delegator::manual();
    let far = delegator.wall_clock() + 200 * 365 * 24 * HOUR;
    assert!(delegator.submit(work().not_before(far)).unwrap().cancel());
    assert!(every(&delegator, 1000 * HOUR).stop());
    // Nothing is due any more, so this wait panics. With looks at the wall clock it would go on for two centuries.
    let never = delegator.submit(work().with_delay(Duration::MAX)).unwrap();
    assert!(std::panic::catch_unwind(|| never.wait()).is_err());
    assert!(delegator.now() < Instant::now() + 1001 * HOUR);
}

#[test]
fn more_jobs_than_are_released_at_once_are_all_released() {
    let delegator = Delegator::builder().queue_capacity(10_000).manual().unwrap();
    for _ in 0..3000 {
        let _ = delegator.submit(work().with_delay(SECOND)).unwrap();
    }
    assert_eq!(delegator.advance(SECOND), 3000);
}

// Again and again.

#[test]
fn a_fixed_rate_keeps_its_times() {
    let delegator = Delegator::manual();
    let start = delegator.wall_clock();
    let series = delegator.every(10 * SECOND, || nap(3 * SECOND)).unwrap();
    assert_eq!(delegator.advance(35 * SECOND), 3);
    assert_eq!(starts(&delegator, start), [10, 20, 30]);
    assert_eq!((series.submitted(), series.missed()), (3, 0));
}

#[test]
fn a_fixed_delay_counts_from_the_end() {
    let delegator = Delegator::manual();
    let start = delegator.wall_clock();
    let pauses = Every::fixed_delay(10 * SECOND).first_after(Duration::ZERO);
    let series = delegator.every(pauses, || nap(3 * SECOND)).unwrap();
    delegator.advance(40 * SECOND);
    assert_eq!(starts(&delegator, start), [0, 13, 26, 39]);
    assert_eq!((series.submitted(), series.missed()), (4, 0));
}

#[test]
fn a_tick_is_no_job() {
    let delegator = Delegator::manual();
    let events = delegator.subscribe(100);
    let series = every(&delegator, SECOND);
    assert_eq!((delegator.stats().submitted, delegator.stats().scheduled), (0, 0));
    assert!(delegator.wait_idle_timeout(Duration::ZERO));
    delegator.advance(2 * SECOND);
    let stats = delegator.stats();
    assert_eq!((stats.submitted, stats.completed, stats.scheduled, stats.queued), (2, 2, 0, 0));
    assert_eq!(delegator.registry().len(), 2);
    let names: Vec<_> = events
        .try_iter()
        .map(|event| match event {
            Event::Submitted { name, .. } | Event::Started { name, .. } => name.into_owned(),
            Event::Finished(record) => record.name().to_owned(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(names, ["work"; 6]);
    series.stop();
    assert_eq!(delegator.shutdown(Shutdown::drain()).total(), 0);
}

#[test]
fn ticks_that_nobody_has_time_for_are_missed() {
    let run = |missed| {
        let delegator = Delegator::manual();
        let start = delegator.wall_clock();
        let series = every(&delegator, Every::fixed_rate(10 * SECOND).missed(missed));
        // Whoever sleeps turns the clock, and nothing else runs meanwhile.
        delegator.submit(nap(45 * SECOND)).unwrap().wait();
        delegator.advance(15 * SECOND);
        (starts(&delegator, start)[1..].to_vec(), series.submitted(), series.missed())
    };
    assert_eq!(run(Missed::Skip), (vec![45, 50, 60], 3, 3));
    assert_eq!(run(Missed::CatchUp), (vec![45, 45, 50, 60], 4, 2));
}

#[test]
fn a_tick_that_is_a_little_late_is_not_missed() {
    let delegator = Delegator::manual();
    let start = delegator.wall_clock();
    let series = every(&delegator, 10 * SECOND);
    delegator.submit(nap(19 * SECOND)).unwrap().wait();
    delegator.advance(11 * SECOND);
    assert_eq!(starts(&delegator, start)[1..], [19, 20, 30]);
    assert_eq!(series.missed(), 0);
}

#[test]
fn a_job_that_takes_too_long_makes_the_next_wait_or_be_left_out() {
    watchdog(|| {
        for overlap in [Overlap::Skip, Overlap::Queue] {
            let delegator = delegator(2);
            let (started, release) = (Counter::new(), Gate::new());
            let (counter, gate) = (started.clone(), release.clone());
            let every = Every::fixed_rate(Duration::from_millis(2)).overlap(overlap);
            let series = delegator
                .every(every, move || {
                    let (counter, gate) = (counter.clone(), gate.clone());
                    Job::new("long", move |_| {
                        counter.add();
                        gate.wait();
                        Ok(Vec::new())
                    })
                })
                .unwrap();
            started.wait_for(1);
            eventually("ticks are missed", || series.missed() >= 3);
            assert_eq!((started.get(), series.submitted()), (1, 1), "one at a time");
            let missed = series.missed();
            release.open();
            started.wait_for(3);
            assert!(series.stop() && series.missed() >= missed);
        }
    });
}

#[test]
fn a_queued_tick_runs_when_the_job_before_ends() {
    let run = |overlap| {
        let delegator = Delegator::manual();
        let start = delegator.wall_clock();
        let every = Every::fixed_rate(10 * SECOND).overlap(overlap);
        // A job with a delay is about when the next tick comes.
        let series = delegator.every(every, || work().with_delay(14 * SECOND)).unwrap();
        delegator.advance(50 * SECOND);
        (starts(&delegator, start), series.missed())
    };
    assert_eq!(run(Overlap::Skip), (vec![24, 44], 2));
    assert_eq!(run(Overlap::Queue), (vec![24, 38], 1));
}

#[test]
fn a_panic_in_the_function_costs_one_tick() {
    for every in [Every::fixed_rate(SECOND), Every::fixed_delay(SECOND)] {
        let delegator = Delegator::manual();
        let calls = AtomicU32::new(0);
        let series = delegator
            .every(every, move || {
                assert!(calls.fetch_add(1, Ordering::Relaxed) != 1, "the second time");
                work()
            })
            .unwrap();
        delegator.advance(4 * SECOND);
        assert_eq!((series.submitted(), series.missed()), (3, 1));
    }
}

#[test]
fn stop_ends_it_drops_the_function_and_leaves_the_last_job() {
    let delegator = Delegator::manual();
    let (flag, dropped) = DropFlag::new();
    let series = delegator
        .every(SECOND, move || {
            let _ = &flag;
            work().with_delay(HOUR)
        })
        .unwrap();
    delegator.advance(SECOND);
    assert!(!series.is_stopped());
    let text = format!("{series:?}");
    assert!(text.contains("stopped: false, submitted: 1, missed: 0"), "{text}");
    assert!(series.stop() && dropped.is_open() && !series.stop() && series.is_stopped());
    let last = series.last().unwrap();
    assert_eq!(last.state(), JobState::Scheduled);
    delegator.advance(2 * HOUR);
    assert_eq!((last.state(), series.submitted()), (JobState::Completed, 1));
}

#[test]
fn a_series_that_is_stopped_keeps_nothing_until_its_next_time() {
    let delegator = Delegator::builder().retain(Retention::none()).manual().unwrap();
    struct Loud(#[allow(dead_code, reason = "its drop is what matters")] DropFlag);
    impl std::fmt::Debug for Loud {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Loud")
        }
    }
    impl std::fmt::Display for Loud {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("loud")
        }
    }
    impl std::error::Error for Loud {}
    let (flag, dropped) = DropFlag::new();
    let error = workpath::Error::new(Loud(flag));
    let mut error = Some(error);
    let make = move || {
        let error = std::sync::Mutex::new(error.take());
        Job::new("fails", move |_| Err(error.lock().unwrap().take().expect("it runs once")))
    };
    let series = delegator.every(HOUR, make).unwrap();
    delegator.advance(HOUR);
    assert!(series.stop() && !dropped.is_open(), "the last job is remembered");
    drop(series);
    assert!(dropped.is_open());
}

#[test]
fn a_job_that_its_function_makes_after_a_stop_is_not_submitted() {
    let delegator = Delegator::manual();
    let own: Arc<std::sync::Mutex<Option<Periodic>>> = Arc::default();
    let handle = Arc::clone(&own);
    let make = move || {
        assert!(handle.lock().unwrap().as_ref().unwrap().stop());
        work()
    };
    let series = delegator.every(SECOND, make).unwrap();
    *own.lock().unwrap() = Some(series);
    delegator.advance(2 * SECOND);
    let series = own.lock().unwrap().take().unwrap();
    assert_eq!((delegator.stats().submitted, series.submitted()), (0, 0));
}

#[test]
fn the_function_may_stop_its_own_series() {
    watchdog(|| {
        let delegator = delegator(1);
        let own: Arc<std::sync::Mutex<Option<Periodic>>> = Arc::default();
        let (handle, calls) = (Arc::clone(&own), Counter::new());
        let counter = calls.clone();
        let series = delegator
            .every(Duration::from_millis(1), move || {
                if let Some(series) = &*handle.lock().unwrap() {
                    assert!(series.stop());
                    counter.add();
                }
                work()
            })
            .unwrap();
        *own.lock().unwrap() = Some(series);
        calls.wait_for(1);
        eventually("the job is not submitted", || delegator.wait_idle_timeout(Duration::ZERO));
        let submitted = own.lock().unwrap().as_ref().unwrap().submitted();
        assert_eq!(delegator.stats().submitted, submitted);
        assert_eq!(calls.get(), 1);
        own.lock().unwrap().take();
    });
}

#[test]
fn dropping_the_handle_changes_nothing() {
    let delegator = Delegator::manual();
    drop(every(&delegator, SECOND));
    delegator.advance(3 * SECOND);
    assert_eq!(delegator.stats().completed, 3);
}

#[test]
fn a_shutdown_ends_it_in_every_form() {
    for how in [Shutdown::drain(), Shutdown::cancel(), Shutdown::drain().within(SECOND)] {
        for advance in [Duration::ZERO, 10 * SECOND] {
            let delegator = Delegator::manual();
            let (flag, dropped) = DropFlag::new();
            let factory = move || {
                let _ = &flag;
                work()
            };
            let rate = delegator.every(10 * SECOND, factory).unwrap();
            let delay = every(&delegator, Every::fixed_delay(10 * SECOND));
            delegator.advance(advance);
            let report = delegator.shutdown(how);
            assert_eq!(report.total(), 0, "{report:?}");
            assert!(rate.is_stopped() && delay.is_stopped() && dropped.is_open());
            assert_eq!(delegator.advance(HOUR), 0);
            assert_eq!(delegator.every(SECOND, work).unwrap_err(), PeriodicError::ShutDown);
        }
    }
}

#[test]
fn a_tick_in_the_queue_of_a_delegator_that_is_shut_down_comes_to_nothing() {
    watchdog(|| {
        for how in [Shutdown::drain(), Shutdown::cancel()] {
            let delegator = Arc::new(delegator(1));
            let busy = occupy(&delegator);
            let called = Arc::new(AtomicBool::new(false));
            let flag = Arc::clone(&called);
            let series = delegator
                .every(Duration::from_millis(1), move || {
                    flag.store(true, Ordering::Relaxed);
                    work()
                })
                .unwrap();
            eventually("the tick is in the queue", || delegator.stats().places.normal == 1);
            let ending = {
                let delegator = Arc::clone(&delegator);
                std::thread::spawn(move || delegator.shutdown(how))
            };
            eventually("it has begun", || delegator.every(HOUR, work).is_err());
            busy.release();
            let report = ending.join().unwrap();
            assert_eq!((report.total(), report.unstarted.len()), (1, 0), "the busy one alone");
            assert!(series.is_stopped() && !called.load(Ordering::Relaxed));
        }
    });
}

#[test]
fn an_interval_of_zero_is_an_error() {
    let delegator = Delegator::manual();
    for every in [Every::fixed_rate(Duration::ZERO), Every::fixed_delay(Duration::ZERO)] {
        let error = delegator.every(every, work).unwrap_err();
        assert_eq!(error, PeriodicError::ZeroInterval);
        assert_eq!(Error::from(error).to_string(), "an interval of zero has no end of ticks");
    }
}

#[test]
fn the_longest_and_the_shortest_interval_do_no_harm() {
    let delegator = Delegator::manual();
    let never = every(&delegator, Duration::MAX);
    let long = every(&delegator, Every::fixed_rate(Duration::MAX).first_after(SECOND));
    let often = every(&delegator, Duration::from_nanos(1));
    delegator.advance(Duration::from_nanos(100));
    assert_eq!((often.submitted(), often.missed()), (100, 0));
    assert!(often.stop());
    delegator.advance(1000 * HOUR);
    assert_eq!((never.submitted(), long.submitted()), (0, 1));
    assert!(never.stop() && long.stop());
}

#[test]
fn jobs_keep_their_options() {
    let delegator = Delegator::manual();
    let calls = AtomicU32::new(0);
    let series = delegator
        .every(MINUTE, move || {
            let fails = calls.fetch_add(1, Ordering::Relaxed) == 0;
            let first = AtomicBool::new(fails);
            let job = Job::new("flaky", move |_| {
                if first.swap(false, Ordering::Relaxed) { Err("once".into()) } else { Ok(Vec::new()) }
            });
            job.with_priority(Priority::High).with_timeout(10 * SECOND).with_retry(Retry::fixed(SECOND))
        })
        .unwrap();
    delegator.advance(2 * MINUTE);
    let attempts: Vec<_> = delegator.registry().records().iter().map(|record| record.attempts()).collect();
    assert_eq!((attempts, series.submitted()), (vec![2, 1], 2));
}

#[test]
fn a_tick_in_a_full_queue_gives_way_and_comes_back() {
    watchdog(|| {
        let delegator = Delegator::builder().workers(1).queue_capacity(1).build().unwrap();
        let busy = occupy(&delegator);
        let series = every(&delegator, Every::fixed_delay(HOUR).first_after(Duration::ZERO));
        eventually("the tick is in the queue", || delegator.stats().places.normal == 1);
        let job = delegator.submit_with(yields("pushes", []), OverflowPolicy::DropOldest).unwrap();
        assert_eq!((delegator.stats().dropped, delegator.stats().cancelled), (0, 0));
        busy.release();
        job.wait();
        eventually("it has its turn", || series.submitted() == 1);
        delegator.wait_idle();
        assert_eq!((delegator.stats().submitted, delegator.stats().completed), (3, 3));
    });
}

#[test]
fn a_hand_off_and_a_single_worker_are_enough() {
    watchdog(|| {
        let delegator = Delegator::builder().workers(1).queue_capacity(0).build().unwrap();
        let (ran, start) = (Counter::new(), Instant::now());
        let counter = ran.clone();
        let interval = Duration::from_millis(2);
        let series = delegator
            .every(interval, move || {
                let counter = counter.clone();
                Job::new("count", move |_| {
                    counter.add();
                    Ok(Vec::new())
                })
            })
            .unwrap();
        ran.wait_for(5);
        assert!(start.elapsed() >= 5 * interval);
        assert!(series.stop());
        delegator.shutdown(Shutdown::drain());
        assert_eq!(ran.get() as u64, series.submitted());
    });
}

#[test]
fn a_step_is_one_job_also_where_a_tick_made_it() {
    let delegator = Delegator::builder().queue_capacity(1).manual().unwrap();
    let low = || work().with_priority(Priority::Low);
    let queued = delegator.submit(low()).unwrap();
    let series = delegator.every(Every::fixed_delay(HOUR).first_after(Duration::ZERO), low).unwrap();
    // The tick goes first, and there is no room for its job.
    assert!(delegator.step());
    assert_eq!((series.last().unwrap().state(), queued.state()), (JobState::Completed, JobState::Queued));
    drop(delegator);

    let delegator = Delegator::builder().default_timeout(Duration::ZERO).manual().unwrap();
    let series = every(&delegator, SECOND);
    assert_eq!(delegator.advance(SECOND), 0, "a job without any time does not run");
    assert_eq!(series.last().unwrap().state(), JobState::TimedOut);
}

#[test]
fn series_of_the_same_delegator_do_not_disturb_each_other() {
    let delegator = Delegator::manual().seeded(7);
    let all: Vec<_> = (1..=10).map(|n| every(&delegator, n * SECOND)).collect();
    delegator.advance(MINUTE);
    let submitted: Vec<_> = all.iter().map(Periodic::submitted).collect();
    assert_eq!(submitted, [60, 30, 20, 15, 12, 10, 8, 7, 6, 6]);
    assert!(all.iter().all(|series| series.missed() == 0));
}
