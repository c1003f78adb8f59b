//! How urgent a job is.

use std::fmt;

/// Which of the jobs that wait is to start first; see [`Job::with_priority`](crate::Job::with_priority).
///
/// # Examples
///
/// ```
/// use workpath::Priority;
///
/// assert!(Priority::High > Priority::Normal);
/// assert_eq!(Priority::default(), Priority::Normal);
/// assert_eq!(Priority::Low.to_string(), "low");
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// After the others.
    Low,
    /// What a job has unless it is told otherwise.
    #[default]
    Normal,
    /// Before the others.
    High,
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Priority::Low => "low",
            Priority::Normal => "normal",
            Priority::High => "high",
        })
    }
}

/// Where in the queue a job waits: by its priority, and by whether it has a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Low,
    /// The channel.
    Normal,
    High,
    KeyedLow,
    KeyedNormal,
    KeyedHigh,
}

impl Level {
    pub(crate) fn new(priority: Priority, keyed: bool) -> Level {
        match (priority, keyed) {
            (Priority::Low, false) => Level::Low,
            (Priority::Normal, false) => Level::Normal,
            (Priority::High, false) => Level::High,
            (Priority::Low, true) => Level::KeyedLow,
            (Priority::Normal, true) => Level::KeyedNormal,
            (Priority::High, true) => Level::KeyedHigh,
        }
    }

    pub(crate) fn is_keyed(self) -> bool {
        self as u8 >= Level::KeyedLow as u8
    }

    pub(crate) fn priority(self) -> Priority {
        match self {
            Level::Low | Level::KeyedLow => Priority::Low,
            Level::Normal | Level::KeyedNormal => Priority::Normal,
            Level::High | Level::KeyedHigh => Priority::High,
        }
    }
}
