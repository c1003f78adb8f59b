//! The command line.

use std::time::Duration;

use clap::{ArgAction, Command, arg};

const DETAILS: &str = "\
Keys: up and down select a worker, c cancels its job, d drains (nothing new is accepted, and what is queued is finished),
q or Ctrl-C ends it.

Exit status: 0 after q or when the time is over; 1 when the terminal fails; 2 without a terminal, and for wrong usage;
130 after Ctrl-C, and as a shell shows it after SIGHUP and SIGTERM.";

#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) time: Option<Duration>,
    pub(crate) workers: usize,
    /// To see that the terminal is given back then too.
    pub(crate) panics: bool,
}

impl Args {
    /// What the user wants. Does not return when that is help, or makes no sense.
    pub(crate) fn parse() -> Args {
        let given = Command::new("top")
            .about("Watch the workers of a delegator that has some of everything to do")
            .after_help(DETAILS)
            .args([
                arg!(--seconds <SECONDS> "End after this long [default: never]").value_parser(seconds),
                arg!(--workers <N> "Workers, from 1 to 64 [default: 4]").value_parser(workers),
                arg!(--panic "Panic after the first look").hide(true).action(ArgAction::SetTrue),
            ])
            .get_matches();
        Args {
            time: given.get_one("seconds").copied(),
            workers: given.get_one("workers").copied().unwrap_or(4),
            panics: given.get_flag("panic"),
        }
    }
}

fn workers(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=64).contains(number));
    number.ok_or_else(|| "not a number from 1 to 64".to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
