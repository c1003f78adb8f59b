//! The least that can be called a pool: threads that receive closures from one channel.

use std::marker::PhantomData;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{Contender, Producer, Reply};

type Closure = Box<dyn FnOnce() + Send>;

/// As many as `workpath` queues by default.
const CAPACITY: usize = 1_024;

pub struct Channel<R> {
    queue: Sender<Closure>,
    workers: Vec<JoinHandle<()>>,
    reply: PhantomData<R>,
}

impl<R: Reply> Contender for Channel<R> {
    type Producer<'a> = Submitter<R>;

    fn start(workers: usize) -> Self {
        let (queue, jobs) = bounded(CAPACITY);
        let workers = (0..workers).map(|_| {
            let jobs: Receiver<Closure> = jobs.clone();
            thread::spawn(move || jobs.into_iter().for_each(|job| job()))
        });
        Self { queue, workers: workers.collect(), reply: PhantomData }
    }

    fn producer(&self) -> Submitter<R> {
        Submitter { queue: self.queue.clone(), reply: PhantomData }
    }

    fn stop(self) {
        drop(self.queue);
        for worker in self.workers {
            worker.join().expect("no operation panics");
        }
    }
}

pub struct Submitter<R> {
    queue: Sender<Closure>,
    reply: PhantomData<R>,
}

impl<R: Reply> Producer for Submitter<R> {
    type Ticket = R::Receiver;

    fn submit(&mut self, operation: impl Fn() -> Vec<u8> + Send + 'static) -> R::Receiver {
        let (sender, receiver) = R::pair();
        self.queue
            .send(Box::new(move || R::send(sender, operation())))
            .expect("the workers live as long as the queue");
        receiver
    }

    fn wait<T>(&mut self, ticket: R::Receiver, read: impl FnOnce(&[u8]) -> T) -> T {
        read(&R::recv(ticket))
    }
}
