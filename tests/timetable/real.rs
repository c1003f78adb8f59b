//! Runs a program on a manual delegator and compares.

use std::panic;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use workpath::{
    Coalesced, Context, Delegator, Error, Job, JobHandle, JobId, JobState, Manual, Missed, Overflow, Overlap,
    Periodic, Priority, Retention, Retry, RetryBudget, Shutdown, SubmitError, Submitter,
};

use crate::model::{Model, Stage, Stepped};
use crate::program::{Act, Call, Child, Ending, Every, NoRoom, Program, Setup, Share, Spec, Step, Time};

macro_rules! ensure {
    ($holds:expr, $($what:tt)+) => {
        if !$holds {
            return Err(format!($($what)+));
        }
    };
}

/// Planned panics make no noise.
pub(crate) fn hush() {
    let loud = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let what = info.payload().downcast_ref::<&str>().unwrap_or(&"");
        if *what != "planned" && !what.starts_with("this would wait for ever") {
            loud(info);
        }
    }));
}

/// A job that was made, with its handle if it was accepted.
type Entry = (JobId, Option<JobHandle>);

const KEYS: [&str; 3] = ["one", "two", "three"];

/// All jobs that were ever made, in the order of their submission.
#[derive(Clone)]
struct Made {
    submitter: Submitter,
    jobs: Arc<Mutex<Vec<Entry>>>,
    /// Jobs that were not submitted, and the jobs that they joined.
    joined: Arc<Mutex<Vec<(usize, JobId)>>>,
    series: Arc<Mutex<Vec<Arc<Periodic>>>>,
}

impl Made {
    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a place before the submission, for a job may run inside it and submit others.
    fn submit(&self, job: Job, how: impl FnOnce(Job) -> Result<JobHandle, SubmitError>) -> Option<JobHandle> {
        self.submit_or_join(job, |job| how(job).map(Coalesced::Submitted))
    }

    fn submit_or_join(
        &self,
        job: Job,
        how: impl FnOnce(Job) -> Result<Coalesced, SubmitError>,
    ) -> Option<JobHandle> {
        let number = {
            let mut jobs = self.lock();
            jobs.push((job.id(), None));
            jobs.len() - 1
        };
        match how(job).ok()? {
            Coalesced::Submitted(handle) => {
                self.lock()[number].1 = Some(handle.clone());
                Some(handle)
            }
            Coalesced::Joined(other) => {
                let mut joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
                joined.push((number, other.id()));
                Some(other)
            }
        }
    }

    /// In whichever way the key says.
    fn submit_sharing(&self, spec: &Spec, job: Job, share: Share) -> Option<JobHandle> {
        let key = spec.key.map_or("", |key| KEYS[key]);
        self.submit_or_join(job, |job| match share {
            Share::Not => self.submitter.submit(job).map(Coalesced::Submitted),
            Share::Joins => self.submitter.coalesce(key, job),
            Share::Replaces => self.submitter.supersede(key, job).map(Coalesced::Submitted),
        })
    }

    /// The handle that its submission has returned, or that its series has.
    fn handle(&self, which: usize) -> Option<JobHandle> {
        let (id, handle) = {
            let jobs = self.lock();
            jobs[which % jobs.len()].clone()
        };
        let last = || self.series().iter().filter_map(|series| series.last()).find(|last| last.id() == id);
        handle.or_else(last)
    }

    fn cancel(&self, which: usize) {
        if let Some(handle) = self.handle(which) {
            handle.cancel();
        }
    }

    fn series(&self) -> Vec<Arc<Periodic>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn stop(&self, which: usize) {
        let series = self.series();
        if let Some(which) = which.checked_rem(series.len()) {
            series[which].stop();
        }
    }

    /// The function of a series that is the next to begin.
    fn function(&self, every: &Every) -> impl FnMut() -> Job + Send + 'static {
        let (made, spec, own) = (self.clone(), every.job.clone(), self.series().len());
        let mut calls = every.calls.clone().into_iter();
        move || {
            match calls.next() {
                Some(Call::Makes) => {}
                Some(Call::Panics) => panic!("planned"),
                None => made.stop(own),
            }
            let job = made.job(&spec);
            made.lock().push((job.id(), None));
            job
        }
    }

    fn job(&self, spec: &Spec) -> Job {
        let (made, script, ending) = (self.clone(), spec.script.clone(), spec.ending);
        let mut job = Job::new("timed", move |ctx| made.run(ctx, &script, ending))
            .with_priority([Priority::Low, Priority::Normal, Priority::High][spec.priority]);
        if let Some(delay) = spec.delay {
            job = job.with_delay(Duration::from_millis(delay));
        }
        if let Some(timeout) = spec.timeout {
            job = job.with_timeout(Duration::from_millis(timeout));
        }
        if let Some((attempts, delay)) = spec.retry {
            job = job.with_retry(Retry::fixed(Duration::from_millis(delay)).max_attempts(attempts));
        }
        if let Some(key) = spec.key {
            job = job.with_key(KEYS[key]);
        }
        if let Some(limit) = spec.key_limit {
            job = job.with_key_limit(limit);
        }
        job
    }

    fn run(&self, ctx: &Context, script: &[Act], ending: Ending) -> Result<Vec<u8>, Error> {
        for act in script {
            match act {
                Act::Sleep(time) => {
                    let slept = ctx.sleep(Duration::from_millis(*time));
                    if ending == Ending::Obeys {
                        slept?;
                    }
                }
                Act::Submit(child) => self.nest(ctx, child),
                Act::Set(specs, waited) => self.nest_set(specs, *waited),
                Act::Cancel(which) => self.cancel(*which),
                Act::Stop(which) => self.stop(*which),
            }
        }
        match ending {
            Ending::Succeeds => Ok(Vec::new()),
            Ending::Obeys => ctx.check().map(|()| Vec::new()),
            Ending::Fails => Err("fails".into()),
            Ending::Panics => panic!("planned"),
        }
    }

    /// Those that are refused are no members.
    fn nest_set(&self, specs: &[Spec], waited: bool) {
        let mut set = self.submitter.job_set();
        for spec in specs {
            let job = self.job(spec);
            self.lock().push((job.id(), None));
            let _ = set.submit(job);
        }
        if waited {
            set.wait_all();
        }
    }

    fn nest(&self, ctx: &Context, child: &Child) {
        let mut job = self.job(&child.spec);
        if child.derived {
            job = job.with_context(ctx);
        }
        let handle = match child.no_room {
            NoRoom::Fails => self.submit(job, |job| self.submitter.try_submit(job)),
            NoRoom::Waits => self.submit_sharing(&child.spec, job, child.share()),
            NoRoom::RunsHere => self.submit(job, |job| self.submitter.submit_with(job, Overflow::CallerRuns)),
            NoRoom::DropsOldest => {
                self.submit(job, |job| self.submitter.submit_with(job, Overflow::DropOldest))
            }
        };
        // One that it has joined and that runs is below it: that would wait for itself.
        let waited = |handle: &JobHandle| child.waited && handle.state() != JobState::Running;
        if let Some(handle) = handle.filter(waited) {
            handle.wait();
        }
    }
}

struct Real {
    delegator: Manual,
    made: Made,
    start: Instant,
    model: Model,
}

pub(crate) fn run(setup: &Setup, program: &Program) -> Result<(), String> {
    let mut builder = Delegator::builder()
        .queue_capacity(setup.capacity)
        .retain(Retention::last(usize::MAX))
        .retry_budget(RetryBudget::unlimited())
        .key_limit(setup.key_limit)
        // Nothing of it is in the model.
        .stuck_after(Duration::MAX);
    if let Some(timeout) = setup.default_timeout {
        builder = builder.default_timeout(Duration::from_millis(timeout));
    }
    let delegator = builder.manual().map_err(|error| error.to_string())?;
    let made = Made {
        submitter: delegator.submitter(),
        jobs: Arc::default(),
        joined: Arc::default(),
        series: Arc::default(),
    };
    let start = delegator.now();
    let mut real = Real { delegator, made, start, model: Model::new(setup) };
    for (number, step) in program.steps.iter().enumerate() {
        let what = |what: String| format!("at step {number}, {step:?}: {what}");
        real.step(step).and_then(|()| real.compare()).map_err(what)?;
    }
    real.shut_down(program.cancel).map_err(|what| format!("at the end: {what}"))
}

impl Real {
    fn step(&mut self, step: &Step) -> Result<(), String> {
        let (made, model) = (&self.made, &mut self.model);
        let pick = |which: usize| which.checked_rem(model.jobs.len());
        match step {
            Step::Submit(spec) => {
                model.submit(spec, Share::Not);
                made.submit(made.job(spec), |job| self.delegator.submit(job));
            }
            Step::Share(spec, share) => {
                model.submit(spec, *share);
                made.submit_sharing(spec, made.job(spec), *share);
            }
            Step::Try(spec) => {
                model.try_submit(spec);
                made.submit(made.job(spec), |job| self.delegator.try_submit(job));
            }
            Step::DropOldest(spec) => {
                model.drop_oldest(spec);
                made.submit(made.job(spec), |job| self.delegator.submit_with(job, Overflow::DropOldest));
            }
            Step::RunHere(spec) => {
                model.run_here(spec);
                made.submit(made.job(spec), |job| self.delegator.submit_with(job, Overflow::CallerRuns));
            }
            Step::SubmitAll(specs) => {
                model.try_submit_all(specs);
                let jobs: Vec<Job> = specs.iter().map(|spec| made.job(spec)).collect();
                made.lock().extend(jobs.iter().map(|job| (job.id(), None)));
                let submitted = self.delegator.try_submit_all(jobs);
                let handles = submitted.unwrap_or_else(|error| error.accepted);
                let mut jobs = made.lock();
                for handle in handles {
                    if let Some((_, place)) = jobs.iter_mut().find(|(id, _)| *id == handle.id()) {
                        *place = Some(handle);
                    }
                }
            }
            Step::Set(specs) => {
                let mut members = Vec::new();
                let mut set = self.delegator.job_set();
                for spec in specs {
                    let member = model.submit_to_set(spec);
                    model.watch(member);
                    members.push(member);
                    let job = made.job(spec);
                    made.lock().push((job.id(), None));
                    set.submit(job).map_err(|error| error.to_string())?;
                }
                model.wait_for_set(&members);
                let states: Vec<JobState> = set.wait_all().iter().map(|record| record.state()).collect();
                let expected: Vec<JobState> =
                    members.iter().filter_map(|k| state_of(model.jobs[*k].stage)).collect();
                ensure!(states == expected, "a set of {states:?} instead of {expected:?}");
            }
            Step::Every(every) => {
                model.begin(every);
                let interval = Duration::from_millis(every.interval);
                let mut when = if every.by_rate {
                    workpath::Every::fixed_rate(interval)
                } else {
                    workpath::Every::fixed_delay(interval)
                };
                if let Some(first) = every.first {
                    when = when.first_after(Duration::from_millis(first));
                }
                let when = when
                    .missed(if every.catches_up { Missed::CatchUp } else { Missed::Skip })
                    .overlap(if every.queues { Overlap::Queue } else { Overlap::Skip });
                let series =
                    self.delegator.every(when, made.function(every)).map_err(|error| error.to_string())?;
                made.series.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(series));
            }
            Step::Stop(which) => {
                model.stop_one(*which);
                made.stop(*which);
            }
            Step::Cancel(which) => {
                if let Some(k) = pick(*which) {
                    model.cancel(k);
                    made.cancel(*which);
                }
            }
            Step::Look(which) => {
                if let Some(k) = pick(*which) {
                    model.look(k);
                    let handle = made.handle(k);
                    if let Some(state) = handle.map(|handle| handle.state()) {
                        let expected = state_of(model.jobs[k].stage);
                        ensure!(Some(state) == expected, "job {k} is {state} instead of {expected:?}");
                    }
                }
            }
            Step::Wait(which) => {
                if let Some(k) = pick(*which) {
                    if let Some(handle) = made.handle(k) {
                        model.wait(k);
                        handle.wait();
                    }
                }
            }
            Step::RunOne => {
                let (ran, expected) = (self.delegator.step(), model.step() == Stepped::Ran);
                ensure!(ran == expected, "ran a job: {ran}");
            }
            Step::RunUntilIdle => {
                let expected = std::iter::from_fn(|| (model.step() == Stepped::Ran).then_some(())).count();
                let ran = self.delegator.run_until_idle();
                ensure!(ran == expected, "ran {ran} jobs instead of {expected}");
            }
            Step::Advance(time) => {
                let expected = model.advance(*time);
                let ran = self.delegator.advance(Duration::from_millis(*time));
                ensure!(ran == expected, "ran {ran} jobs instead of {expected}");
            }
        }
        Ok(())
    }

    fn time(&self, at: Instant) -> Time {
        Time::try_from((at - self.start).as_nanos().div_ceil(1_000_000)).unwrap_or(Time::MAX)
    }

    /// Looks at nothing that a look would change.
    fn compare(&self) -> Result<(), String> {
        let model = &self.model;
        let now = self.delegator.now() - self.start;
        ensure!(now == Duration::from_millis(model.now), "it is {now:?} instead of {} ms", model.now);

        let stats = self.delegator.stats();
        let found = [
            stats.scheduled as u64,
            stats.queued as u64,
            stats.running as u64,
            stats.submitted,
            stats.completed,
            stats.failed,
            stats.panicked,
            stats.cancelled,
            stats.timed_out,
            stats.rejected,
            stats.dropped,
            stats.retried,
        ];
        let count = |stage| model.count(stage) as u64;
        let expected = [
            count(Stage::Scheduled),
            count(Stage::Queued),
            count(Stage::Running),
            model.accepted,
            count(Stage::Completed),
            count(Stage::Failed),
            count(Stage::Panicked),
            count(Stage::Cancelled),
            count(Stage::TimedOut),
            model.rejected,
            model.dropped,
            model.retried,
        ];
        ensure!(found == expected, "{stats:?} instead of {expected:?}");
        let places = [stats.places.low, stats.places.normal, stats.places.high];
        ensure!(places == model.places(), "{places:?} taken instead of {:?}", model.places());

        let keys = model.keys_in_use();
        ensure!(stats.keys == keys, "{} keys in use instead of {keys}", stats.keys);

        self.compare_series()?;

        let records = self.delegator.registry().records();
        let made = self.made.lock();
        let number = |id: JobId| made.iter().position(|(made, _)| *made == id);
        let joined = self.made.joined.lock().unwrap_or_else(PoisonError::into_inner);
        let joined: Vec<_> = joined.iter().map(|(k, other)| (*k, number(*other))).collect();
        let expected: Vec<_> = model.joined.iter().map(|(k, other)| (*k, Some(*other))).collect();
        ensure!(joined == expected, "jobs have joined others: {joined:?} instead of {expected:?}");
        let order: Vec<_> = records.iter().map(|record| number(record.id())).collect();
        let expected: Vec<_> = model.filed.iter().copied().map(Some).collect();
        ensure!(order == expected, "jobs ended in the order {order:?} instead of {expected:?}");
        for (record, k) in records.iter().zip(&model.filed) {
            let job = &model.jobs[*k];
            ensure!(
                Some(record.state()) == state_of(job.stage),
                "job {k} is {} instead of {:?}",
                record.state(),
                job.stage
            );
            let ran = job.started.map_or(0, |started| job.ended.unwrap_or(started) - started);
            ensure!(
                record.run_time() == Duration::from_millis(ran)
                    && record.attempts() == job.attempts + u32::from(job.started.is_some())
                    && record.started_at().is_some() == job.started.is_some()
                    && record.worker().is_some() == (job.started.is_some() && job.on_worker),
                "job {k} ran for {:?} instead of {ran} ms, in {} attempts, on {:?}",
                record.run_time(),
                record.attempts(),
                record.worker()
            );
        }
        Ok(())
    }

    fn compare_series(&self) -> Result<(), String> {
        for (k, (series, expected)) in self.made.series().iter().zip(&self.model.series).enumerate() {
            let last = expected.last.map(|last| self.made.lock()[last].0);
            let last_found = series.last().map(|last| last.id());
            let found = (series.submitted(), series.missed(), series.is_stopped());
            let expected = (expected.submitted, expected.missed, expected.stopped);
            ensure!(found == expected, "series {k}: {found:?} instead of {expected:?}");
            ensure!(last_found == last, "the last of series {k} is {last_found:?} instead of {last:?}");
        }
        Ok(())
    }

    fn shut_down(mut self, cancel: bool) -> Result<(), String> {
        let how = if cancel { Shutdown::cancel() } else { Shutdown::drain() };
        let before = [Stage::Completed, Stage::Cancelled].map(|stage| self.model.count(stage));
        self.model.shut_down(cancel);
        let report = self.delegator.shutdown(how);
        let after = [Stage::Completed, Stage::Cancelled].map(|stage| self.model.count(stage));
        let unstarted: Vec<JobId> = report.unstarted.iter().map(Job::id).collect();
        let made = self.made.lock();
        let expected: Vec<JobId> = self.model.unstarted.iter().map(|k| made[*k].0).collect();
        let (mut found, mut wanted) = (unstarted.clone(), expected.clone());
        found.sort_unstable();
        wanted.sort_unstable();
        ensure!(found == wanted, "{} jobs handed back instead of {}", found.len(), wanted.len());
        ensure!(
            report.completed == after[0] - before[0]
                && report.cancelled == after[1] - before[1] - unstarted.len()
                && report.stuck.is_empty(),
            "{report:?} instead of {before:?} and then {after:?}"
        );
        let jobs = made.len();
        drop(made);
        for k in 0..jobs {
            let Some(handle) = self.made.handle(k) else { continue };
            let (state, expected) = (handle.state(), state_of(self.model.jobs[k].stage));
            ensure!(Some(state) == expected, "job {k} is {state} instead of {expected:?}");
        }
        self.compare_series()?;
        let ended = self.delegator.now();
        ensure!(self.time(ended) == self.model.now, "it ends at {:?}", ended - self.start);
        Ok(())
    }
}

fn state_of(stage: Stage) -> Option<JobState> {
    match stage {
        Stage::Scheduled => Some(JobState::Scheduled),
        Stage::Queued => Some(JobState::Queued),
        Stage::Running => Some(JobState::Running),
        Stage::Completed => Some(JobState::Completed),
        Stage::Failed => Some(JobState::Failed),
        Stage::Panicked => Some(JobState::Panicked),
        Stage::Cancelled => Some(JobState::Cancelled),
        Stage::TimedOut => Some(JobState::TimedOut),
        Stage::Outside => None,
    }
}
