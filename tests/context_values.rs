//! Values in contexts: found by key, the nearest wins, and freed with the last context that sees them.

mod common;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use common::{BRIEF, CountOnDrop, Counter, delegator, wait_fired};
use workpath::{Context, Job};

#[test]
fn a_key_that_nobody_set_has_no_value() {
    assert_eq!(Context::background().value::<u8>("key"), None);
    let ctx = Context::background().with_value("key", 1_u8);
    assert_eq!(ctx.value::<u8>("other"), None);
    assert_eq!(ctx.value::<u8>(""), None);
    assert_eq!(ctx.value::<u8>("Key"), None);
    assert_eq!(ctx.value::<u8>("ke"), None);
    assert_eq!(ctx.value::<u8>("key "), None);
}

#[test]
fn the_nearest_value_wins_and_the_parent_keeps_its_own() {
    let one = Context::background().with_value("k1", "c1k1").with_value("other", 7_u8);
    let two = one.with_value("k2", "c2k2");
    let three = two.with_value("k3", "c3k3");
    let four = three.with_value("k1", "");
    assert_eq!(one.value::<&str>("k1"), Some(&"c1k1"));
    assert_eq!(one.value::<&str>("k2"), None);
    assert_eq!(three.value::<&str>("k1"), Some(&"c1k1"));
    assert_eq!(four.value::<&str>("k1"), Some(&""));
    assert_eq!(four.value::<&str>("k2"), Some(&"c2k2"));
    assert_eq!(four.value::<&str>("k3"), Some(&"c3k3"));
    assert_eq!(four.value::<u8>("other"), Some(&7));
    assert_eq!(one.value::<&str>("k1"), Some(&"c1k1"));
}

#[test]
fn the_nearest_value_of_another_type_hides_the_ones_above() {
    let ctx = Context::background().with_value("limit", 10_u64);
    let child = ctx.with_value("limit", "ten");
    assert_eq!(ctx.value::<u32>("limit"), None);
    assert_eq!(ctx.value::<i64>("limit"), None);
    assert_eq!(child.value::<u64>("limit"), None, "no searching further up for a type that fits");
    assert_eq!(child.value::<&str>("limit"), Some(&"ten"));
}

#[test]
fn siblings_do_not_see_each_others_values() {
    let parent = Context::background();
    let (left, right) = (parent.with_value("key", 1_u8), parent.with_value("key", 2_u8));
    assert_eq!(left.value::<u8>("key"), Some(&1));
    assert_eq!(right.value::<u8>("key"), Some(&2));
    assert_eq!(parent.value::<u8>("key"), None);
}

#[test]
fn a_key_is_its_text_however_it_is_held() {
    let owned = Context::background().with_value(String::from("key"), 1_u8);
    let borrowed = Context::background().with_value("key", 1_u8);
    assert_eq!(owned.value::<u8>("key"), borrowed.value::<u8>(&String::from("key")));
    assert_eq!(owned.value::<u8>("key"), Some(&1));
}

#[test]
fn every_text_is_a_key() {
    let long = "k".repeat(100_000);
    for key in ["", " ", "nul\0byte", "l\u{e4}nge", "line\nbreak", long.as_str()] {
        let ctx = Context::background().with_value("under", 0_u8).with_value(key.to_owned(), 1_u8);
        assert_eq!(ctx.value::<u8>(key), Some(&1));
        assert_eq!(ctx.value::<u8>("under"), Some(&0));
    }
}

#[test]
fn a_value_passes_every_kind_of_context() {
    let base = Context::background().with_value("key", vec![1_u8, 2]);
    let descendants = [
        base.clone(),
        base.with_cancel().0,
        base.with_timeout(Duration::MAX),
        base.with_timeout(Duration::ZERO),
        base.without_cancel(),
        base.with_cancel().0.without_cancel().with_timeout(Duration::ZERO).with_value("other", 1_u8),
    ];
    let original: *const Vec<u8> = base.value("key").expect("the value");
    for ctx in &descendants {
        let value = ctx.value::<Vec<u8>>("key").expect("the value");
        assert_eq!(*value, [1, 2]);
        assert!(std::ptr::eq(value, original), "shared, not copied");
    }
}

#[test]
fn values_can_be_read_after_a_cancel_and_after_a_deadline() {
    let (ctx, cancel) = Context::background().with_value("key", 1_u8).with_cancel();
    let late = ctx.with_timeout(BRIEF);
    wait_fired(&late.done());
    assert_eq!(late.value::<u8>("key"), Some(&1));
    cancel.cancel();
    assert_eq!(ctx.value::<u8>("key"), Some(&1));
    assert_eq!(ctx.with_value("new", 2_u8).value::<u8>("new"), Some(&2));
}

#[test]
fn a_boxed_any_is_the_type_it_was_given_as() {
    let boxed: Box<dyn Any + Send + Sync> = Box::new(5_u8);
    let ctx = Context::background().with_value("boxed", boxed).with_value("shared", Arc::new(6_u8));
    assert_eq!(ctx.value::<u8>("boxed"), None);
    let inner = ctx.value::<Box<dyn Any + Send + Sync>>("boxed").expect("the box");
    assert_eq!(inner.downcast_ref::<u8>(), Some(&5));
    assert_eq!(ctx.value::<Arc<u8>>("shared").map(|value| **value), Some(6));
    assert_eq!(ctx.value::<u8>("shared"), None);
}

#[test]
fn a_value_is_freed_once_with_the_last_context_that_sees_it() {
    let freed = Counter::new();
    let ctx = Context::background().with_value("key", CountOnDrop(freed.clone()));
    let clone = ctx.clone();
    let (child, canceller) = ctx.with_cancel();
    drop(ctx);
    drop(clone);
    assert_eq!(freed.get(), 0);
    canceller.cancel();
    assert_eq!(freed.get(), 0, "a cancel frees no value");
    drop(canceller);
    assert!(child.value::<CountOnDrop>("key").is_some());
    drop(child);
    assert_eq!(freed.get(), 1);
}

#[test]
fn a_value_is_found_through_fifty_levels() {
    let mut ctx = Context::background().with_value("bottom", 1_u8);
    for level in 0..50_u32 {
        ctx = ctx.with_value(format!("level {level}"), level);
    }
    assert_eq!(ctx.value::<u8>("bottom"), Some(&1));
    assert!((0..50).all(|level| ctx.value::<u32>(&format!("level {level}")) == Some(&level)));
}

#[test]
fn what_the_submitter_put_into_the_context_is_visible_in_the_operation() {
    let delegator = delegator(1);
    let ctx = Context::background().with_value("request", String::from("r-17"));
    let job = Job::new("reads", |ctx| {
        let request = ctx.value::<String>("request").ok_or("no request")?;
        Ok(request.clone().into_bytes())
    });
    let handle = delegator.submit(job.with_context(&ctx)).expect("accepted");
    drop(ctx);
    assert_eq!(handle.join().expect("the request"), b"r-17");
}

#[test]
fn each_job_sees_its_own_values_and_leaves_none_to_the_next_on_its_worker() {
    let delegator = delegator(1);
    let read = |name: &'static str| {
        Job::new(name, |ctx| {
            let seen = ctx.value::<u32>("n").map_or(String::from("none"), ToString::to_string);
            Ok(seen.into_bytes())
        })
    };
    let handles: Vec<_> = (0..20_u32)
        .map(|n| {
            let with_value = Context::background().with_value("n", n);
            let own = delegator.submit(read("own").with_context(&with_value)).expect("accepted");
            let bare = delegator.submit(read("bare")).expect("accepted");
            (n, own, bare)
        })
        .collect();
    for (n, own, bare) in handles {
        assert_eq!(own.join().expect("a value"), n.to_string().as_bytes());
        assert_eq!(bare.join().expect("an answer"), b"none");
    }
}

#[test]
fn a_job_hands_its_values_back_when_it_has_finished() {
    let delegator = delegator(1);
    let freed = Counter::new();
    let ctx = Context::background().with_value("key", CountOnDrop(freed.clone()));
    let handle = delegator.submit(common::yields("job", *b"x").with_context(&ctx)).expect("accepted");
    drop(ctx);
    let record = handle.wait();
    drop(handle);
    delegator.registry().clear();
    delegator.wait_idle();
    common::eventually("the value is freed", || freed.get() == 1);
    assert_eq!(record.payload(), Some(&b"x"[..]));
}
