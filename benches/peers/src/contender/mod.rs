//! The pools under test, behind one interface.
//!
//! Each runs with its defaults and hands every job's bytes to whoever submitted that job, so that a submitter can wait
//! for the job it means. A pool without results gets what people give it: a channel per job (the kinds are in
//! [`reply`]).

mod channel;
mod rayon;
mod reply;
mod rusty_pool;
mod threadpool;
mod tokio;
mod workpath;

pub use self::channel::Channel;
pub use self::rayon::{Rayon, RayonJoin};
pub use self::reply::{Bounded, OneShot, Reply, Unbounded};
pub use self::rusty_pool::RustyPool;
pub use self::threadpool::Threadpool;
pub use self::tokio::Tokio;
pub use self::workpath::{DefaultTimeout, Joined, Plain, Timeout, Workpath};

/// A pool that is running.
pub trait Contender: Sized + Sync {
    type Producer<'a>: Producer
    where
        Self: 'a;

    fn start(workers: usize) -> Self;

    /// What one submitting thread uses.
    fn producer(&self) -> Self::Producer<'_>;

    /// Ends the pool once it has run everything.
    fn stop(self);

    /// Runs a tree of jobs, each of which submits and awaits two children, and returns its size; `None` where jobs that
    /// wait for jobs would use up the workers.
    fn nested(&self, depth: u32) -> Option<u64> {
        let _ = depth;
        None
    }
}

/// One thread's way into a pool.
pub trait Producer: Send {
    /// What a submitter holds until it wants the result.
    type Ticket: Send;

    fn submit(&mut self, operation: impl Fn() -> Vec<u8> + Send + 'static) -> Self::Ticket;

    /// Blocks until the job has run and shows `read` its bytes.
    fn wait<R>(&mut self, ticket: Self::Ticket, read: impl FnOnce(&[u8]) -> R) -> R;
}

/// Jobs in a full binary tree of `depth` levels below its root.
pub fn tree_size(depth: u32) -> u64 {
    (2 << depth) - 1
}

/// A job's size of its subtree, as the bytes that it delivers.
fn encode(size: u64) -> Vec<u8> {
    size.to_le_bytes().to_vec()
}

fn decode(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}
