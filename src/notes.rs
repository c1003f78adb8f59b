//! What running operations say of themselves: their last checkpoint, and how far they are.
//!
//! 1. Before the first note there is nothing: the job's scope gets [`Notes`] under the lock of the slot that the job is on.
//!    The worker takes the job off under the same lock, so it misses no notes.
//! 2. In that step it closes them, and what they say moves to the job: who asks finds it at one place or the other. What is
//!    noted later, through a context that was kept, goes nowhere.
//! 3. Subscribers are told under the lock of the notes, so nobody hears of a checkpoint of a job that has ended.

use std::borrow::Cow;
use std::fmt;
use std::panic::Location;
use std::time::{Duration, SystemTime};

use crate::clock::{Tick, WallOffset};
use crate::engine::Engine;
use crate::events::Event;
use crate::id::JobId;
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering, Weak};
use crate::task::Task;

/// How many bytes of a text are kept.
const MAX_TEXT: usize = 256;

/// In place of a number before the first progress.
const NONE: u64 = u64::MAX;

/// Where an operation last said it was: see [`Context::checkpoint`](crate::Context::checkpoint).
///
/// `Display` is the place and the text on one line: `import.rs:88 "row 41200"`.
///
/// # Examples
///
/// ```
/// use workpath::{Delegator, Job};
///
/// let delegator = Delegator::builder().workers(1).build()?;
/// let record = delegator
///     .submit(Job::new("import", |ctx| {
///         ctx.checkpoint("all read")?;
///         Ok(Vec::new())
///     }))?
///     .wait();
/// let last = record.checkpoint().expect("there was one");
/// assert_eq!(last.text(), "all read");
/// assert!(last.line() > 0);
/// println!("{last}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    note: Note,
    wall: WallOffset,
}

impl Checkpoint {
    /// What the operation said; of a long text, the first 256 bytes, or a few less where that would cut a character.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let long = Job::new("long", |ctx| ctx.checkpoint("x".repeat(1000)).map(|()| Vec::new()));
    /// let record = delegator.submit(long)?.wait();
    /// assert_eq!(record.checkpoint().expect("there was one").text().len(), 256);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn text(&self) -> &str {
        &self.note.text
    }

    /// The source file of the call, as the compiler knows it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let job = Job::new("job", |ctx| ctx.checkpoint("here").map(|()| Vec::new()));
    /// let record = delegator.submit(job)?.wait();
    /// assert_eq!(record.checkpoint().expect("there was one").file(), file!());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn file(&self) -> &'static str {
        self.note.location.file()
    }

    /// The line of the call.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let line = line!() + 1;
    /// let job = Job::new("job", |ctx| ctx.checkpoint("here").map(|()| Vec::new()));
    /// let record = delegator.submit(job)?.wait();
    /// assert_eq!(record.checkpoint().expect("there was one").line(), line);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn line(&self) -> u32 {
        self.note.location.line()
    }

    /// When that was, by the wall clock; comparable with the times of the job's record.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// let job = Job::new("job", |ctx| ctx.checkpoint("here").map(|()| Vec::new()));
    /// let record = delegator.submit(job)?.wait();
    /// assert!(record.checkpoint().expect("there was one").time() <= record.completed_at());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn time(&self) -> SystemTime {
        self.wall.time(self.note.at)
    }

    /// How long ago that is now.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use workpath::{Delegator, Job};
    /// let delegator = Delegator::manual();
    /// let job = Job::new("job", |ctx| ctx.checkpoint("here").map(|()| Vec::new()));
    /// let record = delegator.submit(job)?.wait();
    /// delegator.advance(Duration::from_secs(12));
    /// assert_eq!(record.checkpoint().expect("there was one").age(), Duration::from_secs(12));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn age(&self) -> Duration {
        self.note.age(Tick::now())
    }

    #[cfg(feature = "serde")]
    pub(crate) fn unix_millis(&self) -> u64 {
        self.wall.unix_millis(self.note.at)
    }

    #[cfg(feature = "trace")]
    pub(crate) fn tick(&self) -> Tick {
        self.note.at
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.note, f)
    }
}

/// How far an operation says it is: see [`Context::progress`](crate::Context::progress).
///
/// `Display` is `41200/100000`, or `41200` where the total is not known.
///
/// # Examples
///
/// ```
/// use workpath::{Delegator, Job};
///
/// let delegator = Delegator::builder().workers(1).build()?;
/// let record = delegator
///     .submit(Job::new("import", |ctx| {
///         ctx.progress(3, 4);
///         Ok(Vec::new())
///     }))?
///     .wait();
/// let progress = record.progress().expect("told");
/// assert_eq!((progress.done, progress.total), (3, 4));
/// assert_eq!(progress.to_string(), "3/4");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// What is done, in whatever unit the operation counts.
    pub done: u64,
    /// What there is to do; zero if that is not known. The two are not read in one step: where the total changes, one
    /// may be older than the other.
    pub total: u64,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.total {
            0 => write!(f, "{}", self.done),
            total => write!(f, "{}/{total}", self.done),
        }
    }
}

/// A checkpoint, without what is the same for the whole job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    text: Cow<'static, str>,
    location: &'static Location<'static>,
    at: Tick,
}

impl Note {
    pub(crate) fn new(text: Cow<'static, str>, location: &'static Location<'static>) -> Note {
        Note { text: bounded(text), location, at: Tick::now() }
    }

    fn age(&self, now: Tick) -> Duration {
        now.since(self.at).unwrap_or_default()
    }

    pub(crate) fn seen_by(self, wall: WallOffset) -> Checkpoint {
        Checkpoint { note: self, wall }
    }

    /// Shows it with its age.
    pub(crate) fn as_of(&self, now: Tick) -> Aged<'_> {
        Aged(self, now)
    }
}

pub(crate) struct Aged<'a>(&'a Note, Tick);

impl fmt::Display for Aged<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "last checkpoint {} {} ago", self.0, Span(self.0.age(self.1)))
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.location.file();
        let name = file.rsplit(['/', '\\']).next().unwrap_or(file);
        write!(f, "{name}:{} {:?}", self.location.line(), self.text)
    }
}

fn bounded(text: Cow<'static, str>) -> Cow<'static, str> {
    if text.len() <= MAX_TEXT {
        return text;
    }
    let end = (0..=MAX_TEXT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text[..end]),
        // A copy, so that the rest of a long text is freed.
        Cow::Owned(text) => Cow::Owned(text[..end].to_owned()),
    }
}

/// A time in a text for people: `12 s`, `1.5 s`, `250 ms`.
pub(crate) struct Span(pub(crate) Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        let (unit, name) = match nanos {
            999_950_000.. => (1_000_000_000, "s"),
            999_950.. => (1_000_000, "ms"),
            _ => (1_000, "µs"),
        };
        let tenths = (nanos + unit / 20) / (unit / 10);
        match (tenths / 10, tenths % 10) {
            (whole, tenth) if whole < 10 && tenth > 0 => write!(f, "{whole}.{tenth} {name}"),
            (whole, tenth) => write!(f, "{} {name}", whole + u128::from(tenth >= 5)),
        }
    }
}

/// The notes of a job that is running.
pub(crate) struct Notes {
    id: JobId,
    name: Cow<'static, str>,
    wall: WallOffset,
    worker: usize,
    owner: Weak<Engine>,
    /// Whether the owner has subscribers to tell.
    watched: Arc<AtomicBool>,
    last: Mutex<Last>,
    done: AtomicU64,
    total: AtomicU64,
}

#[derive(Default)]
struct Last {
    note: Option<Note>,
    closed: bool,
}

/// What the notes of a job say at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Noted {
    pub(crate) checkpoint: Option<Note>,
    pub(crate) progress: Option<Progress>,
}

impl Notes {
    pub(crate) fn new(task: &Task, worker: usize, owner: Weak<Engine>, watched: Arc<AtomicBool>) -> Notes {
        Notes {
            id: task.id,
            name: task.name.clone(),
            wall: task.wall,
            worker,
            owner,
            watched,
            last: Mutex::default(),
            done: AtomicU64::new(NONE),
            total: AtomicU64::new(0),
        }
    }

    pub(crate) fn checkpoint(&self, note: Note) {
        let watched = self.watched.load(Ordering::Relaxed);
        let owner = if watched { self.owner.upgrade() } else { None };
        let mut last = self.last.lock();
        if last.closed {
            return;
        }
        if let Some(owner) = &owner {
            let (id, name, worker) = (self.id, self.name.clone(), self.worker);
            let checkpoint = note.clone().seen_by(self.wall);
            owner.tell(Event::Checkpoint { id, name, worker, checkpoint });
        }
        let before = last.note.replace(note);
        drop(last);
        drop(before);
        // It may be the last reference, when a context was kept.
        crate::panics::discard("a delegator", owner);
    }

    pub(crate) fn progress(&self, done: u64, total: u64) {
        self.total.store(total, Ordering::Relaxed);
        self.done.store(done.min(NONE - 1), Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Noted {
        Noted { checkpoint: self.last.lock().note.clone(), progress: self.read_progress() }
    }

    /// What they say at last.
    pub(crate) fn close(&self) -> Noted {
        let mut last = self.last.lock();
        last.closed = true;
        Noted { checkpoint: last.note.take(), progress: self.read_progress() }
    }

    fn read_progress(&self) -> Option<Progress> {
        let done = self.done.load(Ordering::Relaxed);
        (done != NONE).then(|| Progress { done, total: self.total.load(Ordering::Relaxed) })
    }
}

impl Noted {
    /// The bytes of the text.
    pub(crate) fn bytes(&self) -> usize {
        self.checkpoint.as_ref().map_or(0, |note| note.text.len())
    }
}

/// Where a job was when it was ended: a part of its error.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) job: Cow<'static, str>,
    pub(crate) thread: String,
    /// From the creation of the job to its deadline.
    pub(crate) limit: Duration,
    pub(crate) note: Note,
    pub(crate) ended: Tick,
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_digits_at_least_and_no_zeros_behind_the_point() {
        let shown = |nanos| Span(Duration::from_nanos(nanos)).to_string();
        let spans = [
            (0, "0 µs"),
            (1_500, "1.5 µs"),
            (999_949, "1000 µs"),
            (999_950, "1 ms"),
            (250_000_000, "250 ms"),
            (999_950_000, "1 s"),
            (1_540_000_000, "1.5 s"),
            (9_960_000_000, "10 s"),
            (10_400_000_000, "10 s"),
            (30_000_000_123, "30 s"),
            (u64::MAX, "18446744074 s"),
        ];
        for (nanos, expected) in spans {
            assert_eq!(shown(nanos), expected, "{nanos} ns");
        }
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        let text = format!("{}ä", "x".repeat(MAX_TEXT - 1));
        assert_eq!(bounded(text.clone().into()), "x".repeat(MAX_TEXT - 1));
        assert_eq!(bounded(text[..MAX_TEXT - 1].to_owned().into()).len(), MAX_TEXT - 1);
        assert_eq!(bounded(Cow::Owned("ä".repeat(MAX_TEXT))).len(), MAX_TEXT);
    }
}
