//! What few jobs have, so that the others need not carry it.

use std::time::Duration;

use crate::clock::Tick;
use crate::context::Listening;
use crate::notes::Noted;
use crate::priority::{Level, Priority};
use crate::sync::Arc;

/// The options of a job beyond its operation and its context. A job without any has no `Extras` at all.
#[derive(Default)]
pub(crate) struct Extras {
    pub(crate) priority: Priority,
    /// Not to be started before.
    pub(crate) when: Option<When>,
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
}

impl Extras {
    pub(crate) fn level(&self) -> Level {
        Level::new(self.priority, self.key.is_some())
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum When {
    /// So long after its submission.
    After(Duration),
    At(Tick),
}

/// A key in the agenda: when there is something to do for a job, and its number among those of the same tick.
pub(crate) type Place = (Tick, u64);
