//! The distributions of queue time, run time and round trip.

mod common;

use std::time::Duration;

use common::{BRIEF, Gate, gated, occupy, watchdog, yields};
use workpath::{Delegator, Job, JobRecord, Latencies, LatenciesByName, Latency, Overflow};

fn delegator(workers: usize) -> Delegator {
    Delegator::builder().workers(workers).latencies(true).build().expect("a delegator")
}

#[test]
fn nothing_is_recorded_unless_asked_for() {
    let delegator = common::delegator(1);
    delegator.submit(yields("work", "")).unwrap().wait();
    assert_eq!(delegator.latencies(), Latencies::default());
}

#[test]
fn every_finished_job_counts_when_its_wait_returns() {
    watchdog(|| {
        let delegator = delegator(3);
        for n in 1..=200 {
            delegator.submit(yields("work", "")).unwrap().wait();
            let latencies = delegator.latencies();
            assert_eq!(latencies.queue_time.count(), n);
            assert_eq!(latencies.run_time.count(), n);
            assert_eq!(latencies.round_trip_time.count(), n);
        }
    });
}

#[test]
fn the_longest_times_are_those_of_the_records() {
    watchdog(|| {
        let delegator = delegator(2);
        let nap = || Job::new("nap", |ctx| ctx.sleep(BRIEF).map(|()| Vec::new()));
        let handles: Vec<_> = (0..6).map(|_| delegator.submit(nap()).unwrap()).collect();
        let records: Vec<_> = handles.iter().map(|handle| handle.wait()).collect();
        let longest = |time: fn(&JobRecord) -> Duration| records.iter().map(time).max();
        let latencies = delegator.latencies();
        assert_eq!(Some(latencies.queue_time.max()), longest(JobRecord::queue_time));
        assert_eq!(Some(latencies.run_time.max()), longest(JobRecord::run_time));
        assert_eq!(Some(latencies.round_trip_time.max()), longest(JobRecord::round_trip_time));
        assert!(latencies.run_time.quantile(0.0) >= BRIEF);
    });
}

#[test]
fn the_quantiles_with_names_are_what_they_say() {
    let delegator = Delegator::builder().latencies(true).manual().unwrap();
    for seconds in 1..=200 {
        let nap = Job::new("nap", move |ctx| ctx.sleep(Duration::from_secs(seconds)).map(|()| Vec::new()));
        delegator.submit(nap).unwrap().wait();
    }
    let times = delegator.latencies().run_time;
    for (quantile, seconds) in [(times.p50(), 100.0), (times.p90(), 180.0), (times.p99(), 198.0)] {
        let ratio = quantile.as_secs_f64() / seconds;
        assert!((1.0..1.07).contains(&ratio), "{times} instead of {seconds}s");
    }
}

#[test]
fn a_job_that_never_started_has_waited_and_not_run() {
    watchdog(|| {
        let delegator = delegator(1);
        let busy = occupy(&delegator);
        let record = delegator.submit(yields("late", "").with_timeout(BRIEF)).unwrap().wait();
        let latencies = delegator.latencies();
        assert_eq!(latencies.queue_time.max(), record.queue_time());
        assert_eq!(latencies.round_trip_time.count(), 1);
        assert_eq!(latencies.run_time, Latency::default());
        drop(busy);
    });
}

#[test]
fn jobs_inside_jobs_count() {
    watchdog(|| {
        let delegator = delegator(1);
        let submitter = delegator.submitter();
        let outer = Job::new("outer", move |_| submitter.submit(yields("inner", ""))?.join());
        delegator.submit(outer).unwrap().wait();
        assert_eq!(delegator.latencies().run_time.count(), 2);
    });
}

#[test]
fn an_interval_counts_what_came_in_it() {
    watchdog(|| {
        let delegator = delegator(2);
        for _ in 0..10 {
            delegator.submit(yields("before", "")).unwrap().wait();
        }
        let (stats, latencies) = (delegator.stats(), delegator.latencies());
        for _ in 0..7 {
            delegator.submit(yields("after", "")).unwrap().wait();
        }
        assert_eq!(delegator.latencies().since(&latencies).round_trip_time.count(), 7);
        let since = delegator.stats().since(&stats);
        assert_eq!((since.submitted, since.completed), (7, 7));
        assert_eq!(stats.since(&delegator.stats()).completed, 0);
    });
}

#[test]
fn names_are_counted_by_themselves_as_far_as_there_is_room() {
    watchdog(|| {
        let delegator = Delegator::builder().workers(3).latencies_by_name(2).build().unwrap();
        for name in ["a", "b", "a", "c", "d", "a", "c"] {
            delegator.submit(Job::new(name, |_| Ok(Vec::new()))).unwrap().wait();
        }
        let by_name = delegator.latencies_by_name();
        let counts: Vec<_> = by_name.names.iter().map(|(name, l)| (&**name, l.run_time.count())).collect();
        assert_eq!(counts, [("a", 3), ("b", 1)]);
        assert_eq!(by_name.others.round_trip_time.count(), 3);
        assert_eq!(delegator.latencies().queue_time.count(), 7);
    });
}

#[test]
fn a_name_is_one_on_all_workers_and_without_any() {
    watchdog(|| {
        let delegator = Delegator::builder().workers(4).latencies_by_name(1).build().unwrap();
        let started: Vec<_> = (0..4).map(|_| Gate::new()).collect();
        let release = Gate::new();
        let handles: Vec<_> = started
            .iter()
            .map(|started| delegator.submit(gated("one", started, &release)).unwrap())
            .collect();
        started.iter().for_each(Gate::wait); // every worker has one
        let late = delegator.submit(yields("one", "").with_timeout(BRIEF)).unwrap().wait();
        release.open();
        handles.iter().for_each(|handle| drop(handle.wait()));
        let by_name = delegator.latencies_by_name();
        assert_eq!(by_name.names["one"].run_time.count(), 4);
        assert_eq!(by_name.names["one"].queue_time.count(), 5);
        assert!(by_name.names["one"].queue_time.max() >= late.queue_time());
        assert_eq!(by_name.others, Latencies::default());
    });
}

#[test]
fn the_number_of_names_is_bounded_by_all_workers_together() {
    watchdog(|| {
        let delegator = Delegator::builder().workers(4).latencies_by_name(5).build().unwrap();
        let jobs = (0..400).map(|n| Job::new(format!("job {}", n % 40), |_| Ok(Vec::new())));
        delegator.submit_all(jobs).unwrap();
        delegator.wait_idle();
        let by_name = delegator.latencies_by_name();
        assert_eq!(by_name.names.len(), 5);
        let named: u64 = by_name.names.values().map(|latencies| latencies.run_time.count()).sum();
        assert_eq!(named + by_name.others.run_time.count(), 400);
        assert_eq!(named, 50);
    });
}

#[test]
fn an_interval_has_the_names_that_came_in_it() {
    let delegator = Delegator::builder().latencies_by_name(3).manual().unwrap();
    let run = |name: &'static str| delegator.submit(yields(name, "")).unwrap().wait();
    run("before");
    run("both");
    let earlier = delegator.latencies_by_name();
    run("both");
    run("after");
    let since = delegator.latencies_by_name().since(&earlier);
    let counts: Vec<_> = since.names.iter().map(|(name, l)| (&**name, l.run_time.count())).collect();
    assert_eq!(counts, [("after", 1), ("both", 1)]);
}

#[test]
fn without_names_there_are_none() {
    let delegator = delegator(1);
    delegator.submit(yields("work", "")).unwrap().wait();
    assert_eq!(delegator.latencies_by_name(), LatenciesByName::default());
    assert_eq!(delegator.latencies().run_time.count(), 1);
}

#[test]
fn a_job_that_its_submitter_runs_counts_under_its_name() {
    watchdog(|| {
        let delegator =
            Delegator::builder().workers(1).queue_capacity(0).latencies_by_name(2).build().unwrap();
        let busy = occupy(&delegator);
        delegator.submit_with(yields("here", ""), Overflow::CallerRuns).unwrap().wait();
        let by_name = delegator.latencies_by_name();
        assert_eq!(by_name.names["here"].run_time.count(), 1);
        drop(busy);
    });
}

#[test]
fn of_two_wishes_about_latencies_the_last_counts() {
    let recorded = |builder: workpath::Builder| {
        let delegator = builder.manual().unwrap();
        delegator.submit(Job::new("work", |_| Ok(Vec::new()))).unwrap().wait();
        (delegator.latencies().run_time.count(), delegator.latencies_by_name().names.len())
    };
    let builder = Delegator::builder;
    assert_eq!(recorded(builder().latencies_by_name(4)), (1, 1));
    assert_eq!(recorded(builder().latencies_by_name(4).latencies(true)), (1, 1));
    assert_eq!(recorded(builder().latencies_by_name(4).latencies(false)), (0, 0));
    assert_eq!(recorded(builder().latencies(true).latencies_by_name(0)), (1, 0));
    assert_eq!(recorded(builder().latencies_by_name(0)), (0, 0));
}
