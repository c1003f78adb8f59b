//! What all threads share: the ledger, the seed's random numbers, and the values that jobs carry.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use workpath::{
    Context, Error, ErrorKind, Job, JobHandle, JobId, JobRecord, JobState, SubmitError, Submitter,
};

/// Far more than anything here needs, also on a machine that gives it a hundredth of a core.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// The one ledger of the process.
pub(crate) static LEDGER: Ledger = Ledger::new();

/// What was made, what was seen, and the first thing that was wrong.
pub(crate) struct Ledger {
    /// Values captured by operations: made and dropped.
    pub(crate) loaded: AtomicU64,
    pub(crate) unloaded: AtomicU64,
    /// Operations begun, and outcomes seen, by state.
    pub(crate) runs: AtomicU64,
    pub(crate) seen: [AtomicU64; 5],
    pub(crate) delegators: AtomicU64,
    pub(crate) lines: AtomicU64,
    pub(crate) callbacks: AtomicU64,
    stop: AtomicBool,
    violation: OnceLock<String>,
}

impl Ledger {
    const fn new() -> Ledger {
        Ledger {
            loaded: AtomicU64::new(0),
            unloaded: AtomicU64::new(0),
            runs: AtomicU64::new(0),
            seen: [const { AtomicU64::new(0) }; 5],
            delegators: AtomicU64::new(0),
            lines: AtomicU64::new(0),
            callbacks: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            violation: OnceLock::new(),
        }
    }

    /// Notes what was violated; the first counts. Everything winds down.
    pub(crate) fn fail(&self, what: impl fmt::Display) {
        let _ = self.violation.set(what.to_string());
        self.stop();
    }

    pub(crate) fn check(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.fail(what());
        }
    }

    pub(crate) fn violation(&self) -> Option<&str> {
        self.violation.get().map(String::as_str)
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// How many values that operations captured are still about.
    pub(crate) fn afloat(&self) -> u64 {
        let unloaded = self.unloaded.load(Ordering::SeqCst);
        self.loaded.load(Ordering::SeqCst).saturating_sub(unloaded)
    }
}

pub(crate) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs what may panic as it was told to.
pub(crate) fn quietly<T>(body: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(body)).map_err(defuse).ok()
}

/// Drops what may panic: a job with what it captured, or the last reference to an error.
pub(crate) fn put_away<T>(value: T) {
    quietly(|| drop(value));
}

/// Drops a payload whose drop may panic with the next one.
fn defuse(payload: Box<dyn std::any::Any + Send>) {
    let mut next = Some(payload);
    while let Some(payload) = next {
        next = catch_unwind(AssertUnwindSafe(|| drop(payload))).err();
    }
}

/// Looks until `holds` says yes or patience is over.
pub(crate) fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !holds() {
        if start.elapsed() > PATIENCE {
            return false;
        }
        thread::sleep(Duration::from_micros(200));
    }
    true
}

/// Random numbers that a seed decides.
#[derive(Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn fork(&mut self) -> Rng {
        Rng(self.next())
    }

    /// Less than `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn one_in(&mut self, odds: u64) -> bool {
        self.below(odds) == 0
    }

    pub(crate) fn micros(&mut self, bound: u64) -> Duration {
        Duration::from_micros(self.below(bound))
    }
}

/// What is known about one job from outside the library.
#[derive(Default)]
pub(crate) struct Note {
    pub(crate) runs: AtomicU32,
    unloaded: AtomicU32,
}

/// What every operation captures: tells when it is dropped, and may panic then.
pub(crate) struct Freight {
    pub(crate) note: Arc<Note>,
    bomb: bool,
}

impl Freight {
    pub(crate) fn new(note: &Arc<Note>, bomb: bool) -> Freight {
        LEDGER.loaded.fetch_add(1, Ordering::SeqCst);
        Freight { note: Arc::clone(note), bomb }
    }

    /// Called by the operation when it begins.
    pub(crate) fn begin(&self) {
        add(&LEDGER.runs);
        let runs = self.note.runs.fetch_add(1, Ordering::Relaxed) + 1;
        LEDGER.check(runs == 1, || format!("an operation was run {runs} times"));
        LEDGER.check(self.note.unloaded.load(Ordering::SeqCst) == 0, || {
            "an operation ran after what it captured was dropped".to_owned()
        });
    }
}

impl Drop for Freight {
    fn drop(&mut self) {
        let dropped = self.note.unloaded.fetch_add(1, Ordering::SeqCst) + 1;
        LEDGER.check(dropped == 1, || format!("what a job captured was dropped {dropped} times"));
        LEDGER.unloaded.fetch_add(1, Ordering::SeqCst);
        no_house_thread("what a job captured was dropped");
        if self.bomb && !thread::panicking() {
            panic!("a captured value that panics in its drop");
        }
    }
}

/// Fails on threads of the library that must not run such user code.
pub(crate) fn no_house_thread(what: &str) {
    let thread = thread::current();
    let name = thread.name().unwrap_or_default();
    LEDGER.check(!name.ends_with("-d") && name != TIMER, || format!("{what} on the thread {name}"));
}

pub(crate) const TIMER: &str = "workpath-timer";

/// A panic payload whose drop panics with the next.
pub(crate) struct Matryoshka(pub(crate) u32);

impl Drop for Matryoshka {
    fn drop(&mut self) {
        if self.0 > 0 && !thread::panicking() {
            std::panic::panic_any(Matryoshka(self.0 - 1));
        }
    }
}

/// An error, or the cause of a cancel, that panics when it is shown or dropped.
#[derive(Debug)]
pub(crate) struct Prickly {
    pub(crate) when_shown: bool,
    pub(crate) when_dropped: bool,
}

impl Prickly {
    pub(crate) fn any(rng: &mut Rng) -> Prickly {
        Prickly { when_shown: rng.one_in(2), when_dropped: rng.one_in(2) }
    }
}

impl fmt::Display for Prickly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.when_shown && !thread::panicking() {
            panic!("an error that panics when it is shown");
        }
        f.write_str("prickly")
    }
}

impl std::error::Error for Prickly {}

impl Drop for Prickly {
    fn drop(&mut self) {
        if self.when_dropped && !thread::panicking() {
            panic!("an error that panics in its drop");
        }
    }
}

/// A set of states.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct States(pub(crate) u8);

impl States {
    pub(crate) const COMPLETED: States = States(1);
    pub(crate) const FAILED: States = States(2);
    pub(crate) const PANICKED: States = States(4);
    pub(crate) const CANCELLED: States = States(8);
    pub(crate) const TIMED_OUT: States = States(16);

    pub(crate) fn or(self, other: States) -> States {
        States(self.0 | other.0)
    }

    fn number(state: JobState) -> Option<usize> {
        [JobState::Completed, JobState::Failed, JobState::Panicked, JobState::Cancelled, JobState::TimedOut]
            .iter()
            .position(|known| *known == state)
    }
}

/// A submitter, with the numbers that its delegator must agree on.
#[derive(Clone)]
pub(crate) struct Door {
    submitter: Submitter,
    tally: Arc<Tally>,
}

#[derive(Default)]
pub(crate) struct Tally {
    /// Submissions that have begun.
    pub(crate) begun: AtomicU64,
    pub(crate) accepted: AtomicU64,
    pub(crate) refused: AtomicU64,
}

/// The four ways to submit.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Form {
    Submit,
    Try,
    Timeout(Duration),
    Deadline(Duration),
}

impl Form {
    pub(crate) fn any(rng: &mut Rng) -> Form {
        let limit = match rng.below(4) {
            0 => Duration::ZERO,
            1 => rng.micros(300),
            2 => rng.micros(20_000),
            _ => Duration::MAX,
        };
        match rng.below(4) {
            0 => Form::Submit,
            1 => Form::Try,
            2 => Form::Timeout(limit),
            _ => Form::Deadline(limit.min(Duration::from_secs(60 * 60))),
        }
    }

    /// One that never blocks.
    pub(crate) fn at_once(rng: &mut Rng) -> Form {
        if rng.one_in(2) { Form::Try } else { Form::Timeout(Duration::ZERO) }
    }
}

impl Door {
    pub(crate) fn new(submitter: Submitter) -> Door {
        Door { submitter, tally: Arc::default() }
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    pub(crate) fn send(&self, form: Form, job: Job) -> Result<JobHandle, SubmitError> {
        let (id, created) = (job.id(), job.created_at());
        add(&self.tally.begun);
        let sent = match form {
            Form::Submit => self.submitter.submit(job),
            Form::Try => self.submitter.try_submit(job),
            Form::Timeout(limit) => self.submitter.submit_timeout(job, limit),
            Form::Deadline(limit) => self.submitter.submit_deadline(job, Instant::now() + limit),
        };
        match &sent {
            Ok(handle) => {
                add(&self.tally.accepted);
                LEDGER.check(handle.id() == id, || format!("job {id} came back as {}", handle.id()));
            }
            Err(error) => {
                add(&self.tally.refused);
                let (SubmitError::Full(job) | SubmitError::Timeout(job) | SubmitError::ShutDown(job)) = error
                else {
                    LEDGER.fail("a refusal of an unknown kind");
                    return sent;
                };
                LEDGER.check(job.id() == id && job.created_at() == created, || {
                    format!("job {id} was changed by its refusal")
                });
                let fits = match form {
                    Form::Submit => matches!(error, SubmitError::ShutDown(_)),
                    Form::Try => !matches!(error, SubmitError::Timeout(_)),
                    Form::Timeout(_) | Form::Deadline(_) => !matches!(error, SubmitError::Full(_)),
                };
                LEDGER.check(fits, || format!("{form:?} was refused with {error:?}"));
            }
        }
        sent
    }
}

/// A submitted job with what may become of it.
pub(crate) struct Sent {
    pub(crate) handle: JobHandle,
    pub(crate) note: Arc<Note>,
    pub(crate) may: States,
    /// What it returns if it completes; `None` if that depends.
    pub(crate) payload: Option<Vec<u8>>,
}

impl Sent {
    /// Checks all that its record says.
    pub(crate) fn verify(&self, record: &JobRecord) {
        let (id, state) = (record.id(), record.state());
        let Some(number) = States::number(state) else {
            return LEDGER.fail(format_args!("job {id} has finished as {state}"));
        };
        add(&LEDGER.seen[number]);
        let kind = record.error().map(Error::kind);
        let fits = match state {
            JobState::Completed => kind.is_none(),
            // An error of another context is a failure, whatever its kind.
            JobState::Failed => kind.is_some(),
            JobState::Panicked => kind == Some(ErrorKind::Panicked),
            JobState::Cancelled => kind == Some(ErrorKind::Cancelled),
            _ => kind == Some(ErrorKind::DeadlineExceeded),
        };
        LEDGER.check(fits, || format!("job {id} {state} with an error of kind {kind:?}"));
        LEDGER.check(self.may.0 & (1 << number) != 0, || {
            format!("job {id} {:?} {state}, which nothing here can bring about", record.name())
        });
        let runs = self.note.runs.load(Ordering::SeqCst);
        LEDGER.check(runs == u32::from(record.started_at().is_some()), || {
            format!("job {id} {state} was run {runs} times, started at {:?}", record.started_at())
        });
        LEDGER.check(record.worker().is_some() == (runs == 1), || {
            format!("job {id} {state} was run {runs} times by worker {:?}", record.worker())
        });
        LEDGER.check(self.note.unloaded.load(Ordering::SeqCst) == 1, || {
            let (name, thread) = (record.name(), std::thread::current());
            let error = record.error().map(ToString::to_string);
            format!(
                "job {id} {name:?} {state} is finished, but what it captured is there: run {runs} times, {error:?}, seen by {:?}",
                thread.name()
            )
        });
        if let (Some(payload), Some(expected)) = (record.payload(), &self.payload) {
            LEDGER.check(payload == expected, || format!("job {id} has somebody else's payload"));
        }
        LEDGER.check(record.queue_time() + record.run_time() == record.round_trip_time(), || {
            format!("the times of job {id} do not add up")
        });
    }

    /// What two looks at one job must agree on.
    pub(crate) fn agree(&self, first: &JobRecord, second: &JobRecord) {
        let same =
            |record: &JobRecord| (record.id(), record.state(), record.completed_at(), record.started_at());
        LEDGER.check(same(first) == same(second) && first.payload() == second.payload(), || {
            format!(
                "two records of one job: {} {} and {} {}",
                first.id(),
                first.state(),
                second.id(),
                second.state()
            )
        });
    }
}

/// Ids as they come, to be checked for order on each thread and for doubles over all of them.
pub(crate) struct Ids {
    list: Vec<JobId>,
    last: Option<JobId>,
}

impl Ids {
    /// How many are kept from one quiet point to the next; the others are only checked for order.
    const KEPT: usize = 1 << 16;

    pub(crate) fn new() -> Ids {
        Ids { list: Vec::with_capacity(Ids::KEPT), last: None }
    }

    pub(crate) fn add(&mut self, id: JobId) {
        LEDGER.check(self.last.is_none_or(|last| last < id), || format!("{id} is not after {:?}", self.last));
        self.last = Some(id);
        if self.list.len() < Ids::KEPT {
            self.list.push(id);
        }
    }

    pub(crate) fn move_to(&mut self, all: &mut Vec<JobId>) {
        all.append(&mut self.list);
    }
}

/// Sleeps as a context allows, or does not look at it.
pub(crate) fn nap(ctx: &Context, time: Duration, heedless: bool) -> Result<(), Error> {
    if heedless {
        thread::sleep(time);
        return Ok(());
    }
    ctx.sleep(time)
}
