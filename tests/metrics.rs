//! What a recorder of the `metrics` facade gets. Needs the feature `metrics`.

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::{FOREVER, delegator, fails, occupy, panics, watchdog, yields};
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use workpath::{Delegator, Job};

/// Keeps the last value under the name and the labels.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<BTreeMap<String, f64>>>);

struct Cell(Kept, String);

impl Kept {
    fn put(&self, key: &str, value: f64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned(), value);
    }

    fn get(&self, key: &str) -> Option<f64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).copied()
    }

    fn keys_with(&self, text: &str) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().filter(|key| key.contains(text)).count()
    }

    fn cell(&self, key: &Key) -> Arc<Cell> {
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        Arc::new(Cell(self.clone(), format!("{}{{{}}}", key.name(), labels.join(","))))
    }
}

impl CounterFn for Cell {
    fn increment(&self, _: u64) {
        panic!("counters are absolute");
    }

    fn absolute(&self, value: u64) {
        self.0.put(&self.1, value as f64);
    }
}

impl GaugeFn for Cell {
    fn increment(&self, _: f64) {
        panic!("gauges are set");
    }

    fn decrement(&self, _: f64) {
        panic!("gauges are set");
    }

    fn set(&self, value: f64) {
        self.0.put(&self.1, value);
    }
}

impl Recorder for Kept {
    fn describe_counter(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
        self.put(&format!("described {}", key.as_str()), 0.0);
    }

    fn describe_gauge(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
        self.put(&format!("described {}", key.as_str()), 0.0);
    }

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.cell(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.cell(key))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

fn recorded(delegator: &Delegator) -> Kept {
    let kept = Kept::default();
    metrics::with_local_recorder(&kept, || delegator.record_metrics());
    kept
}

#[test]
fn the_numbers_are_those_of_the_stats() {
    watchdog(|| {
        let delegator =
            Delegator::builder().workers(1).queue_capacity(1).thread_name("import").build().unwrap();
        delegator.submit(yields("good", "")).unwrap().wait();
        delegator.submit(fails("bad", "bad")).unwrap().wait();
        delegator.submit(panics("worse", "worse")).unwrap().wait();
        delegator.submit(yields("late", "").with_timeout(Duration::ZERO)).unwrap().wait();
        let busy = occupy(&delegator);
        let _later = delegator.submit(yields("later", "").with_delay(FOREVER)).unwrap();
        let queued = delegator.submit(yields("queued", "")).unwrap();
        assert!(delegator.try_submit(yields("refused", "")).is_err());
        queued.cancel();

        let kept = recorded(&delegator);
        let stats = delegator.stats();
        let finished = |state| format!("workpath_jobs_finished_total{{delegator=import,state={state}}}");
        let jobs = |state| format!("workpath_jobs{{delegator=import,state={state}}}");
        for (key, value) in [
            ("workpath_jobs_submitted_total{delegator=import}".to_owned(), stats.submitted as f64),
            ("workpath_jobs_rejected_total{delegator=import}".to_owned(), 1.0),
            ("workpath_jobs_stuck{delegator=import}".to_owned(), 0.0),
            ("workpath_jobs_retried_total{delegator=import}".to_owned(), 0.0),
            ("workpath_jobs_dropped_total{delegator=import}".to_owned(), 0.0),
            (finished("completed"), stats.completed as f64),
            (finished("failed"), 1.0),
            (finished("panicked"), 1.0),
            (finished("cancelled"), 1.0),
            (finished("timed_out"), 1.0),
            (jobs("scheduled"), 1.0),
            (jobs("queued"), 0.0),
            (jobs("running"), 1.0),
            (
                "workpath_queue_places{delegator=import,priority=normal}".to_owned(),
                stats.places.normal as f64,
            ),
            ("workpath_workers{delegator=import}".to_owned(), 1.0),
        ] {
            assert_eq!(kept.get(&key), Some(value), "{key}");
        }
        assert_eq!(kept.keys_with("_seconds"), 0); // nobody asked for latencies
        drop(busy);
    });
}

#[test]
fn recording_again_changes_nothing_by_itself() {
    watchdog(|| {
        let delegator = delegator(1);
        delegator.submit(yields("work", "")).unwrap().wait();
        let kept = recorded(&delegator);
        metrics::with_local_recorder(&kept, || delegator.record_metrics());
        assert_eq!(kept.get("workpath_jobs_submitted_total{delegator=workpath}"), Some(1.0));
    });
}

#[test]
fn latencies_are_quantiles_in_seconds_and_by_name_once_more() {
    let delegator = Delegator::builder().latencies_by_name(1).manual().unwrap();
    for name in ["nap", "other"] {
        let nap = Job::new(name, |ctx| ctx.sleep(Duration::from_secs(2)).map(|()| Vec::new()));
        delegator.submit(nap).unwrap().wait();
    }
    let kept = recorded(&delegator);
    for quantile in ["0.5", "0.9", "0.99", "1"] {
        for job in ["", ",job=nap", ",job="] {
            let key = format!("workpath_run_seconds{{delegator=workpath{job},quantile={quantile}}}");
            let seconds = kept.get(&key).unwrap_or_else(|| panic!("{key} is missing"));
            assert!((2.0..2.2).contains(&seconds), "{key}: {seconds}");
        }
    }
    assert_eq!(kept.keys_with("workpath_queue_seconds"), 12);
    assert_eq!(kept.keys_with("workpath_round_trip_seconds"), 12);
}

#[test]
fn every_number_is_described() {
    let delegator = Delegator::builder().latencies(true).manual().unwrap();
    delegator.submit(yields("work", "")).unwrap().wait();
    let kept = recorded(&delegator);
    metrics::with_local_recorder(&kept, Delegator::describe_metrics);
    let all = kept.0.lock().unwrap();
    let names: Vec<_> = all.keys().filter_map(|key| key.split_once('{')).map(|(name, _)| name).collect();
    assert!(names.len() > 20);
    for name in names {
        assert!(all.contains_key(&format!("described {name}")), "{name}");
    }
}
