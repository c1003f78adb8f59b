//! The traits that programs rely on, and `Debug` that never blocks.

mod common;

use std::error::Error as StdError;
use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::str::FromStr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use common::{FOREVER, Gate, gated, occupy, watchdog, yields};
use workpath::{
    BuildError, Builder, Canceller, Context, Delegator, Error, ErrorKind, Job, JobHandle, JobId, JobRecord,
    JobSet, JobState, OnDone, Operation, Priority, Registry, Retention, Shutdown, ShutdownReport, Stats,
    SubmitAllError, SubmitError, SubmitErrorKind, Submitter, WorkerStatus,
};

fn send_sync<T: Send + Sync>() {}
fn cloned<T: Clone>() {}
fn debug<T: Debug>() {}
fn display<T: Display>() {}
fn shared_error<T: StdError + Send + Sync + 'static>() {}
fn key<T: Copy + Ord + Hash + Display + FromStr + Into<uuid::Uuid>>() {}
fn plain<T: Copy + Eq + Debug>() {}

#[test]
fn every_type_crosses_threads_as_far_as_it_should() {
    send_sync::<JobId>();
    send_sync::<JobState>();
    send_sync::<Error>();
    send_sync::<ErrorKind>();
    send_sync::<Context>();
    send_sync::<Canceller>();
    send_sync::<OnDone>();
    send_sync::<JobHandle>();
    send_sync::<JobRecord>();
    send_sync::<JobSet>();
    send_sync::<Delegator>();
    send_sync::<Submitter>();
    send_sync::<Registry>();
    send_sync::<Retention>();
    send_sync::<Stats>();
    send_sync::<workpath::Event>();
    send_sync::<workpath::Checkpoint>();
    send_sync::<workpath::Progress>();
    send_sync::<WorkerStatus>();
    send_sync::<Shutdown>();
    send_sync::<BuildError>();
    send_sync::<Job>();
    send_sync::<SubmitError>();
    send_sync::<SubmitAllError>();
    send_sync::<ShutdownReport>();
}

#[test]
fn handles_and_values_are_cloned_and_compared() {
    cloned::<JobId>();
    cloned::<Error>();
    cloned::<Context>();
    cloned::<Canceller>();
    cloned::<JobHandle>();
    cloned::<JobRecord>();
    cloned::<Submitter>();
    key::<JobId>();
    plain::<JobId>();
    plain::<JobState>();
    plain::<ErrorKind>();
    plain::<SubmitErrorKind>();
}

#[test]
fn every_type_prints_itself_for_debugging_and_errors_are_errors() {
    debug::<JobId>();
    debug::<JobState>();
    debug::<Error>();
    debug::<ErrorKind>();
    debug::<SubmitError>();
    debug::<Context>();
    debug::<Canceller>();
    debug::<OnDone>();
    debug::<Job>();
    debug::<JobHandle>();
    debug::<JobRecord>();
    debug::<JobSet>();
    debug::<Builder>();
    debug::<BuildError>();
    debug::<Delegator>();
    debug::<Submitter>();
    debug::<Registry>();
    debug::<Retention>();
    debug::<Stats>();
    debug::<workpath::Event>();
    debug::<WorkerStatus>();
    debug::<Shutdown>();
    debug::<ShutdownReport>();
    display::<JobId>();
    display::<JobState>();
    display::<JobRecord>();
    display::<Error>();
    display::<SubmitError>();
    display::<BuildError>();
    shared_error::<Error>();
    shared_error::<BuildError>();
    shared_error::<SubmitError>();
    shared_error::<SubmitAllError>();
}

#[test]
fn an_operation_is_a_type_with_a_name_of_its_own_if_it_wants_one() {
    struct Sum(Vec<u8>);
    impl Operation for Sum {
        fn run(&self, _: &Context) -> Result<Vec<u8>, Error> {
            Ok(vec![self.0.iter().sum()])
        }
        fn name(&self) -> std::borrow::Cow<'_, str> {
            format!("sum of {}", self.0.len()).into()
        }
    }
    struct Unnamed;
    impl Operation for Unnamed {
        fn run(&self, _: &Context) -> Result<Vec<u8>, Error> {
            Ok(Vec::new())
        }
    }
    let delegator = common::delegator(1);
    let job = Job::from_operation(Sum(vec![1, 2, 3]));
    assert_eq!(job.name(), "sum of 3");
    assert_eq!(delegator.submit(job).expect("accepted").join().expect("a sum"), [6]);
    let job = Job::from_operation(Unnamed);
    assert!(job.name().contains("Unnamed"), "without a name it goes by its type: {}", job.name());
}

#[test]
fn names_keys_and_causes_are_taken_in_every_usual_form() {
    let ran = |job: Job| assert!(job.created_at() <= std::time::SystemTime::now() + FOREVER);
    ran(Job::new("static", |_| Ok(Vec::new())));
    ran(Job::new(String::from("owned"), |_: &Context| Ok(Vec::new())));
    ran(Job::new(std::borrow::Cow::Borrowed("cow"), |_: &Context| Ok(Vec::new())));
    let ctx = Context::background().with_value("static", 1_u8).with_value(String::from("owned"), 2_u8);
    assert_eq!(ctx.value::<u8>("owned"), Some(&2));
    let (_, canceller) = ctx.with_cancel();
    canceller.cancel_with("static");
    canceller.cancel_with(String::from("owned"));
    canceller.cancel_with(std::io::Error::other("an error"));
    let boxed: Box<dyn StdError + Send + Sync> = "boxed".into();
    canceller.cancel_with(boxed);
}

#[test]
fn debug_is_never_empty() {
    let delegator = common::delegator(1);
    let (ctx, canceller) = Context::background().with_value("key", 1_u8).with_timeout(FOREVER).with_cancel();
    let on_done = ctx.on_done(|| ());
    let job = yields("job", *b"x");
    let texts = [
        format!("{:?}", Context::background()),
        format!("{ctx:?}"),
        format!("{canceller:?}"),
        format!("{on_done:?}"),
        format!("{job:?}"),
        format!("{:?}", SubmitError::Full(yields("job", *b"x"))),
        format!("{:?}", Delegator::builder()),
        format!(
            "{:?}",
            Delegator::builder().on_worker_start(|_| ()).on_worker_stop(|_| ()).retain(Retention::none())
        ),
        format!("{:?}", Delegator::builder().workers(0).build().expect_err("no workers")),
        format!("{:?}", Retention::last(3).max_age(FOREVER).max_bytes(10)),
        format!("{:?}", Shutdown::drain().within(FOREVER)),
        format!("{:?}", delegator.stats()),
        format!("{:?}", delegator.workers()),
        format!("{delegator:?}"),
        format!("{:?}", delegator.submitter()),
        format!("{:?}", delegator.registry()),
        format!("{:?}", job.id()),
        format!("{:?}", JobState::Queued),
        format!("{:?}", ErrorKind::Operation),
        format!("{:?}", Error::new("text")),
    ];
    assert!(texts.iter().all(|text| !text.is_empty()));
    canceller.cancel();
    assert!(!format!("{ctx:?} {canceller:?} {on_done:?}").is_empty());
    let handle = delegator.submit(job).expect("accepted");
    let record = handle.wait();
    assert!(!format!("{handle:?}").is_empty());
    assert!(!format!("{record:?}").is_empty());
    let report = delegator.shutdown(Shutdown::drain());
    assert!(!format!("{report:?}").is_empty());
    assert!(!format!("{delegator:?}").is_empty());
}

#[test]
fn what_is_printed_tells_what_it_is_about() {
    let delegator = Delegator::builder().queue_capacity(1).latencies(true).manual().unwrap();
    let tells = |value: &dyn Debug, words: &[&str]| {
        let text = format!("{value:?}");
        words.iter().for_each(|word| assert!(text.contains(word), "{word:?} is not in {text}"));
    };
    tells(&delegator, &["Manual"]);
    tells(delegator.registry(), &["Registry"]);
    let refused = delegator.try_submit_all((0..3).map(|_| yields("job", []))).unwrap_err();
    tells(&refused, &["SubmitAllError", "kind: Full", "accepted: 1", "rest: 2"]);
    assert_eq!(Error::from(refused).to_string(), "2 of 3 jobs were not accepted: the queue is full");
    let wrong = Delegator::builder().workers(0).build().unwrap_err();
    let text = wrong.to_string();
    assert_eq!(Error::from(wrong).to_string(), text);
    assert_eq!(delegator.run_until_idle(), 1);
    let waited = delegator.latencies().run_time;
    assert_eq!(waited.to_string(), "p50 0.0ns, p90 0.0ns, p99 0.0ns, max 0.0ns of 1");
    tells(&waited, &["Latency(p50 0.0ns"]);
}

#[test]
fn debug_of_a_job_and_its_handle_tells_name_id_and_state() {
    let delegator = common::delegator(1);
    let busy = occupy(&delegator);
    let job = yields("particular", *b"x");
    let id = job.id().to_string();
    assert!(format!("{job:?}").contains("particular"));
    let handle = delegator.submit(job).expect("accepted");
    let queued = format!("{handle:?}");
    assert!(queued.contains("particular") && queued.contains(&id), "{queued}");
    assert!(queued.contains("Queued"), "{queued}");
    assert!(format!("{:?}", busy.handle).contains("Running"));
    busy.release();
    let record = handle.wait();
    assert!(format!("{handle:?}").contains("Completed"));
    let text = format!("{record:?}");
    assert!(text.contains("particular") && text.contains(&id) && text.contains("Completed"), "{text}");
}

#[test]
fn debug_of_a_delegator_tells_how_many_wait_at_all_levels() {
    let delegator = Delegator::manual();
    for (priority, count) in [(Priority::Low, 2), (Priority::Normal, 3), (Priority::High, 4)] {
        for _ in 0..count {
            let _ = delegator.submit(yields("waits", []).with_priority(priority)).expect("room");
        }
    }
    let text = format!("{:?}", delegator.submitter());
    assert!(text.contains("queue_len: 9,"), "{text}");
}

#[test]
fn debug_never_blocks_whatever_else_goes_on() {
    watchdog(|| {
        let delegator =
            Arc::new(Delegator::builder().workers(1).queue_capacity(1).build().expect("a delegator"));
        let (started, release) = (Gate::new(), Gate::new());
        let running = delegator.submit(gated("running", &started, &release)).expect("accepted");
        started.wait();
        let queued = delegator.submit(yields("queued", *b"q")).expect("the one place");
        let submitter = delegator.submitter();
        let blocked = {
            let submitter = submitter.clone();
            thread::spawn(move || {
                submitter.submit(yields("blocked", *b"b")).map(|handle| handle.wait().state())
            })
        };
        let waiting = {
            let queued = queued.clone();
            thread::spawn(move || queued.wait().state())
        };
        thread::sleep(Duration::from_millis(5));
        let print =
            || format!("{delegator:?} {submitter:?} {:?} {running:?} {queued:?}", delegator.registry());
        assert!(!print().is_empty());
        // With a shutdown under way as well.
        let closing = {
            let delegator = Arc::clone(&delegator);
            thread::spawn(move || delegator.shutdown(Shutdown::drain()))
        };
        thread::sleep(Duration::from_millis(5));
        assert!(!print().is_empty());
        release.open();
        assert_eq!(waiting.join().expect("woke"), JobState::Completed);
        let _ = blocked.join().expect("came back");
        closing.join().expect("the report");
        assert!(!print().is_empty());
    });
}

#[test]
fn debug_can_be_used_inside_a_job_a_callback_and_a_value() {
    struct Prints(Context);
    impl Drop for Prints {
        fn drop(&mut self) {
            assert!(!format!("{:?}", self.0).is_empty());
        }
    }
    watchdog(|| {
        let delegator = Arc::new(common::delegator(1));
        let pool = Arc::clone(&delegator);
        let job = Job::new("prints", move |ctx| {
            Ok(format!("{pool:?} {ctx:?} {:?} {:?}", pool.registry(), pool.stats()).into_bytes())
        });
        assert!(!delegator.submit(job).expect("accepted").join().expect("a text").is_empty());

        let (ctx, canceller) = Context::background().with_cancel();
        let inside = ctx.with_value("prints", Prints(ctx.clone()));
        let printed = Gate::new();
        let opened = printed.clone();
        let (seen, again) = (inside.clone(), canceller.clone());
        let _on_done = ctx.on_done(move || {
            assert!(!format!("{seen:?} {again:?}").is_empty());
            opened.open();
        });
        canceller.cancel();
        assert!(printed.is_open());
        drop(inside);
    });
}

#[test]
fn debug_of_a_context_does_not_need_its_values_to_have_it() {
    struct Opaque;
    let ctx = Context::background().with_value("opaque", Opaque);
    assert!(!format!("{ctx:?}").is_empty());
    assert!(ctx.value::<Opaque>("opaque").is_some());
}
