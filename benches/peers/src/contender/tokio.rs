//! `tokio`: `spawn_blocking`, and `block_on` to wait without being async.

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use super::{Contender, Producer};

pub struct Tokio(Runtime);

impl Contender for Tokio {
    type Producer<'a> = &'a Runtime;

    fn start(workers: usize) -> Self {
        let mut builder = Builder::new_multi_thread();
        // The blocking threads do the work; the runtime needs one more for itself.
        let runtime = builder.worker_threads(1).max_blocking_threads(workers).build();
        Self(runtime.expect("the system gives a few threads"))
    }

    fn producer(&self) -> &Runtime {
        &self.0
    }

    fn stop(self) {}
}

impl Producer for &Runtime {
    type Ticket = JoinHandle<Vec<u8>>;

    fn submit(&mut self, operation: impl Fn() -> Vec<u8> + Send + 'static) -> Self::Ticket {
        self.spawn_blocking(operation)
    }

    fn wait<T>(&mut self, ticket: Self::Ticket, read: impl FnOnce(&[u8]) -> T) -> T {
        read(&self.block_on(ticket).expect("no operation panics"))
    }
}
