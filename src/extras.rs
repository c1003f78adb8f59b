//! What few jobs have, so that the others need not carry it.

use std::time::{Duration, Instant, SystemTime};

use crate::clock::{self, Tick};
use crate::context::Listening;
use crate::notes::Noted;
use crate::periodic::DueTick;
use crate::priority::{Level, Priority};
use crate::retry::{Retry, Tries};
use crate::sync::Arc;

/// The options of a job beyond its operation and its context. A job without any has no `Extras` at all.
#[derive(Default)]
pub(crate) struct Extras {
    pub(crate) priority: Priority,
    /// Not to be started before.
    pub(crate) when: Option<Start>,
    /// Where it is in the agenda, while it is scheduled.
    pub(crate) place: Option<Place>,
    /// Ends it when its context is cancelled while it is scheduled.
    pub(crate) listening: Option<Listening>,
    /// What its operation said at last, once it has returned.
    pub(crate) noted: Option<Noted>,
    /// Only so many jobs with the same key run at a time.
    pub(crate) key: Option<Arc<str>>,
    /// How many, if it is not for the delegator to say.
    pub(crate) key_limit: Option<usize>,
    pub(crate) retry: Option<Box<Retrying>>,
    pub(crate) tries: Tries,
    /// It is no job but a tick of a periodic one.
    pub(crate) tick: Option<DueTick>,
}

impl Extras {
    pub(crate) fn level(&self) -> Level {
        Level::new(self.priority, self.key.is_some())
    }

    /// Takes what belongs to the record of the job, and stays with it while the job runs and afterwards.
    pub(crate) fn split_tries(&mut self) -> Option<Box<Extras>> {
        if self.tries.is_empty() {
            return None;
        }
        Some(Box::new(Extras { tries: std::mem::take(&mut self.tries), ..Extras::default() }))
    }
}

/// A job that is tried again when it fails.
pub(crate) struct Retrying {
    pub(crate) policy: Retry,
    /// The context of the job has a scope of the job's own, for all attempts: what cancels the job cancels that, so a cancel
    /// that comes while one attempt gives way to the next is not lost.
    pub(crate) scoped: bool,
}

/// The earliest time at which a job may start: an [`Instant`], or a [`SystemTime`] of the wall clock. See
/// [`Job::not_before`](crate::Job::not_before).
///
/// # Examples
///
/// ```
/// use std::time::{Instant, SystemTime};
/// use workpath::When;
///
/// let by_either_clock = [When::from(Instant::now()), When::from(SystemTime::now())];
/// # let _ = by_either_clock;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct When(pub(crate) Start);

impl From<Instant> for When {
    fn from(instant: Instant) -> When {
        When(Start::At(Tick::from(instant)))
    }
}

impl From<SystemTime> for When {
    fn from(time: SystemTime) -> When {
        When(Start::Wall(clock::unix_nanos(time)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// So long after its submission.
    After(Duration),
    At(Tick),
    /// By the wall clock: nanoseconds since 1970.
    Wall(u64),
}

/// Where a job is in the agenda.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// When there is something to do for it; if it waits for the wall clock, at the latest.
    pub(crate) due: Tick,
    pub(crate) wall: Option<u64>,
    /// Among those of the same time.
    pub(crate) number: u64,
}
