//! What was done, what was not, and how long it took.

use std::fmt;
use std::time::Duration;

use indicatif::{BinaryBytes, HumanCount};
use workpath::{JobRecord, JobState};

/// The outcomes so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) files: u64,
    pub(crate) failed: u64,
    /// Begun or queued when the run ended, and not finished.
    pub(crate) cancelled: u64,
    /// The walk did not get to its end.
    pub(crate) cut_short: bool,
    queued: Times,
    ran: Times,
}

impl Tally {
    /// Whether every file was tried.
    pub(crate) fn is_whole(&self) -> bool {
        self.cancelled == 0 && !self.cut_short
    }

    /// Takes note of a job, by its record if it has come to one.
    pub(crate) fn count(&mut self, record: Option<&JobRecord>) {
        match record.map(JobRecord::state) {
            Some(JobState::Completed) => self.files += 1,
            Some(JobState::Cancelled | JobState::TimedOut) | None => self.cancelled += 1,
            Some(_) => self.failed += 1,
        }
        let Some(record) = record else { return };
        self.queued.add(record.queue_time());
        if record.started_at().is_some() {
            self.ran.add(record.run_time());
        }
    }
}

#[derive(Debug, Default)]
struct Times {
    count: u32,
    total: Duration,
    longest: Duration,
}

impl Times {
    fn add(&mut self, time: Duration) {
        self.count += 1;
        self.total += time;
        self.longest = self.longest.max(time);
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mean = self.total.checked_div(self.count).unwrap_or_default();
        write!(f, "{mean:.1?} on average, {:.1?} at most", self.longest)
    }
}

/// The last words of a run.
#[derive(Debug)]
pub(crate) struct Summary<'a> {
    pub(crate) tally: &'a Tally,
    pub(crate) bytes: u64,
    pub(crate) elapsed: Duration,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { tally, bytes, elapsed } = self;
        let rate = *bytes as f64 / elapsed.as_secs_f64().max(1e-9);
        let [files, failed, cancelled] = [tally.files, tally.failed, tally.cancelled].map(HumanCount);
        writeln!(f, "files: {files} done, {failed} failed, {cancelled} cancelled")?;
        writeln!(f, "bytes: {} in {elapsed:.2?}, {}/s", BinaryBytes(*bytes), BinaryBytes(rate as u64))?;
        writeln!(f, "queue time: {}", tally.queued)?;
        write!(f, "run time: {}", tally.ran)
    }
}
