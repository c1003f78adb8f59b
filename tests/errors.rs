//! Errors: where they come from, what they say, and what can be got back out of them.

mod common;

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use common::{CapturedLog, DropFlag, delegator, occupy, panics, watchdog, yields};
use workpath::{Context, Delegator, Error, ErrorKind, Job, JobState, Shutdown, SubmitError};

#[derive(Debug, PartialEq)]
struct Broken {
    part: u32,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "part {} is broken", self.part)
    }
}

impl StdError for Broken {}

fn cancelled(cause: &'static str) -> Error {
    let (ctx, canceller) = Context::background().with_cancel();
    canceller.cancel_with(cause);
    ctx.error().expect("done")
}

fn timed_out() -> Error {
    Context::background().with_timeout(Duration::ZERO).error().expect("done")
}

fn panicked(text: &'static str) -> Error {
    let record = delegator(1).submit(panics("panics", text)).expect("accepted").wait();
    record.error().expect("an error").clone()
}

#[test]
fn an_error_holds_the_value_it_was_made_from() {
    let error = Error::new(Broken { part: 3 });
    assert_eq!(error.kind(), ErrorKind::Operation);
    assert!(!error.is_cancelled() && !error.is_timeout() && !error.is_panic());
    assert!(error.to_string().contains("part 3 is broken"));
    assert!(format!("{error:?}").contains("3"));
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Broken>());
    assert_eq!(inner, Some(&Broken { part: 3 }));
    let source = error.source().and_then(|source| source.downcast_ref::<Broken>());
    assert_eq!(source, Some(&Broken { part: 3 }));
}

#[test]
fn the_four_kinds_answer_their_own_question_only() {
    let errors = [
        (Error::new("text"), ErrorKind::Operation, (false, false, false)),
        (cancelled("why"), ErrorKind::Cancelled, (true, false, false)),
        (timed_out(), ErrorKind::DeadlineExceeded, (false, true, false)),
        (panicked("boom"), ErrorKind::Panicked, (false, false, true)),
    ];
    let mut texts = Vec::new();
    for (error, kind, answers) in &errors {
        assert_eq!(error.kind(), *kind);
        assert_eq!((error.is_cancelled(), error.is_timeout(), error.is_panic()), *answers);
        assert!(!format!("{error:?}").is_empty());
        texts.push(error.to_string());
    }
    assert!(texts.iter().all(|text| !text.is_empty()));
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), errors.len());
}

#[test]
fn the_source_of_an_error_is_what_get_ref_gives() {
    for error in [Error::new(Broken { part: 1 }), cancelled("why"), timed_out(), panicked("boom")] {
        let by_ref = error.get_ref().map(ToString::to_string);
        let by_source = error.source().map(ToString::to_string);
        assert_eq!(by_ref, by_source);
    }
    assert_eq!(cancelled("why").get_ref().map(ToString::to_string).as_deref(), Some("why"));
    assert!(timed_out().get_ref().is_none());
}

#[test]
fn clones_share_one_value() {
    let (flag, dropped) = DropFlag::new();
    #[derive(Debug)]
    struct Holds {
        flag: DropFlag,
    }
    impl fmt::Display for Holds {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "holds {:?}", self.flag)
        }
    }
    impl StdError for Holds {}
    let error = Error::new(Holds { flag });
    let clone = error.clone();
    assert_eq!(clone.kind(), error.kind());
    assert_eq!(clone.to_string(), error.to_string());
    let address = |error: &Error| {
        error.get_ref().and_then(|inner| inner.downcast_ref::<Holds>()).map(std::ptr::from_ref)
    };
    assert_eq!(address(&error), address(&clone));
    assert!(address(&error).is_some());
    drop(error);
    assert!(!dropped.is_open());
    drop(clone);
    assert!(dropped.is_open());
}

#[test]
fn texts_and_boxes_become_errors_that_say_the_same() {
    let from_text: Error = "a text".into();
    let from_string: Error = String::from("a string").into();
    let boxed: Box<dyn StdError + Send + Sync> = Box::new(Broken { part: 5 });
    let from_box: Error = boxed.into();
    for (error, text) in [(&from_text, "a text"), (&from_string, "a string"), (&from_box, "part 5 is broken")]
    {
        assert_eq!(error.kind(), ErrorKind::Operation);
        assert!(error.to_string().contains(text));
        assert!(error.get_ref().is_some_and(|inner| inner.to_string() == text));
    }
    assert!(from_box.get_ref().is_some_and(|inner| inner.is::<Broken>()), "not boxed twice");
}

#[test]
fn the_usual_errors_of_std_convert_with_a_question_mark() {
    fn integer(text: &str) -> Result<u32, Error> {
        Ok(text.parse::<u32>()?)
    }
    fn float(text: &str) -> Result<f64, Error> {
        Ok(text.parse::<f64>()?)
    }
    fn boolean(text: &str) -> Result<bool, Error> {
        Ok(text.parse::<bool>()?)
    }
    fn utf8(bytes: &[u8]) -> Result<&str, Error> {
        Ok(std::str::from_utf8(bytes)?)
    }
    fn string(bytes: Vec<u8>) -> Result<String, Error> {
        Ok(String::from_utf8(bytes)?)
    }
    fn format() -> Result<(), Error> {
        Err(fmt::Error)?;
        Ok(())
    }
    fn file() -> Result<(), Error> {
        Err(io::Error::from(io::ErrorKind::PermissionDenied))?;
        Ok(())
    }
    assert_eq!(integer("7").ok(), Some(7));
    assert!(
        integer("x").is_err_and(|error| error.get_ref().is_some_and(|e| e.is::<std::num::ParseIntError>()))
    );
    assert!(
        float("x")
            .is_err_and(|error| { error.get_ref().is_some_and(|e| e.is::<std::num::ParseFloatError>()) })
    );
    assert!(
        boolean("x")
            .is_err_and(|error| { error.get_ref().is_some_and(|e| e.is::<std::str::ParseBoolError>()) })
    );
    assert!(utf8(b"\xff").is_err_and(|error| error.get_ref().is_some_and(|e| e.is::<std::str::Utf8Error>())));
    assert!(
        string(vec![0xff])
            .is_err_and(|error| { error.get_ref().is_some_and(|e| e.is::<std::string::FromUtf8Error>()) })
    );
    assert!(format().is_err_and(|error| error.get_ref().is_some_and(|e| e.is::<fmt::Error>())));
    let error = file().expect_err("an i/o error");
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<io::Error>());
    assert_eq!(inner.map(io::Error::kind), Some(io::ErrorKind::PermissionDenied));
}

#[test]
fn an_error_leaves_through_a_question_mark_into_a_box() {
    fn plain() -> Result<(), Box<dyn StdError>> {
        Err(Error::new("plain"))?;
        Ok(())
    }
    fn shared() -> Result<(), Box<dyn StdError + Send + Sync>> {
        Err(Error::new("shared"))?;
        Ok(())
    }
    assert!(plain().is_err_and(|error| error.to_string().contains("plain")));
    let error = shared().expect_err("an error");
    assert!(error.downcast_ref::<Error>().is_some_and(|error| error.kind() == ErrorKind::Operation));
}

#[test]
fn an_error_that_went_through_a_box_is_the_same_when_it_comes_out() {
    fn boxes(ctx: &Context) -> Result<(), Box<dyn StdError + Send + Sync>> {
        ctx.check()?;
        Ok(())
    }
    fn unboxes(ctx: &Context) -> Result<(), Error> {
        boxes(ctx)?;
        Ok(())
    }
    let (ctx, canceller) = Context::background().with_cancel();
    canceller.cancel_with("why");
    let error = unboxes(&ctx).expect_err("cancelled");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(error.get_ref().map(ToString::to_string).as_deref(), Some("why"));
    assert!(Error::new(timed_out()).is_timeout());
}

#[test]
fn a_refusal_becomes_an_error_with_its_text_and_without_its_job() {
    let delegator = Delegator::builder().workers(1).queue_capacity(1).build().expect("a delegator");
    let busy = occupy(&delegator);
    let filler = delegator.submit(yields("filler", *b"f")).expect("the one place");
    let refused = |name| {
        let (flag, dropped) = DropFlag::new();
        let job = Job::new(name, move |_| {
            let _captured = &flag;
            Ok(Vec::new())
        });
        (job, dropped)
    };

    let (job, dropped) = refused("full");
    let full = delegator.try_submit(job).expect_err("no room");
    assert!(matches!(full, SubmitError::Full(_)));
    let text = full.to_string();
    assert!(!dropped.is_open());
    let error = Error::from(full);
    assert!(dropped.is_open(), "the job is dropped");
    assert!(error.to_string().contains(&text));
    assert_eq!(error.kind(), ErrorKind::Operation);
    assert!(!error.is_timeout());

    let (job, dropped) = refused("timeout");
    let timeout = delegator.submit_timeout(job, Duration::from_millis(1)).expect_err("no room");
    assert!(matches!(timeout, SubmitError::Timeout(_)));
    let text = timeout.to_string();
    let error = Error::from(timeout);
    assert!(dropped.is_open());
    assert!(error.to_string().contains(&text));
    assert_eq!(error.kind(), ErrorKind::Operation);

    busy.release();
    assert_eq!(filler.wait().state(), JobState::Completed);
    delegator.shutdown(Shutdown::drain());
    let (job, dropped) = refused("shut down");
    let shut_down = delegator.submit(job).expect_err("closed");
    assert!(matches!(shut_down, SubmitError::ShutDown(_)));
    let error = Error::from(shut_down);
    assert!(dropped.is_open());
    assert!(!error.to_string().is_empty());
}

#[test]
fn the_three_refusals_say_different_things_and_give_the_job_back() {
    let job = || yields("refused", *b"x");
    let mut texts = Vec::new();
    for refuse in [SubmitError::Full, SubmitError::Timeout, SubmitError::ShutDown] {
        let job = job();
        let id = job.id();
        let error = refuse(job);
        assert!(!format!("{error:?}").is_empty());
        texts.push(error.to_string());
        let boxed: &dyn StdError = &error;
        assert!(boxed.source().is_none());
        assert_eq!(error.into_job().id(), id);
    }
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), 3);
}

#[test]
fn an_operation_can_return_a_refusal_with_a_question_mark() {
    watchdog(|| {
        let closed = delegator(1);
        closed.shutdown(Shutdown::drain());
        let delegator = delegator(1);
        let job = Job::new("forwards", move |_| closed.submit(yields("inner", *b"x"))?.join());
        let record = delegator.submit(job).expect("accepted").wait();
        assert_eq!(record.state(), JobState::Failed);
    });
}

#[test]
fn an_error_whose_display_panics_hurts_nobody_else() {
    #[derive(Debug)]
    struct Unprintable;
    impl fmt::Display for Unprintable {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("this error cannot be printed");
        }
    }
    impl StdError for Unprintable {}
    CapturedLog::install();
    watchdog(|| {
        let delegator = delegator(1);
        let bad = delegator.submit(Job::new("bad", |_| Err(Error::new(Unprintable)))).expect("accepted");
        let record = bad.wait();
        assert_eq!(record.state(), JobState::Failed);
        assert!(record.error().and_then(Error::get_ref).is_some_and(|inner| inner.is::<Unprintable>()));
        let next = delegator.submit(yields("next", *b"fine")).expect("accepted");
        assert_eq!(next.wait().worker(), record.worker());
        assert_eq!(next.join().expect("the worker lives"), b"fine");
        assert_eq!((delegator.stats().failed, delegator.stats().panicked), (1, 0));

        let (ctx, canceller) = Context::background().with_cancel();
        canceller.cancel_with(Unprintable);
        let ended = delegator.submit(yields("never", *b"x").with_context(&ctx)).expect("accepted");
        assert_eq!(ended.wait().state(), JobState::Cancelled);
    });
}

#[test]
fn an_error_whose_display_uses_the_delegator_does_not_deadlock() {
    static POOL: OnceLock<Arc<Delegator>> = OnceLock::new();
    #[derive(Debug)]
    struct Nosy;
    impl fmt::Display for Nosy {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let pool = POOL.get().expect("set before the first job");
            let stats = pool.stats();
            write!(f, "{} submitted, {} kept, {:?}", stats.submitted, pool.registry().len(), pool.workers())?;
            write!(f, "{}", pool.registry().records().len())
        }
    }
    impl StdError for Nosy {}
    CapturedLog::install();
    watchdog(|| {
        let pool = POOL.get_or_init(|| Arc::new(delegator(1)));
        let record = pool.submit(Job::new("nosy", |_| Err(Error::new(Nosy)))).expect("accepted").wait();
        assert_eq!(record.state(), JobState::Failed);
        assert!(record.to_string().contains("submitted"));
        pool.shutdown(Shutdown::drain());
    });
}

#[test]
fn build_errors_are_ordinary_errors_that_name_the_culprit() {
    let zero = Delegator::builder().workers(0).build().expect_err("no workers");
    let nul = Delegator::builder().workers(1).thread_name("a\0b").build().expect_err("a name with NUL");
    let zero: Box<dyn StdError + Send + Sync> = Box::new(zero);
    assert!(zero.to_string().contains("worker"), "{zero}");
    let text = nul.to_string();
    assert!(text.contains("name"), "{text}");
    assert!(!format!("{nul:?}").is_empty());
}
