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
