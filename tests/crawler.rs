//! The example `crawler`, run as a program: every page once, no host overrun, and an end when it is told.

#![cfg(target_os = "linux")]

mod common;
#[path = "common/program.rs"]
mod program;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Output, Stdio};
use std::time::Duration;

/// A crawl ends by itself long before, by `--seconds`.
const STUCK: Duration = Duration::from_secs(300);

/// More than a crawl gets through before it is told to stop: one page in eight takes a tenth of a second.
const MANY: [&str; 4] = ["--pages", "100000", "--per-host", "1"];

#[test]
fn fetches_every_page_exactly_once() {
    // Each of the 170 pages has three links to what is known: up the tree, to itself, and across.
    for workers in ["1", "3", "16"] {
        let Some(output) = crawl(&["--pages", "200", "--seconds", "120", "--workers", workers]) else {
            return;
        };
        let out = show(&output.stdout);
        assert!(out.contains("site: 200 requests for 200 of 200 pages, "), "{workers} workers: {out}");
        assert!(out.contains("pages: 170 fetched, 30 failed, 0 left\n"), "{workers} workers: {out}");
        assert!(
            out.contains("links: 510 duplicates skipped, 170 to other sites\n"),
            "{workers} workers: {out}"
        );
        assert_eq!(output.status.code(), Some(0));
    }
}

#[test]
fn the_smallest_sites_are_crawled_too() {
    for pages in 1..=5 {
        let Some(output) = crawl(&["--pages", &pages.to_string(), "--seconds", "120"]) else { return };
        let out = show(&output.stdout);
        assert!(out.contains(&format!("site: {pages} requests for {pages} of {pages} pages")), "{out}");
        assert_eq!(output.status.code(), Some(0));
    }
}

#[test]
fn no_host_is_asked_for_more_at_a_time_than_allowed() {
    for limit in [1, 2, 3] {
        let limit = limit.to_string();
        let Some(output) = crawl(&["--per-host", &limit, "--workers", "16", "--seconds", "120"]) else {
            return;
        };
        let out = show(&output.stdout);
        let most = out.split("at most ").nth(1).and_then(|rest| rest.split(' ').next());
        let most: usize = most.and_then(|most| most.parse().ok()).expect(&out);
        assert!((1..=limit.parse().unwrap()).contains(&most), "{limit}: {out}");
    }
}

#[test]
fn failures_are_named_by_url_and_counted_by_kind() {
    let Some(output) = crawl(&["--pages", "200", "--seconds", "120"]) else { return };
    let (out, errors) = (show(&output.stdout), show(&output.stderr));
    assert_eq!(errors.lines().count(), 30, "{errors}");
    for (kind, page) in [("404 Not Found", 107), ("500 Internal Server Error", 103), ("broken off", 109)] {
        assert!(out.contains(&format!("failed: 10 {kind}\n")), "{out}");
        let named = |line: &str| {
            line.starts_with("crawler: http://127.0.0.1:") && line.ends_with(&format!("/page/{page}: {kind}"))
        };
        assert_eq!(errors.lines().filter(|line| named(line)).count(), 1, "{kind} of {page} in {errors}");
    }
}

#[test]
fn a_short_deadline_ends_it_early() {
    for seconds in ["0", "0.5"] {
        let Some(output) = crawl(&[&MANY[..], &["--seconds", seconds]].concat()) else { return };
        let (out, errors) = (show(&output.stdout), show(&output.stderr));
        let left = left(&out);
        assert!(left > 0, "{out}");
        let last = format!("crawler: deadline exceeded: {left} pages were found and not fetched");
        assert_eq!(errors.lines().last(), Some(&*last), "{errors}");
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn an_interrupt_ends_it_cleanly() {
    let Some(mut child) = start(&[&MANY[..], &["--seconds", "250"]].concat()) else { return };
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    // The first page that fails: the crawl is well under way.
    let mut errors = String::new();
    stderr.read_line(&mut errors).unwrap();
    program::interrupt(&child);
    let (output, errors) = common::within(Duration::from_secs(100), move || {
        stderr.read_to_string(&mut errors).unwrap();
        (child.wait_with_output().unwrap(), errors)
    });
    let left = left(&show(&output.stdout));
    let last = format!("crawler: cancelled: SIGINT: {left} pages were found and not fetched");
    assert_eq!(errors.lines().last(), Some(&*last), "{errors}");
    assert_eq!(output.status.code(), Some(130));
}

#[test]
fn wrong_arguments_are_named() {
    let wrong: [(&[&str], &str); 9] = [
        (&["--pages", "0"], "invalid value '0' for '--pages <N>': not a number from 1 to 100000"),
        (&["--pages", "100001"], "invalid value '100001' for '--pages <N>'"),
        (&["--pages", "many"], "invalid value 'many' for '--pages <N>'"),
        (&["--workers", "0"], "invalid value '0' for '--workers <N>': not a number from 1 to 256"),
        (&["--workers", "257"], "invalid value '257' for '--workers <N>'"),
        (&["--per-host", "0"], "invalid value '0' for '--per-host <N>'"),
        (&["--seconds", "soon"], "invalid value 'soon' for '--seconds <SECONDS>': not a number of seconds"),
        (&["--seconds=-1"], "invalid value '-1' for '--seconds <SECONDS>'"),
        (&["http://example.com/"], "unexpected argument 'http://example.com/'"),
    ];
    for (arguments, message) in wrong {
        let Some(output) = crawl(arguments) else { return };
        let errors = show(&output.stderr);
        assert!(errors.contains(message), "{arguments:?}: {errors}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
    let Some(output) = crawl(&["--help"]) else { return };
    assert_eq!(output.status.code(), Some(0));
    assert!(show(&output.stdout).contains("Exit status: "));
}

/// How many pages the summary says are left.
fn left(out: &str) -> usize {
    let line = out.lines().find(|line| line.starts_with("pages: ")).expect(out);
    line.rsplit(", ").next().and_then(|last| last.strip_suffix(" left")?.parse().ok()).expect(out)
}

/// `None` where there is no program to test.
fn start(arguments: &[&str]) -> Option<Child> {
    let mut command = program::command(&program::find("crawler")?);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Some(command.spawn().unwrap())
}

#[track_caller]
fn crawl(arguments: &[&str]) -> Option<Output> {
    let child = start(arguments)?;
    Some(common::within(STUCK, move || child.wait_with_output().unwrap()))
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
