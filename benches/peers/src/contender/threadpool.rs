//! `threadpool`: `execute` with a channel per job.

use std::marker::PhantomData;

use threadpool::ThreadPool;

use super::{Contender, Producer, Reply};

pub struct Threadpool<R> {
    pool: ThreadPool,
    reply: PhantomData<R>,
}

impl<R: Reply> Contender for Threadpool<R> {
    type Producer<'a> = Submitter<R>;

    fn start(workers: usize) -> Self {
        Self { pool: ThreadPool::new(workers), reply: PhantomData }
    }

    fn producer(&self) -> Submitter<R> {
        Submitter { pool: self.pool.clone(), reply: PhantomData }
    }

    fn stop(self) {
        self.pool.join();
    }
}

pub struct Submitter<R> {
    pool: ThreadPool,
    reply: PhantomData<R>,
}

impl<R: Reply> Producer for Submitter<R> {
    type Ticket = R::Receiver;

    fn submit(&mut self, operation: impl Fn() -> Vec<u8> + Send + 'static) -> R::Receiver {
        let (sender, receiver) = R::pair();
        self.pool.execute(move || R::send(sender, operation()));
        receiver
    }

    fn wait<T>(&mut self, ticket: R::Receiver, read: impl FnOnce(&[u8]) -> T) -> T {
        read(&R::recv(ticket))
    }
}
