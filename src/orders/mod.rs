//! Jobs as data: orders, the catalog that says what they mean, and the queues that keep them.
//!
//! An order goes round like this. A queue hands it out under a lease; who has the lease renews it until there is an outcome,
//! and settles the outcome under the token of the lease. A lease that is not renewed lapses, and the order is handed out
//! again. So an order runs at least once, and is settled at most once: a token that has lapsed settles nothing.

mod catalog;
mod memory;
mod order;
mod queue;
#[cfg(feature = "redis")]
mod redis;
mod serve;
#[cfg(feature = "sqlite")]
mod sqlite;

pub use self::catalog::Catalog;
pub use self::memory::MemoryQueue;
pub use self::order::{DecodeError, Order};
pub use self::queue::{
    DeadLetter, Lease, LeaseToken, OrderQueue, OrderResult, QueueCounts, QueueError, QueueErrorKind, Renewal,
    Settlement, Verdict,
};
#[cfg(feature = "redis")]
pub use self::redis::RedisQueue;
pub use self::serve::{Serve, Serving};
#[cfg(feature = "sqlite")]
pub use self::sqlite::{Durability, SqliteQueue};
