//! `rusty_pool`: `evaluate` returns a handle to the result.

use rusty_pool::{Builder, JoinHandle, ThreadPool};

use super::{Contender, Producer};

pub struct RustyPool(ThreadPool);

impl Contender for RustyPool {
    type Producer<'a> = &'a ThreadPool;

    fn start(workers: usize) -> Self {
        // By itself the pool grows under load; "two workers" means no more than two.
        let pool = Builder::new().core_size(workers).max_size(workers).build();
        pool.start_core_threads();
        Self(pool)
    }

    fn producer(&self) -> &ThreadPool {
        &self.0
    }

    fn stop(self) {
        self.0.shutdown_join();
    }
}

impl Producer for &ThreadPool {
    type Ticket = JoinHandle<Vec<u8>>;

    fn submit(&mut self, operation: impl Fn() -> Vec<u8> + Send + 'static) -> Self::Ticket {
        self.evaluate(operation)
    }

    fn wait<T>(&mut self, ticket: Self::Ticket, read: impl FnOnce(&[u8]) -> T) -> T {
        read(&ticket.await_complete())
    }
}
