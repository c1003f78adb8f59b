//! The identity of a job.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use uuid::{Builder, Uuid};

use crate::sync::Padded;
use std::sync::OnceLock;

/// How many bits of [`NEXT`] count within a millisecond.
const SEQUENCE_BITS: u32 = 22;

/// The identity of a job: a version-7 uuid.
///
/// Ids are in the order in which the jobs of this process were created: a later [`Job::new`](crate::Job::new) gives a
/// greater one, also when the wall clock is set back. No two jobs of a process share one. Processes are told apart by
/// the millisecond and by 52 random bits, which each draws once, from the source that seeds the standard library's hash
/// maps; making an id takes no system call. Only a process that was forked from another without an `exec` may have the
/// same bits.
///
/// # Examples
///
/// ```
/// use workpath::{Job, JobId};
///
/// let first = Job::new("first", |_| Ok(Vec::new())).id();
/// let second = Job::new("second", |_| Ok(Vec::new())).id();
/// assert!(first < second);
/// assert_eq!(first.to_string().parse::<JobId>(), Ok(first));
/// assert_eq!(uuid::Uuid::from(first).get_version_num(), 7);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(Uuid);

impl JobId {
    /// The next id, for a job created at this time.
    pub(crate) fn next(unix_millis: u64) -> JobId {
        /// Milliseconds since 1970 above a sequence number. It only ever grows, so ids do too: a sequence that runs over
        /// borrows from the next millisecond, and a wall clock that goes back is waited out.
        ///
        /// On cache lines of its own: every job writes it, and a neighbour that every worker reads would be slow.
        static NEXT: Padded<AtomicU64> = Padded(AtomicU64::new(0));

        let floor = unix_millis << SEQUENCE_BITS;
        let mut last = NEXT.load(Ordering::Relaxed);
        let ticket = loop {
            let ticket = floor.max(last + 1);
            match NEXT.compare_exchange_weak(last, ticket, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break ticket,
                Err(newer) => last = newer,
            }
        };
        let sequence = ticket & ((1 << SEQUENCE_BITS) - 1);
        // The uuid has room for 12 bits before its variant bits and 62 behind: 12 + 10 for the sequence, 52 for what tells
        // processes apart.
        let high = (sequence >> 10) as u16;
        let low = ((sequence & 0x3ff) << 52) | process_bits();
        let mut tail = [0; 10];
        tail[..2].copy_from_slice(&high.to_be_bytes());
        tail[2..].copy_from_slice(&low.to_be_bytes());
        JobId(Builder::from_unix_timestamp_millis(ticket >> SEQUENCE_BITS, &tail).into_uuid())
    }
}

impl JobId {
    /// Bits that differ between the ids of a process.
    pub(crate) fn low_bits(self) -> u64 {
        let bytes = self.0.as_u128();
        (bytes >> 64) as u64 ^ bytes as u64
    }
}

#[cfg(feature = "orders")]
impl JobId {
    /// The id that these bytes were taken from.
    pub(crate) fn from_bytes(bytes: [u8; 16]) -> JobId {
        JobId(Uuid::from_bytes(bytes))
    }
}

/// 52 random bits, drawn once.
fn process_bits() -> u64 {
    static BITS: OnceLock<u64> = OnceLock::new();
    *BITS.get_or_init(|| RandomState::new().hash_one(std::process::id()) >> 12)
}

impl From<JobId> for Uuid {
    fn from(id: JobId) -> Uuid {
        id.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobId({})", self.0)
    }
}

impl FromStr for JobId {
    type Err = ParseJobIdError;

    fn from_str(text: &str) -> Result<JobId, ParseJobIdError> {
        match Uuid::parse_str(text) {
            Ok(uuid) => Ok(JobId(uuid)),
            Err(source) => {
                let text = text.chars().take(ParseJobIdError::SHOWN).collect();
                Err(ParseJobIdError { text, source })
            }
        }
    }
}

/// Why a text is not a [`JobId`].
///
/// # Examples
///
/// ```
/// use workpath::JobId;
///
/// let error = "job 7".parse::<JobId>().unwrap_err();
/// assert!(error.to_string().contains("job 7"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseJobIdError {
    text: String,
    source: uuid::Error,
}

impl ParseJobIdError {
    /// How many characters of the text the message repeats.
    const SHOWN: usize = 64;
}

impl fmt::Display for ParseJobIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a job id: {}", self.text, self.source)
    }
}

impl std::error::Error for ParseJobIdError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_when_the_wall_clock_goes_back() {
        let now = 1_800_000_000_000;
        let ids = [now, now - 5_000, now, 0].map(JobId::next);
        assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    }

    #[test]
    fn ids_grow_when_a_millisecond_runs_out_of_numbers() {
        let start = JobId::next(1_900_000_000_000);
        let mut last = start;
        for _ in 0..(1_u32 << SEQUENCE_BITS) + 2 {
            let id = JobId::next(1_900_000_000_000);
            assert!(last < id);
            last = id;
        }
        assert_ne!(start.0.as_bytes()[..6], last.0.as_bytes()[..6]);
    }
}
