//! What is to be done: an operation, its name and its context.

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use crate::clock::{Tick, WallOffset};
use crate::context::Context;
use crate::error::Error;
use crate::extras::{Extras, Retrying, Start, When};
use crate::id::JobId;
use crate::periodic::DueTick;
use crate::priority::{Level, Priority};
use crate::retry::Retry;
use crate::sync::{Arc, Unshared};

/// What a job runs.
///
/// Closures are operations through [`Job::new`]; implement the trait for operations that are types of their own. `run` takes
/// `&self`, so a job that was refused or handed back can be submitted again.
///
/// # Examples
///
/// ```
/// use std::borrow::Cow;
/// use workpath::{Context, Delegator, Error, Job, Operation};
///
/// struct Checksum(Vec<u8>);
///
/// impl Operation for Checksum {
///     fn run(&self, ctx: &Context) -> Result<Vec<u8>, Error> {
///         let mut sum = 0_u8;
///         for chunk in self.0.chunks(4096) {
///             ctx.check()?;
///             sum = chunk.iter().fold(sum, |sum, byte| sum.wrapping_add(*byte));
///         }
///         Ok(vec![sum])
///     }
///
///     fn name(&self) -> Cow<'_, str> {
///         Cow::Owned(format!("checksum of {} bytes", self.0.len()))
///     }
/// }
///
/// let delegator = Delegator::builder().workers(1).build()?;
/// let handle = delegator.submit(Job::from_operation(Checksum(vec![1, 2, 3])))?;
/// assert_eq!(handle.name(), "checksum of 3 bytes");
/// assert_eq!(handle.join()?, [6]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Operation: Send + 'static {
    /// Does the work. Runs on a worker's thread; look at `ctx` often enough to stop in time.
    ///
    /// # Errors
    ///
    /// Whatever keeps the work from being done; the context's own error (`ctx.check()?`) when it is done early.
    fn run(&self, ctx: &Context) -> Result<Vec<u8>, Error>;

    /// What the job is called in records and logs: the name of the type unless overridden. Asked once, by
    /// [`Job::from_operation`].
    fn name(&self) -> Cow<'_, str> {
        Cow::Borrowed(std::any::type_name::<Self>())
    }
}

/// An operation or a function, as jobs hold it.
pub(crate) trait Run: Send {
    fn run(&self, ctx: &Context) -> Result<Vec<u8>, Error>;

    /// Whether its drop does nothing that anybody could notice: it runs no code and frees little.
    fn is_plain(&self) -> bool;
}

/// The largest plain operation.
const PLAIN_BYTES: usize = 64;

const fn is_plain<T>() -> bool {
    !std::mem::needs_drop::<T>() && size_of::<T>() <= PLAIN_BYTES
}

struct Function<F>(F);

impl<F> Run for Function<F>
where
    F: Fn(&Context) -> Result<Vec<u8>, Error> + Send + 'static,
{
    fn run(&self, ctx: &Context) -> Result<Vec<u8>, Error> {
        (self.0)(ctx)
    }

    fn is_plain(&self) -> bool {
        is_plain::<F>()
    }
}

struct Typed<O>(O);

impl<O: Operation> Run for Typed<O> {
    fn run(&self, ctx: &Context) -> Result<Vec<u8>, Error> {
        self.0.run(ctx)
    }

    fn is_plain(&self) -> bool {
        is_plain::<O>()
    }
}

/// A named operation with the context it runs under, ready to be submitted.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use workpath::{Context, Delegator, Job};
///
/// let delegator = Delegator::builder().workers(1).build()?;
/// let ctx = Context::background().with_value("greeting", "hello");
/// let job = Job::new("greet", |ctx| {
///     let greeting = ctx.value::<&str>("greeting").ok_or("no greeting")?;
///     Ok(format!("{greeting}, world").into_bytes())
/// })
/// .with_context(&ctx)
/// .with_timeout(Duration::from_secs(1));
///
/// assert_eq!(delegator.submit(job)?.join()?, b"hello, world");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a job does nothing until it is submitted"]
pub struct Job {
    pub(crate) id: JobId,
    pub(crate) name: Cow<'static, str>,
    pub(crate) created: Tick,
    pub(crate) wall: WallOffset,
    pub(crate) operation: Unshared<Box<dyn Run>>,
    pub(crate) context: Context,
    pub(crate) extras: Option<Box<Extras>>,
}

impl Job {
    /// A job that runs this function, under the background context. Its id and creation time are fixed here.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::Job;
    ///
    /// let job = Job::new("answer", |_| Ok(vec![42]));
    /// assert_eq!(job.name(), "answer");
    /// ```
    pub fn new(
        name: impl Into<Cow<'static, str>>,
        operation: impl Fn(&Context) -> Result<Vec<u8>, Error> + Send + 'static,
    ) -> Job {
        Job::create(name.into(), Box::new(Function(operation)))
    }

    /// A job that runs this operation under its own name.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Context, Error, Job, Operation};
    ///
    /// struct Nothing;
    ///
    /// impl Operation for Nothing {
    ///     fn run(&self, _: &Context) -> Result<Vec<u8>, Error> {
    ///         Ok(Vec::new())
    ///     }
    /// }
    ///
    /// assert!(Job::from_operation(Nothing).name().ends_with("Nothing"));
    /// ```
    pub fn from_operation(operation: impl Operation) -> Job {
        let name = Cow::Owned(operation.name().into_owned());
        Job::create(name, Box::new(Typed(operation)))
    }

    fn create(name: Cow<'static, str>, operation: Box<dyn Run>) -> Job {
        let created = Tick::now();
        let wall = WallOffset::current(created);
        let operation = Unshared::new(operation);
        let id = JobId::next(wall.unix_millis(created));
        Job { id, name, created, wall, operation, context: Context::background(), extras: None }
    }

    /// Runs the job under this context: its values, its cancellation, and its deadline unless the job's is earlier.
    /// A second call replaces the values and the cancellation.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Context, Job};
    ///
    /// let ctx = Context::background().with_value("user", 7_u32);
    /// let job = Job::new("profile", |_| Ok(Vec::new())).with_context(&ctx);
    /// assert_eq!(job.context().value::<u32>("user"), Some(&7));
    /// ```
    pub fn with_context(mut self, context: &Context) -> Job {
        let deadline = self.context.deadline_tick();
        self.context = context.clone();
        self.context.limit(deadline);
        self
    }

    /// Gives the job this much time from now, queueing included. The earliest deadline wins; zero is over at once,
    /// [`Duration::MAX`] is no limit.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::Job;
    ///
    /// let job = Job::new("fetch", |_| Ok(Vec::new())).with_timeout(Duration::from_secs(5));
    /// assert!(job.context().remaining().is_some());
    /// ```
    pub fn with_timeout(mut self, timeout: Duration) -> Job {
        self.context.limit(Tick::now().after(timeout));
        self
    }

    /// Gives the job time until this instant, queueing included. The earliest deadline wins.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use workpath::Job;
    ///
    /// let deadline = Instant::now() + Duration::from_secs(5);
    /// let job = Job::new("fetch", |_| Ok(Vec::new())).with_deadline(deadline);
    /// assert_eq!(job.context().deadline(), Some(deadline));
    /// ```
    pub fn with_deadline(mut self, deadline: Instant) -> Job {
        self.context.limit(Tick::from(deadline));
        self
    }

    /// Has the job start no earlier than this long after its submission. Until then it is
    /// [`Scheduled`](crate::JobState::Scheduled): it takes no place in the queue and no worker. Its deadline and a
    /// cancel end it all the same; a default timeout counts from when it is due. Of several calls of this and
    /// [`not_before`](Job::not_before) the last counts. [`Duration::MAX`] is never.
    ///
    /// When it is due it is queued behind what is queued already, also where there is no room: those who wait for room come
    /// after it.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::{Delegator, Job, JobState};
    ///
    /// let delegator = Delegator::manual();
    /// let job = Job::new("remind", |_| Ok(Vec::new())).with_delay(Duration::from_secs(60));
    /// let handle = delegator.submit(job)?;
    /// assert_eq!(handle.state(), JobState::Scheduled);
    /// delegator.advance(Duration::from_secs(60));
    /// assert_eq!(handle.state(), JobState::Completed);
    /// # Ok::<(), workpath::SubmitError>(())
    /// ```
    pub fn with_delay(self, delay: Duration) -> Job {
        self.when(Start::After(delay))
    }

    /// Has the job start no earlier than at this time, an [`Instant`] or a [`SystemTime`]: see
    /// [`with_delay`](Job::with_delay). A time that has passed changes nothing.
    ///
    /// A `SystemTime` is a time of the wall clock, also when somebody sets that meanwhile: for as long as a job waits
    /// for one, the delegator thread looks at the wall clock every 30 seconds, so after a step forward the job is late
    /// by that much at the most. A default timeout counts from when the job was going to be due by the clock at its
    /// submission.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::{Duration, Instant, SystemTime};
    /// use workpath::{Delegator, Job};
    ///
    /// let delegator = Delegator::builder().workers(1).build()?;
    /// let start = Instant::now() + Duration::from_millis(5);
    /// delegator.submit(Job::new("later", |_| Ok(Vec::new())).not_before(start))?.wait();
    /// assert!(Instant::now() >= start);
    ///
    /// let start = SystemTime::now() + Duration::from_millis(5);
    /// delegator.submit(Job::new("later", |_| Ok(Vec::new())).not_before(start))?.wait();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn not_before(self, time: impl Into<When>) -> Job {
        self.when(time.into().0)
    }

    fn when(mut self, when: Start) -> Job {
        self.extras.get_or_insert_default().when = Some(when);
        self
    }

    /// What takes a tick to a worker.
    pub(crate) fn of_tick(tick: DueTick) -> Job {
        let mut job = Job::new("tick", |_| Ok(Vec::new()));
        job.extras.get_or_insert_default().tick = Some(tick);
        job
    }

    /// Has the job tried again when it fails or panics, as the policy says. A second call replaces the policy.
    ///
    /// Between two attempts the job is [`Scheduled`](crate::JobState::Scheduled): it takes no worker, and its deadline, a
    /// cancel or a shutdown ends it as it ends a job [with a delay](Job::with_delay). The deadline is one for all attempts;
    /// where the next would start no earlier than at the deadline, or the delegator's
    /// [budget](crate::Builder::retry_budget) is used up, the job ends with the error that it has. So it does when its
    /// context is done. The operation decides with [`Error::permanent`](crate::Error::permanent) and
    /// [`Error::retry_after`](crate::Error::retry_after).
    ///
    /// The job has one outcome and one record, which knows the [attempts](crate::JobRecord::earlier_attempts). Its operation
    /// runs more than once, so it must bear a repetition. What it registered with its context is dropped with the attempt.
    ///
    /// It costs an allocation for the job, another per attempt, and a lock or two of the delegator's per retry.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::atomic::{AtomicU32, Ordering};
    /// use std::time::Duration;
    /// use workpath::{Delegator, Job, Retry};
    ///
    /// let delegator = Delegator::manual();
    /// let calls = AtomicU32::new(0);
    /// let flaky = Job::new("flaky", move |_| match calls.fetch_add(1, Ordering::Relaxed) {
    ///     0 | 1 => Err("connection refused".into()),
    ///     _ => Ok(vec![42]),
    /// });
    /// let record = delegator.submit(flaky.with_retry(Retry::exponential(Duration::from_secs(1))))?.wait();
    /// assert_eq!((record.payload(), record.attempts()), (Some(&[42][..]), 3));
    /// # Ok::<(), workpath::SubmitError>(())
    /// ```
    pub fn with_retry(mut self, policy: Retry) -> Job {
        let retry = Some(Box::new(Retrying { policy, scoped: false }));
        self.extras.get_or_insert_default().retry = retry;
        self
    }

    /// Has the job start before or after others that wait: of the jobs in the queue, those of a higher priority are taken
    /// first, and those of the same priority in the order in which they came in. A second call replaces the first.
    ///
    /// No job is left waiting for ever. Of jobs that wait at a level, the first is passed over for higher ones a limited
    /// number of times in a row: 8 if it is normal, 32 if it is low. Then it is taken; if both are due, the low one goes
    /// first. So a delegator that never runs out of jobs of high priority starts a normal one after every 8 of them, and
    /// low ones and normal ones that are always there share in the ratio of 1 to 32.
    ///
    /// Each priority has the whole capacity of the queue for itself, and a line of its own for submitters that find it full:
    /// a backlog of low ones keeps no other job out. With a [capacity](crate::Builder::queue_capacity) of zero nothing waits
    /// in the queue, so the priority changes nothing. It says nothing about jobs that run already, nor about a job that is
    /// run where somebody waits for it.
    ///
    /// It costs an allocation for the job, unless another option has made one, and a lock in and out of the queue; from the
    /// first such job on, every job of the delegator costs a look at the other levels.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Delegator, Job, Priority};
    ///
    /// let delegator = Delegator::builder().workers(1).build()?;
    /// let tidy = Job::new("tidy up", |_| Ok(Vec::new())).with_priority(Priority::Low);
    /// let reply = Job::new("reply", |_| Ok(vec![1])).with_priority(Priority::High);
    /// let tidy = delegator.submit(tidy)?;
    /// assert_eq!(delegator.submit(reply)?.join()?, [1]);
    /// assert!(tidy.join().is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_priority(mut self, priority: Priority) -> Job {
        if priority != self.priority() {
            self.extras.get_or_insert_default().priority = priority;
        }
        self
    }

    /// Has the job run only while no other job with the same key does, or few others: as many as
    /// [`Builder::key_limit`](crate::Builder::key_limit) or [`with_key_limit`](Job::with_key_limit) says, one unless told
    /// otherwise. For work on one thing at a time: a tenant, a device, a file. A second call replaces the key.
    ///
    /// Jobs with the same key start in the order of their submission, whatever their priorities. Those that have to wait for
    /// each other keep no worker and hold up nobody else; they are queued, and take places in the queue. When a job with a
    /// key ends, the next with that key lines up behind what waits already: a thousand jobs with one key do not keep the
    /// first with another waiting.
    ///
    /// Jobs with a key and of normal priority have the whole capacity of the queue for themselves, as each
    /// [priority](crate::Priority) has, and take turns with those that have none. Those of high or low priority share the
    /// places and the order of their priority with the others. A [delayed](Job::with_delay) job has its key from when it
    /// is due.
    ///
    /// # Inside jobs
    ///
    /// A job that has a key and waits for another with that key lends it to that other, which then runs at once, before
    /// those that wait for the key. A job that waits for one that others with its key precede runs those others first, if
    /// nobody runs them yet. Jobs that hold a key and wait for jobs with other keys, held in turn by jobs that wait for the
    /// first, wait for ever, as with locks. A job that is submitted onto a full queue from inside a job is run at once; one
    /// with a key is queued all the same, beyond the capacity.
    ///
    /// With a [capacity](crate::Builder::queue_capacity) of zero nothing waits in the queue: then a job is accepted only
    /// when its key is free, too. A submission from inside a job runs what has the key and waits for a worker, and may have to
    /// wait for what runs.
    ///
    /// It costs the job an allocation, unless another option has made one, and some locks and look-ups on its way; a
    /// delegator whose jobs have no keys pays nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::{Arc, Mutex};
    /// use workpath::{Delegator, Job};
    ///
    /// let delegator = Delegator::builder().workers(4).build()?;
    /// let log = Arc::new(Mutex::new(Vec::new()));
    /// for n in 0..100 {
    ///     let log = Arc::clone(&log);
    ///     let job = Job::new("append", move |_| {
    ///         log.lock().unwrap().push(n);
    ///         Ok(Vec::new())
    ///     });
    ///     let _ = delegator.submit(job.with_key("log"))?;
    /// }
    /// delegator.wait_idle();
    /// assert_eq!(*log.lock().unwrap(), (0..100).collect::<Vec<_>>());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_key(mut self, key: impl Into<Arc<str>>) -> Job {
        self.extras.get_or_insert_default().key = Some(key.into());
        self
    }

    /// Has the job run while fewer than so many others with its key do, instead of what
    /// [`Builder::key_limit`](crate::Builder::key_limit) says. Zero is one; without a [key](Job::with_key) it changes
    /// nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(4).build()?;
    /// let fetch = Job::new("fetch", |_| Ok(Vec::new())).with_key("example.org").with_key_limit(2);
    /// assert_eq!(fetch.key(), Some("example.org"));
    /// delegator.submit(fetch)?.wait();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_key_limit(mut self, jobs: usize) -> Job {
        self.extras.get_or_insert_default().key_limit = Some(jobs);
        self
    }

    /// The job's identity. It keeps it when it is refused or handed back.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Delegator, Job};
    ///
    /// let delegator = Delegator::builder().workers(1).build()?;
    /// let job = Job::new("work", |_| Ok(Vec::new()));
    /// let id = job.id();
    /// assert_eq!(delegator.submit(job)?.id(), id);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn id(&self) -> JobId {
        self.id
    }

    /// What the job is called in records and logs.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Job;
    /// assert_eq!(Job::new("resize", |_| Ok(Vec::new())).name(), "resize");
    /// ```
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How urgent the job is.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Job, Priority};
    /// let job = Job::new("resize", |_| Ok(Vec::new()));
    /// assert_eq!(job.priority(), Priority::Normal);
    /// assert_eq!(job.with_priority(Priority::Low).priority(), Priority::Low);
    /// ```
    pub fn priority(&self) -> Priority {
        self.extras.as_ref().map_or(Priority::Normal, |extras| extras.priority)
    }

    /// The key of the job, if it has one.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Job;
    /// let job = Job::new("resize", |_| Ok(Vec::new()));
    /// assert_eq!(job.key(), None);
    /// assert_eq!(job.with_key("cat.jpg").key(), Some("cat.jpg"));
    /// ```
    pub fn key(&self) -> Option<&str> {
        self.extras.as_ref()?.key.as_deref()
    }

    pub(crate) fn level(&self) -> Level {
        self.extras.as_ref().map_or(Level::Normal, |extras| extras.level())
    }

    /// When the job was made, by the wall clock.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Job;
    /// let age = Job::new("resize", |_| Ok(Vec::new())).created_at().elapsed();
    /// assert!(age.is_ok());
    /// ```
    pub fn created_at(&self) -> SystemTime {
        self.wall.time(self.created)
    }

    /// The context the job will run under, with the earliest of its deadlines.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Job;
    /// assert!(!Job::new("resize", |_| Ok(Vec::new())).context().is_done());
    /// ```
    pub fn context(&self) -> &Context {
        &self.context
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}
