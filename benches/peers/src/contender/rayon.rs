//! `rayon`: `spawn` with a channel per job, and `join` for trees of jobs.

use std::marker::PhantomData;
use std::sync::Arc;
use std::thread;

use rayon::{ThreadPool, ThreadPoolBuilder, Yield};

use super::{Contender, Producer, Reply, decode, encode};

fn pool(workers: usize) -> ThreadPool {
    ThreadPoolBuilder::new().num_threads(workers).build().expect("the system gives a few threads")
}

pub struct Rayon<R> {
    pool: Arc<ThreadPool>,
    reply: PhantomData<R>,
}

impl<R: Reply> Contender for Rayon<R> {
    type Producer<'a> = Submitter<'a, R>;

    fn start(workers: usize) -> Self {
        Self { pool: Arc::new(pool(workers)), reply: PhantomData }
    }

    fn producer(&self) -> Submitter<'_, R> {
        Submitter { pool: &self.pool, reply: PhantomData }
    }

    fn stop(self) {}

    fn nested(&self, depth: u32) -> Option<u64> {
        Some(self.producer().wait(branch::<R>(&self.pool, depth), decode))
    }
}

/// Submits a job that submits two of its own. A worker that waits runs other jobs meanwhile, as `rayon` asks of it.
fn branch<R: Reply>(pool: &Arc<ThreadPool>, depth: u32) -> R::Receiver {
    let (sender, receiver) = R::pair();
    let own = Arc::clone(pool);
    pool.spawn(move || {
        let children = if depth == 0 {
            Vec::new()
        } else {
            vec![branch::<R>(&own, depth - 1), branch::<R>(&own, depth - 1)]
        };
        let below: u64 = children.into_iter().map(|child| decode(&busy_wait::<R>(child))).sum();
        R::send(sender, encode(below + 1));
    });
    receiver
}

fn busy_wait<R: Reply>(mut receiver: R::Receiver) -> Vec<u8> {
    loop {
        match R::try_recv(receiver) {
            Ok(bytes) => return bytes,
            Err(again) => receiver = again,
        }
        if rayon::yield_now() != Some(Yield::Executed) {
            thread::yield_now();
        }
    }
}

pub struct Submitter<'a, R> {
    pool: &'a ThreadPool,
    reply: PhantomData<R>,
}

impl<R: Reply> Producer for Submitter<'_, R> {
    type Ticket = R::Receiver;

    fn submit(&mut self, operation: impl Fn() -> Vec<u8> + Send + 'static) -> R::Receiver {
        let (sender, receiver) = R::pair();
        self.pool.spawn(move || R::send(sender, operation()));
        receiver
    }

    fn wait<T>(&mut self, ticket: R::Receiver, read: impl FnOnce(&[u8]) -> T) -> T {
        read(&R::recv(ticket))
    }
}

/// `join` knows its two children and lends them the stack: no queue, no handles, nothing to look up. For `nested` only.
pub struct RayonJoin<R>(Rayon<R>);

impl<R: Reply> Contender for RayonJoin<R> {
    type Producer<'a> = Submitter<'a, R>;

    fn start(workers: usize) -> Self {
        Self(Rayon::start(workers))
    }

    fn producer(&self) -> Submitter<'_, R> {
        self.0.producer()
    }

    fn stop(self) {
        self.0.stop();
    }

    fn nested(&self, depth: u32) -> Option<u64> {
        fn tree(depth: u32) -> Vec<u8> {
            if depth == 0 {
                return encode(1);
            }
            let (left, right) = rayon::join(|| tree(depth - 1), || tree(depth - 1));
            encode(decode(&left) + decode(&right) + 1)
        }
        Some(decode(&self.0.pool.install(|| tree(depth))))
    }
}
