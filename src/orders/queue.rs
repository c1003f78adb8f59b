//! What every queue of orders does.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::order::Order;
use crate::id::JobId;

/// What the result of an order says that was cancelled before it was done.
pub(crate) const CANCELLED: &str = "cancelled";

/// The largest order that a queue takes unless it is told otherwise, in bytes of payload and values.
pub(crate) const DEFAULT_MAX_BYTES: usize = 1024 * 1024;

/// A queue of orders: in memory, in a file, or on a server.
///
/// What makes a queue is the lease. [`lease`](OrderQueue::lease) hands an order out for a while; who has it says now
/// and then that it is alive ([`renew`](OrderQueue::renew)), and in the end what came of it
/// ([`settle`](OrderQueue::settle)). A lease that lapses, because its holder died or hangs, is void: the order goes to
/// the next who asks, and nothing that the old holder says about it counts any more. Hence the promise that all queues
/// give: every order **runs at least once** and is **settled at most once**. There is no promise about the sequence in
/// which orders run, beyond that of [priorities](crate::Priority).
///
/// Producers use [`enqueue`](OrderQueue::enqueue), [`result`](OrderQueue::result) and [`cancel`](OrderQueue::cancel);
/// those who watch over a queue use [`counts`](OrderQueue::counts), [`dead_letters`](OrderQueue::dead_letters) and
/// [`requeue`](OrderQueue::requeue). The rest is what [`Delegator::serve`](crate::Delegator::serve) does for a program,
/// and what an implementation of one's own has to provide. All methods may be called from any thread; each call is
/// atomic.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use workpath::{MemoryQueue, Order, OrderQueue, Settlement, Verdict};
///
/// let queue = MemoryQueue::new();
/// let id = queue.enqueue(Order::new("double").with_payload([21]))?;
/// assert_eq!(queue.counts()?.waiting, 1);
///
/// // What serving does:
/// let lease = queue.lease(1, Duration::from_secs(30), Duration::ZERO)?.remove(0);
/// let answer = vec![lease.order.payload()[0] * 2];
/// queue.settle(vec![Settlement::new(&lease, Verdict::Complete(answer))])?;
///
/// assert_eq!(queue.result(id, Duration::ZERO)?, Some(Ok(vec![42])));
/// # Ok::<(), workpath::QueueError>(())
/// ```
pub trait OrderQueue: Send + Sync + fmt::Debug {
    /// Puts many orders in, in one transaction or round trip where that is possible. One answer for each, in their sequence:
    /// some may be refused and others not. What an answer says is in is in, and stays.
    ///
    /// The answers of a call that failed as a whole all say the same. If the connection broke, such an order may be in
    /// all the same; enqueued again, it is refused as a [`Duplicate`](QueueErrorKind::Duplicate) of itself for as long
    /// as it is in the queue or among its dead letters, unless the queue cannot tell. What makes an order of a dead
    /// letter is [`requeue`](OrderQueue::requeue).
    fn enqueue_all(&self, orders: Vec<Order>) -> Vec<Result<JobId, QueueError>>;

    /// Puts an order in. When this returns `Ok`, it is stored as safely as the queue stores.
    ///
    /// # Errors
    ///
    /// [`Full`](QueueErrorKind::Full), [`Duplicate`](QueueErrorKind::Duplicate) (with the id of the order that is there),
    /// [`TooLarge`](QueueErrorKind::TooLarge), [`Invalid`](QueueErrorKind::Invalid), and those of the store.
    fn enqueue(&self, order: Order) -> Result<JobId, QueueError> {
        let answer = self.enqueue_all(vec![order]).pop();
        answer.unwrap_or_else(|| Err(QueueError::new(QueueErrorKind::Closed, "the queue gave no answer")))
    }

    /// Hands out up to `max` orders that are due, for so long: by priority, then the oldest first. Orders whose lease
    /// has lapsed are due. Waits for the first for up to `wait`, and never for more; an empty list is an answer.
    /// [`wake`](OrderQueue::wake) ends the wait early.
    ///
    /// An order whose lease has lapsed is handed out by a call of its own: if it takes its holder down, no others were
    /// lost with it just because they came along.
    ///
    /// What cannot be read as an order, or is of an unknown version, is not handed out: the queue makes a dead letter of it.
    ///
    /// # Errors
    ///
    /// Those of the store. Nothing is handed out then.
    fn lease(&self, max: usize, lease: Duration, wait: Duration) -> Result<Vec<Lease>, QueueError>;

    /// Prolongs leases to so long from now. One answer for each, in their sequence.
    ///
    /// # Errors
    ///
    /// Those of the store.
    fn renew(&self, leases: &[LeaseToken], lease: Duration) -> Result<Vec<Renewal>, QueueError>;

    /// Says what came of leased orders. For each, in their sequence, `true` if that is now stored, and `false` if the
    /// lease was void: another holder has the order, or it is settled already. After an error the same call may be
    /// repeated; what it had settled before answers `false` then. What somebody has cancelled does not go back to be done
    /// again: it is over, and its result says that it was cancelled.
    ///
    /// # Errors
    ///
    /// Those of the store.
    fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<bool>, QueueError>;

    /// The result of an order, once there is one. Waits for it for up to `wait`; any number of threads may. `None` for
    /// an order that is not settled, that nobody knows, or whose result is not kept (any more).
    ///
    /// # Errors
    ///
    /// Those of the store.
    fn result(&self, id: JobId, wait: Duration) -> Result<Option<OrderResult>, QueueError>;

    /// Cancels an order: one that waits is taken out, and its result says so; of one that runs, the holder learns it
    /// with its next renewal, and its operation is told through its context. `false` if the queue has no such order, or
    /// has it as a dead letter.
    ///
    /// # Errors
    ///
    /// Those of the store.
    fn cancel(&self, id: JobId) -> Result<bool, QueueError>;

    /// How many orders there are of each kind.
    ///
    /// # Errors
    ///
    /// Those of the store.
    fn counts(&self) -> Result<QueueCounts, QueueError>;

    /// The newest dead letters, up to so many, newest first. Queues keep a bounded number of them.
    ///
    /// # Errors
    ///
    /// Those of the store.
    fn dead_letters(&self, max: usize) -> Result<Vec<DeadLetter>, QueueError>;

    /// Makes a dead letter an order again: to be done at once, with all its attempts and without a deadline that has passed.
    /// `false` if there is no such dead letter, or it cannot be read as an order.
    ///
    /// # Errors
    ///
    /// [`Duplicate`](QueueErrorKind::Duplicate) if its unique key is taken by now, and those of the store.
    fn requeue(&self, id: JobId) -> Result<bool, QueueError>;

    /// Ends the waits of [`lease`](OrderQueue::lease) calls that are under way; they answer with an empty list.
    fn wake(&self);
}

macro_rules! forward {
    () => {
        fn enqueue_all(&self, orders: Vec<Order>) -> Vec<Result<JobId, QueueError>> {
            (**self).enqueue_all(orders)
        }
        fn enqueue(&self, order: Order) -> Result<JobId, QueueError> {
            (**self).enqueue(order)
        }
        fn lease(&self, max: usize, lease: Duration, wait: Duration) -> Result<Vec<Lease>, QueueError> {
            (**self).lease(max, lease, wait)
        }
        fn renew(&self, leases: &[LeaseToken], lease: Duration) -> Result<Vec<Renewal>, QueueError> {
            (**self).renew(leases, lease)
        }
        fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<bool>, QueueError> {
            (**self).settle(settlements)
        }
        fn result(&self, id: JobId, wait: Duration) -> Result<Option<OrderResult>, QueueError> {
            (**self).result(id, wait)
        }
        fn cancel(&self, id: JobId) -> Result<bool, QueueError> {
            (**self).cancel(id)
        }
        fn counts(&self) -> Result<QueueCounts, QueueError> {
            (**self).counts()
        }
        fn dead_letters(&self, max: usize) -> Result<Vec<DeadLetter>, QueueError> {
            (**self).dead_letters(max)
        }
        fn requeue(&self, id: JobId) -> Result<bool, QueueError> {
            (**self).requeue(id)
        }
        fn wake(&self) {
            (**self).wake();
        }
    };
}

impl<Q: OrderQueue + ?Sized> OrderQueue for Arc<Q> {
    forward!();
}

/// What an order came to: the bytes that its operation returned, or why there are none.
pub type OrderResult = Result<Vec<u8>, String>;

/// What a lease is known by. Only the queue that gave it knows what the numbers mean.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use workpath::{MemoryQueue, Order, OrderQueue, Renewal};
///
/// let queue = MemoryQueue::new();
/// queue.enqueue(Order::new("work"))?;
/// let lease = queue.lease(1, Duration::from_secs(30), Duration::ZERO)?.remove(0);
/// assert_eq!(queue.renew(&[lease.token], Duration::from_secs(30))?, [Renewal::Held]);
/// # Ok::<(), workpath::QueueError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseToken {
    /// The order.
    pub id: JobId,
    /// Where the queue has it.
    pub place: (u64, u64),
    /// Which of its leases this is, where the place does not tell.
    pub fence: u64,
}

/// An order that was handed out.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use workpath::{MemoryQueue, Order, OrderQueue};
///
/// let queue = MemoryQueue::new();
/// queue.enqueue(Order::new("work"))?;
/// for lease in queue.lease(16, Duration::from_secs(30), Duration::ZERO)? {
///     assert_eq!((lease.order.operation(), lease.failures, lease.deliveries), ("work", 0, 1));
/// }
/// # Ok::<(), workpath::QueueError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Lease {
    /// What is to be done.
    pub order: Order,
    /// To renew and settle by.
    pub token: LeaseToken,
    /// How often it has failed before.
    pub failures: u32,
    /// How often it was handed out since it was put in or has last failed, this time included. More than once: somebody has
    /// lost it.
    pub deliveries: u32,
    /// Somebody has cancelled it: it is not to be run.
    pub cancelled: bool,
}

/// What came of a renewal.
///
/// # Examples
///
/// ```
/// # use workpath::Renewal;
/// assert_ne!(Renewal::Held, Renewal::Lost);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Renewal {
    /// It is prolonged.
    Held,
    /// It is prolonged, and somebody wants the order to stop.
    Cancelled,
    /// It is void.
    Lost,
}

/// What came of a leased order.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use workpath::Verdict;
///
/// let again = Verdict::Retry { error: "no route to host".into(), after: Duration::from_secs(10) };
/// assert_ne!(again, Verdict::Release);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Done, with this result.
    Complete(Vec<u8>),
    /// Failed, and to be tried again after this time: one more failure, and the count of deliveries starts anew.
    Retry {
        /// Why it failed.
        error: String,
        /// How long it waits.
        after: Duration,
    },
    /// Not to be tried again. It becomes a dead letter, and its result is this error.
    Dead(String),
    /// Not to be done any more, as somebody wanted it. Its result is this error, and there is no dead letter.
    Discard(String),
    /// Not started: it goes back to where it was, as if it had never been handed out.
    Release,
}

/// The verdict on a lease.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use workpath::{MemoryQueue, Order, OrderQueue, Settlement, Verdict};
///
/// let queue = MemoryQueue::new();
/// queue.enqueue(Order::new("work"))?;
/// let lease = queue.lease(1, Duration::from_secs(30), Duration::ZERO)?.remove(0);
/// let settlement = Settlement::new(&lease, Verdict::Release);
/// assert_eq!(queue.settle(vec![settlement.clone()])?, [true]);
/// assert_eq!(queue.settle(vec![settlement])?, [false]);
/// # Ok::<(), workpath::QueueError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// The lease.
    pub token: LeaseToken,
    /// What is said about it.
    pub verdict: Verdict,
}

impl Verdict {
    /// What it comes to for an order that somebody has cancelled: that does not go back.
    pub(crate) fn of_cancelled(self) -> Verdict {
        match self {
            Verdict::Retry { .. } | Verdict::Release => Verdict::Discard(CANCELLED.to_owned()),
            other => other,
        }
    }
}

impl Settlement {
    /// What is said about this lease.
    ///
    /// # Examples
    ///
    /// See [`Settlement`].
    pub fn new(lease: &Lease, verdict: Verdict) -> Settlement {
        Settlement { token: lease.token, verdict }
    }
}

/// How many orders a queue has.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use workpath::{MemoryQueue, Order, OrderQueue};
///
/// let queue = MemoryQueue::new();
/// queue.enqueue(Order::new("now"))?;
/// queue.enqueue(Order::new("later").with_delay(Duration::from_secs(60)))?;
/// let counts = queue.counts()?;
/// assert_eq!((counts.waiting, counts.delayed, counts.leased, counts.dead), (1, 1, 0, 0));
/// # Ok::<(), workpath::QueueError>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueCounts {
    /// Due, and not handed out.
    pub waiting: u64,
    /// Not due yet: delayed, or waiting to be tried again.
    pub delayed: u64,
    /// Handed out. Those whose lease has lapsed count here for as long as the queue has not found out.
    pub leased: u64,
    /// Dead letters.
    pub dead: u64,
}

/// An order that nobody will try again, unless it is [requeued](OrderQueue::requeue).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use workpath::{MemoryQueue, Order, OrderQueue, Settlement, Verdict};
///
/// let queue = MemoryQueue::new();
/// let id = queue.enqueue(Order::new("work"))?;
/// let lease = queue.lease(1, Duration::from_secs(30), Duration::ZERO)?.remove(0);
/// queue.settle(vec![Settlement::new(&lease, Verdict::Dead("no such account".into()))])?;
///
/// let letter = queue.dead_letters(10)?.remove(0);
/// assert_eq!((letter.id, &*letter.reason), (id, "no such account"));
/// assert!(queue.requeue(id)?);
/// # Ok::<(), workpath::QueueError>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The order's id.
    pub id: JobId,
    /// The order's operation; empty if that cannot be read.
    pub operation: String,
    /// Why it is dead.
    pub reason: String,
    /// Since when.
    pub died_at: SystemTime,
    /// How often it had failed.
    pub failures: u32,
    /// The order; `None` if it cannot be read by this version.
    pub order: Option<Order>,
}

/// What kind of thing went wrong with a queue.
///
/// # Examples
///
/// ```
/// use workpath::{MemoryQueue, Order, OrderQueue, QueueErrorKind};
///
/// let queue = MemoryQueue::new();
/// let huge = Order::new("store").with_payload(vec![0; 10_000_000]);
/// assert_eq!(queue.enqueue(huge).unwrap_err().kind(), QueueErrorKind::TooLarge);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QueueErrorKind {
    /// There is no room, in the queue or on the disk. It may help to try again later.
    Full,
    /// An order with this id or unique key is in the queue already; [`QueueError::duplicate_of`] is its id. A dead
    /// letter has its id, and no key.
    Duplicate,
    /// The order is larger than the queue takes.
    TooLarge,
    /// Something about the order, the name of the queue or its address is not as it must be.
    Invalid,
    /// The catalog has no operation of this name.
    UnknownOperation,
    /// The store does not answer, or not in time. It may help to try again later.
    Unavailable,
    /// The store refuses: a wrong password, a folder that cannot be written to; or its certificate is not to be trusted.
    Denied,
    /// The store has something in it that this crate did not put there.
    Corrupt,
    /// The store is of a version that this crate does not know.
    Version,
    /// The queue is closed.
    Closed,
}

/// What went wrong with a queue, and with what.
///
/// # Examples
///
/// ```
/// use workpath::{MemoryQueue, Order, OrderQueue};
///
/// let queue = MemoryQueue::new();
/// let first = queue.enqueue(Order::new("sync").with_unique_key("sync 7"))?;
/// let error = queue.enqueue(Order::new("sync").with_unique_key("sync 7")).unwrap_err();
/// assert_eq!(error.duplicate_of(), Some(first));
/// assert!(!error.is_retryable());
/// # Ok::<(), workpath::QueueError>(())
/// ```
#[derive(Debug, Clone)]
pub struct QueueError(Box<Repr>);

#[derive(Debug, Clone)]
struct Repr {
    kind: QueueErrorKind,
    text: String,
    duplicate_of: Option<JobId>,
}

impl QueueError {
    /// An error of this kind, for a queue of one's own. The text says what went wrong, and with what.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{QueueError, QueueErrorKind};
    ///
    /// let error = QueueError::new(QueueErrorKind::Unavailable, "no answer from 10.0.0.7");
    /// assert_eq!(error.to_string(), "no answer from 10.0.0.7");
    /// ```
    pub fn new(kind: QueueErrorKind, text: impl Into<String>) -> QueueError {
        QueueError(Box::new(Repr { kind, text: text.into(), duplicate_of: None }))
    }

    /// An order is there already. `what` is the id or the key that they share.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Order, QueueError};
    ///
    /// let there = Order::new("sync").id();
    /// assert_eq!(QueueError::duplicate(there, "key \"sync 7\"").duplicate_of(), Some(there));
    /// ```
    pub fn duplicate(there: JobId, what: impl fmt::Display) -> QueueError {
        let text = format!("the queue has order {there} with the same {what}");
        QueueError(Box::new(Repr { kind: QueueErrorKind::Duplicate, text, duplicate_of: Some(there) }))
    }

    pub(crate) fn unknown_operation(name: &str) -> QueueError {
        QueueError::new(QueueErrorKind::UnknownOperation, format!("unknown operation {name:?}"))
    }

    /// What kind of thing went wrong.
    ///
    /// # Examples
    ///
    /// See [`QueueErrorKind`].
    pub fn kind(&self) -> QueueErrorKind {
        self.0.kind
    }

    /// The order that is there already, where that is the reason.
    ///
    /// # Examples
    ///
    /// See [`QueueError`].
    pub fn duplicate_of(&self) -> Option<JobId> {
        self.0.duplicate_of
    }

    /// Whether the same call may succeed later.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{QueueError, QueueErrorKind};
    ///
    /// assert!(QueueError::new(QueueErrorKind::Full, "the disk is full").is_retryable());
    /// ```
    pub fn is_retryable(&self) -> bool {
        matches!(self.0.kind, QueueErrorKind::Full | QueueErrorKind::Unavailable)
    }
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl std::error::Error for QueueError {}

impl From<QueueError> for crate::Error {
    fn from(error: QueueError) -> crate::Error {
        crate::Error::new(error)
    }
}

/// Refuses an order that no queue takes, or not this one.
pub(crate) fn check(order: &Order, max_bytes: usize) -> Result<(), QueueError> {
    let names = [("operation", order.operation()), ("unique key", order.unique_key().unwrap_or("-"))];
    let keys = order.values().map(|(key, _)| ("value key", key));
    for (what, name) in names.into_iter().chain(keys) {
        if name.is_empty() || name.len() > Order::MAX_NAME {
            let text = format!(
                "order {}: its {what} has {} bytes, and must have 1 to {}",
                order.id(),
                name.len(),
                Order::MAX_NAME
            );
            return Err(QueueError::new(QueueErrorKind::Invalid, text));
        }
    }
    let values = order.values().map(|(key, value)| key.len() + value.len());
    let size = values.fold(order.payload().len(), usize::saturating_add);
    if size > max_bytes {
        let text = format!(
            "order {} for {:?} has {size} bytes of payload and values, and the queue takes {max_bytes}: store them elsewhere, \
             and put a reference into the order",
            order.id(),
            order.operation()
        );
        return Err(QueueError::new(QueueErrorKind::TooLarge, text));
    }
    Ok(())
}
