//! Who ended a context, where and when.

use std::fmt;
use std::panic::Location;
use std::time::{Duration, Instant};

use crate::clock::Tick;
use crate::sync::Arc;

/// Why somebody cancelled, shared by every error that reports it.
pub(crate) type Cause = Arc<dyn std::error::Error + Send + Sync>;

pub(crate) fn cause_of(why: &'static str) -> Cause {
    Cause::from(Box::<dyn std::error::Error + Send + Sync>::from(why))
}

/// A call that cancels; shared by everything that it ends.
#[derive(Debug)]
pub(crate) struct Cancel {
    pub(crate) cause: Option<Cause>,
    origin: Origin,
    location: Option<&'static Location<'static>>,
}

impl Cancel {
    /// By the caller of the public function that calls this.
    #[track_caller]
    pub(crate) fn here(origin: Origin, cause: Option<Cause>) -> Arc<Cancel> {
        Cancel::at(origin, cause, Some(Location::caller()))
    }

    /// `location` is `None` where nobody called: a drop.
    pub(crate) fn at(
        origin: Origin,
        cause: Option<Cause>,
        location: Option<&'static Location<'static>>,
    ) -> Arc<Cancel> {
        Arc::new(Cancel { cause, origin, location })
    }
}

/// A cancel as it met one context or one job.
#[derive(Debug, Clone)]
pub(crate) struct Cancelled {
    pub(crate) cancel: Arc<Cancel>,
    pub(crate) at: Tick,
    /// It was a context above that was cancelled.
    pub(crate) inherited: bool,
}

impl Cancelled {
    pub(crate) fn now(cancel: Arc<Cancel>) -> Cancelled {
        Cancelled { cancel, at: Tick::now(), inherited: false }
    }

    pub(crate) fn why(&self) -> Provenance {
        let Cancel { origin, location, .. } = *self.cancel;
        Provenance { origin, location, at: self.at, inherited: self.inherited }
    }
}

/// What kind of thing ended a context.
///
/// # Examples
///
/// ```
/// use workpath::{Context, Origin};
///
/// let (ctx, canceller) = Context::background().with_cancel();
/// canceller.cancel();
/// assert_eq!(ctx.error().unwrap().why().unwrap().origin(), Origin::User);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// The program: a [`Canceller`](crate::Canceller) or a [`JobHandle`](crate::JobHandle).
    User,
    /// The deadline.
    Deadline,
    /// A [`JobSet`](crate::JobSet): its own cancel, a member that decided for all, or its drop.
    JobSet,
    /// A shutdown of the delegator, or the stop of a serving.
    Shutdown,
    /// A queue of orders that the delegator serves: the order was cancelled there, or its lease was lost.
    OrderQueue,
    /// Another job, in whose favour this one was cancelled: the cause is a [`Displaced`](crate::Displaced).
    Displaced,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Origin::User => "user",
            Origin::Deadline => "deadline",
            Origin::JobSet => "job set",
            Origin::Shutdown => "shutdown",
            Origin::OrderQueue => "order queue",
            Origin::Displaced => "displaced",
        })
    }
}

/// Who ended a context or a job, where in the program, and when; see [`Error::why`](crate::Error::why). The cause that was
/// given with it is [`Error::get_ref`](crate::Error::get_ref).
///
/// `Display` is a few words, such as `by the user through a parent context, at src/ui.rs:88:9`.
///
/// # Examples
///
/// ```
/// use workpath::{Context, Origin};
///
/// let (session, canceller) = Context::background().with_cancel();
/// let (request, _) = session.with_cancel();
/// canceller.cancel_with("logged out");
///
/// let why = request.error().unwrap().why().unwrap();
/// assert_eq!(why.origin(), Origin::User);
/// assert!(why.is_inherited()); // it was the session that was cancelled
/// println!("{why}"); // by the user through a parent context, at src/main.rs:5:11
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Provenance {
    origin: Origin,
    location: Option<&'static Location<'static>>,
    at: Tick,
    inherited: bool,
}

impl Provenance {
    pub(crate) fn deadline(at: Tick) -> Provenance {
        Provenance { origin: Origin::Deadline, location: None, at, inherited: false }
    }

    /// What kind of thing it was.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use workpath::{Context, Origin};
    ///
    /// let late = Context::background().with_timeout(Duration::ZERO);
    /// assert_eq!(late.error().unwrap().why().unwrap().origin(), Origin::Deadline);
    /// ```
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Whether a context above this one was cancelled, not this one itself. For a job, everything but a cancel of the job by
    /// its handle or its set, and the shutdown of its own delegator, comes from above: the context that it was given is its
    /// parent. Always `false` for a deadline, which is handed down as the earliest of all.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::Context;
    ///
    /// let (ctx, canceller) = Context::background().with_cancel();
    /// canceller.cancel();
    /// assert!(!ctx.error().unwrap().why().unwrap().is_inherited());
    /// ```
    pub fn is_inherited(&self) -> bool {
        self.inherited
    }

    /// The call that cancelled, in the program's source. `None` for a deadline, for the drop of a set, and for another job.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::Context;
    ///
    /// let (ctx, canceller) = Context::background().with_cancel();
    /// canceller.cancel();
    /// assert!(ctx.error().unwrap().why().unwrap().location().unwrap().file().ends_with(".rs"));
    /// ```
    pub fn location(&self) -> Option<&'static Location<'static>> {
        self.location
    }

    /// When: the instant of the cancel, or the deadline itself, however late it was noticed.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use workpath::Context;
    ///
    /// let deadline = Instant::now() - Duration::from_secs(1);
    /// let late = Context::background().with_deadline(deadline);
    /// assert_eq!(late.error().unwrap().why().unwrap().at(), deadline);
    /// ```
    pub fn at(&self) -> Instant {
        self.at.instant().unwrap_or_else(Instant::now)
    }

    #[cfg(feature = "serde")]
    pub(crate) fn tick(&self) -> Tick {
        self.at
    }

    /// How long before this tick it was.
    pub(crate) fn before(&self, now: Tick) -> Duration {
        now.since(self.at).unwrap_or_default()
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.origin {
            Origin::User => "by the user",
            Origin::Deadline => "by its deadline",
            Origin::JobSet => "by a job set",
            Origin::Shutdown => "by a shutdown",
            Origin::OrderQueue => "by the order queue",
            Origin::Displaced => "by another job",
        })?;
        if self.inherited {
            f.write_str(" through a parent context")?;
        }
        match self.location {
            Some(location) => write!(f, ", at {location}"),
            None => Ok(()),
        }
    }
}
