//! Contexts form a tree: what ends a context ends everything below it, and nothing else.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use common::{BRIEF, CountOnDrop, Counter, FOREVER, Gate, fired, wait_fired, watchdog, within};
use workpath::{Canceller, Context};

#[test]
fn the_background_is_never_done() {
    let ctx = Context::background();
    assert!(!ctx.is_done());
    assert!(ctx.check().is_ok());
    assert!(ctx.error().is_none());
    assert_eq!(ctx.deadline(), None);
    assert_eq!(ctx.remaining(), None);
    let done = ctx.done();
    assert!(!fired(&done));
    assert!(!fired(&ctx.clone().done()));
}

#[test]
fn two_backgrounds_are_strangers() {
    let (one, cancel) = Context::background().with_cancel();
    let (other, _keep) = Context::background().with_cancel();
    cancel.cancel();
    assert!(one.is_done());
    assert!(!other.is_done());
    assert!(!Context::background().is_done());
}

#[test]
fn cancelling_a_context_ends_every_kind_of_descendant_before_cancel_returns() {
    let (root, cancel) = Context::background().with_cancel();
    let value = root.with_value("key", 1_u8);
    let (cancellable, _keep) = value.with_cancel();
    let timed = cancellable.with_timeout(FOREVER);
    let dated = root.with_deadline(Instant::now() + FOREVER);
    let descendants = [root.clone(), value, cancellable, timed, dated];
    let receivers: Vec<_> = descendants.iter().map(Context::done).collect();
    for (ctx, done) in descendants.iter().zip(&receivers) {
        assert!(!ctx.is_done());
        assert!(!fired(done));
    }

    cancel.cancel();

    for (ctx, done) in descendants.iter().zip(&receivers) {
        assert!(ctx.is_done());
        assert!(ctx.check().is_err_and(|error| error.is_cancelled()));
        assert!(ctx.error().is_some_and(|error| error.is_cancelled()));
        assert!(fired(done));
    }
}

#[test]
fn descendants_that_nobody_asked_before_the_cancel_are_done_after_it() {
    let (root, cancel) = Context::background().with_cancel();
    let leaf = root.with_value("a", ()).with_timeout(FOREVER).with_value("b", ()).with_cancel().0;
    cancel.cancel();
    assert!(fired(&leaf.done()));
    assert!(leaf.error().is_some_and(|error| error.is_cancelled()));
}

#[test]
fn cancelling_changes_neither_parent_nor_sibling_but_all_six_below() {
    let (parent, _keep_parent) = Context::background().with_cancel();
    let (sibling, _keep_sibling) = parent.with_cancel();
    let (node, cancel) = parent.with_cancel();
    let (child_one, _keep_1) = node.with_cancel();
    let (child_two, _keep_2) = node.with_cancel();
    let (grandchild_one, _keep_3) = child_one.with_cancel();
    let (grandchild_two, _keep_4) = child_two.with_cancel();
    let (great_grandchild, _keep_5) = grandchild_one.with_cancel();
    let below = [node, child_one, child_two, grandchild_one, grandchild_two, great_grandchild];
    let others = [parent, sibling];
    let woken: Vec<_> = below.iter().map(Context::done).collect();
    let asleep: Vec<_> = others.iter().map(Context::done).collect();

    cancel.cancel();

    assert!(below.iter().all(Context::is_done));
    assert!(woken.iter().all(fired));
    assert!(!others.iter().any(Context::is_done));
    assert!(!asleep.iter().any(fired));
    assert!(others.iter().all(|ctx| ctx.error().is_none() && ctx.check().is_ok()));
}

#[test]
fn a_child_that_ends_first_leaves_its_parent_usable() {
    let (parent, cancel_parent) = Context::background().with_cancel();
    for _ in 0..3 {
        let (child, cancel_child) = parent.with_cancel();
        let done = child.done();
        cancel_child.cancel();
        assert!(child.is_done());
        assert!(fired(&done));
        assert!(!parent.is_done());
        assert!(!fired(&parent.done()));
    }
    let (late, _keep) = parent.with_cancel();
    assert!(!late.is_done());
    cancel_parent.cancel();
    assert!(late.is_done());
}

#[test]
fn every_context_derived_from_a_cancelled_one_is_cancelled_from_birth_with_the_same_cause() {
    let (parent, cancel) = Context::background().with_cancel();
    let before_the_cancel = Instant::now();
    cancel.cancel_with("parent cause");
    let children = [
        parent.with_deadline(before_the_cancel),
        parent.with_value("key", 1_u8),
        parent.with_cancel().0,
        parent.with_timeout(FOREVER),
        parent.with_timeout(Duration::ZERO),
        parent.with_deadline(Instant::now() + FOREVER),
        parent.clone(),
        parent.with_value("key", 1_u8).with_cancel().0.with_timeout(FOREVER),
    ];
    for child in &children {
        assert!(child.is_done());
        assert!(fired(&child.done()));
        let error = child.error().expect("an ended context has an error");
        assert!(error.is_cancelled());
        assert_eq!(error.get_ref().map(ToString::to_string).as_deref(), Some("parent cause"));
    }
}

#[test]
fn a_child_of_a_cancelled_parent_survives_any_order_of_drops() {
    for child_first in [true, false] {
        let (parent, cancel) = Context::background().with_cancel();
        cancel.cancel();
        let (child, keep) = parent.with_cancel();
        let done = child.done();
        if child_first {
            drop(child);
            assert!(parent.is_done());
            drop(parent);
        } else {
            drop(parent);
            assert!(child.is_done());
            drop(child);
        }
        assert!(fired(&done));
        drop(keep);
        drop(cancel);
    }
}

#[test]
fn clones_are_the_same_context() {
    let (ctx, cancel) = Context::background().with_cancel();
    let clone = ctx.clone();
    let child_of_clone = clone.with_value("key", 1_u8);
    let done = clone.done();
    drop(ctx);
    cancel.clone().cancel();
    assert!(clone.is_done());
    assert!(child_of_clone.is_done());
    assert!(fired(&done));
}

#[test]
fn a_grandchild_is_cancelled_through_a_parent_whose_handles_are_gone() {
    let (root, cancel) = Context::background().with_cancel();
    let (middle, middle_canceller) = root.with_cancel();
    let (grandchild, _keep) = middle.with_cancel();
    drop(middle);
    drop(middle_canceller);
    assert!(!grandchild.is_done());
    cancel.cancel();
    assert!(grandchild.is_done());
    assert!(fired(&grandchild.done()));
}

#[test]
fn a_listener_on_a_grandchild_fires_though_the_parent_is_gone() {
    let (root, cancel) = Context::background().with_cancel();
    let (middle, middle_canceller) = root.with_cancel();
    let (grandchild, _keep) = middle.with_cancel();
    let done = grandchild.done();
    drop((middle, middle_canceller, root));
    assert!(!fired(&done));
    cancel.cancel();
    assert!(fired(&done));
    assert!(grandchild.is_done());
}

#[test]
fn a_middle_context_can_be_cancelled_by_its_canceller_alone() {
    let (middle, cancel) = Context::background().with_cancel();
    let grandchild = middle.with_value("a", 1_u8).with_cancel().0.with_value("b", 2_u8);
    let done = grandchild.done();
    drop(middle);
    cancel.cancel();
    assert!(grandchild.is_done());
    assert!(fired(&done));
}

#[test]
fn dropping_a_parent_does_not_cancel_its_children() {
    let (parent, canceller) = Context::background().with_cancel();
    let children: Vec<_> = (0..3).map(|_| parent.with_cancel()).collect();
    let receivers: Vec<_> = children.iter().map(|(child, _)| child.done()).collect();
    drop(parent);
    drop(canceller);
    assert!(children.iter().all(|(child, _)| !child.is_done() && child.check().is_ok()));
    assert!(!receivers.iter().any(fired));
    for (child, cancel) in &children {
        cancel.cancel();
        assert!(child.is_done());
    }
    assert!(receivers.iter().all(fired));
}

#[test]
fn dropping_every_canceller_cancels_nothing() {
    let (ctx, canceller) = Context::background().with_cancel();
    let done = ctx.done();
    let second = canceller.clone();
    drop(canceller);
    assert!(!ctx.is_done());
    drop(second);
    assert!(!ctx.is_done());
    assert!(ctx.error().is_none());
    assert!(!fired(&done));
}

#[test]
fn dropping_children_in_either_order_leaves_the_parent_alone() {
    for backwards in [false, true] {
        let (parent, cancel) = Context::background().with_cancel();
        let mut children: Vec<_> = (0..3).map(|_| parent.with_cancel()).collect();
        let listening = children[1].0.done();
        if backwards {
            children.reverse();
        }
        for child in children {
            drop(child);
            assert!(!parent.is_done());
        }
        assert!(!fired(&listening));
        cancel.cancel();
        assert!(parent.is_done());
        assert!(fired(&listening));
    }
}

#[test]
fn a_context_that_nobody_holds_frees_its_values_in_every_branch() {
    let freed = Counter::new();
    let (root, canceller) = Context::background().with_cancel();
    let leaves: Vec<_> = (0..4)
        .map(|_| {
            let (middle, _gone) = root.with_value("one", CountOnDrop(freed.clone())).with_cancel();
            middle.with_value("two", CountOnDrop(freed.clone())).with_timeout(FOREVER)
        })
        .collect();
    assert_eq!(freed.get(), 0);
    drop(leaves);
    assert_eq!(freed.get(), 8, "the living root must not keep what hung below it");
    drop(canceller);
    drop(root);
}

#[test]
fn a_child_that_was_waited_on_and_stopped_is_freed_while_its_parent_lives() {
    let (root, _canceller) = Context::background().with_cancel();
    let freed = Counter::new();
    let child = root.with_value("ballast", CountOnDrop(freed.clone())).with_cancel().0;
    child.sleep(Duration::from_millis(1)).expect("a sleep that nothing disturbs");
    let (send, receive) = crossbeam_channel::bounded(1);
    send.send(1).expect("room");
    assert_eq!(child.recv(&receive).ok(), Some(1));
    assert!(child.on_done(|| ()).stop());
    drop(child);
    assert_eq!(freed.get(), 1);
    assert!(!root.is_done());
}

#[test]
fn cancelling_a_hundred_nodes_from_a_hundred_threads_ends_them_all() {
    watchdog(|| {
        for round in 0..3_u64 {
            let (root, cancel_root) = Context::background().with_cancel();
            let mut nodes = vec![(root, cancel_root)];
            for parent in 0..25 {
                for _ in 0..4 {
                    let pair = nodes[parent].0.with_cancel();
                    nodes.push(pair);
                }
            }
            let receivers: Vec<_> = nodes.iter().map(|(ctx, _)| ctx.done()).collect();
            let start = Arc::new(Barrier::new(nodes.len()));
            let mut order: Vec<usize> = (0..nodes.len()).collect();
            shuffle(&mut order, round + 1);
            let threads: Vec<_> = order
                .into_iter()
                .map(|index| {
                    let (ctx, cancel) = nodes[index].clone();
                    let start = Arc::clone(&start);
                    thread::spawn(move || {
                        start.wait();
                        cancel.cancel();
                        assert!(ctx.is_done());
                        assert!(fired(&ctx.done()));
                    })
                })
                .collect();
            for thread in threads {
                thread.join().expect("a canceller that came back");
            }
            assert!(nodes.iter().all(|(ctx, _)| ctx.error().is_some_and(|error| error.is_cancelled())));
            assert!(receivers.iter().all(fired));
        }
    });
}

#[test]
fn a_thread_that_cancels_the_child_when_the_parent_ends_does_not_deadlock() {
    watchdog(|| {
        for _ in 0..50 {
            let (parent, cancel_parent) = Context::background().with_cancel();
            let (child, cancel_child) = parent.with_cancel();
            let parent_done = parent.done();
            let waiter = thread::spawn(move || {
                wait_fired(&parent_done);
                cancel_child.cancel();
            });
            cancel_parent.cancel();
            wait_fired(&child.done());
            waiter.join().expect("no deadlock");
        }
    });
}

#[test]
fn a_child_made_while_its_parent_is_being_cancelled_always_ends_with_the_cause() {
    watchdog(|| {
        for _ in 0..100 {
            let (parent, cancel) = Context::background().with_cancel();
            let start = Arc::new(Barrier::new(2));
            let other = {
                let start = Arc::clone(&start);
                thread::spawn(move || {
                    start.wait();
                    cancel.cancel_with("the cause");
                })
            };
            start.wait();
            let (child, _keep) = parent.with_cancel();
            wait_fired(&child.done());
            let error = child.error().expect("a done context has an error");
            assert!(error.is_cancelled());
            assert_eq!(error.get_ref().map(ToString::to_string).as_deref(), Some("the cause"));
            other.join().expect("the canceller came back");
        }
    });
}

#[test]
fn a_listener_that_registers_while_another_thread_cancels_is_never_forgotten() {
    watchdog(|| {
        for round in 0..400 {
            let (root, cancel) = Context::background().with_cancel();
            let leaf = if round % 2 == 0 { root.clone() } else { root.with_cancel().0.with_value("v", 1_u8) };
            let start = Arc::new(Barrier::new(2));
            let other = {
                let start = Arc::clone(&start);
                thread::spawn(move || {
                    start.wait();
                    cancel.cancel();
                })
            };
            start.wait();
            let done = leaf.done();
            wait_fired(&done);
            assert!(leaf.is_done());
            other.join().expect("the canceller came back");
        }
    });
}

#[test]
fn clones_may_be_dropped_and_cancelled_on_three_threads_at_once() {
    watchdog(|| {
        let freed = Counter::new();
        for round in 1..=100 {
            let (root, cancel) =
                Context::background().with_value("v", CountOnDrop(freed.clone())).with_cancel();
            let (child, cancel_child) = root.with_cancel();
            let start = Arc::new(Barrier::new(3));
            let threads = [
                spawn_at(&start, move || drop((root, cancel))),
                spawn_at(&start, move || cancel_child.cancel()),
                spawn_at(&start, move || {
                    let done = child.done();
                    drop(child);
                    wait_fired(&done);
                }),
            ];
            for thread in threads {
                thread.join().expect("no deadlock");
            }
            assert_eq!(freed.get(), round, "the value of every round is freed once");
        }
    });
}

#[test]
fn many_random_layers_keep_their_values_and_end_with_any_of_their_cancellers() {
    for seed in 1..=20 {
        let mut random = Random(seed);
        let mut ctx = Context::background();
        let mut cancellers: Vec<Canceller> = Vec::new();
        let mut values = Vec::new();
        for layer in 0..40_u64 {
            ctx = match random.below(3) {
                0 => {
                    let key = format!("layer {layer}");
                    values.push((key.clone(), layer));
                    ctx.with_value(key, layer)
                }
                1 => {
                    let (child, canceller) = ctx.with_cancel();
                    cancellers.push(canceller);
                    child
                }
                _ => ctx.with_timeout(FOREVER),
            };
        }
        let check_values = |ctx: &Context, when: &str| {
            for (key, expected) in &values {
                assert_eq!(ctx.value::<u64>(key), Some(expected), "seed {seed}, {when}, {key}");
            }
        };
        let timed = ctx.with_timeout(BRIEF);
        check_values(&ctx, "before");
        assert!(!ctx.is_done(), "seed {seed}");
        wait_fired(&timed.done());
        assert!(timed.error().is_some_and(|error| error.is_timeout()), "seed {seed}");
        check_values(&timed, "after the timeout");
        assert!(!ctx.is_done(), "seed {seed}");
        let done = ctx.done();
        match cancellers.get(random.below(cancellers.len().max(1))) {
            Some(canceller) => canceller.cancel(),
            None => continue,
        }
        assert!(fired(&done), "seed {seed}");
        assert!(ctx.error().is_some_and(|error| error.is_cancelled()), "seed {seed}");
        check_values(&ctx, "after the cancel");
    }
}

/// Deep enough to overflow the stack of anything that recurses once per level.
const DEEP: usize = 200_000;

/// Runs `body` on a thread with the 2 MiB stack that std gives its threads by default.
fn on_a_small_stack(body: impl FnOnce() + Send + 'static) {
    watchdog(move || {
        let small = thread::Builder::new().stack_size(2 << 20).spawn(body).expect("a thread");
        small.join().expect("a body that does not panic");
    });
}

#[test]
fn a_chain_of_200_000_values_can_be_read_and_dropped() {
    on_a_small_stack(|| {
        let root = Context::background().with_value("bottom", 7_u32);
        let mut ctx = root.clone();
        for _ in 0..DEEP {
            ctx = ctx.with_value("level", ());
        }
        assert_eq!(ctx.value::<u32>("bottom"), Some(&7));
        assert_eq!(ctx.value::<u32>("missing"), None);
        assert!(!ctx.is_done());
        drop(root);
        drop(ctx);
    });
}

#[test]
fn a_chain_of_200_000_cancellable_contexts_can_be_cancelled_and_dropped() {
    on_a_small_stack(|| {
        let (root, cancel) = Context::background().with_cancel();
        let mut ctx = root.clone();
        for _ in 0..DEEP {
            ctx = ctx.with_cancel().0;
        }
        assert!(!ctx.is_done());
        let done = ctx.done();
        assert!(!fired(&done));
        let ran = Gate::new();
        let opened = ran.clone();
        let _detached = ctx.on_done(move || opened.open());
        cancel.cancel();
        assert!(ran.is_open());
        assert!(fired(&done));
        assert!(ctx.error().is_some_and(|error| error.is_cancelled()));
        drop(root);
        drop(ctx);
    });
}

#[test]
fn a_chain_of_200_000_deadlines_can_be_asked_and_dropped() {
    on_a_small_stack(|| {
        let nearest = Instant::now() + FOREVER;
        let mut ctx = Context::background().with_deadline(nearest);
        for _ in 0..DEEP {
            ctx = ctx.with_timeout(FOREVER * 2);
        }
        assert_eq!(ctx.deadline(), Some(nearest));
        assert!(ctx.check().is_ok());
        let done = ctx.done();
        assert!(!fired(&done));
        drop(done);
        drop(ctx);
    });
}

#[test]
fn a_chain_of_200_000_mixed_contexts_can_be_dropped_from_the_root_or_from_the_leaf() {
    for leaf_last in [true, false] {
        on_a_small_stack(move || {
            let mut chain = vec![Context::background()];
            for level in 0..DEEP {
                let parent = &chain[level];
                let child = match level % 4 {
                    0 => parent.with_value("level", level),
                    1 => parent.with_cancel().0,
                    2 => parent.with_timeout(FOREVER),
                    _ => parent.without_cancel(),
                };
                chain.push(child);
            }
            if leaf_last {
                let leaf = chain.pop().expect("a leaf");
                drop(chain);
                assert!(!leaf.is_done());
                drop(leaf);
            } else {
                chain.reverse();
                drop(chain);
            }
        });
    }
}

#[test]
fn a_context_is_shared_with_threads_by_reference_and_by_clone() {
    within(common::PATIENCE, || {
        let (ctx, cancel) = Context::background().with_value("n", 5_u32).with_cancel();
        let seen = AtomicBool::new(false);
        thread::scope(|scope| {
            let clone = ctx.clone();
            scope.spawn(move || assert_eq!(clone.value::<u32>("n"), Some(&5)));
            scope.spawn(|| {
                wait_fired(&ctx.done());
                seen.store(ctx.is_done(), Ordering::SeqCst);
            });
            cancel.cancel();
        });
        assert!(seen.load(Ordering::SeqCst));
    });
}

fn spawn_at(start: &Arc<Barrier>, body: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
    let start = Arc::clone(start);
    thread::spawn(move || {
        start.wait();
        body();
    })
}

/// A small generator (SplitMix64), so that a failing seed can be run again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).expect("below a usize")
    }
}

fn shuffle(items: &mut [usize], seed: u64) {
    let mut random = Random(seed);
    for end in (1..items.len()).rev() {
        items.swap(end, random.below(end + 1));
    }
}
