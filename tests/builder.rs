//! What can be set, what is set when nothing is, and what `build()` refuses.

mod common;
#[path = "common/pool.rs"]
mod pool;

use std::error::Error as _;
use std::thread;
use std::time::{Duration, Instant};

use common::{Counter, FOREVER, Gate, PanicOnDrop, gated, occupy, watchdog, yields};
use pool::{assert_threads_gone, counts, own_name, sized, threads_named};
use workpath::{BuildError, Context, Delegator, Job, JobState, SubmitError};

/// Checks that an error can be handled like any other and says which setting it is about.
#[track_caller]
fn assert_names(error: &BuildError, culprit: &str) {
    fn is_an_error<T: std::error::Error + Send + Sync + 'static>(_: &T) {}
    is_an_error(error);
    let text = error.to_string();
    assert!(text.to_lowercase().contains(culprit), "{text:?} does not speak of {culprit:?}");
    assert!(!format!("{error:?}").is_empty());
    let _cause = error.source();
}

#[test]
fn no_workers_are_refused() {
    let error = Delegator::builder().workers(0).build().expect_err("nobody would work");
    assert_names(&error, "worker");
}

#[test]
fn a_name_with_a_nul_is_refused() {
    for name in ["\0", "in\0between", "at the end\0"] {
        let error =
            Delegator::builder().workers(1).thread_name(name).build().expect_err("no thread can have it");
        assert_names(&error, "name");
    }
}

#[test]
fn a_capacity_that_nobody_has_memory_for_is_refused() {
    for capacity in [usize::MAX, usize::MAX - 1, usize::MAX / 2, isize::MAX as usize] {
        let error = Delegator::builder().workers(1).queue_capacity(capacity).build().expect_err("too large");
        assert_names(&error, "capacity");
    }
}

#[test]
fn a_stack_that_nobody_has_memory_for_is_refused_and_leaves_no_thread_behind() {
    for stack in [usize::MAX, usize::MAX / 2, isize::MAX as usize - 4_096] {
        let name = own_name();
        let (starts, stops) = (Counter::new(), Counter::new());
        let error = Delegator::builder()
            .workers(4)
            .thread_name(name.as_str())
            .stack_size(stack)
            .on_worker_start(counts(&starts))
            .on_worker_stop(counts(&stops))
            .build()
            .expect_err("no thread can start");
        assert_names(&error, "thread");
        assert!(error.source().is_some(), "the system's reason is missing: {error:?}");
        assert_threads_gone(&name);
        assert_eq!(starts.get(), stops.get());
    }
}

#[test]
fn a_refused_setting_does_not_spoil_the_next_attempt() {
    watchdog(|| {
        for _ in 0..20 {
            assert!(Delegator::builder().workers(2).stack_size(usize::MAX / 2).build().is_err());
            let delegator = sized(2, 4);
            assert_eq!(
                delegator.submit(yields("fine", "")).expect("room").wait().state(),
                JobState::Completed
            );
        }
    });
}

#[test]
fn there_are_as_many_workers_as_asked_for() {
    watchdog(|| {
        for workers in [1, 2, 3, 40] {
            let name = own_name();
            let delegator = Delegator::builder().workers(workers).thread_name(name.as_str()).build().unwrap();
            assert_eq!(delegator.workers().len(), workers);
            if let Some(threads) = threads_named(&name) {
                // The delegator has a thread too, and a thread that has just started may not have its name yet.
                assert!(threads <= workers + 1);
                common::eventually("all threads run", || threads_named(&name) == Some(workers + 1));
            }
        }
    });
}

#[test]
fn the_defaults_are_as_documented() {
    watchdog(|| {
        let delegator = Delegator::builder().build().unwrap();
        let workers = thread::available_parallelism().map_or(1, usize::from);
        assert_eq!(delegator.workers().len(), workers);
        assert_eq!(delegator.workers()[0].thread_name, "workpath-0");

        // No time limit.
        let job = Job::new("unlimited", |ctx| Ok(vec![u8::from(ctx.deadline().is_some())]));
        assert_eq!(delegator.submit(job).expect("room").join().unwrap(), [0]);

        // 1,024 places.
        let busy: Vec<_> = (0..workers).map(|_| occupy(&delegator)).collect();
        let queued: Vec<_> =
            (0..1_024).map(|_| delegator.try_submit(yields("queued", "")).expect("room")).collect();
        assert!(matches!(delegator.try_submit(yields("one too many", "")), Err(SubmitError::Full(_))));
        drop(busy);
        delegator.wait_idle();

        // The last 1,024 records: the first jobs are forgotten, what came last is not.
        assert_eq!(delegator.registry().len(), 1_024);
        for _ in 0..workers + 1 {
            delegator.submit(yields("last", "")).expect("room").wait();
        }
        assert_eq!(delegator.registry().len(), 1_024);
        assert!(delegator.registry().get(queued[1_023].id()).is_some());
        let records = delegator.registry().records();
        assert_eq!(records.last().map(|record| record.name().to_string()).as_deref(), Some("last"));
    });
}

#[test]
fn a_default_time_limit_is_for_jobs_without_one() {
    watchdog(|| {
        let limit = Duration::from_secs(500);
        let delegator =
            Delegator::builder().workers(1).queue_capacity(16).default_timeout(limit).build().unwrap();
        let remaining = || {
            Job::new("limited", |ctx| {
                let left = ctx.remaining().ok_or("no limit")?;
                Ok(left.as_secs_f64().to_le_bytes().to_vec())
            })
        };
        let seconds = |job: Job| {
            let bytes = delegator.submit(job).expect("room").join().expect("completed");
            f64::from_le_bytes(bytes.try_into().unwrap())
        };
        let start = Instant::now();
        let left = seconds(remaining());
        assert!(left <= 500.0 && left >= 500.0 - start.elapsed().as_secs_f64(), "{left}");
        assert!(seconds(remaining().with_timeout(Duration::from_secs(50))) <= 50.0);
        assert!(seconds(remaining().with_timeout(FOREVER)) > 500.0);
        let ctx = Context::background().with_timeout(FOREVER);
        assert!(seconds(remaining().with_context(&ctx)) > 500.0);

        let short = Delegator::builder()
            .workers(1)
            .queue_capacity(16)
            .default_timeout(Duration::from_millis(20))
            .build()
            .unwrap();
        let busy = occupy_for_ever(&short);
        let start = Instant::now();
        let handle = short.submit(yields("too late", "")).expect("room");
        assert_eq!(handle.wait().state(), JobState::TimedOut);
        assert!(start.elapsed() >= Duration::from_millis(20), "counted from before the submission");
        busy.open();
    });
}

/// Occupies a worker with a job that has no use for a time limit.
fn occupy_for_ever(delegator: &Delegator) -> Gate {
    let (started, release) = (Gate::new(), Gate::new());
    let _handle = delegator.submit(gated("busy", &started, &release).with_timeout(FOREVER)).expect("room");
    started.wait();
    release
}

#[test]
fn the_last_setting_of_a_kind_counts() {
    watchdog(|| {
        let delegator = Delegator::builder()
            .workers(0)
            .thread_name("bad\0name")
            .queue_capacity(usize::MAX)
            .stack_size(usize::MAX)
            .workers(2)
            .thread_name("good")
            .queue_capacity(1)
            .stack_size(1 << 20)
            .build()
            .expect("nothing is wrong with it now");
        assert_eq!(delegator.workers().len(), 2);
        assert_eq!(delegator.workers()[1].thread_name, "good-1");
    });
}

#[test]
fn hooks_that_panic_when_they_are_dropped_hide_no_error() {
    watchdog(|| {
        let bomb = PanicOnDrop("hook");
        let builder = Delegator::builder().workers(1).replacements(1).stack_size(usize::MAX / 2);
        let error = builder
            .on_worker_start(move |_| {
                let _ = &bomb;
            })
            .build()
            .expect_err("no thread has so much");
        assert_names(&error, "thread");
    });
}

#[test]
fn the_debug_text_of_a_builder_shows_its_settings() {
    let builder =
        Delegator::builder().workers(3).queue_capacity(17).thread_name("shown").on_worker_start(|_| {});
    let text = format!("{builder:?}");
    assert!(text.contains('3') && text.contains("17") && text.contains("shown"), "{text}");
}

#[cfg(target_os = "linux")]
mod short_of_memory {
    //! A build that fails half way: the same test program again, in a process that may use only so much memory.

    use super::*;
    use std::process::Command;

    /// Tells the child what to do.
    const ROLE: &str = "WORKPATH_TEST_ROLE";

    /// Runs the test of that name in a process whose address space is limited, and returns what it prints.
    fn run_limited(test: &str, role: &str) -> Option<String> {
        let program = std::env::current_exe().ok()?;
        let output = Command::new("sh")
            .arg("-c")
            .arg("ulimit -v 1500000 && exec \"$0\" --exact \"$1\" --nocapture --test-threads 1")
            .arg(program)
            .arg(test)
            .env(ROLE, role)
            .output()
            .ok()?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
    }

    fn tasks() -> usize {
        std::fs::read_dir("/proc/self/task").expect("the list of threads").count()
    }

    #[test]
    fn a_build_that_fails_half_way_takes_back_what_it_had_started() {
        match std::env::var(ROLE).as_deref() {
            // Where even this fails (a sanitizer needs more memory, an emulator cannot start itself), there is nothing
            // to see.
            Ok("probe") => println!("can start"),
            Ok("build") => build_with_too_little_memory(),
            _ => {
                let test = "short_of_memory::a_build_that_fails_half_way_takes_back_what_it_had_started";
                if !run_limited(test, "probe").is_some_and(|output| output.contains("can start")) {
                    return;
                }
                let output = run_limited(test, "build").expect("it has just started");
                assert!(output.contains("all taken back"), "{output}");
            }
        }
    }

    fn build_with_too_little_memory() {
        let before = tasks();
        let build =
            |workers| Delegator::builder().workers(workers).queue_capacity(4).stack_size(128 << 20).build();
        // There is room for some, so what follows fails half way and not at once.
        drop(build(3).expect("room for three"));
        common::eventually("its threads are gone", || tasks() == before);
        for workers in [40, 10_000_000, usize::MAX] {
            let (starts, stops) = (Counter::new(), Counter::new());
            let (start, stop) = (counts(&starts), counts(&stops));
            let (flag, dropped) = common::DropFlag::new();
            let error = Delegator::builder()
                .workers(workers)
                .queue_capacity(4)
                .stack_size(128 << 20)
                .on_worker_start(move |index| {
                    let _owned = &flag;
                    start(index);
                })
                .on_worker_stop(stop)
                .build()
                .expect_err("there is no room for so many stacks");
            assert_names(&error, if workers == 40 { "thread" } else { "" });
            assert!(dropped.is_open(), "a thread still has the hook");
            // The system may list a thread for a moment longer than it exists.
            common::eventually("the threads that had started are gone", || tasks() == before);
            assert_eq!(starts.get(), stops.get());
        }
        let delegator = Delegator::builder().workers(2).stack_size(1 << 20).build().expect("room for two");
        assert_eq!(delegator.submit(yields("fine", "")).expect("room").wait().state(), JobState::Completed);
        drop(delegator);
        println!("all taken back");
    }
}
