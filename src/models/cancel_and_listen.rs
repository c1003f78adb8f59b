//! Contexts: a cancel against a listener that registers, against one that goes away, against another cancel. Every function
//! runs once or is taken back, nobody sleeps past a cancel, nothing stays registered, and the reason never changes.

use crossbeam_channel::TryRecvError;
use loom::thread::spawn;
use std::time::Duration;

use super::{Count, explore, explore_clocked};
use crate::Context;

/// Rule 3: a listener is taken out by the cancel or sees the flag.
#[test]
fn registering_and_cancelling() {
    explore(4, || {
        let (ctx, canceller) = Context::background().with_cancel();
        let called = Count::default();
        let canceling = spawn(move || canceller.cancel());
        let count = called.clone();
        drop(ctx.on_done(move || count.add()));
        if ctx.is_done() {
            assert!(called.get() <= 1);
        }
        canceling.join().unwrap();
        assert_eq!(called.get(), 1);
        assert_eq!(ctx.listeners(), 0);
    });
}

#[test]
fn two_cancels_above_one_listener() {
    explore(5, || {
        let (parent, above) = Context::background().with_cancel();
        let (child, below) = parent.with_cancel();
        let called = Count::default();
        let count = called.clone();
        let first = spawn(move || above.cancel());
        drop(child.on_done(move || count.add()));
        below.cancel();
        first.join().unwrap();
        assert_eq!(called.get(), 1);
        assert_eq!((parent.listeners(), child.listeners()), (0, 0));
    });
}

/// The cancel may have been there before the listener reaches its last place, where nobody else would take it out.
#[test]
fn registering_under_a_parent_that_lives_on() {
    explore(4, || {
        let (parent, _kept) = Context::background().with_cancel();
        let (child, canceller) = parent.with_cancel();
        let called = Count::default();
        let count = called.clone();
        let canceling = spawn(move || canceller.cancel());
        drop(child.on_done(move || count.add()));
        canceling.join().unwrap();
        assert_eq!(called.get(), 1);
        assert_eq!((parent.listeners(), child.listeners()), (0, 0));
    });
}

#[test]
fn stopping_and_cancelling() {
    explore(4, || {
        let (ctx, canceller) = Context::background().with_cancel();
        let called = Count::default();
        let count = called.clone();
        let watch = ctx.on_done(move || count.add());
        let canceling = spawn(move || canceller.cancel());
        let prevented = watch.stop();
        canceling.join().unwrap();
        assert_eq!(called.get(), usize::from(!prevented));
        assert_eq!(ctx.listeners(), 0);
    });
}

/// A sleep that lost its wake-up would last for ever.
#[test]
fn sleeping_and_cancelling() {
    explore(4, || {
        let (parent, canceller) = Context::background().with_cancel();
        let (child, _kept) = parent.with_cancel();
        let sleeper = spawn(move || {
            assert!(child.sleep(Duration::MAX).unwrap_err().is_cancelled());
            assert_eq!(child.listeners(), 0);
        });
        canceller.cancel();
        sleeper.join().unwrap();
        assert_eq!(parent.listeners(), 0);
    });
}

#[test]
fn receivers_and_cancelling() {
    explore(3, || {
        let (ctx, canceller) = Context::background().with_cancel();
        let other = {
            let ctx = ctx.clone();
            spawn(move || ctx.done())
        };
        let canceling = spawn(move || canceller.cancel());
        let mine = ctx.done();
        let theirs = other.join().unwrap();
        canceling.join().unwrap();
        for receiver in [mine, theirs, ctx.done()] {
            assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
        }
        assert_eq!(ctx.listeners(), 0);
    });
}

fn cause(ctx: &Context) -> Option<String> {
    let error = ctx.error()?;
    Some(error.get_ref().map_or_else(|| error.to_string(), |cause| cause.to_string()))
}

#[test]
fn two_causes_for_one_scope() {
    explore(4, || {
        let (ctx, canceller) = Context::background().with_cancel();
        let other = canceller.clone();
        let canceling = spawn(move || other.cancel_with("one"));
        let early = {
            let ctx = ctx.clone();
            spawn(move || cause(&ctx))
        };
        canceller.cancel_with("two");
        let early = early.join().unwrap();
        canceling.join().unwrap();
        let late = cause(&ctx);
        assert!(late.is_some());
        assert!(early.is_none() || early == late, "{early:?}, {late:?}");
    });
}

/// Rule 4: the scopes are different, and each has its own cancel.
#[test]
fn the_reason_never_changes() {
    explore_clocked(3, || {
        let (parent, above) = Context::background().with_cancel();
        let (child, below) = parent.with_cancel();
        let first = spawn(move || above.cancel_with("above"));
        let early = {
            let child = child.clone();
            spawn(move || cause(&child))
        };
        below.cancel_with("below");
        let mine = cause(&child);
        let early = early.join().unwrap();
        first.join().unwrap();
        let late = cause(&child);
        assert!(late.is_some());
        assert_eq!(mine, late);
        assert!(early.is_none() || early == late, "{early:?}, {late:?}");
    });
}

#[test]
fn the_reason_never_changes_at_a_deadline() {
    explore_clocked(3, || {
        let (scoped, canceller) = Context::background().with_cancel();
        let ctx = scoped.with_timeout(Duration::from_millis(2));
        let early = {
            let ctx = ctx.clone();
            spawn(move || [cause(&ctx), cause(&ctx)])
        };
        canceller.cancel_with("cancel");
        let mine = cause(&ctx);
        let early = early.join().unwrap();
        let late = cause(&ctx);
        assert!(mine.is_some());
        assert_eq!(mine, late);
        for early in early {
            assert!(early.is_none() || early == late, "{early:?}, {late:?}");
        }
    });
}
