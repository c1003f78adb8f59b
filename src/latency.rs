//! How long jobs wait and run, as distributions.
//!
//! A histogram has 16 buckets for each power of two, so a value is known to one part in 16. Each worker writes histograms of
//! its own, by plain loads and stores, and whoever reads adds them up: nobody shares a cache line with anybody until then.
//! Jobs that end without a worker go into one more set, under a lock.

use std::fmt;
use std::time::Duration;

use crate::clock::Tick;
use crate::sync::{Arc, AtomicU64, Mutex, Ordering};

const SUB_BITS: u32 = 4;
const SUBS: u64 = 1 << SUB_BITS;

/// Longer times, from some three days on, count as this long.
const LONGEST: u64 = (1 << 48) - 1;

const BUCKETS: usize = bucket_of(LONGEST) + 1;

const fn bucket_of(nanos: u64) -> usize {
    let nanos = if nanos < LONGEST { nanos } else { LONGEST };
    let shift = (nanos | SUBS).ilog2() - SUB_BITS;
    // At most 720.
    (shift as u64 * SUBS + (nanos >> shift)) as usize
}

/// The longest time that goes into this bucket, in nanoseconds.
const fn top_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket / SUBS).saturating_sub(1);
    ((bucket - shift * SUBS + 1) << shift) - 1
}

/// Written by one thread at a time, read by any.
struct Histogram {
    max: AtomicU64,
    buckets: Box<[AtomicU64]>,
}

impl Histogram {
    fn new() -> Histogram {
        Histogram {
            max: AtomicU64::new(0),
            buckets: std::iter::repeat_with(|| AtomicU64::new(0)).take(BUCKETS).collect(),
        }
    }

    fn record(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        if nanos > self.max.load(Ordering::Relaxed) {
            self.max.store(nanos, Ordering::Relaxed);
        }
        if let Some(count) = self.buckets.get(bucket_of(nanos)) {
            count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }
}

/// What one writer has seen.
pub(crate) struct Recorder {
    queue: Histogram,
    run: Histogram,
    round_trip: Histogram,
}

impl Recorder {
    fn new() -> Recorder {
        Recorder { queue: Histogram::new(), run: Histogram::new(), round_trip: Histogram::new() }
    }

    /// To be called by one thread at a time.
    pub(crate) fn record(&self, created: Tick, started: Option<Tick>, completed: Tick) {
        let between = |from, to: Tick| to.since(from).unwrap_or_default();
        self.queue.record(between(created, started.unwrap_or(completed)));
        if let Some(started) = started {
            self.run.record(between(started, completed));
        }
        self.round_trip.record(between(created, completed));
    }
}

/// The recorders of a delegator.
pub(crate) struct Recorders {
    wanted: bool,
    all: Mutex<Vec<Arc<Recorder>>>,
    /// For jobs that no worker runs.
    elsewhere: Mutex<Option<Arc<Recorder>>>,
}

impl Recorders {
    pub(crate) fn new(wanted: bool) -> Recorders {
        Recorders { wanted, all: Mutex::default(), elsewhere: Mutex::default() }
    }

    /// A recorder for the calling thread, if times are to be recorded.
    pub(crate) fn join(&self) -> Option<Arc<Recorder>> {
        if !self.wanted {
            return None;
        }
        let recorder = Arc::new(Recorder::new());
        self.all.lock().push(Arc::clone(&recorder));
        Some(recorder)
    }

    /// Records a job that no worker ran.
    pub(crate) fn record_elsewhere(&self, created: Tick, started: Option<Tick>, completed: Tick) {
        if !self.wanted {
            return;
        }
        let mut elsewhere = self.elsewhere.lock();
        if elsewhere.is_none() {
            *elsewhere = self.join();
        }
        if let Some(recorder) = &*elsewhere {
            recorder.record(created, started, completed);
        }
    }

    pub(crate) fn read(&self) -> Latencies {
        let all = self.all.lock().clone();
        let sum = |part: fn(&Recorder) -> &Histogram| Latency::sum(all.iter().map(|recorder| part(recorder)));
        Latencies {
            queue_time: sum(|recorder| &recorder.queue),
            run_time: sum(|recorder| &recorder.run),
            round_trip_time: sum(|recorder| &recorder.round_trip),
        }
    }
}

/// How long the finished jobs of a delegator took; see [`Delegator::latencies`](crate::Delegator::latencies).
///
/// # Examples
///
/// ```
/// use workpath::{Delegator, Job};
///
/// let delegator = Delegator::builder().workers(1).latencies(true).build()?;
/// delegator.submit(Job::new("work", |_| Ok(Vec::new())))?.wait();
/// let latencies = delegator.latencies();
/// assert_eq!(latencies.run_time.count(), 1);
/// println!("waited {}", latencies.queue_time); // waited p50 4.2µs, p90 4.2µs, p99 4.2µs, max 4.2µs of 1
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Latencies {
    /// From creation to start, or to the end of a job that never started.
    pub queue_time: Latency,
    /// From start to end, of the jobs that started.
    pub run_time: Latency,
    /// From creation to end.
    pub round_trip_time: Latency,
}

impl Latencies {
    /// What has come on top since an earlier reading of the same delegator. Nothing is reset, so any number of observers
    /// can each have their own intervals.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).latencies(true).build()?;
    /// delegator.submit(Job::new("before", |_| Ok(Vec::new())))?.wait();
    /// let earlier = delegator.latencies();
    /// delegator.submit(Job::new("after", |_| Ok(Vec::new())))?.wait();
    /// assert_eq!(delegator.latencies().since(&earlier).run_time.count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn since(&self, earlier: &Latencies) -> Latencies {
        Latencies {
            queue_time: self.queue_time.since(&earlier.queue_time),
            run_time: self.run_time.since(&earlier.run_time),
            round_trip_time: self.round_trip_time.since(&earlier.round_trip_time),
        }
    }
}

/// A distribution of times. Quantiles are exact to one part in 16, and never too short.
///
/// `Display` gives the usual quantiles.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use workpath::Latency;
///
/// let nothing = Latency::default();
/// assert_eq!((nothing.count(), nothing.p99()), (0, Duration::ZERO));
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Latency {
    max: u64,
    /// The buckets that are not empty, shortest first, with their counts.
    buckets: Vec<(usize, u64)>,
}

impl Latency {
    fn sum<'a>(parts: impl Iterator<Item = &'a Histogram>) -> Latency {
        let mut max = 0;
        let mut counts = [0_u64; BUCKETS];
        for part in parts {
            max = part.max.load(Ordering::Relaxed).max(max);
            for (sum, count) in counts.iter_mut().zip(&part.buckets) {
                *sum = sum.saturating_add(count.load(Ordering::Relaxed));
            }
        }
        Latency { max, buckets: counts.into_iter().enumerate().filter(|(_, count)| *count > 0).collect() }
    }

    /// How many times there are.
    ///
    /// # Examples
    ///
    /// ```
    /// assert_eq!(workpath::Latency::default().count(), 0);
    /// ```
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum: u64, (_, count)| sum.saturating_add(*count))
    }

    /// The longest. Of an [interval](Latencies::since) it is exact if it is the longest ever, and at most one part in 16 too
    /// long if not. Zero if there are no times.
    ///
    /// # Examples
    ///
    /// ```
    /// assert!(workpath::Latency::default().max().is_zero());
    /// ```
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max)
    }

    /// The time that this part of all times does not exceed: 0.5 gives the median. What is not between 0 and 1 counts as the
    /// nearer of the two, and what is no number as 1. Zero if there are no times.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).latencies(true).build()?;
    /// delegator.submit(Job::new("work", |_| Ok(Vec::new())))?.wait();
    /// let run_time = delegator.latencies().run_time;
    /// assert_eq!(run_time.quantile(1.0), run_time.max());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn quantile(&self, part: f64) -> Duration {
        let part = if part.is_nan() { 1.0 } else { part.clamp(0.0, 1.0) };
        let count = self.count();
        // Casts of floats saturate.
        let rank = ((count as f64 * part).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0_u64;
        for (bucket, count) in &self.buckets {
            seen = seen.saturating_add(*count);
            if seen >= rank {
                return Duration::from_nanos(self.top(*bucket));
            }
        }
        self.max()
    }

    /// The median.
    ///
    /// # Examples
    ///
    /// ```
    /// assert!(workpath::Latency::default().p50().is_zero());
    /// ```
    pub fn p50(&self) -> Duration {
        self.quantile(0.5)
    }

    /// What 90 % do not exceed.
    ///
    /// # Examples
    ///
    /// ```
    /// assert!(workpath::Latency::default().p90().is_zero());
    /// ```
    pub fn p90(&self) -> Duration {
        self.quantile(0.9)
    }

    /// What 99 % do not exceed.
    ///
    /// # Examples
    ///
    /// ```
    /// assert!(workpath::Latency::default().p99().is_zero());
    /// ```
    pub fn p99(&self) -> Duration {
        self.quantile(0.99)
    }

    /// The last bucket has no end of its own.
    fn top(&self, bucket: usize) -> u64 {
        if bucket + 1 >= BUCKETS { self.max } else { top_of(bucket).min(self.max) }
    }

    fn since(&self, earlier: &Latency) -> Latency {
        let before = |bucket| {
            let found = earlier.buckets.binary_search_by_key(&bucket, |(bucket, _)| *bucket);
            found.map_or(0, |place| earlier.buckets[place].1)
        };
        let left =
            self.buckets.iter().map(|(bucket, count)| (*bucket, count.saturating_sub(before(*bucket))));
        let buckets: Vec<_> = left.filter(|(_, count)| *count > 0).collect();
        let max = match buckets.last() {
            None => 0,
            Some(_) if self.max > earlier.max => self.max,
            Some((bucket, _)) => self.top(*bucket),
        };
        Latency { max, buckets }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (p50, p90, p99, max) = (self.p50(), self.p90(), self.p99(), self.max());
        write!(f, "p50 {p50:.1?}, p90 {p90:.1?}, p99 {p99:.1?}, max {max:.1?} of {}", self.count())
    }
}

impl fmt::Debug for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Latency({self})")
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    fn of(times: impl IntoIterator<Item = u64>) -> Latency {
        let histogram = Histogram::new();
        times.into_iter().for_each(|nanos| histogram.record(Duration::from_nanos(nanos)));
        Latency::sum([&histogram].into_iter())
    }

    #[test]
    fn buckets_follow_each_other_without_gaps() {
        for bucket in 0..BUCKETS {
            assert_eq!(bucket_of(top_of(bucket)), bucket);
            assert_eq!(bucket_of(top_of(bucket) + 1), (bucket + 1).min(BUCKETS - 1));
        }
        assert_eq!(bucket_of(0), 0);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_at_most_one_part_in_sixteen_too_long() {
        let latency = of(1..=100_000);
        for (part, exact) in [(0.0, 1), (0.5, 50_000), (0.9, 90_000), (0.99, 99_000), (1.0, 100_000)] {
            let nanos = u64::try_from(latency.quantile(part).as_nanos()).unwrap();
            assert!((exact..=exact + exact / 16).contains(&nanos), "{part}: {nanos}");
        }
        assert_eq!(latency.max(), Duration::from_nanos(100_000));
        assert_eq!(latency.quantile(f64::NAN), latency.max());
        assert_eq!(latency.quantile(7.0), latency.max());
        assert_eq!(latency.quantile(-7.0), latency.quantile(0.0));
    }

    #[test]
    fn what_is_too_long_for_the_buckets_is_not_lost() {
        let latency = of([1, u64::MAX]);
        assert_eq!((latency.count(), latency.p99()), (2, Duration::from_nanos(u64::MAX)));
    }

    #[test]
    fn an_interval_has_only_what_came_in_it() {
        let (earlier, later) = (of([10, 1_000_000]), of([10, 1_000_000, 500, 500]));
        let since = later.since(&earlier);
        assert_eq!(since.count(), 2);
        assert!((500..=532).contains(&since.max().as_nanos()), "{since}");
        assert_eq!(of([10, 7_000_000]).since(&of([10])).max(), Duration::from_nanos(7_000_000));
        assert_eq!(later.since(&later), Latency::default());
        assert_eq!(later.since(&Latency::default()), later);
    }
}
