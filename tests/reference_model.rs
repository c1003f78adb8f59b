//! Random sequences of everything that can be done to a delegator, done to a real one and to a plain model of it. They must
//! agree on every outcome, every number and the content of the registry, after every step.
//!
//! Jobs wait at gates that the test opens, and every step ends when all is as the model predicts, so nothing depends on
//! time. A failure prints the shortest sequence that fails. `PROPTEST_CASES` says how many sequences there are to be.

mod common;
#[path = "reference_model/jobs.rs"]
mod jobs;
#[path = "reference_model/model.rs"]
mod model;
#[path = "reference_model/ops.rs"]
mod ops;
#[path = "reference_model/real.rs"]
mod real;

use std::panic;
use std::thread;

use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestRunner};

use common::within;

/// How many sequences without `PROPTEST_CASES`.
const CASES: u32 = 400;

/// Planned panics make no noise.
fn hush() {
    let loud = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let payload = info.payload();
        let text =
            payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(|text| &**text));
        let planned = text.is_some_and(|text| text.starts_with("planned"));
        let on_a_worker = thread::current().name().is_some_and(|name| name.starts_with("model"));
        if !planned && !on_a_worker {
            loud(info);
        }
    }));
}

#[test]
fn a_delegator_does_what_its_model_does() {
    hush();
    let mut config = Config {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "tests/reference_model/regressions",
        ))),
        max_shrink_time: 60_000,
        ..Config::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES;
    }
    let cases = (ops::setups(), ops::sequences());
    let result = TestRunner::new(config).run(&cases, |(setup, sequence)| {
        let run = move || real::run(&setup, &sequence);
        let outcome = panic::catch_unwind(|| within(2 * common::PATIENCE, run));
        match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(difference)) => Err(TestCaseError::fail(difference)),
            Err(_) => Err(TestCaseError::fail("it hangs or panics")),
        }
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
