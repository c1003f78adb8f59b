//! `Context::io_timeout` and `Context::child_share`: time for blocking calls, and for parts of the work.

use std::time::{Duration, Instant};

use workpath::Context;

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn an_io_timeout_is_the_less_of_the_limit_and_the_time_left() {
    let ctx = Context::background();
    assert_eq!(ctx.io_timeout(HOUR), HOUR);
    assert_eq!(ctx.io_timeout(Duration::MAX), Duration::MAX);
    let ctx = ctx.with_timeout(HOUR);
    assert_eq!(ctx.io_timeout(Duration::from_secs(5)), Duration::from_secs(5));
    let all = ctx.io_timeout(Duration::MAX);
    assert!(all <= HOUR && all > HOUR / 2, "{all:?}");
}

#[test]
fn an_io_timeout_is_never_zero() {
    let late = Context::background().with_timeout(Duration::ZERO);
    assert_eq!(late.io_timeout(HOUR), Duration::from_millis(1));
    assert_eq!(late.io_timeout(Duration::ZERO), Duration::from_millis(1));
    assert_eq!(Context::background().io_timeout(Duration::ZERO), Duration::from_millis(1));
    let listener = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    assert!(listener.set_read_timeout(Some(late.io_timeout(HOUR))).is_ok());
}

#[test]
fn a_child_gets_its_share_of_the_time_left() {
    let ctx = Context::background().with_timeout(HOUR);
    let half = ctx.child_share(0.5).remaining().expect("a deadline");
    assert!(half <= HOUR / 2 && half > HOUR / 4, "{half:?}");
    let quarter = ctx.child_share(0.5).child_share(0.5).remaining().expect("a deadline");
    assert!(quarter <= HOUR / 4 && quarter > HOUR / 8, "{quarter:?}");
    assert_eq!(Context::background().child_share(0.5).deadline(), None);
}

#[test]
fn shares_that_are_none_are_all_or_nothing() {
    let ctx = Context::background().with_timeout(HOUR);
    for all in [1.0, 1.5, f64::INFINITY, f64::MAX] {
        assert_eq!(ctx.child_share(all).deadline(), ctx.deadline(), "{all}");
    }
    for none in [0.0, -0.0, -1.0, f64::NEG_INFINITY, f64::NAN] {
        let child = ctx.child_share(none);
        assert!(child.error().is_some_and(|error| error.is_timeout()), "{none}");
    }
    assert!(!ctx.is_done());
}

#[test]
fn a_share_of_a_far_deadline_and_of_a_past_one() {
    let far = Context::background().with_timeout(Duration::from_secs(400 * 365 * 24 * 3600));
    assert!(far.child_share(1.0).remaining().is_some());
    assert!(far.child_share(0.999_999_999_999).deadline() <= far.deadline());
    let past = Context::background().with_deadline(Instant::now());
    assert!(past.child_share(0.5).is_done());
    assert_eq!(past.child_share(0.5).deadline(), past.deadline());
}

#[test]
fn a_child_keeps_values_and_ends_with_its_parent() {
    let (ctx, canceller) = Context::background().with_value("n", 1_u8).with_timeout(HOUR).with_cancel();
    let child = ctx.child_share(0.5);
    assert_eq!(child.value::<u8>("n"), Some(&1));
    canceller.cancel();
    assert!(child.error().is_some_and(|error| error.is_cancelled()));
}
