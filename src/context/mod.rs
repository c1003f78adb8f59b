//! Contexts: values, a deadline and cancellation, handed down from whoever asks for work to whoever does it.

mod listener;
mod scope;
mod timer;
mod values;

use std::any::Any;
use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::panic::Location;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError, bounded, never, select};

pub(crate) use self::listener::{Action, Ended, Listening};
pub(crate) use self::scope::{End, Scope};
pub(crate) use self::timer::{begin_virtual, end_virtual};
use self::values::Entry;
use crate::clock::{self, Tick};
use crate::driver;
use crate::error::Error;
use crate::notes::Note;
use crate::panics;
use crate::provenance::{Cancel, Cause, Origin};
use crate::sync::{self, Arc, Weak};

/// What an operation needs and when it must stop: values by key, a deadline, and cancellation with a cause.
///
/// Contexts form a tree. Deriving one with a `with_` method leaves the original as it is; a derived context is done no
/// later than the one it was derived from, whatever else ends it. A context that is done stays done, and its
/// [`error`](Context::error) never changes.
///
/// A context costs next to nothing until somebody listens to it: deriving takes no lock and starts no thread, a
/// deadline is eight bytes, [`check`](Context::check) is a walk up the cancellable ancestors and, with a deadline, one
/// look at the clock. Only [`done`](Context::done), [`on_done`](Context::on_done), [`sleep`](Context::sleep) and
/// [`recv`](Context::recv) register with those ancestors. The first `done` or `on_done` on a context with a deadline,
/// or [`JobHandle::done`](crate::JobHandle::done) of a queued job with one, starts the process's timer thread,
/// `workpath-timer`.
///
/// Deadlines are kept by the monotonic clock; on Linux, the time that the machine is suspended does not count.
///
/// Not to be confused with [`std::task::Context`]; the model is Go's `context`.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use workpath::Context;
///
/// let (request, canceller) = Context::background().with_value("user", "ada").with_cancel();
/// let query = request.with_timeout(Duration::from_secs(2));
/// assert_eq!(query.value::<&str>("user"), Some(&"ada"));
/// assert!(query.check().is_ok());
///
/// canceller.cancel_with("connection closed");
/// assert_eq!(query.check().unwrap_err().to_string(), "cancelled: connection closed");
/// ```
#[derive(Clone)]
pub struct Context {
    scope: Option<Arc<Scope>>,
    values: Option<Arc<Entry>>,
    /// The earliest of this context's and its ancestors'.
    deadline: Tick,
}

impl Context {
    /// The root of a tree: no values, no deadline, never cancelled.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::Context;
    ///
    /// assert!(!Context::background().is_done());
    /// assert_eq!(Context::background().deadline(), None);
    /// ```
    pub const fn background() -> Context {
        Context { scope: None, values: None, deadline: Tick::NEVER }
    }

    /// The context of a running job: what was given with the job, cancellable through the job's own scope.
    pub(crate) fn of_job(given: Context, scope: Arc<Scope>) -> Context {
        Context { scope: Some(scope), values: given.values, deadline: given.deadline }
    }

    /// Takes the scope out, so that its new owner can hang the job's own scope under it.
    pub(crate) fn take_scope(&mut self) -> Option<Arc<Scope>> {
        self.scope.take()
    }

    /// Hangs a scope for all attempts of a job under that of the context, and gives it.
    pub(crate) fn push_scope(&mut self) -> Arc<Scope> {
        let scope = Scope::for_attempts(self.scope.take());
        self.scope = Some(Arc::clone(&scope));
        scope
    }

    pub(crate) fn scope(&self) -> Option<Arc<Scope>> {
        self.scope.clone()
    }

    /// A context that also has this value. A key that an ancestor has too hides the ancestor's value, also where the types
    /// differ. Costs two allocations.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::Context;
    ///
    /// let outer = Context::background().with_value("retries", 3_u32);
    /// let inner = outer.with_value("retries", 0_u32);
    /// assert_eq!(outer.value::<u32>("retries"), Some(&3));
    /// assert_eq!(inner.value::<u32>("retries"), Some(&0));
    /// ```
    #[must_use = "the original context does not get the value"]
    pub fn with_value<T: Any + Send + Sync>(&self, key: impl Into<Cow<'static, str>>, value: T) -> Context {
        let entry = Entry { key: key.into(), value: Box::new(value), older: self.values.clone() };
        Context { scope: self.scope.clone(), values: Some(Arc::new(entry)), deadline: self.deadline }
    }

    /// A context that is done at this instant at the latest: at once if it has passed, and no later than it would be
    /// without. Allocates nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use workpath::Context;
    ///
    /// let soon = Instant::now() + Duration::from_secs(1);
    /// let ctx = Context::background().with_deadline(soon);
    /// let longer = ctx.with_deadline(soon + Duration::from_secs(3600));
    /// assert_eq!(longer.deadline(), Some(soon));
    /// ```
    #[must_use = "the original context does not get the deadline"]
    pub fn with_deadline(&self, deadline: Instant) -> Context {
        self.with_deadline_tick(Tick::from(deadline))
    }

    /// A context that is done when this much time has passed: at once for zero, and never by a time too long to be told,
    /// such as [`Duration::MAX`]. Allocates nothing; reads the clock.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::Context;
    ///
    /// assert!(Context::background().with_timeout(Duration::ZERO).is_done());
    /// assert_eq!(Context::background().with_timeout(Duration::MAX).deadline(), None);
    /// ```
    #[must_use = "the original context does not get the deadline"]
    pub fn with_timeout(&self, timeout: Duration) -> Context {
        self.with_deadline_tick(Tick::now().after(timeout))
    }

    pub(crate) fn with_deadline_tick(&self, deadline: Tick) -> Context {
        let mut derived = self.clone();
        derived.limit(deadline);
        derived
    }

    /// Brings the deadline forward. A context that is done keeps it: what ended it must not change.
    pub(crate) fn limit(&mut self, deadline: Tick) {
        if deadline < self.deadline && !self.is_done() {
            self.deadline = deadline;
        }
    }

    /// Takes the deadline away again, from a context that was limited by a default.
    pub(crate) fn lift_deadline(&mut self) {
        self.deadline = Tick::NEVER;
    }

    pub(crate) fn deadline_tick(&self) -> Tick {
        self.deadline
    }

    /// A context that can be cancelled, and what cancels it. Cancelling ends the new context and everything derived from it,
    /// never the original. Costs one allocation.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::Context;
    ///
    /// let parent = Context::background();
    /// let (child, canceller) = parent.with_cancel();
    /// let grandchild = child.with_value("depth", 2);
    /// canceller.cancel();
    /// assert!(grandchild.is_done());
    /// assert!(!parent.is_done());
    /// ```
    #[must_use = "the original context cannot be cancelled through the canceller"]
    pub fn with_cancel(&self) -> (Context, Canceller) {
        let scope = Scope::new(self.scope.clone(), None);
        let context =
            Context { scope: Some(Arc::clone(&scope)), values: self.values.clone(), deadline: self.deadline };
        (context, Canceller { scope })
    }

    /// A context with the same values that nothing ends: no deadline, no cancellation. For work that must be finished even
    /// though whoever asked for it has gone, such as cleaning up.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::Context;
    ///
    /// let (ctx, canceller) = Context::background().with_value("trace", 7_u64).with_cancel();
    /// canceller.cancel();
    /// let cleanup = ctx.without_cancel();
    /// assert!(!cleanup.is_done());
    /// assert_eq!(cleanup.value::<u64>("trace"), Some(&7));
    /// ```
    #[must_use = "the original context can still be cancelled"]
    pub fn without_cancel(&self) -> Context {
        Context { scope: None, values: self.values.clone(), deadline: Tick::NEVER }
    }

    /// The value that this context or its nearest ancestor has under the key; `None` if there is none, or if that value is
    /// of another type. Costs a comparison per value on the way.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::Context;
    ///
    /// let ctx = Context::background().with_value("limit", 10_u64);
    /// assert_eq!(ctx.value::<u64>("limit"), Some(&10));
    /// assert_eq!(ctx.value::<i32>("limit"), None);
    /// assert_eq!(ctx.value::<u64>("Limit"), None);
    /// ```
    pub fn value<T: Any>(&self, key: &str) -> Option<&T> {
        values::lookup(self.values.as_deref(), key)?.downcast_ref()
    }

    /// The earliest deadline among this context and its ancestors. It stays what it is when the context is cancelled.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use workpath::Context;
    ///
    /// let deadline = Instant::now() + Duration::from_secs(5);
    /// assert_eq!(Context::background().with_deadline(deadline).deadline(), Some(deadline));
    /// ```
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline.instant()
    }

    /// The time until the deadline: zero once it has passed, `None` without one. Made for the timeouts of blocking calls.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::Context;
    ///
    /// let ctx = Context::background().with_timeout(Duration::from_secs(5));
    /// assert!(ctx.remaining().is_some_and(|left| left <= Duration::from_secs(5)));
    /// assert_eq!(Context::background().remaining(), None);
    /// ```
    pub fn remaining(&self) -> Option<Duration> {
        if self.deadline == Tick::NEVER {
            return None;
        }
        Some(self.deadline.since(Tick::now()).unwrap_or_default())
    }

    /// The timeout for a blocking call: `max`, or the time until the deadline if that is less. Never zero, which
    /// [`TcpStream::set_read_timeout`](std::net::TcpStream::set_read_timeout) and its like refuse: when no time is left
    /// it is a millisecond. A cancel does not shorten it, so keep `max` at what a cancel may be late by, and
    /// [`check`](Context::check) between calls.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::Read;
    /// use std::net::TcpStream;
    /// use std::time::Duration;
    /// use workpath::{Context, Error};
    ///
    /// fn answer(ctx: &Context, stream: &mut TcpStream) -> Result<u8, Error> {
    ///     let mut byte = [0];
    ///     ctx.check()?;
    ///     stream.set_read_timeout(Some(ctx.io_timeout(Duration::from_secs(5))))?;
    ///     stream.read_exact(&mut byte)?;
    ///     Ok(byte[0])
    /// }
    ///
    /// let late = Context::background().with_timeout(Duration::ZERO);
    /// assert_eq!(late.io_timeout(Duration::from_secs(5)), Duration::from_millis(1));
    /// assert_eq!(Context::background().io_timeout(Duration::from_secs(5)), Duration::from_secs(5));
    /// ```
    pub fn io_timeout(&self, max: Duration) -> Duration {
        let time = self.remaining().map_or(max, |left| left.min(max));
        if time.is_zero() { Duration::from_millis(1) } else { time }
    }

    /// A context that has this share of the remaining time: half of it for 0.5. Without a deadline there is nothing to
    /// share, and the child has none either. One or more is all of it; zero, less, and what is not a number is none, so
    /// the child is done at once. Allocates nothing; reads the clock.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::Context;
    ///
    /// let ctx = Context::background().with_timeout(Duration::from_secs(60));
    /// let first_try = ctx.child_share(0.5);
    /// assert!(first_try.remaining().is_some_and(|left| left <= Duration::from_secs(30)));
    /// assert!(ctx.child_share(0.0).is_done());
    /// assert_eq!(ctx.child_share(7.0).deadline(), ctx.deadline());
    /// ```
    #[must_use = "the original context keeps all of the time"]
    pub fn child_share(&self, share: f64) -> Context {
        if self.deadline == Tick::NEVER || share >= 1.0 {
            return self.clone();
        }
        let now = Tick::now();
        let left = self.deadline.since(now).unwrap_or_default();
        // What is not a number compares with nothing.
        let left = if share > 0.0 { left.mul_f64(share) } else { Duration::ZERO };
        self.with_deadline_tick(now.after(left))
    }

    /// Whether the deadline has passed or this context or an ancestor was cancelled.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::Context;
    ///
    /// let (ctx, canceller) = Context::background().with_cancel();
    /// assert!(!ctx.is_done());
    /// canceller.cancel();
    /// assert!(ctx.is_done());
    /// ```
    pub fn is_done(&self) -> bool {
        (self.deadline != Tick::NEVER && self.deadline <= Tick::now()) || Scope::is_done(self.scope.as_ref())
    }

    /// Whether nothing but a deadline was ever given to it.
    pub(crate) fn is_plain(&self) -> bool {
        self.scope.is_none() && self.values.is_none()
    }

    /// Whether the two end at the same time, whatever happens.
    pub(crate) fn ends_with(&self, other: &Context) -> bool {
        let scope = |context: &Context| context.scope.as_ref().map(Arc::as_ptr);
        self.deadline == other.deadline && scope(self) == scope(other)
    }

    pub(crate) fn has_values(&self) -> bool {
        self.values.is_some()
    }

    /// Whether the context is done, as of a tick that was read a moment ago.
    pub(crate) fn is_done_at(&self, now: Tick) -> bool {
        self.deadline <= now || Scope::is_done(self.scope.as_ref())
    }

    /// `Err` with the reason once the context is done. The call for loops: `ctx.check()?`.
    ///
    /// # Errors
    ///
    /// Of kind [`Cancelled`](crate::ErrorKind::Cancelled) or [`DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded),
    /// whichever came first, and the same at every later call.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Context, Error};
    ///
    /// fn total(ctx: &Context, numbers: &[u64]) -> Result<u64, Error> {
    ///     let mut total = 0;
    ///     for chunk in numbers.chunks(1024) {
    ///         ctx.check()?;
    ///         total += chunk.iter().sum::<u64>();
    ///     }
    ///     Ok(total)
    /// }
    ///
    /// assert_eq!(total(&Context::background(), &[1, 2, 3]).unwrap(), 6);
    /// ```
    pub fn check(&self) -> Result<(), Error> {
        match self.end() {
            None => Ok(()),
            Some(end) => Err(end.into()),
        }
    }

    /// [`check`](Context::check), and if that is `Ok`, remembers that the operation was here: the text, the place of
    /// the call and the time. Only the last is kept, the first 256 bytes of its text.
    ///
    /// It is for the job in whose operation the context came about, also when the context was derived or taken to
    /// another thread since. [`JobHandle::checkpoint`](crate::JobHandle::checkpoint),
    /// [`Delegator::workers`](crate::Delegator::workers) and [`Event::Checkpoint`](crate::Event::Checkpoint) show it
    /// while the job runs, [`JobRecord::checkpoint`](crate::JobRecord::checkpoint) afterwards. The error of a job that
    /// is cancelled or timed out ends with it, and so does the line in the log of one that fails or panics. Without a
    /// job, behind [`without_cancel`](Context::without_cancel), and when the job has ended, it is `check`.
    ///
    /// Costs, beside the check, a reading of the clock and a lock that only those take who look at this job; with a
    /// text that is `&'static` it allocates nothing. The first of a job takes an allocation and a lock per worker in
    /// addition; with subscribers, each costs an event. The text counts towards
    /// [`Retention::max_bytes`](crate::Retention::max_bytes).
    ///
    /// # Errors
    ///
    /// Those of [`check`](Context::check).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::{Delegator, Job};
    ///
    /// let delegator = Delegator::builder().workers(1).build()?;
    /// let import = Job::new("import", |ctx| {
    ///     for row in 0_u64.. {
    ///         ctx.checkpoint(format!("row {row}"))?;
    ///     }
    ///     Ok(Vec::new())
    /// });
    /// let error = delegator.submit(import.with_timeout(Duration::from_millis(50)))?.join().unwrap_err();
    /// // deadline of 50 ms exceeded in "import"; last checkpoint main.rs:8 "row 41200" 0.4 µs ago on workpath-0
    /// assert!(error.to_string().starts_with("deadline of 50 ms exceeded in \"import\"; last checkpoint"), "{error}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn checkpoint(&self, text: impl Into<Cow<'static, str>>) -> Result<(), Error> {
        self.check()?;
        if let Some(notes) = Scope::notes_of_job(self.scope.as_ref()) {
            notes.checkpoint(Note::new(text.into(), Location::caller()));
        }
        Ok(())
    }

    /// Tells how far the operation is, in a unit of its own: so much is done, of so much. A total of zero is one that is not
    /// known. It does not look whether the context is done.
    ///
    /// It is told for the same job as a [`checkpoint`](Context::checkpoint), and shown at the same places, but in no
    /// text and no event. Costs two stores to memory; the first of a job an allocation and a lock per worker.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Delegator, Job};
    ///
    /// let delegator = Delegator::builder().workers(1).build()?;
    /// let handle = delegator.submit(Job::new("import", |ctx| {
    ///     for row in 0..100 {
    ///         ctx.check()?;
    ///         ctx.progress(row + 1, 100);
    ///     }
    ///     Ok(Vec::new())
    /// }))?;
    /// handle.wait();
    /// assert_eq!(handle.progress().expect("told").to_string(), "100/100");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn progress(&self, done: u64, total: u64) {
        if let Some(notes) = Scope::notes_of_job(self.scope.as_ref()) {
            notes.progress(done, total);
        }
    }

    /// The reason once the context is done, `None` before. It never changes.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::Context;
    ///
    /// let (ctx, canceller) = Context::background().with_timeout(Duration::ZERO).with_cancel();
    /// canceller.cancel();
    /// assert!(ctx.error().unwrap().is_timeout()); // the deadline came first
    /// ```
    pub fn error(&self) -> Option<Error> {
        self.end().map(Error::from)
    }

    pub(crate) fn end(&self) -> Option<End> {
        // `is_done` reads the clock before the flags, as `first_cancel` wants it.
        if !self.is_done() {
            return None;
        }
        match Scope::first_cancel(self.scope.as_ref()) {
            Some(cancelled) if cancelled.at < self.deadline => Some(End::Cancel(cancelled)),
            _ => Some(End::Deadline(self.deadline)),
        }
    }

    /// The same to a job that was given this context and has not started: the context is its parent.
    pub(crate) fn end_of_queued(&self) -> Option<End> {
        let mut end = self.end();
        if let Some(End::Cancel(cancelled)) = &mut end {
            cancelled.inherited = true;
        }
        end
    }

    /// A receiver that never gets a message and disconnects when the context is done, at its deadline too: the arm to put
    /// beside others in [`crossbeam_channel::select!`].
    ///
    /// It stays connected for as long as something can end the context, also when the context itself is gone. Calling it
    /// again is cheap. Until the context is done it costs one registration, shared by all calls; that of a running
    /// job's context ends with the last context of the job, and disconnects.
    ///
    /// Waiting on the receiver of a context that only a *queued* job on the same worker could end waits for ever.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use crossbeam_channel::{select, unbounded};
    /// use workpath::Context;
    ///
    /// let ctx = Context::background().with_timeout(Duration::from_millis(20));
    /// let (_sender, messages) = unbounded::<String>();
    /// select! {
    ///     recv(messages) -> _ => unreachable!("nobody sends"),
    ///     recv(ctx.done()) -> _ => assert!(ctx.error().unwrap().is_timeout()),
    /// }
    /// ```
    pub fn done(&self) -> Receiver<Infallible> {
        /// Keeps the receivers of contexts that have a deadline but nothing to cancel.
        static UNSCOPED: std::sync::OnceLock<Arc<Scope>> = std::sync::OnceLock::new();

        if self.is_done() {
            // The receiver that is kept may still be connected: whoever ends the context comes to it in a moment.
            return bounded(0).1;
        }
        match &self.scope {
            Some(scope) => scope.receiver(self.deadline),
            None if self.deadline == Tick::NEVER => never(),
            None => UNSCOPED.get_or_init(|| Scope::new(None, None)).receiver(self.deadline),
        }
    }

    /// Sleeps, but no longer than the context lasts. [`Duration::MAX`] sleeps until the context is done.
    ///
    /// # Errors
    ///
    /// The context's error as soon as it is done, also when it is done to begin with.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::Context;
    ///
    /// let ctx = Context::background().with_timeout(Duration::from_millis(10));
    /// assert!(ctx.sleep(Duration::from_millis(1)).is_ok());
    /// assert!(ctx.sleep(Duration::from_secs(3600)).unwrap_err().is_timeout());
    /// ```
    pub fn sleep(&self, time: Duration) -> Result<(), Error> {
        let until = Tick::now().after(time);
        self.check()?;
        if time.is_zero() {
            return Ok(());
        }
        let _listening = self.listen(Action::Wake(sync::current()));
        loop {
            self.check()?;
            if until != Tick::NEVER && until <= Tick::now() {
                return Ok(());
            }
            driver::park_until(until.min(self.deadline), None);
        }
    }

    /// Receives a message, but waits no longer than the context lasts. With a message and the end both there, either wins.
    ///
    /// # Errors
    ///
    /// The context's error once it is done; an error of kind [`Operation`](crate::ErrorKind::Operation) with a
    /// [`crossbeam_channel::RecvError`] inside when the channel is empty and disconnected.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use crossbeam_channel::unbounded;
    /// use workpath::Context;
    ///
    /// let (sender, receiver) = unbounded();
    /// let ctx = Context::background().with_timeout(Duration::from_millis(10));
    /// sender.send(7)?;
    /// assert_eq!(ctx.recv(&receiver)?, 7);
    /// assert!(ctx.recv(&receiver).unwrap_err().is_timeout());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn recv<T>(&self, receiver: &Receiver<T>) -> Result<T, Error> {
        self.check()?;
        match receiver.try_recv() {
            Ok(message) => return Ok(message),
            Err(error @ TryRecvError::Disconnected) => return Err(error.into()),
            Err(TryRecvError::Empty) => {}
        }
        // Where time is virtual, no more of it passes than it takes until somebody sends something.
        while clock::is_virtual() && driver::pass(self.deadline) {
            self.check()?;
            match receiver.try_recv() {
                Ok(message) => return Ok(message),
                Err(error @ TryRecvError::Disconnected) => return Err(error.into()),
                Err(TryRecvError::Empty) => {}
            }
        }
        let (sender, cancelled) = bounded::<Infallible>(0);
        let _listening = self.listen(Action::Disconnect { sender, home: Weak::new(), deadline: Tick::NEVER });
        // A context that nothing can cancel drops the sender at once.
        let cancelled = if self.scope.is_some() { cancelled } else { never() };
        loop {
            let Some(left) = self.remaining() else {
                return select! {
                    recv(receiver) -> message => Ok(message?),
                    recv(cancelled) -> _ => Err(self.error().unwrap_or_else(Error::unexplained)),
                };
            };
            select! {
                recv(receiver) -> message => return Ok(message?),
                recv(cancelled) -> _ => {}
                default(left) => {}
            }
            self.check()?;
        }
    }

    /// Runs the function once, when the context is done.
    ///
    /// Where it runs says who ended the context: on the thread that cancels, after every descendant is done and before
    /// `cancel` returns; on the timer thread at a deadline, so keep it short; at once on the calling thread if the
    /// context is done already. No lock is held meanwhile. A panic in it is caught and logged, and other functions
    /// still run.
    ///
    /// Dropping the [`OnDone`] detaches: the function still runs. [`OnDone::stop`] takes it back. A function that a job
    /// registers on its own context is dropped with the last context of the job.
    ///
    /// A function that waits for the `cancel` that runs it to return waits for ever.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicBool, Ordering};
    /// use workpath::Context;
    ///
    /// let (ctx, canceller) = Context::background().with_cancel();
    /// let closed = Arc::new(AtomicBool::new(false));
    /// let flag = Arc::clone(&closed);
    /// let _detached = ctx.on_done(move || flag.store(true, Ordering::Relaxed));
    /// canceller.cancel();
    /// assert!(closed.load(Ordering::Relaxed));
    /// ```
    pub fn on_done(&self, function: impl FnOnce() + Send + 'static) -> OnDone {
        OnDone { listening: Some(self.listen_to_the_end(Action::Run(Box::new(function)))) }
    }

    #[cfg(all(test, loom))]
    pub(crate) fn listeners(&self) -> usize {
        self.scope.as_ref().map_or(0, |scope| scope.listeners())
    }

    /// Listens for a cancel. The caller looks after the deadline itself.
    pub(crate) fn listen(&self, action: Action) -> Option<Listening> {
        self.scope.as_ref().map(|scope| Listening::start(Some(scope), Tick::NEVER, action))
    }

    /// Listens for a cancel and, through the timer, for the deadline.
    pub(crate) fn listen_to_the_end(&self, action: Action) -> Listening {
        Listening::start(self.scope.as_ref(), self.deadline, action)
    }
}

impl Default for Context {
    /// [`Context::background`].
    fn default() -> Context {
        Context::background()
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut keys = Vec::new();
        let mut next = self.values.as_deref();
        while let Some(entry) = next {
            keys.push(&*entry.key);
            next = entry.older.as_deref();
        }
        f.debug_struct("Context")
            .field("keys", &keys)
            .field("remaining", &self.remaining())
            .field("cancellable", &self.scope.is_some())
            .field("done", &self.is_done())
            .finish()
    }
}

// Nothing that a panic could leave half done is reachable through a context.
impl std::panic::UnwindSafe for Context {}
impl std::panic::RefUnwindSafe for Context {}

/// Cancels the context it was made with. Any thread may; only the first call counts. Dropping it cancels nothing.
///
/// # Examples
///
/// ```
/// use workpath::Context;
///
/// let (ctx, canceller) = Context::background().with_cancel();
/// let from_elsewhere = canceller.clone();
/// std::thread::spawn(move || from_elsewhere.cancel()).join().unwrap();
/// assert!(ctx.error().unwrap().is_cancelled());
/// ```
#[derive(Clone)]
pub struct Canceller {
    scope: Arc<Scope>,
}

impl Canceller {
    /// Cancels without a cause.
    ///
    /// When it returns, the context and everything derived from it is done, and what they had registered with
    /// [`on_done`](Context::on_done) has run on this thread. On a context that was cancelled before, it does nothing,
    /// and does not wait for functions that still run on the other thread. Costs what listens, not what exists.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::Context;
    ///
    /// let (ctx, canceller) = Context::background().with_cancel();
    /// canceller.cancel();
    /// canceller.cancel_with("too late to be the cause");
    /// assert!(ctx.error().unwrap().get_ref().is_none());
    /// ```
    #[track_caller]
    pub fn cancel(&self) {
        self.scope.cancel(Cancel::here(Origin::User, None));
    }

    /// Cancels with a cause, which [`Error::get_ref`] of the context's error gives. Otherwise as
    /// [`cancel`](Canceller::cancel).
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::Context;
    ///
    /// let (ctx, canceller) = Context::background().with_cancel();
    /// canceller.cancel_with(std::io::Error::other("disk removed"));
    /// let error = ctx.check().unwrap_err();
    /// assert!(error.get_ref().is_some_and(|cause| cause.is::<std::io::Error>()));
    /// ```
    #[track_caller]
    pub fn cancel_with(&self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) {
        self.scope.cancel(Cancel::here(Origin::User, Some(Cause::from(cause.into()))));
    }
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canceller").field("cancelled", &self.scope.is_cancelled()).finish()
    }
}

impl std::panic::UnwindSafe for Canceller {}
impl std::panic::RefUnwindSafe for Canceller {}

/// A function that waits for a context to be done; see [`Context::on_done`]. Dropping it lets the function run.
///
/// # Examples
///
/// ```
/// use workpath::Context;
///
/// let (ctx, canceller) = Context::background().with_cancel();
/// let watch = ctx.on_done(|| println!("gone"));
/// canceller.cancel(); // prints
/// assert!(!watch.stop());
/// ```
#[must_use = "dropping it detaches: the function still runs"]
pub struct OnDone {
    /// `None` while it is being dropped.
    listening: Option<Listening>,
}

impl OnDone {
    /// Takes the function back. `true` if that prevented its run, `false` if it has run or is running; it does not wait.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::Context;
    ///
    /// let (ctx, canceller) = Context::background().with_cancel();
    /// let watch = ctx.on_done(|| unreachable!("stopped before"));
    /// assert!(watch.stop());
    /// canceller.cancel();
    /// ```
    pub fn stop(mut self) -> bool {
        let function = self.listening.take().and_then(Listening::stop);
        let prevented = function.is_some();
        panics::discard("a function given to on_done", function);
        prevented
    }
}

impl Drop for OnDone {
    fn drop(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.detach();
        }
    }
}

impl fmt::Debug for OnDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnDone").finish_non_exhaustive()
    }
}
