//! The printer: takes the jobs in order, waits for each, and writes its line.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use crossbeam_channel::Receiver;
use parking_lot::Mutex;
use workpath::{Context, JobRecord};

use crate::progress::Progress;
use crate::summary::Tally;
use crate::walk::{Item, Unreadable};

/// Lines are written at the latest when this many bytes of them are there.
const BATCH: usize = 32 * 1024;

pub(crate) struct Printer {
    run: Context,
    /// When it ends, jobs that still run are waited for no longer.
    patience: Context,
    progress: Progress,
    tally: Arc<Mutex<Tally>>,
    /// Not written yet.
    lines: Vec<u8>,
}

impl Printer {
    pub(crate) fn new(
        run: Context,
        patience: Context,
        progress: Progress,
        tally: Arc<Mutex<Tally>>,
    ) -> Printer {
        Printer { run, patience, progress, tally, lines: Vec::new() }
    }

    /// Prints until the walk is over. Fails only where standard output does.
    pub(crate) fn print_all(mut self, items: &Receiver<Item>) -> io::Result<()> {
        loop {
            // Never wait with a line in hand.
            if items.is_empty() || self.lines.len() >= BATCH {
                self.flush()?;
            }
            match items.recv() {
                Ok(item) => self.print(item)?,
                Err(_) => return self.flush(),
            }
        }
    }

    fn print(&mut self, item: Item) -> io::Result<()> {
        match item {
            Item::File(job) => {
                if !job.is_finished() {
                    self.flush()?;
                    // Whichever ends first, what counts is whether there is a record then.
                    let _ = self.patience.recv(&job.done());
                }
                let record = job.try_wait();
                self.tally.lock().count(record.as_ref());
                match record.as_ref().map(JobRecord::result) {
                    Some(Ok(line)) => self.lines.extend(line),
                    Some(Err(error)) => self.report(&format!("{}: {error}", job.name()))?,
                    None => self.report(&format!("{}: does not answer", job.name()))?,
                }
                self.progress.step();
            }
            Item::Unreadable(Unreadable { path, error }) => {
                self.tally.lock().failed += 1;
                self.report(&format!("{}: {error}", path.display()))?;
            }
            Item::Stopped { before } => {
                self.tally.lock().cut_short = true;
                let why = self.run.error().map_or("stopped".to_owned(), |error| error.to_string());
                self.report(&format!("{why}: {before} and what comes after it was not begun"))?;
            }
        }
        Ok(())
    }

    /// Says something on standard error, at its place among the lines.
    fn report(&mut self, message: &str) -> io::Result<()> {
        self.flush()?;
        self.progress.say(message);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        let written = if out.is_terminal() {
            self.progress.aside(|| out.write_all(&self.lines))
        } else {
            out.write_all(&self.lines)
        };
        self.lines.clear();
        written.and_then(|()| out.flush())
    }
}
