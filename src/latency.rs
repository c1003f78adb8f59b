//! How long jobs wait and run, as distributions.
//!
//! A histogram has 16 buckets for each power of two, so a value is known to one part in 16. Each worker writes histograms of
//! its own, by plain loads and stores, and whoever reads adds them up: nobody shares a cache line with anybody until then.
//! Jobs that end without a worker go into one more set, under a lock.
//!
//! By name it is the same, with a set for each worker and name. Which names have room is decided under a lock, once for each
//! worker and name; a name without room is looked up there every time.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
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
    /// How many names have recorders of their own; `None` if nothing is to be recorded.
    names: Option<usize>,
    all: Mutex<Vec<Arc<Recorder>>>,
    named: Arc<Mutex<Named>>,
    /// For jobs that no worker runs.
    elsewhere: Mutex<Option<Writer>>,
}

/// The recorders by name: those of each name, and those of all names for which there was no room.
struct Named {
    max: usize,
    names: HashMap<String, Vec<Arc<Recorder>>>,
    others: Vec<Arc<Recorder>>,
}

/// What one thread at a time records with.
pub(crate) struct Writer {
    all: Arc<Recorder>,
    /// Its own part of the recorders by name. No user code runs while it is borrowed.
    named: Option<RefCell<OwnNamed>>,
}

struct OwnNamed {
    shared: Arc<Mutex<Named>>,
    names: HashMap<String, Arc<Recorder>>,
    others: Option<Arc<Recorder>>,
}

impl Recorders {
    pub(crate) fn new(names: Option<usize>) -> Recorders {
        let named = Named { max: names.unwrap_or(0), names: HashMap::new(), others: Vec::new() };
        Recorders {
            names,
            all: Mutex::default(),
            named: Arc::new(Mutex::new(named)),
            elsewhere: Mutex::default(),
        }
    }

    /// What the calling thread records with, if times are to be recorded.
    pub(crate) fn join(&self) -> Option<Writer> {
        let names = self.names?;
        let all = Arc::new(Recorder::new());
        self.all.lock().push(Arc::clone(&all));
        let own = || OwnNamed { shared: Arc::clone(&self.named), names: HashMap::new(), others: None };
        Some(Writer { all, named: (names > 0).then(|| RefCell::new(own())) })
    }

    /// Records a job that no worker ran.
    pub(crate) fn record_elsewhere(&self, name: &str, created: Tick, started: Option<Tick>, completed: Tick) {
        if self.names.is_none() {
            return;
        }
        let mut elsewhere = self.elsewhere.lock();
        if elsewhere.is_none() {
            *elsewhere = self.join();
        }
        if let Some(writer) = &*elsewhere {
            writer.record(name, created, started, completed);
        }
    }

    pub(crate) fn read(&self) -> Latencies {
        Latencies::sum(&self.all.lock().clone())
    }

    pub(crate) fn read_named(&self) -> LatenciesByName {
        let (names, others) = {
            let named = self.named.lock();
            (named.names.clone(), named.others.clone())
        };
        LatenciesByName {
            names: names.into_iter().map(|(name, all)| (name, Latencies::sum(&all))).collect(),
            others: Latencies::sum(&others),
        }
    }
}

impl Writer {
    /// To be called by one thread at a time.
    pub(crate) fn record(&self, name: &str, created: Tick, started: Option<Tick>, completed: Tick) {
        self.all.record(created, started, completed);
        if let Some(named) = &self.named {
            named.borrow_mut().recorder(name).record(created, started, completed);
        }
    }
}

impl OwnNamed {
    fn recorder(&mut self, name: &str) -> &Recorder {
        if !self.names.contains_key(name) {
            let mut shared = self.shared.lock();
            let has_room = shared.names.len() < shared.max;
            if !has_room && !shared.names.contains_key(name) {
                return self.others.get_or_insert_with(|| {
                    let others = Arc::new(Recorder::new());
                    shared.others.push(Arc::clone(&others));
                    others
                });
            }
            let recorder = Arc::new(Recorder::new());
            shared.names.entry(name.to_owned()).or_default().push(Arc::clone(&recorder));
            drop(shared);
            self.names.insert(name.to_owned(), recorder);
        }
        &self.names[name]
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
    fn sum(recorders: &[Arc<Recorder>]) -> Latencies {
        let sum =
            |part: fn(&Recorder) -> &Histogram| Latency::sum(recorders.iter().map(|recorder| part(recorder)));
        Latencies {
            queue_time: sum(|recorder| &recorder.queue),
            run_time: sum(|recorder| &recorder.run),
            round_trip_time: sum(|recorder| &recorder.round_trip),
        }
    }

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

/// How long the finished jobs took, by their names; see
/// [`Delegator::latencies_by_name`](crate::Delegator::latencies_by_name).
///
/// # Examples
///
/// ```
/// use workpath::{Delegator, Job};
///
/// let delegator = Delegator::builder().workers(1).latencies_by_name(1).build()?;
/// for name in ["resize", "upload", "resize", "notify"] {
///     delegator.submit(Job::new(name, |_| Ok(Vec::new())))?.wait();
/// }
/// let by_name = delegator.latencies_by_name();
/// assert_eq!(by_name.names["resize"].run_time.count(), 2);
/// assert_eq!(by_name.others.run_time.count(), 2); // there was room for one name
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LatenciesByName {
    /// Those of the names that found room.
    pub names: BTreeMap<String, Latencies>,
    /// Those of all other names together.
    pub others: Latencies,
}

impl LatenciesByName {
    /// What has come on top since an earlier reading of the same delegator. Names of which nothing has are not in it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).latencies_by_name(10).build()?;
    /// delegator.submit(Job::new("before", |_| Ok(Vec::new())))?.wait();
    /// let earlier = delegator.latencies_by_name();
    /// delegator.submit(Job::new("after", |_| Ok(Vec::new())))?.wait();
    /// let since = delegator.latencies_by_name().since(&earlier);
    /// assert!(since.names.keys().eq(["after"]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn since(&self, earlier: &LatenciesByName) -> LatenciesByName {
        let since = |(name, latencies): (&String, &Latencies)| {
            let latencies =
                earlier.names.get(name).map_or_else(|| latencies.clone(), |before| latencies.since(before));
            (latencies.round_trip_time.count() > 0).then(|| (name.clone(), latencies))
        };
        LatenciesByName {
            names: self.names.iter().filter_map(since).collect(),
            others: self.others.since(&earlier.others),
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

    /// The buckets that are not empty, each as its longest time in nanoseconds and its count.
    #[cfg(feature = "serde")]
    pub(crate) fn tops_and_counts(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.buckets.iter().map(|(bucket, count)| (top_of(*bucket), *count))
    }

    #[cfg(feature = "serde")]
    pub(crate) fn of_tops_and_counts(max: u64, buckets: impl IntoIterator<Item = (u64, u64)>) -> Latency {
        let mut counts = BTreeMap::new();
        for (top, count) in buckets.into_iter().filter(|(_, count)| *count > 0) {
            let sum: &mut u64 = counts.entry(bucket_of(top)).or_default();
            *sum = sum.saturating_add(count);
        }
        Latency { max, buckets: counts.into_iter().collect() }
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
