//! The command line.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::{Command, arg, value_parser};

const ABOUT: &str = "Make a site, serve it on the loopback interface, and fetch all of its pages";

const DETAILS: &str = "\
The site is spread over four hosts, which are four ports. Some pages are slow, some links lead nowhere, some pages
fail or break off, and links lead in circles and to other sites, where the crawl does not go.

Exit status: 0 when every page that was found was asked for, whatever the answer; 1 when the time was over before;
2 for wrong usage; 130 after Ctrl-C and 143 after SIGTERM, unless all was done.";

#[derive(Debug)]
pub(crate) struct Args {
    /// How many pages the site has.
    pub(crate) pages: usize,
    pub(crate) workers: usize,
    pub(crate) time: Duration,
    pub(crate) per_host: usize,
}

impl Args {
    /// What the user wants. Does not return when that is help, or makes no sense.
    pub(crate) fn parse() -> Args {
        let given = Command::new("crawler")
            .about(ABOUT)
            .after_help(DETAILS)
            .args([
                arg!(--pages <N> "Pages of the site [default: 200]").value_parser(up_to_100_000),
                arg!(--workers <N> "Pages to fetch at a time [default: 8]").value_parser(up_to_256),
                arg!(--seconds <SECONDS> "Stop after this long [default: 30]").value_parser(seconds),
                arg!(--"per-host" <N> "Pages to fetch at a time from one host [default: 2]")
                    .value_parser(value_parser!(NonZeroUsize)),
            ])
            .get_matches();
        let number = |name| given.get_one::<usize>(name).copied();
        Args {
            pages: number("pages").unwrap_or(200),
            workers: number("workers").unwrap_or(8),
            time: given.get_one("seconds").copied().unwrap_or(Duration::from_secs(30)),
            per_host: given.get_one::<NonZeroUsize>("per-host").map_or(2, |limit| limit.get()),
        }
    }
}

/// A connection for each: more would use up the ports.
fn up_to_100_000(text: &str) -> Result<usize, String> {
    number(text, 100_000)
}

/// Two threads and four open files for each: one at either end.
fn up_to_256(text: &str) -> Result<usize, String> {
    number(text, 256)
}

fn number(text: &str, most: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| format!("not a number from 1 to {most}"))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
