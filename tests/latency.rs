//! The distributions of queue time, run time and round trip.

mod common;

use std::time::Duration;

use common::{BRIEF, occupy, watchdog, yields};
use workpath::{Delegator, Job, JobRecord, Latencies, Latency};

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
