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
        Retention { last: count, max_age: Duration::MAX, max_bytes: usize::MAX }
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

    /// Keeps payloads and the texts of [checkpoints](crate::Context::checkpoint) of this many bytes altogether; names
    /// and errors do not count. A payload that is larger on its own is not kept at all, and neither is its record; its
    /// handle has both all the same.
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

/// The records of finished jobs, newest last.
///
/// A look-up by id takes constant time, but for what it adds to the index first: the records that were filed since the last
/// look-up. Without look-ups there is no index. Workers that finish a job wait while somebody looks.
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
    submissions: Padded<Submissions>,
    shelf: Padded<Mutex<Shelf>>,
}

/// Written by submitters only, so that they share no cache line with the workers.
#[derive(Default)]
struct Submissions {
    /// Raised before a job enters the queue: whoever waits for all jobs must not miss one that is finished before its
    /// submission returns.
    begun: AtomicU64,
    /// Raised when it is certain that the job stays in: numbers that are shown never go down.
    accepted: AtomicU64,
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

/// What every finished job touches comes first.
#[derive(Default)]
#[repr(C)]
struct Shelf {
    counts: Counts,
    /// How many places are no gaps.
    len: usize,
    /// The payload bytes of all places.
    bytes: usize,
    /// Submissions that were begun and not accepted.
    refused: u64,
    /// Oldest first. Removed records leave a gap, so that places keep their numbers; the first place is never a gap.
    places: VecDeque<Place>,
    /// The number of the first place.
    first: u64,
    /// Threads that wait for the delegator to be idle.
    idlers: Vec<Thread>,
    /// Numbers of places by id, for the places before `indexed`. May know ids that are gone.
    index: HashMap<JobId, u64>,
    indexed: u64,
}

struct Place {
    task: Option<Arc<Task>>,
    size: Size,
}

/// What is to be known of a record without touching it, which nobody may have done for a while: in one word, since there is
/// one for each record.
#[derive(Clone, Copy)]
struct Size(usize);

impl Size {
    fn new(bytes: usize, completed: bool) -> Size {
        // A payload has at most `isize::MAX` bytes.
        Size(bytes << 1 | usize::from(completed && bytes <= PLAIN_BYTES))
    }

    fn bytes(self) -> usize {
        self.0 >> 1
    }

    /// See [`Evicted::plain`].
    fn is_plain(self) -> bool {
        self.0 & 1 == 1
    }
}

/// The largest payload that may live a little longer than its record.
const PLAIN_BYTES: usize = 256;

/// What a filed job pushed out.
#[derive(Default)]
pub(crate) struct Evicted {
    /// A record with a small payload and no error: nothing that its user would notice being dropped late.
    pub(crate) plain: Option<Arc<Task>>,
    pub(crate) rest: Vec<Arc<Task>>,
}

impl Evicted {
    fn push(&mut self, task: Arc<Task>, plain: bool) {
        if plain && self.plain.is_none() {
            self.plain = Some(task);
        } else {
            self.rest.push(task);
        }
    }

    /// Drops all of it, with care: it may hold the last reference to a user's error.
    pub(crate) fn discard(self) {
        if self.plain.is_some() || !self.rest.is_empty() {
            self.discard_slow();
        }
    }

    #[cold]
    fn discard_slow(self) {
        for task in self.plain.into_iter().chain(self.rest) {
            discard("an evicted record", task);
        }
    }
}

impl Registry {
    pub(crate) fn new(retention: Retention) -> Registry {
        Registry { retention, submissions: Padded::default(), shelf: Padded::default() }
    }

    /// A job is about to enter the queue. Either of the next two follows.
    pub(crate) fn begin_submission(&self) {
        self.begin_submissions(1);
    }

    pub(crate) fn begin_submissions(&self, jobs: u64) {
        self.submissions.begun.fetch_add(jobs, Ordering::Relaxed);
    }

    /// The job is in for good.
    pub(crate) fn accept_submission(&self) {
        self.accept_submissions(1);
    }

    pub(crate) fn accept_submissions(&self, jobs: u64) {
        self.submissions.accepted.fetch_add(jobs, Ordering::Relaxed);
    }

    /// The job did not get in.
    pub(crate) fn refuse_submission(&self) {
        self.refuse_submissions(1);
    }

    pub(crate) fn refuse_submissions(&self, jobs: u64) {
        let mut shelf = self.shelf.lock();
        shelf.refused += jobs;
        // It may be what `wait_idle` waits for.
        let idlers = self.idlers_to_wake(&mut shelf);
        drop(shelf);
        idlers.into_iter().flatten().for_each(|thread| thread.unpark());
    }

    /// How many jobs were accepted.
    pub(crate) fn accepted(&self) -> u64 {
        self.submissions.accepted.load(Ordering::Relaxed)
    }

    /// How many jobs were accepted, and how those that are finished ended.
    pub(crate) fn accounts(&self) -> (u64, Counts) {
        let counts = self.shelf.lock().counts;
        (self.submissions.accepted.load(Ordering::Relaxed).max(counts.finished()), counts)
    }

    fn is_idle(&self, shelf: &Shelf) -> bool {
        shelf.counts.finished() + shelf.refused >= self.submissions.begun.load(Ordering::Relaxed)
    }

    /// Counts a job whose outcome is settled, keeps its record, and makes the job finished.
    pub(crate) fn file(&self, task: Arc<Task>) -> Evicted {
        let mut evicted = Evicted::default();
        let Some(outcome) = task.outcome() else { return evicted };
        let (state, completed) = (task.ended(), outcome.completed);
        let bytes = outcome.result.as_ref().map_or(0, Vec::len) + task.noted_bytes();
        let size = Size::new(bytes, state == JobState::Completed && !task.was_retried());
        let keep = self.retention.last > 0 && bytes <= self.retention.max_bytes;

        let mut shelf = self.shelf.lock();
        let count = match state {
            JobState::Completed => &mut shelf.counts.completed,
            JobState::Panicked => &mut shelf.counts.panicked,
            JobState::Cancelled => &mut shelf.counts.cancelled,
            JobState::TimedOut => &mut shelf.counts.timed_out,
            _ => &mut shelf.counts.failed,
        };
        *count += 1;
        // Whoever sees the job finished and asks for its record waits for this lock.
        let waited = task.publish().then(|| Arc::clone(&task));
        let mut unkept = None;
        if keep {
            while shelf.len >= self.retention.last || shelf.bytes > self.retention.max_bytes - bytes {
                shelf.pop_first(&mut evicted);
            }
            shelf.push(Place { task: Some(task), size });
            shelf.expire(self.expiry(completed), &mut evicted);
        } else {
            unkept = Some(task);
        }
        let idlers = self.idlers_to_wake(&mut shelf);
        drop(shelf);

        if let Some(task) = waited {
            task.wake();
            // The record may be gone already, and with it every other reference.
            discard("a finished job", task);
        }
        idlers.into_iter().flatten().for_each(|thread| thread.unpark());
        if let Some(task) = unkept {
            discard("a record that is not kept", task);
        }
        evicted
    }

    /// Those who wait for nothing to be queued or running, if that is so.
    fn idlers_to_wake(&self, shelf: &mut Shelf) -> Option<Vec<Thread>> {
        if shelf.idlers.is_empty() || !self.is_idle(shelf) {
            return None;
        }
        Some(std::mem::take(&mut shelf.idlers))
    }

    /// Waits until every accepted job is finished; `false` if `until` comes first.
    pub(crate) fn wait_idle(&self, until: Tick, park: impl Fn(Tick)) -> bool {
        let me = sync::current();
        loop {
            let mut shelf = self.shelf.lock();
            shelf.idlers.retain(|thread| thread.id() != me.id());
            if self.is_idle(&shelf) {
                return true;
            }
            if until != Tick::NEVER && until <= Tick::now() {
                return false;
            }
            shelf.idlers.push(me.clone());
            drop(shelf);
            park(until);
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
        expired.discard();
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

    /// All records, in the order in which the jobs were finished. Copies nothing but references, and no worker can finish a
    /// job meanwhile.
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

impl Place {
    fn completed(&self) -> Tick {
        let outcome = self.task.as_ref().and_then(|task| task.outcome());
        outcome.map_or(Tick::NEVER, |outcome| outcome.completed)
    }
}

impl Drop for Registry {
    /// One by one: an error whose drop panics takes none of the others with it.
    fn drop(&mut self) {
        self.clear();
    }
}

impl Shelf {
    fn push(&mut self, place: Place) {
        self.len += 1;
        self.bytes += place.size.bytes();
        self.places.push_back(place);
    }

    fn pop_first(&mut self, evicted: &mut Evicted) {
        let Some(place) = self.places.pop_front() else {
            return;
        };
        self.first += 1;
        self.bytes -= place.size.bytes();
        if let Some(task) = place.task {
            self.len -= 1;
            evicted.push(task, place.size.is_plain());
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
        while self.places.front().is_some_and(|place| place.completed() <= expiry) {
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
        self.places.get(place)?.task.as_ref().filter(|task| task.id == id)?;
        Some(place)
    }

    fn take(&mut self, place: usize) -> Option<Arc<Task>> {
        let place = self.places.get_mut(place)?;
        let task = place.task.take()?;
        self.bytes -= std::mem::replace(&mut place.size, Size(0)).bytes();
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
