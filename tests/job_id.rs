//! Job ids: unique, sortable by creation, and the same thing as text and as a uuid.

mod common;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{delegator, yields};
use uuid::Uuid;
use workpath::{Job, JobId};

fn new_job() -> Job {
    yields("job", Vec::new())
}

#[test]
fn ids_are_unique_across_threads() {
    let threads: Vec<_> =
        (0..4).map(|_| thread::spawn(|| (0..5_000).map(|_| new_job().id()).collect::<Vec<_>>())).collect();
    let ids: Vec<JobId> = threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect();
    let distinct: HashSet<JobId> = ids.iter().copied().collect();
    assert_eq!(distinct.len(), ids.len());
}

#[test]
fn ids_sort_by_creation_as_values_and_as_text() {
    let mut ids = Vec::new();
    for batch in 0..3 {
        ids.extend((0..3_000).map(|_| new_job().id()));
        if batch < 2 {
            thread::sleep(Duration::from_millis(3));
        }
    }
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
    assert!(ids.windows(2).all(|pair| pair[0].to_string() < pair[1].to_string()));
    assert!(ids.windows(2).all(|pair| Uuid::from(pair[0]) < Uuid::from(pair[1])));
    assert!(ids.iter().collect::<BTreeSet<_>>().into_iter().eq(&ids));
}

#[test]
fn an_id_is_a_version_7_uuid_that_tells_when_its_job_was_created() {
    let job = new_job();
    let uuid: Uuid = job.id().into();
    assert_eq!(uuid.get_version_num(), 7);
    assert_eq!(uuid.get_variant(), uuid::Variant::RFC4122);
    let milliseconds = u64::try_from(uuid.as_u128() >> 80).expect("48 bits");
    let embedded = Duration::from_millis(milliseconds);
    let created = job.created_at().duration_since(UNIX_EPOCH).expect("after 1970");
    assert!(embedded.abs_diff(created) <= Duration::from_secs(1), "{embedded:?} is not {created:?}");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    assert!(embedded.abs_diff(now) <= Duration::from_secs(10));
}

#[test]
fn an_id_survives_the_way_through_text() {
    for _ in 0..100 {
        let id = new_job().id();
        let text = id.to_string();
        assert_eq!(text, Uuid::from(id).to_string());
        assert_eq!(text.parse::<JobId>().ok(), Some(id));
        assert_eq!(text.to_uppercase().parse::<JobId>().ok(), Some(id));
        assert!(!format!("{id:?}").is_empty());
    }
}

#[test]
fn what_is_no_id_is_refused_with_a_text() {
    let id = new_job().id().to_string();
    let long = "0".repeat(100_000);
    let bad = [
        "",
        " ",
        "x",
        "\0",
        "not-an-id",
        &id[1..],
        &format!("{id}0"),
        &format!(" {id}"),
        &id.replace('-', "+"),
        &long,
    ];
    for text in bad {
        let error = text.parse::<JobId>().expect_err("no id");
        let error: Box<dyn std::error::Error + Send + Sync> = Box::new(error);
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn a_job_keeps_its_id_from_creation_to_the_registry() {
    let delegator = delegator(1);
    let job = new_job();
    let id = job.id();
    assert_eq!(job.id(), id);
    let job = job.with_timeout(common::FOREVER).with_context(&workpath::Context::background());
    assert_eq!(job.id(), id, "limits do not make another job of it");
    let handle = delegator.submit(job).expect("accepted");
    assert_eq!(handle.id(), id);
    assert_eq!(handle.clone().id(), id);
    let record = handle.wait();
    assert_eq!(record.id(), id);
    assert_eq!(delegator.registry().get(id).map(|record| record.id()), Some(id));
    let parsed: JobId = id.to_string().parse().expect("its own text");
    assert!(delegator.registry().get(parsed).is_some());
}

#[test]
fn jobs_with_one_name_have_different_ids() {
    let (one, two) = (new_job(), new_job());
    assert_eq!(one.name(), two.name());
    assert_ne!(one.id(), two.id());
}

/// Set for the child processes of the test below.
const PRINT: &str = "WORKPATH_TEST_PRINT_IDS";

#[test]
fn processes_started_at_the_same_time_share_no_ids() {
    if std::env::var_os(PRINT).is_some() {
        for _ in 0..3 {
            println!("id={}", new_job().id());
        }
        return;
    }
    let program = std::env::current_exe().expect("the path of this test");
    let children: Result<Vec<_>, _> = (0..3)
        .map(|_| {
            Command::new(&program)
                .args(["--exact", "processes_started_at_the_same_time_share_no_ids", "--nocapture"])
                .env(PRINT, "1")
                .stdout(std::process::Stdio::piped())
                .spawn()
        })
        .collect();
    // Under an emulator the test itself may not be startable as a program.
    let Ok(children) = children else { return };
    let mut seen = HashMap::new();
    let mut count = 0;
    for (number, child) in children.into_iter().enumerate() {
        let output = child.wait_with_output().expect("the output of the child");
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).expect("text");
        for line in text.lines() {
            let Some((_, id)) = line.split_once("id=") else {
                continue;
            };
            let id: JobId = id.trim().parse().expect("an id");
            // Without the 48 bits of time at the front: what is left has to differ between processes by itself.
            let rest = Uuid::from(id).as_u128() << 48;
            assert_eq!(*seen.entry(rest).or_insert(number), number, "{id} of two processes");
            count += 1;
        }
    }
    assert_eq!(count, 9);
}
