//! Records of finished jobs: what happened, when, for how long, and the line that announces it.

mod common;

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use common::{BRIEF, FOREVER, delegator, fails, occupy, panics, watchdog, yields};
use workpath::{Context, Delegator, Error, ErrorKind, Job, JobHandle, JobState};

/// One finished job of every kind, in the order of `STATES`.
fn one_of_each(delegator: &Delegator) -> Vec<JobHandle> {
    let (cancelled, canceller) = Context::background().with_cancel();
    canceller.cancel();
    let jobs = [
        yields("good", *b"s3cr3t"),
        fails("bad", "did not work"),
        panics("ugly", "fell over"),
        yields("unwanted", *b"never").with_context(&cancelled),
        yields("late", *b"never").with_timeout(Duration::ZERO),
    ];
    let handles: Vec<_> = jobs.into_iter().map(|job| delegator.submit(job).expect("accepted")).collect();
    for handle in &handles {
        handle.wait();
    }
    handles
}

const STATES: [JobState; 5] =
    [JobState::Completed, JobState::Failed, JobState::Panicked, JobState::Cancelled, JobState::TimedOut];

#[test]
fn a_record_has_either_a_payload_or_an_error() {
    let delegator = delegator(1);
    let kinds = [
        None,
        Some(ErrorKind::Operation),
        Some(ErrorKind::Panicked),
        Some(ErrorKind::Cancelled),
        Some(ErrorKind::DeadlineExceeded),
    ];
    for ((handle, state), kind) in one_of_each(&delegator).into_iter().zip(STATES).zip(kinds) {
        let record = handle.wait();
        assert_eq!(record.state(), state);
        assert!(record.state().is_finished());
        assert_eq!(record.error().map(Error::kind), kind);
        match kind {
            None => {
                assert_eq!(record.payload(), Some(&b"s3cr3t"[..]));
                assert_eq!(record.result().expect("a payload"), b"s3cr3t");
                assert_eq!(handle.join().expect("a payload"), b"s3cr3t");
            }
            Some(kind) => {
                assert_eq!(record.payload(), None);
                assert_eq!(record.result().expect_err("an error").kind(), kind);
                assert_eq!(handle.join().expect_err("an error").kind(), kind);
            }
        }
    }
}

#[test]
fn an_empty_payload_is_still_a_payload() {
    let delegator = delegator(1);
    let record = delegator.submit(yields("empty", Vec::new())).expect("accepted").wait();
    assert_eq!(record.payload(), Some(&[][..]));
    assert_eq!(record.result().ok(), Some(&[][..]));
}

#[test]
fn a_large_payload_arrives_whole() {
    let delegator = delegator(1);
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    let handle = delegator.submit(yields("large", bytes.clone())).expect("accepted");
    assert!(handle.wait().payload() == Some(&bytes[..]));
    assert!(handle.join().expect("a payload") == bytes);
}

#[test]
fn an_error_keeps_the_value_that_the_operation_returned() {
    let delegator = delegator(1);
    let job = Job::new("reads", |_| Err(std::io::Error::from(std::io::ErrorKind::NotFound).into()));
    let handle = delegator.submit(job).expect("accepted");
    let record = handle.wait();
    let inner =
        record.error().and_then(Error::get_ref).and_then(|inner| inner.downcast_ref::<std::io::Error>());
    assert_eq!(inner.map(std::io::Error::kind), Some(std::io::ErrorKind::NotFound));
    let joined = handle.join().expect_err("an error");
    assert!(joined.get_ref().is_some_and(|inner| inner.is::<std::io::Error>()));
}

#[test]
fn the_message_of_a_panic_is_kept_and_any_other_payload_is_survived() {
    let delegator = delegator(1);
    let text = delegator.submit(panics("text", "a plain text")).expect("accepted").wait();
    let number = 41;
    let formatted = Job::new("formatted", move |_| panic!("number {}", number + 1));
    let formatted = delegator.submit(formatted).expect("accepted").wait();
    let other = Job::new("other", |_| std::panic::panic_any(7_u8));
    let other = delegator.submit(other).expect("accepted").wait();
    for (record, message) in [(&text, "a plain text"), (&formatted, "number 42"), (&other, "")] {
        assert_eq!(record.state(), JobState::Panicked);
        let error = record.error().expect("an error");
        assert!(error.is_panic() && !error.is_cancelled() && !error.is_timeout());
        assert!(error.to_string().contains(message));
        assert!(!error.to_string().is_empty());
        assert!(record.to_string().contains(message));
    }
}

#[test]
fn waiting_again_gives_the_same_record_and_never_a_copy_of_the_payload() {
    let delegator = delegator(1);
    let handle = delegator.submit(yields("job", *b"shared")).expect("accepted");
    let first = handle.wait();
    let address = first.payload().expect("a payload").as_ptr();
    let again = [
        handle.wait(),
        handle.clone().wait(),
        handle.try_wait().expect("finished"),
        handle.wait_timeout(Duration::ZERO).expect("finished"),
        delegator.registry().get(handle.id()).expect("retained"),
        delegator.registry().records().pop().expect("retained"),
        first.clone(),
    ];
    for record in again {
        assert_eq!(record.id(), first.id());
        assert_eq!(record.state(), first.state());
        assert_eq!(record.payload().expect("a payload").as_ptr(), address);
        assert_eq!(record.created_at(), first.created_at());
        assert_eq!(record.started_at(), first.started_at());
        assert_eq!(record.completed_at(), first.completed_at());
        assert_eq!(record.queue_time(), first.queue_time());
        assert_eq!(record.run_time(), first.run_time());
        assert_eq!(record.round_trip_time(), first.round_trip_time());
        assert_eq!(record.to_string(), first.to_string());
    }
}

#[test]
fn the_three_times_of_a_job_add_up() {
    watchdog(|| {
        let delegator = delegator(1);
        for handle in one_of_each(&delegator) {
            let record = handle.wait();
            assert_eq!(record.queue_time() + record.run_time(), record.round_trip_time(), "{record}");
            assert!(record.created_at() <= record.completed_at());
            match record.started_at() {
                Some(started) => {
                    assert!(record.created_at() <= started && started <= record.completed_at());
                    assert_eq!(record.worker(), Some(0));
                }
                None => {
                    assert_eq!(record.run_time(), Duration::ZERO);
                    assert_eq!(record.worker(), None);
                }
            }
        }
    });
}

#[test]
fn the_times_of_day_and_the_durations_of_a_job_agree() {
    let delegator = delegator(1);
    let job = Job::new("sleeps", |ctx| ctx.sleep(BRIEF).map(|()| Vec::new()));
    thread::sleep(Duration::from_millis(2));
    let record = delegator.submit(job).expect("accepted").wait();
    let started = record.started_at().expect("it ran");
    let since =
        |later: SystemTime, earlier: SystemTime| later.duration_since(earlier).expect("never backwards");
    // The clock for the time of day may be coarser than the one for durations.
    let close = |one: Duration, two: Duration| one.abs_diff(two) <= Duration::from_millis(1);
    assert!(close(since(started, record.created_at()), record.queue_time()));
    assert!(close(since(record.completed_at(), started), record.run_time()));
    assert!(close(since(record.completed_at(), record.created_at()), record.round_trip_time()));
}

#[test]
fn the_run_time_covers_the_operation_and_nothing_before_it() {
    watchdog(|| {
        let delegator = delegator(1);
        let created = Instant::now();
        let job = Job::new("sleeps", |_| {
            thread::sleep(BRIEF);
            Ok(Vec::new())
        });
        let busy = occupy(&delegator);
        let handle = delegator.submit(job).expect("accepted");
        let submitted = Instant::now();
        thread::sleep(BRIEF * 3);
        let queued_at_least = submitted.elapsed();
        busy.release();
        let record = handle.wait();
        let at_most = created.elapsed();
        assert!(record.run_time() >= BRIEF);
        assert!(record.queue_time() >= queued_at_least);
        assert!(record.round_trip_time() >= queued_at_least + BRIEF);
        assert!(record.round_trip_time() <= at_most);
        assert!(record.run_time() <= at_most - queued_at_least, "the time in the queue is not part of it");
    });
}

/// Takes its time to be dropped, and tells when it was.
struct SlowDrop {
    dropped: crossbeam_channel::Sender<Instant>,
}

impl Drop for SlowDrop {
    fn drop(&mut self) {
        thread::sleep(BRIEF);
        let _ = self.dropped.send(Instant::now());
    }
}

#[test]
fn a_job_waits_in_the_queue_until_its_worker_has_dropped_what_the_one_before_captured() {
    let captures = |slow: SlowDrop| {
        Job::new("captures", move |_| {
            let _captured = &slow;
            Ok(Vec::new())
        })
    };
    // An operation that captures nothing, and a context with nothing but the value.
    let has_value = |slow| {
        Job::new("has a value", |_| Ok(Vec::new()))
            .with_context(&Context::background().with_value("slow", slow))
    };
    for before in [captures as fn(SlowDrop) -> Job, has_value] {
        watchdog(move || {
            let delegator = delegator(1);
            let busy = occupy(&delegator);
            let (dropped, ends) = crossbeam_channel::unbounded();
            let before = delegator.submit(before(SlowDrop { dropped })).expect("accepted");
            let job = yields("after", *b"x");
            let created = Instant::now();
            let after = delegator.submit(job).expect("accepted");
            busy.release();
            let free = ends.recv().expect("the drop");
            assert!(after.wait().queue_time() >= free - created, "it cannot have started before");
            assert_eq!(before.wait().state(), JobState::Completed);
        });
    }
}

#[test]
fn the_queue_time_counts_from_the_creation_of_the_job() {
    let delegator = delegator(1);
    let job = yields("job", *b"x");
    let created = Instant::now();
    thread::sleep(BRIEF);
    let at_least = created.elapsed();
    let record = delegator.submit(job).expect("accepted").wait();
    assert!(record.queue_time() >= at_least);
    assert!(record.round_trip_time() >= at_least);
}

#[test]
fn a_job_that_never_started_spent_all_its_time_in_the_queue() {
    let delegator = delegator(1);
    let busy = occupy(&delegator);
    let handle = delegator.submit(yields("queued", *b"x")).expect("accepted");
    let submitted = Instant::now();
    thread::sleep(BRIEF);
    let at_least = submitted.elapsed();
    assert!(handle.cancel());
    let record = handle.wait();
    assert_eq!(record.started_at(), None);
    assert!(record.queue_time() >= at_least);
    assert_eq!(record.queue_time(), record.round_trip_time());
    assert_eq!(record.run_time(), Duration::ZERO);
    drop(busy);
}

#[test]
fn the_times_of_a_finished_job_stand_still() {
    let delegator = delegator(1);
    let handle = delegator.submit(yields("job", *b"x")).expect("accepted");
    let before = handle.wait();
    thread::sleep(BRIEF);
    let after = handle.wait();
    assert_eq!(before.round_trip_time(), after.round_trip_time());
    assert_eq!(before.completed_at(), after.completed_at());
    assert_eq!(before.round_trip_time(), before.round_trip_time());
}

#[test]
fn the_times_of_day_are_those_of_the_wall_clock() {
    let delegator = delegator(1);
    // Generous: the clock may be read from an anchor, and may be set while the test runs.
    let slack = Duration::from_secs(10);
    let before = SystemTime::now() - slack;
    let job = yields("job", *b"x");
    let created = job.created_at();
    let record = delegator.submit(job).expect("accepted").wait();
    let after = SystemTime::now() + slack;
    assert_eq!(record.created_at(), created);
    for time in [created, record.started_at().expect("it ran"), record.completed_at()] {
        assert!(before <= time && time <= after);
    }
}

#[test]
fn the_times_of_a_job_never_run_backwards_while_its_worker_goes_from_job_to_job() {
    watchdog(|| {
        let delegator = delegator(1);
        let records: Vec<_> = (0..20)
            .flat_map(|round: u32| {
                // Alternately a worker that finds the next job waiting and one that has to wait for it.
                let handles: Vec<_> = (0..50)
                    .map(|_| {
                        let handle = delegator.submit(yields("job", *b"x")).expect("accepted");
                        if round % 2 == 0 {
                            handle.wait();
                        }
                        handle
                    })
                    .collect();
                handles.into_iter().map(|handle| handle.wait())
            })
            .collect();
        for record in &records {
            let started = record.started_at().expect("it ran");
            assert!(record.created_at() <= started && started <= record.completed_at());
            assert_eq!(record.queue_time() + record.run_time(), record.round_trip_time());
        }
    });
}

#[test]
fn the_worker_is_the_one_that_ran_the_job() {
    watchdog(|| {
        let delegator = Delegator::builder().workers(3).thread_name("who").build().expect("a delegator");
        let busy = [occupy(&delegator), occupy(&delegator)];
        let job = Job::new("names its thread", |_| {
            Ok(thread::current().name().unwrap_or_default().as_bytes().to_vec())
        });
        let record = delegator.submit(job).expect("accepted").wait();
        let worker = record.worker().expect("it ran");
        assert!(worker < 3);
        assert_eq!(record.payload(), Some(format!("who-{worker}").as_bytes()));
        busy.iter().for_each(common::Busy::release);
        let mut workers: Vec<_> = busy.iter().filter_map(|busy| busy.handle.wait().worker()).collect();
        workers.push(worker);
        workers.sort_unstable();
        assert_eq!(workers, [0, 1, 2]);
    });
}

#[test]
fn names_come_back_as_they_were_given() {
    let delegator = delegator(1);
    let long = "n".repeat(10_000);
    for name in ["plain", "", "two words", "nul\0byte", "line\nbreak", "\u{1f980}", long.as_str()] {
        let job = Job::new(name.to_owned(), |_| Ok(Vec::new()));
        assert_eq!(job.name(), name);
        let handle = delegator.submit(job).expect("accepted");
        assert_eq!(handle.name(), name);
        let record = handle.wait();
        assert_eq!(record.name(), name);
        assert!(!record.to_string().is_empty());
        assert!(!format!("{record:?} {handle:?}").is_empty());
    }
}

#[test]
fn the_line_names_the_job_its_worker_its_state_its_times_and_its_error_but_never_the_payload() {
    let delegator = delegator(1);
    let errors = [None, Some("did not work"), Some("fell over"), None, None];
    for ((handle, state), error) in one_of_each(&delegator).into_iter().zip(STATES).zip(errors) {
        let record = handle.wait();
        let line = record.to_string();
        assert!(line.contains(&record.id().to_string()), "{line}");
        assert!(line.contains(record.name()), "{line}");
        assert!(line.contains(&state.to_string()), "{line}");
        assert!(error.is_none_or(|error| line.contains(error)), "{line}");
        assert!(record.error().is_none_or(|error| line.contains(&error.to_string())), "{line}");
        assert!(!line.contains("s3cr3t"), "{line}");
        assert!(!line.contains(&format!("{:?}", b"s3cr3t")), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }
}

#[test]
fn the_states_have_names_that_differ() {
    let all = [
        JobState::Queued,
        JobState::Running,
        JobState::Completed,
        JobState::Failed,
        JobState::Panicked,
        JobState::Cancelled,
        JobState::TimedOut,
    ];
    let mut names: Vec<_> = all.iter().map(ToString::to_string).collect();
    assert!(names.iter().all(|name| !name.is_empty()));
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all.len());
    assert!(!JobState::Queued.is_finished());
    assert!(!JobState::Running.is_finished());
    assert!(STATES.iter().all(|state| state.is_finished()));
}

#[test]
fn an_overrun_is_measured_from_the_deadline_to_the_end_of_the_operation() {
    watchdog(|| {
        let delegator = delegator(1);
        let job = Job::new("late", |ctx| {
            common::wait_fired(&ctx.done());
            thread::sleep(BRIEF);
            Ok(b"late".to_vec())
        });
        let handle = delegator.submit(job.with_timeout(BRIEF * 20)).expect("accepted");
        let record = handle.wait();
        assert_eq!(record.state(), JobState::Completed, "{record}");
        let overrun = record.overrun().expect("it ran past its deadline");
        assert!(overrun >= BRIEF);
        assert!(overrun < record.round_trip_time());
        assert!(overrun + BRIEF * 20 <= record.round_trip_time(), "the deadline came after the creation");
    });
}

#[test]
fn a_job_without_deadline_or_within_it_has_no_overrun() {
    let delegator = delegator(1);
    for job in
        [yields("free", *b"x"), yields("in time", *b"x").with_timeout(FOREVER), fails("fails", "in time")]
    {
        assert_eq!(delegator.submit(job).expect("accepted").wait().overrun(), None);
    }
    for handle in one_of_each(&delegator) {
        assert_eq!(handle.wait().overrun(), None);
    }
}
