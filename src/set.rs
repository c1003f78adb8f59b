//! Jobs that belong together.
//!
//! A finished member puts its number into the set's inbox, so waiting for the next of many costs the same however many there
//! are. The set numbers its members in the order of their submission.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::panic::Location;
use std::time::Duration;

use crate::clock::Tick;
use crate::context::{Action, Context};
use crate::delegator::{Delegator, SubmitAllError, SubmitError, Submitter};
use crate::error::Error;
use crate::handle::JobHandle;
use crate::id::JobId;
use crate::inbox::Inbox;
use crate::job::Job;
use crate::provenance::{Cancel, Cause, Origin, cause_of};
use crate::record::JobRecord;
use crate::state::JobState;
use crate::sync::{self, Arc};
use crate::worker;

/// How many jobs of a [`JobSet::map`] are about at the least, and how many for each worker.
const WINDOW: usize = 64;
const WINDOW_PER_WORKER: usize = 4;

/// Jobs that belong together: wait for all of them, for the next, for the first that completes or fails.
///
/// A set is made by [`Delegator::job_set`] or [`Submitter::job_set`] and takes part in nothing else: its members are
/// jobs like any other. Records are collected in the order of submission ([`wait_all`](JobSet::wait_all)) or in that of
/// completion ([`next_finished`](JobSet::next_finished)), each once. A set that has been collected is empty and can be
/// used again. A panic counts as an error.
///
/// Dropping a set cancels the members that were not collected, without waiting for them; [`detach`](JobSet::detach)
/// lets them go on.
///
/// Inside a job of the same delegator, the methods that wait without a time limit run members that are still queued, on this
/// thread, as [`JobHandle::wait`] does.
///
/// A member costs one allocation and one lock more than a job by itself, and one that has a context or a deadline of its own
/// as much as [`JobHandle::done`] on top.
///
/// Members own what they work on: an operation outlives the call that submits it, and no safe function can promise that
/// somebody waits for it before a borrow ends. To borrow from the stack, use [`std::thread::scope`].
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use workpath::{Context, Delegator, Job};
///
/// let delegator = Delegator::builder().workers(2).build()?;
/// let ctx = Context::background().with_timeout(Duration::from_secs(60));
/// let mut set = delegator.job_set().with_context(&ctx);
/// for n in 1..=3_u8 {
///     set.submit(Job::new("square", move |_| Ok(vec![n * n])))?;
/// }
/// let squares: Vec<u8> = set.wait_all().iter().map(|record| record.payload().unwrap()[0]).collect();
/// assert_eq!(squares, [1, 4, 9]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct JobSet {
    submitter: Submitter,
    context: Context,
    max_in_flight: Option<usize>,
    inbox: Arc<Inbox>,
    /// Those not collected yet.
    members: BTreeMap<u64, Member>,
    /// The number of the next member.
    next: u64,
    /// Numbers of finished members in the order in which they finished. Some may be collected already.
    finished: VecDeque<u64>,
    /// How many members are finished.
    arrived: usize,
    /// Where to look first for a member that is still queued.
    hint: u64,
    /// The context is done, and the members that were queued then have been ended.
    swept: bool,
}

struct Member {
    handle: JobHandle,
    arrived: bool,
}

impl Delegator {
    /// An empty set for jobs of this delegator.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::Delegator;
    ///
    /// let delegator = Delegator::builder().workers(1).build()?;
    /// assert!(delegator.job_set().is_empty());
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn job_set(&self) -> JobSet {
        self.submitter().job_set()
    }
}

impl Submitter {
    /// An empty set for jobs of the submitter's delegator: the one for sets inside jobs.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Delegator, Job};
    ///
    /// let delegator = Delegator::builder().workers(1).build()?;
    /// let submitter = delegator.submitter();
    /// let outer = Job::new("outer", move |ctx| {
    ///     let mut set = submitter.job_set().with_context(ctx);
    ///     for _ in 0..3 {
    ///         set.submit(Job::new("inner", |_| Ok(vec![1])))?;
    ///     }
    ///     Ok(set.wait_all().iter().flat_map(|record| record.payload().unwrap().to_vec()).collect())
    /// });
    /// assert_eq!(delegator.submit(outer)?.join()?, [1, 1, 1]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn job_set(&self) -> JobSet {
        JobSet {
            submitter: self.clone(),
            context: Context::background(),
            max_in_flight: None,
            inbox: Arc::default(),
            members: BTreeMap::new(),
            next: 0,
            finished: VecDeque::new(),
            arrived: 0,
            hint: 0,
            swept: false,
        }
    }
}

impl JobSet {
    /// Runs the jobs that are submitted from here on under this context. What ends it ends them, and a wait for them returns
    /// when it ends those that are queued, however busy the workers are.
    ///
    /// A job that has values or a cancellation of its own, by [`Job::with_context`], keeps them instead: derive its
    /// context from the set's if it is to have both. Its own deadline a job always keeps.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::{Context, Delegator, Job, JobState};
    ///
    /// let delegator = Delegator::builder().workers(1).build()?;
    /// let ctx = Context::background().with_timeout(Duration::from_millis(5));
    /// let mut set = delegator.job_set().with_context(&ctx);
    /// for _ in 0..3 {
    ///     set.submit(Job::new("nap", |ctx| ctx.sleep(Duration::from_secs(60)).map(|()| Vec::new())))?;
    /// }
    /// assert!(set.wait_all().iter().all(|record| record.state() == JobState::TimedOut));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use = "it is the returned set that has the context"]
    pub fn with_context(mut self, context: &Context) -> JobSet {
        // The set looks after one context; members that have another look after theirs themselves.
        for member in self.members.values() {
            member.handle.done();
        }
        self.context = context.clone();
        self.swept = false;
        self
    }

    /// Lets [`submit`](JobSet::submit) wait while this many members are unfinished, and bounds the number of jobs that a
    /// [`map`](JobSet::map) has about. There is no limit at first; zero counts as one.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Delegator, Job};
    ///
    /// let delegator = Delegator::builder().workers(8).build()?;
    /// let mut set = delegator.job_set().max_in_flight(2); // two of the eight workers at the most
    /// for n in 0..10_u8 {
    ///     set.submit(Job::new("fetch", move |_| Ok(vec![n])))?;
    /// }
    /// assert_eq!(set.wait_all().len(), 10);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use = "it is the returned set that has the limit"]
    pub fn max_in_flight(mut self, jobs: usize) -> JobSet {
        self.max_in_flight = Some(jobs.max(1));
        self
    }

    /// The context that jobs of the set run under.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Context, Delegator, Job};
    ///
    /// let delegator = Delegator::builder().workers(1).build()?;
    /// let mut set = delegator.job_set().with_context(&Context::background().with_value("user", 7_u32));
    /// let ctx = set.context().with_value("page", 1_u32);
    /// set.submit(Job::new("page", |_| Ok(Vec::new())).with_context(&ctx))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// How many members have not been collected.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let mut set = delegator.job_set();
    /// set.submit(Job::new("work", |_| Ok(Vec::new())))?;
    /// assert_eq!(set.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether all members have been collected.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let mut set = delegator.job_set();
    /// set.submit(Job::new("work", |_| Ok(Vec::new())))?;
    /// set.wait_all();
    /// assert!(set.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Submits a job as a member, and waits for room as [`Delegator::submit`] does; before that, for a place under
    /// [`max_in_flight`](JobSet::max_in_flight), unless the set's context is done.
    ///
    /// # Errors
    ///
    /// [`SubmitError::ShutDown`], with the job, which has the set's context by now.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let mut set = delegator.job_set();
    /// let id = set.submit(Job::new("work", |_| Ok(Vec::new())))?;
    /// assert_eq!(set.wait_all()[0].id(), id);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn submit(&mut self, job: Job) -> Result<JobId, SubmitError> {
        if let Some(max) = self.max_in_flight {
            self.take_arrivals();
            while self.members.len() - self.arrived >= max && !self.context.is_done() {
                self.wait_for(self.arrived + 1, Tick::NEVER);
            }
        }
        let handle = self.submitter.submit(self.adopt(job))?;
        let id = handle.id();
        self.add(handle);
        Ok(id)
    }

    /// Submits many jobs as members, for less than as many calls cost; otherwise as [`submit`](JobSet::submit).
    ///
    /// # Errors
    ///
    /// [`SubmitAllError`] when the delegator is shut down meanwhile. The jobs that were accepted are members.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let mut set = delegator.job_set();
    /// set.submit_all((0..10).map(|_| Job::new("work", |_| Ok(Vec::new()))))?;
    /// assert_eq!(set.wait_all().len(), 10);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn submit_all(&mut self, jobs: impl IntoIterator<Item = Job>) -> Result<(), SubmitAllError> {
        if self.max_in_flight.is_none() {
            let jobs = jobs.into_iter().map(|job| self.adopt(job));
            let result = self.submitter.submit_all(jobs);
            let accepted = result.as_ref().unwrap_or_else(|error| &error.accepted).clone();
            accepted.into_iter().for_each(|handle| self.add(handle));
            return result.map(drop);
        }
        let mut jobs: VecDeque<Job> = jobs.into_iter().collect();
        let first = self.next;
        while let Some(job) = jobs.pop_front() {
            if let Err(error) = self.submit(job) {
                let kind = error.kind();
                jobs.push_front(error.into_job());
                let accepted = self.members.range(first..).map(|(_, member)| member.handle.clone()).collect();
                return Err(SubmitAllError { accepted, rest: jobs.into(), kind });
            }
        }
        Ok(())
    }

    /// Waits for this long at the most until a member is finished that was not collected yet, and collects it: members
    /// in the order in which they finish. `None` when the set is empty or the time is over. [`Duration::MAX`] is no
    /// limit, and [`Duration::ZERO`] does not wait. With a limit, nothing is run inline.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(2).build()?;
    /// let mut set = delegator.job_set();
    /// for n in 0..10_u8 {
    ///     set.submit(Job::new("work", move |_| Ok(vec![n])))?;
    /// }
    /// while let Some(record) = set.next_finished(Duration::MAX) {
    ///     println!("{record}");
    /// }
    /// assert!(set.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn next_finished(&mut self, timeout: Duration) -> Option<JobRecord> {
        self.take_arrivals();
        if self.arrived == 0 {
            let until = Tick::now().after(timeout);
            while self.arrived == 0 && !self.is_empty() {
                self.wait_for(1, until);
                if until != Tick::NEVER && until <= Tick::now() {
                    break;
                }
            }
        }
        self.collect_next().map(|(_, record)| record)
    }

    /// Waits until all members are finished, and collects them in the order of their submission.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(2).build()?;
    /// let mut set = delegator.job_set();
    /// for n in 0..3_u8 {
    ///     set.submit(Job::new("work", move |_| if n == 1 { Err("odd".into()) } else { Ok(vec![n]) }))?;
    /// }
    /// let records = set.wait_all();
    /// assert_eq!(records[0].payload(), Some(&[0][..]));
    /// assert_eq!(records[1].error().unwrap().to_string(), "odd");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_all(&mut self) -> Vec<JobRecord> {
        while self.arrived < self.members.len() {
            self.wait_for(self.members.len(), Tick::NEVER);
        }
        let members = std::mem::take(&mut self.members);
        self.forget();
        members.into_values().filter_map(|member| member.handle.try_wait()).collect()
    }

    /// Waits until a member completes, collects it, and cancels all others: the first good answer of several. The
    /// others leave the set; those that had not started are `Cancelled` when this returns, and those that run have been
    /// told.
    ///
    /// # Errors
    ///
    /// The records of all members, in the order in which they finished, if none completed. The list is empty if the set was.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(3).build()?;
    /// let mut mirrors = delegator.job_set();
    /// mirrors.submit(Job::new("broken", |_| Err("no route".into())))?;
    /// mirrors.submit(Job::new("slow", |ctx| ctx.sleep(Duration::from_secs(60)).map(|()| Vec::new())))?;
    /// mirrors.submit(Job::new("fast", |_| Ok(vec![7])))?;
    /// let answer = mirrors.first_ok().expect("one completes");
    /// assert_eq!((answer.name(), answer.payload()), ("fast", Some(&[7][..])));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn first_ok(&mut self) -> Result<JobRecord, Vec<JobRecord>> {
        let mut others = Vec::new();
        while let Some(record) = self.next_finished(Duration::MAX) {
            if record.state() == JobState::Completed {
                self.let_go("another job of its set completed first", Some(Location::caller()));
                return Ok(record);
            }
            others.push(record);
        }
        Err(others)
    }

    /// Waits until all members have completed, and collects them in the order of their submission; or until one ends in any
    /// other way, and cancels all others as [`first_ok`](JobSet::first_ok) does: all or nothing.
    ///
    /// # Errors
    ///
    /// The record of the first member that failed, panicked, timed out or was cancelled.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(2).build()?;
    /// let mut parts = delegator.job_set();
    /// parts.submit(Job::new("slow", |ctx| ctx.sleep(Duration::from_secs(60)).map(|()| Vec::new())))?;
    /// parts.submit(Job::new("broken", |_| panic!("index 7 of 3")))?;
    /// let broken = parts.first_error().expect_err("one panics");
    /// assert_eq!(broken.name(), "broken");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn first_error(&mut self) -> Result<Vec<JobRecord>, JobRecord> {
        let mut completed = Vec::new();
        while !self.is_empty() {
            self.wait_for(1, Tick::NEVER);
            while let Some((number, record)) = self.collect_next() {
                if record.state() != JobState::Completed {
                    self.let_go("another job of its set failed", Some(Location::caller()));
                    return Err(record);
                }
                completed.push((number, record));
            }
        }
        completed.sort_unstable_by_key(|(number, _)| *number);
        Ok(completed.into_iter().map(|(_, record)| record).collect())
    }

    /// Cancels all members that are not finished, without a cause; otherwise as [`JobHandle::cancel`]. They stay
    /// members, to be collected.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// # use workpath::{Delegator, Job, JobState};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let mut set = delegator.job_set();
    /// for _ in 0..3 {
    ///     set.submit(Job::new("nap", |ctx| ctx.sleep(Duration::from_secs(60)).map(|()| Vec::new())))?;
    /// }
    /// set.cancel();
    /// assert!(set.wait_all().iter().all(|record| record.state() == JobState::Cancelled));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn cancel(&self) {
        self.cancel_for(&Cancel::here(Origin::JobSet, None));
    }

    /// Cancels all members that are not finished, with a cause; otherwise as [`cancel`](JobSet::cancel).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let mut set = delegator.job_set();
    /// set.submit(Job::new("nap", |ctx| ctx.sleep(Duration::from_secs(60)).map(|()| Vec::new())))?;
    /// set.cancel_with("the window was closed");
    /// assert_eq!(set.wait_all()[0].error().unwrap().to_string(), "cancelled: the window was closed");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn cancel_with(&self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) {
        self.cancel_for(&Cancel::here(Origin::JobSet, Some(Cause::from(cause.into()))));
    }

    /// Lets all members go on as jobs of their own, and forgets them.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let mut set = delegator.job_set();
    /// set.submit(Job::new("work", |_| Ok(Vec::new())))?;
    /// set.detach();
    /// delegator.wait_idle();
    /// assert_eq!(delegator.stats().completed, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn detach(mut self) {
        self.members.clear();
    }

    /// Calls the function with each item, one job per item, and gives the records of the jobs as an iterator, in the
    /// order of the items, or as they finish after [`unordered`](JobMap::unordered).
    ///
    /// Items are taken as places become free, so memory does not grow with their number. So many jobs are about at a time:
    /// queued, running, or finished and not taken from the iterator. Unless [`max_in_flight`](JobSet::max_in_flight) says
    /// otherwise, they are 64, or four for each worker if that is more. Nothing starts before the first call of `next`, and
    /// dropping the iterator cancels what is about.
    ///
    /// Members that the set has already come first in the order.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::Delegator;
    ///
    /// let delegator = Delegator::builder().workers(2).build()?;
    /// let sums = delegator.job_set().map("sum", 1..=1000_u64, |_, n| {
    ///     Ok((0..=*n).sum::<u64>().to_le_bytes().to_vec())
    /// });
    /// let mut total = 0;
    /// for record in sums {
    ///     let record = record?; // refused only by a delegator that is shut down
    ///     let sum = record.result().map_err(Clone::clone)?;
    ///     total += u64::from_le_bytes(sum.try_into()?);
    /// }
    /// assert_eq!(total, 167_167_000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn map<I, F>(
        self,
        name: impl Into<Cow<'static, str>>,
        items: I,
        function: F,
    ) -> JobMap<I::IntoIter, F>
    where
        I: IntoIterator,
        I::Item: Send + 'static,
        F: Fn(&Context, &I::Item) -> Result<Vec<u8>, Error> + Send + Sync + 'static,
    {
        let by_workers = self.submitter.engine.workers.saturating_mul(WINDOW_PER_WORKER);
        let window = self.max_in_flight.unwrap_or(by_workers.max(WINDOW));
        JobMap {
            set: self,
            name: name.into(),
            items: Some(items.into_iter()),
            function: Arc::new(function),
            window,
            ordered: true,
            refused: None,
        }
    }

    /// The job, under the set's context.
    fn adopt(&self, job: Job) -> Job {
        if job.context.is_plain() { job.with_context(&self.context) } else { job }
    }

    fn add(&mut self, handle: JobHandle) {
        let number = self.next;
        self.next += 1;
        handle.task.report_to(&self.inbox, number, &self.context);
        self.members.insert(number, Member { handle, arrived: false });
    }

    fn take_arrivals(&mut self) {
        for number in self.inbox.take() {
            if let Some(member) = self.members.get_mut(&number) {
                member.arrived = true;
                self.arrived += 1;
                self.finished.push_back(number);
            }
        }
    }

    /// Waits until so many of the members are finished, or until this tick. Returns early, once, when the context is done.
    fn wait_for(&mut self, wanted: usize, until: Tick) {
        loop {
            let swept = self.sweep();
            self.take_arrivals();
            if swept || self.arrived >= wanted || (until != Tick::NEVER && until <= Tick::now()) {
                return;
            }
            if until == Tick::NEVER && self.run_inline() {
                continue;
            }
            if self.swept {
                self.park(wanted, until);
                continue;
            }
            let listening = self.context.listen(Action::Wake(sync::current()));
            if !self.context.is_done() {
                self.park(wanted, until.min(self.context.deadline_tick()));
            }
            drop(listening);
        }
    }

    /// Waits for so many of the members that have not arrived, on a thread that may have work of its own to do meanwhile.
    fn park(&self, wanted: usize, until: Tick) {
        let engine = &self.submitter.engine;
        self.inbox.wait(wanted - self.arrived, until, |until| engine.park_until(until));
    }

    /// Ends the members that are queued when the context is done. `true` if that is news.
    fn sweep(&mut self) -> bool {
        if self.swept || !self.context.is_done() {
            return false;
        }
        self.swept = true;
        for member in self.members.values() {
            member.handle.task.look();
        }
        true
    }

    /// Runs a member that is still queued, if this thread is a worker of the delegator. `false` if there is nothing to
    /// run here.
    fn run_inline(&mut self) -> bool {
        if !worker::is_on(&self.submitter.engine) {
            return false;
        }
        let queued = |(_, member): &(&u64, &Member)| member.handle.task.is_queued();
        let after = self.members.range(self.hint..).find(queued);
        let Some((number, member)) = after.or_else(|| self.members.range(..self.hint).find(queued)) else {
            let mut held = self.members.values().filter(|member| member.handle.task.is_held());
            return held.any(|member| worker::make_way(&member.handle.task));
        };
        self.hint = number + 1;
        worker::run_inline(&member.handle.task);
        true
    }

    /// The member that finished first.
    fn collect_next(&mut self) -> Option<(u64, JobRecord)> {
        loop {
            let number = self.finished.pop_front()?;
            if let Some(record) = self.collect(number) {
                return Some((number, record));
            }
        }
    }

    /// The member that was submitted first, when it is finished.
    fn collect_first(&mut self) -> Option<JobRecord> {
        loop {
            let (&number, first) = self.members.first_key_value()?;
            if first.arrived {
                let record = self.collect(number);
                while self.finished.front().is_some_and(|number| !self.members.contains_key(number)) {
                    self.finished.pop_front();
                }
                return record;
            }
            self.wait_for(self.arrived + 1, Tick::NEVER);
        }
    }

    fn collect(&mut self, number: u64) -> Option<JobRecord> {
        let member = self.members.remove(&number)?;
        self.arrived -= 1;
        // Somebody may be about to drop what the timer left.
        member.handle.task.wait_until(Tick::NEVER, false);
        member.handle.try_wait()
    }

    fn cancel_for(&self, cancel: &Arc<Cancel>) {
        // Those in the queue first: a worker that is told to stop would take the next of them.
        let queued = self.members.values().filter(|member| member.handle.task.is_waiting());
        for member in queued.chain(self.members.values()) {
            if !member.handle.is_finished() {
                member.handle.cancel_for(Arc::clone(cancel));
            }
        }
    }

    /// Cancels all members and forgets them.
    fn let_go(&mut self, why: &'static str, caller: Option<&'static Location<'static>>) {
        self.cancel_for(&Cancel::at(Origin::JobSet, Some(cause_of(why)), caller));
        self.members.clear();
        self.forget();
    }

    /// Begins again, without members.
    fn forget(&mut self) {
        self.inbox = Arc::default();
        self.finished.clear();
        self.arrived = 0;
    }
}

impl Drop for JobSet {
    fn drop(&mut self) {
        self.let_go("its set was dropped", None);
    }
}

impl fmt::Debug for JobSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobSet")
            .field("len", &self.members.len())
            .field("max_in_flight", &self.max_in_flight)
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}

// The inbox's lock is released before anything is done that could panic.
impl std::panic::UnwindSafe for JobSet {}
impl std::panic::RefUnwindSafe for JobSet {}

/// The records of a [`JobSet::map`], as an iterator.
///
/// A job that fails is a record like any other. An `Err` is a job that the delegator refused, because it is shut down:
/// it comes last, and no more items are taken.
///
/// # Examples
///
/// ```
/// use workpath::Delegator;
///
/// let delegator = Delegator::builder().workers(2).build()?;
/// let names = ["ada", "grace", "barbara"];
/// let lengths = delegator.job_set().map("length", names, |_, name| Ok(vec![name.len() as u8]));
/// for (name, record) in names.iter().zip(lengths) {
///     assert_eq!(record?.payload(), Some(&[name.len() as u8][..]));
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nothing is submitted before the first call of next()"]
pub struct JobMap<I: Iterator, F> {
    set: JobSet,
    name: Cow<'static, str>,
    /// `None` when there are no more to be taken.
    items: Option<I>,
    function: Arc<F>,
    window: usize,
    ordered: bool,
    refused: Option<SubmitError>,
}

impl<I: Iterator, F> JobMap<I, F> {
    /// Gives the records as the jobs finish, so that a slow one keeps nobody waiting.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Delegator;
    /// # let delegator = Delegator::builder().workers(2).build()?;
    /// let records = delegator.job_set().map("work", 0..100_u8, |_, n| Ok(vec![*n])).unordered();
    /// let mut bytes: Vec<u8> = records.map(|record| record.unwrap().payload().unwrap()[0]).collect();
    /// bytes.sort_unstable();
    /// assert!(bytes.into_iter().eq(0..100));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn unordered(mut self) -> JobMap<I, F> {
        self.ordered = false;
        self
    }
}

impl<I, F> Iterator for JobMap<I, F>
where
    I: Iterator,
    I::Item: Send + 'static,
    F: Fn(&Context, &I::Item) -> Result<Vec<u8>, Error> + Send + Sync + 'static,
{
    type Item = Result<JobRecord, SubmitError>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(items) = self.items.as_mut().filter(|_| self.set.len() < self.window) {
            let submitted = items.next().map(|item| {
                let function = Arc::clone(&self.function);
                self.set.submit(Job::new(self.name.clone(), move |ctx| function(ctx, &item)))
            });
            match submitted {
                Some(Ok(_)) => {}
                Some(Err(error)) => (self.items, self.refused) = (None, Some(error)),
                None => self.items = None,
            }
        }
        let record =
            if self.ordered { self.set.collect_first() } else { self.set.next_finished(Duration::MAX) };
        match record {
            Some(record) => Some(Ok(record)),
            None => self.refused.take().map(Err),
        }
    }
}

impl<I: Iterator, F> fmt::Debug for JobMap<I, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobMap")
            .field("name", &self.name)
            .field("window", &self.window)
            .field("ordered", &self.ordered)
            .field("set", &self.set)
            .finish_non_exhaustive()
    }
}
