//! What an operation, a context and a submission can fail with.

use std::error::Error as StdError;
use std::fmt;

use crate::sync::Arc;

type BoxError = Box<dyn StdError + Send + Sync>;

/// Why somebody cancelled, shared by every error that reports it.
pub(crate) type Cause = Arc<dyn StdError + Send + Sync>;

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
    Panicked(String),
    Cancelled(Option<Cause>),
    DeadlineExceeded,
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

    pub(crate) fn panicked(message: String) -> Error {
        Error(Arc::new(Repr::Panicked(message)))
    }

    pub(crate) fn cancelled(cause: Option<Cause>) -> Error {
        Error(Arc::new(Repr::Cancelled(cause)))
    }

    pub(crate) fn deadline_exceeded() -> Error {
        Error(Arc::new(Repr::DeadlineExceeded))
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
        match *self.0 {
            Repr::Operation(_) => ErrorKind::Operation,
            Repr::Panicked(_) => ErrorKind::Panicked,
            Repr::Cancelled(_) => ErrorKind::Cancelled,
            Repr::DeadlineExceeded => ErrorKind::DeadlineExceeded,
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
            Repr::Cancelled(Some(cause)) => Some(&**cause),
            Repr::Cancelled(None) | Repr::Panicked(_) | Repr::DeadlineExceeded => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Repr::Operation(error) => fmt::Display::fmt(error, f),
            Repr::Panicked(message) => write!(f, "panicked: {message}"),
            Repr::Cancelled(None) => f.write_str("cancelled"),
            Repr::Cancelled(Some(cause)) => write!(f, "cancelled: {cause}"),
            Repr::DeadlineExceeded => f.write_str("deadline exceeded"),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Repr::Operation(error) => f.debug_tuple("Operation").field(error).finish(),
            Repr::Panicked(message) => f.debug_tuple("Panicked").field(message).finish(),
            Repr::Cancelled(cause) => f.debug_tuple("Cancelled").field(cause).finish(),
            Repr::DeadlineExceeded => f.write_str("DeadlineExceeded"),
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
