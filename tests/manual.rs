//! The delegator for tests: one thread, and a clock that stands still until it is turned.

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{DropFlag, fails, panics, watchdog, yields};
use workpath::{
    Context, Delegator, Error, Event, Job, JobState, Manual, Priority, Retention, Shutdown, SubmitError,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// What happened, in order.
#[derive(Clone, Default)]
struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    fn note(&self, text: impl Into<String>) {
        self.0.lock().unwrap().push(text.into());
    }

    fn read(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn job(&self, name: &'static str) -> Job {
        let diary = self.clone();
        Job::new(name, move |_| {
            diary.note(name);
            Ok(Vec::new())
        })
    }
}

fn napping(name: &'static str, time: Duration) -> Job {
    Job::new(name, move |ctx| ctx.sleep(time).map(|()| Vec::new()))
}

fn small(capacity: usize) -> Manual {
    Delegator::builder().queue_capacity(capacity).manual().expect("a manual delegator")
}

#[test]
fn nothing_runs_before_it_is_told_to() {
    let delegator = Delegator::manual();
    let handle = delegator.submit(yields("work", [1])).unwrap();
    assert_eq!((handle.state(), delegator.stats().queued), (JobState::Queued, 1));
    assert!(delegator.step());
    assert_eq!((handle.state(), delegator.stats().completed), (JobState::Completed, 1));
    assert!(!delegator.step());
}

#[test]
fn it_has_no_threads_and_one_worker() {
    let delegator = Delegator::builder().workers(7).thread_name("test").manual().unwrap();
    assert_eq!(delegator.workers().len(), 1);
    assert_eq!(delegator.workers()[0].thread_name, "test-0");
    let me = std::thread::current().id();
    let job = Job::new("where", move |_| Ok(vec![u8::from(std::thread::current().id() == me)]));
    assert_eq!(delegator.submit(job).unwrap().join().unwrap(), [1]);
}

#[test]
fn settings_are_checked_as_for_any_other() {
    let error = Delegator::builder().workers(0).manual().unwrap_err();
    assert!(error.to_string().contains("workers(0)"));
}

#[test]
fn hooks_run_on_the_same_thread() {
    let diary = Diary::default();
    let (start, stop) = (diary.clone(), diary.clone());
    let delegator = Delegator::builder()
        .on_worker_start(move |index| start.note(format!("start {index}")))
        .on_worker_stop(move |index| stop.note(format!("stop {index}")))
        .manual()
        .unwrap();
    let _ = delegator.submit(diary.job("work")).unwrap();
    drop(delegator);
    assert_eq!(diary.read(), ["start 0", "work", "stop 0"]);
}

#[test]
fn jobs_run_in_the_order_of_their_submission() {
    let (delegator, diary) = (Delegator::manual(), Diary::default());
    for name in ["a", "b", "c", "d"] {
        let _ = delegator.submit(diary.job(name)).unwrap();
    }
    assert_eq!(delegator.run_until_idle(), 4);
    assert_eq!(diary.read(), ["a", "b", "c", "d"]);
}

#[test]
fn the_same_seed_gives_the_same_order_and_loses_nothing() {
    let run = |seed| {
        let (delegator, diary) = (small(8).seeded(seed), Diary::default());
        for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            let _ = delegator.submit(diary.job(name)).unwrap();
        }
        assert_eq!(delegator.run_until_idle(), 8);
        diary.read()
    };
    let orders: Vec<_> = (0..20).map(run).collect();
    assert_eq!(orders, (0..20).map(run).collect::<Vec<_>>());
    assert!(orders.iter().any(|order| *order != orders[0]), "always the same order");
    for mut order in orders {
        order.sort();
        assert_eq!(order.concat(), "abcdefgh");
    }
}

#[test]
fn panics_and_errors_end_jobs_and_nothing_else() {
    let delegator = Delegator::manual();
    let broken = delegator.submit(panics("broken", "oh")).unwrap();
    let failed = delegator.submit(fails("failed", "no")).unwrap();
    delegator.run_until_idle();
    assert_eq!((broken.state(), failed.state()), (JobState::Panicked, JobState::Failed));
}

#[test]
fn the_clock_stands_still_until_it_is_turned() {
    let delegator = Delegator::manual();
    let start = delegator.now();
    let ctx = Context::background().with_timeout(SECOND);
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!((ctx.remaining(), delegator.now()), (Some(SECOND), start));
    delegator.advance(SECOND - Duration::from_nanos(1));
    assert!(!ctx.is_done());
    delegator.advance(Duration::from_nanos(1));
    assert!(ctx.check().unwrap_err().is_timeout());
    assert_eq!(delegator.now() - start, SECOND);
}

#[test]
fn a_sleep_takes_no_time_but_on_the_virtual_clock() {
    let delegator = Delegator::manual();
    let record = delegator.submit(napping("nap", 1000 * HOUR)).unwrap().wait();
    assert_eq!(record.run_time(), 1000 * HOUR);
    let shown = record.completed_at().duration_since(record.started_at().unwrap()).unwrap();
    assert_eq!(shown, 1000 * HOUR);
}

#[test]
fn a_sleep_ends_at_the_deadline() {
    let delegator = Delegator::manual();
    let record = delegator.submit(napping("nap", HOUR).with_timeout(SECOND)).unwrap().wait();
    assert_eq!((record.state(), record.run_time()), (JobState::TimedOut, SECOND));
}

#[test]
fn a_sleep_ends_when_somebody_cancels_meanwhile() {
    let delegator = Delegator::manual();
    let (session, canceller) = Context::background().with_cancel();
    let limit = Context::background().with_timeout(SECOND);
    let _cancels = limit.on_done(move || canceller.cancel_with("enough"));
    let record = delegator.submit(napping("nap", HOUR).with_context(&session)).unwrap().wait();
    assert_eq!((record.state(), record.run_time()), (JobState::Cancelled, SECOND));
}

#[test]
fn a_queued_job_ends_at_its_deadline() {
    let delegator = Delegator::manual();
    let (flag, dropped) = DropFlag::new();
    let job = Job::new("late", move |_| {
        let _ = &flag;
        Ok(Vec::new())
    });
    let _nap = delegator.submit(napping("nap", HOUR)).unwrap();
    let late = delegator.submit(job.with_timeout(SECOND)).unwrap();
    let done = late.done();
    delegator.run_until_idle();
    assert!(common::fired(&done) && dropped.is_open());
    let record = late.try_wait().unwrap();
    assert_eq!((record.state(), record.round_trip_time()), (JobState::TimedOut, SECOND));
}

#[test]
fn deadlines_fire_in_the_order_of_time_between_the_jobs() {
    let (delegator, diary) = (Delegator::manual(), Diary::default());
    for (name, seconds) in [("third", 3), ("first", 1), ("second", 2)] {
        let diary = diary.clone();
        let ctx = Context::background().with_timeout(seconds * SECOND);
        let _ = ctx.on_done(move || diary.note(name));
    }
    let inner = diary.clone();
    let nap = Job::new("nap", move |ctx| {
        ctx.sleep(SECOND + SECOND / 2)?;
        inner.note("nap");
        Ok(Vec::new())
    });
    let _ = delegator.submit(nap).unwrap();
    delegator.advance(10 * SECOND);
    assert_eq!(diary.read(), ["first", "nap", "second", "third"]);
}

#[test]
fn a_function_at_a_deadline_may_submit() {
    let (delegator, diary) = (Delegator::manual(), Diary::default());
    let (submitter, job) = (delegator.submitter(), diary.job("cleanup"));
    let ctx = Context::background().with_timeout(SECOND);
    let _ = ctx.on_done(move || drop(submitter.submit(job)));
    assert_eq!(delegator.advance(SECOND), 1);
    assert_eq!(diary.read(), ["cleanup"]);
}

#[test]
fn what_was_to_come_comes_in_real_time_when_the_delegator_is_gone() {
    let delegator = Delegator::manual();
    let ctx = Context::background().with_timeout(Duration::from_millis(20));
    let done = ctx.done();
    drop(delegator);
    common::wait_fired(&done);
}

#[test]
fn a_wait_runs_what_is_before_it() {
    let (delegator, diary) = (Delegator::manual(), Diary::default());
    let _ = delegator.submit(diary.job("a")).unwrap();
    let b = delegator.submit(diary.job("b")).unwrap();
    let c = delegator.submit(diary.job("c")).unwrap();
    assert!(b.wait().error().is_none());
    assert_eq!(diary.read(), ["a", "b"]);
    assert!(c.wait_timeout(Duration::ZERO).is_none());
    assert!(c.wait_timeout(SECOND).is_some());
}

#[test]
fn a_wait_that_cannot_end_panics() {
    let error = std::panic::catch_unwind(|| {
        let (a, b) = (Delegator::manual(), Arc::new(Mutex::new(None)));
        let itself = Arc::clone(&b);
        let job = Job::new("knot", move |_| {
            let handle: Option<workpath::JobHandle> = itself.lock().unwrap().take();
            handle.unwrap().join()
        });
        let handle = a.submit(job).unwrap();
        *b.lock().unwrap() = Some(handle.clone());
        handle.wait()
    });
    let record = error.expect("the panic is the job's");
    assert!(record.error().unwrap().to_string().contains("wait for ever"), "{record}");
}

#[test]
fn a_job_that_waits_for_another_runs_that_one_alone() {
    let (delegator, diary) = (Delegator::manual(), Diary::default());
    let (submitter, inner) = (delegator.submitter(), diary.clone());
    let outer = Job::new("outer", move |_| {
        let last = submitter.submit(inner.job("waited for"))?;
        last.join()
    });
    let _ = delegator.submit(outer).unwrap();
    let _ = delegator.submit(diary.job("other")).unwrap();
    delegator.run_until_idle();
    assert_eq!(diary.read(), ["waited for", "other"]);
}

#[test]
fn a_submit_to_a_full_queue_runs_the_queue() {
    let (delegator, diary) = (small(2), Diary::default());
    for name in ["a", "b", "c", "d"] {
        let _ = delegator.submit(diary.job(name)).unwrap();
    }
    assert_eq!(diary.read(), ["a", "b"]);
    let refused = delegator.try_submit(diary.job("e"));
    assert!(matches!(refused, Err(SubmitError::Full(_))));
    assert!(delegator.submit_timeout(diary.job("f"), SECOND).is_ok());
}

#[test]
fn a_submit_finds_the_places_of_jobs_that_have_ended_before_any_time_passes() {
    let delegator = small(2);
    let start = delegator.now();
    for handle in [(); 2].map(|()| delegator.submit(yields("cancelled", [])).unwrap()) {
        assert!(handle.cancel());
    }
    let handle = delegator.submit(yields("work", [1])).unwrap();
    assert_eq!(delegator.now(), start);
    assert_eq!(handle.join().unwrap(), [1]);
}

#[test]
fn a_submit_from_a_job_onto_a_full_queue_runs_the_job() {
    let (delegator, diary) = (small(1), Diary::default());
    let (submitter, inner) = (delegator.submitter(), diary.clone());
    let outer = Job::new("outer", move |_| {
        let _queued = submitter.submit(inner.job("queued"))?;
        let _inline = submitter.submit(inner.job("inline"))?;
        Ok(Vec::new())
    });
    assert!(delegator.submit(outer).unwrap().join().is_ok());
    delegator.run_until_idle();
    assert_eq!(diary.read(), ["inline", "queued"]);
}

#[test]
fn a_hand_off_takes_one_job_at_a_time() {
    let delegator = small(0);
    let first = delegator.try_submit(yields("first", [])).unwrap();
    assert!(delegator.try_submit(yields("second", [])).is_err());
    assert!(first.wait().error().is_none());
    assert!(delegator.try_submit(yields("third", [])).is_ok());
}

#[test]
fn waiting_until_idle_runs_everything() {
    let delegator = Delegator::manual();
    let handle = delegator.submit(napping("nap", HOUR)).unwrap();
    assert!(delegator.wait_idle_timeout(2 * HOUR));
    assert!(handle.is_finished());
    let _ = delegator.submit(napping("nap", HOUR)).unwrap();
    delegator.wait_idle();
    assert_eq!(delegator.stats().completed, 2);
}

#[test]
fn a_receive_lets_time_pass_up_to_the_deadline() {
    let delegator = Delegator::manual();
    let (sender, receiver) = crossbeam_channel::bounded::<u8>(1);
    let start = delegator.now();
    let _ = Context::background().with_timeout(SECOND).on_done(move || {
        let _ = sender.send(7);
    });
    let ctx = Context::background().with_timeout(HOUR);
    assert_eq!(ctx.recv(&receiver).unwrap(), 7);
    assert_eq!(delegator.now() - start, SECOND);

    let (_sender, receiver) = crossbeam_channel::bounded::<u8>(1);
    assert!(ctx.recv(&receiver).unwrap_err().is_timeout());
}

#[test]
fn a_drain_finishes_what_is_queued() {
    let delegator = Delegator::manual();
    for _ in 0..3 {
        let _ = delegator.submit(napping("nap", SECOND)).unwrap();
    }
    let report = delegator.shutdown(Shutdown::drain());
    assert_eq!((report.completed, report.total()), (3, 3));
    assert!(matches!(delegator.submit(yields("late", [])), Err(SubmitError::ShutDown(_))));
    assert_eq!(delegator.shutdown(Shutdown::cancel()).total(), 0);
}

#[test]
fn a_drain_with_a_limit_hands_back_what_it_did_not_get_to() {
    let delegator = Delegator::manual();
    for _ in 0..5 {
        let _ = delegator.submit(napping("nap", SECOND)).unwrap();
    }
    let report = delegator.shutdown(Shutdown::drain().within(2 * SECOND));
    assert_eq!((report.completed, report.unstarted.len()), (2, 3));
}

#[test]
fn a_cancel_hands_everything_back() {
    let delegator = Delegator::manual();
    let handle = delegator.submit(yields("work", [])).unwrap();
    let report = delegator.shutdown(Shutdown::cancel());
    assert_eq!((report.unstarted.len(), report.total()), (1, 1));
    assert_eq!(handle.wait().state(), JobState::Cancelled);
}

#[test]
fn another_thread_may_submit_and_shut_down() {
    let delegator = small(1);
    let (submitter, shared): (_, &Delegator) = (delegator.submitter(), &delegator);
    std::thread::scope(|scope| {
        let other = scope.spawn(move || submitter.submit(yields("far", [3])).unwrap().join().unwrap());
        common::eventually("the job runs", || delegator.step());
        assert_eq!(other.join().unwrap(), [3]);
        let other = scope.spawn(move || shared.shutdown(Shutdown::drain()).total());
        common::eventually("it is shut down", || {
            delegator.step();
            other.is_finished()
        });
        assert_eq!(other.join().unwrap(), 0);
    });
}

#[test]
fn two_of_a_thread_share_the_clock_and_wait_for_each_other() {
    let (io, cpu) = (Delegator::manual(), Delegator::manual());
    let start = io.now();
    let submitter = cpu.submitter();
    let outer = Job::new("outer", move |_| submitter.submit(napping("inner", SECOND))?.join());
    assert!(io.submit(outer).unwrap().join().is_ok());
    assert_eq!((io.now() - start, cpu.now() - start), (SECOND, SECOND));
    drop(io);
    assert_eq!(cpu.now() - start, SECOND);
}

#[test]
fn threads_work_in_real_time_beside_it() {
    watchdog(|| {
        let manual = Delegator::manual();
        let real = common::delegator(1);
        let start = manual.now();
        let nap = real.submit(napping("nap", Duration::from_millis(20))).unwrap();
        assert!(nap.wait_timeout(Duration::from_millis(1)).is_none());
        assert!(manual.now() - start >= Duration::from_millis(1));
        assert!(nap.wait().run_time() >= Duration::from_millis(20));
    });
}

#[test]
fn jobs_that_always_take_too_long_do_not_keep_the_clock() {
    watchdog(|| {
        let delegator = Delegator::manual();
        let nap = || Job::new("nap", |ctx| ctx.sleep(10 * SECOND).map(|()| Vec::new()));
        let series = delegator.every(10 * SECOND, nap).unwrap();
        let start = delegator.now();
        assert_eq!(delegator.advance(60 * SECOND), 6);
        // The last began at the end of that time.
        assert_eq!((delegator.now() - start, series.submitted()), (70 * SECOND, 6));
        assert_eq!(delegator.advance(Duration::ZERO), 1);
        let (first, second) = (delegator.submit(nap()).unwrap(), delegator.submit(nap()).unwrap());
        assert!(series.stop());
        delegator.advance(SECOND);
        assert_eq!((first.state(), second.state()), (JobState::Completed, JobState::Queued));
        delegator.run_until_idle();
        assert_eq!(second.state(), JobState::Completed);
    });
}

#[test]
fn records_expire_on_the_virtual_clock() {
    let retention = Retention::last(10).max_age(HOUR);
    let delegator = Delegator::builder().retain(retention).manual().unwrap();
    let id = delegator.submit(yields("work", [])).unwrap().wait().id();
    delegator.advance(HOUR - SECOND);
    assert!(delegator.registry().get(id).is_some());
    delegator.advance(SECOND);
    assert!(delegator.registry().get(id).is_none());
}

#[test]
fn a_failed_test_is_not_made_worse() {
    let result = std::panic::catch_unwind(|| {
        let delegator = Delegator::manual();
        let _ = delegator.submit(panics("broken", "inner")).unwrap();
        panic!("the test fails");
    });
    assert!(result.is_err());
}

#[test]
fn a_set_is_waited_for_by_running_it() {
    watchdog(|| {
        let delegator = Delegator::manual();
        let mut set = delegator.job_set();
        set.submit(napping("late", HOUR).with_delay(HOUR)).unwrap();
        set.submit(yields("early", [1])).unwrap();
        assert_eq!(set.next_finished(Duration::MAX).unwrap().name(), "early");
        let start = delegator.now();
        assert!(set.next_finished(SECOND).is_none());
        assert_eq!(delegator.now() - start, SECOND);
        assert_eq!(set.wait_all()[0].run_time(), HOUR);
        assert_eq!(delegator.now() - start, 2 * HOUR);
        assert_eq!(delegator.job_set().map("square", 0..500_u32, |_, n| Ok(vec![*n as u8])).count(), 500);
    });
}

#[test]
fn a_job_that_makes_a_set_runs_it_while_it_waits() {
    watchdog(|| {
        let delegator = Delegator::manual();
        let submitter = delegator.submitter();
        let outer = Job::new("outer", move |_| {
            let mut set = submitter.job_set();
            set.submit_all((0..3).map(|_| yields("inner", [])))?;
            Ok(vec![u8::try_from(set.wait_all().len())?])
        });
        assert_eq!(delegator.submit(outer).unwrap().join().unwrap(), [3]);
    });
}

#[test]
fn what_is_due_goes_to_the_level_of_its_priority() {
    let delegator = Delegator::manual();
    let diary = Diary::default();
    // They become due while this one sleeps, and the next has been queued for longer than they have.
    let _ = delegator.submit(napping("nap", HOUR)).unwrap();
    let _ = delegator.submit(diary.job("first")).unwrap();
    for (name, priority) in [("low", Priority::Low), ("normal", Priority::Normal), ("high", Priority::High)] {
        let _ = delegator.submit(diary.job(name).with_delay(SECOND).with_priority(priority)).unwrap();
    }
    delegator.run_until_idle();
    assert_eq!(diary.read(), ["high", "first", "normal", "low"]);
}

#[test]
fn what_is_due_waits_for_room_at_its_own_level() {
    let delegator = small(1);
    let mut handles = Vec::new();
    for priority in [Priority::Low, Priority::Normal, Priority::High] {
        for _ in 0..5 {
            let job = yields("later", []).with_delay(SECOND).with_priority(priority);
            handles.push(delegator.submit(job).unwrap());
        }
    }
    delegator.advance(HOUR);
    assert!(handles.iter().all(|handle| handle.state() == JobState::Completed));

    let normal = delegator.submit(yields("normal", [])).unwrap();
    let high =
        delegator.submit(yields("later", []).with_delay(SECOND).with_priority(Priority::High)).unwrap();
    let also = delegator.submit(yields("later", []).with_delay(SECOND)).unwrap();
    let report = delegator.shutdown(Shutdown::cancel());
    assert_eq!(report.unstarted.len(), 3);
    assert!([normal, high, also].iter().all(|handle| handle.state() == JobState::Cancelled));
}

#[test]
fn a_seed_does_not_undo_priorities() {
    for seed in 0..20 {
        let delegator = Delegator::manual().seeded(seed);
        let diary = Diary::default();
        for n in 0..4 {
            let (name, priority) =
                if n < 2 { ("high", Priority::High) } else { ("normal", Priority::Normal) };
            let _ = delegator.submit(diary.job(name).with_priority(priority)).unwrap();
        }
        delegator.run_until_idle();
        assert_eq!(diary.read(), ["high", "high", "normal", "normal"], "seed {seed}");
    }
}

#[test]
fn subscribers_hear_of_everything_up_to_the_end() {
    watchdog(|| {
        let delegator = Delegator::manual();
        let events = delegator.subscribe(100);
        let _ = delegator.submit(yields("work", [])).unwrap();
        delegator.shutdown(Shutdown::drain());
        let told: Vec<_> = events.iter().collect();
        assert!(matches!(
            &told[..],
            [Event::Submitted { .. }, Event::ShuttingDown, Event::Started { .. }, Event::Finished(_)]
        ));
    });
}

#[test]
fn it_has_one_worker_whatever_its_builder_says() {
    let delegator = Delegator::builder().workers(3).replacements(2).manual().unwrap();
    assert_eq!(delegator.workers().len(), 1);
}

#[test]
fn nothing_of_it_is_left_on_its_thread() {
    let (flag, dropped) = DropFlag::new();
    let flag = Mutex::new(Some(flag));
    let delegator = Delegator::manual();
    // The registry has the error.
    let job = Job::new("fails", move |_| {
        let flag = flag.lock().unwrap().take();
        Err(Error::new(Kept(flag)))
    });
    assert_eq!(delegator.submit(job).unwrap().wait().state(), JobState::Failed);
    assert!(!dropped.is_open());
    drop(delegator);
    assert!(dropped.is_open());
}

#[derive(Debug)]
struct Kept(#[expect(dead_code, reason = "owned for its drop")] Option<DropFlag>);

impl std::fmt::Display for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an error that is kept")
    }
}

impl std::error::Error for Kept {}

#[test]
fn a_cancel_at_the_very_instant_of_the_deadline_comes_too_late() {
    let delegator = Delegator::manual();
    let (ctx, canceller) = Context::background().with_timeout(SECOND).with_cancel();
    delegator.advance(SECOND);
    canceller.cancel();
    assert!(ctx.error().unwrap().is_timeout());
}

#[test]
fn a_cancel_from_above_starts_the_margin_of_a_stuck_job_however_long_it_has_run() {
    let delegator = Delegator::builder().stuck_after(10 * SECOND).manual().unwrap();
    let events = delegator.subscribe(100);
    let stuck = move || events.try_iter().filter(|event| matches!(event, Event::Stuck { .. })).count();
    // A cancel looks after all there are, not after the last.
    let _another = Delegator::manual();
    let (ctx, canceller) = Context::background().with_cancel();
    let job = Job::new("deaf", move |_| {
        let nap = |seconds| Context::background().sleep(seconds * SECOND);
        nap(60)?;
        canceller.cancel();
        nap(9)?;
        assert_eq!(stuck(), 0);
        nap(9)?;
        Ok(vec![stuck() as u8])
    });
    let handle = delegator.submit(job.with_context(&ctx.with_value("below", 1))).unwrap();
    assert_eq!(handle.wait().payload(), Some(&[1][..]));
}
