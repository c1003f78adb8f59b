//! A real delegator beside its model: does the same to both, and compares.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use workpath::{
    Canceller, Context, Delegator, Error, Job, JobHandle, JobId, JobRecord, JobState, OnDone, Retention,
    Shutdown, ShutdownReport, SubmitError,
};

use crate::common::{FOREVER, PATIENCE, fired, wait_fired};
use crate::jobs::{self, Cell, Go, SOON, Shared, Word, lock, put_away};
use crate::model::{self, Cause, Done, Model, Outcome, Phase, Report, Stage, Verdict};
use crate::ops::{Derive, End, Form, Gate, Limit, Look, Op, Payload, Setup, Spec, Watch};

/// Why a sequence is not carried on.
pub(crate) enum Stop {
    Wrong(String),
    /// The machine was so slow that a short time limit was over too early: nothing can be said.
    TooSlow,
}

impl From<String> for Stop {
    fn from(what: String) -> Stop {
        Stop::Wrong(what)
    }
}

macro_rules! ensure {
    ($holds:expr, $($what:tt)+) => {
        if !$holds {
            return Err(format!($($what)+).into());
        }
    };
}

struct Made {
    cell: Arc<Cell>,
    id: Option<JobId>,
    handle: Option<JobHandle>,
    /// Where it is not in the delegator.
    job: Option<Job>,
    opened: bool,
    /// It has given a channel, or a thread waits for it: somebody will always look.
    listened: bool,
}

struct Callback {
    context: usize,
    calls: Arc<AtomicU32>,
    on_done: Option<OnDone>,
    stopped: bool,
}

pub(crate) struct Real {
    model: Model,
    delegator: Option<Arc<Delegator>>,
    shared: Arc<Shared>,
    made: Vec<Made>,
    contexts: Vec<(Option<Context>, Option<Canceller>)>,
    callbacks: Vec<Callback>,
    blocked: Option<(usize, JoinHandle<Result<JobHandle, SubmitError>>)>,
    /// Shutdowns in threads of their own, and whether they were the first.
    closers: Vec<(bool, JoinHandle<ShutdownReport>)>,
    dropper: Option<JoinHandle<()>>,
    /// Threads that wait for a job; they come back with its state and how often what it captured was dropped by then.
    waiters: Vec<(usize, JoinHandle<(JobState, u32)>)>,
}

/// Does it all; an error says where the two differ.
pub(crate) fn run(setup: &Setup, ops: &[Op]) -> Result<(), String> {
    let mut real = Real::new(setup);
    let mut result = Ok(());
    for (number, op) in ops.iter().enumerate() {
        result = real.apply(op).map_err(|stop| match stop {
            Stop::Wrong(what) => Stop::Wrong(format!("step {number}, {op:?}: {what}")),
            Stop::TooSlow => Stop::TooSlow,
        });
        if result.is_err() {
            break;
        }
    }
    let result = result.and_then(|()| real.finish());
    match result {
        Ok(()) | Err(Stop::TooSlow) => Ok(()),
        Err(Stop::Wrong(what)) => Err(what),
    }
}

impl Real {
    fn new(setup: &Setup) -> Real {
        let mut retention = Retention::last(setup.last);
        if let Some(bytes) = setup.bytes {
            retention = retention.max_bytes(bytes);
        }
        let mut builder = Delegator::builder()
            .workers(setup.workers)
            .queue_capacity(setup.capacity)
            .retain(retention)
            .thread_name("model");
        if setup.default_timeout != Limit::None {
            builder = builder.default_timeout(jobs::duration(setup.default_timeout));
        }
        let delegator = Arc::new(builder.build().expect("a delegator"));
        Real {
            model: Model::new(setup),
            shared: Shared::new(&delegator),
            delegator: Some(delegator),
            made: Vec::new(),
            contexts: vec![(Some(Context::background()), None)],
            callbacks: Vec::new(),
            blocked: None,
            closers: Vec::new(),
            dropper: None,
            waiters: Vec::new(),
        }
    }

    fn apply(&mut self, op: &Op) -> Result<(), Stop> {
        match op {
            Op::Submit { spec, form, lent, keep } => self.submit_new(spec, *form, *lent, *keep)?,
            Op::Resubmit { which, form } => {
                let outside = self.all(|_, made| made.job.is_some());
                let fresh: Vec<usize> =
                    outside.into_iter().filter(|job| self.model.jobs[*job].stage == Stage::Outside).collect();
                if let Some(job) = pick(&fresh, *which) {
                    self.submit(job, *form, false, true)?;
                }
            }
            Op::Open { which } => {
                if let Some(job) = pick(&self.gated(), *which) {
                    self.open(job);
                }
            }
            Op::CancelJob { which, cause } => self.cancel_job(*which, *cause)?,
            Op::Derive { from, how } => self.derive(*from, *how),
            Op::CancelContext { which, cause } => self.cancel_context(*which, *cause)?,
            Op::DropContext { which } => {
                let alive: Vec<usize> =
                    (1..self.contexts.len()).filter(|at| self.contexts[*at].0.is_some()).collect();
                if let Some(context) = pick(&alive, *which) {
                    self.contexts[context].0 = None;
                }
            }
            Op::DropCanceller { which } => {
                if let Some(context) = pick(&self.cancellable(), *which) {
                    self.contexts[context].1 = None;
                }
            }
            Op::OnDone { which, panics } => {
                let Some(context) = pick(&self.alive(), *which) else { return Ok(()) };
                let calls = Arc::new(AtomicU32::new(0));
                let (counter, panics) = (Arc::clone(&calls), *panics);
                let Some(listened) = &self.contexts[context].0 else { return Ok(()) };
                let on_done = listened.on_done(move || {
                    counter.fetch_add(1, Ordering::SeqCst);
                    if panics {
                        panic!("planned: a function given to on_done");
                    }
                });
                self.callbacks.push(Callback { context, calls, on_done: Some(on_done), stopped: false });
                self.compare_callbacks()?;
            }
            Op::StopOnDone { which } => {
                let held: Vec<usize> =
                    (0..self.callbacks.len()).filter(|at| self.callbacks[*at].on_done.is_some()).collect();
                let Some(at) = pick(&held, *which) else { return Ok(()) };
                let callback = &mut self.callbacks[at];
                let over = self.model.contexts[callback.context].done.is_some();
                let stopped = callback.on_done.take().is_some_and(OnDone::stop);
                ensure!(stopped != over, "stop() said {stopped} on a context that is done: {over}");
                callback.stopped = stopped;
            }
            Op::Look { which, how } => {
                if let Some(job) = pick(&self.held(), *which) {
                    self.look(job, *how)?;
                }
            }
            Op::WaitElsewhere { which, done } => self.wait_elsewhere(*which, *done),
            Op::DropHandle { which } => {
                let free = self.all(|_, made| made.handle.is_some() && !made.listened);
                if let Some(job) = pick(&free, *which) {
                    put_away(self.made[job].handle.take());
                    self.model.jobs[job].watched = false;
                }
            }
            Op::Get { which } | Op::Remove { which } => {
                let removes = matches!(op, Op::Remove { .. });
                self.look_up(*which, removes)?;
            }
            Op::Clear => {
                if let Some(delegator) = &self.delegator {
                    delegator.registry().clear();
                    self.model.shelves = vec![Vec::new()];
                }
            }
            Op::Shutdown { how } => self.shutdown(*how)?,
            Op::DropDelegator => self.drop_delegator(),
        }
        self.settle()
    }

    // Which.

    fn all(&self, matching: impl Fn(usize, &Made) -> bool) -> Vec<usize> {
        (0..self.made.len()).filter(|job| matching(*job, &self.made[*job])).collect()
    }

    /// A job is in a shutdown that it called.
    fn closes(&self) -> bool {
        self.model.jobs.iter().any(|job| job.closing)
    }

    fn held(&self) -> Vec<usize> {
        self.all(|_, made| made.handle.is_some())
    }

    /// Jobs at closed gates.
    fn gated(&self) -> Vec<usize> {
        self.all(|job, made| {
            let job = &self.model.jobs[job];
            job.stage == Stage::Running && job.spec.gate != Gate::None && !made.opened
        })
    }

    fn alive(&self) -> Vec<usize> {
        (0..self.contexts.len()).filter(|at| self.contexts[*at].0.is_some()).collect()
    }

    fn cancellable(&self) -> Vec<usize> {
        (0..self.contexts.len()).filter(|at| self.contexts[*at].1.is_some()).collect()
    }

    // What is done.

    fn submit_new(&mut self, spec: &Spec, form: Form, lent: bool, keep: bool) -> Result<(), Stop> {
        let context = spec.context.and_then(|which| pick(&self.alive(), which));
        let job = self.model.create(spec.clone(), context);
        let spec = self.model.jobs[job].spec.clone();
        let cell = Cell::new();
        let soon = Instant::now() + SOON;
        let mut made = jobs::job(&spec, &cell, &self.shared);
        let given = context.and_then(|context| self.contexts[context].0.clone());
        if spec.limit_first {
            made = jobs::limited(made, spec.limit, soon);
        }
        if let Some(given) = &given {
            made = made.with_context(given);
        }
        if !spec.limit_first {
            made = jobs::limited(made, spec.limit, soon);
        }
        self.made.push(Made {
            cell,
            id: Some(made.id()),
            handle: None,
            job: Some(made),
            opened: false,
            listened: false,
        });
        let submitted = self.submit(job, form, lent, keep);
        if spec.limit == Limit::Soon && soon <= Instant::now() {
            return Err(Stop::TooSlow);
        }
        submitted?;
        if spec.limit == Limit::Soon {
            self.model.file();
            // Everything must be where it belongs before the time is over.
            while self.compare().is_err() {
                if soon <= Instant::now() {
                    return Err(Stop::TooSlow);
                }
                thread::yield_now();
            }
            self.collect()?;
            if soon <= Instant::now() {
                return Err(Stop::TooSlow);
            }
            while Instant::now() <= soon {
                thread::sleep(Duration::from_millis(1));
            }
            self.model.expire(job);
        }
        Ok(())
    }

    /// Submits what is outside.
    fn submit(&mut self, job: usize, form: Form, lent: bool, keep: bool) -> Result<(), Stop> {
        let Some(made) = self.made[job].job.take() else { return Ok(()) };
        if self.model.verdict(job, form) == Verdict::Blocks && self.model.blocked.is_some() {
            // Two that wait for room would come in in any order.
            self.made[job].job = Some(made);
            return Ok(());
        }
        let verdict = self.model.submit(job, form);
        let shared = Arc::clone(&self.shared);
        if verdict == Verdict::Blocks {
            let waits = move || jobs::submit(&shared, &shared.submitter, form, made, false);
            self.blocked = Some((job, thread::spawn(waits)));
            return Ok(());
        }
        let own = self.delegator.as_ref().map(|delegator| delegator.submitter());
        let submitter = own.filter(|_| !lent);
        let submitter = submitter.as_ref().unwrap_or(&shared.submitter);
        let submitted = jobs::submit(&shared, submitter, form, made, verdict == Verdict::Accepted);
        let ends_at_once = matches!(self.model.jobs[job].stage, Stage::Finished(Outcome::Ended(_)));
        if let (Ok(handle), true) = (&submitted, ends_at_once) {
            ensure!(handle.is_finished(), "submitted with a context that is done, and not over");
        }
        self.submitted(job, verdict, submitted)?;
        if !keep && self.made[job].job.is_some() {
            put_away(self.made[job].job.take());
            self.model.jobs[job].drops += 1;
        }
        Ok(())
    }

    fn submitted(
        &mut self,
        job: usize,
        verdict: Verdict,
        submitted: Result<JobHandle, SubmitError>,
    ) -> Result<(), Stop> {
        let made = &mut self.made[job];
        match (verdict, submitted) {
            (Verdict::Accepted, Ok(handle)) => {
                ensure!(Some(handle.id()) == made.id, "the handle has another id than the job");
                let (watch, done) = (self.model.jobs[job].spec.watch, self.model.jobs[job].spec.typed);
                self.model.jobs[job].watched = watch != Watch::Dropped;
                if watch == Watch::Dropped {
                    put_away(handle);
                } else {
                    made.handle = Some(handle);
                }
                if watch == Watch::Awaited {
                    self.await_elsewhere(job, done);
                }
            }
            (Verdict::Full, Err(SubmitError::Full(back)))
            | (Verdict::Timeout, Err(SubmitError::Timeout(back)))
            | (Verdict::ShutDown, Err(SubmitError::ShutDown(back))) => {
                ensure!(Some(back.id()) == made.id, "a refused job comes back with another id");
                ensure!(back.name() == "scripted", "a refused job comes back as {:?}", back.name());
                made.job = Some(back);
            }
            (verdict, submitted) => {
                let submitted = submitted.map(|handle| handle.state());
                return Err(Stop::Wrong(format!("submission: {submitted:?} instead of {verdict:?}")));
            }
        }
        Ok(())
    }

    fn open(&mut self, job: usize) {
        let done = self.model.jobs[job].done.is_some();
        self.made[job].opened = true;
        self.model.plan.clear();
        self.model.open(job);
        let children = std::mem::take(&mut self.model.plan);
        self.expect_children();
        let _ = self.made[job].cell.gate.0.send(Word::Go(Go { done, children }));
    }

    /// Places for the jobs that jobs will submit.
    fn expect_children(&mut self) {
        while self.made.len() < self.model.jobs.len() {
            self.made.push(Made {
                cell: Cell::new(),
                id: None,
                handle: None,
                job: None,
                opened: true,
                listened: true,
            });
        }
    }

    fn cancel_job(&mut self, which: u8, cause: Option<u8>) -> Result<(), Stop> {
        let Some(job) = pick(&self.held(), which) else { return Ok(()) };
        if self.closes() {
            // Whether the cancel of another shutdown has reached it cannot be seen.
            return Ok(());
        }
        let was_queued = self.model.jobs[job].stage == Stage::Queued;
        let expected = self.model.cancel_job(job, Cause::of(cause));
        let Some(handle) = &self.made[job].handle else { return Ok(()) };
        let cancelled = match cause {
            None => handle.cancel(),
            Some(number) => handle.cancel_with(format!("cause {number}")),
        };
        ensure!(cancelled == expected, "cancel() of job {job} said {cancelled}");
        if was_queued {
            let drops = self.made[job].cell.drops.load(Ordering::SeqCst);
            ensure!(drops == 1, "what a cancelled job captured was dropped {drops} times");
            ensure!(handle.state() == JobState::Cancelled, "cancelled, but {}", handle.state());
        }
        Ok(())
    }

    fn derive(&mut self, from: u8, how: Derive) {
        let Some(from) = pick(&self.alive(), from) else { return };
        let Some(above) = self.contexts[from].0.clone() else { return };
        let derived = match how {
            Derive::Cancel => {
                let (context, canceller) = above.with_cancel();
                (Some(context), Some(canceller))
            }
            Derive::Value => (Some(above.with_value("key", 7_u8)), None),
            Derive::WithoutCancel => (Some(above.without_cancel()), None),
            Derive::Limit(Limit::Past) => (Some(above.with_deadline(jobs::past())), None),
            Derive::Limit(limit) => (Some(above.with_timeout(jobs::duration(limit))), None),
        };
        self.contexts.push(derived);
        self.model.derive(from, how);
    }

    fn cancel_context(&mut self, which: u8, cause: Option<u8>) -> Result<(), Stop> {
        let Some(context) = pick(&self.cancellable(), which) else { return Ok(()) };
        if self.closes() {
            return Ok(());
        }
        self.model.cancel_context(context, Cause::of(cause));
        if let Some(canceller) = &self.contexts[context].1 {
            match cause {
                None => canceller.cancel(),
                Some(number) => canceller.cancel_with(format!("cause {number}")),
            }
        }
        // Both before cancel() returns.
        self.compare_callbacks()?;
        self.compare_contexts().map_err(Stop::Wrong)
    }

    fn look(&mut self, job: usize, how: Look) -> Result<(), Stop> {
        let Some(handle) = self.made[job].handle.clone() else { return Ok(()) };
        let Stage::Finished(outcome) = self.model.jobs[job].stage else {
            let seen = match how {
                Look::Wait | Look::Join | Look::WaitTimeoutZero => handle.wait_timeout(Duration::ZERO),
                Look::WaitDeadlinePast => handle.wait_deadline(jobs::past()),
                Look::TryWait => handle.try_wait(),
                Look::Done => {
                    self.made[job].listened = true;
                    ensure!(!fired(&handle.done()), "job {job} is said to be done");
                    None
                }
            };
            ensure!(seen.is_none(), "job {job} has a record: {seen:?}");
            return Ok(());
        };
        let record = match how {
            Look::Wait => Some(handle.wait()),
            Look::WaitTimeoutZero => handle.wait_timeout(Duration::ZERO),
            Look::WaitDeadlinePast => handle.wait_deadline(jobs::past()),
            Look::TryWait => handle.try_wait(),
            Look::Join => {
                let payload = handle.clone().join();
                let record = handle.wait();
                ensure!(payload.as_deref().ok() == record.payload(), "joined to another payload");
                Some(record)
            }
            Look::Done => {
                wait_fired(&handle.done());
                handle.try_wait()
            }
        };
        let Some(record) = record else {
            return Err(Stop::Wrong(format!("job {job} is finished and {how:?} gives nothing")));
        };
        check_record(&record, outcome).map_err(Stop::Wrong)
    }

    fn wait_elsewhere(&mut self, which: u8, done: bool) {
        if let Some(job) = pick(&self.held(), which) {
            self.await_elsewhere(job, done);
        }
    }

    fn await_elsewhere(&mut self, job: usize, done: bool) {
        let made = &mut self.made[job];
        let Some(handle) = made.handle.clone() else { return };
        made.listened = true;
        let cell = Arc::clone(&made.cell);
        let waits = move || {
            if done {
                wait_fired(&handle.done());
            } else {
                handle.wait();
            }
            let drops = cell.drops.load(Ordering::SeqCst);
            (handle.state(), drops)
        };
        self.waiters.push((job, thread::spawn(waits)));
    }

    fn look_up(&mut self, which: u8, removes: bool) -> Result<(), Stop> {
        let Some(delegator) = &self.delegator else { return Ok(()) };
        let known = self.all(|_, made| made.id.is_some());
        let Some(job) = pick(&known, which) else { return Ok(()) };
        let Some(id) = self.made[job].id else { return Ok(()) };
        let expected = self.model.shelves[0].iter().any(|(kept, _)| *kept == job);
        let registry = delegator.registry();
        let found = if removes { registry.remove(id) } else { registry.get(id) };
        ensure!(found.is_some() == expected, "job {job} in the registry: {}", found.is_some());
        if let (Some(record), Stage::Finished(outcome)) = (&found, self.model.jobs[job].stage) {
            ensure!(record.id() == id, "the registry gives another job");
            check_record(record, outcome)?;
        }
        if removes {
            self.model.shelves[0].retain(|(kept, _)| *kept != job);
        }
        Ok(())
    }

    fn shutdown(&mut self, how: End) -> Result<(), Stop> {
        let Some(delegator) = self.delegator.clone() else { return Ok(()) };
        let (cancel, shutdown) = match how {
            End::Drain => (false, Shutdown::drain()),
            End::Cancel => (true, Shutdown::cancel()),
            End::DrainFar => (false, Shutdown::drain().within(FOREVER)),
            End::CancelFar => (true, Shutdown::cancel().within(FOREVER)),
            End::DrainNow | End::CancelNow => return self.shutdown_now(&delegator, how == End::CancelNow),
        };
        let first = self.model.shutdown(cancel);
        self.closers.push((first, thread::spawn(move || delegator.shutdown(shutdown))));
        Ok(())
    }

    fn shutdown_now(&mut self, delegator: &Delegator, cancel: bool) -> Result<(), Stop> {
        if self.closes() {
            return Ok(());
        }
        let how = if cancel { Shutdown::cancel() } else { Shutdown::drain() };
        let expected = self.model.shutdown_now(cancel);
        let report = delegator.shutdown(how.within(Duration::ZERO));
        if report.stuck.len() > expected.stuck.len() {
            // What should have ended within the grace has not.
            return Err(Stop::TooSlow);
        }
        self.reported(&expected, report)
    }

    fn reported(&mut self, expected: &Report, report: ShutdownReport) -> Result<(), Stop> {
        let ids: HashMap<JobId, usize> =
            self.made.iter().enumerate().filter_map(|(job, made)| Some((made.id?, job))).collect();
        let number = |id| ids.get(&id).copied().unwrap_or(usize::MAX);
        let mut stuck: Vec<usize> = report.stuck.iter().filter_map(|it| it.running).map(number).collect();
        stuck.sort_unstable();
        let found = Report {
            completed: report.completed as u64,
            failed: report.failed as u64,
            cancelled: report.cancelled as u64,
            unstarted: report.unstarted.iter().map(|job| number(job.id())).collect(),
            stuck,
        };
        for job in report.unstarted {
            let at = number(job.id());
            if let Some(made) = self.made.get_mut(at) {
                made.job = Some(job);
            }
        }
        let mut expected = expected.clone();
        expected.stuck.sort_unstable();
        ensure!(found == expected, "a shutdown reports {found:?} instead of {expected:?}");
        Ok(())
    }

    fn drop_delegator(&mut self) {
        if !self.closers.is_empty() || self.closes() {
            return;
        }
        let Some(delegator) = self.delegator.take() else { return };
        self.model.dropped = true;
        self.model.shutdown(false);
        self.dropper = Some(thread::spawn(move || drop(delegator)));
    }

    // Comparing.

    /// Waits until all is as the model says. What it never becomes is wrong.
    fn settle(&mut self) -> Result<(), Stop> {
        self.model.file();
        let start = Instant::now();
        loop {
            match self.compare() {
                Ok(()) => break,
                Err(what) if start.elapsed() > PATIENCE / 2 => return Err(Stop::Wrong(what)),
                Err(_) if start.elapsed() < Duration::from_millis(2) => thread::yield_now(),
                Err(_) => thread::sleep(Duration::from_micros(200)),
            }
        }
        self.collect()
    }

    /// Takes what other threads have come back with.
    fn collect(&mut self) -> Result<(), Stop> {
        if self.model.blocked.is_none() {
            if let Some((job, thread)) = self.blocked.take() {
                let submitted = join(thread)?;
                let refused = self.model.jobs[job].stage == Stage::Outside;
                let verdict = if refused { Verdict::ShutDown } else { Verdict::Accepted };
                self.submitted(job, verdict, submitted)?;
                self.settle()?;
            }
        }
        if let Some(expected) = self.model.inner_report.take() {
            let report = lock(&self.shared.inner_report).take();
            match report {
                Some(report) => self.reported(&expected, report)?,
                None => return Err(Stop::Wrong("a shutdown from inside has no report".to_owned())),
            }
        }
        if self.model.has_ended() || self.model.detached {
            for (first, thread) in std::mem::take(&mut self.closers) {
                let report = join(thread)?;
                let expected = if first { self.model.report() } else { Report::default() };
                self.reported(&expected, report)?;
            }
            if let Some(thread) = self.dropper.take() {
                join(thread)?;
            }
        }
        Ok(())
    }

    fn compare(&mut self) -> Result<(), String> {
        for born in std::mem::take(&mut *lock(&self.shared.born)) {
            if let Some(made) = self.made.get_mut(born.number) {
                (made.id, made.handle, made.cell) = (Some(born.id), born.handle, born.cell);
            }
        }
        self.shared.anything_wrong()?;
        for job in 0..self.made.len() {
            self.compare_job(job)?;
        }
        self.compare_contexts()?;
        self.compare_callbacks()?;
        let waits = self.blocked.as_ref().is_some_and(|(_, thread)| !thread.is_finished());
        ensure!(waits == self.model.blocked.is_some(), "a submission waits for room: {waits}");
        let shown = format!("{:?}", self.shared.submitter);
        let phase = format!("phase: {:?}", self.model.phase);
        // Once all workers have stopped it makes no difference how far it went.
        let closed = self.model.has_ended() && !shown.contains("phase: Open");
        ensure!(closed || shown.contains(&phase), "{shown} instead of {phase}");
        if self.model.dropped {
            ensure!(self.shared.delegator.strong_count() == 0, "not dropped yet");
        }
        let ended = self.model.has_ended() || self.model.detached;
        ensure!(
            self.closers.iter().all(|(_, thread)| thread.is_finished() == ended),
            "a shutdown that should have returned: {ended}"
        );
        ensure!(
            self.dropper.as_ref().is_none_or(|thread| thread.is_finished() == ended),
            "a drop that should have returned: {ended}"
        );
        self.compare_delegator()
    }

    fn compare_job(&self, number: usize) -> Result<(), String> {
        let (made, job) = (&self.made[number], &self.model.jobs[number]);
        let state = match job.stage {
            Stage::Outside | Stage::Blocked => None,
            Stage::Queued => Some(JobState::Queued),
            Stage::Running => Some(JobState::Running),
            Stage::Finished(outcome) => Some(state_of(outcome)),
        };
        if let Some(handle) = &made.handle {
            let found = handle.state();
            ensure!(Some(found) == state, "job {number} is {found} instead of {state:?}");
            if let Stage::Finished(outcome) = job.stage {
                let record = handle.try_wait().ok_or("a finished job without a record")?;
                check_record(&record, outcome).map_err(|what| format!("job {number}: {what}"))?;
                ensure!(
                    record.started_at().is_some() == (job.runs > 0),
                    "job {number} started at {:?}, run {} times",
                    record.started_at(),
                    job.runs
                );
            }
        }
        let gated = job.stage == Stage::Running && job.spec.gate == Gate::Heedless && !made.opened;
        if gated && job.done.is_some() && !made.cell.saw_end.load(Ordering::SeqCst) {
            let _ = made.cell.gate.0.send(Word::Look);
            return Err(format!("job {number} does not see that its context is done"));
        }
        let on_its_way = made.opened && job.stage == Stage::Running && !made.cell.went.load(Ordering::SeqCst);
        ensure!(!on_its_way, "job {number} is not through its gate yet");
        let runs = made.cell.runs.load(Ordering::SeqCst);
        ensure!(runs == job.runs, "job {number} was run {runs} times instead of {}", job.runs);
        let drops = made.cell.drops.load(Ordering::SeqCst);
        ensure!(drops == job.drops, "job {number} was dropped {drops} times instead of {}", job.drops);
        Ok(())
    }

    fn compare_contexts(&self) -> Result<(), String> {
        for (number, (context, _)) in self.contexts.iter().enumerate() {
            let Some(context) = context else { continue };
            let done = self.model.contexts[number].done;
            ensure!(context.is_done() == done.is_some(), "context {number} is done, or not: {done:?}");
            match (context.error(), done) {
                (None, None) => {}
                (Some(error), Some(done)) => check_end(&error, done)?,
                (error, done) => return Err(format!("context {number}: {error:?} instead of {done:?}")),
            }
        }
        Ok(())
    }

    fn compare_callbacks(&self) -> Result<(), String> {
        for callback in &self.callbacks {
            let over = self.model.contexts[callback.context].done.is_some() && !callback.stopped;
            let calls = callback.calls.load(Ordering::SeqCst);
            ensure!(calls == u32::from(over), "called {calls} times on context {}", callback.context);
        }
        Ok(())
    }

    fn compare_delegator(&mut self) -> Result<(), String> {
        let Some(delegator) = &self.delegator else { return Ok(()) };
        let (stats, counts) = (delegator.stats(), self.model.counts);
        let (queued, running) = (self.model.queued(), self.model.running());
        let extra = self.shared.extra.load(Ordering::SeqCst);
        let agrees = (stats.queued, stats.running) == (queued, running.len())
            && stats.submitted == counts.submitted
            && stats.completed == counts.completed
            && stats.failed == counts.failed
            && stats.panicked == counts.panicked
            && stats.cancelled == counts.cancelled
            && stats.timed_out == counts.timed_out
            && stats.rejected == counts.rejected + extra;
        ensure!(
            agrees,
            "{stats:?} instead of {queued} queued, {running:?} running, {counts:?} and {extra} refused"
        );
        let idle = delegator.wait_idle_timeout(Duration::ZERO);
        ensure!(idle == (queued + running.len() == 0), "idle, or not: {idle}");

        let id = |job: usize| self.made[job].id;
        let at_work: Vec<Option<JobId>> = delegator.workers().into_iter().map(|it| it.running).collect();
        let mut found: Vec<JobId> = at_work.iter().flatten().copied().collect();
        let mut expected: Vec<JobId> =
            self.model.workers.iter().filter_map(|stack| id(*stack.last()?)).collect();
        found.sort_unstable();
        expected.sort_unstable();
        ensure!(found == expected, "workers are in {found:?} instead of {expected:?}");

        let registry = delegator.registry();
        let records: Vec<JobId> = registry.records().iter().map(JobRecord::id).collect();
        ensure!(registry.len() == records.len(), "len() of the registry is {}", registry.len());
        if self.model.lost_order {
            let jobs: Vec<usize> = records
                .iter()
                .filter_map(|kept| (0..self.made.len()).find(|job| id(*job) == Some(*kept)))
                .collect();
            let distinct: HashSet<usize> = jobs.iter().copied().collect();
            ensure!(jobs.len() == records.len() && distinct.len() == jobs.len(), "strange records: {jobs:?}");
            self.model.adopt(&jobs);
            return Ok(());
        }
        let same = |shelf: &Vec<(usize, usize)>| {
            shelf.iter().map(|(job, _)| id(*job)).eq(records.iter().copied().map(Some))
        };
        match self.model.shelves.iter().find(|shelf| same(shelf)) {
            Some(shelf) => {
                self.model.shelves = vec![shelf.clone()];
                Ok(())
            }
            None => {
                let jobs: Vec<Option<usize>> = records
                    .iter()
                    .map(|kept| (0..self.made.len()).find(|job| id(*job) == Some(*kept)))
                    .collect();
                Err(format!("the registry holds {jobs:?} instead of {:?}", self.model.shelves))
            }
        }
    }

    // The end.

    /// Opens all gates, ends the delegator, and gives the jobs that never started to another.
    fn finish(&mut self) -> Result<(), Stop> {
        self.settle()?;
        while let Some(job) = self.gated().first().copied() {
            self.open(job);
            self.settle().map_err(|stop| at_the_end(stop, "opening the last gates"))?;
        }
        if self.model.phase == Phase::Open {
            self.shutdown(End::Drain)?;
            self.settle().map_err(|stop| at_the_end(stop, "the last shutdown"))?;
        }
        self.drop_delegator();
        self.settle().map_err(|stop| at_the_end(stop, "the last drop"))?;
        for (job, thread) in std::mem::take(&mut self.waiters) {
            let (state, drops) = join(thread)?;
            let model::Job { stage, drops: expected, .. } = self.model.jobs[job];
            let agrees = matches!(stage, Stage::Finished(outcome) if state_of(outcome) == state);
            ensure!(agrees, "who waited for job {job} was told that it is {state}, but it is {stage:?}");
            // At a deadline the captures may be left to whoever looks next.
            let late = state == JobState::TimedOut || drops == expected;
            ensure!(late, "who waited for job {job} found that what it captured was dropped {drops} times");
        }
        self.elsewhere().map_err(|stop| at_the_end(stop, "another delegator"))?;
        for (job, made) in self.made.iter().enumerate() {
            let drops = made.cell.drops.load(Ordering::SeqCst);
            ensure!(drops == 1, "in the end, job {job} was dropped {drops} times");
        }
        Ok(())
    }

    fn elsewhere(&mut self) -> Result<(), Stop> {
        let other = Delegator::builder().workers(1).queue_capacity(1).thread_name("model-b").build();
        let other = other.map_err(|error| error.to_string())?;
        for job in 0..self.made.len() {
            let Some(given) = self.made[job].job.take() else { continue };
            let (done, expected) = (self.model.jobs[job].done, self.model.has_deadline(job));
            ensure!(
                done.is_some() || given.context().deadline().is_some() == expected,
                "job {job} comes back with a deadline: {:?}",
                given.context().deadline()
            );
            // Once more the gate, for it has not been through it.
            let _ = self.made[job].cell.gate.0.send(Word::Go(Go { done: false, children: Vec::new() }));
            let handle = other.submit(given).map_err(|error| error.to_string())?;
            let Some(record) = handle.wait_timeout(PATIENCE) else {
                return Err(Stop::Wrong(format!("job {job} never ends")));
            };
            let outcome = done.map_or_else(|| self.model.outcome(job), Outcome::Ended);
            check_record(&record, outcome).map_err(|what| format!("job {job}: {what}"))?;
            let runs = self.made[job].cell.runs.load(Ordering::SeqCst);
            ensure!(runs == u32::from(done.is_none()), "job {job} was run {runs} times");
            ensure!(Some(record.id()) == self.made[job].id, "job {job} has another id");
            let found = other.registry().get(record.id());
            ensure!(found.is_some_and(|found| found.state() == record.state()), "not filed");
        }
        Ok(())
    }
}

impl Drop for Real {
    /// Lets everything end, also after a failure.
    fn drop(&mut self) {
        for made in &self.made {
            let _ = made.cell.gate.0.send(Word::Go(Go { done: false, children: Vec::new() }));
        }
        for made in &mut self.made {
            put_away((made.job.take(), made.handle.take()));
        }
    }
}

fn pick(from: &[usize], which: u8) -> Option<usize> {
    from.get(usize::from(which).checked_rem(from.len())?).copied()
}

fn at_the_end(stop: Stop, when: &str) -> Stop {
    match stop {
        Stop::Wrong(what) => Stop::Wrong(format!("in the end, {when}: {what}")),
        Stop::TooSlow => Stop::TooSlow,
    }
}

fn join<T>(thread: JoinHandle<T>) -> Result<T, Stop> {
    thread.join().map_err(|_| Stop::Wrong("a thread of the test panicked".to_owned()))
}

fn state_of(outcome: Outcome) -> JobState {
    match outcome {
        Outcome::Completed(_) => JobState::Completed,
        Outcome::Failed | Outcome::FailedWithForeign => JobState::Failed,
        Outcome::Panicked(_) => JobState::Panicked,
        Outcome::Ended(Done::Cancelled(_)) => JobState::Cancelled,
        Outcome::Ended(Done::Deadline) => JobState::TimedOut,
    }
}

fn check_record(record: &JobRecord, outcome: Outcome) -> Result<(), String> {
    let state = state_of(outcome);
    ensure!(record.state() == state, "{} instead of {state}", record.state());
    let error = || record.error().ok_or_else(|| format!("{state} without an error"));
    match outcome {
        Outcome::Completed(length) => {
            ensure!(record.payload() == Some(&vec![7; length][..]), "another payload than {length} bytes");
        }
        Outcome::Failed => ensure!(error()?.to_string() == "fails on its own", "fails with {:?}", error()?),
        Outcome::FailedWithForeign => ensure!(error()?.is_cancelled(), "fails with {:?}", error()?),
        Outcome::Panicked(payload) => {
            let text = error()?.to_string();
            let expected = match payload {
                Payload::Str | Payload::Text => "planned: boom",
                Payload::Number | Payload::Bomb => "panic",
            };
            ensure!(error()?.is_panic() && text.contains(expected), "panicked with {text:?}");
        }
        Outcome::Ended(done) => check_end(error()?, done)?,
    }
    Ok(())
}

fn check_end(error: &Error, done: Done) -> Result<(), String> {
    match done {
        Done::Deadline => ensure!(error.is_timeout() && error.get_ref().is_none(), "{error:?} at a deadline"),
        Done::Cancelled(cause) => {
            let found = error.get_ref().map(ToString::to_string);
            let fits = match (cause, &found) {
                (Cause::Nothing, None) => true,
                (Cause::Given(number), Some(text)) => *text == format!("cause {number}"),
                (Cause::ShutDown, Some(text)) => text.contains("shut down"),
                _ => false,
            };
            ensure!(error.is_cancelled() && fits, "cancelled for {found:?} instead of {cause:?}");
        }
    }
    Ok(())
}
