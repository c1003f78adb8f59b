//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Command, arg, value_parser};

const ABOUT: &str = "Print the SHA-256 of every regular file below each PATH, exactly as sha256sum prints it";

const DETAILS: &str = "\
Lines come depth first, in byte order of the names within a folder, and each as soon as those before it are out.
A PATH that is a symbolic link is followed; links met below it are not. Pipes, sockets and devices are passed over.
What cannot be read is reported, and the rest is done.

Exit status: 0 when every file was read; 1 when some was not, for whatever reason; 2 for wrong usage;
130 after Ctrl-C and 143 after SIGTERM, unless all was done; 141 when the output was closed.";

#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) workers: Option<NonZeroUsize>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) per_file_timeout: Option<Duration>,
    pub(crate) quiet: bool,
}

impl Args {
    /// What the user wants. Does not return when that is help, or makes no sense.
    pub(crate) fn parse() -> Args {
        let mut given = Command::new("digest")
            .about(ABOUT)
            .after_help(DETAILS)
            .args([
                arg!(<PATH> ... "Files and folders").value_parser(value_parser!(PathBuf)),
                arg!(--workers <N> "Files to read at a time, instead of one per core")
                    .value_parser(value_parser!(NonZeroUsize)),
                arg!(--timeout <SECONDS> "Stop the whole run after this long").value_parser(seconds),
                arg!(--"per-file-timeout" <SECONDS> "Give up on a file that takes longer than this to read")
                    .value_parser(seconds),
                arg!(-q --quiet "No progress bar and no summary; errors are still reported"),
            ])
            .get_matches();
        Args {
            paths: given.remove_many("PATH").into_iter().flatten().collect(),
            workers: given.remove_one("workers"),
            timeout: given.remove_one("timeout"),
            per_file_timeout: given.remove_one("per-file-timeout"),
            quiet: given.get_flag("quiet"),
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
