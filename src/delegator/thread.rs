//! The delegator thread: creates the queue, starts the workers, and sees them off.

use std::convert::Infallible;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::relief::Relief;
use super::shutdown::Closing;
use crate::alarm::Alarm;
use crate::clock::Tick;
use crate::directive::Directive;
use crate::engine::{Engine, Settings, Slot};
use crate::panics::{self, discard};
use crate::queue::Queue;
use crate::registry::{Registry, Retention};
use crate::sync::channel::{Receiver, RecvTimeoutError, Sender, bounded, recv_until, unbounded};
use crate::sync::{Arc, AtomicBool, Builder, JoinHandle, Mutex, Ordering, Weak};
use crate::worker::{self, Hook};

/// As many emptied cells wait for submitters as jobs fit in the queue, up to this number.
const MAX_SPARE_CELLS: usize = 1024;

/// What a delegator is made of, checked.
pub(crate) struct Plan {
    pub(crate) workers: usize,
    /// How many of them may be replaced.
    pub(crate) replacements: usize,
    pub(crate) queue_capacity: usize,
    pub(crate) retention: Retention,
    pub(crate) settings: Settings,
    pub(crate) thread_name: String,
    pub(crate) stack_size: Option<usize>,
    pub(crate) on_worker_start: Option<Hook>,
    pub(crate) on_worker_stop: Option<Hook>,
}

/// What the delegator thread has set up.
pub(super) struct Started {
    pub(super) engine: Arc<Engine>,
    pub(super) closing: Arc<Closing>,
}

/// Starts the delegator thread and waits until all workers are started. On failure no thread is left.
pub(super) fn start(plan: Plan) -> Result<(Started, JoinHandle<()>), (String, io::Error)> {
    let name = format!("{}-d", plan.thread_name);
    let report = Arc::new(Mutex::new(None));
    let (reported, wait) = bounded::<Infallible>(0);
    let to_fill = Arc::clone(&report);
    let body = move || {
        run(plan, |outcome| {
            *to_fill.lock() = Some(outcome);
            drop(reported);
        })
    };
    let thread = spawn(Builder::new().name(name.clone()), body).map_err(|error| (name, error))?;
    // Nothing comes but the end of the sender.
    let _ = wait.recv();
    let outcome = report.lock().take();
    match outcome {
        Some(Ok(started)) => Ok((started, thread)),
        Some(Err(error)) => {
            join(thread);
            Err(error)
        }
        None => unreachable!("the delegator thread reports before it ends"),
    }
}

/// Everything but the workers, which are to be as many as the plan says.
pub(super) fn engine(plan: &Plan, admin: Sender<Directive>) -> Arc<Engine> {
    let names = (0..plan.workers.saturating_add(plan.replacements))
        .map(|index| format!("{}-{index}", plan.thread_name));
    Engine::new(
        Queue::new(plan.queue_capacity, plan.workers, plan.replacements),
        plan.queue_capacity.min(MAX_SPARE_CELLS),
        Registry::new(plan.retention),
        names,
        plan.workers,
        admin,
        plan.settings,
    )
}

fn run(mut plan: Plan, report: impl FnOnce(Result<Started, (String, io::Error)>)) {
    let (admin, directives) = unbounded();
    let engine = engine(&plan, admin);
    let relief = Relief::new(&plan);
    let closing = Arc::new(Closing::new(plan.workers));
    let started = start_workers(&mut plan, &engine);
    discard("a hook of a worker", plan);
    let threads = match started {
        Ok(threads) => threads,
        Err(error) => {
            // The hooks are gone when this is known.
            relief.dismiss().into_iter().for_each(join);
            report(Err(error));
            return;
        }
    };
    // From here on this thread keeps nothing alive that holds values of the user's, since the last to let go drops them.
    let (alarm, weak) = (Arc::clone(&engine.alarm), Arc::downgrade(&engine));
    report(Ok(Started { engine, closing: Arc::clone(&closing) }));
    serve(&directives, &closing, &alarm, &weak, threads, relief);
}

/// Starts all workers or none: they wait at a gate until the last has been started.
fn start_workers(plan: &mut Plan, engine: &Arc<Engine>) -> Result<Vec<JoinHandle<()>>, (String, io::Error)> {
    let all_started = Arc::new(AtomicBool::new(false));
    let (gatekeeper, gate) = bounded::<Infallible>(0);
    let mut threads = Vec::with_capacity(plan.workers);
    for (index, slot) in engine.slots.iter().enumerate().take(plan.workers) {
        let builder = builder(slot, plan.stack_size);
        let engine = Arc::clone(engine);
        let (gate, all_started) = (gate.clone(), Arc::clone(&all_started));
        // The last worker gets the hooks themselves, so that they are dropped on a worker's thread.
        let is_last = index + 1 == plan.workers;
        let hook = |hook: &mut Option<Hook>| if is_last { hook.take() } else { hook.clone() };
        let hooks = (hook(&mut plan.on_worker_start), hook(&mut plan.on_worker_stop));
        let spawned = spawn(builder, move || {
            // Nothing comes but the end of the gatekeeper.
            let _ = gate.recv();
            if all_started.load(Ordering::Acquire) {
                work(engine, index, hooks, false);
            } else {
                discard("a hook of a worker", hooks);
            }
        });
        match spawned {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                drop(gatekeeper);
                threads.into_iter().for_each(join);
                return Err((slot.thread_name.clone(), error));
            }
        }
    }
    all_started.store(true, Ordering::Release);
    drop(gatekeeper);
    Ok(threads)
}

pub(super) fn builder(slot: &Slot, stack_size: Option<usize>) -> Builder {
    let builder = Builder::new().name(slot.thread_name.clone());
    match stack_size {
        Some(bytes) => builder.stack_size(bytes),
        None => builder,
    }
}

/// The life of a worker, and the word of its end.
pub(super) fn work(engine: Arc<Engine>, index: usize, hooks: (Option<Hook>, Option<Hook>), fresh: bool) {
    let admin = engine.admin.clone();
    worker::run(engine, index, hooks.0, hooks.1, fresh);
    // Fails if nobody waits for this worker any more.
    let _ = admin.send(Directive::Stopped(index));
}

/// Blocks for directives until the last worker has stopped or been given up.
fn serve(
    directives: &Receiver<Directive>,
    closing: &Closing,
    alarm: &Alarm,
    engine: &Weak<Engine>,
    mut threads: Vec<JoinHandle<()>>,
    mut relief: Relief,
) {
    loop {
        let directive = match recv_until(directives, alarm.next()) {
            Ok(directive) => directive,
            Err(RecvTimeoutError::Timeout) => {
                alarm.clear();
                threads.extend(look_around(engine, closing, &mut relief));
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        match directive {
            // `alarm.next()` has changed.
            Directive::Look => {}
            Directive::Stopped(worker) => {
                // Not joined before the last has stopped: a thread may take its time to end, with destructors of the
                // user's thread-local values.
                if closing.worker_stopped(worker) {
                    threads.into_iter().chain(relief.dismiss()).for_each(join);
                    return closing.workers_joined();
                }
            }
            Directive::Detach => break,
        }
    }
    relief.dismiss();
}

/// Does what has become due. Gives the workers that it started.
fn look_around(engine: &Weak<Engine>, closing: &Closing, relief: &mut Relief) -> Vec<JoinHandle<()>> {
    let Some(engine) = engine.upgrade() else { return Vec::new() };
    let stuck = engine.look_around(Tick::now());
    let mut lines = Vec::new();
    let mut threads = Vec::new();
    for (worker, line) in stuck {
        lines.push(line);
        match relief.replace(worker, &engine, closing) {
            Ok(thread) => threads.extend(thread),
            Err((thread, error)) => {
                lines.push(format!(
                    "worker {worker} is not replaced: thread {thread:?} cannot be started: {error}"
                ));
            }
        }
    }
    if !lines.is_empty() && panics::may_be_logged(log::Level::Warn) {
        warn(lines);
    }
    // If everybody else has let go meanwhile, what jobs left is dropped here, which takes as long as it takes: on a
    // thread of its own, if there is one to be had.
    if let Some(engine) = Arc::into_inner(engine) {
        let _ = spawn(Builder::new(), move || discard("a delegator", engine));
    }
    threads
}

/// Logs from a thread of its own, if there is one to be had: a logger that hangs must not hold up what this thread does.
fn warn(lines: Vec<String>) {
    let lines = Arc::new(lines);
    let to_log = Arc::clone(&lines);
    let log = |lines: &[String]| {
        lines.iter().for_each(|line| panics::log(log::Level::Warn, format_args!("{line}")));
    };
    if spawn(Builder::new().name("workpath-log".to_owned()), move || log(&to_log)).is_err() {
        log(&lines);
    }
}

/// Spawning panics, rather than fails, on some stack sizes that no thread can have.
pub(super) fn spawn(builder: Builder, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    match catch_unwind(AssertUnwindSafe(|| builder.spawn(body))) {
        Ok(spawned) => spawned,
        Err(_) => Err(io::Error::from(io::ErrorKind::InvalidInput)),
    }
}

fn join(thread: JoinHandle<()>) {
    // The threads here contain the panics of user code, and have none of their own to pass on.
    discard("the end of a thread", thread.join());
}
