//! What a person sees on standard error while the lines go to standard output.

use std::io::{self, IsTerminal, Write as _};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use indicatif::{BinaryBytes, ProgressBar, ProgressState, ProgressStyle};
use workpath::Context;

use crate::hash::Meter;
use crate::line::legible;
use crate::walk::regular_files;

const COUNTING: &str = "{spinner} {human_pos} files, {read}";
const COUNTED: &str = "{wide_bar} {human_pos}/{human_len} files, {read}";

/// A progress bar on a terminal, and nothing elsewhere.
#[derive(Clone)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Starts to count the files, too: the real walk is never far ahead of the work, so it cannot say how many there are.
    pub(crate) fn new(quiet: bool, paths: &[PathBuf], run: &Context) -> Progress {
        if quiet || !io::stderr().is_terminal() {
            return Progress(ProgressBar::hidden());
        }
        let bar = ProgressBar::no_length().with_style(style(COUNTING, run));
        bar.enable_steady_tick(Duration::from_millis(100));
        let (counted, paths, run) = (bar.clone(), paths.to_vec(), run.clone());
        thread::spawn(move || {
            let mut files = 0;
            for found in regular_files(&paths) {
                if run.is_done() {
                    return;
                }
                files += u64::from(found.is_ok());
            }
            counted.set_style(style(COUNTED, &run));
            counted.set_length(files);
        });
        Progress(bar)
    }

    /// One more file is done.
    pub(crate) fn step(&self) {
        self.0.inc(1);
    }

    /// Runs `write` with the bar out of the way.
    pub(crate) fn aside<R>(&self, write: impl FnOnce() -> R) -> R {
        self.0.suspend(write)
    }

    /// Prints a message. That standard error may be gone is no reason to stop.
    pub(crate) fn say(&self, message: &str) {
        self.aside(|| {
            let _ = writeln!(io::stderr(), "digest: {}", legible(message));
        });
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

fn style(template: &str, run: &Context) -> ProgressStyle {
    let run = run.clone();
    let read = move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let read = Meter::reading(&run);
        let rate = read as f64 / state.elapsed().as_secs_f64().max(0.001);
        let _ = write!(out, "{} at {}/s", BinaryBytes(read), BinaryBytes(rate as u64));
    };
    ProgressStyle::with_template(template).expect("a valid template").with_key("read", read)
}
