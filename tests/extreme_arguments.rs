//! The worst arguments that each public function can be called with: nothing panics, nothing hangs, and what is refused
//! is refused with a reason.

mod common;
#[path = "common/pool.rs"]
mod pool;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::{FOREVER, Gate, delegator, occupy, watchdog, yields};
use pool::{assert_balanced, covered, fill, obedient, pause, sized};
use workpath::{
    Context, Delegator, Error, ErrorKind, Job, JobId, JobState, Registry, Retention, Shutdown, SubmitError,
};

/// Time spans that have upset somebody's arithmetic before.
const SPANS: [Duration; 9] = [
    Duration::ZERO,
    Duration::from_nanos(1),
    Duration::from_nanos(999_999_999),
    Duration::from_secs(1 << 31),
    Duration::from_secs((1 << 32) + 1),
    Duration::from_secs(i64::MAX as u64),
    Duration::new(i64::MAX as u64, 999_999_999),
    Duration::from_secs(u64::MAX),
    Duration::MAX,
];

/// Names that have upset somebody's output before.
fn names() -> Vec<String> {
    vec![
        String::new(),
        " ".to_owned(),
        "\0".to_owned(),
        "line\nbreak\r\n".to_owned(),
        "{} {0:?} %s %n ${HOME} \\".to_owned(),
        "\u{1b}[31mred\u{1b}[0m".to_owned(),
        "ümläut 名前 🦀 \u{202e}thgir".to_owned(),
        "x".repeat(1 << 20),
    ]
}

/// The instant that is as far away as the clock can tell.
fn furthest() -> Instant {
    let mut instant = Instant::now();
    let mut step = Duration::MAX;
    while step > Duration::from_nanos(1) {
        match instant.checked_add(step) {
            Some(later) => instant = later,
            None => step /= 2,
        }
    }
    instant
}

/// The instant that is as long ago as the clock can tell, or nearly.
fn earliest() -> Instant {
    let mut instant = Instant::now();
    let mut step = Duration::from_secs(u64::MAX);
    while step > Duration::from_nanos(1) {
        match instant.checked_sub(step) {
            Some(earlier) => instant = earlier,
            None => step /= 2,
        }
    }
    instant
}

/// Whether a time limit of that length is over when one looks.
fn is_over(span: Duration) -> bool {
    span <= Duration::from_nanos(1)
}

#[test]
fn jobs_take_any_name() {
    watchdog(|| {
        let delegator = delegator(1);
        for name in names() {
            let job = Job::new(name.clone(), |_| Ok(b"ran".to_vec()));
            assert_eq!(job.name(), name);
            let _text = format!("{job:?}");
            let handle = delegator.submit(job).expect("room");
            assert_eq!(handle.name(), name);
            let record = handle.wait();
            assert_eq!((record.name(), record.payload()), (&*name, Some(&b"ran"[..])));
            let _texts = format!("{handle:?} {record:?} {record}");
            assert_eq!(delegator.registry().get(record.id()).expect("known").name(), name);
        }
    });
}

#[test]
fn a_refusal_of_a_job_with_any_name_has_a_text() {
    watchdog(|| {
        let delegator = sized(1, 1);
        let _busy = occupy(&delegator);
        let _queued = fill(&delegator, 1);
        for name in names() {
            let error = delegator.try_submit(Job::new(name.clone(), |_| Ok(Vec::new()))).expect_err("full");
            assert!(!error.to_string().is_empty());
            let _text = format!("{error:?}");
            assert_eq!(error.into_job().name(), name);
        }
        let error = delegator.try_submit(yields("the-culprit", "")).expect_err("full");
        assert!(error.to_string().contains("the-culprit"), "{error}");
        assert!(Error::from(error).to_string().contains("the-culprit"));
    });
}

#[test]
fn a_payload_may_be_empty_or_large() {
    watchdog(|| {
        let delegator = Delegator::builder().workers(1).queue_capacity(4).build().unwrap();
        for size in [0, 1, 16 << 20] {
            let job = Job::new("sized", move |_| Ok(vec![7; size]));
            let handle = delegator.submit(job).expect("room");
            let record = handle.wait();
            assert_eq!(record.payload().map(<[u8]>::len), Some(size));
            assert!(record.to_string().len() < 1_000, "the payload is in the text");
            assert!(format!("{record:?}").len() < 2_000, "the payload is in the text");
            assert_eq!(handle.join().map(|bytes| bytes.len()).expect("completed"), size);
        }
    });
}

#[test]
fn a_job_takes_any_time_limit() {
    watchdog(|| {
        let delegator = delegator(1);
        for span in SPANS {
            let record = delegator.submit(yields("limited", "").with_timeout(span)).expect("accepted").wait();
            let expected = if is_over(span) { JobState::TimedOut } else { JobState::Completed };
            // A second is not long on a machine that is emulated.
            assert!(
                record.state() == expected || span < Duration::from_secs(1),
                "{span:?}: {}",
                record.state()
            );
        }
        let record =
            delegator.submit(yields("limited", "").with_deadline(earliest())).expect("accepted").wait();
        assert_eq!(record.state(), JobState::TimedOut);
        let record =
            delegator.submit(yields("limited", "").with_deadline(furthest())).expect("accepted").wait();
        assert_eq!(record.state(), JobState::Completed);
        // The earliest of many wins, in any order.
        let job = yields("limited", "")
            .with_timeout(Duration::MAX)
            .with_timeout(Duration::ZERO)
            .with_deadline(furthest());
        assert_eq!(delegator.submit(job).expect("accepted").wait().state(), JobState::TimedOut);
    });
}

#[test]
fn a_context_takes_any_time_limit() {
    watchdog(|| {
        for span in SPANS {
            let ctx = Context::background().with_timeout(span);
            if is_over(span) {
                thread::sleep(span);
                assert!(ctx.is_done());
                assert_eq!(ctx.error().map(|error| error.kind()), Some(ErrorKind::DeadlineExceeded));
                assert_eq!(ctx.remaining(), Some(Duration::ZERO));
                assert!(ctx.sleep(Duration::MAX).is_err(), "a done context does not sleep");
            } else if span >= FOREVER {
                assert!(!ctx.is_done());
                assert!(ctx.check().is_ok());
            }
            let _text = format!("{ctx:?} {:?}", ctx.deadline());
        }
        assert_eq!(Context::background().with_timeout(Duration::MAX).deadline(), None);
        assert!(Context::background().with_deadline(earliest()).is_done());
        let far = Context::background().with_deadline(furthest());
        assert!(!far.is_done());
        let _listened_to = far.done();
        assert!(far.remaining().is_none_or(|left| left > FOREVER));
    });
}

#[test]
fn a_sleep_takes_any_time_and_can_be_ended() {
    watchdog(|| {
        let ctx = Context::background();
        assert!(ctx.sleep(Duration::ZERO).is_ok());
        assert!(ctx.sleep(Duration::from_nanos(1)).is_ok());
        for span in SPANS.into_iter().filter(|span| *span > FOREVER) {
            let (ctx, canceller) = Context::background().with_cancel();
            let sleeper = thread::spawn(move || ctx.sleep(span));
            pause();
            assert!(!sleeper.is_finished(), "{span:?} is not over yet");
            canceller.cancel();
            assert!(sleeper.join().unwrap().is_err_and(|error| error.is_cancelled()));
        }
    });
}

#[test]
fn a_context_takes_any_key() {
    let mut ctx = Context::background();
    for (n, name) in names().into_iter().enumerate() {
        ctx = ctx.with_value(name, n);
    }
    for (n, name) in names().iter().enumerate() {
        assert_eq!(ctx.value::<usize>(name), Some(&n));
        assert_eq!(ctx.value::<u8>(name), None);
        assert_eq!(Context::background().value::<usize>(name), None);
    }
    assert_eq!(ctx.value::<usize>("no such key"), None);
    let _text = format!("{ctx:?}");
}

#[test]
fn a_wait_takes_any_time_limit() {
    watchdog(|| {
        let delegator = sized(1, 8);
        let busy = occupy(&delegator);
        let queued = fill(&delegator, 1).remove(0);
        for handle in [&busy.handle, &queued] {
            assert!(handle.wait_timeout(Duration::ZERO).is_none());
            assert!(handle.wait_timeout(Duration::from_nanos(1)).is_none());
            assert!(handle.wait_deadline(earliest()).is_none());
        }
        let far = SPANS.into_iter().filter(|span| *span > FOREVER).collect::<Vec<_>>();
        thread::scope(|scope| {
            let mut waiting: Vec<_> =
                far.iter().map(|span| scope.spawn(|| queued.wait_timeout(*span).is_some())).collect();
            waiting.push(scope.spawn(|| queued.wait_deadline(furthest()).is_some()));
            pause();
            assert!(waiting.iter().all(|thread| !thread.is_finished()));
            busy.release();
            assert!(waiting.into_iter().all(|thread| thread.join().unwrap()));
        });
        for span in SPANS {
            assert!(queued.wait_timeout(span).is_some(), "a finished job needs no time");
        }
        assert!(queued.wait_deadline(earliest()).is_some());
    });
}

#[test]
fn a_submission_takes_any_time_limit() {
    watchdog(|| {
        let delegator = sized(1, 32);
        for span in SPANS {
            assert!(delegator.submit_timeout(yields("room", ""), span).is_ok(), "{span:?}");
            assert!(delegator.submitter().submit_timeout(yields("room", ""), span).is_ok(), "{span:?}");
        }
        for deadline in [earliest(), Instant::now(), furthest()] {
            assert!(delegator.submit_deadline(yields("room", ""), deadline).is_ok());
        }
        delegator.wait_idle();
        let full = sized(1, 1);
        let _busy = occupy(&full);
        let _queued = fill(&full, 1);
        for span in [Duration::ZERO, Duration::from_nanos(1)] {
            assert!(matches!(full.submit_timeout(yields("no room", ""), span), Err(SubmitError::Timeout(_))));
        }
        assert!(matches!(
            full.submit_deadline(yields("no room", ""), earliest()),
            Err(SubmitError::Timeout(_))
        ));
    });
}

#[test]
fn wait_idle_and_shutdown_take_any_time_limit() {
    watchdog(|| {
        for span in SPANS {
            let delegator = delegator(1);
            assert!(delegator.wait_idle_timeout(span), "{span:?}");
            for shutdown in [Shutdown::drain(), Shutdown::cancel()] {
                assert_eq!(covered(&delegator.shutdown(shutdown.within(span))), 0);
            }
            let delegator = sized(1, 8);
            let started = Gate::new();
            let _running = delegator.submit(obedient("obedient", &started)).expect("room");
            started.wait();
            let report = delegator.shutdown(Shutdown::cancel().within(span));
            assert_eq!(report.cancelled + report.stuck.len(), 1, "{span:?}: {report:?}");
            assert!(report.stuck.is_empty() || span < Duration::from_secs(1), "{span:?}: {report:?}");
        }
        // The last limit counts, and a huge one is none.
        let delegator = Arc::new(delegator(1));
        let busy = occupy(&delegator);
        let closing = thread::spawn({
            let delegator = Arc::clone(&delegator);
            move || delegator.shutdown(Shutdown::drain().within(Duration::ZERO).within(Duration::MAX))
        });
        pause();
        assert!(!closing.is_finished());
        busy.release();
        assert_eq!(closing.join().unwrap().completed, 1);
    });
}

#[test]
fn a_builder_takes_any_time_limit_and_any_retention() {
    watchdog(|| {
        for span in SPANS {
            let delegator = Delegator::builder()
                .workers(1)
                .queue_capacity(4)
                .default_timeout(span)
                .build()
                .expect("any span");
            let state = delegator.submit(yields("limited", "")).expect("accepted").wait().state();
            if span >= FOREVER {
                assert_eq!(state, JobState::Completed);
            }
            if span.is_zero() {
                assert_eq!(state, JobState::TimedOut);
            }
        }
        let unlimited = Delegator::builder().workers(1).default_timeout(Duration::MAX).build().unwrap();
        let job = Job::new("unlimited", |ctx| Ok(vec![u8::from(ctx.deadline().is_some())]));
        assert_eq!(unlimited.submit(job).expect("room").join().unwrap(), [0]);

        for (retention, kept) in [
            (Retention::none(), 0),
            (Retention::last(0), 0),
            (Retention::last(1), 1),
            (Retention::last(usize::MAX), 3),
            (Retention::last(usize::MAX).max_bytes(usize::MAX).max_age(Duration::MAX), 3),
            (Retention::last(10).max_bytes(0), 0),
            (Retention::last(10).max_age(Duration::ZERO), 0),
            (Retention::none().max_bytes(usize::MAX).max_age(Duration::MAX), 0),
        ] {
            let _text = format!("{retention:?}");
            let delegator = Delegator::builder().workers(1).retain(retention).build().expect("any retention");
            for _ in 0..3 {
                let handle = delegator.submit(yields("kept", "bytes")).expect("room");
                assert_eq!(handle.wait().payload(), Some(&b"bytes"[..]));
            }
            assert_eq!(delegator.registry().records().len(), kept);
            assert_eq!(delegator.registry().len(), kept);
            assert_eq!(delegator.registry().is_empty(), kept == 0);
        }
    });
}

#[test]
fn a_builder_takes_or_refuses_any_size() {
    watchdog(|| {
        for stack in [0, 1, 4_096, 1 << 16] {
            // Too little to be used as it is, but a reason to panic it is not.
            match Delegator::builder().workers(1).stack_size(stack).build() {
                Ok(delegator) => drop(delegator),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
        for name in names() {
            match Delegator::builder().workers(1).thread_name(name.clone()).build() {
                Ok(delegator) => {
                    assert!(!name.contains('\0'));
                    assert_eq!(delegator.workers()[0].thread_name, format!("{name}-0"));
                    assert!(delegator.submit(yields("named", "")).expect("room").join().is_ok());
                }
                Err(error) => {
                    assert!(name.contains('\0'), "{error}");
                    assert!(error.to_string().contains("name"));
                }
            }
        }
        for capacity in [0, 1, 1 << 16] {
            let delegator = sized(1, capacity);
            assert!(delegator.submit(yields("room", "")).expect("room").join().is_ok());
        }
    });
}

#[test]
fn a_registry_knows_nothing_of_foreign_evicted_or_removed_jobs() {
    watchdog(|| {
        let keeps_one = Delegator::builder().workers(1).retain(Retention::last(1)).build().unwrap();
        let other = delegator(1);
        let run = |delegator: &Delegator| delegator.submit(yields("run", "")).expect("room").wait().id();
        let (evicted, kept, foreign) = (run(&keeps_one), run(&keeps_one), run(&other));
        let never_submitted = yields("idea", "").id();
        let parsed: JobId = "00000000-0000-0000-0000-000000000000".parse().expect("an id");
        let highest: JobId = "ffffffff-ffff-ffff-ffff-ffffffffffff".parse().expect("an id");
        let registry: &Registry = keeps_one.registry();
        for id in [evicted, foreign, never_submitted, parsed, highest] {
            assert!(registry.get(id).is_none());
            assert!(registry.remove(id).is_none());
            assert_eq!(registry.len(), 1, "removing what is not there took something else");
        }
        assert_eq!(registry.get(kept).map(|record| record.id()), Some(kept));
        assert_eq!(registry.remove(kept).map(|record| record.id()), Some(kept));
        assert!(registry.remove(kept).is_none());
        assert!(registry.get(kept).is_none());
        assert!(registry.is_empty());
        registry.clear();
        registry.clear();
        assert!(registry.records().is_empty());
        let again = run(&keeps_one);
        assert_eq!(registry.records().iter().map(|record| record.id()).collect::<Vec<_>>(), [again]);
        assert!(other.registry().get(foreign).is_some());

        // A job that has not ended is none of its business.
        let busy = occupy(&other);
        assert!(other.registry().get(busy.handle.id()).is_none());
        assert!(other.registry().remove(busy.handle.id()).is_none());
        busy.release();
        busy.handle.wait();
        assert!(other.registry().get(busy.handle.id()).is_some());
        assert_balanced(&other.stats());
    });
}

#[test]
fn an_id_is_read_from_its_text_and_from_nothing_else() {
    let id = yields("named", "").id();
    assert_eq!(id.to_string().parse::<JobId>().expect("its own text"), id);
    let own = id.to_string();
    for text in [
        String::new(),
        " ".to_owned(),
        "\0".to_owned(),
        "not an id".to_owned(),
        own[1..].to_owned(),
        format!("{own}0"),
        format!(" {own}"),
        own.replace('-', "_"),
        "g".repeat(36),
        "ü".repeat(18),
        "0".repeat(1 << 20),
    ] {
        let error = text.parse::<JobId>().expect_err("not an id");
        assert!(!error.to_string().is_empty());
        assert!(error.to_string().len() < 1_000, "the whole input is in the text");
    }
}

#[test]
fn errors_take_any_text() {
    for text in names() {
        let error = Error::new(text.clone());
        assert_eq!((error.kind(), error.to_string()), (ErrorKind::Operation, text.clone()));
        let _text = format!("{error:?}");
        assert!(!error.is_cancelled() && !error.is_timeout() && !error.is_panic());
        let (ctx, canceller) = Context::background().with_cancel();
        canceller.cancel_with(text.clone());
        assert_eq!(ctx.error().and_then(|error| error.get_ref().map(ToString::to_string)), Some(text));
    }
    watchdog(|| {
        let delegator = delegator(1);
        for text in names() {
            let (failure, panic) = (text.clone(), text.clone());
            let failed =
                delegator.submit(Job::new("fails", move |_| Err(failure.clone().into()))).expect("room");
            assert_eq!(failed.wait().error().map(ToString::to_string), Some(text.clone()));
            let panicked = delegator.submit(Job::new("panics", move |_| panic!("{panic}"))).expect("room");
            assert!(panicked.wait().error().is_some_and(|error| error.to_string().contains(&text)));
        }
    });
}

#[test]
fn a_job_may_be_renamed_dressed_and_thrown_away_unused() {
    let (ctx, canceller) = Context::background().with_cancel();
    let job =
        yields("thrown away", "").with_context(&ctx).with_timeout(Duration::MAX).with_deadline(furthest());
    let id = job.id();
    let job = job.with_context(&Context::background()).with_context(&ctx);
    assert_eq!(job.id(), id);
    canceller.cancel();
    assert!(job.context().is_done());
    drop(job);
}

#[test]
fn a_cancel_takes_any_cause() {
    watchdog(|| {
        let delegator = sized(1, 32);
        let _busy = occupy(&delegator);
        for text in names() {
            let queued = fill(&delegator, 1).remove(0);
            assert!(queued.cancel_with(text.clone()));
            let record = queued.wait();
            assert_eq!(record.error().and_then(|e| e.get_ref()).map(ToString::to_string), Some(text));
            let _texts = format!("{record} {record:?} {queued:?}");
        }
        let queued = fill(&delegator, 1).remove(0);
        assert!(queued.cancel_with(Error::new("an error of this crate")));
        assert!(queued.wait().error().is_some_and(Error::is_cancelled));
    });
}
