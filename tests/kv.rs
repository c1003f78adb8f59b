//! The key-values of log lines. A process of its own, because there is one logger in a process. Needs the feature `kv`.

mod common;
#[path = "common/pool.rs"]
mod pool;

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use common::{Gate, delegator, fails, watchdog, yields};
use log::kv::{Error, Key, Value, VisitSource};
use log::{LevelFilter, Log, Metadata, Record};
use pool::obedient;
use workpath::{Context, Delegator, JobHandle};

type Pairs = BTreeMap<String, String>;

#[derive(Default)]
struct Recorder(Mutex<Vec<(String, Pairs)>>);

struct Collect(Pairs);

impl<'kvs> VisitSource<'kvs> for Collect {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        assert!(self.0.insert(key.to_string(), value.to_string()).is_none(), "{key} is there twice");
        Ok(())
    }
}

impl Log for Recorder {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        assert_eq!(record.target(), "workpath");
        let mut collect = Collect(Pairs::new());
        record.key_values().visit(&mut collect).unwrap();
        let line = (record.args().to_string(), collect.0);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    fn flush(&self) {}
}

fn recorder() -> &'static Recorder {
    static RECORDER: OnceLock<&'static Recorder> = OnceLock::new();
    RECORDER.get_or_init(|| {
        let recorder: &'static Recorder = Box::leak(Box::default());
        log::set_logger(recorder).expect("no other logger");
        log::set_max_level(LevelFilter::Trace);
        recorder
    })
}

fn line_with(text: &str) -> (String, Pairs) {
    let lines = recorder().0.lock().unwrap_or_else(PoisonError::into_inner);
    lines.iter().find(|(line, _)| line.contains(text)).expect("a line").clone()
}

/// The pairs of the line about a job, which is what its record reads.
fn pairs_of(handle: &JobHandle) -> Pairs {
    let record = handle.wait();
    let (line, pairs) = line_with(&record.id().to_string());
    assert_eq!(line, record.to_string());
    pairs
}

fn of<'a>(pairs: &'a Pairs, keys: &[&str]) -> Vec<Option<&'a str>> {
    keys.iter().map(|key| pairs.get(*key).map(String::as_str)).collect()
}

#[test]
fn a_line_has_the_job_and_its_numbers() {
    recorder();
    watchdog(|| {
        let delegator = delegator(1);
        let handle = delegator.submit(yields("answer", "secret")).unwrap();
        let record = handle.wait();
        let pairs = pairs_of(&handle);
        let expected = [
            ("job_id", record.id().to_string()),
            ("job_name", "answer".to_owned()),
            ("state", "completed".to_owned()),
            ("worker", "0".to_owned()),
            ("queue_ns", record.queue_time().as_nanos().to_string()),
            ("run_ns", record.run_time().as_nanos().to_string()),
            ("round_trip_ns", record.round_trip_time().as_nanos().to_string()),
        ];
        let expected: Pairs = expected.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        assert_eq!(pairs, expected);
    });
}

#[test]
fn what_does_not_apply_is_left_out() {
    recorder();
    watchdog(|| {
        let delegator = delegator(1);
        let failed = pairs_of(&delegator.submit(fails("broken", "no disk")).unwrap());
        assert_eq!(of(&failed, &["state", "error", "cancelled_by"]), [Some("failed"), Some("no disk"), None]);
        let late = pairs_of(&delegator.submit(yields("late", "").with_timeout(Duration::ZERO)).unwrap());
        assert_eq!(of(&late, &["state", "worker", "cancelled_by"]), [Some("timed_out"), None, None]);
    });
}

#[test]
fn a_cancel_has_its_provenance() {
    recorder();
    watchdog(|| {
        let delegator = delegator(1);
        let (ctx, canceller) = Context::background().with_cancel();
        let started = Gate::new();
        let handle = delegator.submit(obedient("obedient", &started).with_context(&ctx)).unwrap();
        started.wait();
        canceller.cancel_with("enough");
        let pairs = pairs_of(&handle);
        let found = of(&pairs, &["state", "error", "cancelled_by", "inherited"]);
        assert_eq!(found, [Some("cancelled"), Some("cancelled: enough"), Some("user"), Some("true")]);
        assert!(pairs["cancelled_at"].starts_with(file!()));
    });
}

#[test]
fn a_hook_that_panics_has_its_worker() {
    recorder();
    let builder = Delegator::builder().workers(1);
    drop(builder.on_worker_stop(|_| panic!("in the hook of this test")).build().unwrap());
    let (_, pairs) = line_with("in the hook of this test");
    assert_eq!(of(&pairs, &["worker", "job_id"]), [Some("0"), None]);
}
