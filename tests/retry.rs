//! Jobs that are tried again when they fail.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use common::{Counter, DropFlag, Gate, delegator, eventually, fails, occupy, panics, watchdog, yields};
use workpath::{
    Context, Delegator, Error, Event, GaveUp, Job, JobRecord, JobState, Manual, Overflow, Priority,
    Retention, Retry, RetryBudget, Shutdown,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// Fails so many times, and then completes.
fn flaky(failures: u32) -> (Job, Counter) {
    let calls = Counter::new();
    let counter = calls.clone();
    let job = Job::new("flaky", move |_| match counter.add() {
        call if call <= failures as usize => Err(format!("failure {call}").into()),
        _ => Ok(vec![7]),
    });
    (job, calls)
}

fn every_second() -> Retry {
    Retry::fixed(SECOND)
}

fn run(delegator: &Manual, job: Job) -> JobRecord {
    delegator.submit(job).unwrap().wait()
}

#[test]
fn a_job_that_fails_is_tried_again_until_it_completes() {
    let delegator = Delegator::manual();
    let (job, calls) = flaky(2);
    let handle = delegator.submit(job.with_retry(Retry::exponential(SECOND))).unwrap();
    assert_eq!((handle.state(), handle.attempts()), (JobState::Queued, 0));
    assert!(delegator.step());
    assert_eq!((handle.state(), handle.attempts(), calls.get()), (JobState::Scheduled, 1, 1));
    assert_eq!(delegator.advance(SECOND - Duration::from_nanos(1)), 0);
    assert_eq!(delegator.advance(Duration::from_nanos(1)), 1);
    assert_eq!((handle.state(), handle.attempts()), (JobState::Scheduled, 2));
    assert_eq!(delegator.advance(2 * SECOND), 1);
    let record = handle.try_wait().unwrap();
    assert_eq!((record.state(), record.payload()), (JobState::Completed, Some(&[7][..])));
    assert_eq!((record.attempts(), record.gave_up()), (3, None));
    assert_eq!((record.round_trip_time(), record.queue_time()), (3 * SECOND, 3 * SECOND));
    let stats = delegator.stats();
    assert_eq!((stats.submitted, stats.completed, stats.failed, stats.retried), (1, 1, 0, 2));
}

#[test]
fn the_record_tells_of_every_attempt() {
    let delegator = Delegator::manual();
    let nap = Job::new("nap", |ctx| {
        ctx.sleep(SECOND)?;
        Err("tired".into())
    });
    let record = run(&delegator, nap.with_retry(every_second().max_attempts(3)));
    assert_eq!((record.state(), record.gave_up()), (JobState::Failed, Some(GaveUp::Attempts)));
    assert_eq!((record.run_time(), record.round_trip_time()), (SECOND, 5 * SECOND));
    let attempts = record.earlier_attempts();
    assert_eq!(attempts.iter().map(|attempt| attempt.number()).collect::<Vec<_>>(), [1, 2]);
    for (n, attempt) in attempts.iter().enumerate() {
        assert_eq!((attempt.worker(), attempt.run_time()), (Some(0), SECOND));
        assert_eq!(attempt.error().to_string(), "tired");
        assert_eq!(attempt.started_at(), record.created_at() + 2 * u32::try_from(n).unwrap() * SECOND);
        assert_eq!(attempt.ended_at(), attempt.started_at() + SECOND);
    }
    let line = record.to_string();
    assert!(line.contains("failed on worker 0, in attempt 3: ran 1.0s"), "{line}");
    assert!(line.ends_with(": tired; not tried again: no attempts are left"), "{line}");
}

#[test]
fn the_debug_texts_show_policy_and_attempt() {
    let retry = Retry::linear(SECOND).max_attempts(7).jitter().only_if(|_| true);
    let text = format!("{retry:?}");
    assert!(
        text.contains("Linear") && text.contains("max_attempts: 7") && text.contains("jitter: true"),
        "{text}"
    );
    assert!(text.contains("<function>"), "{text}");
    let record = run(&Delegator::manual(), flaky(1).0.with_retry(every_second()));
    let text = format!("{:?}", record.earlier_attempts());
    assert!(text.contains("number: 1") && text.contains("run_time") && text.contains("error"), "{text}");
}

#[test]
fn of_many_attempts_the_last_are_kept() {
    let delegator = Delegator::builder().retry_budget(RetryBudget::unlimited()).manual().unwrap();
    let retry = Retry::fixed(Duration::ZERO).max_attempts(100);
    let record = run(&delegator, fails("broken", "no").with_retry(retry));
    assert_eq!((record.attempts(), record.gave_up()), (100, Some(GaveUp::Attempts)));
    let attempts = record.earlier_attempts();
    assert_eq!((attempts.len(), attempts[0].number(), attempts[31].number()), (32, 68, 99));
}

#[test]
fn no_attempts_are_one() {
    let delegator = Delegator::manual();
    for attempts in [0, 1] {
        let record = run(&delegator, fails("once", "no").with_retry(every_second().max_attempts(attempts)));
        assert_eq!((record.attempts(), record.gave_up()), (1, Some(GaveUp::Attempts)));
    }
    assert_eq!(run(&delegator, fails("plain", "no")).gave_up(), None);
}

#[test]
fn a_panic_is_an_error_like_others() {
    let delegator = Delegator::manual();
    let record = run(&delegator, panics("loud", "boom").with_retry(every_second().max_attempts(2)));
    assert_eq!((record.state(), record.attempts()), (JobState::Panicked, 2));
    assert!(record.earlier_attempts()[0].error().is_panic());
    let quiet = every_second().only_if(|error| !error.is_panic());
    assert_eq!(run(&delegator, panics("loud", "boom").with_retry(quiet)).attempts(), 1);
}

#[test]
fn the_operation_decides() {
    let delegator = Delegator::manual();
    let gone = Job::new("gone", |_| Err(Error::permanent(std::io::Error::other("gone"))));
    let record = run(&delegator, gone.with_retry(every_second()));
    assert_eq!((record.attempts(), record.gave_up()), (1, Some(GaveUp::Permanent)));
    assert!(record.error().unwrap().get_ref().unwrap().is::<std::io::Error>());

    let busy = || Job::new("busy", |_| Err(Error::retry_after(HOUR).because("busy")));
    let picky = every_second().max_delay(SECOND).jitter().max_attempts(2).only_if(|_| false);
    let record = run(&delegator, busy().with_retry(picky));
    assert_eq!((record.attempts(), record.round_trip_time()), (2, HOUR));
    assert_eq!(run(&delegator, busy()).attempts(), 1, "without a policy");
}

#[test]
fn an_error_of_the_context_keeps_its_kind_though_it_is_permanent() {
    let delegator = Delegator::manual();
    let job = Job::new("late", |ctx| {
        let late = ctx.sleep(HOUR).unwrap_err();
        Err(Error::permanent(late))
    });
    let record = run(&delegator, job.with_timeout(SECOND).with_retry(every_second()));
    assert_eq!((record.state(), record.gave_up()), (JobState::TimedOut, None));
}

#[test]
fn the_policy_may_say_no_and_a_panic_in_it_does() {
    let delegator = Delegator::manual();
    let asked = Counter::new();
    let counter = asked.clone();
    let no = every_second().only_if(move |error| {
        counter.add();
        error.to_string() != "failure 2"
    });
    let record = run(&delegator, flaky(9).0.with_retry(no));
    assert_eq!((record.attempts(), record.gave_up(), asked.get()), (2, Some(GaveUp::Unwanted), 2));
    let broken = every_second().only_if(|_| panic!("in the policy"));
    let record = run(&delegator, flaky(9).0.with_retry(broken));
    assert_eq!((record.attempts(), record.gave_up()), (1, Some(GaveUp::Unwanted)));
    assert_eq!(run(&delegator, yields("after", [])).state(), JobState::Completed);
}

#[test]
fn a_retry_has_to_fit_before_the_deadline() {
    let delegator = Delegator::manual();
    let job = || fails("broken", "no").with_retry(every_second());
    let record = run(&delegator, job().with_timeout(2 * SECOND));
    assert_eq!((record.attempts(), record.gave_up()), (2, Some(GaveUp::Deadline)));
    assert_eq!((record.state(), record.round_trip_time()), (JobState::Failed, SECOND));
    let never = fails("broken", "no").with_retry(Retry::fixed(Duration::MAX));
    assert_eq!(run(&delegator, never).gave_up(), Some(GaveUp::Deadline));
}

#[test]
fn the_deadline_is_one_for_all_attempts() {
    let delegator = Delegator::builder().default_timeout(3 * SECOND).manual().unwrap();
    let left = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&left);
    let job = Job::new("slow", move |ctx| {
        seen.lock().unwrap().push(ctx.remaining().unwrap_or_default());
        Err("no".into())
    });
    run(&delegator, job.with_retry(every_second()));
    assert_eq!(*left.lock().unwrap(), [3 * SECOND, 2 * SECOND, SECOND]);
}

#[test]
fn waiting_for_a_retry_takes_no_worker() {
    watchdog(|| {
        let delegator = delegator(1);
        let handle = delegator.submit(fails("later", "no").with_retry(Retry::fixed(HOUR))).unwrap();
        eventually("it waits", || handle.state() == JobState::Scheduled);
        assert_eq!(delegator.stats().scheduled, 1);
        assert_eq!(delegator.submit(yields("now", [1])).unwrap().join().unwrap(), [1]);
        assert!(delegator.wait_idle_timeout(Duration::ZERO));
        assert_eq!(delegator.workers()[0].running, None);
        assert!(handle.cancel());
    });
}

#[test]
fn a_cancel_ends_it_while_it_waits() {
    let delegator = Delegator::manual();
    let (flag, dropped) = DropFlag::new();
    let (policy_flag, policy_dropped) = DropFlag::new();
    let job = Job::new("broken", move |_| {
        let _ = &flag;
        Err("no".into())
    });
    let policy = every_second().only_if(move |_| {
        let _ = &policy_flag;
        true
    });
    let handle = delegator.submit(job.with_retry(policy)).unwrap();
    let done = handle.done();
    delegator.step();
    assert!(handle.cancel_with("enough"));
    assert!(common::fired(&done) && dropped.is_open() && policy_dropped.is_open());
    let record = handle.wait();
    assert_eq!((record.state(), record.attempts(), record.started_at()), (JobState::Cancelled, 1, None));
    assert_eq!(record.error().unwrap().to_string(), "cancelled: enough");
    assert_eq!(record.earlier_attempts()[0].error().to_string(), "no");
    assert_eq!((delegator.stats().scheduled, delegator.stats().cancelled), (0, 1));
    assert!(delegator.wait_idle_timeout(Duration::ZERO));
    assert_eq!(delegator.advance(HOUR), 0);
}

#[test]
fn the_end_of_its_context_ends_it_while_it_waits() {
    let delegator = Delegator::manual();
    let (session, canceller) = Context::background().with_cancel();
    let job = fails("broken", "no").with_context(&session).with_retry(every_second());
    let handle = delegator.submit(job).unwrap();
    delegator.step();
    canceller.cancel();
    assert_eq!((delegator.stats().cancelled, delegator.stats().scheduled), (1, 0));
    assert_eq!(handle.state(), JobState::Cancelled);
}

#[test]
fn its_deadline_ends_it_in_the_queue_though_all_workers_are_busy() {
    watchdog(|| {
        let delegator = delegator(1);
        let retry = Retry::fixed(Duration::from_millis(100));
        let job = fails("broken", "no").with_retry(retry).with_timeout(Duration::from_millis(200));
        let handle = delegator.submit(job).unwrap();
        let done = handle.done();
        let waiter = {
            let handle = handle.clone();
            std::thread::spawn(move || handle.wait().state())
        };
        eventually("it waits or has ended", || handle.attempts() > 0);
        let busy = occupy(&delegator);
        let state = waiter.join().unwrap();
        common::wait_fired(&done);
        // Between two attempts it times out; the last may fail before.
        assert!(matches!(state, JobState::TimedOut | JobState::Failed), "{state}");
        busy.release();
    });
}

#[test]
fn a_job_that_fails_after_its_context_was_cancelled_is_not_tried_again() {
    watchdog(|| {
        let delegator = delegator(1);
        let (started, release) = (Gate::new(), Gate::new());
        let (begun, may_go) = (started.clone(), release.clone());
        let job = Job::new("broken", move |_| {
            begun.open();
            may_go.wait();
            Err("no".into())
        });
        let handle = delegator.submit(job.with_retry(Retry::fixed(Duration::ZERO))).unwrap();
        started.wait();
        assert!(handle.cancel());
        release.open();
        let record = handle.wait();
        assert_eq!((record.state(), record.attempts(), record.gave_up()), (JobState::Failed, 1, None));
    });
}

#[test]
fn a_cancel_is_never_lost_between_two_attempts() {
    watchdog(|| {
        let delegator =
            Delegator::builder().workers(2).retry_budget(RetryBudget::unlimited()).build().unwrap();
        for round in 0..60_u32 {
            let retry = Retry::fixed(Duration::ZERO).max_attempts(u32::MAX);
            let handle = delegator.submit(fails("again", "no").with_retry(retry)).unwrap();
            eventually("it has begun", || handle.attempts() > round % 7);
            assert!(handle.cancel(), "it would go on for ever");
            let record = handle.wait();
            assert!(matches!(record.state(), JobState::Cancelled | JobState::Failed), "{record}");
        }
        assert_eq!(delegator.stats().scheduled, 0);
        assert!(delegator.wait_idle_timeout(common::PATIENCE));
    });
}

#[test]
fn each_attempt_has_a_context_of_its_own() {
    let delegator = Delegator::manual();
    let (dropped, live) = (Counter::new(), Arc::new(AtomicBool::new(true)));
    let (counter, seen) = (dropped.clone(), Arc::clone(&live));
    let ctx = Context::background().with_value("key", 7_u32);
    let job = Job::new("listens", move |ctx| {
        seen.fetch_and(!ctx.is_done() && ctx.value::<u32>("key") == Some(&7), Ordering::Relaxed);
        let count = common::CountOnDrop(counter.clone());
        let _ = ctx.on_done(move || drop(count));
        let (_, child) = ctx.with_cancel();
        child.cancel();
        Err("no".into())
    });
    let handle = delegator.submit(job.with_context(&ctx).with_retry(every_second().max_attempts(3))).unwrap();
    assert!(delegator.step());
    for attempt in 1..=3 {
        assert_eq!(dropped.get(), attempt, "what was registered goes with the attempt");
        delegator.advance(SECOND);
    }
    assert_eq!(handle.wait().attempts(), 3);
    assert!(live.load(Ordering::Relaxed));
}

#[test]
fn the_budget_stops_a_storm() {
    let delegator =
        Delegator::builder().queue_capacity(100).retry_budget(RetryBudget::new(0.1, 2)).manual().unwrap();
    let storm: Vec<_> = (0..100)
        .map(|_| delegator.submit(fails("down", "no").with_retry(every_second().max_attempts(2))).unwrap())
        .collect();
    delegator.run_until_idle();
    // Twenty in the beginning, and ten for the hundred jobs.
    assert_eq!(
        (delegator.stats().retried, delegator.stats().scheduled, delegator.stats().failed),
        (30, 30, 70)
    );
    let refused = storm.iter().filter_map(|handle| handle.try_wait()).collect::<Vec<_>>();
    assert!(refused.iter().all(|record| record.gave_up() == Some(GaveUp::Budget)));
    assert!(refused[0].to_string().ends_with(": no; not tried again: the retry budget is used up"));
    delegator.advance(SECOND);
    assert_eq!(delegator.stats().failed, 100);
    let retry = every_second().max_attempts(9);
    let handle = delegator.submit(fails("down", "no").with_retry(retry)).unwrap();
    delegator.step();
    assert_eq!(handle.state(), JobState::Scheduled, "a second has paid for two");
    handle.cancel();
}

#[test]
fn a_budget_is_not_used_by_retries_that_do_not_fit() {
    let delegator = Delegator::builder().retry_budget(RetryBudget::new(0.0, 1)).manual().unwrap();
    for _ in 0..20 {
        let late = fails("late", "no").with_retry(every_second()).with_timeout(SECOND);
        assert_eq!(run(&delegator, late).gave_up(), Some(GaveUp::Deadline));
    }
    assert_eq!(run(&delegator, flaky(1).0.with_retry(every_second())).state(), JobState::Completed);
}

#[test]
fn a_shutdown_hands_back_what_waits_and_it_goes_on_elsewhere() {
    let first = Delegator::manual();
    let (job, calls) = flaky(3);
    let retry = every_second().max_attempts(3);
    let handle = first.submit(job.with_retry(retry).with_priority(Priority::High)).unwrap();
    first.step();
    let mut report = first.shutdown(Shutdown::drain());
    assert_eq!((report.unstarted.len(), report.total()), (1, 1));
    let record = handle.wait();
    assert_eq!((record.state(), record.attempts()), (JobState::Cancelled, 1));
    let line = record.to_string();
    assert!(line.contains("cancelled after attempt 1: "), "{line}");

    let second = Delegator::manual();
    let again = second.submit(report.unstarted.remove(0)).unwrap();
    assert_eq!((again.id(), again.attempts()), (handle.id(), 1));
    let record = again.wait();
    assert_eq!((record.state(), calls.get()), (JobState::Failed, 3));
    assert_eq!((record.attempts(), record.gave_up()), (3, Some(GaveUp::Attempts)));
    assert_eq!(record.earlier_attempts()[0].error().to_string(), "failure 1");
}

#[test]
fn attempts_elsewhere_are_in_the_record_however_many_they_were() {
    for failures in 1..=3 {
        let first = Delegator::manual();
        let job = flaky(failures).0.with_retry(every_second().max_attempts(5));
        let handle = first.submit(job).unwrap();
        first.step();
        (1..failures).for_each(|_| assert_eq!(first.advance(SECOND), 1));
        let mut report = first.shutdown(Shutdown::cancel());
        let second = Delegator::manual();
        let record = run(&second, report.unstarted.remove(0));
        assert_eq!((record.state(), record.attempts()), (JobState::Completed, failures + 1));
        assert_eq!(record.earlier_attempts().len(), failures as usize);
        let line = record.to_string();
        assert!(line.contains(&format!(", in attempt {}: ran", failures + 1)), "{line}");
        assert_eq!(handle.attempts(), failures);
    }
}

#[test]
fn a_job_that_fails_during_a_drain_is_handed_back_too() {
    let delegator = Delegator::manual();
    let handle = delegator.submit(fails("broken", "no").with_retry(every_second())).unwrap();
    let plain = delegator.submit(fails("plain", "no")).unwrap();
    let report = delegator.shutdown(Shutdown::drain());
    assert_eq!((report.unstarted.len(), report.failed, report.total()), (1, 1, 2));
    let record = handle.wait();
    assert_eq!((record.state(), record.attempts(), record.worker()), (JobState::Cancelled, 1, None));
    assert_eq!((plain.state(), delegator.stats().retried), (JobState::Failed, 0));
}

#[test]
fn a_shutdown_that_cancels_ends_it_in_every_state() {
    watchdog(|| {
        for round in 0..100_u64 {
            let delegator =
                Delegator::builder().workers(2).retry_budget(RetryBudget::unlimited()).build().unwrap();
            let handles: Vec<_> = (0..6)
                .map(|n| {
                    let retry = Retry::fixed(Duration::from_micros(n * 50)).max_attempts(u32::MAX);
                    delegator.submit(fails("again", "no").with_retry(retry)).unwrap()
                })
                .collect();
            std::thread::sleep(Duration::from_micros(round * 20));
            let report = delegator.shutdown(Shutdown::cancel());
            assert_eq!(report.total(), 6, "{report:?}");
            assert!(handles.iter().all(|handle| handle.is_finished()));
            let stats = delegator.stats();
            assert_eq!(
                (stats.submitted, stats.scheduled, stats.queued, stats.running),
                (6, 0, 0, 0),
                "{stats:?}"
            );
        }
    });
}

#[test]
fn whoever_waits_inside_the_only_worker_runs_the_next_attempt() {
    watchdog(|| {
        let delegator = delegator(1);
        let submitter = delegator.submitter();
        let outer = Job::new("outer", move |_| {
            let retry = Retry::fixed(Duration::from_millis(2));
            submitter.submit(flaky(2).0.with_retry(retry))?.join()
        });
        assert_eq!(delegator.submit(outer).unwrap().join().unwrap(), [7]);
    });
}

#[test]
fn a_set_on_the_only_worker_runs_members_that_come_back() {
    watchdog(|| {
        let delegator = delegator(1);
        let submitter = delegator.submitter();
        let outer = Job::new("outer", move |_| {
            let mut set = submitter.job_set();
            for failures in 0..4 {
                set.submit(flaky(failures).0.with_retry(Retry::fixed(Duration::from_millis(1))))?;
            }
            let all = set.wait_all();
            Ok(all.iter().map(|record| u8::try_from(record.attempts()).unwrap()).collect())
        });
        assert_eq!(delegator.submit(outer).unwrap().join().unwrap(), [1, 2, 3, 4]);
    });
}

#[test]
fn dropping_a_set_cancels_members_that_wait_for_another_attempt() {
    let delegator = Delegator::manual();
    let mut set = delegator.job_set();
    set.submit(fails("broken", "no").with_retry(every_second())).unwrap();
    delegator.step();
    assert_eq!(delegator.stats().scheduled, 1);
    drop(set);
    assert_eq!((delegator.stats().scheduled, delegator.stats().cancelled), (0, 1));
}

#[test]
fn subscribers_hear_of_retries() {
    let delegator = Delegator::manual();
    let events = delegator.subscribe(100);
    run(&delegator, flaky(1).0.with_retry(every_second()));
    let told: Vec<String> = events
        .try_iter()
        .map(|event| match event {
            Event::Submitted { .. } => "submitted".to_owned(),
            Event::Started { .. } => "started".to_owned(),
            Event::Retrying { attempt, error, delay, .. } => format!("{error} in {attempt}, {delay:?}"),
            Event::Finished(record) => record.state().to_string(),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(told, ["submitted", "started", "failure 1 in 1, 1s", "started", "completed"]);
}

#[test]
fn jitter_is_the_same_for_the_same_seed_on_a_manual_delegator() {
    let delays = |delegator: Manual| {
        let retry = Retry::fixed(1000 * SECOND).jitter().max_attempts(5);
        let record = run(&delegator, fails("broken", "no").with_retry(retry));
        let times: Vec<_> = record.earlier_attempts().iter().map(|attempt| attempt.started_at()).collect();
        times.windows(2).map(|pair| pair[1].duration_since(pair[0]).unwrap()).collect::<Vec<_>>()
    };
    let plain = delays(Delegator::manual());
    assert!(plain.iter().all(|delay| (500 * SECOND..=1000 * SECOND).contains(delay)), "{plain:?}");
    assert!(plain[0] != plain[1], "{plain:?}");
    assert_eq!(plain, delays(Delegator::manual()));
    assert_eq!(delays(Delegator::manual().seeded(7)), delays(Delegator::manual().seeded(7)));
    assert_ne!(plain, delays(Delegator::manual().seeded(7)));
}

#[test]
fn it_goes_with_delays_priorities_and_batches() {
    let delegator = Delegator::manual();
    let job = |failures| flaky(failures).0.with_retry(every_second()).with_delay(SECOND);
    let batch = [job(0), job(1).with_priority(Priority::Low), job(2).with_priority(Priority::High)];
    let handles = delegator.submit_all(batch).unwrap();
    delegator.advance(HOUR);
    let attempts: Vec<_> = handles.iter().map(|handle| handle.wait().attempts()).collect();
    assert_eq!(attempts, [1, 2, 3]);
    let stats = delegator.stats();
    assert_eq!((stats.submitted, stats.completed, stats.retried), (3, 3, 3));
}

#[test]
fn a_full_queue_holds_up_a_retry_and_loses_none() {
    watchdog(|| {
        let delegator = Delegator::builder().workers(2).queue_capacity(1).build().unwrap();
        let handles: Vec<_> = (0..20)
            .map(|_| delegator.submit(flaky(2).0.with_retry(Retry::fixed(Duration::from_millis(1)))).unwrap())
            .collect();
        for handle in handles {
            assert_eq!(handle.wait().attempts(), 3);
        }
        let hand_off = Delegator::builder().workers(1).queue_capacity(0).build().unwrap();
        let job = flaky(2).0.with_retry(Retry::fixed(Duration::ZERO));
        assert_eq!(hand_off.submit(job).unwrap().wait().attempts(), 3);
    });
}

#[test]
fn the_submitter_runs_the_first_attempt_and_a_worker_the_next() {
    watchdog(|| {
        let delegator = Delegator::builder().workers(1).queue_capacity(1).build().unwrap();
        let busy = occupy(&delegator);
        let _queued = delegator.submit(yields("queued", [])).unwrap();
        let job = flaky(1).0.with_retry(Retry::fixed(Duration::from_millis(1)));
        let handle = delegator.submit_with(job, Overflow::CallerRuns).unwrap();
        assert_eq!((handle.attempts(), handle.is_finished()), (1, false));
        busy.release();
        let record = handle.wait();
        assert_eq!((record.attempts(), record.worker()), (2, Some(0)));
        assert_eq!(record.earlier_attempts()[0].worker(), None);
    });
}

#[test]
fn notes_belong_to_the_attempt() {
    let delegator = Delegator::manual();
    let calls = AtomicU32::new(0);
    let job = Job::new("says", move |ctx: &Context| match calls.fetch_add(1, Ordering::Relaxed) {
        0 => {
            ctx.checkpoint("the first")?;
            Err("no".into())
        }
        _ => Ok(Vec::new()),
    });
    let handle = delegator.submit(job.with_retry(every_second())).unwrap();
    delegator.step();
    assert!(handle.checkpoint().is_none());
    assert!(handle.wait().checkpoint().is_none());
}

#[test]
fn errors_of_earlier_attempts_are_dropped_with_the_record() {
    let delegator = Delegator::builder().retain(Retention::last(1)).manual().unwrap();
    struct Loud(#[allow(dead_code)] DropFlag);
    impl std::fmt::Debug for Loud {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Loud")
        }
    }
    impl std::fmt::Display for Loud {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("loud")
        }
    }
    impl std::error::Error for Loud {}
    let (flag, dropped) = DropFlag::new();
    let flag = std::sync::Mutex::new(Some(flag));
    let calls = AtomicU32::new(0);
    let job = Job::new("loud", move |_| match calls.fetch_add(1, Ordering::Relaxed) {
        0 => Err(Error::new(Loud(flag.lock().unwrap().take().unwrap()))),
        _ => Ok(Vec::new()),
    });
    run(&delegator, job.with_retry(every_second()));
    assert!(!dropped.is_open(), "the registry has the record");
    run(&delegator, yields("next", []));
    assert!(dropped.is_open());
}

#[test]
fn a_job_without_a_policy_fails_at_once() {
    let delegator = Delegator::manual();
    let record = run(&delegator, fails("plain", "no"));
    assert_eq!((record.attempts(), record.gave_up()), (1, None));
    assert!(record.earlier_attempts().is_empty());
    assert_eq!(delegator.stats().retried, 0);
}

#[test]
fn a_job_that_fails_where_it_is_waited_for_is_not_started_from_its_old_place_in_the_queue() {
    watchdog(|| {
        let delegator = delegator(2);
        let busy = occupy(&delegator);
        let (sender, receiver) = crossbeam_channel::bounded(1);
        let inside = delegator.submitter();
        let outer = Job::new("outer", move |_| {
            let (job, _) = flaky(1);
            let inner = inside.submit(job.with_retry(Retry::fixed(HOUR)))?;
            let _ = sender.send(inner.clone());
            inner.wait();
            Ok(Vec::new())
        });
        let outer = delegator.submit(outer).unwrap();
        let inner: workpath::JobHandle = receiver.recv().unwrap();
        eventually("it waits for its next attempt", || inner.state() == JobState::Scheduled);
        busy.release();
        // Behind the old place.
        delegator.submit(yields("after", [])).unwrap().wait();
        assert_eq!((inner.state(), inner.attempts()), (JobState::Scheduled, 1));
        inner.cancel();
        assert_eq!(outer.wait().state(), JobState::Completed);
    });
}
