//! The registry as a Chrome trace.

mod common;

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::time::Duration;

use common::{BRIEF, PATIENCE, delegator, fails, occupy, panics, watchdog, yields};
use serde_json::Value;
use workpath::{Delegator, Error, Job, JobRecord, Retention};

fn trace(delegator: &Delegator) -> Vec<Value> {
    let mut bytes = Vec::new();
    delegator.registry().write_trace(&mut bytes).expect("a vector takes everything");
    let trace: Value = serde_json::from_slice(&bytes).expect("JSON");
    trace["traceEvents"].as_array().expect("a list of events").clone()
}

/// The events with this phase that belong to the job.
fn of<'a>(events: &'a [Value], phase: &str, record: &JobRecord) -> Vec<&'a Value> {
    let id = record.id().to_string();
    events
        .iter()
        .filter(|e| e["ph"] == phase && (e["id"] == id.as_str() || e["args"]["id"] == id.as_str()))
        .collect()
}

fn micros(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

fn near(left: f64, right: Duration) -> bool {
    (left - right.as_secs_f64() * 1e6).abs() < 0.01
}

#[test]
fn an_empty_registry_is_an_empty_trace() {
    let events = trace(&delegator(1));
    assert!(events.iter().all(|event| event["ph"] == "M"), "{events:?}");
}

#[test]
fn a_job_waits_on_a_track_and_runs_on_the_lane_of_its_worker() {
    watchdog(|| {
        let delegator = delegator(2);
        let nap = Job::new("nap", |ctx| ctx.sleep(BRIEF).map(|()| Vec::new()));
        let late = Job::new("late", |ctx| ctx.sleep(PATIENCE).map(|()| Vec::new()));
        let late = late.with_timeout(Duration::from_millis(300));
        let handles: Vec<_> = [late, nap, fails("bad", "no disk"), panics("ugly", "boom")]
            .into_iter()
            .map(|job| delegator.submit(job).unwrap())
            .collect();
        let records: Vec<_> = handles.iter().map(|handle| handle.wait()).collect();
        let events = trace(&delegator);
        for (record, colour) in records.iter().zip(["yellow", "good", "bad", "terrible"]) {
            let [begin] = of(&events, "b", record)[..] else { panic!("{events:?}") };
            let [end] = of(&events, "e", record)[..] else { panic!("{events:?}") };
            let [run] = of(&events, "X", record)[..] else { panic!("{events:?}") };
            assert_eq!(run["name"], record.name());
            assert_eq!(run["cname"], colour);
            assert_eq!(run["args"]["state"], record.state().to_string());
            assert!(near(micros(&end["ts"]) - micros(&begin["ts"]), record.queue_time()));
            assert!(near(micros(&run["ts"]) - micros(&begin["ts"]), record.queue_time()));
            assert!(near(micros(&run["dur"]), record.run_time()));
            let lane = events.iter().find(|e| e["name"] == "thread_name" && e["tid"] == run["tid"]);
            let name = format!("worker {}", record.worker().expect("it ran"));
            assert_eq!(lane.expect("a name")["args"]["name"], name.as_str());
            assert_eq!(run["args"].get("error").is_some(), record.error().is_some());
        }
        assert_eq!(of(&events, "X", &records[2])[0]["args"]["error"], "no disk");
    });
}

/// What Perfetto makes of a time.
fn nanos(value: &Value) -> i64 {
    (micros(value) * 1000.0) as i64
}

#[test]
fn slices_are_inside_each_other_or_apart_also_as_a_viewer_rounds_them() {
    watchdog(|| {
        // A busy worker starts a job that captures nothing at the very nanosecond at which the one before ended.
        let delegator = Delegator::builder().workers(2).retain(Retention::last(10_000)).build().unwrap();
        let submitter = delegator.submitter();
        let nests = (0..200).map(|_| {
            let submitter = submitter.clone();
            Job::new("outer", move |_| submitter.submit(yields("inner", ""))?.join())
        });
        delegator.submit_all(nests.chain((0..4_000).map(|_| Job::new("quick", |_| Ok(Vec::new()))))).unwrap();
        delegator.wait_idle();

        let events = trace(&delegator);
        let mut open: HashMap<i64, Vec<i64>> = HashMap::new();
        let mut touching = 0;
        for slice in events.iter().filter(|event| event["ph"] == "X") {
            let (start, length) = (nanos(&slice["ts"]), nanos(&slice["dur"]));
            let ends = open.entry(slice["tid"].as_i64().expect("a lane")).or_default();
            while let Some(end) = ends.last().copied().filter(|end| *end <= start) {
                touching += usize::from(end == start);
                ends.pop();
            }
            assert!(ends.last().is_none_or(|end| start + length <= *end), "{slice} crosses {ends:?}");
            ends.push(start + length);
        }
        assert!(touching > 100, "{touching}");
    });
}

#[test]
fn every_event_has_what_the_format_asks_for() {
    watchdog(|| {
        let delegator = delegator(2);
        let busy = occupy(&delegator);
        let queued = delegator.submit(yields("queued", "")).unwrap();
        let other = delegator.submit(fails("bad", "no disk")).unwrap();
        other.wait();
        assert!(!queued.cancel() || queued.is_finished());
        busy.release();
        delegator.wait_idle();

        let events = trace(&delegator);
        let mut waiting = HashSet::new();
        for event in &events {
            assert_eq!(event["pid"], 1, "{event}");
            let has_a_colour = match event["ph"].as_str().expect("a phase") {
                "M" => {
                    let (name, args) = (event["name"].as_str().unwrap(), &event["args"]);
                    match name {
                        "process_name" | "thread_name" => assert!(args["name"].is_string(), "{event}"),
                        "thread_sort_index" => assert_eq!(args["sort_index"], event["tid"], "{event}"),
                        _ => panic!("{event}"),
                    }
                    continue;
                }
                "X" => {
                    assert!(micros(&event["dur"]) >= 0.0, "{event}");
                    true
                }
                "i" => {
                    assert_eq!(event["s"], "t", "{event}");
                    event.get("cname").is_some()
                }
                // A track is known by its category and id, and its two ends have one name.
                phase @ ("b" | "e") => {
                    let key = (event["cat"].to_string(), event["id"].to_string(), event["name"].to_string());
                    assert_eq!(waiting.insert(key.clone()), phase == "b", "{event}");
                    assert!(phase == "b" || waiting.remove(&key));
                    event.get("cname").is_some()
                }
                _ => panic!("{event}"),
            };
            assert!(micros(&event["ts"]) >= 0.0, "{event}");
            assert!(event["cat"].is_string() && event["name"].is_string(), "{event}");
            // A name that the viewer does not know would stop it.
            let known = ["good", "bad", "terrible", "yellow", "grey"];
            assert!(!has_a_colour || known.iter().any(|name| event["cname"] == *name), "{event}");
            // A lane of its own, with a name.
            let tid = event["tid"].as_u64().expect("a lane");
            let named = |event: &&Value| event["name"] == "thread_name" && event["tid"] == tid;
            assert_eq!(events.iter().filter(named).count(), 1, "{event}");
            assert_eq!(tid == 1, event["cat"] == "queue", "{event}");
        }
        assert!(waiting.is_empty(), "{waiting:?}");
    });
}

#[test]
fn a_job_that_never_started_only_waits() {
    watchdog(|| {
        let delegator = delegator(1);
        let busy = occupy(&delegator);
        let queued = delegator.submit(yields("queued", "")).unwrap();
        assert!(queued.cancel());
        busy.release();
        let events = trace(&delegator);
        let record = queued.wait();
        assert!(of(&events, "X", &record).is_empty());
        assert_eq!(of(&events, "e", &record)[0]["args"]["state"], "cancelled");
    });
}

#[test]
fn jobs_inside_jobs_lie_on_the_same_lane() {
    watchdog(|| {
        let delegator = delegator(1);
        let submitter = delegator.submitter();
        let outer = Job::new("outer", move |_| submitter.submit(yields("inner", ""))?.join());
        let outer = delegator.submit(outer).unwrap().wait();
        let events = trace(&delegator);
        let find = |name: &str| {
            events.iter().find(|e| e["ph"] == "X" && e["name"] == name).expect("a slice").clone()
        };
        let (inner, outer_slice) = (find("inner"), of(&events, "X", &outer)[0]);
        assert_eq!(inner["tid"], outer_slice["tid"]);
        let end = |slice: &Value| micros(&slice["ts"]) + micros(&slice["dur"]);
        assert!(micros(&outer_slice["ts"]) <= micros(&inner["ts"]));
        assert!(end(&inner) <= end(outer_slice) + 0.01);
    });
}

#[test]
fn a_checkpoint_is_an_instant_on_the_slice_of_its_job() {
    watchdog(|| {
        let delegator = delegator(1);
        let said = "half \"of\" it\n";
        let job = Job::new("import", move |ctx| {
            ctx.checkpoint(said)?;
            ctx.progress(1, 2);
            Ok(Vec::new())
        });
        let record = delegator.submit(job).unwrap().wait();
        delegator.submit(yields("silent", "")).unwrap().wait();
        let events = trace(&delegator);
        let run = of(&events, "X", &record)[0];
        assert_eq!((&run["args"]["done"], &run["args"]["total"]), (&Value::from(1), &Value::from(2)));
        let instants: Vec<_> = events.iter().filter(|event| event["ph"] == "i").collect();
        let [instant] = instants[..] else { panic!("{events:?}") };
        let line = record.checkpoint().expect("it said so").line();
        assert_eq!((&instant["name"], &instant["args"]["line"]), (&Value::from(said), &Value::from(line)));
        assert_eq!(instant["tid"], run["tid"]);
        let (at, start) = (micros(&instant["ts"]), micros(&run["ts"]));
        assert!(start <= at && at <= start + micros(&run["dur"]) + 0.01, "{at} {run}");
    });
}

#[test]
fn hostile_names_and_errors_come_through_unchanged() {
    watchdog(|| {
        let delegator = delegator(1);
        let every_control: String = (0..0xa0).filter_map(char::from_u32).collect();
        let names = [
            "\"},{\"",
            "\\",
            "\\\"",
            "",
            "\u{0}\n\r\t\u{1b}[31m",
            "\u{2028}\u{fffd}\u{202e}\u{10ffff}",
            "</script>",
            &every_control,
        ];
        for name in names {
            let text = name.to_owned();
            let job = Job::new(name.to_owned(), move |_| Err(Error::new(text.clone())));
            let record = delegator.submit(job).unwrap().wait();
            let events = trace(&delegator);
            let run = of(&events, "X", &record)[0];
            assert_eq!((run["name"].as_str(), run["args"]["error"].as_str()), (Some(name), Some(name)));
        }
    });
}

#[test]
fn an_error_that_cannot_be_shown_does_not_spoil_the_trace() {
    #[derive(Debug)]
    struct Shy;
    impl std::fmt::Display for Shy {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("not for you")
        }
    }
    impl std::error::Error for Shy {}

    watchdog(|| {
        let delegator = delegator(1);
        let record = delegator.submit(Job::new("shy", |_| Err(Error::new(Shy)))).unwrap().wait();
        let events = trace(&delegator);
        let error = of(&events, "X", &record)[0]["args"]["error"].as_str().expect("a text").to_owned();
        assert!(error.contains("not for you"), "{error}");
    });
}

#[test]
fn an_error_of_the_writer_comes_back() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::other("no space left"))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let error = delegator(1).registry().write_trace(&mut Full).unwrap_err();
    assert_eq!(error.to_string(), "no space left");
}
