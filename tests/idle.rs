//! Idle means blocked. A process of its own, because it counts the context switches of all threads of the crate.

#![cfg(target_os = "linux")]

mod common;
#[path = "common/pool.rs"]
mod pool;

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use common::{FOREVER, PATIENCE, fired, occupy, watchdog, yields};
use pool::sized;
use workpath::{Context, Delegator, JobState};

/// How often each thread of the crate has given up the processor of its own accord, and for how many nanoseconds it has had
/// one, where the system says; by its id and name.
fn switches() -> BTreeMap<String, (u64, u64)> {
    let mut found = BTreeMap::new();
    for task in fs::read_dir("/proc/self/task").expect("the list of threads").flatten() {
        // A thread may end while we read.
        let Ok(name) = fs::read_to_string(task.path().join("comm")) else {
            continue;
        };
        let Ok(status) = fs::read_to_string(task.path().join("status")) else {
            continue;
        };
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        let times = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let time = times.split(' ').next().and_then(|time| time.parse().ok()).unwrap_or(0);
        if let (true, Some(count)) = (name.starts_with("workpath"), count) {
            let id = format!("{} {}", name.trim(), task.file_name().to_string_lossy());
            found.insert(id, (count.trim().parse().expect("a number"), time));
        }
    }
    found
}

/// Checks that no thread of the crate wakes up for two seconds, once all have come to rest.
#[track_caller]
fn assert_at_rest(least: usize) {
    let start = Instant::now();
    let mut before = switches();
    // After work they look for more, for a moment.
    loop {
        thread::sleep(Duration::from_millis(100));
        let now = switches();
        if now == before && now.len() >= least {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "they never come to rest: {before:?}, then {now:?}");
        before = now;
    }
    thread::sleep(Duration::from_secs(2));
    let after = switches();
    assert_eq!(before, after, "somebody woke up for nothing");
}

/// One test for all, so that no other one of this process makes noise.
#[test]
fn idle_workers_make_no_context_switch() {
    watchdog(|| {
        let delegator = Delegator::builder().workers(8).build().unwrap();
        // Eight workers and the delegator itself.
        assert_at_rest(9);

        // After work, with deadlines that nobody needs any more and some that are far away.
        let far = Context::background().with_timeout(FOREVER);
        let done = far.done();
        for n in 0..200_u8 {
            let job = yields("work", [n]).with_context(&far).with_timeout(FOREVER / 2);
            let handle = delegator.submit(job).expect("room");
            if n % 2 == 0 {
                assert_eq!(
                    handle.wait_timeout(FOREVER).map(|record| record.state()),
                    Some(JobState::Completed)
                );
            }
        }
        delegator.wait_idle();
        assert_at_rest(9);

        // While a job runs, another waits, a submitter is blocked, and somebody waits for each of them.
        let small = sized(1, 1);
        let busy = occupy(&small);
        let queued = small.submit(yields("queued", "").with_timeout(FOREVER)).expect("room");
        thread::scope(|scope| {
            scope.spawn(|| busy.handle.wait());
            scope.spawn(|| queued.wait());
            scope.spawn(|| small.submit(yields("blocked", "")).map(|handle| handle.wait()));
            scope.spawn(|| small.wait_idle());
            assert_at_rest(11);
            busy.release();
        });
        assert!(!fired(&done));
    });
}
