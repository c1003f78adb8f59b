//! The delegator: owner of the queue and the workers.

mod manual;
mod relief;
mod shutdown;
mod stats;
mod submit;
mod thread;

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

pub use self::manual::Manual;
use self::shutdown::Closing;
pub use self::shutdown::{Shutdown, ShutdownReport};
pub use self::stats::{Places, Stats};
pub(crate) use self::submit::submit_here;
pub use self::submit::{SubmitAllError, SubmitError};
pub(crate) use self::thread::Plan;
use self::thread::Started;
use crate::clock::Tick;
use crate::engine::Engine;
use crate::events::Event;
use crate::handle::{Coalesced, JobHandle};
use crate::job::Job;
use crate::latency::{Latencies, LatenciesByName};
use crate::overflow::Overflow;
use crate::panics::discard;
use crate::periodic::{self, Every, Periodic, PeriodicError};
use crate::registry::Registry;
use crate::status::{self, WorkerStatus};
use crate::sync::{Arc, JoinHandle, Mutex};
use crate::worker;

/// Runs jobs on a fixed set of threads.
///
/// A delegator is a thread of its own that owns a bounded queue and its workers. Share it by reference or in an
/// [`Arc`](std::sync::Arc), or hand out [`Submitter`]s, which keep nothing alive that has to end.
///
/// Dropping it drains: it refuses new jobs and waits until everything accepted is finished, however long that takes. Dropped
/// from inside one of its own jobs, it does not wait. [`shutdown`](Delegator::shutdown) can do less, or in limited time, and
/// gives an account.
/// A program whose `main` returns ends all threads; shut down before.
///
/// # Examples
///
/// ```
/// use workpath::{Delegator, Job, Shutdown};
///
/// let delegator = Delegator::builder().workers(2).queue_capacity(64).build()?;
/// let handle = delegator.submit(Job::new("answer", |_| Ok(vec![42])))?;
/// assert_eq!(handle.join()?, [42]);
/// delegator.shutdown(Shutdown::drain());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Delegator {
    engine: Arc<Engine>,
    closing: Arc<Closing>,
    /// `None` once joined.
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Delegator {
    /// Starts the delegator thread and the workers; with what failed to start.
    pub(crate) fn start(plan: Plan) -> Result<Delegator, (String, io::Error)> {
        let (Started { engine, closing }, thread) = thread::start(plan)?;
        Ok(Delegator { engine, closing, thread: Mutex::new(Some(thread)) })
    }

    /// Submits a job, and waits for room if the queue is full: until there is some, the job's context is done (then the
    /// handle has ended), or the delegator is shut down.
    ///
    /// A job whose context is done already is accepted and ends at once, also when the queue is full. Inside a job of the
    /// same delegator, a full queue makes this run the job, on this thread, before it returns: so the job must not wait for
    /// the one that submits it, nor for a lock that this one holds.
    ///
    /// # Errors
    ///
    /// [`SubmitError::ShutDown`], with the job.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Delegator, Job};
    ///
    /// let delegator = Delegator::builder().workers(1).build()?;
    /// let handle = delegator.submit(Job::new("answer", |_| Ok(vec![42])))?;
    /// assert_eq!(handle.join()?, [42]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn submit(&self, job: Job) -> Result<JobHandle, SubmitError> {
        submit::submit(&self.engine, job)
    }

    /// Submits a job if there is room, without ever waiting.
    ///
    /// # Errors
    ///
    /// [`SubmitError::Full`] or [`SubmitError::ShutDown`], with the job.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Delegator, Job, SubmitError};
    ///
    /// let delegator = Delegator::builder().workers(1).queue_capacity(1).build()?;
    /// match delegator.try_submit(Job::new("sample", |_| Ok(Vec::new()))) {
    ///     Ok(handle) => println!("queued {}", handle.id()),
    ///     Err(SubmitError::Full(job)) => println!("skipped {}", job.name()),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_submit(&self, job: Job) -> Result<JobHandle, SubmitError> {
        submit::try_submit(&self.engine, job)
    }

    /// Submits a job, and waits for room for this long at the most. Never runs anything inline. With no time at all it
    /// succeeds if there is room; a time too long to be told, such as [`Duration::MAX`], makes it
    /// [`submit`](Delegator::submit).
    ///
    /// # Errors
    ///
    /// [`SubmitError::Timeout`] or [`SubmitError::ShutDown`], with the job.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::{Delegator, Job};
    ///
    /// let delegator = Delegator::builder().workers(1).build()?;
    /// let job = Job::new("work", |_| Ok(Vec::new()));
    /// assert!(delegator.submit_timeout(job, Duration::from_millis(100)).is_ok());
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn submit_timeout(&self, job: Job, timeout: Duration) -> Result<JobHandle, SubmitError> {
        submit::submit_timeout(&self.engine, job, timeout)
    }

    /// Submits a job, and waits for room until this instant at the most; otherwise as
    /// [`submit_timeout`](Delegator::submit_timeout).
    ///
    /// # Errors
    ///
    /// [`SubmitError::Timeout`] or [`SubmitError::ShutDown`], with the job.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use workpath::{Delegator, Job};
    ///
    /// let delegator = Delegator::builder().workers(1).build()?;
    /// let deadline = Instant::now() + Duration::from_millis(100);
    /// assert!(delegator.submit_deadline(Job::new("work", |_| Ok(Vec::new())), deadline).is_ok());
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn submit_deadline(&self, job: Job, deadline: Instant) -> Result<JobHandle, SubmitError> {
        submit::submit_deadline(&self.engine, job, deadline)
    }

    /// Submits a job, and does this with it if the queue is full: see [`Overflow`].
    ///
    /// A [scheduled](Job::with_delay) job needs no room before it is due, and then waits for it whatever this says.
    ///
    /// # Errors
    ///
    /// [`SubmitError::ShutDown`], and what the form has that the overflow stands for; with the job.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Delegator, Job, Overflow};
    ///
    /// let delegator = Delegator::builder().workers(2).queue_capacity(4).build()?;
    /// for n in 0..100 {
    ///     // What finds no room is done by this thread.
    ///     let job = Job::new(format!("part {n}"), |_| Ok(Vec::new()));
    ///     let _ = delegator.submit_with(job, Overflow::CallerRuns)?;
    /// }
    /// delegator.wait_idle();
    /// assert_eq!(delegator.stats().completed, 100);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn submit_with(&self, job: Job, overflow: Overflow) -> Result<JobHandle, SubmitError> {
        submit::submit_with(&self.engine, job, overflow)
    }

    /// Submits a job with this key, unless another with the same [key](Job::with_key) is queued or runs: then the job is
    /// dropped, on the calling thread, and this gives the handle of the other, of the newest if there are several. For work
    /// that is asked for from several sides and needs to be done once; whoever asks gets the same result. Nobody joins a job
    /// whose time is over.
    ///
    /// The look and the submission are one step: of two that come at the same time, one joins the other. A
    /// [delayed](Job::with_delay) job has its key from when it is due, so until then it is not found. It waits for room as
    /// [`submit`](Delegator::submit) does. A joined job is neither submitted nor rejected in the
    /// [numbers](Delegator::stats).
    ///
    /// # Errors
    ///
    /// [`SubmitError::ShutDown`], with the job.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Coalesced, Delegator, Job};
    ///
    /// let delegator = Delegator::manual();
    /// let render = || Job::new("render", |_| Ok(b"<html>".to_vec()));
    /// let one = delegator.coalesce("/index", render())?;
    /// let other = delegator.coalesce("/index", render())?;
    /// assert!(matches!(other, Coalesced::Joined(_)));
    /// assert_eq!(other.into_handle().join()?, b"<html>");
    /// assert!(one.handle().is_finished());
    /// assert!(matches!(delegator.coalesce("/index", render())?, Coalesced::Submitted(_)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn coalesce(&self, key: impl Into<std::sync::Arc<str>>, job: Job) -> Result<Coalesced, SubmitError> {
        submit::coalesce(&self.engine, key.into(), job)
    }

    /// Submits a job with this key, and once it is accepted cancels all others with the same [key](Job::with_key) that are
    /// queued or run, with [`Displaced::Superseded`](crate::Displaced::Superseded) as the cause. For work of which only the
    /// latest counts: a preview, a search as you type.
    ///
    /// With a limit of one, the job starts when the one before has returned. Otherwise as
    /// [`coalesce`](Delegator::coalesce). It waits for no room where it replaces a job of its priority that waits for the
    /// key. If it is refused, or its own context ends before there is room, nothing is cancelled.
    ///
    /// # Errors
    ///
    /// [`SubmitError::ShutDown`], with the job.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Delegator, Job, JobState};
    ///
    /// let delegator = Delegator::manual();
    /// let search = |text: &str| Job::new(format!("search {text}"), |_| Ok(Vec::new()));
    /// let ca = delegator.supersede("search", search("ca"))?;
    /// let cat = delegator.supersede("search", search("cat"))?;
    /// let error = ca.join().unwrap_err();
    /// assert_eq!(error.to_string(), format!("cancelled: superseded by job {}", cat.id()));
    /// assert_eq!(cat.wait().state(), JobState::Completed);
    /// # Ok::<(), workpath::SubmitError>(())
    /// ```
    #[track_caller]
    pub fn supersede(&self, key: impl Into<std::sync::Arc<str>>, job: Job) -> Result<JobHandle, SubmitError> {
        submit::supersede(&self.engine, key.into(), job)
    }

    /// Submits many jobs for less than as many calls cost, and waits for room as [`submit`](Delegator::submit) does.
    /// The handles come in the order of the jobs.
    ///
    /// The iterator is run to its end before the first job is submitted, so a million jobs are a million in memory. Per 32
    /// jobs it takes one look at the clock, one at the workers and, where one sleeps, one wake-up; while somebody
    /// [subscribes](Delegator::subscribe), each job goes in by itself.
    ///
    /// # Errors
    ///
    /// [`SubmitAllError`] when the delegator is shut down meanwhile, with the handles of the jobs that were accepted
    /// and with the jobs that were not.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Delegator, Job};
    ///
    /// let delegator = Delegator::builder().workers(2).build()?;
    /// let squares = (1..=3_u8).map(|n| Job::new("square", move |_| Ok(vec![n * n])));
    /// let handles = delegator.submit_all(squares)?;
    /// let squares: Vec<u8> = handles.iter().map(|handle| handle.wait().payload().unwrap()[0]).collect();
    /// assert_eq!(squares, [1, 4, 9]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn submit_all(&self, jobs: impl IntoIterator<Item = Job>) -> Result<Vec<JobHandle>, SubmitAllError> {
        submit::submit_all(&self.engine, jobs)
    }

    /// Submits jobs for as long as there is room, without ever waiting; otherwise as [`submit_all`](Delegator::submit_all).
    ///
    /// # Errors
    ///
    /// [`SubmitAllError`] when the queue is full or the delegator shut down before the last job is in, with the handles
    /// of the jobs that were accepted and with the jobs that were not.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Delegator, Job};
    ///
    /// let delegator = Delegator::builder().workers(1).queue_capacity(2).build()?;
    /// let naps = (0..20).map(|n| {
    ///     Job::new(format!("nap {n}"), |ctx| ctx.sleep(std::time::Duration::from_millis(5)).map(|()| Vec::new()))
    /// });
    /// let refused = delegator.try_submit_all(naps).unwrap_err();
    /// assert_eq!(refused.accepted.len() + refused.rest.len(), 20);
    /// assert!(delegator.submit_all(refused.rest).is_ok()); // those wait for room
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn try_submit_all(
        &self,
        jobs: impl IntoIterator<Item = Job>,
    ) -> Result<Vec<JobHandle>, SubmitAllError> {
        submit::try_submit_all(&self.engine, jobs)
    }

    /// Submits a job again and again: whenever it is time, the function makes one. The times begin now; an interval alone is
    /// a [fixed rate](Every::fixed_rate).
    ///
    /// The function is called on a worker, so it takes the time of one; keep it short. Its job runs there at once, or,
    /// if it has a delay, a priority or another such option, as if the function had submitted it. While nobody has time
    /// for a tick, it waits in the queue like a job; see [`Missed`](crate::Missed) for what then happens to the next. A
    /// panic in the function is logged, and the next tick comes. A shutdown ends it.
    ///
    /// # Errors
    ///
    /// [`PeriodicError::ZeroInterval`], and [`PeriodicError::ShutDown`].
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::{Delegator, Job};
    ///
    /// let delegator = Delegator::manual();
    /// let mut n = 0_u8;
    /// let series = delegator.every(Duration::from_secs(60), move || {
    ///     n += 1;
    ///     let n = n;
    ///     Job::new("count", move |_| Ok(vec![n])).with_timeout(Duration::from_secs(10))
    /// })?;
    /// delegator.advance(Duration::from_secs(180));
    /// assert_eq!(series.last().expect("three").join()?, [3]);
    /// series.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn every(
        &self,
        every: impl Into<Every>,
        job: impl FnMut() -> Job + Send + 'static,
    ) -> Result<Periodic, PeriodicError> {
        periodic::begin(&self.engine, every.into(), job)
    }

    /// A handle that submits and does nothing else: for the parts of a program that must not shut the delegator down.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Delegator, Job};
    ///
    /// let delegator = Delegator::builder().workers(1).build()?;
    /// let submitter = delegator.submitter();
    /// let producer = std::thread::spawn(move || submitter.submit(Job::new("work", |_| Ok(Vec::new()))));
    /// assert!(producer.join().unwrap().is_ok());
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn submitter(&self) -> Submitter {
        Submitter { engine: Arc::clone(&self.engine) }
    }

    /// The records of finished jobs.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::Delegator;
    ///
    /// let delegator = Delegator::builder().workers(1).build()?;
    /// assert!(delegator.registry().is_empty());
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn registry(&self) -> &Registry {
        &self.engine.registry
    }

    /// The numbers at this moment. Costs a lock, shared with the workers, and one per worker.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::Delegator;
    ///
    /// let delegator = Delegator::builder().workers(1).build()?;
    /// assert_eq!(delegator.stats().submitted, 0);
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn stats(&self) -> Stats {
        stats::stats(&self.engine)
    }

    /// How long the finished jobs waited and ran, if [`Builder::latencies`](crate::Builder::latencies) asked for it;
    /// otherwise there is nothing in it. Costs some microseconds per worker, and holds nobody up.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Delegator, Job};
    ///
    /// let delegator = Delegator::builder().workers(1).latencies(true).build()?;
    /// delegator.submit(Job::new("work", |_| Ok(Vec::new())))?.wait();
    /// println!("ran {}", delegator.latencies().run_time);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn latencies(&self) -> Latencies {
        self.engine.latencies.read()
    }

    /// The same by the names of the jobs, if [`Builder::latencies_by_name`](crate::Builder::latencies_by_name) asked for it.
    /// Costs some microseconds for each name and worker; who finishes a job of a new name meanwhile waits for a moment.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Delegator, Job};
    ///
    /// let delegator = Delegator::builder().workers(1).latencies_by_name(20).build()?;
    /// delegator.submit(Job::new("work", |_| Ok(Vec::new())))?.wait();
    /// println!("ran {}", delegator.latencies_by_name().names["work"].run_time);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn latencies_by_name(&self) -> LatenciesByName {
        self.engine.latencies.read_named()
    }

    /// What each worker is doing at this moment: in which job it is, since when, and what that said of itself. Costs a lock
    /// per worker, and copies of names and texts.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::Delegator;
    ///
    /// let delegator = Delegator::builder().workers(2).thread_name("img").build()?;
    /// assert_eq!(delegator.workers()[1].thread_name, "img-1");
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn workers(&self) -> Vec<WorkerStatus> {
        status::of_workers(&self.engine.slots)
    }

    /// What happens from here on, as it happens: the channel holds this many [events](Event), at least one.
    ///
    /// Nobody waits for the receiver. When its channel is full, events pass it by; they are counted, and
    /// [`Event::Missed`] says how many before the next that fits. The receiver disconnects when the delegator has been shut
    /// down and all workers have ended, or when it and its submitters are dropped. Dropping the receiver unsubscribes. Each
    /// call gives a receiver of its own, of everything; clones of one share its events.
    ///
    /// Without receivers, events cost nothing. With some, each event costs a lock that all threads of the delegator share,
    /// about as much again as it costs to send on a channel, and a clone per receiver. While an event is about, so is the
    /// record in it: [`JobHandle::join`] then copies the payload.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Delegator, Event, Job, Shutdown};
    ///
    /// let delegator = Delegator::builder().workers(1).build()?;
    /// let events = delegator.subscribe(1000);
    /// let printer = std::thread::spawn(move || {
    ///     let mut finished = 0;
    ///     for event in events {
    ///         if let Event::Finished(record) = event {
    ///             println!("{record}");
    ///             finished += 1;
    ///         }
    ///     }
    ///     finished
    /// });
    /// for n in 0..3 {
    ///     let _ = delegator.submit(Job::new(format!("job {n}"), |_| Ok(Vec::new())))?;
    /// }
    /// delegator.shutdown(Shutdown::drain());
    /// assert_eq!(printer.join().unwrap(), 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn subscribe(&self, capacity: usize) -> Receiver<Event> {
        self.engine.events.subscribe(capacity)
    }

    /// Waits until nothing is queued or running; jobs that wait for their time, or to be tried again, do not count.
    /// Jobs that others go on submitting may delay it without end, and from inside a job it waits for ever: the job
    /// itself is running.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Delegator, Job};
    ///
    /// let delegator = Delegator::builder().workers(1).build()?;
    /// let handle = delegator.submit(Job::new("work", |_| Ok(Vec::new())))?;
    /// delegator.wait_idle();
    /// assert!(handle.is_finished());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_idle(&self) {
        self.wait_idle_until(Tick::NEVER);
    }

    /// Waits until nothing is queued or running, for this long at the most, and says whether that is so.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::Delegator;
    ///
    /// let delegator = Delegator::builder().workers(1).build()?;
    /// assert!(delegator.wait_idle_timeout(Duration::ZERO));
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn wait_idle_timeout(&self, timeout: Duration) -> bool {
        self.wait_idle_until(Tick::now().after(timeout))
    }

    fn wait_idle_until(&self, until: Tick) -> bool {
        self.engine.registry.wait_idle(until, |until| self.engine.park_until(until))
    }

    /// Ends the delegator and gives an account of every job that was queued or running when this began.
    ///
    /// The calling thread does what there is to cancel, so functions registered with
    /// [`Context::on_done`](crate::Context::on_done) run on it. When this returns, and nothing is stuck, all threads have
    /// ended.
    ///
    /// A second call takes effect at once, so a cancel or a limit hurries a drain that is under way; it waits as its own
    /// limit says, and its report is empty: the first reports everything. From inside a job of this delegator it waits for
    /// the other workers, and leaves the job itself out of the report; if there are no others, it does the queued jobs
    /// itself. Jobs that wait for a job that is in here wait for ever.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::{Delegator, Job, Shutdown};
    ///
    /// let delegator = Delegator::builder().workers(1).build()?;
    /// let _ = delegator.submit(Job::new("work", |_| Ok(Vec::new())))?;
    /// let report = delegator.shutdown(Shutdown::drain().within(Duration::from_secs(5)));
    /// for job in report.unstarted {
    ///     println!("{} is left to be done", job.name());
    /// }
    /// for worker in report.stuck {
    ///     println!("{} hangs in {:?}", worker.thread_name, worker.running);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn shutdown(&self, how: Shutdown) -> ShutdownReport {
        let report = shutdown::shutdown(&self.engine, &self.closing, how);
        if self.closing.are_workers_joined() {
            shutdown::end_events(&self.engine);
            let thread = self.thread.lock().take();
            if let Some(thread) = thread {
                // It has nothing left to do but to return.
                let _ = thread.join();
            }
        }
        report
    }
}

impl Drop for Delegator {
    fn drop(&mut self) {
        // Nobody will take what is handed back: it ends at once.
        self.engine.take_unstarted().into_iter().for_each(|job| discard("a job that was handed back", job));
        if worker::is_on(&self.engine) {
            shutdown::leave(&self.engine);
        } else {
            self.shutdown(Shutdown::drain());
        }
    }
}

impl fmt::Debug for Delegator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug(f, "Delegator", &self.engine)
    }
}

// Every lock inside is released, and every count right, before user code runs that could panic.
impl std::panic::UnwindSafe for Delegator {}
impl std::panic::RefUnwindSafe for Delegator {}

/// Submits jobs to a [`Delegator`], for as long as that accepts them. Cheap to clone. It keeps no thread alive, only the
/// memory of the queue and of the registry.
///
/// # Examples
///
/// ```
/// use workpath::{Delegator, Job, SubmitError};
///
/// let delegator = Delegator::builder().workers(1).build()?;
/// let submitter = delegator.submitter();
/// drop(delegator);
/// let refused = submitter.submit(Job::new("late", |_| Ok(Vec::new())));
/// assert!(matches!(refused, Err(SubmitError::ShutDown(_))));
/// # Ok::<(), workpath::BuildError>(())
/// ```
#[derive(Clone)]
pub struct Submitter {
    pub(crate) engine: Arc<Engine>,
}

impl Submitter {
    /// As [`Delegator::submit`].
    ///
    /// # Errors
    ///
    /// [`SubmitError::ShutDown`], with the job.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let submitter = delegator.submitter();
    /// assert!(submitter.submit(Job::new("work", |_| Ok(Vec::new()))).is_ok());
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn submit(&self, job: Job) -> Result<JobHandle, SubmitError> {
        submit::submit(&self.engine, job)
    }

    /// As [`Delegator::try_submit`].
    ///
    /// # Errors
    ///
    /// [`SubmitError::Full`] or [`SubmitError::ShutDown`], with the job.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let submitter = delegator.submitter();
    /// assert!(submitter.try_submit(Job::new("work", |_| Ok(Vec::new()))).is_ok());
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn try_submit(&self, job: Job) -> Result<JobHandle, SubmitError> {
        submit::try_submit(&self.engine, job)
    }

    /// As [`Delegator::submit_timeout`].
    ///
    /// # Errors
    ///
    /// [`SubmitError::Timeout`] or [`SubmitError::ShutDown`], with the job.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let submitter = delegator.submitter();
    /// assert!(submitter.submit_timeout(Job::new("work", |_| Ok(Vec::new())), Duration::ZERO).is_ok());
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn submit_timeout(&self, job: Job, timeout: Duration) -> Result<JobHandle, SubmitError> {
        submit::submit_timeout(&self.engine, job, timeout)
    }

    /// As [`Delegator::submit_deadline`].
    ///
    /// # Errors
    ///
    /// [`SubmitError::Timeout`] or [`SubmitError::ShutDown`], with the job.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Instant;
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let submitter = delegator.submitter();
    /// assert!(submitter.submit_deadline(Job::new("work", |_| Ok(Vec::new())), Instant::now()).is_ok());
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn submit_deadline(&self, job: Job, deadline: Instant) -> Result<JobHandle, SubmitError> {
        submit::submit_deadline(&self.engine, job, deadline)
    }

    /// As [`Delegator::submit_with`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job, Overflow};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let submitter = delegator.submitter();
    /// assert!(submitter.submit_with(Job::new("work", |_| Ok(Vec::new())), Overflow::Fail).is_ok());
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn submit_with(&self, job: Job, overflow: Overflow) -> Result<JobHandle, SubmitError> {
        submit::submit_with(&self.engine, job, overflow)
    }

    /// As [`Delegator::coalesce`].
    ///
    /// # Errors
    ///
    /// [`SubmitError::ShutDown`], with the job.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// assert!(delegator.submitter().coalesce("key", Job::new("work", |_| Ok(Vec::new()))).is_ok());
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn coalesce(&self, key: impl Into<std::sync::Arc<str>>, job: Job) -> Result<Coalesced, SubmitError> {
        submit::coalesce(&self.engine, key.into(), job)
    }

    /// As [`Delegator::supersede`].
    ///
    /// # Errors
    ///
    /// [`SubmitError::ShutDown`], with the job.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// assert!(delegator.submitter().supersede("key", Job::new("work", |_| Ok(Vec::new()))).is_ok());
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    #[track_caller]
    pub fn supersede(&self, key: impl Into<std::sync::Arc<str>>, job: Job) -> Result<JobHandle, SubmitError> {
        submit::supersede(&self.engine, key.into(), job)
    }

    #[cfg(feature = "orders")]
    pub(crate) fn workers(&self) -> Vec<WorkerStatus> {
        status::of_workers(&self.engine.slots)
    }

    /// As [`Delegator::submit_all`].
    ///
    /// # Errors
    ///
    /// [`SubmitAllError`] when the delegator is shut down.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let batch = (0..3).map(|_| Job::new("work", |_| Ok(Vec::new())));
    /// assert_eq!(delegator.submitter().submit_all(batch)?.len(), 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn submit_all(&self, jobs: impl IntoIterator<Item = Job>) -> Result<Vec<JobHandle>, SubmitAllError> {
        submit::submit_all(&self.engine, jobs)
    }

    /// As [`Delegator::try_submit_all`].
    ///
    /// # Errors
    ///
    /// [`SubmitAllError`] when the queue is full or the delegator shut down.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let batch = (0..3).map(|_| Job::new("work", |_| Ok(Vec::new())));
    /// assert_eq!(delegator.submitter().try_submit_all(batch)?.len(), 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_submit_all(
        &self,
        jobs: impl IntoIterator<Item = Job>,
    ) -> Result<Vec<JobHandle>, SubmitAllError> {
        submit::try_submit_all(&self.engine, jobs)
    }
}

impl fmt::Debug for Submitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug(f, "Submitter", &self.engine)
    }
}

impl std::panic::UnwindSafe for Submitter {}
impl std::panic::RefUnwindSafe for Submitter {}

/// Shows what can be told without a lock.
fn debug(f: &mut fmt::Formatter<'_>, name: &str, engine: &Engine) -> fmt::Result {
    f.debug_struct(name)
        .field("workers", &engine.workers)
        .field("queue_len", &engine.queue.len())
        .field("phase", &engine.queue.phase())
        .finish_non_exhaustive()
}

/// What the models put together themselves.
#[cfg(all(test, loom))]
pub(crate) mod parts {
    use super::*;

    pub(crate) use super::shutdown::Closing;

    pub(crate) fn submit(engine: &Arc<Engine>, job: Job) -> Result<JobHandle, SubmitError> {
        submit::submit(engine, job)
    }

    pub(crate) fn shutdown(engine: &Arc<Engine>, closing: &Closing, how: Shutdown) -> ShutdownReport {
        shutdown::shutdown(engine, closing, how)
    }

    pub(crate) fn try_submit(engine: &Arc<Engine>, job: Job) -> Result<JobHandle, SubmitError> {
        submit::try_submit(engine, job)
    }

    /// What the delegator thread does about it.
    pub(crate) fn worker_stopped(closing: &Closing, worker: usize) {
        if closing.worker_stopped(worker) {
            closing.workers_joined();
        }
    }

    pub(crate) fn stats(engine: &Engine) -> Stats {
        stats::stats(engine)
    }
}
