//! The example `retry`, run as a program.

#![cfg(target_os = "linux")]

mod common;
#[path = "common/program.rs"]
mod program;

use std::process::{Child, Output, Stdio};
use std::time::Duration;

#[test]
fn every_request_gets_its_answer() {
    // A budget that no load of the machine exceeds.
    let Some(output) = run(&["--requests", "20", "--budget", "1000", "--seconds", "120"]) else { return };
    let out = show(&output.stdout);
    assert_eq!(out.lines().last(), Some("15 answered, 5 unknown, 0 given up, 15 retries"), "{out}");
    // A head, twenty last attempts, fifteen before, a sum.
    assert_eq!(out.lines().count(), 1 + 20 + 15 + 1, "{out}");
    let of = |name: &str| out.lines().filter(|line| line.starts_with(name)).collect::<Vec<_>>();
    let flaky = of("request 5 ");
    assert!(
        flaky.len() == 3 && flaky[0].ends_with("  the service hung up") && flaky[2].ends_with("  hello 5"),
        "{out}"
    );
    let busy = of("request 6 ");
    assert!(busy.len() == 2 && busy[0].ends_with("  busy") && busy[1].ends_with("  hello 6"), "{out}");
    let unknown = of("request 7 ");
    assert!(unknown.len() == 1 && unknown[0].ends_with("  no such page; the error is permanent"), "{out}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_service_that_is_down_is_left_alone() {
    let arguments = ["--down", "--requests", "100", "--budget", "0", "--attempts", "9", "--seconds", "120"];
    let Some(output) = run(&arguments) else { return };
    let out = show(&output.stdout);
    let last = out.lines().last().unwrap();
    assert!(last.starts_with("0 answered, 0 unknown, 100 given up, "), "{out}");
    let retries: u32 = last.split(' ').nth(7).unwrap().parse().unwrap();
    assert!((1..=20).contains(&retries), "a fifth of the requests: {out}");
    assert!(out.contains("  the service hung up; the retry budget is used up\n"), "{out}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn the_deadline_ends_it() {
    let Some(output) = run(&["--down", "--attempts", "1000", "--budget", "1000", "--seconds", "0.3"]) else {
        return;
    };
    let out = show(&output.stdout);
    assert!(out.lines().last().unwrap().contains(" 8 given up, "), "{out}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn an_interrupt_ends_it_cleanly() {
    let arguments = ["--down", "--attempts", "1000000", "--budget", "1000000", "--seconds", "250"];
    let Some(child) = start(&arguments) else { return };
    // Handlers are there before the first request; a signal that comes earlier still would end the process by itself.
    std::thread::sleep(Duration::from_secs(1));
    program::interrupt(&child);
    let output = common::within(Duration::from_secs(100), move || child.wait_with_output().unwrap());
    assert!(show(&output.stdout).contains(" 8 given up, "), "{output:?}");
    assert_eq!(output.status.code(), Some(130));
}

#[test]
fn wrong_arguments_are_named() {
    let wrong: [(&[&str], &str); 5] = [
        (&["--requests", "0"], "invalid value '0' for '--requests <N>'"),
        (&["--attempts", "0"], "invalid value '0' for '--attempts <N>'"),
        (&["--budget", "much"], "invalid value 'much' for '--budget <N>'"),
        (&["--seconds", "soon"], "invalid value 'soon' for '--seconds <SECONDS>': not a number of seconds"),
        (&["http://example.com/"], "unexpected argument 'http://example.com/'"),
    ];
    for (arguments, message) in wrong {
        let Some(output) = run(arguments) else { return };
        let errors = show(&output.stderr);
        assert!(errors.contains(message), "{arguments:?}: {errors}");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
    let Some(output) = run(&["--help"]) else { return };
    assert!(output.status.code() == Some(0) && show(&output.stdout).contains("Exit status: "));
}

/// `None` where there is no program to test.
fn start(arguments: &[&str]) -> Option<Child> {
    let mut command = program::command(&program::find("retry")?);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Some(command.spawn().unwrap())
}

#[track_caller]
fn run(arguments: &[&str]) -> Option<Output> {
    let child = start(arguments)?;
    Some(common::within(Duration::from_secs(300), move || child.wait_with_output().unwrap()))
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
