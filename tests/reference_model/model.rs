//! What a delegator is supposed to do, in one thread and without a clock.
//!
//! A step of the model is carried through to the moment at which nothing changes any more: every worker is idle, or in a
//! job whose gate is closed. Only one thing may come out in more than one way: the order in which several threads file what
//! they finish in the same step. The model then keeps every registry that is possible.

use std::collections::VecDeque;

use crate::ops::{Child, Derive, Ending, Form, Gate, Inside, Limit, Payload, Setup, Spec};

/// Why a context is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Done {
    Deadline,
    Cancelled(Cause),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cause {
    Nothing,
    Given(u8),
    /// The delegator is shut down, in whatever words.
    ShutDown,
}

impl Cause {
    pub(crate) fn of(given: Option<u8>) -> Cause {
        given.map_or(Cause::Nothing, Cause::Given)
    }
}

/// How a job ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Outcome {
    Completed(usize),
    Failed,
    FailedWithForeign,
    Panicked(Payload),
    Ended(Done),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Stage {
    /// With the caller: not submitted yet, or refused.
    Outside,
    /// In a submission that waits for room.
    Blocked,
    Queued,
    Running,
    Finished(Outcome),
}

#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) spec: Spec,
    pub(crate) stage: Stage,
    context: Option<usize>,
    /// The job whose context is above this one's.
    parent: Option<usize>,
    pub(crate) done: Option<Done>,
    pub(crate) runs: u32,
    /// How often what it captured has been dropped.
    pub(crate) drops: u32,
    /// Somebody has its handle: a queued job whose context is done ends when it is looked at.
    pub(crate) watched: bool,
    /// In a shutdown that it called itself.
    pub(crate) closing: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Context {
    parent: Option<usize>,
    pub(crate) done: Option<Done>,
    has_deadline: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Counts {
    pub(crate) submitted: u64,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) panicked: u64,
    pub(crate) cancelled: u64,
    pub(crate) timed_out: u64,
    pub(crate) rejected: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(crate) enum Phase {
    Open,
    Draining,
    Stopped,
}

/// What a submission comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    Accepted,
    Blocks,
    Full,
    Timeout,
    ShutDown,
}

/// The report of a shutdown.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Report {
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) cancelled: u64,
    pub(crate) unstarted: Vec<usize>,
    pub(crate) stuck: Vec<usize>,
}

/// The jobs retained, each with the bytes of its payload, oldest first.
pub(crate) type Shelf = Vec<(usize, usize)>;

/// Who finished a job in this step.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Worker(usize),
    /// The thread of the test, or one that waits.
    Anybody,
    /// The thread that shuts down, in the order of the queue.
    Shutdown,
}

pub(crate) struct Model {
    setup: Setup,
    pub(crate) jobs: Vec<Job>,
    pub(crate) contexts: Vec<Context>,
    /// From the job that a worker took from the queue to the one that it is in.
    pub(crate) workers: Vec<Vec<usize>>,
    stopped: Vec<bool>,
    /// What has ended in the queue keeps its place until a worker comes across it.
    queue: VecDeque<usize>,
    pub(crate) blocked: Option<usize>,
    pub(crate) phase: Phase,
    pub(crate) dropped: bool,
    pub(crate) detached: bool,
    pub(crate) counts: Counts,
    /// All that are possible; hardly ever more than one.
    pub(crate) shelves: Vec<Shelf>,
    finished: Vec<(usize, By)>,
    /// Too many orders were possible: the registry is to be taken as it is.
    pub(crate) lost_order: bool,
    pub(crate) begun: Option<Counts>,
    unstarted: Vec<usize>,
    pub(crate) closes_from_inside: bool,
    inner_is_first: bool,
    /// The report of a shutdown from inside a job that has returned.
    pub(crate) inner_report: Option<Report>,
    /// What the job that was just let go will submit: which, and whether it is accepted.
    pub(crate) plan: Vec<(usize, bool)>,
}

/// The most jobs of which all orders are tried.
const TRIED: usize = 5;

impl Model {
    pub(crate) fn new(setup: &Setup) -> Model {
        Model {
            setup: setup.clone(),
            jobs: Vec::new(),
            contexts: vec![Context { parent: None, done: None, has_deadline: false }],
            workers: vec![Vec::new(); setup.workers],
            stopped: vec![false; setup.workers],
            queue: VecDeque::new(),
            blocked: None,
            phase: Phase::Open,
            dropped: false,
            detached: false,
            counts: Counts::default(),
            shelves: vec![Shelf::new()],
            finished: Vec::new(),
            lost_order: false,
            begun: None,
            unstarted: Vec::new(),
            closes_from_inside: false,
            inner_is_first: false,
            inner_report: None,
            plan: Vec::new(),
        }
    }

    // Contexts.

    pub(crate) fn derive(&mut self, from: usize, how: Derive) {
        let above = &self.contexts[from];
        let context = match how {
            Derive::WithoutCancel => Context { parent: None, done: None, has_deadline: false },
            Derive::Cancel | Derive::Value | Derive::Limit(_) => {
                let limit = if let Derive::Limit(limit) = how { limit } else { Limit::None };
                Context {
                    parent: Some(from),
                    done: above.done.or(at_once(limit)),
                    has_deadline: above.has_deadline || is_deadline(limit),
                }
            }
        };
        self.contexts.push(context);
    }

    pub(crate) fn cancel_context(&mut self, which: usize, cause: Cause) {
        let done = Done::Cancelled(cause);
        // Children come after their parents.
        let mut below = vec![false; self.contexts.len()];
        for at in which..self.contexts.len() {
            let context = &mut self.contexts[at];
            below[at] = at == which || context.parent.is_some_and(|parent| below[parent]);
            if below[at] {
                context.done = context.done.or(Some(done));
            }
        }
        for job in 0..self.jobs.len() {
            if self.jobs[job].context.is_some_and(|context| below[context]) {
                self.end_context_of(job, done);
            }
        }
        self.settle();
    }

    /// The context of a job is done, and with it those of the jobs under it.
    fn end_context_of(&mut self, job: usize, done: Done) {
        if self.jobs[job].done.is_some() {
            return;
        }
        self.jobs[job].done = Some(done);
        for child in job + 1..self.jobs.len() {
            if self.jobs[child].parent == Some(job) {
                self.end_context_of(child, done);
            }
        }
    }

    /// Whether it has one of its own, or from above.
    pub(crate) fn has_deadline(&self, job: usize) -> bool {
        let job = &self.jobs[job];
        is_deadline(job.spec.limit)
            || job.context.is_some_and(|context| self.contexts[context].has_deadline)
            || job.parent.is_some_and(|parent| self.has_deadline(parent))
    }

    // Submissions.

    pub(crate) fn create(&mut self, mut spec: Spec, context: Option<usize>) -> usize {
        if matches!(spec.inside, Inside::ShutsDown { .. })
            && std::mem::replace(&mut self.closes_from_inside, true)
        {
            // One of them is enough to follow.
            spec.inside = Inside::Nothing;
        }
        let above = context.and_then(|context| self.contexts[context].done);
        let done = above.or(at_once(spec.limit));
        self.add(spec, context, None, done)
    }

    fn add(
        &mut self,
        spec: Spec,
        context: Option<usize>,
        parent: Option<usize>,
        done: Option<Done>,
    ) -> usize {
        self.jobs.push(Job {
            spec,
            stage: Stage::Outside,
            context,
            parent,
            done,
            runs: 0,
            drops: 0,
            watched: true,
            closing: false,
        });
        self.jobs.len() - 1
    }

    /// What a submission from outside would come to.
    pub(crate) fn verdict(&self, job: usize, form: Form) -> Verdict {
        if self.phase != Phase::Open {
            return Verdict::ShutDown;
        }
        let over = self.jobs[job].done.is_some()
            || (self.setup.default_timeout == Limit::Zero && !self.has_deadline(job));
        if over || self.has_room() {
            return Verdict::Accepted;
        }
        match form {
            Form::Try => Verdict::Full,
            Form::Timeout(Limit::Zero | Limit::Past) | Form::Deadline(Limit::Zero | Limit::Past) => {
                Verdict::Timeout
            }
            _ => Verdict::Blocks,
        }
    }

    fn has_room(&self) -> bool {
        // What a free worker has not taken yet, it takes before anybody can look.
        self.idle().is_some() || self.queue.len() < self.setup.capacity
    }

    fn idle(&self) -> Option<usize> {
        (0..self.workers.len()).find(|worker| self.workers[*worker].is_empty() && !self.stopped[*worker])
    }

    pub(crate) fn submit(&mut self, job: usize, form: Form) -> Verdict {
        let verdict = self.verdict(job, form);
        match verdict {
            Verdict::Accepted => self.accept(job),
            Verdict::Blocks => {
                self.jobs[job].stage = Stage::Blocked;
                self.blocked = Some(job);
            }
            Verdict::Full | Verdict::Timeout | Verdict::ShutDown => self.counts.rejected += 1,
        }
        self.settle();
        verdict
    }

    fn accept(&mut self, job: usize) {
        self.counts.submitted += 1;
        if self.setup.default_timeout == Limit::Zero && !self.has_deadline(job) {
            self.end_context_of(job, Done::Deadline);
        }
        match self.jobs[job].done {
            Some(done) => self.finish(job, Outcome::Ended(done), By::Anybody),
            None => {
                self.jobs[job].stage = Stage::Queued;
                self.queue.push_back(job);
            }
        }
    }

    /// The deadline of a job is over.
    pub(crate) fn expire(&mut self, job: usize) {
        self.end_context_of(job, Done::Deadline);
        self.settle();
    }

    // Running.

    /// The gate of a running job is opened.
    pub(crate) fn open(&mut self, job: usize) {
        let worker = self.workers.iter().position(|stack| stack.contains(&job));
        self.go_on(job, worker.expect("a running job is on a worker"));
        self.settle();
    }

    /// Carries on until nothing changes any more.
    fn settle(&mut self) {
        while self.look() || self.let_attentive_go() || self.feed() || self.unblock() || self.see_off() {}
    }

    /// Queued jobs whose context is done end, if somebody looks.
    fn look(&mut self) -> bool {
        let mut changed = false;
        for job in 0..self.jobs.len() {
            let Job { stage, done, watched, .. } = self.jobs[job];
            if let (Stage::Queued, Some(done), true) = (stage, done, watched) {
                self.finish(job, Outcome::Ended(done), By::Anybody);
                changed = true;
            }
        }
        changed
    }

    fn let_attentive_go(&mut self) -> bool {
        for worker in 0..self.workers.len() {
            let Some(&job) = self.workers[worker].last() else { continue };
            if self.jobs[job].spec.gate == Gate::Attentive && self.jobs[job].done.is_some() {
                self.go_on(job, worker);
                return true;
            }
        }
        false
    }

    /// A free worker takes the next job.
    fn feed(&mut self) -> bool {
        match self.idle() {
            Some(worker) if !self.queue.is_empty() => {
                self.take_next(worker);
                true
            }
            _ => false,
        }
    }

    fn take_next(&mut self, worker: usize) {
        let Some(job) = self.queue.pop_front() else { return };
        if self.jobs[job].stage != Stage::Queued {
            return;
        }
        match self.jobs[job].done {
            Some(done) => self.finish(job, Outcome::Ended(done), By::Worker(worker)),
            None => self.start(job, worker),
        }
    }

    fn start(&mut self, job: usize, worker: usize) {
        self.jobs[job].stage = Stage::Running;
        self.jobs[job].runs += 1;
        self.workers[worker].push(job);
        if self.jobs[job].spec.gate == Gate::None {
            self.go_on(job, worker);
        }
    }

    /// What a job does once its gate is open.
    fn go_on(&mut self, job: usize, worker: usize) {
        match self.jobs[job].spec.inside.clone() {
            Inside::Nothing => self.end(job, worker),
            Inside::Nests(children) => {
                for child in children {
                    self.nest(job, child, worker);
                }
                self.end(job, worker);
            }
            Inside::ShutsDown { .. } if self.dropped => self.end(job, worker),
            Inside::ShutsDown { cancel } => {
                self.jobs[job].closing = true;
                self.inner_is_first = self.begin_shutdown(cancel);
            }
        }
    }

    fn nest(&mut self, parent: usize, child: Child, worker: usize) {
        let Child { form, derived, waited, .. } = child;
        let done = if derived { self.jobs[parent].done } else { None };
        let job = self.add(Spec::of(&child), None, derived.then_some(parent), done);
        let verdict = self.verdict(job, form);
        self.plan.push((job, matches!(verdict, Verdict::Accepted | Verdict::Blocks)));
        match verdict {
            Verdict::Accepted => self.accept(job),
            // A worker does not wait for room: it does the job itself.
            Verdict::Blocks => {
                self.counts.submitted += 1;
                self.start(job, worker);
            }
            Verdict::Full | Verdict::Timeout | Verdict::ShutDown => {
                self.counts.rejected += 1;
                // The parent drops it.
                self.jobs[job].drops += 1;
            }
        }
        // Another worker may have been waiting for work.
        while self.feed() {}
        if waited && self.jobs[job].stage == Stage::Queued {
            self.start(job, worker);
        }
    }

    fn end(&mut self, job: usize, worker: usize) {
        let outcome = self.outcome(job);
        self.workers[worker].retain(|running| *running != job);
        self.finish(job, outcome, By::Worker(worker));
    }

    /// What the operation of a job comes to if it ends now.
    pub(crate) fn outcome(&self, job: usize) -> Outcome {
        let Job { spec, done, .. } = &self.jobs[job];
        match (spec.ending, *done) {
            (Ending::Obeys(_), Some(done)) => Outcome::Ended(done),
            (Ending::Bytes(length) | Ending::Obeys(length), _) => Outcome::Completed(length),
            (Ending::Fails, _) => Outcome::Failed,
            // That its own context was cancelled as well makes the error its own.
            (Ending::Foreign, Some(Done::Cancelled(_))) => Outcome::Ended(Done::Cancelled(Cause::Nothing)),
            (Ending::Foreign, _) => Outcome::FailedWithForeign,
            (Ending::Panics(payload), _) => Outcome::Panicked(payload),
        }
    }

    fn finish(&mut self, job: usize, outcome: Outcome, by: By) {
        let count = match outcome {
            Outcome::Completed(_) => &mut self.counts.completed,
            Outcome::Failed | Outcome::FailedWithForeign => &mut self.counts.failed,
            Outcome::Panicked(_) => &mut self.counts.panicked,
            Outcome::Ended(Done::Cancelled(_)) => &mut self.counts.cancelled,
            Outcome::Ended(Done::Deadline) => &mut self.counts.timed_out,
        };
        *count += 1;
        self.jobs[job].stage = Stage::Finished(outcome);
        self.jobs[job].drops += 1;
        self.finished.push((job, by));
    }

    /// A submission that waited for room comes in, or its context ends, or the delegator does.
    fn unblock(&mut self) -> bool {
        let Some(job) = self.blocked else { return false };
        if self.phase != Phase::Open {
            self.counts.rejected += 1;
            self.jobs[job].stage = Stage::Outside;
        } else if self.jobs[job].done.is_some() || self.has_room() {
            self.accept(job);
        } else {
            return false;
        }
        self.blocked = None;
        true
    }

    /// What can be told about a job to cancel: whether it will be.
    pub(crate) fn cancel_job(&mut self, job: usize, cause: Cause) -> bool {
        let done = Done::Cancelled(cause);
        let cancels = match self.jobs[job].stage {
            Stage::Queued => {
                self.finish(job, Outcome::Ended(done), By::Anybody);
                true
            }
            Stage::Running => {
                self.end_context_of(job, done);
                true
            }
            _ => false,
        };
        self.settle();
        cancels
    }

    // The end.

    /// Whether it is the first.
    pub(crate) fn shutdown(&mut self, cancel: bool) -> bool {
        let first = self.begin_shutdown(cancel);
        self.settle();
        first
    }

    fn begin_shutdown(&mut self, cancel: bool) -> bool {
        let first = self.begun.is_none();
        self.begun = self.begun.or(Some(self.counts));
        if self.phase == Phase::Open {
            self.phase = Phase::Draining;
        }
        if cancel {
            self.stop();
        }
        first
    }

    fn stop(&mut self) {
        self.phase = Phase::Stopped;
        for job in std::mem::take(&mut self.queue) {
            if self.jobs[job].stage != Stage::Queued {
                continue;
            }
            match self.jobs[job].done {
                Some(done) => self.finish(job, Outcome::Ended(done), By::Shutdown),
                None => {
                    self.finish(job, Outcome::Ended(Done::Cancelled(Cause::ShutDown)), By::Shutdown);
                    // What it captured is in the report.
                    self.jobs[job].drops -= 1;
                    self.unstarted.push(job);
                }
            }
        }
        // What a job has handed down ends with the delegator too, when the job itself is long over.
        for job in 0..self.jobs.len() {
            if self.jobs[job].runs > 0 {
                self.end_context_of(job, Done::Cancelled(Cause::ShutDown));
            }
        }
    }

    /// Without any time: what is not over when all contexts are is stuck.
    pub(crate) fn shutdown_now(&mut self, cancel: bool) -> Report {
        let first = self.begin_shutdown(cancel);
        self.settle();
        if !self.has_ended() && !cancel {
            self.stop();
            self.settle();
        }
        if !first {
            return Report::default();
        }
        let stuck = if self.has_ended() { Vec::new() } else { self.running() };
        self.detached = !stuck.is_empty();
        Report { stuck, ..self.report() }
    }

    pub(crate) fn report(&mut self) -> Report {
        let (before, after) = (self.begun.unwrap_or_default(), self.counts);
        let unstarted = std::mem::take(&mut self.unstarted);
        let ended = |counts: Counts| counts.failed + counts.panicked + counts.timed_out;
        Report {
            completed: after.completed - before.completed,
            failed: ended(after) - ended(before),
            cancelled: after.cancelled - before.cancelled - unstarted.len() as u64,
            unstarted,
            stuck: Vec::new(),
        }
    }

    pub(crate) fn running(&self) -> Vec<usize> {
        self.workers.iter().flatten().copied().collect()
    }

    pub(crate) fn queued(&self) -> usize {
        self.jobs.iter().filter(|job| job.stage == Stage::Queued).count()
    }

    /// All workers have.
    pub(crate) fn has_ended(&self) -> bool {
        self.stopped.iter().all(|stopped| *stopped)
    }

    /// Workers with nothing left to do stop, and jobs that shut down go on.
    fn see_off(&mut self) -> bool {
        if self.phase == Phase::Open {
            return false;
        }
        if let Some(worker) = self.idle() {
            self.stopped[worker] = true;
            return true;
        }
        for worker in 0..self.workers.len() {
            let Some(&job) = self.workers[worker].last() else { continue };
            let mut others = (0..self.workers.len()).filter(|other| *other != worker);
            // After a shutdown that has given up, nobody waits for anybody.
            let alone = self.detached || others.all(|other| self.stopped[other]);
            if !self.jobs[job].closing || !alone {
                continue;
            }
            if self.queue.is_empty() {
                self.jobs[job].closing = false;
                self.inner_report = Some(if self.inner_is_first { self.report() } else { Report::default() });
                self.end(job, worker);
            } else {
                self.take_next(worker);
            }
            return true;
        }
        false
    }

    // The registry.

    /// Files what has finished in this step.
    pub(crate) fn file(&mut self) {
        let finished = std::mem::take(&mut self.finished);
        let jobs: Vec<usize> = finished.iter().map(|(job, _)| *job).collect();
        let by_one = finished.windows(2).all(|pair| pair[0].1 == pair[1].1 && pair[0].1 != By::Anybody);
        if !by_one && jobs.len() > TRIED {
            self.lost_order = true;
            return;
        }
        let orders = if by_one { vec![jobs] } else { permutations(&jobs) };
        let mut shelves = Vec::new();
        for before in &self.shelves {
            for order in &orders {
                let mut shelf = before.clone();
                order.iter().for_each(|job| self.shelve(&mut shelf, *job));
                if !shelves.contains(&shelf) {
                    shelves.push(shelf);
                }
            }
        }
        self.shelves = shelves;
    }

    fn shelve(&self, shelf: &mut Shelf, job: usize) {
        let (bytes, limit) = (self.bytes(job), self.setup.bytes.unwrap_or(usize::MAX));
        if self.setup.last == 0 || bytes > limit {
            return;
        }
        while shelf.len() >= self.setup.last
            || shelf.iter().map(|(_, bytes)| bytes).sum::<usize>() > limit - bytes
        {
            shelf.remove(0);
        }
        shelf.push((job, bytes));
    }

    fn bytes(&self, job: usize) -> usize {
        match self.jobs[job].stage {
            Stage::Finished(Outcome::Completed(bytes)) => bytes,
            _ => 0,
        }
    }

    /// Takes over what the registry holds where the model could not tell.
    pub(crate) fn adopt(&mut self, jobs: &[usize]) {
        self.lost_order = false;
        self.shelves = vec![jobs.iter().map(|job| (*job, self.bytes(*job))).collect()];
    }
}

fn at_once(limit: Limit) -> Option<Done> {
    matches!(limit, Limit::Zero | Limit::Past).then_some(Done::Deadline)
}

fn is_deadline(limit: Limit) -> bool {
    matches!(limit, Limit::Zero | Limit::Past | Limit::Far | Limit::Soon)
}

fn permutations(jobs: &[usize]) -> Vec<Vec<usize>> {
    if jobs.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (at, job) in jobs.iter().enumerate() {
        let mut others = jobs.to_vec();
        others.remove(at);
        for mut rest in permutations(&others) {
            rest.insert(0, *job);
            all.push(rest);
        }
    }
    all
}
