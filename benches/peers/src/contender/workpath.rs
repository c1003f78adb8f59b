//! `workpath`, in the ways that it is measured.

use std::marker::PhantomData;
use std::time::Duration;

use workpath::{Builder, Delegator, Job, JobHandle, Shutdown, Submitter};

use super::{Contender, Producer, decode, encode};

/// Far beyond any run: the deadlines are kept, compared and never met.
const NEVER_MET: Duration = Duration::from_secs(600);

/// How jobs are prepared and results taken.
pub trait Style: Sync + Send + 'static {
    fn build(builder: Builder) -> Builder {
        builder
    }

    fn job(job: Job) -> Job {
        job
    }

    /// `wait` returns the record, which shares the payload with the registry; nothing is copied.
    fn take<R>(handle: JobHandle, read: impl FnOnce(&[u8]) -> R) -> R {
        let record = handle.wait();
        read(record.payload().expect("no operation fails"))
    }
}

/// Defaults; the record is waited for and its payload read.
pub struct Plain;

impl Style for Plain {}

/// The payload is taken with `join`, which owns what it returns and so copies what the registry retains.
pub struct Joined;

impl Style for Joined {
    fn take<R>(handle: JobHandle, read: impl FnOnce(&[u8]) -> R) -> R {
        read(&handle.join().expect("no operation fails"))
    }
}

/// Every job has a timeout.
pub struct Timeout;

impl Style for Timeout {
    fn job(job: Job) -> Job {
        job.with_timeout(NEVER_MET)
    }
}

/// The delegator gives every job a timeout.
pub struct DefaultTimeout;

impl Style for DefaultTimeout {
    fn build(builder: Builder) -> Builder {
        builder.default_timeout(NEVER_MET)
    }
}

pub struct Workpath<S> {
    delegator: Delegator,
    style: PhantomData<S>,
}

impl<S: Style> Contender for Workpath<S> {
    type Producer<'a> = Entry<S>;

    fn start(workers: usize) -> Self {
        let builder = S::build(Delegator::builder().workers(workers));
        Self { delegator: builder.build().expect("the system gives a few threads"), style: PhantomData }
    }

    fn producer(&self) -> Entry<S> {
        Entry { submitter: self.delegator.submitter(), style: PhantomData }
    }

    fn stop(self) {
        let stats = self.delegator.stats();
        self.delegator.shutdown(Shutdown::drain());
        assert_eq!(stats.submitted, stats.completed, "every job was waited for: {stats:?}");
    }

    fn nested(&self, depth: u32) -> Option<u64> {
        Some(S::take(branch(&self.delegator.submitter(), depth), decode))
    }
}

fn branch(submitter: &Submitter, depth: u32) -> JobHandle {
    let own = submitter.clone();
    let job = Job::new("branch", move |_| {
        let children =
            if depth == 0 { Vec::new() } else { vec![branch(&own, depth - 1), branch(&own, depth - 1)] };
        let below: u64 = children.into_iter().map(|child| Plain::take(child, decode)).sum();
        Ok(encode(below + 1))
    });
    submitter.submit(job).expect("the delegator runs")
}

pub struct Entry<S> {
    submitter: Submitter,
    style: PhantomData<S>,
}

impl<S: Style> Producer for Entry<S> {
    type Ticket = JobHandle;

    fn submit(&mut self, operation: impl Fn() -> Vec<u8> + Send + 'static) -> JobHandle {
        let job = S::job(Job::new("bench", move |_| Ok(operation())));
        self.submitter.submit(job).expect("the delegator runs")
    }

    fn wait<R>(&mut self, ticket: JobHandle, read: impl FnOnce(&[u8]) -> R) -> R {
        S::take(ticket, read)
    }
}
