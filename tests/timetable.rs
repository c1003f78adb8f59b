//! Random programs on a manual delegator, and a plain model of what happens when: priorities, delays, deadlines, cancels,
//! retries, nested and periodic jobs, sets inside jobs and outside, keys, full queues and none, callers that run, and the
//! end of it all, in every mixture. Model and delegator must agree on every start and end to the millisecond, on every
//! number and on the order of the records, after every step.
//!
//! `tests/reference_model.rs` does the same with real threads, for what has to do with those.

#[path = "timetable/model.rs"]
mod model;
#[path = "timetable/program.rs"]
mod program;
#[path = "timetable/real.rs"]
mod real;

use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestRunner};

/// How many programs without `PROPTEST_CASES`.
const CASES: u32 = 2_000;

#[test]
fn a_manual_delegator_keeps_to_the_timetable_of_its_model() {
    real::hush();
    let mut config = Config {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/timetable/regressions"))),
        max_shrink_time: 60_000,
        ..Config::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES;
    }
    let result = TestRunner::new(config).run(&program::programs(), |(setup, program)| {
        real::run(&setup, &program).map_err(TestCaseError::fail)
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
