//! The example `cron`, run as a program.

#![cfg(target_os = "linux")]

mod common;
#[path = "common/program.rs"]
mod program;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Output, Stdio};
use std::time::Duration;

#[test]
fn runs_its_jobs_until_the_time_is_over() {
    let Some(output) = run(&["--seconds", "0.7", "--takes", "0", "a=0.1", "b=0.3", "never=1000"]) else {
        return;
    };
    let out = show(&output.stdout);
    let (a, b) = (count(&out, "a"), count(&out, "b"));
    assert!((1..=7).contains(&a) && b <= 2, "{out}");
    for (name, runs) in [("a", a), ("b", b), ("never", 0)] {
        assert!(out.contains(&format!("\n{name}: {runs} runs, ")), "{out}");
    }
    assert_eq!(
        out.lines().last(),
        Some(&*format!("{} completed, 0 failed, 0 cancelled, 0 stuck", a + b)),
        "{out}"
    );
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_job_that_takes_too_long_misses_some_of_its_times() {
    let Some(output) = run(&["--seconds", "1", "--takes", "0.2", "long=0.05"]) else { return };
    let out = show(&output.stdout);
    let missed = out.split("runs, ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    assert!(missed.parse::<u32>().unwrap() > 0, "{out}");
    assert!(count(&out, "long") <= 5, "one at a time: {out}");
    assert_eq!(output.status.code(), Some(0));
    for flag in ["--queue", "--pauses"] {
        let Some(output) = run(&["--seconds", "0.5", flag, "beat=0.05"]) else { return };
        assert_eq!(output.status.code(), Some(0), "{flag}");
    }
}

#[test]
fn an_interrupt_ends_it_cleanly() {
    let Some(mut child) = start(&["--seconds", "250", "beat=0.01"]) else { return };
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    // The first job: it is well under way.
    let mut out = String::new();
    stdout.read_line(&mut out).unwrap();
    program::interrupt(&child);
    let (output, out) = common::within(Duration::from_secs(100), move || {
        stdout.read_to_string(&mut out).unwrap();
        (child.wait_with_output().unwrap(), out)
    });
    let runs = count(&out, "beat");
    assert!(runs > 0 && out.contains(&format!("\nbeat: {runs} runs, ")), "{out}");
    assert_eq!(
        out.lines().last(),
        Some(&*format!("{runs} completed, 0 failed, 0 cancelled, 0 stuck")),
        "{out}"
    );
    assert_eq!(output.status.code(), Some(130));
}

#[test]
fn wrong_arguments_are_named() {
    let wrong: [(&[&str], &str); 5] = [
        (&["beat"], "invalid value 'beat' for '[JOB]...': not NAME=SECONDS"),
        (&["beat=0"], "invalid value 'beat=0' for '[JOB]...': an interval of zero has no end of ticks"),
        (&["beat=often"], "invalid value 'beat=often' for '[JOB]...': not a number of seconds"),
        (&["--seconds=-1"], "invalid value '-1' for '--seconds <SECONDS>'"),
        (&["--workers", "0"], "invalid value '0' for '--workers <N>'"),
    ];
    for (arguments, message) in wrong {
        let Some(output) = run(arguments) else { return };
        let errors = show(&output.stderr);
        assert!(errors.contains(message), "{arguments:?}: {errors}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
    let Some(output) = run(&["--help"]) else { return };
    assert!(output.status.code() == Some(0) && show(&output.stdout).contains("Exit status: "));
}

/// How often this job says that it runs.
fn count(out: &str, name: &str) -> usize {
    let of_job = |line: &&str| line.trim_start().split(' ').nth(1) == Some(name);
    out.lines().filter(of_job).count()
}

/// `None` where there is no program to test.
fn start(arguments: &[&str]) -> Option<Child> {
    let mut command = program::command(&program::find("cron")?);
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
