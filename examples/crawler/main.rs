//! Crawls a site that it makes up and serves itself, with a limit for each host and one deadline for everything.
//!
//! ```text
//!          URLs, host by host             jobs
//!  crawl ───────────────────────▶ set ───────────▶ delegator ◀────▶ site
//!    ▲                             │               (workers)       (four ports)
//!    └─────────────────────────────┘
//!       pages, as they come in
//! ```
//!
//! One thread knows what was seen and who may be asked; the workers only fetch. A host at its limit keeps its URLs
//! waiting and no worker. The deadline and Ctrl-C reach every fetch through its context, also when it is blocked.

mod args;
mod crawl;
mod fetch;
mod site;
#[path = "../digest/stop.rs"]
mod stop;
mod url;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use workpath::{Context, Delegator, Retention, Shutdown};

use crate::args::Args;
use crate::crawl::Crawl;
use crate::site::Site;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(status) => status.into(),
        Err(error) => {
            say(&error.to_string());
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<u8, Box<dyn Error>> {
    let started = Instant::now();
    let (run, canceller) = Context::background().with_timeout(args.time).with_cancel();
    stop::on_signal(canceller)?;

    let site = Site::open(args.pages, args.workers)?;
    let delegator = Delegator::builder().workers(args.workers).retain(Retention::none()).build()?;
    let tally = Crawl::new(&run, &delegator, args.per_host, site.hosts()).from(site.start(), say)?;
    delegator.shutdown(Shutdown::cancel());

    if let Some(error) = run.error().filter(|_| tally.left > 0) {
        say(&format!("{error}: {} pages were found and not fetched", tally.left));
    }
    // A reader who has gone away misses nothing but this.
    let _ = writeln!(io::stdout(), "{tally}\nsite: {site}\ntime: {:.2?}", started.elapsed());
    Ok(if tally.left == 0 { 0 } else { stop::exit_status(&run) })
}

/// Says something on standard error, if anybody listens.
fn say(message: &str) {
    let _ = writeln!(io::stderr(), "crawler: {message}");
}
