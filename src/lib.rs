//! Background jobs for programs without an async runtime.
//!
//! A [`Job`] is a named operation with a [`Context`]: values, a deadline, and a way to be told to stop. A [`Delegator`] runs
//! jobs on a fixed set of threads behind a bounded queue. Every job has an identity, a state and times, and ends exactly
//! once, with an outcome that can be waited for, looked up and explained.
//!
//! * [Hello world](#hello-world)
//! * [Jobs and operations](#jobs-and-operations)
//! * [Contexts](#contexts): [values](#values), [deadlines](#deadlines), [cancellation](#cancellation),
//!   [waiting](#waiting-inside-an-operation)
//! * [Submitting and back-pressure](#submitting-and-back-pressure)
//! * [Handles and records](#handles-and-records)
//! * [Sets of jobs](#sets-of-jobs)
//! * [Jobs inside jobs](#jobs-inside-jobs)
//! * [Panics](#panics)
//! * [Shutdown](#shutdown)
//! * [Registry, retention and numbers](#registry-retention-and-numbers)
//! * [Inside a running job](#inside-a-running-job)
//! * [Records as data](#records-as-data)
//! * [Events](#events)
//! * [Logging](#logging)
//! * [Schedules](#schedules)
//! * [Retries](#retries)
//! * [Tests and time](#tests-and-time)
//! * [Beyond one process](#beyond-one-process)
//! * [Threads and cost](#threads-and-cost)
//! * [Out of reach](#out-of-reach)
//!
//! # Hello world
//!
//! ```
//! use workpath::{Delegator, Job};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let delegator = Delegator::builder().workers(2).build()?;
//!     let greeting = delegator.submit(Job::new("greeting", |_| Ok(b"hello".to_vec())))?;
//!     assert_eq!(greeting.join()?, b"hello");
//!     Ok(())
//! }
//! ```
//!
//! # Jobs and operations
//!
//! An operation is a function from a context to bytes or an error. It is an `Fn`, not an `FnOnce`, so that a job that was
//! refused or handed back can be submitted again. Most are closures, given to [`Job::new`] with a name; a type of its own
//! implements [`Operation`]. Errors come with `?` from texts and from most errors of the standard library, and any other
//! error through [`Error::new`].
//!
//! What an operation shares with the rest of the program it captures. The result travels as bytes; what is not bytes goes
//! through a channel or a lock that the operation captures.
//!
//! ```
//! use crossbeam_channel::bounded;
//! use workpath::{Delegator, Job};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let delegator = Delegator::builder().workers(2).build()?;
//! let (sender, lengths) = bounded(1);
//! let text = String::from("a job owns what it captures");
//! let count = Job::new("count", move |_| {
//!     sender.send(text.len()).map_err(workpath::Error::new)?;
//!     Ok(Vec::new())
//! });
//! println!("{} is {:?}", count.id(), count.name()); // the identity is there before the job is submitted
//! delegator.submit(count)?.join()?;
//! assert_eq!(lengths.recv()?, 27);
//! # Ok(())
//! # }
//! ```
//!
//! # Contexts
//!
//! Contexts form a tree, after the model of Go's `context` package. [`Context::background`] is a root; the `with_` methods
//! derive a child and leave the parent as it is. A child is done no later than its parent. A job gets a context through
//! [`Job::with_context`], and its operation sees it as its argument, with one difference: cancelling the job cancels what
//! the operation sees, not what the job was given.
//!
//! ## Values
//!
//! A value of any type that is `Send + Sync` goes with a context under a text as its key. A look-up answers from the nearest
//! ancestor that has the key; asked for another type, it answers `None`.
//!
//! ```
//! use workpath::Context;
//!
//! let app = Context::background().with_value("locale", "en").with_value("retries", 3_u32);
//! let request = app.with_value("locale", "fi");
//! assert_eq!(request.value::<&str>("locale"), Some(&"fi"));
//! assert_eq!(request.value::<u32>("retries"), Some(&3));
//! assert_eq!(request.value::<i64>("retries"), None);
//! ```
//!
//! ## Deadlines
//!
//! The earliest deadline counts: of the context, of the job ([`Job::with_timeout`], [`Job::with_deadline`]), or, for a job
//! without any, the delegator's [default](Builder::default_timeout). It covers the time in the queue. A job whose deadline
//! passes there ends as [`TimedOut`](JobState::TimedOut) and never starts, and whoever waits for it returns at the deadline,
//! however busy the workers are.
//!
//! A running operation is told, and decides. If it returns the context's error, the job is `TimedOut`; if it returns its
//! payload all the same, the job is `Completed`, and [`JobRecord::overrun`] says by how much it was late.
//!
//! ```
//! use std::time::Duration;
//! use workpath::{Delegator, Job, JobState};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let delegator = Delegator::builder().workers(1).build()?;
//! let endless = Job::new("endless", |ctx| loop {
//!     ctx.check()?;
//! });
//! let record = delegator.submit(endless.with_timeout(Duration::from_millis(10)))?.wait();
//! assert_eq!(record.state(), JobState::TimedOut);
//! # Ok(())
//! # }
//! ```
//!
//! ## Cancellation
//!
//! [`Context::with_cancel`] gives a [`Canceller`], which ends that context and everything derived from it, with a cause if
//! there is one to give. The first cancel counts, and between a cancel and a deadline the one that came first. A handle
//! cancels its one job. Cancelling is cooperative: nothing stops a thread that does not ask.
//!
//! ```
//! use std::time::Duration;
//! use workpath::{Context, Delegator, Job};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let delegator = Delegator::builder().workers(1).build()?;
//! let (session, canceller) = Context::background().with_cancel();
//! let poll = Job::new("poll", |ctx| loop {
//!     ctx.sleep(Duration::from_secs(60))?; // returns as soon as the context is done
//! });
//! let poll = delegator.submit(poll.with_context(&session))?;
//! canceller.cancel_with("the window was closed");
//! let error = poll.join().unwrap_err();
//! assert_eq!(error.to_string(), "cancelled: the window was closed");
//! assert!(error.why().unwrap().is_inherited()); // it was not the job that was cancelled, but its session
//! println!("{error:#}"); // and by whom, in which line, and how long ago
//! # Ok(())
//! # }
//! ```
//!
//! Every such error knows who ended the context, where in the source, and when: [`Error::why`]. The log line of a job that
//! was cancelled shows it.
//!
//! ## Waiting inside an operation
//!
//! [`check`](Context::check) is for loops. What blocks should block together with the context: [`sleep`](Context::sleep),
//! [`recv`](Context::recv), and [`done`](Context::done) as one arm of a [`crossbeam_channel::select!`]. For a call that only
//! takes a timeout there is [`io_timeout`](Context::io_timeout), and [`child_share`](Context::child_share) divides the time
//! that is left; for one that must be interrupted from outside (close a socket, kill a child process) there is
//! [`on_done`](Context::on_done).
//!
//! ```
//! use std::time::Duration;
//! use crossbeam_channel::{Receiver, select, unbounded};
//! use workpath::{Context, Error};
//!
//! fn first_of(ctx: &Context, left: &Receiver<u32>, right: &Receiver<u32>) -> Result<u32, Error> {
//!     select! {
//!         recv(left) -> number => Ok(number?),
//!         recv(right) -> number => Ok(number?),
//!         recv(ctx.done()) -> _ => Err(ctx.check().unwrap_err()),
//!     }
//! }
//!
//! let ((_to_left, left), (to_right, right)) = (unbounded(), unbounded());
//! let ctx = Context::background().with_timeout(Duration::from_millis(20));
//! to_right.send(7).unwrap();
//! assert_eq!(first_of(&ctx, &left, &right).unwrap(), 7);
//! assert!(first_of(&ctx, &left, &right).unwrap_err().is_timeout());
//! ```
//!
//! # Submitting and back-pressure
//!
//! The queue is bounded, by [`Builder::queue_capacity`]. When it is full, [`submit`](Delegator::submit) waits,
//! [`try_submit`](Delegator::try_submit) says so at once, and [`submit_timeout`](Delegator::submit_timeout) and
//! [`submit_deadline`](Delegator::submit_deadline) wait for a while. A refused job comes back inside the [`SubmitError`],
//! with its id, and can be submitted again, here or elsewhere. A capacity of zero is a hand-off: a job is accepted only when
//! a worker is free.
//!
//! [`submit_with`](Delegator::submit_with) has two more answers to a full queue, as an [`Overflow`]: the caller runs the job
//! itself, or the job that has waited longest gives way. With [`Builder::refuse_hopeless`], a job that would start after its
//! deadline is refused at once.
//!
//! [`submit_all`](Delegator::submit_all) submits many at once, for less than as many calls cost, and
//! [`try_submit_all`](Delegator::try_submit_all) those for which there is room.
//!
//! A [`Submitter`] submits and cannot shut anything down: what to give to other parts of a program, jobs included.
//!
//! ```
//! use workpath::{Delegator, Job, SubmitError};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let delegator = Delegator::builder().workers(1).queue_capacity(2).build()?;
//! let mut skipped = 0;
//! for n in 0..100 {
//!     match delegator.try_submit(Job::new(format!("frame {n}"), |_| Ok(Vec::new()))) {
//!         Ok(_handle) => {}
//!         Err(SubmitError::Full(_job)) => skipped += 1,
//!         Err(error) => return Err(error.into()),
//!     }
//! }
//! assert_eq!(delegator.stats().rejected, skipped);
//! # Ok(())
//! # }
//! ```
//!
//! ## Priorities
//!
//! [`Job::with_priority`] has a job start before or after others that wait. There are three levels, each with the whole
//! capacity for itself, and jobs that are passed over for long enough get their turn, so that none waits for ever.
//!
//! ```
//! use workpath::{Delegator, Job, Priority};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let delegator = Delegator::builder().workers(1).build()?;
//! let tidy = Job::new("tidy up", |_| Ok(Vec::new())).with_priority(Priority::Low);
//! let reply = Job::new("reply", |_| Ok(Vec::new())).with_priority(Priority::High);
//! for handle in [delegator.submit(tidy)?, delegator.submit(reply)?] {
//!     handle.wait();
//! }
//! assert_eq!(delegator.stats().places.low, 0);
//! # Ok(())
//! # }
//! ```
//!
//! ## Keys
//!
//! Jobs with the same [key](Job::with_key) run one at a time and in order, or [as few](Builder::key_limit) as one likes, and
//! keep no worker from others while they wait. [`coalesce`](Delegator::coalesce) asks for work that may be under way
//! already, and [`supersede`](Delegator::supersede) for work that makes what was asked before pointless.
//!
//! ```
//! use workpath::{Delegator, Job};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let delegator = Delegator::builder().workers(4).build()?;
//! for n in 0..30 {
//!     // Every tenant one at a time, and all tenants at once.
//!     let job = Job::new("invoice", |_| Ok(Vec::new())).with_key(format!("tenant-{}", n % 3));
//!     let _ = delegator.submit(job)?;
//! }
//! delegator.wait_idle();
//! assert_eq!(delegator.stats().completed, 30);
//! # Ok(())
//! # }
//! ```
//!
//! # Handles and records
//!
//! A [`JobHandle`] waits ([`wait`](JobHandle::wait), with a timeout, with a deadline, not at all, or as one arm of a
//! `select!` through [`done`](JobHandle::done)), tells the state, and cancels. Waiting gives a [`JobRecord`]: state,
//! payload or error, the three times and the durations between them, and the worker. [`join`](JobHandle::join) gives
//! just the result.
//!
//! A job is finished in a fixed order: what it captured is dropped, its record is in the registry, the numbers count it, and
//! only then does anybody who waits hear of it.
//!
//! ```
//! use std::sync::Arc;
//! use workpath::{Delegator, Job};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let delegator = Delegator::builder().workers(1).build()?;
//! let numbers = Arc::new([1_u8, 2, 3]);
//! let job = Job::new("sum", {
//!     let numbers = Arc::clone(&numbers);
//!     move |_| Ok(vec![numbers.iter().sum()])
//! });
//! let record = delegator.submit(job)?.wait();
//! assert_eq!(record.result().ok(), Some(&[6][..]));
//! assert_eq!(record.queue_time() + record.run_time(), record.round_trip_time());
//! assert_eq!(Arc::strong_count(&numbers), 1);
//! println!("{record}"); // job 0199... "sum" completed on worker 0: ran 1.2µs, round trip 8.4µs
//! # Ok(())
//! # }
//! ```
//!
//! # Sets of jobs
//!
//! A [`JobSet`] is for jobs that belong together: [`wait_all`](JobSet::wait_all) of them, the
//! [`next_finished`](JobSet::next_finished), the [`first_ok`](JobSet::first_ok) or the [`first_error`](JobSet::first_error),
//! which cancel the others. Dropping a set cancels what was not collected. [`JobSet::map`] makes a job of each item of an
//! iterator, few at a time, however many there are.
//!
//! ```
//! use std::time::Duration;
//! use workpath::{Context, Delegator, Job};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let delegator = Delegator::builder().workers(2).build()?;
//! let ctx = Context::background().with_timeout(Duration::from_secs(60));
//! let mut parts = delegator.job_set().with_context(&ctx);
//! for name in ["index", "images"] {
//!     parts.submit(Job::new(name, move |_| Ok(name.as_bytes().to_vec())))?;
//! }
//! match parts.first_error() {
//!     Ok(records) => assert_eq!(records[1].payload(), Some(&b"images"[..])),
//!     Err(record) => println!("{record}"), // the others are cancelled
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Jobs inside jobs
//!
//! An operation may submit jobs to its own delegator and wait for them, to any depth, even on one worker: to wait for a
//! job that is still queued runs it, on the thread that waits, and to submit to a full queue runs the job instead of
//! queueing it. The forms with a time limit run nothing; on the only worker they can only time out.
//!
//! Three consequences. A job must not wait for one that waits for it, nor hold a lock, over a `submit` or a `wait`, that the
//! other job wants. Depth costs stack, as recursion does. And a wait does not end with the context of the job that waits:
//! give the inner job that context, and what ends the outer one ends both.
//!
//! ```
//! use workpath::{Delegator, Job, Submitter};
//!
//! fn factorial(n: u64, submitter: Submitter) -> Job {
//!     Job::new(format!("{n}!"), move |ctx| {
//!         if n == 0 {
//!             return Ok(1_u64.to_le_bytes().to_vec());
//!         }
//!         let inner = factorial(n - 1, submitter.clone()).with_context(ctx);
//!         let inner = submitter.submit(inner)?.join()?;
//!         let product = n * u64::from_le_bytes(inner[..].try_into()?);
//!         Ok(product.to_le_bytes().to_vec())
//!     })
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let delegator = Delegator::builder().workers(1).queue_capacity(1).build()?;
//! let result = delegator.submit(factorial(10, delegator.submitter()))?.join()?;
//! assert_eq!(result, 3_628_800_u64.to_le_bytes());
//! # Ok(())
//! # }
//! ```
//!
//! # Panics
//!
//! A panic in an operation ends that job as [`Panicked`](JobState::Panicked), with the message in its error, and nothing
//! else: the worker goes on. Panics in hooks, in functions given to `on_done`, in destructors of captured values and in
//! loggers are contained likewise, and never come out of `wait`, `cancel` or `shutdown`. The program's panic hook is called
//! as always, so the standard library still prints its message. In a program built with `panic = "abort"` a panic ends the
//! process.
//!
//! ```
//! use workpath::{Delegator, Job, JobState};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let delegator = Delegator::builder().workers(1).build()?;
//! let record = delegator.submit(Job::new("broken", |_| panic!("index 7 of 3")))?.wait();
//! assert_eq!(record.state(), JobState::Panicked);
//! assert_eq!(record.error().unwrap().to_string(), "panicked: index 7 of 3");
//! assert!(delegator.submit(Job::new("next", |_| Ok(Vec::new())))?.join().is_ok());
//! # Ok(())
//! # }
//! ```
//!
//! # Shutdown
//!
//! [`Shutdown::drain`] finishes what was accepted; [`Shutdown::cancel`] cancels what runs and hands back what has not
//! started; [`within`](Shutdown::within) limits the time of either. The [`ShutdownReport`] accounts for every job, and names
//! the workers whose operation did not return. Dropping a delegator drains it, for as long as that takes.
//!
//! ```
//! use std::time::Duration;
//! use workpath::{Delegator, Job, Shutdown};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let delegator = Delegator::builder().workers(1).build()?;
//! for n in 0..5 {
//!     let nap = Job::new(format!("nap {n}"), |ctx| ctx.sleep(Duration::from_secs(60)).map(|()| Vec::new()));
//!     let _handle = delegator.submit(nap)?;
//! }
//! let report = delegator.shutdown(Shutdown::drain().within(Duration::from_millis(20)));
//! assert_eq!(report.completed + report.cancelled + report.unstarted.len(), 5);
//! for job in &report.unstarted {
//!     println!("{} was not started", job.name());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Registry, retention and numbers
//!
//! The [`Registry`] keeps the records of finished jobs, by default the last 1,024. A [`Retention`] bounds it by number, age
//! and payload bytes. A record that somebody holds stays whatever the registry does. [`Delegator::stats`] counts jobs by
//! state, [`Delegator::workers`] tells which job each worker is in, and [`Delegator::latencies`] how long jobs
//! wait and run, by name too if the builder says so.
//!
//! ```
//! use std::time::Duration;
//! use workpath::{Delegator, Job, Retention};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let retention = Retention::last(100).max_age(Duration::from_secs(600)).max_bytes(1 << 20);
//! let delegator = Delegator::builder().workers(1).retain(retention).build()?;
//! let id = delegator.submit(Job::new("work", |_| Ok(vec![1])))?.wait().id();
//! assert_eq!(delegator.registry().get(id).unwrap().payload(), Some(&[1][..]));
//!
//! let stats = delegator.stats();
//! assert_eq!((stats.submitted, stats.queued, stats.running, stats.completed), (1, 0, 0, 1));
//! # Ok(())
//! # }
//! ```
//!
//! With the feature `metrics`, `Delegator::record_metrics` hands these numbers to the facade of the `metrics` crate,
//! whenever the program calls it.
//!
//! # Inside a running job
//!
//! An operation that calls [`Context::checkpoint`] where it would call `check` leaves word where it is, and with
//! [`Context::progress`] how far. [`Delegator::workers`] shows it for every worker, a [`JobHandle`] for its job, and
//! the record keeps it. A job that is late or cancelled says it in its error.
//!
//! ```
//! use std::time::Duration;
//! use workpath::{Delegator, Job};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let delegator = Delegator::builder().workers(1).build()?;
//! let import = Job::new("import", |ctx| {
//!     for row in 1..=100_000 {
//!         ctx.checkpoint(format!("row {row}"))?;
//!         ctx.progress(row, 100_000);
//!         ctx.sleep(Duration::from_millis(10))?;
//!     }
//!     Ok(Vec::new())
//! });
//! let handle = delegator.submit(import.with_timeout(Duration::from_millis(100)))?;
//! for worker in delegator.workers() {
//!     println!("{}: {:?} {:?}", worker.thread_name, worker.job_name, worker.checkpoint);
//! }
//! // deadline of 100 ms exceeded in "import"; last checkpoint main.rs:8 "row 10" 9 ms ago on workpath-0
//! println!("{}", handle.join().unwrap_err());
//! # Ok(())
//! # }
//! ```
//!
//! An operation that goes on though its context has ended is stuck. After a margin, [`Builder::stuck_after`], it is reported
//! in the log and as [`Event::Stuck`]; [`Stats::stuck`] counts such jobs while they go on. With [`Builder::replacements`] a
//! fresh worker takes its worker's place.
//!
//! # Records as data
//!
//! With the feature `serde`, what this crate tells can be serialised: [`JobRecord`], [`Error`], [`Provenance`], [`Event`],
//! [`Checkpoint`], [`WorkerStatus`], [`ShutdownReport`], and, to be read again as well, [`JobId`], [`JobState`],
//! [`ErrorKind`], [`Origin`], [`SubmitErrorKind`], [`Priority`], [`Progress`], [`Stats`], [`Latencies`] and
//! [`LatenciesByName`]. The names of fields stay as they are; new ones may come. Those of types that are not in this table
//! are their public ones:
//!
//! | type | fields |
//! |---|---|
//! | [`JobRecord`] | `id`, `name`, `state`, `worker`, `attempts`, `created_unix_ms`, `started_unix_ms`, `completed_unix_ms`, `queue_ns`, `run_ns`, `round_trip_ns`, `overrun_ns`, `payload_bytes`, `error`, `checkpoint`, `progress`; never the payload itself |
//! | [`WorkerStatus`] | `index`, `thread_name`, `running`, `job_name`, `running_for_ns`, `overdue_ns`, `stuck`, `checkpoint`, `progress` |
//! | [`Checkpoint`] | `text`, `file`, `line`, `at_unix_ms` |
//! | [`Error`] | `kind`, `text`, `why` |
//! | [`Provenance`] | `origin`, `inherited`, `location` (`file:line:column`), `at_unix_ms` |
//! | [`Latency`] | `count`, `p50_ns`, `p90_ns`, `p99_ns`, `max_ns`, and `buckets`: pairs of the longest time in one and how many there are |
//! | [`Event`] | `event` says which: `submitted`, `rejected`, `joined`, `started`, `checkpoint`, `stuck`, `worker_replaced`, `retrying` with their fields, `finished` with `record`, `missed` with `count`, `shutting_down` |
//! | [`ShutdownReport`] | its own, with `total`, and of the unstarted jobs `id` and `name` |
//!
//! Ids are texts, times are whole nanoseconds (`_ns`) or milliseconds since 1970 (`_unix_ms`), and states and kinds are
//! single words in small letters, such as `timed_out`. What does not apply is null.
//!
//! # Events
//!
//! [`Delegator::subscribe`] gives a receiver of [`Event`]s: what was submitted, refused, started and finished, and that
//! a shutdown has begun. Nobody waits for a subscriber: events that find its channel full are counted, and it is told
//! how many.
//!
//! ```
//! use workpath::{Delegator, Event, Job, Shutdown};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let delegator = Delegator::builder().workers(1).build()?;
//! let events = delegator.subscribe(1000);
//! let _ = delegator.submit(Job::new("broken", |_| Err("no disk".into())))?;
//! delegator.shutdown(Shutdown::drain());
//! let failures = events.iter().filter(|event| match event {
//!     Event::Finished(record) => record.error().is_some(),
//!     _ => false,
//! });
//! assert_eq!(failures.count(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! # Logging
//!
//! One line per finished job goes to the [`log`] crate's facade, under the target `workpath`: at `debug` for one that
//! completed in time; at `warn` for one that failed, was cancelled, timed out or overran its deadline; at `error` for a
//! panic. The line names worker, job, state, run time, round-trip time and error, and never shows the payload. It is
//! written by the thread that ends the job, so a slow logger makes slow workers.
//!
//! With the feature `kv`, a line about a job has key-values for loggers that take them: `job_id`, `job_name`, `state`,
//! `queue_ns`, `run_ns` and `round_trip_ns`; where they apply, `worker`, `overrun_ns` and `error`; and for a cancelled job
//! `cancelled_by` (`user`, `job_set`, `shutdown`, `order_queue`, `displaced`), `inherited` and `cancelled_at`. States are
//! single words, such as `timed_out`. The text is the same with and without it.
//!
//! ```
//! use workpath::{Delegator, Job};
//!
//! struct Lines;
//!
//! impl log::Log for Lines {
//!     fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
//!         metadata.target() == "workpath"
//!     }
//!
//!     fn log(&self, record: &log::Record<'_>) {
//!         println!("{:5} {}", record.level(), record.args());
//!     }
//!
//!     fn flush(&self) {}
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! log::set_logger(&Lines).expect("the first logger");
//! log::set_max_level(log::LevelFilter::Debug);
//! let delegator = Delegator::builder().workers(1).build()?;
//! let _ = delegator.submit(Job::new("quiet", |_| Ok(Vec::new())))?.wait();
//! # Ok(())
//! # }
//! ```
//!
//! # Schedules
//!
//! [`Job::with_delay`] and [`Job::not_before`] give a job a time to start at. Until then it is
//! [`Scheduled`](JobState::Scheduled): it takes neither a worker nor a place in the queue, so their number is bounded by
//! memory alone. The delegator's thread sleeps until the first of them is due. A cancel takes it out at once, and a shutdown
//! hands back what is not due yet.
//!
//! ```
//! use std::time::Duration;
//! use workpath::{Delegator, Job, JobState};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let delegator = Delegator::builder().workers(1).build()?;
//! let reminder = Job::new("remind", |_| Ok(Vec::new())).with_delay(Duration::from_secs(3600));
//! let reminder = delegator.submit(reminder)?;
//! assert_eq!(reminder.state(), JobState::Scheduled);
//! assert!(reminder.cancel());
//! # Ok(())
//! # }
//! ```
//!
//! [`Delegator::every`] submits a job again and again, at a fixed rate or with a fixed delay after each, until its
//! [`Periodic`] is stopped or the delegator shut down. What happens to ticks that nobody had time for, or that come
//! while the job before still runs, is a choice: see [`Missed`] and [`Overlap`]. They are counted.
//!
//! ```
//! use std::time::Duration;
//! use workpath::{Delegator, Every, Job, Overlap};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let delegator = Delegator::builder().workers(1).build()?;
//! let every = Every::fixed_rate(Duration::from_millis(5)).overlap(Overlap::Queue);
//! let series = delegator.every(every, || Job::new("beat", |_| Ok(Vec::new())))?;
//! std::thread::sleep(Duration::from_millis(20));
//! series.stop();
//! println!("{} beats, {} missed", series.submitted(), series.missed());
//! # Ok(())
//! # }
//! ```
//!
//! # Retries
//!
//! [`Job::with_retry`] has a job tried again when it fails or panics, after a wait that takes no worker: fixed, growing
//! evenly or doubling, with a limit, by chance, and only after the errors that are worth it. The operation can say by
//! itself that another attempt is of no use ([`Error::permanent`]) or when it is ([`Error::retry_after`]). No retry
//! starts after the job's deadline, and a [`RetryBudget`] of the delegator keeps retries from becoming a storm. The job
//! has one handle and one outcome; its record has the errors of all [attempts](JobRecord::earlier_attempts).
//!
//! ```
//! use std::time::Duration;
//! use workpath::{Delegator, Error, GaveUp, Job, Retry};
//!
//! fn fetch(attempt: &std::sync::atomic::AtomicU32) -> Result<Vec<u8>, Error> {
//!     match attempt.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
//!         0 => Err("connection reset".into()),
//!         1 => Err(Error::retry_after(Duration::from_millis(5)).because("429 Too Many Requests")),
//!         _ => Err(Error::permanent("410 Gone")),
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let delegator = Delegator::builder().workers(1).build()?;
//! let attempt = std::sync::atomic::AtomicU32::new(0);
//! let job = Job::new("fetch", move |_| fetch(&attempt));
//! let retry = Retry::exponential(Duration::from_millis(2)).max_attempts(5).jitter();
//! let record = delegator.submit(job.with_retry(retry))?.wait();
//! assert_eq!((record.attempts(), record.gave_up()), (3, Some(GaveUp::Permanent)));
//! # Ok(())
//! # }
//! ```
//!
//! # Tests and time
//!
//! [`Delegator::manual`] makes a delegator for tests: no threads, and a clock that stands still until the test turns
//! it. Jobs, deadlines and sleeps take place on the thread of the test, in an order that never changes, and hours take
//! no time.
//!
//! ```
//! use std::time::Duration;
//! use workpath::{Delegator, Job, JobState};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let delegator = Delegator::manual();
//! let nap = Job::new("nap", |ctx| ctx.sleep(Duration::from_secs(86_400)).map(|()| Vec::new()));
//! let nap = delegator.submit(nap.with_timeout(Duration::from_secs(3600)))?;
//! delegator.advance(Duration::from_secs(3600));
//! assert_eq!(nap.state(), JobState::TimedOut);
//! # Ok(())
//! # }
//! ```
//!
//! # Beyond one process
//!
//! With the feature `orders`, a job can be data: an `Order` names an operation of a `Catalog` and carries bytes. It
//! runs like any other job, here (`catalog.job(&order)`) or by way of an `OrderQueue` that a delegator serves: a
//! `MemoryQueue`, or with the feature `sqlite` a `SqliteQueue`, which survives a `kill -9`, or with the feature `redis`
//! a `RedisQueue`, which many machines share. Failures are tried again, what cannot be done becomes a dead letter, and
//! the leases of a process that dies pass to the next. Every order runs at least once and is settled at most once, so
//! operations must bear a repetition; the order's id tells them. The feature `sqlite` needs a C compiler and Rust 1.89,
//! the feature `redis` Rust 1.88; `redis-tls` adds `rediss://` addresses.
//!
#![cfg_attr(feature = "orders", doc = "See [`OrderQueue`] and [`Delegator::serve`].")]
//!
//! # Threads and cost
//!
//! A delegator has its workers, named `workpath-0` and so on, and a thread of its own, `workpath-d`, that starts and
//! joins them. A process has one more thread for all delegators, `workpath-timer`, from the first time that somebody
//! listens to a deadline with `done` or `on_done`. Idle threads are blocked: they do not wake up to look. That a job is
//! stuck is noticed by `workpath-d`, which sleeps until the margin of a job with a deadline is over, and logged by a
//! thread that lives as long as that takes, `workpath-log`.
//!
//! Workers that run out of work, and threads that wait for a job, poll for some microseconds before they sleep, since a
//! sleep and a wake-up cost more than most jobs take. Times come from the monotonic clock, with one reading of the wall
//! clock per second at the most for display; on Linux, the time that the machine is suspended does not count.
//!
//! ```
//! use workpath::Delegator;
//!
//! # fn main() -> Result<(), workpath::BuildError> {
//! let delegator = Delegator::builder()
//!     .workers(2)
//!     .thread_name("scan")
//!     .stack_size(64 * 1024)
//!     .on_worker_start(|index| println!("worker {index} is here"))
//!     .build()?;
//! let names: Vec<String> = delegator.workers().into_iter().map(|worker| worker.thread_name).collect();
//! assert_eq!(names, ["scan-0", "scan-1"]);
//! # Ok(())
//! # }
//! ```
//!
//! # Out of reach
//!
//! No library can undo these, and this one does not try:
//!
//! * An operation that neither returns nor asks its context keeps its worker. It is reported as stuck when its context has
//!   ended, and by a shutdown with a limit. [`Builder::replacements`] keeps the queue going, for so many of them.
//! * A stack overflow, a failed allocation and a panic in the destructor of a thread-local value end the process.
//! * A program whose `main` returns, or that calls [`std::process::exit`], ends all threads where they are. Shut down
//!   before.
//! * After a `fork`, the child has the memory of the delegators but none of their threads: it must not use them.
//! * Signal handlers must not call into this crate. Have a thread that receives signals cancel a context.

#![forbid(unsafe_code)]
// Nobody spins under a model checker.
#![cfg_attr(any(loom, shuttle), allow(clippy::reversed_empty_ranges))]

mod agenda;
mod alarm;
mod builder;
mod callers;
mod clock;
mod context;
mod delegator;
mod directive;
mod driver;
mod engine;
mod error;
mod events;
mod extras;
mod handle;
mod id;
mod inbox;
mod job;
mod keys;
#[cfg(feature = "kv")]
mod kv;
mod latency;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(all(test, any(loom, shuttle)))]
mod models;
mod notes;
#[cfg(all(feature = "orders", not(any(loom, shuttle))))]
mod orders;
mod overflow;
mod pace;
mod panics;
mod periodic;
mod priority;
mod provenance;
mod queue;
mod random;
mod ranked;
mod record;
mod registry;
mod retry;
#[cfg(feature = "serde")]
mod serde;
mod set;
mod state;
mod status;
mod stuck;
mod sync;
mod task;
#[cfg(any(feature = "kv", feature = "metrics", feature = "serde"))]
mod tokens;
#[cfg(feature = "trace")]
mod trace;
mod worker;

pub use builder::{BuildError, Builder};
pub use context::{Canceller, Context, OnDone};
pub use delegator::{
    Delegator, Manual, Places, Shutdown, ShutdownReport, Stats, SubmitAllError, SubmitError, Submitter,
};
pub use error::{Error, ErrorKind, SubmitErrorKind};
pub use events::Event;
pub use extras::When;
pub use handle::{Coalesced, JobHandle};
pub use id::{JobId, ParseJobIdError};
pub use job::{Job, Operation};
pub use latency::{Latencies, LatenciesByName, Latency};
pub use notes::{Checkpoint, Progress};
#[cfg(all(feature = "redis", not(any(loom, shuttle))))]
pub use orders::RedisQueue;
#[cfg(all(feature = "orders", not(any(loom, shuttle))))]
pub use orders::{
    Catalog, DeadLetter, DecodeError, Lease, LeaseToken, MemoryQueue, Order, OrderQueue, OrderResult,
    QueueCounts, QueueError, QueueErrorKind, Renewal, Serve, Serving, Settlement, Verdict,
};
#[cfg(all(feature = "sqlite", not(any(loom, shuttle))))]
pub use orders::{Durability, SqliteQueue};
pub use overflow::{Displaced, Overflow};
pub use periodic::{Every, Missed, Overlap, Periodic, PeriodicError};
pub use priority::Priority;
pub use provenance::{Origin, Provenance};
pub use record::JobRecord;
pub use registry::{Registry, Retention};
pub use retry::{Attempt, GaveUp, Retry, RetryBudget};
pub use set::{JobMap, JobSet};
pub use state::JobState;
pub use status::WorkerStatus;

/// The programs in the README are tests, too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
