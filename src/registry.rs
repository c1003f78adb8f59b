//! The accounts of a delegator, and the records of its finished jobs.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::time::Duration;

use crate::clock::Tick;
use crate::id::JobId;
use crate::panics::discard;
use crate::record::JobRecord;
use crate::state::JobState;
use crate::sync::{self, Arc, AtomicU64, Mutex, Ordering, Padded, Thread};
use crate::task::Task;

/// How many records of finished jobs a [`Registry`] keeps: by count, by age and by payload bytes. The first limit reached
/// counts; what goes is always the oldest. Handles and records that somebody holds are not affected.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use workpath::{Delegator, Retention};
///
/// let delegator = Delegator::builder()
///     .retain(Retention::last(10_000).max_age(Duration::from_secs(600)).max_bytes(16 << 20))
///     .build()?;
/// # Ok::<(), workpath::BuildError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a retention does nothing until it is given to a builder"]
pub struct Retention {
    last: usize,
    max_age: Duration,
    max_bytes: usize,
}

impl Retention {
    /// Keeps nothing: jobs are counted, and known to their handles alone.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Delegator, Job, Retention};
    ///
    /// let delegator = Delegator::builder().workers(1).retain(Retention::none()).build()?;
    /// let handle = delegator.submit(Job::new("work", |_| Ok(Vec::new())))?;
    /// handle.wait();
    /// assert!(delegator.registry().is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn none() -> Retention {
        Retention::last(0)
    }

    /// Keeps this many of the last finished jobs. The default is 1,024.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Delegator, Job, Retention};
    ///
    /// let delegator = Delegator::builder().workers(1).retain(Retention::last(2)).build()?;
    /// for _ in 0..5 {
    ///     delegator.submit(Job::new("work", |_| Ok(Vec::new())))?.wait();
    /// }
    /// assert_eq!(delegator.registry().len(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn last(count: usize) -> Retention {
        Retention {
            last: count,
            max_age: Duration::MAX,
            max_bytes: usize::MAX,
        }
    }

    /// Keeps records for this long after their job was finished. Nobody watches the clock for it: old records go when a
    /// job is filed or the registry is asked.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::Retention;
    ///
    /// let an_hour = Retention::last(usize::MAX).max_age(Duration::from_secs(3600));
    /// assert_ne!(an_hour, Retention::last(usize::MAX));
    /// ```
    pub const fn max_age(mut self, age: Duration) -> Retention {
        self.max_age = age;
        self
    }

    /// Keeps payloads of this many bytes altogether. A payload that is larger on its own is not kept at all, and neither
    /// is its record; its handle has both all the same.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Delegator, Job, Retention};
    ///
    /// let retention = Retention::last(100).max_bytes(1024);
    /// let delegator = Delegator::builder().workers(1).retain(retention).build()?;
    /// let record = delegator.submit(Job::new("big", |_| Ok(vec![0; 2048])))?.wait();
    /// assert_eq!(record.payload().map(<[u8]>::len), Some(2048));
    /// assert!(delegator.registry().get(record.id()).is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn max_bytes(mut self, bytes: usize) -> Retention {
        self.max_bytes = bytes;
        self
    }
}

impl Default for Retention {
    /// The last 1,024.
    fn default() -> Retention {
        Retention::last(1024)
    }
}

/// The records of finished jobs, newest last. Look-ups by id take constant time: the index is built by those who look.
///
/// # Examples
///
/// ```
/// use workpath::{Delegator, Job};
///
/// let delegator = Delegator::builder().workers(1).build()?;
/// let handle = delegator.submit(Job::new("work", |_| Ok(vec![1])))?;
/// handle.wait(); // from here on the registry knows the job
/// let record = delegator.registry().get(handle.id()).expect("kept by default");
/// assert_eq!(record.payload(), Some(&[1][..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Registry {
    retention: Retention,
    /// How many jobs were accepted. Raised before a job enters the queue, taken back if it does not get in.
    submitted: Padded<AtomicU64>,
    shelf: Padded<Mutex<Shelf>>,
}

/// How many jobs ended how.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) panicked: u64,
    pub(crate) cancelled: u64,
    pub(crate) timed_out: u64,
}

impl Counts {
    pub(crate) fn finished(&self) -> u64 {
        self.completed + self.failed + self.panicked + self.cancelled + self.timed_out
    }
}

#[derive(Default)]
struct Shelf {
    counts: Counts,
    /// Oldest first. Removed records leave a gap, so that places keep their numbers; the first place is never a gap.
    places: VecDeque<Place>,
    /// The number of the first place.
    first: u64,
    /// How many places are no gaps.
    len: usize,
    /// The payload bytes of all places.
    bytes: usize,
    /// Numbers of places by id, for the places before `indexed`. May know ids that are gone.
    index: HashMap<JobId, u64>,
    indexed: u64,
    /// Threads that wait for the delegator to be idle.
    idlers: Vec<Thread>,
}

struct Place {
    task: Option<Arc<Task>>,
    bytes: usize,
    completed: Tick,
}

/// What a filed job pushed out. Usually one, which must not cost an allocation.
#[derive(Default)]
pub(crate) struct Evicted {
    pub(crate) first: Option<Arc<Task>>,
    pub(crate) rest: Vec<Arc<Task>>,
}

impl Evicted {
    fn push(&mut self, task: Arc<Task>) {
        if self.first.is_none() {
            self.first = Some(task);
        } else {
            self.rest.push(task);
        }
    }
}

impl Registry {
    pub(crate) fn new(retention: Retention) -> Registry {
        Registry {
            retention,
            submitted: Padded::default(),
            shelf: Padded::default(),
        }
    }

    /// Counts a job as submitted, before it can be seen by a worker.
    pub(crate) fn count_submitted(&self) {
        self.submitted.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes `count_submitted` back.
    pub(crate) fn count_refused(&self) {
        // Under the lock, since it may be what `wait_idle` waits for.
        let mut shelf = self.shelf.lock();
        self.submitted.fetch_sub(1, Ordering::Relaxed);
        let idlers = self.idle(&mut shelf);
        drop(shelf);
        idlers.into_iter().for_each(|thread| thread.unpark());
    }

    /// How many jobs were accepted, and how those that are finished ended.
    pub(crate) fn accounts(&self) -> (u64, Counts) {
        let shelf = self.shelf.lock();
        (self.submitted.load(Ordering::Relaxed), shelf.counts)
    }

    /// Counts a job whose outcome is settled and keeps its record. What comes back is to be dropped by the caller, with care:
    /// it may hold the last reference to a user's error.
    pub(crate) fn file(&self, task: &Arc<Task>) -> Evicted {
        let mut evicted = Evicted::default();
        let Some(outcome) = task.outcome() else {
            return evicted;
        };
        let bytes = outcome.result.as_ref().map_or(0, Vec::len);
        let keep = self.retention.last > 0 && bytes <= self.retention.max_bytes;
        let place = keep.then(|| Place {
            task: Some(Arc::clone(task)),
            bytes,
            completed: outcome.completed,
        });

        let mut shelf = self.shelf.lock();
        let count = match outcome.state {
            JobState::Completed => &mut shelf.counts.completed,
            JobState::Panicked => &mut shelf.counts.panicked,
            JobState::Cancelled => &mut shelf.counts.cancelled,
            JobState::TimedOut => &mut shelf.counts.timed_out,
            _ => &mut shelf.counts.failed,
        };
        *count += 1;
        if let Some(place) = place {
            while shelf.len >= self.retention.last || shelf.bytes > self.retention.max_bytes - bytes {
                shelf.pop_first(&mut evicted);
            }
            shelf.push(place);
            shelf.expire(self.expiry(outcome.completed), &mut evicted);
        }
        if !shelf.idlers.is_empty() {
            let idlers = self.idle(&mut shelf);
            drop(shelf);
            idlers.into_iter().for_each(|thread| thread.unpark());
        }
        evicted
    }

    /// Those to wake if nothing is queued or running.
    fn idle(&self, shelf: &mut Shelf) -> Vec<Thread> {
        if shelf.counts.finished() >= self.submitted.load(Ordering::Relaxed) {
            std::mem::take(&mut shelf.idlers)
        } else {
            Vec::new()
        }
    }

    /// Waits until every accepted job is finished; `false` if `until` comes first.
    pub(crate) fn wait_idle(&self, until: Tick) -> bool {
        let me = sync::current();
        loop {
            let mut shelf = self.shelf.lock();
            shelf.idlers.retain(|thread| thread.id() != me.id());
            if shelf.counts.finished() >= self.submitted.load(Ordering::Relaxed) {
                return true;
            }
            if until != Tick::NEVER && until <= Tick::now() {
                return false;
            }
            shelf.idlers.push(me.clone());
            drop(shelf);
            sync::park_until(until);
        }
    }

    /// Records completed at this tick or before have reached their age.
    fn expiry(&self, now: Tick) -> Option<Tick> {
        if self.retention.max_age == Duration::MAX {
            return None;
        }
        Some(now.before(self.retention.max_age))
    }

    /// Runs `f` on a shelf without expired records.
    fn with_shelf<T>(&self, f: impl FnOnce(&mut Shelf) -> T) -> T {
        let mut expired = Evicted::default();
        let expiry = self.expiry(Tick::now());
        let mut shelf = self.shelf.lock();
        shelf.expire(expiry, &mut expired);
        let result = f(&mut shelf);
        drop(shelf);
        if let Some(first) = expired.first {
            discard("an expired record", first);
        }
        expired
            .rest
            .into_iter()
            .for_each(|task| discard("an expired record", task));
        result
    }

    /// The record of a finished job. `None` if the job is unknown, not finished yet, evicted or removed.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let stranger = Job::new("never submitted", |_| Ok(Vec::new())).id();
    /// assert!(delegator.registry().get(stranger).is_none());
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn get(&self, id: JobId) -> Option<JobRecord> {
        self.with_shelf(|shelf| {
            let place = shelf.find(id)?;
            shelf.places[place].task.clone()
        })
        .and_then(JobRecord::of)
    }

    /// Takes the record of a finished job out. A second call finds nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let id = delegator.submit(Job::new("work", |_| Ok(Vec::new())))?.wait().id();
    /// assert!(delegator.registry().remove(id).is_some());
    /// assert!(delegator.registry().remove(id).is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn remove(&self, id: JobId) -> Option<JobRecord> {
        self.with_shelf(|shelf| {
            let place = shelf.find(id)?;
            shelf.take(place)
        })
        .and_then(JobRecord::of)
    }

    /// All records, in the order in which the jobs were finished.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// for name in ["first", "second"] {
    ///     delegator.submit(Job::new(name, |_| Ok(Vec::new())))?.wait();
    /// }
    /// let records = delegator.registry().records();
    /// assert_eq!(records[1].name(), "second");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn records(&self) -> Vec<JobRecord> {
        self.with_shelf(|shelf| {
            let tasks = shelf.places.iter().filter_map(|place| place.task.clone());
            tasks.filter_map(JobRecord::of).collect()
        })
    }

    /// How many records there are.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// delegator.submit(Job::new("work", |_| Ok(Vec::new())))?.wait();
    /// assert_eq!(delegator.registry().len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn len(&self) -> usize {
        self.with_shelf(|shelf| shelf.len)
    }

    /// Whether there are no records.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Delegator;
    /// let delegator = Delegator::builder().workers(1).build()?;
    /// assert!(delegator.registry().is_empty());
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops all records. The numbers in [`Stats`](crate::Stats) stay.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// delegator.submit(Job::new("work", |_| Ok(Vec::new())))?.wait();
    /// delegator.registry().clear();
    /// assert!(delegator.registry().is_empty());
    /// assert_eq!(delegator.stats().completed, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn clear(&self) {
        let places = {
            let mut shelf = self.shelf.lock();
            shelf.first += shelf.places.len() as u64;
            shelf.len = 0;
            shelf.bytes = 0;
            std::mem::take(&mut shelf.places)
        };
        for place in places {
            discard("a record", place.task);
        }
    }
}

impl Shelf {
    fn push(&mut self, place: Place) {
        self.len += 1;
        self.bytes += place.bytes;
        self.places.push_back(place);
    }

    fn pop_first(&mut self, evicted: &mut Evicted) {
        let Some(place) = self.places.pop_front() else {
            return;
        };
        self.first += 1;
        self.bytes -= place.bytes;
        if let Some(task) = place.task {
            self.len -= 1;
            evicted.push(task);
        }
        self.skip_gaps();
    }

    fn skip_gaps(&mut self) {
        while self.places.front().is_some_and(|place| place.task.is_none()) {
            self.places.pop_front();
            self.first += 1;
        }
    }

    fn expire(&mut self, expiry: Option<Tick>, evicted: &mut Evicted) {
        let Some(expiry) = expiry else { return };
        while self.places.front().is_some_and(|place| place.completed <= expiry) {
            self.pop_first(evicted);
        }
    }

    /// The position of the record, after the index has caught up.
    fn find(&mut self, id: JobId) -> Option<usize> {
        if self.index.len() > 64 + 2 * self.places.len() {
            // Mostly ids that are gone: start again.
            self.index.clear();
            self.indexed = 0;
        }
        let known = self.indexed.saturating_sub(self.first) as usize;
        for (place, number) in self.places.iter().zip(self.first..).skip(known) {
            if let Some(task) = &place.task {
                self.index.insert(task.id, number);
            }
        }
        self.indexed = self.first + self.places.len() as u64;

        let place = self.index.get(&id)?.checked_sub(self.first)?;
        let place = usize::try_from(place).ok()?;
        self.places
            .get(place)?
            .task
            .as_ref()
            .filter(|task| task.id == id)?;
        Some(place)
    }

    fn take(&mut self, place: usize) -> Option<Arc<Task>> {
        let place = self.places.get_mut(place)?;
        let task = place.task.take()?;
        self.bytes -= std::mem::take(&mut place.bytes);
        self.len -= 1;
        self.skip_gaps();
        if self.places.len() > 64 + 2 * self.len {
            // Mostly gaps: close them, under new numbers.
            self.first += self.places.len() as u64;
            self.places.retain(|place| place.task.is_some());
            self.index.clear();
        }
        Some(task)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Registry");
        debug.field("retention", &self.retention);
        match self.shelf.try_lock() {
            Some(shelf) => debug.field("len", &shelf.len).field("bytes", &shelf.bytes),
            None => debug.field("len", &"<locked>"),
        };
        debug.finish_non_exhaustive()
    }
}

impl std::panic::UnwindSafe for Registry {}
impl std::panic::RefUnwindSafe for Registry {}
