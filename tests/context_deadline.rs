//! Deadlines of contexts: never early, never later than the parent's, and noticed without anybody polling.

mod common;

use std::thread;
use std::time::{Duration, Instant};

use common::{BRIEF, FOREVER, fired, wait_fired, watchdog};
use workpath::{Context, ErrorKind};

#[test]
fn a_deadline_in_the_past_or_now_is_over_at_construction() {
    let now = Instant::now();
    let past = now.checked_sub(Duration::from_millis(5)).unwrap_or(now);
    let contexts = [
        Context::background().with_deadline(past),
        Context::background().with_deadline(Instant::now()),
        Context::background().with_timeout(Duration::ZERO),
    ];
    for ctx in &contexts {
        assert!(ctx.is_done());
        assert!(fired(&ctx.done()));
        assert!(ctx.check().is_err_and(|error| error.is_timeout()));
        assert_eq!(ctx.error().map(|error| error.kind()), Some(ErrorKind::DeadlineExceeded));
        assert_eq!(ctx.remaining(), Some(Duration::ZERO));
        assert!(ctx.deadline().is_some());
    }
}

#[test]
fn a_deadline_error_says_timeout_and_has_no_cause() {
    let error = Context::background().with_timeout(Duration::ZERO).error().expect("done");
    assert!(error.is_timeout());
    assert!(!error.is_cancelled());
    assert!(!error.is_panic());
    assert!(error.get_ref().is_none());
    let (cancelled, cancel) = Context::background().with_cancel();
    cancel.cancel();
    assert_ne!(error.to_string(), cancelled.error().expect("done").to_string());
}

#[test]
fn the_deadline_is_kept_to_the_nanosecond() {
    let deadline = Instant::now() + FOREVER;
    let ctx = Context::background().with_deadline(deadline);
    assert_eq!(ctx.deadline(), Some(deadline));
    assert_eq!(ctx.with_value("key", 1_u8).deadline(), Some(deadline));
    assert_eq!(ctx.with_cancel().0.deadline(), Some(deadline));
}

#[test]
fn a_timeout_counts_from_the_call() {
    let before = Instant::now();
    let ctx = Context::background().with_timeout(FOREVER);
    let after = Instant::now();
    let deadline = ctx.deadline().expect("a deadline");
    assert!(before + FOREVER <= deadline && deadline <= after + FOREVER);
}

#[test]
fn the_time_remaining_shrinks_and_stops_at_zero() {
    let ctx = Context::background().with_timeout(FOREVER);
    let first = ctx.remaining().expect("a deadline");
    assert!(first <= FOREVER);
    thread::sleep(Duration::from_millis(2));
    let second = ctx.remaining().expect("a deadline");
    assert!(second + Duration::from_millis(2) <= first);

    let short = ctx.with_timeout(BRIEF);
    wait_fired(&short.done());
    assert_eq!(short.remaining(), Some(Duration::ZERO));
}

#[test]
fn a_child_cannot_outlive_its_parents_deadline() {
    let parent = Context::background().with_timeout(BRIEF);
    let deadline = parent.deadline();
    let children = [
        parent.with_timeout(FOREVER),
        parent.with_deadline(Instant::now() + FOREVER),
        parent.with_timeout(Duration::MAX),
        parent.with_cancel().0,
        parent.with_value("key", 1_u8).with_timeout(FOREVER),
    ];
    for child in &children {
        assert_eq!(child.deadline(), deadline);
        wait_fired(&child.done());
        assert!(child.error().is_some_and(|error| error.is_timeout()));
    }
}

#[test]
fn an_earlier_deadline_of_a_child_leaves_its_parent_alone() {
    let parent = Context::background().with_timeout(FOREVER);
    let deadline = parent.deadline().expect("a deadline");
    let child = parent.with_timeout(BRIEF);
    assert!(child.deadline().expect("a deadline") < deadline);
    wait_fired(&child.done());
    assert!(child.is_done());
    assert!(!parent.is_done());
    assert!(!fired(&parent.done()));
    assert_eq!(parent.deadline(), Some(deadline));
}

#[test]
fn a_deadline_is_never_early_for_someone_who_polls() {
    let ctx = Context::background().with_timeout(BRIEF);
    let deadline = ctx.deadline().expect("a deadline");
    while !ctx.is_done() {
        assert!(ctx.error().is_none() || Instant::now() >= deadline);
        thread::yield_now();
    }
    assert!(Instant::now() >= deadline);
    assert!(ctx.error().is_some_and(|error| error.is_timeout()));
}

#[test]
fn done_fires_at_a_deadline_that_nobody_polls_and_not_before() {
    let ctx = Context::background().with_timeout(BRIEF);
    let deadline = ctx.deadline().expect("a deadline");
    let done = ctx.done();
    wait_fired(&done);
    assert!(Instant::now() >= deadline);
    assert!(ctx.is_done());
    assert!(ctx.error().is_some_and(|error| error.is_timeout()));
}

#[test]
fn whoever_sees_the_deadline_pass_also_sees_done_fired() {
    for _ in 0..5 {
        let ctx = Context::background().with_timeout(Duration::from_millis(2));
        let child = ctx.with_cancel().0;
        // Listened to from before, so that there is a receiver to fire.
        let early = [ctx.done(), child.done()];
        while !ctx.is_done() {
            thread::yield_now();
        }
        assert!(fired(&ctx.done()));
        assert!(fired(&child.done()));
        early.iter().for_each(wait_fired);
    }
}

#[test]
fn deadlines_that_were_registered_latest_first_all_fire_in_time() {
    watchdog(|| {
        let far = Context::background().with_timeout(FOREVER);
        let far_done = far.done();
        let contexts: Vec<_> =
            (1..=20).rev().map(|n| Context::background().with_timeout(BRIEF * n / 4)).collect();
        let listeners: Vec<_> = contexts
            .iter()
            .map(|ctx| {
                let (done, deadline) = (ctx.done(), ctx.deadline().expect("a deadline"));
                thread::spawn(move || {
                    wait_fired(&done);
                    assert!(Instant::now() >= deadline, "never early");
                })
            })
            .collect();
        for listener in listeners {
            listener.join().expect("in time");
        }
        assert!(contexts.iter().all(Context::is_done));
        assert!(!fired(&far_done));
    });
}

#[test]
fn an_earlier_deadline_is_not_delayed_by_a_later_one_that_was_there_first() {
    let later = Context::background().with_timeout(FOREVER);
    let later_done = later.done();
    thread::sleep(Duration::from_millis(5));
    let earlier = Context::background().with_timeout(BRIEF);
    wait_fired(&earlier.done());
    assert!(!fired(&later_done));
    assert!(!later.is_done());
}

#[test]
fn many_contexts_with_one_deadline_all_fire() {
    let deadline = Instant::now() + BRIEF;
    let contexts: Vec<_> = (0..50).map(|_| Context::background().with_deadline(deadline)).collect();
    let receivers: Vec<_> = contexts.iter().map(Context::done).collect();
    receivers.iter().for_each(wait_fired);
    assert!(Instant::now() >= deadline);
    assert!(contexts.iter().all(Context::is_done));
}

#[test]
fn a_done_receiver_outlives_its_context_and_still_fires_at_the_deadline() {
    let start = Instant::now();
    let done = Context::background().with_value("v", 1_u8).with_timeout(BRIEF).done();
    wait_fired(&done);
    assert!(start.elapsed() >= BRIEF, "neither the drop nor anything else may fire it early");
}

#[test]
fn the_deadline_of_a_parent_without_handles_fires_for_the_child() {
    let start = Instant::now();
    let child = Context::background().with_timeout(BRIEF).with_value("v", 1_u8).with_cancel();
    let done = child.0.done();
    drop(child);
    wait_fired(&done);
    assert!(start.elapsed() >= BRIEF);
}

#[test]
fn a_dropped_listener_does_not_disturb_other_deadlines() {
    let dropped = Context::background().with_timeout(BRIEF);
    drop(dropped.done());
    let kept = Context::background().with_timeout(BRIEF * 2);
    wait_fired(&kept.done());
    assert!(dropped.is_done());
}

#[test]
fn the_first_event_decides_between_a_timeout_and_a_cancel() {
    let (timed_out, cancel) = Context::background().with_timeout(Duration::ZERO).with_cancel();
    cancel.cancel_with("after");
    let error = timed_out.error().expect("done");
    assert!(error.is_timeout());
    assert!(error.get_ref().is_none());

    let (parent, cancel) = Context::background().with_cancel();
    cancel.cancel_with("before");
    let error = parent.with_timeout(Duration::ZERO).error().expect("done");
    assert!(error.is_cancelled());
    assert_eq!(error.get_ref().map(ToString::to_string).as_deref(), Some("before"));

    let (parent, cancel) = Context::background().with_cancel();
    let child = parent.with_timeout(Duration::ZERO);
    cancel.cancel_with("after");
    assert!(child.error().is_some_and(|error| error.is_timeout()));
    assert!(parent.error().is_some_and(|error| error.is_cancelled()));
}

#[test]
fn a_timeout_that_the_clock_cannot_hold_means_no_deadline() {
    let ctx = Context::background().with_timeout(Duration::MAX);
    assert_eq!(ctx.deadline(), None);
    assert_eq!(ctx.remaining(), None);
    assert!(!ctx.is_done());
    assert!(!fired(&ctx.done()));
    let limited = Context::background().with_timeout(FOREVER);
    assert_eq!(limited.with_timeout(Duration::MAX).deadline(), limited.deadline());
    assert!(ctx.with_timeout(Duration::ZERO).is_done());
}

#[test]
fn timeouts_at_the_edge_of_the_clock_neither_panic_nor_fire() {
    let tried = [
        Duration::MAX,
        Duration::MAX / 2,
        Duration::from_secs(u64::MAX / 2),
        Duration::from_secs(u64::MAX / 2 - 1_000_000_000),
        Duration::from_secs(u64::MAX / 4),
        Duration::from_secs(u64::from(u32::MAX)),
        Duration::from_secs(i32::MAX.unsigned_abs().into()),
        Duration::from_millis(u64::MAX),
        Duration::from_nanos(u64::MAX),
    ];
    let contexts: Vec<_> = tried.iter().map(|timeout| Context::background().with_timeout(*timeout)).collect();
    let receivers: Vec<_> = contexts.iter().map(Context::done).collect();
    let kept: Vec<_> = contexts.iter().map(|ctx| ctx.on_done(|| panic!("far too early"))).collect();
    // The timer has to get past all of them to a deadline that comes.
    wait_fired(&Context::background().with_timeout(BRIEF).done());
    for ((timeout, ctx), done) in tried.iter().zip(&contexts).zip(&receivers) {
        assert!(!ctx.is_done(), "{timeout:?}");
        assert!(!fired(done), "{timeout:?}");
        assert!(ctx.check().is_ok(), "{timeout:?}");
    }
    assert!(kept.into_iter().all(|on_done| on_done.stop()));
}

#[test]
fn a_nanosecond_is_enough_to_be_over() {
    let ctx = Context::background().with_timeout(Duration::from_nanos(1));
    wait_fired(&ctx.done());
    assert!(ctx.is_done());
    assert!(ctx.error().is_some_and(|error| error.is_timeout()));
}
