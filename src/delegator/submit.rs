//! Getting jobs in.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use crate::clock::Tick;
use crate::context::{Action, End};
use crate::engine::{Engine, Slot};
use crate::error::{Error, SubmitErrorKind};
use crate::events::Event;
use crate::extras::When;
use crate::handle::JobHandle;
use crate::id::JobId;
use crate::job::Job;
use crate::overflow::{Displaced, Overflow};
use crate::pace::Pace;
use crate::panics::discard;
use crate::priority::Priority;
use crate::provenance::{Cancel, Cancelled, Origin};
use crate::queue::{Parker, Phase};
use crate::sync::{self, Arc, Ordering, spin_loop};
use crate::task::Task;
use crate::worker;

/// How long a submitter waits for room for several before it asks for any.
const PATIENCE: Duration = Duration::from_millis(1);

/// How often a submitter looks for room before it parks.
const SPINS: u32 = sync::looks(128);

/// Why a job was not accepted. The job is inside, as it was.
///
/// # Examples
///
/// ```
/// use workpath::{Delegator, Job, Shutdown, SubmitError};
///
/// let delegator = Delegator::builder().workers(1).build()?;
/// delegator.shutdown(Shutdown::drain());
/// match delegator.submit(Job::new("late", |_| Ok(Vec::new()))) {
///     Err(SubmitError::ShutDown(job)) => assert_eq!(job.name(), "late"),
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), workpath::BuildError>(())
/// ```
#[non_exhaustive]
pub enum SubmitError {
    /// The queue is full.
    Full(Job),
    /// The queue was full until the submission's time was over.
    Timeout(Job),
    /// The delegator accepts no jobs any more.
    ShutDown(Job),
    /// By the length of the queue, the job would not start before its deadline; see
    /// [`Builder::refuse_hopeless`](crate::Builder::refuse_hopeless).
    WouldMissDeadline(Job),
}

impl SubmitError {
    /// The job, to be submitted again or elsewhere.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job, Shutdown};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// delegator.shutdown(Shutdown::drain());
    /// let job = delegator.try_submit(Job::new("late", |_| Ok(Vec::new()))).unwrap_err().into_job();
    /// let elsewhere = Delegator::builder().workers(1).build()?;
    /// assert!(elsewhere.submit(job).is_ok());
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn into_job(self) -> Job {
        match self {
            SubmitError::Full(job)
            | SubmitError::Timeout(job)
            | SubmitError::ShutDown(job)
            | SubmitError::WouldMissDeadline(job) => job,
        }
    }

    /// Why, without the job.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Delegator, Job, Shutdown, SubmitErrorKind};
    /// # let delegator = Delegator::builder().workers(1).build()?;
    /// delegator.shutdown(Shutdown::drain());
    /// let error = delegator.submit(Job::new("late", |_| Ok(Vec::new()))).unwrap_err();
    /// assert_eq!(error.kind(), SubmitErrorKind::ShutDown);
    /// # Ok::<(), workpath::BuildError>(())
    /// ```
    pub fn kind(&self) -> SubmitErrorKind {
        self.parts().0
    }

    fn parts(&self) -> (SubmitErrorKind, &Job) {
        match self {
            SubmitError::Full(job) => (SubmitErrorKind::Full, job),
            SubmitError::Timeout(job) => (SubmitErrorKind::Timeout, job),
            SubmitError::ShutDown(job) => (SubmitErrorKind::ShutDown, job),
            SubmitError::WouldMissDeadline(job) => (SubmitErrorKind::WouldMissDeadline, job),
        }
    }
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (why, job) = self.parts();
        write!(f, "job {:?} was not accepted: {why}", job.name)
    }
}

impl fmt::Debug for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, job) = self.parts();
        f.debug_tuple(&format!("{kind:?}")).field(job).finish()
    }
}

impl std::error::Error for SubmitError {}

impl From<SubmitError> for Error {
    /// Keeps the text and drops the job.
    fn from(error: SubmitError) -> Error {
        let text = error.to_string();
        discard("a refused job", error);
        Error::from(text)
    }
}

/// Why some jobs of a batch were not accepted. Both parts are in the order of the batch, and every job of it is in one of
/// them.
///
/// # Examples
///
/// ```
/// use workpath::{Delegator, Job, Shutdown};
///
/// let delegator = Delegator::builder().workers(1).build()?;
/// delegator.shutdown(Shutdown::drain());
/// let batch = ["a", "b"].map(|name| Job::new(name, |_| Ok(Vec::new())));
/// let refused = delegator.submit_all(batch).unwrap_err();
/// assert_eq!((refused.accepted.len(), refused.rest.len()), (0, 2));
/// assert_eq!(refused.to_string(), "2 of 2 jobs were not accepted: the delegator is shut down");
/// # Ok::<(), workpath::BuildError>(())
/// ```
#[non_exhaustive]
pub struct SubmitAllError {
    /// The jobs that were accepted.
    pub accepted: Vec<JobHandle>,
    /// Those that were not, as they were.
    pub rest: Vec<Job>,
    /// Why not.
    pub kind: SubmitErrorKind,
}

impl fmt::Display for SubmitAllError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refused = self.rest.len();
        let all = refused + self.accepted.len();
        write!(f, "{refused} of {all} jobs were not accepted: {}", self.kind)
    }
}

impl fmt::Debug for SubmitAllError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubmitAllError")
            .field("kind", &self.kind)
            .field("accepted", &self.accepted.len())
            .field("rest", &self.rest.len())
            .finish()
    }
}

impl std::error::Error for SubmitAllError {}

impl From<SubmitAllError> for Error {
    /// Keeps the text and drops the jobs that were not accepted.
    fn from(error: SubmitAllError) -> Error {
        let text = error.to_string();
        for job in error.rest {
            discard("a refused job", job);
        }
        Error::from(text)
    }
}

/// How many jobs of a batch go in between two looks for somebody to wake.
const RUN: usize = 32;

/// What to do when there is no room.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NoRoom {
    GiveUp,
    /// Until this tick, at the latest.
    WaitUntil(Tick),
    /// For as long as it takes; a worker of the delegator does not wait but does the job itself.
    Wait,
    /// The submitter does the job itself.
    RunHere,
    /// For as long as others give way.
    DropOldest,
}

pub(super) fn submit(engine: &Arc<Engine>, job: Job) -> Result<JobHandle, SubmitError> {
    accept(engine, job, NoRoom::Wait)
}

pub(super) fn try_submit(engine: &Arc<Engine>, job: Job) -> Result<JobHandle, SubmitError> {
    accept(engine, job, NoRoom::GiveUp)
}

pub(super) fn submit_timeout(
    engine: &Arc<Engine>,
    job: Job,
    timeout: Duration,
) -> Result<JobHandle, SubmitError> {
    submit_until(engine, job, Tick::now().after(timeout))
}

pub(super) fn submit_deadline(
    engine: &Arc<Engine>,
    job: Job,
    deadline: Instant,
) -> Result<JobHandle, SubmitError> {
    submit_until(engine, job, Tick::from(deadline))
}

pub(super) fn submit_with(
    engine: &Arc<Engine>,
    job: Job,
    overflow: Overflow,
) -> Result<JobHandle, SubmitError> {
    match overflow {
        Overflow::Block => submit(engine, job),
        Overflow::Fail => try_submit(engine, job),
        Overflow::Timeout(timeout) => submit_timeout(engine, job, timeout),
        Overflow::CallerRuns => accept(engine, job, NoRoom::RunHere),
        Overflow::DropOldest => accept(engine, job, NoRoom::DropOldest),
    }
}

fn submit_until(engine: &Arc<Engine>, job: Job, until: Tick) -> Result<JobHandle, SubmitError> {
    let no_room = if until == Tick::NEVER { NoRoom::Wait } else { NoRoom::WaitUntil(until) };
    accept(engine, job, no_room)
}

/// Submits the jobs in order. Stops at the first that does not get in.
pub(super) fn submit_all(
    engine: &Arc<Engine>,
    jobs: impl IntoIterator<Item = Job>,
) -> Result<Vec<JobHandle>, SubmitAllError> {
    accept_all(engine, jobs.into_iter().collect(), NoRoom::Wait)
}

pub(super) fn try_submit_all(
    engine: &Arc<Engine>,
    jobs: impl IntoIterator<Item = Job>,
) -> Result<Vec<JobHandle>, SubmitAllError> {
    accept_all(engine, jobs.into_iter().collect(), NoRoom::GiveUp)
}

fn accept_all(
    engine: &Arc<Engine>,
    mut jobs: VecDeque<Job>,
    no_room: NoRoom,
) -> Result<Vec<JobHandle>, SubmitAllError> {
    let mut accepted = Vec::with_capacity(jobs.len());
    let (mut late, mut kind) = (Vec::new(), SubmitErrorKind::ShutDown);
    while late.is_empty() {
        let run = admit_run(engine, &mut jobs);
        if !run.is_empty() {
            push_run(engine, run, &mut jobs, &mut accepted, &mut late);
        } else if let Some(job) = jobs.pop_front() {
            match accept(engine, job, no_room) {
                Ok(handle) => accepted.push(handle),
                Err(error) => {
                    kind = error.kind();
                    late.push(error.into_job());
                }
            }
        } else {
            return Ok(accepted);
        }
    }
    engine.rejected.fetch_add(jobs.len() as u64, Ordering::Relaxed);
    for job in &jobs {
        tell_submitted(engine, job);
        tell_rejected(engine, job, kind);
    }
    late.extend(jobs);
    Err(SubmitAllError { accepted, rest: late, kind })
}

/// Takes jobs off the front that can go in together: as many as there is room for, up to the first that is special.
fn admit_run(engine: &Engine, jobs: &mut VecDeque<Job>) -> VecDeque<Arc<Task>> {
    let mut run = VecDeque::new();
    let most = engine.queue.room(Priority::Normal).min(jobs.len()).min(RUN);
    // Subscribers are told of each job on its own, each may be too late on its own, and without any time each is.
    let no_time = engine.default_timeout == Some(Duration::ZERO);
    let one_by_one = engine.events.is_watched() || engine.pace.is_some() || no_time;
    if most < 2 || engine.queue.phase() != Phase::Open || one_by_one {
        return run;
    }
    let now = Tick::now();
    while run.len() < most {
        let Some(job) = jobs.front() else { break };
        if job.extras.is_some() || job.context.is_done_at(now) {
            break;
        }
        let Some(mut job) = jobs.pop_front() else { break };
        let by_default = limit_by_default(engine, &mut job, || now);
        run.push_back(engine.admit(job, by_default));
    }
    run
}

/// Puts a run into the queue. What finds no room after all goes back to the front of `jobs`; what comes too late for a shutdown
/// is `late`.
fn push_run(
    engine: &Engine,
    mut run: VecDeque<Arc<Task>>,
    jobs: &mut VecDeque<Job>,
    accepted: &mut Vec<JobHandle>,
    late: &mut Vec<Job>,
) {
    let mut handles: Vec<_> = run.iter().map(|task| JobHandle { task: Arc::clone(task) }).collect();
    engine.registry.begin_submissions(run.len() as u64);
    engine.queue.try_push_all(&mut run);
    let mut refused = run.len();
    handles.truncate(handles.len() - refused);
    run.into_iter().rev().filter_map(Task::into_job).for_each(|job| jobs.push_front(job));
    // As in `confirm`.
    let pushed = accepted.len();
    if engine.queue.phase() == Phase::Open {
        accepted.extend(handles);
    } else {
        for handle in handles {
            match handle.task.withdraw() {
                None => accepted.push(handle),
                Some(captures) => late.push(handle.task.rebuild(captures)),
            }
        }
        engine.rejected.fetch_add(late.len() as u64, Ordering::Relaxed);
        refused += late.len();
    }
    engine.registry.accept_submissions((accepted.len() - pushed) as u64);
    if refused > 0 {
        engine.registry.refuse_submissions(refused as u64);
    }
}

/// Gives a job without a deadline the delegator's default timeout. `true` if it did.
fn limit_by_default(engine: &Engine, job: &mut Job, now: impl FnOnce() -> Tick) -> bool {
    let (Some(timeout), Tick::NEVER) = (engine.default_timeout, job.context.deadline_tick()) else {
        return false;
    };
    job.context.limit(now().after(timeout));
    true
}

fn tell_submitted(engine: &Engine, job: &Job) {
    engine.events.emit(|| Event::Submitted { id: job.id, name: job.name.clone() });
}

fn tell_rejected(engine: &Engine, job: &Job, why: SubmitErrorKind) {
    engine.events.emit(|| Event::Rejected { id: job.id, name: job.name.clone(), why });
}

fn accept(engine: &Arc<Engine>, mut job: Job, no_room: NoRoom) -> Result<JobHandle, SubmitError> {
    // Before anybody can see the job, so that nothing is told of it before this.
    tell_submitted(engine, &job);
    if engine.queue.phase() != Phase::Open {
        return Err(refuse(engine, job, SubmitError::ShutDown));
    }
    let when = job.extras.as_ref().and_then(|extras| extras.when);
    let due = when.map(|when| match when {
        When::After(delay) => Tick::now().after(delay),
        When::At(tick) => tick,
    });
    let by_default = limit_by_default(engine, &mut job, || {
        let now = Tick::now();
        due.unwrap_or(now).max(now)
    });
    let end = job.context.end();
    let priority = job.priority();
    let task = engine.admit(job, by_default);
    if let Some(end) = end {
        return Ok(end_at_once(engine, task, end));
    }
    let handle = JobHandle { task: Arc::clone(&task) };
    if let Some(due) = due.filter(|due| *due > Tick::now()) {
        if engine.schedule(&task, due) {
            return Ok(handle);
        }
        return Err(give_back(engine, task, handle, SubmitError::ShutDown));
    }
    if engine.pace.as_ref().is_some_and(|pace| is_hopeless(engine, pace, &task, priority)) {
        return Err(give_back(engine, task, handle, SubmitError::WouldMissDeadline));
    }
    match push(engine, task, priority) {
        Ok(()) => confirm(engine, handle),
        Err(task) => make_room(engine, task, priority, handle, no_room),
    }
}

/// Whether the jobs that go before it will take until after its deadline.
#[cold]
fn is_hopeless(engine: &Engine, pace: &Pace, task: &Task, priority: Priority) -> bool {
    if task.deadline == Tick::NEVER {
        return false;
    }
    let levels = [Priority::Low, Priority::Normal, Priority::High].into_iter();
    let ahead = levels.filter(|level| *level >= priority).map(|level| engine.queue.len_at(level)).sum();
    Tick::now().after(pace.time_for(ahead)) > task.deadline
}

/// Counts the task in and puts it in the queue, or gives it back.
fn push(engine: &Engine, task: Arc<Task>, priority: Priority) -> Result<(), Arc<Task>> {
    engine.registry.begin_submission();
    engine.queue.try_push_at(priority, task).inspect_err(|_| engine.registry.refuse_submission())
}

/// What is left to do once the job is in the queue: to make sure that somebody is there to take it out.
///
/// A shutdown first changes the phase and then looks into the queue; this looks at the phase after the push. So a job that
/// got in too late is seen by one of them, and whoever takes it out of the task decides.
fn confirm(engine: &Engine, handle: JobHandle) -> Result<JobHandle, SubmitError> {
    let captures = if engine.queue.phase() == Phase::Open { None } else { handle.task.withdraw() };
    match captures {
        None => {
            engine.registry.accept_submission();
            Ok(handle)
        }
        Some(captures) => {
            engine.registry.refuse_submission();
            let job = handle.task.rebuild(captures);
            Err(refuse(engine, job, SubmitError::ShutDown))
        }
    }
}

/// The queue is full: waits, runs the job here, or gives up.
#[cold]
fn make_room(
    engine: &Arc<Engine>,
    task: Arc<Task>,
    priority: Priority,
    handle: JobHandle,
    no_room: NoRoom,
) -> Result<JobHandle, SubmitError> {
    if let Some(end) = task.context().end() {
        drop(handle);
        return Ok(end_at_once(engine, task, end));
    }
    let until = match no_room {
        NoRoom::GiveUp => return Err(give_back(engine, task, handle, SubmitError::Full)),
        NoRoom::DropOldest => return drop_oldest(engine, task, priority, handle),
        NoRoom::Wait | NoRoom::RunHere if worker::is_on(engine) => {
            engine.registry.begin_submission();
            engine.registry.accept_submission();
            drop(task);
            worker::run_inline(&handle.task);
            return Ok(handle);
        }
        NoRoom::RunHere => return run_here(engine, task, handle),
        NoRoom::Wait => Tick::NEVER,
        NoRoom::WaitUntil(until) => until,
    };
    let mut task = task;
    for _ in 0..SPINS {
        if !engine.queue.is_full(priority) {
            match push(engine, task, priority) {
                Ok(()) => return confirm(engine, handle),
                Err(back) => task = back,
            }
        }
        spin_loop();
    }
    wait_for_room(engine, task, priority, handle, until)
}

/// Has jobs give way until this one has a place.
fn drop_oldest(
    engine: &Arc<Engine>,
    mut task: Arc<Task>,
    priority: Priority,
    handle: JobHandle,
) -> Result<JobHandle, SubmitError> {
    loop {
        if engine.queue.phase() != Phase::Open {
            return Err(give_back(engine, task, handle, SubmitError::ShutDown));
        }
        match engine.queue.take_oldest(priority) {
            Some(oldest) => give_way(engine, oldest, handle.id()),
            None if engine.queue.holds_any() => {}
            None => return Err(give_back(engine, task, handle, SubmitError::Full)),
        }
        match push(engine, task, priority) {
            Ok(()) => return confirm(engine, handle),
            // Somebody else has taken the place.
            Err(back) => task = back,
        }
    }
}

/// Ends a job that was taken out of the queue.
fn give_way(engine: &Engine, task: Arc<Task>, by: JobId) {
    // One that has ended, or whose context is done, does not give way.
    task.look();
    if let Some(captures) = task.withdraw() {
        engine.dropped.fetch_add(1, Ordering::Relaxed);
        let cancel = Cancel::at(Origin::Displaced, Some(Arc::new(Displaced::Dropped { by })), None);
        task.end_claimed(captures, End::Cancel(Cancelled::now(cancel)));
    }
    discard("a finished job", task);
}

/// Runs the job on this thread, which is no worker.
fn run_here(engine: &Arc<Engine>, task: Arc<Task>, handle: JobHandle) -> Result<JobHandle, SubmitError> {
    let name = std::thread::current().name().unwrap_or("a caller").to_owned();
    let slot = Arc::new(Slot::new(name, &engine.scope, true));
    engine.callers.enter(&slot);
    if engine.queue.phase() != Phase::Open {
        engine.callers.leave(&slot);
        return Err(give_back(engine, task, handle, SubmitError::ShutDown));
    }
    engine.registry.begin_submission();
    engine.registry.accept_submission();
    drop(task);
    worker::run_as_caller(engine, Arc::clone(&slot), &handle.task);
    engine.callers.leave(&slot);
    Ok(handle)
}

fn wait_for_room(
    engine: &Arc<Engine>,
    mut task: Arc<Task>,
    priority: Priority,
    handle: JobHandle,
    until: Tick,
) -> Result<JobHandle, SubmitError> {
    let queue = &engine.queue;
    let context = task.context();
    let listening = context.listen(Action::Wake(sync::current()));
    let me = Parker::of_this_thread();
    let mut again = false;
    let result = loop {
        queue.line_up(priority, &me, again);
        again = true;
        // For a moment it waits to be called when there is room for several; then for any place.
        let mut patience = Tick::now().after(PATIENCE);
        let given_up = loop {
            // First of all: the room that a shutdown makes, when it takes the unstarted jobs out, is for nobody.
            if queue.phase() != Phase::Open {
                break Some(Err(SubmitError::ShutDown as fn(Job) -> SubmitError));
            }
            match push(engine, task, priority) {
                Ok(()) => {
                    queue.step_out(priority, &me);
                    drop(listening);
                    discard("the context of a submission", context);
                    return confirm(engine, handle);
                }
                Err(back) => task = back,
            }
            if let Some(end) = context.end() {
                break Some(Ok(end));
            }
            let now = Tick::now();
            if until != Tick::NEVER && until <= now {
                break Some(Err(SubmitError::Timeout as fn(Job) -> SubmitError));
            }
            if me.is_notified() {
                break None;
            }
            if patience != Tick::NEVER && patience <= now {
                queue.hurry(priority);
                patience = Tick::NEVER;
                continue;
            }
            engine.park_until(until.min(context.deadline_tick()).min(patience));
        };
        queue.step_out(priority, &me);
        match given_up {
            None => {}
            Some(Ok(end)) => {
                drop(handle);
                break Ok(end_at_once(engine, task, end));
            }
            Some(Err(why)) => break Err(give_back(engine, task, handle, why)),
        }
    };
    drop(listening);
    discard("the context of a submission", context);
    result
}

/// Accepts a job whose context is done: it is finished before anybody could start it.
fn end_at_once(engine: &Engine, task: Arc<Task>, end: End) -> JobHandle {
    engine.registry.begin_submission();
    engine.registry.accept_submission();
    if let Some(captures) = task.withdraw() {
        task.end_claimed(captures, end);
    }
    JobHandle { task }
}

/// Undoes `admit`.
fn give_back(
    engine: &Engine,
    task: Arc<Task>,
    handle: JobHandle,
    why: fn(Job) -> SubmitError,
) -> SubmitError {
    drop(handle);
    match task.into_job() {
        Some(job) => refuse(engine, job, why),
        None => unreachable!("nobody else has seen the task"),
    }
}

fn refuse(engine: &Engine, job: Job, why: fn(Job) -> SubmitError) -> SubmitError {
    engine.rejected.fetch_add(1, Ordering::Relaxed);
    let error = why(job);
    let (kind, job) = error.parts();
    tell_rejected(engine, job, kind);
    error
}
