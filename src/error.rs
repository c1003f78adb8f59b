//! What an operation, a context and a submission can fail with.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::clock::Tick;
use crate::notes::{Scene, Span};
use crate::provenance::{Cancel, Cancelled, Origin, Provenance};
use crate::sync::Arc;

type BoxError = Box<dyn StdError + Send + Sync>;

/// How many errors of a chain are shown: a bound, since user code makes them.
const LINKS: usize = 16;

/// What kind of failure an [`Error`] reports.
///
/// # Examples
///
/// ```
/// use workpath::{Error, ErrorKind};
///
/// assert_eq!(Error::from("disk on fire").kind(), ErrorKind::Operation);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operation's own error.
    Operation,
    /// The operation panicked.
    Panicked,
    /// The context was cancelled.
    Cancelled,
    /// The context's deadline passed.
    DeadlineExceeded,
}

/// The error of an operation or a context: cheap to clone, with the original inside.
///
/// An operation makes one from any error with [`Error::new`], or with `?` from most errors of the standard library, from
/// texts and from `Box<dyn std::error::Error + Send + Sync>`. Contexts make the cancellation and deadline errors; an
/// operation that returns its own context's ends as `Cancelled` or `TimedOut`, not as `Failed`.
///
/// `Display` is what went wrong, with the cause of a cancel. `{:#}` adds in the same line who cancelled, where and how long
/// ago, and what the cause goes back to: `cancelled: window closed (by the user, at src/ui.rs:88:9, 1.2ms ago)`.
/// [`why`](Error::why) has the same as data.
///
/// # Examples
///
/// ```
/// use workpath::{Error, ErrorKind};
///
/// fn parse(text: &str) -> Result<u16, Error> {
///     Ok(text.trim().parse()?)
/// }
///
/// let error = parse("70000").unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Operation);
/// assert!(error.get_ref().is_some_and(|e| e.is::<std::num::ParseIntError>()));
/// ```
#[derive(Clone)]
pub struct Error(Arc<Repr>);

enum Repr {
    Operation(BoxError),
    /// Not to be tried again.
    Permanent(BoxError),
    /// To be tried again after this time.
    RetryAfter(Box<(Duration, Option<Error>)>),
    Panicked(Box<str>),
    Cancelled(Cancelled),
    /// With the deadline.
    DeadlineExceeded(Tick),
    /// The end of a job's context, and where the job was then.
    At(Box<(Error, Scene)>),
}

impl Error {
    /// Wraps an error or a text. An `Error` in a box comes out as it was, with its kind.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::Error;
    ///
    /// let error = Error::new(std::fmt::Error);
    /// assert!(error.get_ref().is_some_and(|e| e.is::<std::fmt::Error>()));
    /// assert_eq!(Error::new("no such row").to_string(), "no such row");
    /// ```
    pub fn new(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        match error.into().downcast::<Error>() {
            Ok(error) => *error,
            Err(error) => Error(Arc::new(Repr::Operation(error))),
        }
    }

    /// An error that another attempt would not change: the job ends with it, whatever its [`Retry`](crate::Retry) says.
    /// In all else it is what [`new`](Error::new) makes.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::{Delegator, Error, GaveUp, Job, Retry};
    ///
    /// let delegator = Delegator::builder().workers(1).build()?;
    /// let job = Job::new("fetch", |_| Err(Error::permanent("404 Not Found")));
    /// let record = delegator.submit(job.with_retry(Retry::fixed(Duration::from_secs(1))))?.wait();
    /// assert_eq!((record.attempts(), record.gave_up()), (1, Some(GaveUp::Permanent)));
    /// assert_eq!(record.error().map(|error| error.to_string()).as_deref(), Some("404 Not Found"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn permanent(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        Error(Arc::new(Repr::Permanent(error.into())))
    }

    /// An error after which the job is to be tried again in this time, no sooner and no later: what services answer when
    /// they have too much to do. It counts instead of the delay of the job's [`Retry`](crate::Retry), which still limits the
    /// number of attempts; a job without one fails. [`because`](Error::because) gives it a text of its own.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::{Delegator, Error, Job, Retry};
    ///
    /// let delegator = Delegator::manual();
    /// let busy = Job::new("fetch", |_| Err(Error::retry_after(Duration::from_secs(30))));
    /// let retry = Retry::fixed(Duration::from_secs(1)).max_attempts(2);
    /// let record = delegator.submit(busy.with_retry(retry))?.wait();
    /// assert_eq!(record.round_trip_time(), Duration::from_secs(30));
    /// # Ok::<(), workpath::SubmitError>(())
    /// ```
    pub fn retry_after(delay: Duration) -> Error {
        Error(Arc::new(Repr::RetryAfter(Box::new((delay, None)))))
    }

    /// The same delay as this error of [`retry_after`](Error::retry_after), with another error as its reason. Any other
    /// error is replaced by the reason.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::Error;
    ///
    /// let error = Error::retry_after(Duration::from_secs(30)).because("503 Service Unavailable");
    /// assert_eq!(error.to_string(), "503 Service Unavailable");
    /// assert_eq!(error.retry_delay(), Some(Duration::from_secs(30)));
    /// ```
    #[must_use = "this is the error"]
    pub fn because(self, reason: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        let reason = Error::new(reason);
        match self.retry_delay() {
            Some(delay) => Error(Arc::new(Repr::RetryAfter(Box::new((delay, Some(reason)))))),
            None => reason,
        }
    }

    /// Whether it was made by [`permanent`](Error::permanent).
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::Error;
    ///
    /// assert!(Error::permanent("no such user").is_permanent());
    /// assert!(!Error::new("no such user").is_permanent());
    /// ```
    pub fn is_permanent(&self) -> bool {
        matches!(*self.0, Repr::Permanent(_))
    }

    /// The time given to [`retry_after`](Error::retry_after).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::Error;
    ///
    /// let error = Error::retry_after(Duration::from_secs(2));
    /// assert_eq!(error.retry_delay(), Some(Duration::from_secs(2)));
    /// assert_eq!(error.to_string(), "to be tried again in 2s");
    /// ```
    pub fn retry_delay(&self) -> Option<Duration> {
        match &*self.0 {
            Repr::RetryAfter(after) => Some(after.0),
            _ => None,
        }
    }

    pub(crate) fn panicked(message: String) -> Error {
        Error(Arc::new(Repr::Panicked(message.into())))
    }

    pub(crate) fn cancelled(cancelled: Cancelled) -> Error {
        Error(Arc::new(Repr::Cancelled(cancelled)))
    }

    /// A cancel of which nothing is known.
    pub(crate) fn unexplained() -> Error {
        Error::cancelled(Cancelled::now(Cancel::at(Origin::User, None, None)))
    }

    pub(crate) fn deadline_exceeded(deadline: Tick) -> Error {
        Error(Arc::new(Repr::DeadlineExceeded(deadline)))
    }

    /// The same error, which also says where the job was.
    pub(crate) fn at(self, scene: Scene) -> Error {
        Error(Arc::new(Repr::At(Box::new((self, scene)))))
    }

    /// What kind of failure this is.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::{Context, ErrorKind};
    ///
    /// let late = Context::background().with_timeout(Duration::ZERO);
    /// assert_eq!(late.check().unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    /// ```
    pub fn kind(&self) -> ErrorKind {
        match &*self.0 {
            Repr::Operation(_) => ErrorKind::Operation,
            // Another error of this crate keeps its kind.
            Repr::Permanent(error) => error.downcast_ref::<Error>().map_or(ErrorKind::Operation, Error::kind),
            Repr::RetryAfter(after) => after.1.as_ref().map_or(ErrorKind::Operation, Error::kind),
            Repr::Panicked(_) => ErrorKind::Panicked,
            Repr::Cancelled(_) => ErrorKind::Cancelled,
            Repr::DeadlineExceeded(_) => ErrorKind::DeadlineExceeded,
            Repr::At(at) => at.0.kind(),
        }
    }

    /// Whether a context was cancelled.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::Context;
    ///
    /// let (ctx, canceller) = Context::background().with_cancel();
    /// canceller.cancel();
    /// assert!(ctx.check().unwrap_err().is_cancelled());
    /// ```
    pub fn is_cancelled(&self) -> bool {
        self.kind() == ErrorKind::Cancelled
    }

    /// Whether a deadline passed.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::Error;
    ///
    /// assert!(!Error::from("too late").is_timeout());
    /// ```
    pub fn is_timeout(&self) -> bool {
        self.kind() == ErrorKind::DeadlineExceeded
    }

    /// Whether an operation panicked.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Delegator, Job};
    ///
    /// let delegator = Delegator::builder().workers(1).build()?;
    /// let error = delegator.submit(Job::new("broken", |_| panic!("boom")))?.join().unwrap_err();
    /// assert!(error.is_panic());
    /// assert!(error.to_string().contains("boom"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_panic(&self) -> bool {
        self.kind() == ErrorKind::Panicked
    }

    /// The error inside: the operation's own, or the cause that a canceller gave. `None` for a panic, for a deadline and for
    /// a plain cancel.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::Context;
    ///
    /// let (ctx, canceller) = Context::background().with_cancel();
    /// canceller.cancel_with("user closed the window");
    /// let error = ctx.check().unwrap_err();
    /// assert_eq!(error.get_ref().map(|cause| cause.to_string()).as_deref(), Some("user closed the window"));
    /// ```
    pub fn get_ref(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        match &*self.0 {
            Repr::Operation(error) => Some(&**error),
            Repr::Permanent(error) => match error.downcast_ref::<Error>() {
                Some(error) => error.get_ref(),
                None => Some(&**error),
            },
            Repr::RetryAfter(after) => after.1.as_ref()?.get_ref(),
            Repr::Cancelled(cancelled) => cancelled.cancel.cause.as_ref().map(|cause| &**cause as _),
            Repr::Panicked(_) | Repr::DeadlineExceeded(_) => None,
            Repr::At(at) => at.0.get_ref(),
        }
    }

    /// Who ended the context, where and when; `None` for an operation's own error and for a panic. Costs nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::{Delegator, Job, Origin, Shutdown};
    ///
    /// let delegator = Delegator::builder().workers(1).build()?;
    /// let nap = Job::new("nap", |ctx| ctx.sleep(Duration::from_secs(60)).map(|()| Vec::new()));
    /// let handle = delegator.submit(nap)?;
    /// delegator.shutdown(Shutdown::cancel());
    ///
    /// let error = handle.join().unwrap_err();
    /// assert_eq!(error.why().unwrap().origin(), Origin::Shutdown);
    /// println!("{error:#}"); // cancelled: the delegator is shut down (by a shutdown, at src/main.rs:8:15, 41.2µs ago)
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn why(&self) -> Option<Provenance> {
        match &*self.0 {
            Repr::Cancelled(cancelled) => Some(cancelled.why()),
            Repr::DeadlineExceeded(deadline) => Some(Provenance::deadline(*deadline)),
            Repr::Permanent(error) => error.downcast_ref::<Error>()?.why(),
            Repr::RetryAfter(after) => after.1.as_ref()?.why(),
            Repr::Operation(_) | Repr::Panicked(_) => None,
            Repr::At(at) => at.0.why(),
        }
    }

    /// What `{:#}` shows; as of the end of a job it is the same whenever it is shown.
    pub(crate) fn write_chain(&self, f: &mut fmt::Formatter<'_>, end: Option<Tick>) -> fmt::Result {
        self.write_links(f, end, LINKS)
    }

    fn write_links(&self, f: &mut fmt::Formatter<'_>, end: Option<Tick>, left: usize) -> fmt::Result {
        let Some(why) = self.why() else { return self.write_plain(f) };
        let (error, scene) = self.parts();
        match error.get_ref() {
            Some(cause) => {
                f.write_str("cancelled: ")?;
                write_link(f, cause, end, left)?;
            }
            None => error.write_end(f, scene)?,
        }
        f.write_str(" (")?;
        if why.origin() != Origin::Deadline {
            write!(f, "{why}, ")?;
        }
        match end {
            Some(end) => write!(f, "{:.1?} earlier)", why.before(end))?,
            None => write!(f, "{:.1?} ago)", why.before(Tick::now()))?,
        }
        error.write_scene(f, scene)
    }

    /// What ended the job, and where it was then, if it has said so.
    fn parts(&self) -> (&Error, Option<&Scene>) {
        match &*self.0 {
            Repr::At(at) => (&at.0, Some(&at.1)),
            _ => (self, None),
        }
    }

    fn write_end(&self, f: &mut fmt::Formatter<'_>, scene: Option<&Scene>) -> fmt::Result {
        match scene {
            Some(Scene { job, limit, .. }) if self.is_timeout() => {
                write!(f, "deadline of {} exceeded in {job:?}", Span(*limit))
            }
            _ => self.write_plain(f),
        }
    }

    fn write_scene(&self, f: &mut fmt::Formatter<'_>, scene: Option<&Scene>) -> fmt::Result {
        let Some(Scene { job, thread, note, ended, .. }) = scene else { return Ok(()) };
        write!(f, "; {}", note.as_of(*ended))?;
        if !self.is_timeout() {
            write!(f, " in {job:?}")?;
        }
        write!(f, " on {thread}")
    }

    fn write_plain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Repr::Operation(error) | Repr::Permanent(error) => fmt::Display::fmt(error, f),
            Repr::RetryAfter(after) => match &**after {
                (_, Some(reason)) => fmt::Display::fmt(reason, f),
                (delay, None) => write!(f, "to be tried again in {delay:?}"),
            },
            Repr::Panicked(message) => write!(f, "panicked: {message}"),
            Repr::Cancelled(cancelled) => match &cancelled.cancel.cause {
                None => f.write_str("cancelled"),
                Some(cause) => write!(f, "cancelled: {cause}"),
            },
            Repr::DeadlineExceeded(_) => f.write_str("deadline exceeded"),
            Repr::At(at) => {
                at.0.write_end(f, Some(&at.1))?;
                at.0.write_scene(f, Some(&at.1))
            }
        }
    }
}

/// An error, and what it goes back to. One of ours shows what is inside itself.
fn write_link(
    f: &mut fmt::Formatter<'_>,
    error: &(dyn StdError + 'static),
    end: Option<Tick>,
    left: usize,
) -> fmt::Result {
    let Some(left) = left.checked_sub(1) else { return f.write_str("...") };
    match error.downcast_ref::<Error>() {
        Some(ours) if ours.why().is_some() => ours.write_links(f, end, left),
        Some(ours) if ours.source().is_some() => {
            ours.source().map_or(Ok(()), |inner| write_link(f, inner, end, left))
        }
        _ => {
            write!(f, "{error}")?;
            error.source().map_or(Ok(()), |source| {
                f.write_str(": ")?;
                write_link(f, source, end, left)
            })
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() { self.write_chain(f, None) } else { self.write_plain(f) }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Repr::Operation(error) => f.debug_tuple("Operation").field(error).finish(),
            Repr::Permanent(error) => f.debug_tuple("Permanent").field(error).finish(),
            Repr::RetryAfter(after) => f.debug_tuple("RetryAfter").field(&after.0).field(&after.1).finish(),
            Repr::Panicked(message) => f.debug_tuple("Panicked").field(message).finish(),
            Repr::Cancelled(cancelled) => {
                let mut shown = f.debug_tuple("Cancelled");
                shown.field(&cancelled.cancel.cause).field(&format_args!("{}", cancelled.why())).finish()
            }
            Repr::DeadlineExceeded(_) => f.write_str("DeadlineExceeded"),
            Repr::At(at) => f.debug_tuple("At").field(&at.0).field(&at.1).finish(),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.get_ref().map(|error| error as _)
    }
}

impl From<BoxError> for Error {
    fn from(error: BoxError) -> Error {
        Error::new(error)
    }
}

macro_rules! wrap {
    ($($error:ty),* $(,)?) => {$(
        impl From<$error> for Error {
            fn from(error: $error) -> Error {
                Error::new(error)
            }
        }
    )*};
}

// `impl<E: std::error::Error> From<E>` would collide with `Error` being one itself.
wrap!(
    &'static str,
    String,
    std::io::Error,
    std::fmt::Error,
    std::num::ParseIntError,
    std::num::ParseFloatError,
    std::num::TryFromIntError,
    std::str::ParseBoolError,
    std::str::Utf8Error,
    std::string::FromUtf8Error,
    std::string::FromUtf16Error,
    std::char::ParseCharError,
    std::char::CharTryFromError,
    std::net::AddrParseError,
    std::array::TryFromSliceError,
    std::ffi::NulError,
    std::ffi::IntoStringError,
    std::env::VarError,
    std::time::SystemTimeError,
    std::path::StripPrefixError,
    std::sync::mpsc::RecvError,
    crossbeam_channel::RecvError,
    crossbeam_channel::RecvTimeoutError,
    crossbeam_channel::TryRecvError,
    crate::id::ParseJobIdError,
);

/// Why a job was not accepted; what a [`SubmitError`](crate::SubmitError) says, without the job. `Display` is the reason
/// in words.
///
/// # Examples
///
/// ```
/// use workpath::SubmitErrorKind;
///
/// assert_eq!(SubmitErrorKind::Full.to_string(), "the queue is full");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SubmitErrorKind {
    /// The queue is full.
    Full,
    /// The queue was full until the submission's time was over.
    Timeout,
    /// The delegator accepts no jobs any more.
    ShutDown,
    /// By the length of the queue, the job would not start before its deadline.
    WouldMissDeadline,
}

impl fmt::Display for SubmitErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            SubmitErrorKind::Full => "the queue is full",
            SubmitErrorKind::Timeout => "the queue stayed full for the time given",
            SubmitErrorKind::ShutDown => "the delegator is shut down",
            SubmitErrorKind::WouldMissDeadline => "it would not start before its deadline",
        })
    }
}

#[cfg(all(test, not(any(loom, shuttle)), target_pointer_width = "64"))]
mod tests {
    use super::*;

    #[test]
    fn an_error_takes_no_more_than_a_text() {
        assert_eq!(size_of::<Repr>(), size_of::<String>());
    }
}
