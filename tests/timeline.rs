//! The example `timeline`, run as a program.

#![cfg(target_os = "linux")]

mod common;
#[path = "common/program.rs"]
mod program;

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;
use std::{env, fs, process};

/// It takes two seconds.
const STUCK: Duration = Duration::from_secs(300);

#[test]
fn the_picture_shows_every_job() {
    let file = env::temp_dir().join(format!("workpath-timeline-{}.svg", process::id()));
    let Some(output) = timeline(&[file.to_str().unwrap()]) else { return };
    let (out, errors) = (show(&output.stdout), show(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let jobs: usize = out.split(' ').next().and_then(|jobs| jobs.parse().ok()).expect(&out);

    let svg = fs::read_to_string(&file).unwrap();
    fs::remove_file(&file).unwrap();
    assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
    let texts = texts(&svg);
    let has = |text: &str| texts.iter().any(|(_, other)| other == text);
    assert!(texts.iter().any(|(_, text)| text.starts_with(&format!("{jobs} jobs on 4 workers in "))));
    for text in ["worker 0", "worker 3", "never started", "Jobs that wait", "queue time", "p50", "p99", "ms"]
    {
        assert!(has(text), "{text}");
    }

    // The legend accounts for all of them, and whatever ran is a slice in its colour.
    let mut sum = 0;
    for (state, colour) in [
        ("completed", "#0F766E"),
        ("failed", "#C2410C"),
        ("panicked", "#831843"),
        ("timed out", "#1D4ED8"),
        ("cancelled", "#6B7280"),
    ] {
        let count =
            texts.iter().find_map(|(_, text)| text.strip_suffix(state)?.trim_end().parse::<usize>().ok());
        let count = count.expect(state);
        let shapes = svg.lines().filter(|line| line.contains(&format!("fill=\"{colour}\""))).count();
        // One is that of the legend, and a job that never started is a circle.
        assert!(shapes > count, "{shapes} shapes for {count} {state}");
        sum += count;
    }
    assert_eq!(sum, jobs);

    for (x, text) in texts {
        assert!((0..=1000).contains(&x), "{text} at {x}");
    }
}

#[test]
fn a_picture_that_cannot_be_written_is_an_error_with_its_path() {
    let Some(output) = timeline(&["/nowhere/at/all.svg"]) else { return };
    let errors = show(&output.stderr);
    assert!(errors.contains("timeline: /nowhere/at/all.svg: No such file or directory"), "{errors}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn wrong_arguments_are_named() {
    let Some(output) = timeline(&["one.svg", "two.svg"]) else { return };
    assert!(show(&output.stderr).contains("unexpected argument 'two.svg'"));
    assert_eq!(output.status.code(), Some(2));
    assert!(!Path::new("one.svg").exists());
}

/// The labels, with where each is from left to right.
fn texts(svg: &str) -> Vec<(i32, String)> {
    let elements = svg.split("<text ").skip(1);
    let label = |element: &str| {
        let x = element.split_once("x=\"")?.1.split_once('"')?.0.parse().ok()?;
        let text = element.split_once('>')?.1.split_once("</text>")?.0;
        Some((x, text.trim().to_owned()))
    };
    elements.map(|element| label(element).expect(element)).collect()
}

/// `None` where there is no program to test.
fn timeline(arguments: &[&str]) -> Option<Output> {
    let mut command = program::command(&program::find("timeline")?);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    Some(common::within(STUCK, move || child.wait_with_output().unwrap()))
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
