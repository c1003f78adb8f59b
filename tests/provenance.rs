//! Why something ended: who cancelled, where in the source, when, and through what.

mod common;
#[path = "common/pool.rs"]
mod pool;

use std::fmt;
use std::panic::Location;
use std::time::{Duration, Instant};

use common::{BRIEF, FOREVER, Gate, delegator, fails, occupy, watchdog, yields};
use pool::obedient;
use workpath::{
    Context, Delegator, Displaced, Error, Job, JobHandle, JobState, Origin, Provenance, Shutdown,
};

/// The line after this call.
#[track_caller]
fn next_line() -> u32 {
    Location::caller().line() + 1
}

#[track_caller]
fn why(error: &Error) -> Provenance {
    error.why().expect("a context ended it")
}

/// Checks who cancelled, in which line of this file, and whether a parent was meant.
#[track_caller]
fn assert_why(error: &Error, origin: Origin, line: u32, inherited: bool) {
    let why = why(error);
    let place = why.location().map(|location| (location.file(), location.line()));
    assert_eq!((why.origin(), place, why.is_inherited()), (origin, Some((file!(), line)), inherited));
}

fn error_of(handle: &JobHandle) -> Error {
    handle.wait().error().expect("an error").clone()
}

fn running(delegator: &Delegator, ctx: &Context) -> JobHandle {
    let started = Gate::new();
    let handle = delegator.submit(obedient("obedient", &started).with_context(ctx)).unwrap();
    started.wait();
    handle
}

#[test]
fn a_canceller_says_where_it_was_called_and_when() {
    let (ctx, canceller) = Context::background().with_cancel();
    let before = Instant::now();
    let line = next_line();
    canceller.cancel();
    canceller.cancel_with("too late to count");
    let error = ctx.error().unwrap();
    assert_why(&error, Origin::User, line, false);
    assert!((before..=Instant::now()).contains(&why(&error).at()));
    assert_eq!(why(&ctx.error().unwrap()), why(&error));
    assert_eq!(error.to_string(), "cancelled");
}

#[test]
fn origins_and_displacements_say_who_it_was() {
    let origins = [
        Origin::User,
        Origin::Deadline,
        Origin::JobSet,
        Origin::Shutdown,
        Origin::OrderQueue,
        Origin::Displaced,
    ];
    let texts = ["user", "deadline", "job set", "shutdown", "order queue", "displaced"];
    assert_eq!(origins.map(|origin| origin.to_string()), texts);
    let by = yields("job", []).id();
    assert_eq!(Displaced::Dropped { by }.to_string(), format!("dropped from the full queue for job {by}"));
    assert_eq!(Displaced::Superseded { by }.to_string(), format!("superseded by job {by}"));
}

#[test]
fn a_cause_comes_with_its_place() {
    let (ctx, canceller) = Context::background().with_cancel();
    let line = next_line();
    canceller.cancel_with("window closed");
    let error = ctx.check().unwrap_err();
    assert_why(&error, Origin::User, line, false);
    assert_eq!(error.to_string(), "cancelled: window closed");
    let full = format!("{error:#}");
    let start = format!("cancelled: window closed (by the user, at {}:{line}:", file!());
    assert!(full.starts_with(&start) && full.ends_with(" ago)"), "{full}");
    assert_eq!(full.lines().count(), 1);
}

#[test]
fn derived_contexts_are_their_parents_in_this_unless_they_can_be_cancelled_themselves() {
    let (parent, canceller) = Context::background().with_cancel();
    let same = parent.with_value("key", 1).with_timeout(FOREVER);
    let (child, _own) = same.with_cancel();
    let line = next_line();
    canceller.cancel();
    assert_why(&same.error().unwrap(), Origin::User, line, false);
    assert_why(&child.error().unwrap(), Origin::User, line, true);
    assert!(format!("{:#}", child.error().unwrap()).contains("by the user through a parent context, at "));
}

#[test]
fn a_deadline_is_the_instant_itself() {
    let deadline = Instant::now() - Duration::from_secs(5);
    let error = Context::background().with_deadline(deadline).error().unwrap();
    let why = why(&error);
    assert_eq!((why.origin(), why.location(), why.at()), (Origin::Deadline, None, deadline));
    assert_eq!(error.to_string(), "deadline exceeded");
    let full = format!("{error:#}");
    assert!(full.starts_with("deadline exceeded (") && full.ends_with("s ago)"), "{full}");
}

#[test]
fn other_errors_have_no_provenance_and_read_the_same() {
    let error = Error::from("disk on fire");
    assert!(error.why().is_none());
    assert_eq!(format!("{error:#}"), "disk on fire");
}

#[test]
fn a_handle_cancels_its_own_job_queued_or_running() {
    watchdog(|| {
        let delegator = delegator(1);
        let busy = running(&delegator, &Context::background());
        let queued = delegator.submit(yields("queued", "")).unwrap();
        let line = next_line();
        assert!(queued.cancel());
        assert_why(&error_of(&queued), Origin::User, line, false);
        let line = next_line();
        assert!(busy.cancel_with("superseded"));
        assert_why(&error_of(&busy), Origin::User, line, false);
    });
}

#[test]
fn to_a_job_its_context_is_a_parent_queued_or_running() {
    watchdog(|| {
        let delegator = delegator(1);
        let (ctx, canceller) = Context::background().with_cancel();
        let busy = running(&delegator, &ctx);
        let queued = delegator.submit(yields("queued", "").with_context(&ctx)).unwrap();
        let later = delegator.submit(yields("later", "").with_context(&ctx).with_delay(FOREVER)).unwrap();
        let watched = delegator.submit(yields("watched", "").with_context(&ctx)).unwrap();
        let done = watched.done();
        let line = next_line();
        canceller.cancel_with("enough");
        common::wait_fired(&done);
        for handle in [&busy, &queued, &later, &watched] {
            assert_why(&error_of(handle), Origin::User, line, true);
        }
    });
}

#[test]
fn what_the_worker_finds_cancelled_was_cancelled_by_its_context() {
    watchdog(|| {
        let delegator = delegator(1);
        let (ctx, canceller) = Context::background().with_cancel();
        let busy = occupy(&delegator);
        let queued = delegator.submit(yields("queued", "").with_context(&ctx)).unwrap();
        let line = next_line();
        canceller.cancel();
        busy.release();
        delegator.wait_idle(); // nobody has looked but the worker
        let record = delegator.registry().get(queued.id()).unwrap();
        assert_why(record.error().unwrap(), Origin::User, line, true);
    });
}

#[test]
fn a_shutdown_is_named_for_what_ran_what_waited_and_what_was_scheduled() {
    watchdog(|| {
        for drain in [false, true] {
            let delegator = delegator(1);
            let busy = running(&delegator, &Context::background());
            let queued = delegator.submit(yields("queued", "")).unwrap();
            let later = delegator.submit(yields("later", "").with_delay(FOREVER)).unwrap();
            let how = if drain { Shutdown::drain().within(Duration::ZERO) } else { Shutdown::cancel() };
            let line = next_line();
            let report = delegator.shutdown(how);
            assert_eq!(report.unstarted.len(), 2);
            for handle in [&busy, &queued, &later] {
                assert_why(&error_of(handle), Origin::Shutdown, line, false);
            }
            assert!(
                format!("{:#}", error_of(&busy)).contains("the delegator is shut down (by a shutdown, at ")
            );
        }
    });
}

#[test]
fn a_nested_job_is_cancelled_through_its_parent() {
    watchdog(|| {
        let delegator = delegator(2);
        let submitter = delegator.submitter();
        let started = Gate::new();
        let inner = obedient("inner", &started);
        let inner = std::sync::Mutex::new(Some(inner));
        let outer = delegator
            .submit(Job::new("outer", move |ctx| {
                let inner = inner.lock().unwrap().take().ok_or("once")?;
                submitter.submit(inner.with_context(ctx))?.join()
            }))
            .unwrap();
        started.wait();
        let line = next_line();
        outer.cancel_with("stop");
        delegator.wait_idle();
        let record = delegator.registry().records().into_iter().find(|record| record.name() == "inner");
        assert_why(record.unwrap().error().unwrap(), Origin::User, line, true);
        let outer = outer.wait();
        assert_eq!(outer.state(), JobState::Cancelled);
        assert_eq!(outer.error().unwrap().to_string(), "cancelled: stop");
    });
}

#[test]
fn a_set_is_named_with_the_call_that_decided() {
    watchdog(|| {
        let delegator = delegator(1);
        let submit = |jobs: [Job; 2]| {
            let mut set = delegator.job_set();
            for job in jobs {
                set.submit(job).unwrap();
            }
            set
        };
        let queued = || yields("other", "").with_delay(FOREVER);
        let found = || delegator.registry().records().last().unwrap().error().unwrap().clone();

        let set = submit([queued(), queued()]);
        let line = next_line();
        set.cancel_with("enough");
        assert_why(&found(), Origin::JobSet, line, false);

        let mut set = submit([yields("answer", ""), queued()]);
        let line = next_line();
        set.first_ok().unwrap();
        assert_why(&found(), Origin::JobSet, line, false);

        let mut set = submit([fails("broken", "broken"), queued()]);
        let line = next_line();
        set.first_error().unwrap_err();
        assert_why(&found(), Origin::JobSet, line, false);

        drop(submit([queued(), queued()]));
        let why = why(&found());
        assert_eq!((why.origin(), why.location()), (Origin::JobSet, None));
        assert_eq!(why.to_string(), "by a job set");
    });
}

/// An error with a source.
#[derive(Debug)]
struct Outer(std::io::Error);

impl fmt::Display for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot reach the database")
    }
}

impl std::error::Error for Outer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[test]
fn the_chain_is_one_line_from_the_end_to_where_it_began() {
    let (first, stop_first) = Context::background().with_cancel();
    let (second, stop_second) = Context::background().with_cancel();
    stop_first.cancel_with(Outer(std::io::Error::other("connection refused")));
    let line = next_line();
    stop_second.cancel_with(first.error().unwrap());
    let full = format!("{:#}", second.error().unwrap());
    assert_eq!(full.lines().count(), 1, "{full}");
    let text = "cancelled: cancelled: cannot reach the database: connection refused (by the user, at ";
    let end = format!(" ago) (by the user, at {}:{line}:", file!());
    assert!(full.starts_with(text) && full.contains(&end) && full.ends_with(" ago)"), "{full}");
}

#[test]
fn a_cause_that_is_an_error_of_an_operation_is_told_once() {
    let (ctx, canceller) = Context::background().with_cancel();
    canceller.cancel_with(Error::new(Outer(std::io::Error::other("refused"))));
    let full = format!("{:#}", ctx.error().unwrap());
    assert!(full.starts_with("cancelled: cannot reach the database: refused (by the user"), "{full}");
}

#[test]
fn a_chain_without_end_is_cut() {
    #[derive(Debug)]
    struct Circle;
    impl fmt::Display for Circle {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("round")
        }
    }
    impl std::error::Error for Circle {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&Circle)
        }
    }
    let (ctx, canceller) = Context::background().with_cancel();
    canceller.cancel_with(Circle);
    let full = format!("{:#}", ctx.error().unwrap());
    assert!(full.contains("round: round: ...") && full.len() < 400, "{full}");
}

#[test]
fn the_line_of_a_job_says_why_and_stays_the_same() {
    watchdog(|| {
        let delegator = delegator(1);
        let busy = running(&delegator, &Context::background());
        let line = next_line();
        busy.cancel_with("superseded");
        let record = busy.wait();
        let text = record.to_string();
        let end = format!(": cancelled: superseded (by the user, at {}:{line}:", file!());
        assert!(text.contains(&end) && text.ends_with(" earlier)"), "{text}");
        std::thread::sleep(BRIEF);
        assert_eq!(record.to_string(), text);
    });
}

#[test]
fn times_are_those_of_a_manual_clock() {
    let delegator = Delegator::manual();
    let (ctx, canceller) = Context::background().with_cancel();
    let handle = delegator.submit(yields("later", "").with_context(&ctx).with_delay(FOREVER)).unwrap();
    canceller.cancel();
    let error = error_of(&handle);
    delegator.advance(Duration::from_secs(90));
    assert!(format!("{error:#}").ends_with(", 90.0s ago)"), "{error:#}");
}

#[test]
fn a_cancel_in_an_error_costs_no_more_than_before() {
    assert_eq!(size_of::<Error>(), size_of::<usize>());
    assert_eq!(size_of::<Option<Error>>(), size_of::<usize>());
}
