//! Records, numbers, statuses and events as data. Needs the feature `serde`.

mod common;

use std::time::{Duration, UNIX_EPOCH};

use common::{FOREVER, Gate, delegator, fails, occupy, panics, watchdog, yields};
use serde_json::{Value, from_str, from_value, json, to_string, to_value};
use workpath::{
    Context, Delegator, Error, ErrorKind, Event, Job, JobId, JobState, Latencies, LatenciesByName, Latency,
    Origin, Priority, Shutdown, Stats, SubmitErrorKind,
};

/// The names of the fields, sorted.
fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn a_record_has_everything_but_the_payload() {
    watchdog(|| {
        let delegator = delegator(1);
        let record = delegator.submit(yields("answer", "secret")).unwrap().wait();
        let value = to_value(&record).unwrap();
        let millis = |time: std::time::SystemTime| time.duration_since(UNIX_EPOCH).unwrap().as_millis();
        let nanos = |time: Duration| time.as_nanos();
        assert_eq!(
            value,
            json!({
                "id": record.id().to_string(),
                "name": "answer",
                "state": "completed",
                "worker": 0,
                "attempts": 1,
                "created_unix_ms": millis(record.created_at()) as u64,
                "started_unix_ms": millis(record.started_at().unwrap()) as u64,
                "completed_unix_ms": millis(record.completed_at()) as u64,
                "queue_ns": nanos(record.queue_time()) as u64,
                "run_ns": nanos(record.run_time()) as u64,
                "round_trip_ns": nanos(record.round_trip_time()) as u64,
                "overrun_ns": null,
                "payload_bytes": 6,
                "error": null,
                "checkpoint": null,
                "progress": null,
            })
        );
        assert!(!to_string(&record).unwrap().contains("secret"));
    });
}

#[test]
fn a_record_of_a_job_that_failed_has_the_error() {
    watchdog(|| {
        let delegator = delegator(1);
        let value = |job| to_value(delegator.submit(job).unwrap().wait()).unwrap();
        let failed = value(fails("broken", "no \"disk\""));
        assert_eq!(failed["error"], json!({"kind": "operation", "text": "no \"disk\"", "why": null}));
        assert_eq!(failed["payload_bytes"], Value::Null);
        assert_eq!(value(panics("panics", "boom"))["error"]["kind"], "panicked");
        let late = value(yields("late", "").with_timeout(Duration::ZERO));
        assert_eq!(
            (&late["state"], &late["started_unix_ms"], &late["worker"]),
            (&json!("timed_out"), &Value::Null, &Value::Null)
        );
        assert_eq!(late["error"]["why"]["origin"], "deadline");
    });
}

#[test]
fn an_error_says_who_cancelled_where_and_when() {
    let (ctx, canceller) = Context::background().with_cancel();
    let (child, _own) = ctx.with_cancel();
    let before = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    canceller.cancel_with("enough");
    let value = to_value(child.error().unwrap()).unwrap();
    assert_eq!((&value["kind"], &value["text"]), (&json!("cancelled"), &json!("cancelled: enough")));
    let why = &value["why"];
    assert_eq!(keys(why), ["at_unix_ms", "inherited", "location", "origin"]);
    assert_eq!((&why["origin"], &why["inherited"]), (&json!("user"), &json!(true)));
    assert!(why["location"].as_str().unwrap().starts_with(file!()));
    assert!(why["at_unix_ms"].as_u64().unwrap().abs_diff(before) < 60_000);
}

#[test]
fn names_of_states_and_kinds_are_single_words_and_come_back() {
    fn there_and_back<T>(values: &[(T, &str)])
    where
        T: serde_core::Serialize + serde_core::de::DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        for (value, token) in values {
            assert_eq!(to_value(value).unwrap(), json!(token));
            assert_eq!(from_value::<T>(json!(token)).unwrap(), *value);
        }
        let error = from_value::<T>(json!("nonsense")).unwrap_err().to_string();
        assert!(error.contains("\"nonsense\""), "{error}");
    }
    there_and_back(&[
        (JobState::Scheduled, "scheduled"),
        (JobState::Queued, "queued"),
        (JobState::Running, "running"),
        (JobState::Completed, "completed"),
        (JobState::Failed, "failed"),
        (JobState::Panicked, "panicked"),
        (JobState::Cancelled, "cancelled"),
        (JobState::TimedOut, "timed_out"),
    ]);
    there_and_back(&[(Priority::High, "high"), (Priority::Normal, "normal"), (Priority::Low, "low")]);
    there_and_back(&[
        (ErrorKind::Operation, "operation"),
        (ErrorKind::Panicked, "panicked"),
        (ErrorKind::Cancelled, "cancelled"),
        (ErrorKind::DeadlineExceeded, "deadline_exceeded"),
    ]);
    there_and_back(&[
        (SubmitErrorKind::Full, "full"),
        (SubmitErrorKind::Timeout, "timeout"),
        (SubmitErrorKind::ShutDown, "shut_down"),
        (SubmitErrorKind::WouldMissDeadline, "would_miss_deadline"),
    ]);
    there_and_back(&[
        (Origin::User, "user"),
        (Origin::Deadline, "deadline"),
        (Origin::JobSet, "job_set"),
        (Origin::Shutdown, "shutdown"),
        (Origin::OrderQueue, "order_queue"),
        (Origin::Displaced, "displaced"),
    ]);
}

#[test]
fn an_id_is_its_text() {
    let id = yields("work", "").id();
    let text = to_string(&id).unwrap();
    assert_eq!(text, format!("\"{id}\""));
    assert_eq!(from_str::<JobId>(&text).unwrap(), id);
    assert!(from_str::<JobId>("\"nonsense\"").is_err());
}

#[test]
fn stats_come_back_as_they_were() {
    watchdog(|| {
        let delegator = delegator(1);
        let busy = occupy(&delegator);
        let handles = [
            delegator.submit(yields("queued", "").with_priority(Priority::Low)).unwrap(),
            delegator.submit(yields("later", "").with_delay(FOREVER)).unwrap(),
        ];
        let stats = delegator.stats();
        let value = to_value(stats).unwrap();
        assert_eq!(
            value,
            json!({
                "scheduled": 1, "queued": 1, "running": 1, "stuck": 0, "submitted": 3, "completed": 0, "failed": 0,
                "panicked": 0, "cancelled": 0, "timed_out": 0, "retried": 0, "rejected": 0,
                "dropped": 0, "keys": 0,
                "places": {"high": 0, "normal": 0, "low": 1},
            })
        );
        assert_eq!(from_value::<Stats>(value).unwrap(), stats);
        drop((busy, handles));
    });
}

#[test]
fn who_reads_knows_neither_all_fields_nor_all_that_come_later() {
    let stats: Stats = from_str(r#"{"completed": 7, "invented": {"a": [1]}}"#).unwrap();
    assert_eq!((stats.completed, stats.submitted), (7, 0));
    assert!(from_str::<Stats>(r#"{"completed": "seven"}"#).is_err());
    assert!(from_str::<Stats>("7").is_err());
}

#[test]
fn distributions_come_back_with_all_their_buckets() {
    watchdog(|| {
        let delegator = Delegator::builder().workers(2).latencies_by_name(1).build().unwrap();
        for n in 0..20 {
            let name = if n % 2 == 0 { "even" } else { "odd" };
            delegator.submit(Job::new(name, |_| Ok(Vec::new()))).unwrap().wait();
        }
        let latencies = delegator.latencies();
        let value = to_value(&latencies).unwrap();
        assert_eq!(keys(&value), ["queue_time", "round_trip_time", "run_time"]);
        let run_time = &value["run_time"];
        assert_eq!(keys(run_time), ["buckets", "count", "max_ns", "p50_ns", "p90_ns", "p99_ns"]);
        assert_eq!(run_time["count"], 20);
        assert_eq!(run_time["p99_ns"], latencies.run_time.p99().as_nanos() as u64);
        assert_eq!(from_value::<Latencies>(value).unwrap(), latencies);
        let by_name = delegator.latencies_by_name();
        assert_eq!(from_str::<LatenciesByName>(&to_string(&by_name).unwrap()).unwrap(), by_name);
        assert_eq!(to_value(&by_name).unwrap()["names"]["even"]["run_time"]["count"], 10);
    });
}

#[test]
fn a_distribution_of_nonsense_is_one_all_the_same() {
    let latency: Latency = from_str(
        r#"{"max_ns": 5, "count": 99, "buckets": [[18446744073709551615, 3], [7, 0], [7, 18446744073709551615], [7, 1]]}"#,
    )
    .unwrap();
    assert_eq!(latency.count(), u64::MAX);
    assert!(latency.p99() <= latency.max());
    let nothing: Latency = from_str(r#"{"max_ns": 0, "count": 0, "buckets": [[7, 0]]}"#).unwrap();
    assert_eq!(nothing, Latency::default());
}

#[test]
fn workers_say_what_they_run() {
    watchdog(|| {
        let delegator = delegator(1);
        let (started, release) = (Gate::new(), Gate::new());
        let (tell, open) = (started.clone(), release.clone());
        let job = Job::new("work", move |ctx| {
            ctx.checkpoint("half way")?;
            ctx.progress(1, 2);
            tell.open();
            open.wait();
            Ok(Vec::new())
        });
        assert_eq!(to_value(&delegator.workers()[0]).unwrap()["running"], Value::Null);
        let handle = delegator.submit(job).unwrap();
        started.wait();
        let value = to_value(&delegator.workers()[0]).unwrap();
        let names = [
            "checkpoint",
            "index",
            "job_name",
            "overdue_ns",
            "progress",
            "running",
            "running_for_ns",
            "stuck",
            "thread_name",
        ];
        assert_eq!(keys(&value), names);
        assert_eq!((&value["index"], &value["thread_name"]), (&json!(0), &json!("workpath-0")));
        assert_eq!(
            (&value["running"], &value["job_name"]),
            (&json!(handle.id().to_string()), &json!("work"))
        );
        assert!(value["running_for_ns"].is_u64());
        release.open();
        let record = to_value(handle.wait()).unwrap();
        let said = handle.checkpoint().expect("it said so").time();
        let said = u64::try_from(said.duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
        for told in [&value, &record] {
            assert_eq!(told["checkpoint"]["at_unix_ms"], json!(said));
            assert_eq!(told["progress"], json!({"done": 1, "total": 2}));
            assert_eq!(keys(&told["checkpoint"]), ["at_unix_ms", "file", "line", "text"]);
            assert_eq!(
                (&told["checkpoint"]["text"], &told["checkpoint"]["file"]),
                (&json!("half way"), &json!(file!()))
            );
        }
    });
}

#[test]
fn events_say_which_they_are() {
    watchdog(|| {
        let delegator = delegator(1);
        let events = delegator.subscribe(100);
        let job = Job::new("work", |ctx| ctx.checkpoint("here").map(|()| Vec::new()));
        let id = delegator.submit(job).unwrap().wait().id().to_string();
        delegator.shutdown(Shutdown::drain());
        let _ = delegator.try_submit(yields("refused", ""));
        let values: Vec<Value> = events.iter().map(|event| to_value(event).unwrap()).collect();
        assert_eq!(values[0], json!({"event": "submitted", "id": id, "name": "work"}));
        assert_eq!(values[1], json!({"event": "started", "id": id, "name": "work", "worker": 0}));
        assert_eq!(keys(&values[2]), ["checkpoint", "event", "id", "name", "worker"]);
        assert_eq!(
            (&values[2]["event"], &values[2]["checkpoint"]["text"]),
            (&json!("checkpoint"), &json!("here"))
        );
        assert_eq!((&values[3]["event"], &values[3]["record"]["id"]), (&json!("finished"), &json!(id)));
        assert_eq!(values[4], json!({"event": "shutting_down"}));
        assert_eq!(to_value(Event::Missed(7)).unwrap(), json!({"event": "missed", "count": 7}));
    });
}

#[test]
fn a_refusal_says_why() {
    watchdog(|| {
        let delegator = Delegator::builder().workers(1).queue_capacity(1).build().unwrap();
        let busy = occupy(&delegator);
        let _queued = delegator.try_submit(yields("queued", "")).unwrap();
        let events = delegator.subscribe(100);
        let id = delegator.try_submit(yields("refused", "")).unwrap_err().into_job().id().to_string();
        let value = to_value(events.iter().nth(1).unwrap()).unwrap();
        assert_eq!(value, json!({"event": "rejected", "id": id, "name": "refused", "why": "full"}));
        drop(busy);
    });
}

#[test]
fn a_job_that_joins_another_says_which() {
    let delegator = Delegator::manual();
    let other = delegator.coalesce("key", yields("other", "")).unwrap().into_handle();
    let events = delegator.subscribe(10);
    let _joined = delegator.coalesce("key", yields("joins", "")).unwrap();
    let value = to_value(events.iter().nth(1).unwrap()).unwrap();
    assert_eq!((&value["event"], &value["name"]), (&json!("joined"), &json!("joins")));
    assert_eq!(value["to"], json!(other.id().to_string()));
}

#[test]
fn a_report_names_what_was_not_started() {
    watchdog(|| {
        let delegator = delegator(1);
        let later = delegator.submit(yields("later", "").with_delay(FOREVER)).unwrap();
        let value = to_value(delegator.shutdown(Shutdown::drain())).unwrap();
        assert_eq!(
            value,
            json!({
                "total": 1, "completed": 0, "failed": 0, "cancelled": 0, "stuck": [],
                "unstarted": [{"id": later.id().to_string(), "name": "later"}],
            })
        );
    });
}

#[test]
fn an_error_of_the_user_is_its_text() {
    let value = to_value(Error::new(std::fmt::Error)).unwrap();
    assert_eq!(value["text"], std::fmt::Error.to_string());
}
