//! How to make a delegator.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::num::NonZero;
use std::time::Duration;

use crate::delegator::{Delegator, Manual, Plan};
use crate::engine::Settings;
use crate::registry::Retention;
use crate::retry::RetryBudget;
use crate::sync::Arc;
use crate::worker::Hook;

/// Sets up a [`Delegator`]; see [`Delegator::builder`].
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use workpath::{Delegator, Retention};
///
/// let delegator = Delegator::builder()
///     .workers(4)
///     .queue_capacity(256)
///     .default_timeout(Duration::from_secs(30))
///     .retain(Retention::last(100))
///     .thread_name("import")
///     .build()?;
/// # Ok::<(), workpath::BuildError>(())
/// ```
#[must_use = "nothing is started before build()"]
pub struct Builder {
    workers: Option<usize>,
    replacements: usize,
    queue_capacity: usize,
    retention: Retention,
    settings: Settings,
    thread_name: String,
    stack_size: Option<usize>,
    on_worker_start: Option<Hook>,
    on_worker_stop: Option<Hook>,
}

impl Delegator {
    /// A builder with the defaults: as many workers as the machine runs threads in parallel, a queue of 1,024 jobs, the
    /// records of the last 1,024, no timeout, threads named `workpath-0`, `workpath-1`, ... with the standard library's
    /// stack size.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::Delegator;
    ///
    /// let delegator = Delegator::builder().build()?;
    /// assert!(!delegator.workers().is_empty());
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn builder() -> Builder {
        Builder {
            workers: None,
            replacements: 0,
            queue_capacity: 1024,
            retention: Retention::default(),
            settings: Settings {
                default_timeout: None,
                latencies: None,
                refuse_hopeless: false,
                key_limit: 1,
                retry_budget: RetryBudget::default(),
                stuck_after: Duration::from_secs(10),
            },
            thread_name: "workpath".to_owned(),
            stack_size: None,
            on_worker_start: None,
            on_worker_stop: None,
        }
    }
}

impl Builder {
    /// How many worker threads there are, from the first job to the last. Zero is an error of [`build`](Builder::build).
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Delegator;
    /// assert_eq!(Delegator::builder().workers(3).build()?.workers().len(), 3);
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn workers(mut self, count: usize) -> Builder {
        self.workers = Some(count);
        self
    }

    /// How many jobs may wait for a worker, of each [priority](crate::Priority). With zero, a job is accepted only when
    /// a worker is free to take it. [Scheduled](crate::Job::with_delay) jobs come on top: when they are due, they are
    /// queued also where there is no room. The memory for the queue, two words a place, is taken by
    /// [`build`](Builder::build); that for jobs of high and low priority when there are some.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// let hand_off = Delegator::builder().workers(1).queue_capacity(0).build()?;
    /// assert!(hand_off.try_submit(Job::new("work", |_| Ok(Vec::new()))).is_ok());
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn queue_capacity(mut self, jobs: usize) -> Builder {
        self.queue_capacity = jobs;
        self
    }

    /// Which records of finished jobs are kept.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Retention};
    /// let delegator = Delegator::builder().workers(1).retain(Retention::none()).build()?;
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn retain(mut self, retention: Retention) -> Builder {
        self.retention = retention;
        self
    }

    /// Gives every job that has no deadline this much time from its submission. [`Duration::MAX`] is no limit.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// # use workpath::{Delegator, Job, JobState};
    /// let delegator = Delegator::builder().workers(1).default_timeout(Duration::from_millis(5)).build()?;
    /// let nap = Job::new("nap", |ctx| ctx.sleep(Duration::from_secs(60)).map(|()| Vec::new()));
    /// assert_eq!(delegator.submit(nap)?.wait().state(), JobState::TimedOut);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn default_timeout(mut self, timeout: Duration) -> Builder {
        self.settings.default_timeout = Some(timeout);
        self
    }

    /// How long an operation may go on after the end of its context, its deadline or a cancel, before it counts as stuck: 10
    /// seconds by default, [`Duration::MAX`] is for ever.
    ///
    /// Such a job is reported once: by a line in the log at `warn` with its name, its id, its worker and its last
    /// [checkpoint](crate::Context::checkpoint), and as [`Event::Stuck`](crate::Event::Stuck). While it goes on it is
    /// in [`Stats::stuck`](crate::Stats::stuck), and [`WorkerStatus::stuck`](crate::WorkerStatus::stuck) of its worker
    /// is set. Of jobs that wait for others which they run inline, each is looked at on its own. An operation that
    /// never looks at its context, and is done in time, is no concern of this; one without a deadline that nobody
    /// cancels never is.
    ///
    /// Nobody watches a clock: the delegator's thread sleeps until the margin of a running job may be over, so it wakes
    /// up about once in that time while there are jobs with deadlines. A job with a deadline takes a look at one number
    /// in memory for it, one without takes nothing; cancelling a context that jobs ran under takes a lock of the
    /// process. The line in the log is written by a thread of its own, since loggers may hang.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::{Delegator, Event, Job};
    ///
    /// let delegator = Delegator::builder().workers(1).stuck_after(Duration::from_millis(20)).build()?;
    /// let events = delegator.subscribe(100);
    /// let deaf = Job::new("deaf", |_| {
    ///     std::thread::sleep(Duration::from_secs(1));
    ///     Ok(Vec::new())
    /// });
    /// let deaf = delegator.submit(deaf.with_timeout(Duration::from_millis(250)))?;
    /// let stuck = events.iter().find_map(|event| match event {
    ///     Event::Stuck { id, .. } => Some(id),
    ///     _ => None,
    /// });
    /// assert_eq!(stuck, Some(deaf.id()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stuck_after(mut self, margin: Duration) -> Builder {
        self.settings.stuck_after = margin;
        self
    }

    /// How many workers may be replaced while the delegator lives, because a [stuck](Builder::stuck_after) job keeps
    /// them: by default none. Each report of a stuck job starts a fresh worker then, so that the queue goes on, and
    /// [`Event::WorkerReplaced`](crate::Event::WorkerReplaced) tells it.
    ///
    /// The worker that is kept goes on with its job, whose outcome counts as always, and ends after it; so do the jobs
    /// that it was in already, if that one ran inside others. If the job comes back at the moment at which its worker
    /// is replaced, the worker may do one more. A fresh worker has an index and a name of its own, behind those of the
    /// others, and [`on_worker_start`](Builder::on_worker_start) and [`on_worker_stop`](Builder::on_worker_stop) are
    /// called for it too. [`Delegator::workers`] shows both while there are both. A thread that the system does not
    /// start is a line in the log, and another attempt is made for the next job that is stuck.
    ///
    /// Costs a kilobyte for each, and nothing for a job. A [`manual`](Builder::manual) delegator replaces nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::{Delegator, Job};
    ///
    /// let delegator =
    ///     Delegator::builder().workers(1).stuck_after(Duration::from_millis(10)).replacements(1).build()?;
    /// let deaf = Job::new("deaf", |_| {
    ///     std::thread::sleep(Duration::from_secs(1));
    ///     Ok(Vec::new())
    /// });
    /// let deaf = delegator.submit(deaf.with_timeout(Duration::from_millis(250)))?;
    /// let next = delegator.submit(Job::new("next", |_| Ok(Vec::new())))?;
    /// assert_eq!(next.wait().worker(), Some(1));
    /// assert_eq!(deaf.wait().worker(), Some(0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn replacements(mut self, count: usize) -> Builder {
        self.replacements = count;
        self
    }

    /// Records how long jobs wait and run, for [`Delegator::latencies`]. Off by default. It costs each job three counts
    /// in memory of its worker's own, some 17 KiB a worker, and no lock; a job that never starts takes one. `false`
    /// takes back what was asked for before, by name too.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Delegator;
    /// let delegator = Delegator::builder().workers(1).latencies(true).build()?;
    /// assert_eq!(delegator.latencies().queue_time.count(), 0);
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn latencies(mut self, record: bool) -> Builder {
        self.settings.latencies = record.then(|| self.settings.latencies.unwrap_or(0));
        self
    }

    /// Refuses a job with a deadline, with [`SubmitError::WouldMissDeadline`](crate::SubmitError::WouldMissDeadline),
    /// when it would not start in time: when its deadline is nearer than the queue is long. Off by default.
    ///
    /// The queue is taken to last as long as the jobs in it, of the job's [priority](crate::Priority) or higher, at the run
    /// time of late, shared by the workers. The run time of late is the mean over the workers of an average in which each
    /// run counts for an eighth. So it is an estimate: jobs of very different lengths make it a poor one, and until a job
    /// has run, nothing is refused. A job that would be the next to start is never refused, nor one with a delay. It costs
    /// each job a few nanoseconds.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::{Delegator, Job, SubmitError};
    ///
    /// let delegator = Delegator::builder().refuse_hopeless(true).manual()?;
    /// let nap = || Job::new("nap", |ctx| ctx.sleep(Duration::from_secs(10)).map(|()| Vec::new()));
    /// delegator.submit(nap())?.wait(); // now it knows how long they take
    /// for _ in 0..6 {
    ///     let _ = delegator.submit(nap())?;
    /// }
    /// let refused = delegator.submit(nap().with_timeout(Duration::from_secs(59))); // 60 to wait
    /// assert!(matches!(refused, Err(SubmitError::WouldMissDeadline(_))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn refuse_hopeless(mut self, refuse: bool) -> Builder {
        self.settings.refuse_hopeless = refuse;
        self
    }

    /// Records what [`latencies`](Builder::latencies) does, and the same for each name of a job, for
    /// [`Delegator::latencies_by_name`]: so many names at the most, those that come first. All other names share one more
    /// entry. Zero, the default, is none.
    ///
    /// It costs each job a hash of its name and three counts more, and 17 KiB for each name on each worker that has run it.
    /// A job whose name found no room takes a lock.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// let delegator = Delegator::builder().workers(1).latencies_by_name(100).build()?;
    /// delegator.submit(Job::new("resize", |_| Ok(Vec::new())))?.wait();
    /// for (name, latencies) in &delegator.latencies_by_name().names {
    ///     println!("{name} ran {}", latencies.run_time);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn latencies_by_name(mut self, max_names: usize) -> Builder {
        if self.settings.latencies.is_some() || max_names > 0 {
            self.settings.latencies = Some(max_names);
        }
        self
    }

    /// How many jobs with the same [key](crate::Job::with_key) may run at a time, unless the job says otherwise. One by
    /// default; zero is one.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// let delegator = Delegator::builder().workers(8).key_limit(2).build()?;
    /// for n in 0..100 {
    ///     // Eight at a time, but never more than two from one host.
    ///     let host = if n % 10 == 0 { "rare.example" } else { "busy.example" };
    ///     let _ = delegator.submit(Job::new("fetch", |_| Ok(Vec::new())).with_key(host))?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn key_limit(mut self, jobs: usize) -> Builder {
        self.settings.key_limit = jobs;
        self
    }

    /// Limits how often jobs are tried again, whatever their own policies say: a fifth of a retry per job and ten a second,
    /// unless told otherwise.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::{Delegator, GaveUp, Job, Retry, RetryBudget};
    ///
    /// let delegator = Delegator::builder().workers(1).retry_budget(RetryBudget::new(0.0, 0)).build()?;
    /// let job = Job::new("broken", |_| Err("no".into())).with_retry(Retry::fixed(Duration::ZERO));
    /// assert_eq!(delegator.submit(job)?.wait().gave_up(), Some(GaveUp::Budget));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn retry_budget(mut self, budget: RetryBudget) -> Builder {
        self.settings.retry_budget = budget;
        self
    }

    /// What the threads are called: `NAME-0`, `NAME-1`, ... and `NAME-d` for the delegator's own. Linux shows the first 15
    /// bytes. A NUL byte in it is an error of [`build`](Builder::build).
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Delegator;
    /// let delegator = Delegator::builder().workers(1).thread_name("scan").build()?;
    /// assert_eq!(delegator.workers()[0].thread_name, "scan-0");
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn thread_name(mut self, name: impl Into<String>) -> Builder {
        self.thread_name = name.into();
        self
    }

    /// The stack size of the workers in bytes. The system may round it up.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Delegator;
    /// let small = Delegator::builder().workers(2).stack_size(64 * 1024).build()?;
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn stack_size(mut self, bytes: usize) -> Builder {
        self.stack_size = Some(bytes);
        self
    }

    /// Calls this on each worker's thread before its first job, with the worker's index. A panic in it is logged, and the
    /// worker works. A second call replaces the function.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Delegator;
    /// let delegator = Delegator::builder().workers(1).on_worker_start(|index| println!("worker {index}")).build()?;
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn on_worker_start(mut self, hook: impl Fn(usize) + Send + Sync + 'static) -> Builder {
        self.on_worker_start = Some(Arc::new(hook));
        self
    }

    /// Calls this on each worker's thread after its last job, with the worker's index. A panic in it is logged. A
    /// second call replaces the function.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Delegator;
    /// let delegator = Delegator::builder().workers(1).on_worker_stop(|index| println!("bye {index}")).build()?;
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn on_worker_stop(mut self, hook: impl Fn(usize) + Send + Sync + 'static) -> Builder {
        self.on_worker_stop = Some(Arc::new(hook));
        self
    }

    /// Starts the delegator: its own thread and the workers.
    ///
    /// # Errors
    ///
    /// Zero workers, a thread name with a NUL byte, a queue that memory cannot hold, and a thread that the system does not
    /// start. None of them leaves a thread behind.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Delegator;
    /// let error = Delegator::builder().workers(0).build().unwrap_err();
    /// assert_eq!(error.to_string(), "workers(0): a delegator needs at least one worker");
    /// ```
    pub fn build(self) -> Result<Delegator, BuildError> {
        Delegator::start(self.plan()?).map_err(|(thread, error)| BuildError(Kind::Spawn(thread, error)))
    }

    /// Makes a [`Manual`] delegator with these settings: no threads, and a clock that the calling thread turns. It is one
    /// worker, whatever [`workers`](Builder::workers) says.
    ///
    /// # Errors
    ///
    /// As [`build`](Builder::build), but for threads, which it does not start.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Delegator, Job, SubmitError};
    ///
    /// let delegator = Delegator::builder().queue_capacity(1).manual()?;
    /// let _first = delegator.try_submit(Job::new("first", |_| Ok(Vec::new())))?;
    /// let second = delegator.try_submit(Job::new("second", |_| Ok(Vec::new())));
    /// assert!(matches!(second, Err(SubmitError::Full(_))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn manual(self) -> Result<Manual, BuildError> {
        let plan = self.plan()?;
        Ok(Manual::new(Plan { workers: 1, replacements: 0, ..plan }))
    }

    fn plan(self) -> Result<Plan, BuildError> {
        let Builder { workers, replacements, queue_capacity, retention, settings, thread_name, .. } = self;
        let workers = workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, NonZero::get));
        if workers == 0 {
            return Err(BuildError(Kind::NoWorkers));
        }
        if thread_name.contains('\0') {
            return Err(BuildError(Kind::ThreadName(thread_name)));
        }
        if !can_be_allocated::<Worker>(workers) {
            return Err(BuildError(Kind::TooMany("workers", workers)));
        }
        if !can_be_allocated::<Worker>(workers.saturating_add(replacements)) {
            return Err(BuildError(Kind::TooMany("replacements", replacements)));
        }
        if !can_be_allocated::<Place>(queue_capacity) {
            return Err(BuildError(Kind::TooMany("queue_capacity", queue_capacity)));
        }
        Ok(Plan {
            workers,
            replacements,
            queue_capacity,
            retention,
            settings,
            thread_name,
            stack_size: self.stack_size,
            on_worker_start: self.on_worker_start,
            on_worker_stop: self.on_worker_stop,
        })
    }
}

/// As much as the queue needs for a job: a stamp and a pointer.
type Place = [usize; 2];

/// More than a delegator needs for a worker, its stack aside.
type Worker = [u8; 2048];

/// Whether there is memory for so many. To try and fail would abort the process.
fn can_be_allocated<T>(count: usize) -> bool {
    Vec::<T>::new().try_reserve_exact(count).is_ok()
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // All fields by name, so that a new one is not forgotten.
        let Builder {
            workers,
            replacements,
            queue_capacity,
            retention,
            settings:
                Settings { default_timeout, latencies, refuse_hopeless, key_limit, retry_budget, stuck_after },
            thread_name,
            stack_size,
            on_worker_start,
            on_worker_stop,
        } = self;
        f.debug_struct("Builder")
            .field("workers", workers)
            .field("replacements", replacements)
            .field("queue_capacity", queue_capacity)
            .field("retention", retention)
            .field("default_timeout", default_timeout)
            .field("latencies", latencies)
            .field("refuse_hopeless", refuse_hopeless)
            .field("key_limit", key_limit)
            .field("retry_budget", retry_budget)
            .field("stuck_after", stuck_after)
            .field("thread_name", thread_name)
            .field("stack_size", stack_size)
            .field("on_worker_start", &on_worker_start.as_ref().map(|_| "<function>"))
            .field("on_worker_stop", &on_worker_stop.as_ref().map(|_| "<function>"))
            .finish()
    }
}

/// Why a [`Delegator`] was not built. `Display` names the setting and its value.
///
/// # Examples
///
/// ```
/// use workpath::Delegator;
///
/// let error = Delegator::builder().thread_name("a\0b").build().unwrap_err();
/// assert!(error.to_string().contains(r#""a\0b""#));
/// ```
#[derive(Debug)]
pub struct BuildError(Kind);

#[derive(Debug)]
enum Kind {
    NoWorkers,
    ThreadName(String),
    /// A number, by the name of its setter, that memory cannot hold.
    TooMany(&'static str, usize),
    /// A thread, by its name, that the system did not start.
    Spawn(String, io::Error),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::NoWorkers => f.write_str("workers(0): a delegator needs at least one worker"),
            Kind::ThreadName(name) => {
                write!(f, "thread_name({name:?}): a thread name cannot have a NUL byte")
            }
            Kind::TooMany(setter, number) => write!(f, "{setter}({number}): more than memory can hold"),
            Kind::Spawn(thread, error) => write!(f, "thread {thread:?} cannot be started: {error}"),
        }
    }
}

impl StdError for BuildError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.0 {
            Kind::Spawn(_, error) => Some(error),
            Kind::NoWorkers | Kind::ThreadName(_) | Kind::TooMany(..) => None,
        }
    }
}

impl From<BuildError> for crate::Error {
    fn from(error: BuildError) -> crate::Error {
        crate::Error::new(error)
    }
}
