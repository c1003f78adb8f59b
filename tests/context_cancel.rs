//! Cancellation: at once, for good, and with the first cause.

mod common;

use std::fmt;
use std::io;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use common::{BRIEF, DropFlag, FOREVER, Gate, fired, wait_fired, watchdog};
use workpath::{Canceller, Context, Delegator, ErrorKind};

/// The text of the cause that a context ended with.
fn cause(ctx: &Context) -> Option<String> {
    ctx.error().expect("a context that is done").get_ref().map(ToString::to_string)
}

/// A timeout that is over, whatever the clock's resolution.
fn expired(parent: &Context) -> Context {
    let ctx = parent.with_timeout(BRIEF);
    wait_fired(&ctx.done());
    ctx
}

#[test]
fn a_cancel_is_visible_without_waiting() {
    let (ctx, cancel) = Context::background().with_cancel();
    let child = ctx.with_value("key", 1_u8).with_timeout(FOREVER);
    let (done, child_done) = (ctx.done(), child.done());
    cancel.cancel();
    for (ctx, done) in [(&ctx, &done), (&child, &child_done)] {
        assert!(ctx.is_done());
        assert!(fired(done));
        let error = ctx.check().expect_err("an ended context");
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert!(error.is_cancelled() && !error.is_timeout() && !error.is_panic());
    }
}

#[test]
fn a_context_with_a_deadline_that_is_cancelled_first_says_cancelled() {
    let (root, cancel) = Context::background().with_cancel();
    let ctx = root.with_timeout(FOREVER);
    cancel.cancel();
    let error = ctx.error().expect("done");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(!error.is_timeout());
}

#[test]
fn a_plain_cancel_has_no_cause() {
    let (ctx, cancel) = Context::background().with_cancel();
    cancel.cancel();
    let error = ctx.error().expect("done");
    assert!(error.get_ref().is_none());
    assert!(std::error::Error::source(&error).is_none());
    assert!(!error.to_string().is_empty());
}

#[test]
fn the_cause_is_the_very_error_that_was_given() {
    #[derive(Debug, PartialEq)]
    struct Quota(u32);
    impl fmt::Display for Quota {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "quota of {} used up", self.0)
        }
    }
    impl std::error::Error for Quota {}

    let (ctx, cancel) = Context::background().with_cancel();
    let child = ctx.with_timeout(FOREVER).with_value("key", ());
    cancel.cancel_with(Quota(9));
    for ctx in [&ctx, &child] {
        let error = ctx.error().expect("done");
        assert_eq!(error.get_ref().and_then(|cause| cause.downcast_ref::<Quota>()), Some(&Quota(9)));
        let source = std::error::Error::source(&error).expect("the cause is the source");
        assert_eq!(source.downcast_ref::<Quota>(), Some(&Quota(9)));
        let check = ctx.check().expect_err("done");
        assert_eq!(check.get_ref().and_then(|cause| cause.downcast_ref::<Quota>()), Some(&Quota(9)));
    }
}

#[test]
fn a_cause_may_be_a_text_a_string_or_any_error() {
    let (one, cancel_one) = Context::background().with_cancel();
    cancel_one.cancel_with("a text");
    assert_eq!(cause(&one).as_deref(), Some("a text"));
    let (two, cancel_two) = Context::background().with_cancel();
    cancel_two.cancel_with(String::from("a string"));
    assert_eq!(cause(&two).as_deref(), Some("a string"));
    let (three, cancel_three) = Context::background().with_cancel();
    cancel_three.cancel_with(io::Error::other("an i/o error"));
    assert_eq!(cause(&three).as_deref(), Some("an i/o error"));
}

/// Steps, the child's cause after them, and the parent's; the outer `None` says that the parent is not done.
type Row = (&'static [Step], Option<&'static str>, Option<Option<&'static str>>);

/// What happens to a pair of a parent and its cancellable child, in order.
#[derive(Clone, Copy, Debug)]
enum Step {
    Parent(Option<&'static str>),
    Child(Option<&'static str>),
}

#[test]
fn the_first_cancel_decides_the_cause_for_parent_and_child() {
    use Step::{Child, Parent};
    let table: &[Row] = &[
        (&[Child(None)], None, None),
        (&[Child(Some("c"))], Some("c"), None),
        (&[Parent(None)], None, Some(None)),
        (&[Parent(Some("p"))], Some("p"), Some(Some("p"))),
        (&[Parent(Some("p")), Child(Some("c"))], Some("p"), Some(Some("p"))),
        (&[Child(Some("c")), Parent(Some("p"))], Some("c"), Some(Some("p"))),
        (&[Parent(None), Child(Some("c"))], None, Some(None)),
        (&[Child(Some("c")), Parent(None)], Some("c"), Some(None)),
        (&[Child(None), Parent(Some("p"))], None, Some(Some("p"))),
        (&[Parent(Some("p")), Child(None)], Some("p"), Some(Some("p"))),
        (&[Child(Some("c")), Child(Some("d"))], Some("c"), None),
        (&[Child(None), Child(Some("d"))], None, None),
        (&[Child(Some("c")), Child(None)], Some("c"), None),
        (&[Parent(Some("p")), Parent(Some("q"))], Some("p"), Some(Some("p"))),
        (&[Parent(None), Parent(Some("q"))], None, Some(None)),
        (&[Child(Some("c")), Parent(Some("p")), Child(Some("d")), Parent(None)], Some("c"), Some(Some("p"))),
    ];
    for (row, (steps, child_cause, parent_cause)) in table.iter().enumerate() {
        // What a context reports must not depend on whether somebody looked, or listened, in between.
        for (look_between, listen) in [(false, false), (true, false), (false, true), (true, true)] {
            let (parent, cancel_parent) = Context::background().with_cancel();
            let (child, cancel_child) = parent.with_value("between", ()).with_cancel();
            let leaf = child.with_value("below", ()).with_timeout(FOREVER);
            let receivers = listen.then(|| [parent.done(), child.done(), leaf.done()]);
            for step in *steps {
                match *step {
                    Parent(cause) => apply(&cancel_parent, cause),
                    Child(cause) => apply(&cancel_child, cause),
                }
                if look_between {
                    let _ = (leaf.is_done(), child.error(), parent.check());
                }
            }
            let when = format!("row {row}: {steps:?}, looked between {look_between}, listening {listen}");
            assert_eq!(cause(&child).as_deref(), *child_cause, "child, {when}");
            assert_eq!(cause(&leaf).as_deref(), *child_cause, "leaf, {when}");
            assert_eq!(parent.is_done(), parent_cause.is_some(), "parent, {when}");
            if let Some(expected) = parent_cause {
                assert_eq!(cause(&parent).as_deref(), *expected, "parent, {when}");
            }
            drop(receivers);
        }
    }
}

fn apply(canceller: &Canceller, cause: Option<&'static str>) {
    match cause {
        Some(text) => canceller.cancel_with(text),
        None => canceller.cancel(),
    }
}

#[test]
fn among_three_generations_the_first_cancel_decides_for_the_leaf() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let names = ["grandparent", "parent", "child"];
        let (grandparent, cancel_0) = Context::background().with_cancel();
        let (parent, cancel_1) = grandparent.with_cancel();
        let (child, cancel_2) = parent.with_cancel();
        let cancellers = [cancel_0, cancel_1, cancel_2];
        for who in order {
            cancellers[who].cancel_with(names[who]);
        }
        assert_eq!(cause(&child).as_deref(), Some(names[order[0]]), "{order:?}");
        assert_eq!(cause(&grandparent).as_deref(), Some("grandparent"), "{order:?}");
        let parent_first = order.into_iter().find(|who| *who < 2).expect("one of the two comes first");
        assert_eq!(cause(&parent).as_deref(), Some(names[parent_first]), "{order:?}");
    }
}

#[test]
fn a_second_cancel_drops_its_cause_and_changes_nothing() {
    #[derive(Debug)]
    struct Tracked {
        flag: DropFlag,
    }
    impl fmt::Display for Tracked {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "tracked by {:?}", self.flag)
        }
    }
    impl std::error::Error for Tracked {}

    let (first, first_dropped) = DropFlag::new();
    let (second, second_dropped) = DropFlag::new();
    let (ctx, cancel) = Context::background().with_cancel();
    cancel.cancel_with(Tracked { flag: first });
    cancel.cancel_with(Tracked { flag: second });
    assert!(second_dropped.is_open(), "the cause that lost is of no use to anybody");
    assert!(!first_dropped.is_open());
    let error = ctx.error().expect("done");
    drop((ctx, cancel));
    assert!(!first_dropped.is_open(), "an error keeps its cause");
    assert!(error.get_ref().is_some_and(|cause| cause.is::<Tracked>()));
    drop(error);
    assert!(first_dropped.is_open());
}

#[test]
fn the_error_of_a_context_never_changes() {
    let (root, cancel_root) = Context::background().with_cancel();
    let (cancelled, cancel) = root.with_timeout(BRIEF * 10).with_cancel();
    let deadline = cancelled.deadline().expect("a deadline");
    cancel.cancel_with("early");
    let in_time = Instant::now() < deadline;
    let timed_out = expired(&root);
    while Instant::now() <= deadline {
        thread::sleep(Duration::from_millis(1));
    }
    for _ in 0..2 {
        if in_time {
            assert!(cancelled.error().is_some_and(|error| error.is_cancelled()));
            assert_eq!(cause(&cancelled).as_deref(), Some("early"));
        }
        assert!(timed_out.error().is_some_and(|error| error.is_timeout()));
        assert_eq!(cause(&timed_out), None);
        cancel.cancel_with("again");
        cancel_root.cancel_with("late");
    }
    assert_eq!(cause(&root).as_deref(), Some("late"));
}

#[test]
fn a_deadline_that_passed_unnoticed_still_comes_before_a_later_cancel() {
    let (root, cancel_root) = Context::background().with_cancel();
    let (ctx, cancel) = root.with_timeout(BRIEF).with_cancel();
    let deadline = ctx.deadline().expect("a deadline");
    while Instant::now() <= deadline {
        thread::sleep(Duration::from_millis(1));
    }
    cancel.cancel_with("too late");
    cancel_root.cancel_with("too late as well");
    let error = ctx.error().expect("done");
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert!(error.get_ref().is_none());
    assert_eq!(cause(&root).as_deref(), Some("too late as well"));
}

#[test]
fn a_cancel_comes_before_a_deadline_that_passes_later_though_both_are_noticed_together() {
    let (root, cancel) = Context::background().with_cancel();
    let children =
        [root.with_timeout(FOREVER), root.with_timeout(BRIEF), root.with_timeout(BRIEF).with_cancel().0];
    let cancelled_in_time = {
        cancel.cancel_with("in time");
        Instant::now() < children[1].deadline().expect("a deadline")
    };
    let deadline = children[2].deadline().expect("a deadline");
    while Instant::now() <= deadline {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(cause(&children[0]).as_deref(), Some("in time"));
    if cancelled_in_time {
        assert_eq!(cause(&children[1]).as_deref(), Some("in time"));
        assert_eq!(cause(&children[2]).as_deref(), Some("in time"));
    }
}

#[test]
fn a_reader_never_sees_half_a_cancel() {
    watchdog(|| {
        for round in 0..100 {
            let (root, cancel) = Context::background().with_cancel();
            let leaf = if round % 2 == 0 { root.clone() } else { root.with_cancel().0.with_timeout(FOREVER) };
            let start = Arc::new(Barrier::new(3));
            let cancellers = ["red", "blue"].map(|color| {
                let (cancel, start) = (cancel.clone(), Arc::clone(&start));
                thread::spawn(move || {
                    start.wait();
                    cancel.cancel_with(color);
                })
            });
            start.wait();
            let first_seen = loop {
                if let Some(error) = leaf.error() {
                    assert!(leaf.is_done());
                    assert!(error.is_cancelled());
                    break error.get_ref().expect("never a cancel without its cause").to_string();
                }
                thread::yield_now();
            };
            for canceller in cancellers {
                canceller.join().expect("cancel comes back");
            }
            assert!(["red", "blue"].contains(&first_seen.as_str()));
            assert_eq!(cause(&leaf), Some(first_seen.clone()), "the cause never changes");
            assert_eq!(cause(&root), Some(first_seen), "all contexts agree");
        }
    });
}

#[test]
fn every_thread_that_listens_wakes_at_one_cancel() {
    watchdog(|| {
        let (root, cancel) = Context::background().with_cancel();
        let ready = Arc::new(Barrier::new(17));
        let listeners: Vec<_> = (0..16)
            .map(|n: u32| {
                let ctx = if n % 2 == 0 { root.clone() } else { root.with_value("n", n).with_cancel().0 };
                let ready = Arc::clone(&ready);
                thread::spawn(move || {
                    let done = ctx.done();
                    ready.wait();
                    wait_fired(&done);
                    assert!(ctx.is_done(), "the context is done before its listeners wake");
                    assert_eq!(cause(&ctx).as_deref(), Some("stop"));
                })
            })
            .collect();
        ready.wait();
        cancel.cancel_with("stop");
        for listener in listeners {
            listener.join().expect("a listener that woke");
        }
    });
}

#[test]
fn a_canceller_works_after_every_handle_of_its_context_is_gone() {
    let (ctx, cancel) = Context::background().with_cancel();
    let done = ctx.done();
    drop(ctx);
    cancel.cancel();
    assert!(fired(&done));
    cancel.cancel_with("again");
}

#[test]
fn without_cancel_keeps_the_values_and_nothing_else() {
    let (root, cancel) = Context::background().with_value("kept", 3_u8).with_cancel();
    let live = root.with_timeout(FOREVER);
    let detached_while_live = live.without_cancel();
    let timed_out = expired(&root);
    cancel.cancel_with("a cause");
    let detached =
        [detached_while_live, root.without_cancel(), live.without_cancel(), timed_out.without_cancel()];
    for ctx in &detached {
        assert!(!ctx.is_done());
        assert!(ctx.error().is_none());
        assert!(ctx.check().is_ok());
        assert_eq!(ctx.deadline(), None);
        assert_eq!(ctx.remaining(), None);
        assert!(!fired(&ctx.done()));
        assert_eq!(ctx.value::<u8>("kept"), Some(&3));
    }
}

#[test]
fn a_context_below_without_cancel_ends_by_its_own_means_only() {
    let (root, cancel_root) = Context::background().with_cancel();
    let (child, cancel_child) = root.without_cancel().with_cancel();
    let timed = root.without_cancel().with_timeout(Duration::ZERO);
    assert!(timed.error().is_some_and(|error| error.is_timeout()));
    let done = child.done();
    cancel_root.cancel_with("of the root");
    assert!(!child.is_done());
    assert!(!fired(&done));
    cancel_child.cancel_with("of the child");
    assert!(fired(&done));
    assert_eq!(cause(&child).as_deref(), Some("of the child"));
}

#[test]
fn dropping_a_value_that_cancels_the_tree_does_not_deadlock() {
    struct CancelOnDrop(Canceller);
    impl Drop for CancelOnDrop {
        fn drop(&mut self) {
            self.0.cancel_with("from a drop");
        }
    }
    watchdog(|| {
        let (root, cancel) = Context::background().with_cancel();
        let child = root.with_value("bomb", CancelOnDrop(cancel)).with_cancel().0;
        let done = root.done();
        let child_done = child.done();
        drop(child);
        wait_fired(&done);
        wait_fired(&child_done);
        assert_eq!(cause(&root).as_deref(), Some("from a drop"));
    });
}

#[test]
fn a_cause_that_uses_the_context_in_its_drop_does_not_deadlock() {
    #[derive(Debug)]
    struct Meddler(Context, Canceller);
    impl fmt::Display for Meddler {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("meddler")
        }
    }
    impl std::error::Error for Meddler {}
    impl Drop for Meddler {
        fn drop(&mut self) {
            self.1.cancel();
            assert!(self.0.is_done());
            assert!(fired(&self.0.done()));
        }
    }
    watchdog(|| {
        let (ctx, cancel) = Context::background().with_cancel();
        let listening = ctx.done();
        cancel.cancel_with("first");
        cancel.cancel_with(Meddler(ctx.clone(), cancel.clone()));
        assert!(fired(&listening));
        assert_eq!(cause(&ctx).as_deref(), Some("first"));
    });
}

#[test]
fn contexts_can_be_used_while_their_thread_ends() {
    struct UsesContext(Context, Canceller, Gate);
    impl Drop for UsesContext {
        fn drop(&mut self) {
            let (child, cancel_child) = self.0.with_value("late", 1_u8).with_cancel();
            let done = child.done();
            assert!(child.sleep(Duration::from_millis(1)).is_ok());
            assert!(child.with_timeout(FOREVER).on_done(|| ()).stop());
            cancel_child.cancel();
            assert!(fired(&done));
            self.1.cancel();
            assert!(self.0.is_done());
            self.2.open();
        }
    }
    thread_local! {
        static LATE: std::cell::RefCell<Option<UsesContext>> = const { std::cell::RefCell::new(None) };
    }
    watchdog(|| {
        let finished = Gate::new();
        let opened = finished.clone();
        let thread = thread::spawn(move || {
            let (ctx, cancel) = Context::background().with_cancel();
            LATE.with_borrow_mut(|late| *late = Some(UsesContext(ctx, cancel, opened)));
        });
        thread.join().expect("a thread that ends well");
        finished.wait();
    });
}

#[test]
fn the_first_cancel_stays_the_reason_while_the_clock_stands_still() {
    let _virtual = Delegator::manual();
    let (parent, of_parent) = Context::background().with_cancel();
    let (child, of_child) = parent.with_cancel();
    let (grandchild, of_grandchild) = child.with_cancel();
    of_child.cancel_with("first");
    of_parent.cancel_with("second");
    of_grandchild.cancel_with("third");
    let cause = |context: &Context| context.error().unwrap().get_ref().unwrap().to_string();
    assert_eq!([&parent, &child, &grandchild].map(cause), ["second", "first", "first"]);
}
