//! Jobs that are tried again: the policy, the budget, and what is kept of each attempt.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::clock::{Tick, WallOffset};
use crate::error::Error;
use crate::id::JobId;
use crate::panics::{contain, log};
use crate::random;
use crate::sync::{Arc, Mutex};

/// How many attempts a policy allows that does not say.
const MAX_ATTEMPTS: u32 = 5;

/// How many attempts of a job are kept.
const KEPT: usize = 32;

/// When a job that failed is tried again: see [`Job::with_retry`](crate::Job::with_retry).
///
/// A policy allows five attempts altogether unless [`max_attempts`](Retry::max_attempts) says otherwise. Waits that are too
/// long to be told are as long as can be told.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use workpath::Retry;
///
/// let patient = Retry::exponential(Duration::from_millis(100)) // 100 ms, 200 ms, 400 ms, ...
///     .max_attempts(8)
///     .max_delay(Duration::from_secs(10))
///     .jitter()
///     .only_if(|error| !error.is_panic());
/// # let _ = patient;
/// ```
#[derive(Clone)]
#[must_use = "a policy does nothing until it is given to a job"]
pub struct Retry {
    growth: Growth,
    base: Duration,
    max_attempts: u32,
    max_delay: Duration,
    jitter: bool,
    only_if: Option<Arc<Predicate>>,
}

type Predicate = dyn Fn(&Error) -> bool + Send + Sync;

#[derive(Debug, Clone, Copy)]
enum Growth {
    Fixed,
    Linear,
    Exponential,
}

impl Retry {
    /// Waits this long before the second attempt, and twice as long before each that follows.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::{Delegator, Job, Retry};
    ///
    /// let delegator = Delegator::manual();
    /// let retry = Retry::exponential(Duration::from_secs(1)).max_attempts(4);
    /// let record = delegator.submit(Job::new("broken", |_| Err("no".into())).with_retry(retry))?.wait();
    /// assert_eq!(record.round_trip_time(), Duration::from_secs(1 + 2 + 4));
    /// # Ok::<(), workpath::SubmitError>(())
    /// ```
    pub const fn exponential(first: Duration) -> Retry {
        Retry::new(Growth::Exponential, first)
    }

    /// Waits this long before the second attempt, twice as long before the third, three times before the fourth.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::{Delegator, Job, Retry};
    ///
    /// let delegator = Delegator::manual();
    /// let retry = Retry::linear(Duration::from_secs(1)).max_attempts(4);
    /// let record = delegator.submit(Job::new("broken", |_| Err("no".into())).with_retry(retry))?.wait();
    /// assert_eq!(record.round_trip_time(), Duration::from_secs(1 + 2 + 3));
    /// # Ok::<(), workpath::SubmitError>(())
    /// ```
    pub const fn linear(first: Duration) -> Retry {
        Retry::new(Growth::Linear, first)
    }

    /// Waits this long before each attempt but the first.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::{Delegator, Job, Retry};
    ///
    /// let delegator = Delegator::manual();
    /// let retry = Retry::fixed(Duration::from_secs(1)).max_attempts(4);
    /// let record = delegator.submit(Job::new("broken", |_| Err("no".into())).with_retry(retry))?.wait();
    /// assert_eq!((record.attempts(), record.round_trip_time()), (4, Duration::from_secs(3)));
    /// # Ok::<(), workpath::SubmitError>(())
    /// ```
    pub const fn fixed(delay: Duration) -> Retry {
        Retry::new(Growth::Fixed, delay)
    }

    const fn new(growth: Growth, base: Duration) -> Retry {
        Retry {
            growth,
            base,
            max_attempts: MAX_ATTEMPTS,
            max_delay: Duration::MAX,
            jitter: false,
            only_if: None,
        }
    }

    /// How often the job is started altogether: one is no retry, and zero is the same as one. Five unless told otherwise.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::{Delegator, Job, Retry};
    ///
    /// let delegator = Delegator::manual();
    /// let never = Retry::fixed(Duration::ZERO).max_attempts(1);
    /// let record = delegator.submit(Job::new("broken", |_| Err("no".into())).with_retry(never))?.wait();
    /// assert_eq!(record.attempts(), 1);
    /// # Ok::<(), workpath::SubmitError>(())
    /// ```
    pub const fn max_attempts(mut self, attempts: u32) -> Retry {
        self.max_attempts = if attempts == 0 { 1 } else { attempts };
        self
    }

    /// Waits no longer than this between two attempts. A wait that the operation asked for, by
    /// [`Error::retry_after`](crate::Error::retry_after), may be longer.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::{Delegator, Job, Retry};
    ///
    /// let delegator = Delegator::manual();
    /// let retry = Retry::exponential(Duration::from_secs(1)).max_attempts(4).max_delay(Duration::from_secs(2));
    /// let record = delegator.submit(Job::new("broken", |_| Err("no".into())).with_retry(retry))?.wait();
    /// assert_eq!(record.round_trip_time(), Duration::from_secs(1 + 2 + 2));
    /// # Ok::<(), workpath::SubmitError>(())
    /// ```
    pub const fn max_delay(mut self, delay: Duration) -> Retry {
        self.max_delay = delay;
        self
    }

    /// Shortens each wait by chance, by up to a half, so that jobs which failed together do not come back together. A
    /// [manual](crate::Delegator::manual) delegator draws the same numbers every time, others for its
    /// [seed](crate::Manual::seeded).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::{Delegator, Job, Retry};
    ///
    /// let delegator = Delegator::manual();
    /// let retry = Retry::fixed(Duration::from_secs(10)).max_attempts(2).jitter();
    /// let record = delegator.submit(Job::new("broken", |_| Err("no".into())).with_retry(retry))?.wait();
    /// let waited = record.round_trip_time();
    /// assert!(Duration::from_secs(5) <= waited && waited <= Duration::from_secs(10));
    /// # Ok::<(), workpath::SubmitError>(())
    /// ```
    pub const fn jitter(mut self) -> Retry {
        self.jitter = true;
        self
    }

    /// Tries again only after errors that this says yes to. Panics are errors, too:
    /// [`Error::is_panic`](crate::Error::is_panic) tells. It is called on the worker, and not asked where the operation
    /// has decided by itself, with [`Error::permanent`](crate::Error::permanent) or
    /// [`Error::retry_after`](crate::Error::retry_after). A panic in it is logged and means no. A second call replaces
    /// the first.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io;
    /// use std::time::Duration;
    /// use workpath::{Error, Retry};
    ///
    /// fn is_transient(error: &Error) -> bool {
    ///     let io = error.get_ref().and_then(|error| error.downcast_ref::<io::Error>());
    ///     io.is_some_and(|io| io.kind() == io::ErrorKind::ConnectionReset)
    /// }
    ///
    /// let retry = Retry::fixed(Duration::from_secs(1)).only_if(is_transient);
    /// # let _ = retry;
    /// ```
    pub fn only_if(mut self, wanted: impl Fn(&Error) -> bool + Send + Sync + 'static) -> Retry {
        self.only_if = Some(Arc::new(wanted));
        self
    }

    /// How long to wait after this error of the attempt with this number, counted from one, or why there is no other.
    /// Calls user code.
    pub(crate) fn decide(&self, error: &Error, attempt: u32, random: u64) -> Result<Duration, GaveUp> {
        if error.is_permanent() {
            return Err(GaveUp::Permanent);
        }
        if attempt >= self.max_attempts {
            return Err(GaveUp::Attempts);
        }
        if let Some(delay) = error.retry_delay() {
            return Ok(delay);
        }
        if let Some(wanted) = &self.only_if {
            match contain(|| wanted(error)) {
                Ok(true) => {}
                Ok(false) => return Err(GaveUp::Unwanted),
                Err(panic) => {
                    log(log::Level::Error, format_args!("panic in a function given to only_if: {panic}"));
                    return Err(GaveUp::Unwanted);
                }
            }
        }
        let delay = self.delay(attempt);
        Ok(if self.jitter { shorten(delay, random) } else { delay })
    }

    fn delay(&self, attempt: u32) -> Duration {
        let factor = match self.growth {
            Growth::Fixed => 1,
            Growth::Linear => attempt,
            Growth::Exponential => 1_u32.checked_shl(attempt - 1).unwrap_or(u32::MAX),
        };
        self.base.saturating_mul(factor).min(self.max_delay)
    }
}

/// A time between a half of this and all of it.
fn shorten(delay: Duration, random: u64) -> Duration {
    let nanos = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
    let half = nanos / 2;
    Duration::from_nanos(nanos - random % (half + 1))
}

impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("growth", &self.growth)
            .field("base", &self.base)
            .field("max_attempts", &self.max_attempts)
            .field("max_delay", &self.max_delay)
            .field("jitter", &self.jitter)
            .field("only_if", &self.only_if.as_ref().map(|_| "<function>"))
            .finish()
    }
}

/// Why a job with a [`Retry`] was not tried again: see [`JobRecord::gave_up`](crate::JobRecord::gave_up).
///
/// # Examples
///
/// ```
/// use workpath::GaveUp;
///
/// assert_eq!(GaveUp::Budget.to_string(), "the retry budget is used up");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GaveUp {
    /// That was the last attempt it had.
    Attempts,
    /// The operation said that another would be of no use.
    Permanent,
    /// The function given to [`Retry::only_if`] said no.
    Unwanted,
    /// The wait would have been over only at the job's deadline or after it.
    Deadline,
    /// The delegator's [`RetryBudget`] was used up.
    Budget,
}

impl fmt::Display for GaveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            GaveUp::Attempts => "no attempts are left",
            GaveUp::Permanent => "the error is permanent",
            GaveUp::Unwanted => "not after this error",
            GaveUp::Deadline => "no time is left before the deadline",
            GaveUp::Budget => "the retry budget is used up",
        })
    }
}

/// An attempt of a job that was tried again: see [`JobRecord::earlier_attempts`](crate::JobRecord::earlier_attempts).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use workpath::{Delegator, Job, Retry};
///
/// let delegator = Delegator::manual();
/// let retry = Retry::fixed(Duration::from_secs(1)).max_attempts(2);
/// let record = delegator.submit(Job::new("broken", |_| Err("no disk".into())).with_retry(retry))?.wait();
/// for attempt in record.earlier_attempts() {
///     println!("attempt {} on worker {:?}: {}", attempt.number(), attempt.worker(), attempt.error());
/// }
/// # Ok::<(), workpath::SubmitError>(())
/// ```
#[derive(Clone)]
pub struct Attempt {
    pub(crate) number: u32,
    pub(crate) worker: Option<usize>,
    pub(crate) started: Tick,
    pub(crate) ended: Tick,
    pub(crate) wall: WallOffset,
    pub(crate) error: Error,
}

impl Attempt {
    /// Which attempt it was: the first is one.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Attempt;
    /// let is_first = |attempt: &Attempt| attempt.number() == 1;
    /// # let _ = is_first;
    /// ```
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The index of the worker that ran it; `None` if the submitter did
    /// ([`Overflow::CallerRuns`](crate::Overflow::CallerRuns)).
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Attempt;
    /// let same_worker = |one: &Attempt, other: &Attempt| one.worker() == other.worker();
    /// # let _ = same_worker;
    /// ```
    pub fn worker(&self) -> Option<usize> {
        self.worker
    }

    /// When the operation started, by the wall clock.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Attempt;
    /// let pause = |one: &Attempt, next: &Attempt| next.started_at().duration_since(one.ended_at());
    /// # let _ = pause;
    /// ```
    pub fn started_at(&self) -> SystemTime {
        self.wall.time(self.started)
    }

    /// When the operation returned, by the wall clock.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Attempt;
    /// let is_sound = |attempt: &Attempt| attempt.started_at() <= attempt.ended_at();
    /// # let _ = is_sound;
    /// ```
    pub fn ended_at(&self) -> SystemTime {
        self.wall.time(self.ended)
    }

    /// The time that the operation took.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use workpath::Attempt;
    /// let wasted = |attempts: &[Attempt]| attempts.iter().map(Attempt::run_time).sum::<Duration>();
    /// # let _ = wasted;
    /// ```
    pub fn run_time(&self) -> Duration {
        self.ended.since(self.started).unwrap_or_default()
    }

    /// What it failed with.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Attempt;
    /// let panicked = |attempt: &Attempt| attempt.error().is_panic();
    /// # let _ = panicked;
    /// ```
    pub fn error(&self) -> &Error {
        &self.error
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt")
            .field("number", &self.number)
            .field("worker", &self.worker)
            .field("run_time", &self.run_time())
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

/// What is kept of a job that was tried again, or was to be.
#[derive(Clone, Default)]
pub(crate) struct Tries {
    /// The last of those that failed, oldest first.
    kept: Vec<Attempt>,
    /// How many failed and were, or are, followed by another.
    pub(crate) earlier: u32,
    pub(crate) gave_up: Option<GaveUp>,
}

impl Tries {
    pub(crate) fn is_empty(&self) -> bool {
        self.earlier == 0 && self.gave_up.is_none()
    }

    /// Adds an attempt, and gives back what there is no room for.
    #[must_use = "it holds an error of the user's"]
    pub(crate) fn push(&mut self, attempt: Attempt) -> Option<Attempt> {
        let forgotten = (self.kept.len() == KEPT).then(|| self.kept.remove(0));
        self.kept.push(attempt);
        self.earlier = self.earlier.saturating_add(1);
        forgotten
    }

    pub(crate) fn into_kept(self) -> Vec<Attempt> {
        self.kept
    }
}

/// How much a delegator retries at the most, whatever its jobs' policies say: see
/// [`Builder::retry_budget`](crate::Builder::retry_budget).
///
/// Where a service is down, retries multiply the load on it. So they are paid for from a budget: each job that is submitted
/// pays a share of a retry in, each second pays some more, and each retry takes one out. What is not used is forgotten
/// within about ten seconds. A new delegator has what ten seconds pay in. The default is a fifth of a retry per job, and ten
/// a second.
///
/// # Examples
///
/// ```
/// use workpath::{Delegator, RetryBudget};
///
/// // One retry for ten jobs, and one a second for those that have few jobs.
/// let delegator = Delegator::builder().retry_budget(RetryBudget::new(0.1, 1)).build()?;
/// # Ok::<(), workpath::BuildError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[must_use = "a budget does nothing until it is given to a builder"]
pub struct RetryBudget {
    per_job: f64,
    /// `None` without a limit.
    per_second: Option<u32>,
}

impl RetryBudget {
    /// So many retries per job that is submitted, and so many per second beside. What is no number, or below zero, counts as
    /// zero. Twice zero is no retries at all.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::RetryBudget;
    /// assert_eq!(RetryBudget::new(0.2, 10), RetryBudget::default());
    /// assert_eq!(RetryBudget::new(f64::NAN, 0), RetryBudget::new(0.0, 0));
    /// ```
    pub fn new(per_job: f64, per_second: u32) -> RetryBudget {
        // What is not a number is not the greater one.
        RetryBudget { per_job: per_job.max(0.0), per_second: Some(per_second) }
    }

    /// No limit.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::RetryBudget;
    /// assert_ne!(RetryBudget::unlimited(), RetryBudget::default());
    /// ```
    pub const fn unlimited() -> RetryBudget {
        RetryBudget { per_job: 0.0, per_second: None }
    }
}

impl Default for RetryBudget {
    /// A fifth of a retry per job, and ten a second.
    fn default() -> RetryBudget {
        RetryBudget::new(0.2, 10)
    }
}

/// How long what was paid in lasts.
const MEMORY: Duration = Duration::from_secs(10);

/// Ten tenths of a retry are one.
const ROUNDING: f64 = 1e-6;

/// The retries of a delegator.
pub(crate) struct Retries {
    budget: RetryBudget,
    purse: Mutex<Purse>,
}

struct Purse {
    left: f64,
    /// The last look, and how many jobs had been submitted then.
    looked: (Tick, u64),
    retried: u64,
    /// The state of the generator for jitter, where that is not to depend on ids.
    random: Option<u64>,
}

impl Retries {
    pub(crate) fn new(budget: RetryBudget, now: Tick) -> Retries {
        let left = f64::from(budget.per_second.unwrap_or(0)) * MEMORY.as_secs_f64();
        Retries { budget, purse: Mutex::new(Purse { left, looked: (now, 0), retried: 0, random: None }) }
    }

    pub(crate) fn seed(&self, seed: u64) {
        self.purse.lock().random = Some(seed);
    }

    /// A number by chance for this attempt of this job.
    pub(crate) fn random(&self, id: JobId, attempt: u32) -> u64 {
        match &mut self.purse.lock().random {
            Some(state) => random::next(state),
            None => random::mix(id.low_bits() ^ u64::from(attempt)),
        }
    }

    /// Pays for a retry, after so many submissions. `false` if it cannot.
    pub(crate) fn spend(&self, now: Tick, submitted: u64) -> bool {
        let mut purse = self.purse.lock();
        if let Some(per_second) = self.budget.per_second {
            purse.look(now, submitted, self.budget.per_job, f64::from(per_second));
            if purse.left < 1.0 - ROUNDING {
                return false;
            }
            purse.left -= 1.0;
        }
        purse.retried += 1;
        true
    }

    /// Takes a [`spend`](Retries::spend) back.
    pub(crate) fn refund(&self) {
        let mut purse = self.purse.lock();
        purse.left += 1.0;
        purse.retried -= 1;
    }

    pub(crate) fn count(&self) -> u64 {
        self.purse.lock().retried
    }
}

impl Purse {
    fn look(&mut self, now: Tick, submitted: u64, per_job: f64, per_second: f64) {
        let (at, before) = self.looked;
        let memory = MEMORY.as_secs_f64();
        let passed = now.since(at).unwrap_or_default().as_secs_f64();
        let span = passed.min(memory);
        #[allow(clippy::cast_precision_loss, reason = "nobody submits so many between two retries")]
        let jobs = submitted.saturating_sub(before) as f64;
        // Of the jobs since the last look those of the last seconds count: they are taken to have come evenly.
        let recent = if passed > memory { jobs * memory / passed } else { jobs };
        self.left = self.left * (1.0 - span / memory) + recent * per_job + span * per_second;
        self.looked = (now, submitted);
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_as_they_are_told_and_never_overflow() {
        let second = Duration::from_secs(1);
        let waits = |retry: Retry| [1, 2, 3, 4].map(|attempt| retry.delay(attempt).as_secs());
        assert_eq!(waits(Retry::fixed(second)), [1, 1, 1, 1]);
        assert_eq!(waits(Retry::linear(second)), [1, 2, 3, 4]);
        assert_eq!(waits(Retry::exponential(second)), [1, 2, 4, 8]);
        assert_eq!(waits(Retry::exponential(second).max_delay(3 * second)), [1, 2, 3, 3]);
        assert_eq!(Retry::exponential(Duration::MAX).delay(u32::MAX), Duration::MAX);
        assert_eq!(Retry::exponential(Duration::ZERO).delay(u32::MAX), Duration::ZERO);
    }

    #[test]
    fn a_shortened_wait_is_between_a_half_and_the_whole() {
        for random in [0, 1, 2, u64::MAX / 2, u64::MAX] {
            for nanos in [0, 1, 2, 1000, u64::MAX] {
                let delay = Duration::from_nanos(nanos);
                let short = shorten(delay, random);
                assert!(delay / 2 <= short && short <= delay, "{short:?} of {delay:?}");
            }
        }
    }

    #[test]
    fn jobs_and_attempts_have_numbers_of_their_own() {
        let retries = Retries::new(RetryBudget::unlimited(), Tick::now());
        let ids: Vec<JobId> = std::iter::repeat_with(|| JobId::next(1_900_000_000_000)).take(50).collect();
        let different = |numbers: &mut dyn Iterator<Item = u64>| {
            let numbers: Vec<u64> = numbers.collect();
            numbers.iter().collect::<std::collections::HashSet<_>>().len() == numbers.len()
        };
        assert!(different(&mut ids.iter().map(|id| retries.random(*id, 1))));
        assert!(ids.iter().all(|id| different(&mut (1..20).map(|attempt| retries.random(*id, attempt)))));
    }

    #[test]
    fn a_budget_is_paid_in_by_time_and_by_jobs_and_forgets() {
        let start = Tick::now();
        let at = |seconds| start.after(Duration::from_secs(seconds));
        let spend = |retries: &Retries, now, submitted| {
            std::iter::repeat_with(|| retries.spend(now, submitted))
                .take(100_000)
                .take_while(|paid| *paid)
                .count()
        };

        let retries = |budget| Retries::new(budget, start);
        let by_time = retries(RetryBudget::new(0.0, 2));
        assert_eq!(spend(&by_time, at(0), 1_000_000), 20, "what ten seconds pay in");
        assert_eq!(spend(&by_time, at(1), 1_000_000), 2);
        assert_eq!(spend(&by_time, at(1000), 1_000_000), 20, "no more, however long it waits");

        let by_jobs = retries(RetryBudget::new(0.5, 0));
        assert_eq!(spend(&by_jobs, at(0), 10), 5);
        assert_eq!(spend(&by_jobs, at(0), 10), 0);
        assert_eq!(spend(&by_jobs, at(1), 100), 45);
        assert_eq!(spend(&by_jobs, at(101), 1100), 50, "a tenth of the jobs are of the last ten seconds");
        assert!(!by_jobs.spend(at(101), 1101), "half a retry");
        assert!(by_jobs.spend(at(101), 1102));
        assert_eq!(by_jobs.count(), 101);

        let unspent = retries(RetryBudget::new(0.0, 2));
        assert_eq!(spend(&unspent, at(5), 0), 20, "half is forgotten, and half is paid in");

        let refunded = retries(RetryBudget::new(0.0, 1));
        assert_eq!(spend(&refunded, at(0), 0), 10);
        refunded.refund();
        assert_eq!(refunded.count(), 9);
        assert_eq!((spend(&refunded, at(0), 0), refunded.count()), (1, 10));

        let none = retries(RetryBudget::new(0.0, 0));
        assert_eq!(spend(&none, at(1000), 1_000_000), 0);
        assert_eq!(spend(&retries(RetryBudget::unlimited()), at(0), 0), 100_000);
    }
}
