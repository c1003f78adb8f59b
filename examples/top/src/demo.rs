//! Something to look at: a delegator with quick jobs, a slow one, a hung one, some that fail and some that panic.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, thread};

use workpath::{
    BuildError, Context, Delegator, Error, Job, JobHandle, JobId, Priority, Shutdown, SubmitError, Submitter,
};

const CAPACITY: usize = 64;

type Handles = Arc<Mutex<HashMap<JobId, JobHandle>>>;

pub(crate) struct Demo {
    delegator: Arc<Delegator>,
    /// Of what is not finished: to cancel it.
    handles: Handles,
    draining: bool,
}

impl Demo {
    pub(crate) fn start(workers: usize) -> Result<Demo, Box<dyn std::error::Error>> {
        let delegator: Result<Delegator, BuildError> =
            Delegator::builder().workers(workers).queue_capacity(CAPACITY).latencies(true).build();
        let demo = Demo { delegator: Arc::new(delegator?), handles: Handles::default(), draining: false };
        let (submitter, handles) = (demo.delegator.submitter(), Arc::clone(&demo.handles));
        thread::Builder::new().name("producer".into()).spawn(move || produce(&submitter, &handles))?;
        Ok(demo)
    }

    pub(crate) fn delegator(&self) -> &Delegator {
        &self.delegator
    }

    /// `false` if the job has ended.
    pub(crate) fn cancel(&self, id: JobId) -> bool {
        let handle = lock(&self.handles).get(&id).cloned();
        handle.is_some_and(|handle| handle.cancel_with("cancelled by hand"))
    }

    /// Finishes what is queued, on a thread of its own: a job that hangs holds it up for ever.
    pub(crate) fn drain(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.draining, true) {
            let delegator = Arc::clone(&self.delegator);
            let drain = move || drop(delegator.shutdown(Shutdown::drain()));
            thread::Builder::new().name("drain".into()).spawn(drain)?;
        }
        Ok(())
    }

    /// Stops everything, and says what did not stop, and what became of the rest.
    pub(crate) fn end(self, patience: Duration) -> String {
        self.delegator.shutdown(Shutdown::cancel().within(patience));
        let stats = self.delegator.stats();
        let mut text = format!(
            "{} jobs: {} completed, {} failed, {} panicked, {} timed out, {} cancelled\n",
            stats.submitted, stats.completed, stats.failed, stats.panicked, stats.timed_out, stats.cancelled
        );
        for stuck in self.delegator.workers() {
            let Some(name) = stuck.job_name else { continue };
            let _ = write!(text, "stuck: {name:?} on {}", stuck.thread_name);
            match stuck.checkpoint {
                Some(checkpoint) => drop(writeln!(text, ", last seen at {checkpoint}")),
                None => text.push('\n'),
            }
        }
        text
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ten beats a second, until nothing is accepted any more.
fn produce(submitter: &Submitter, handles: &Handles) {
    for beat in 0_u64.. {
        let mut jobs = Vec::new();
        // More than the workers get through, and then less.
        for n in 0..if beat % 120 < 60 { 6 } else { 1 } {
            jobs.push(thumbnail(20 + (beat * 7 + n * 13) % 60));
        }
        if beat % 110 == 3 {
            jobs.push(Job::new("import", import).with_priority(Priority::High));
        }
        if beat == 6 {
            let sync = Job::new("sync", sync).with_priority(Priority::High);
            jobs.push(sync.with_timeout(Duration::from_secs(2)));
        }
        if beat % 24 == 9 {
            jobs.push(Job::new("parse", parse).with_priority(Priority::High));
        }
        if beat % 31 == 14 {
            jobs.push(Job::new("upload", upload).with_priority(Priority::High));
        }
        if beat % 17 == 11 {
            jobs.push(thumbnail(40).with_timeout(Duration::from_millis(300)));
        }
        for job in jobs {
            match submitter.try_submit(job) {
                Ok(handle) => drop(lock(handles).insert(handle.id(), handle)),
                Err(SubmitError::ShutDown(_)) => return,
                // Counted by the delegator.
                Err(_) => {}
            }
        }
        lock(handles).retain(|_, handle| !handle.is_finished());
        thread::sleep(Duration::from_millis(100));
    }
}

fn thumbnail(millis: u64) -> Job {
    Job::new("thumbnail", move |ctx| {
        ctx.checkpoint("decode")?;
        sleep(ctx, millis)?;
        ctx.checkpoint("scale")?;
        sleep(ctx, millis / 2)?;
        Ok(Vec::new())
    })
}

/// Slow, and says how far it is.
fn import(ctx: &Context) -> Result<Vec<u8>, Error> {
    const ROWS: u64 = 40_000;
    for row in (0..ROWS).step_by(100) {
        ctx.checkpoint(format!("row {row}"))?;
        ctx.progress(row, ROWS);
        sleep(ctx, 25)?;
    }
    Ok(Vec::new())
}

/// Hangs, and does not look at its context: neither its deadline nor a cancel ends it.
fn sync(ctx: &Context) -> Result<Vec<u8>, Error> {
    ctx.checkpoint("waiting for the mirror's lock")?;
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}

fn upload(ctx: &Context) -> Result<Vec<u8>, Error> {
    ctx.checkpoint("connect")?;
    sleep(ctx, 180)?;
    Err("connection refused".into())
}

fn parse(ctx: &Context) -> Result<Vec<u8>, Error> {
    ctx.checkpoint("line 17")?;
    sleep(ctx, 120)?;
    panic!("line 17: no such field")
}

fn sleep(ctx: &Context, millis: u64) -> Result<(), Error> {
    ctx.sleep(Duration::from_millis(millis))
}
