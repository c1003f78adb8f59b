//! The command line.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use clap::{Command, arg, value_parser};

const ABOUT: &str = "Make a small PNG of every PNG and JPEG below FROM, at the same place below TO";

const DETAILS: &str = "\
A picture that cannot be read is named, and the others are made. To try it, --make N first puts N pictures into FROM.

Exit status: 0 when every picture has its thumbnail; 1 when some have not, for whatever reason; 2 for wrong usage;
130 after Ctrl-C and 143 after SIGTERM, unless all was done.";

#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) from: PathBuf,
    pub(crate) to: PathBuf,
    pub(crate) size: u32,
    pub(crate) workers: Option<NonZeroUsize>,
    pub(crate) stop_at_error: bool,
    pub(crate) quiet: bool,
    /// How many pictures to make, and how many of them to spoil.
    pub(crate) make: usize,
    pub(crate) spoil: usize,
}

impl Args {
    /// What the user wants. Does not return when that is help, or makes no sense.
    pub(crate) fn parse() -> Args {
        let mut given = Command::new("thumbnails")
            .about(ABOUT)
            .after_help(DETAILS)
            .args([
                arg!(<FROM> "The folder with the pictures").value_parser(value_parser!(PathBuf)),
                arg!(<TO> "The folder for the thumbnails").value_parser(value_parser!(PathBuf)),
                arg!(--size <PIXELS> "The longer side of a thumbnail [default: 160]")
                    .value_parser(value_parser!(NonZeroU32)),
                arg!(--workers <N> "Pictures to work on at a time, instead of one per core")
                    .value_parser(value_parser!(NonZeroUsize)),
                arg!(--"stop-at-error" "Stop at the first picture that cannot be read"),
                arg!(-q --quiet "No progress bar and no summary; errors are still reported"),
                arg!(--make <N> "Make this many pictures in FROM first").value_parser(value_parser!(usize)),
                arg!(--spoil <N> "Of these, cut so many short").value_parser(value_parser!(usize)),
            ])
            .get_matches();
        let number = |name| given.get_one::<usize>(name).copied().unwrap_or(0);
        let (make, spoil) = (number("make"), number("spoil"));
        Args {
            make,
            spoil,
            from: given.remove_one("FROM").unwrap_or_default(),
            to: given.remove_one("TO").unwrap_or_default(),
            size: given.remove_one("size").map_or(160, NonZeroU32::get),
            workers: given.remove_one("workers"),
            stop_at_error: given.get_flag("stop-at-error"),
            quiet: given.get_flag("quiet"),
        }
    }
}
