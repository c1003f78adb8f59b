//! What the context of a job means for the job: when it ends, who hears of it, and what an error says about the outcome.

mod common;

use std::cell::RefCell;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use common::{
    BRIEF, Counter, DropFlag, FOREVER, Gate, delegator, fired, occupy, wait_fired, watchdog, yields,
};
use workpath::{Context, Delegator, Error, Job, JobHandle, JobRecord, JobState};

fn cause(record: &JobRecord) -> Option<String> {
    record.error().expect("a job without a payload has an error").get_ref().map(ToString::to_string)
}

/// How an operation ends.
type End = fn(&Context) -> Result<Vec<u8>, Error>;

/// A job that tells when it has started, waits until its context is done, and then returns what `end` makes of it.
fn until_done(started: &Gate, end: End) -> Job {
    let started = started.clone();
    Job::new("until done", move |ctx| {
        started.open();
        wait_fired(&ctx.done());
        end(ctx)
    })
}

fn obey(ctx: &Context) -> Result<Vec<u8>, Error> {
    ctx.check()?;
    Ok(Vec::new())
}

#[test]
fn the_context_error_counts_however_it_reaches_the_result() {
    let ways: [End; 4] = [
        |ctx| Err(ctx.error().expect("done")),
        |ctx| ctx.sleep(FOREVER).map(|()| Vec::new()),
        |ctx| ctx.recv(&crossbeam_channel::never()),
        |ctx| ctx.with_value("below", 1_u8).with_timeout(FOREVER).check().map(|()| Vec::new()),
    ];
    watchdog(move || {
        let delegator = delegator(1);
        for way in ways {
            let started = Gate::new();
            let handle = delegator.submit(until_done(&started, way)).expect("accepted");
            started.wait();
            assert!(handle.cancel_with("why"));
            let record = handle.wait();
            assert_eq!(record.state(), JobState::Cancelled);
            assert_eq!(cause(&record).as_deref(), Some("why"));
        }
    });
}

#[test]
fn the_cancellation_of_another_context_is_a_plain_failure() {
    watchdog(|| {
        let delegator = delegator(1);
        let of_a_child = Job::new("child", |ctx| {
            let (child, cancel) = ctx.with_cancel();
            cancel.cancel_with("only the child");
            child.check()?;
            Ok(Vec::new())
        });
        let of_a_stranger = Job::new("stranger", |_| {
            let (stranger, cancel) = Context::background().with_cancel();
            cancel.cancel();
            stranger.check()?;
            Ok(Vec::new())
        });
        for job in [of_a_child, of_a_stranger] {
            let record = delegator.submit(job).expect("accepted").wait();
            assert_eq!(record.state(), JobState::Failed);
            assert!(record.error().is_some_and(Error::is_cancelled), "the error itself is kept");
        }
        assert_eq!((delegator.stats().failed, delegator.stats().cancelled), (2, 0));
    });
}

#[test]
fn a_running_job_may_be_cancelled_again_and_keeps_the_first_cause() {
    watchdog(|| {
        let delegator = delegator(1);
        let (started, release) = (Gate::new(), Gate::new());
        let (opened, waited) = (started.clone(), release.clone());
        let handle = delegator
            .submit(Job::new("stubborn", move |ctx| {
                opened.open();
                waited.wait();
                ctx.check()?;
                Ok(Vec::new())
            }))
            .expect("accepted");
        started.wait();
        assert!(handle.cancel_with("first"));
        assert!(!handle.is_finished(), "the operation decides when");
        assert!(handle.cancel_with("second"), "the job still runs");
        release.open();
        assert_eq!(cause(&handle.wait()).as_deref(), Some("first"));
    });
}

#[test]
fn cancelling_a_context_ends_all_its_queued_jobs_and_tells_the_running_one() {
    watchdog(|| {
        let delegator = delegator(1);
        let (ctx, canceller) = Context::background().with_cancel();
        let started = Gate::new();
        let running = delegator.submit(until_done(&started, obey).with_context(&ctx)).expect("accepted");
        let ran = Counter::new();
        let queued: Vec<JobHandle> = (0..5)
            .map(|_| {
                let ran = ran.clone();
                let job = Job::new("queued", move |_| {
                    ran.add();
                    Ok(Vec::new())
                });
                delegator.submit(job.with_context(&ctx)).expect("accepted")
            })
            .collect();
        let stranger = delegator.submit(yields("stranger", *b"x")).expect("accepted");
        started.wait();
        canceller.cancel_with("closing");
        for handle in queued.iter().chain([&running]) {
            let record = handle.wait();
            assert_eq!(record.state(), JobState::Cancelled);
            assert_eq!(cause(&record).as_deref(), Some("closing"));
        }
        assert_eq!(stranger.wait().state(), JobState::Completed);
        assert_eq!(ran.get(), 0);
        delegator.wait_idle();
        assert_eq!((delegator.stats().cancelled, delegator.stats().completed), (6, 1));
    });
}

#[test]
fn looking_at_a_queued_job_is_enough_to_see_that_its_context_was_cancelled() {
    type Look = fn(&JobHandle) -> bool;
    let looks: [(&str, Look); 5] = [
        ("state", |handle| handle.state() == JobState::Cancelled),
        ("is_finished", JobHandle::is_finished),
        ("try_wait", |handle| handle.try_wait().is_some()),
        ("wait_timeout", |handle| handle.wait_timeout(std::time::Duration::ZERO).is_some()),
        ("done", |handle| fired(&handle.done())),
    ];
    let delegator = delegator(1);
    let busy = occupy(&delegator);
    for (name, look) in looks {
        let (ctx, canceller) = Context::background().with_cancel();
        let handle = delegator.submit(yields("queued", *b"x").with_context(&ctx)).expect("accepted");
        assert!(!look(&handle), "{name}");
        canceller.cancel();
        assert!(look(&handle), "{name}");
        assert_eq!(handle.wait().state(), JobState::Cancelled, "{name}");
    }
    drop(busy);
}

#[test]
fn a_job_of_a_done_context_is_accepted_and_ended_without_running() {
    let delegator = delegator(1);
    let (ctx, canceller) = Context::background().with_cancel();
    canceller.cancel_with("before the submit");
    let ran = Counter::new();
    let counted = ran.clone();
    let (flag, dropped) = DropFlag::new();
    let job = Job::new("late", move |_| {
        let _captured = &flag;
        counted.add();
        Ok(Vec::new())
    });
    let handle = delegator.submit(job.with_context(&ctx)).expect("accepted");
    assert!(handle.is_finished());
    assert!(dropped.is_open());
    let record = handle.wait();
    assert_eq!(record.state(), JobState::Cancelled);
    assert_eq!(cause(&record).as_deref(), Some("before the submit"));
    assert_eq!(record.started_at(), None);
    let stats = delegator.stats();
    assert_eq!((stats.submitted, stats.cancelled, stats.rejected), (1, 1, 0));
    drop(delegator);
    assert_eq!(ran.get(), 0);
}

#[test]
fn a_job_that_shows_itself_as_running_can_be_cancelled_from_its_first_moment() {
    watchdog(|| {
        let delegator = delegator(1);
        for _ in 0..2_000 {
            let give_up = Gate::new();
            let job = Job::new("to be cancelled", {
                let give_up = give_up.clone();
                move |ctx| {
                    while !ctx.is_done() && !give_up.is_open() {
                        thread::yield_now();
                    }
                    ctx.check()?;
                    Ok(Vec::new())
                }
            });
            let handle = delegator.submit(job).expect("accepted");
            while handle.state() == JobState::Queued {
                thread::yield_now();
            }
            let told = handle.cancel();
            give_up.open();
            assert!(told, "it was running");
            assert_eq!(handle.wait().state(), JobState::Cancelled);
        }
    });
}

#[test]
fn each_kind_of_wait_alone_wakes_when_the_context_of_its_queued_job_is_cancelled() {
    type Wait = fn(&JobHandle) -> Option<JobRecord>;
    let waits: [Wait; 4] = [
        |handle| Some(handle.wait()),
        |handle| handle.wait_timeout(FOREVER),
        |handle| handle.wait_deadline(Instant::now() + FOREVER),
        |handle| {
            wait_fired(&handle.done());
            handle.try_wait()
        },
    ];
    for wait in waits {
        watchdog(move || {
            let delegator = delegator(1);
            let busy = occupy(&delegator);
            let (ctx, canceller) = Context::background().with_cancel();
            let below = ctx.with_cancel().0.with_value("key", 1_u8);
            let handle = delegator.submit(yields("queued", *b"x").with_context(&below)).expect("accepted");
            let waiting = Gate::new();
            let opened = waiting.clone();
            let waiter = thread::spawn(move || {
                opened.open();
                wait(&handle)
            });
            waiting.wait();
            thread::sleep(BRIEF);
            canceller.cancel_with("closing");
            let record = waiter.join().expect("woke").expect("finished");
            assert_eq!(cause(&record).as_deref(), Some("closing"));
            assert!(!busy.handle.is_finished(), "nobody had to wait for the worker");
        });
    }
}

/// Runs a job that hands its context out, and returns it when the job has finished.
fn context_of_a_finished_job(delegator: &Delegator, given: Option<&Context>) -> (Context, JobHandle) {
    let (give, take) = crossbeam_channel::unbounded();
    let job = Job::new("leaks its context", move |ctx| {
        give.send(ctx.clone()).map_err(|_| "nobody listens")?;
        Ok(Vec::new())
    });
    let job = match given {
        Some(ctx) => job.with_context(ctx),
        None => job,
    };
    let handle = delegator.submit(job).expect("accepted");
    assert_eq!(handle.wait().state(), JobState::Completed);
    (take.recv().expect("the context"), handle)
}

/// Runs a job on the same worker and cancels it.
fn cancel_the_next(delegator: &Delegator) {
    let started = Gate::new();
    let next = delegator.submit(until_done(&started, obey)).expect("accepted");
    started.wait();
    assert!(next.cancel_with("only the next"));
    assert_eq!(next.wait().state(), JobState::Cancelled);
}

#[test]
fn what_a_job_kept_of_its_context_is_not_touched_by_the_next_job_of_its_worker() {
    watchdog(|| {
        let delegator = delegator(1);
        let (root, cancel_root) = Context::background().with_value("key", 7_u8).with_cancel();
        let (kept, first) = context_of_a_finished_job(&delegator, Some(&root));
        let done = kept.done();
        let runs = Counter::new();
        let counted = runs.clone();
        let _on_done = kept.on_done(move || {
            counted.add();
        });
        cancel_the_next(&delegator);
        assert!(!first.cancel());
        assert!(!kept.is_done() && !fired(&done));
        assert_eq!(runs.get(), 0);
        assert_eq!(kept.value::<u8>("key"), Some(&7));

        cancel_root.cancel_with("from above");
        assert!(kept.is_done() && fired(&done));
        assert_eq!(runs.get(), 1);
    });
}

#[test]
fn what_a_job_without_a_context_kept_of_its_own_is_not_touched_either() {
    watchdog(|| {
        let delegator = delegator(1);
        let (kept, first) = context_of_a_finished_job(&delegator, None);
        cancel_the_next(&delegator);
        assert!(!first.cancel());
        assert!(!kept.is_done() && !fired(&kept.done()));
        let (child, canceller) = kept.with_cancel();
        cancel_the_next(&delegator);
        assert!(!child.is_done());
        canceller.cancel();
        assert!(child.is_done() && !kept.is_done());
    });
}

#[test]
fn a_job_without_a_context_does_not_hear_that_of_the_job_before_it_on_its_worker() {
    watchdog(|| {
        let delegator = delegator(1);
        let (ctx, canceller) = Context::background().with_cancel();
        let before = delegator.submit(yields("before", *b"x").with_context(&ctx)).expect("accepted");
        assert_eq!(before.wait().state(), JobState::Completed);
        let (started, cancelled) = (Gate::new(), Gate::new());
        let (opened, waited) = (started.clone(), cancelled.clone());
        let after = Job::new("after", move |ctx| {
            opened.open();
            waited.wait();
            ctx.check()?;
            Ok(Vec::new())
        });
        let after = delegator.submit(after).expect("accepted");
        started.wait();
        canceller.cancel();
        cancelled.open();
        assert_eq!(after.wait().state(), JobState::Completed);
    });
}

#[test]
fn what_listened_in_one_job_does_not_hear_the_next_one_end() {
    watchdog(|| {
        let delegator = delegator(1);
        let runs = Counter::new();
        for _ in 0..3 {
            let counted = runs.clone();
            let listens = Job::new("listens", move |ctx| {
                let counted = counted.clone();
                let _detached = ctx.on_done(move || {
                    counted.add();
                });
                let _receiver = ctx.done();
                Ok(Vec::new())
            });
            assert_eq!(delegator.submit(listens).expect("accepted").wait().state(), JobState::Completed);
            let started = Gate::new();
            let next = delegator.submit(until_done(&started, obey)).expect("accepted");
            started.wait();
            assert!(next.cancel());
            assert_eq!(next.wait().state(), JobState::Cancelled);
        }
        assert_eq!(runs.get(), 0);
        let fresh = Job::new("fresh", |ctx| {
            ctx.check()?;
            assert!(!fired(&ctx.done()));
            Ok(Vec::new())
        });
        assert_eq!(delegator.submit(fresh).expect("accepted").wait().state(), JobState::Completed);
    });
}

#[test]
fn a_function_that_a_job_registers_runs_on_the_thread_that_cancels_the_job() {
    watchdog(|| {
        let delegator = delegator(1);
        let (started, ran) = (Gate::new(), Gate::new());
        let (give, take) = crossbeam_channel::unbounded();
        let (opened, told) = (started.clone(), ran.clone());
        let job = Job::new("registers", move |ctx| {
            let give = give.clone();
            let _on_done = ctx.on_done(move || give.send(thread::current().id()).expect("the test listens"));
            opened.open();
            told.wait();
            ctx.check()?;
            Ok(Vec::new())
        });
        let handle = delegator.submit(job).expect("accepted");
        started.wait();
        assert!(take.is_empty());
        assert!(handle.cancel());
        assert_eq!(take.try_recv(), Ok(thread::current().id()), "before cancel returns");
        ran.open();
        assert_eq!(handle.wait().state(), JobState::Cancelled);
        assert!(take.is_empty(), "once");
    });
}

#[test]
fn jobs_can_be_submitted_awaited_and_looked_up_while_a_thread_ends() {
    struct Late {
        pool: Arc<Delegator>,
        finished: Gate,
    }
    impl Drop for Late {
        fn drop(&mut self) {
            let handle = self.pool.submit(yields("late", *b"late")).expect("accepted");
            assert_eq!(handle.wait().payload(), Some(&b"late"[..]));
            assert!(self.pool.registry().get(handle.id()).is_some());
            let cancelled = self.pool.submit(yields("cancelled", *b"x")).expect("accepted");
            cancelled.cancel();
            assert!(cancelled.wait_timeout(FOREVER).is_some());
            self.finished.open();
        }
    }
    thread_local! {
        static LATE: RefCell<Option<Late>> = const { RefCell::new(None) };
    }
    watchdog(|| {
        let pool = Arc::new(delegator(1));
        let finished = Gate::new();
        let late = Late { pool: Arc::clone(&pool), finished: finished.clone() };
        thread::spawn(move || LATE.set(Some(late))).join().expect("a thread that ends well");
        assert!(finished.is_open());

        // The same on a thread that was a worker.
        let finished = Gate::new();
        let slot = Mutex::new(Some(Late { pool: Arc::clone(&pool), finished: finished.clone() }));
        let other = delegator(1);
        let job = Job::new("leaves something", move |_| {
            LATE.set(slot.lock().expect("no panic").take());
            Ok(Vec::new())
        });
        assert_eq!(other.submit(job).expect("accepted").wait().state(), JobState::Completed);
        assert!(!finished.is_open());
        drop(other);
        finished.wait();
    });
}
