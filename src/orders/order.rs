//! A job as data, and its bytes.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clock::{Tick, WallOffset};
use crate::id::JobId;
use crate::priority::Priority;

/// The version of the encoding that this crate writes.
const VERSION: u8 = 1;

/// The fields, in the order in which they are written. A reader skips those that it does not know.
mod tag {
    pub(super) const ID: u8 = 1;
    pub(super) const OPERATION: u8 = 2;
    pub(super) const CREATED: u8 = 3;
    pub(super) const NOT_BEFORE: u8 = 4;
    pub(super) const DEADLINE: u8 = 5;
    pub(super) const ATTEMPTS: u8 = 6;
    pub(super) const PRIORITY: u8 = 7;
    pub(super) const RESULT_TTL: u8 = 8;
    pub(super) const UNIQUE_KEY: u8 = 9;
    pub(super) const VALUE: u8 = 10;
    pub(super) const PAYLOAD: u8 = 11;
}

/// A priority as it is written: the first to be handed out has the lowest.
pub(super) fn rank(priority: Priority) -> u8 {
    match priority {
        Priority::High => 0,
        Priority::Normal => 1,
        Priority::Low => 2,
    }
}

fn priority_of(rank: u8) -> Priority {
    match rank {
        0 => Priority::High,
        1 => Priority::Normal,
        // A lower one that a later version may know.
        _ => Priority::Low,
    }
}

/// A job as data: the name of an operation in a [`Catalog`](crate::Catalog), and what it needs.
///
/// An order can be stored, sent to another process, and run there, or run here: [`Catalog::job`](crate::Catalog::job)
/// makes the job of it. Its id stays the same however often it is run. It is the key by which an operation can tell
/// that it has done the work before.
///
/// Times are wall-clock times in whole milliseconds, since they must mean something in another process. A clone is cheap: it
/// shares what it has in it until one of the two is changed.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use workpath::Order;
///
/// let order = Order::new("resize")
///     .with_payload("cat.jpg")
///     .with_value("width", "640")
///     .with_timeout(Duration::from_secs(600))
///     .with_attempts(5)
///     .with_unique_key("resize cat.jpg");
/// let stored = order.to_bytes();
/// assert_eq!(Order::from_bytes(&stored)?, order);
/// # Ok::<(), workpath::DecodeError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
#[must_use = "an order does nothing until it is enqueued"]
pub struct Order(Arc<Parts>);

#[derive(Clone, PartialEq, Eq)]
struct Parts {
    id: JobId,
    operation: Cow<'static, str>,
    created: u64,
    /// Zero for at once.
    not_before: u64,
    /// Zero for none.
    deadline: u64,
    attempts: u32,
    priority: Priority,
    result_ttl: u64,
    unique_key: Option<String>,
    values: Vec<(String, Vec<u8>)>,
    payload: Vec<u8>,
}

impl Order {
    /// How often an order is tried unless it says otherwise.
    pub const DEFAULT_ATTEMPTS: u32 = 25;

    /// How long the result of an order is kept unless it says otherwise.
    pub const DEFAULT_RESULT_TTL: Duration = Duration::from_secs(24 * 60 * 60);

    /// The longest operation name, unique key and value key that a queue takes, in bytes.
    pub const MAX_NAME: usize = 1024;

    /// An order for this operation, with a new id: no payload, no values, no deadline, to be done at once.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::Order;
    ///
    /// assert_eq!(Order::new("vacuum").operation(), "vacuum");
    /// ```
    pub fn new(operation: impl Into<Cow<'static, str>>) -> Order {
        let now = Tick::now();
        let created = WallOffset::current(now).unix_millis(now);
        Order(Arc::new(Parts {
            id: JobId::next(created),
            operation: operation.into(),
            created,
            not_before: 0,
            deadline: 0,
            attempts: Order::DEFAULT_ATTEMPTS,
            priority: Priority::Normal,
            result_ttl: millis(Order::DEFAULT_RESULT_TTL),
            unique_key: None,
            values: Vec::new(),
            payload: Vec::new(),
        }))
    }

    fn parts(&mut self) -> &mut Parts {
        Arc::make_mut(&mut self.0)
    }

    /// Gives the order this payload. A second call replaces it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Order;
    /// assert_eq!(Order::new("resize").with_payload("cat.jpg").payload(), b"cat.jpg");
    /// ```
    pub fn with_payload(mut self, payload: impl Into<Vec<u8>>) -> Order {
        self.parts().payload = payload.into();
        self
    }

    /// Gives the order a value. The operation sees it as `ctx.value::<Vec<u8>>(key)` and through [`value`](Order::value). A
    /// second value under the same key replaces the first.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Order;
    /// assert_eq!(Order::new("resize").with_value("width", "640").value("width"), Some(&b"640"[..]));
    /// ```
    pub fn with_value(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Order {
        let (key, value) = (key.into(), value.into());
        let values = &mut self.parts().values;
        match values.iter_mut().find(|(known, _)| *known == key) {
            Some((_, old)) => *old = value,
            None => values.push((key, value)),
        }
        self
    }

    /// Gives the order this much time from now, waiting and retries included. The earliest deadline wins;
    /// [`Duration::MAX`] is no limit.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// # use workpath::Order;
    /// assert!(Order::new("fetch").with_timeout(Duration::from_secs(5)).deadline().is_some());
    /// assert!(Order::new("fetch").with_timeout(Duration::MAX).deadline().is_none());
    /// ```
    pub fn with_timeout(self, timeout: Duration) -> Order {
        let deadline = unix_now().saturating_add(millis(timeout));
        self.limit(deadline)
    }

    /// Gives the order time until then. The earliest deadline wins. After it, the order is not started any more, and
    /// one that runs is told through its context.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// # use workpath::Order;
    /// let midnight = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_800);
    /// assert_eq!(Order::new("report").with_deadline(midnight).deadline(), Some(midnight));
    /// ```
    pub fn with_deadline(self, deadline: SystemTime) -> Order {
        self.limit(unix_millis(deadline).max(1))
    }

    fn limit(mut self, deadline: u64) -> Order {
        if deadline < u64::MAX && (self.0.deadline == 0 || deadline < self.0.deadline) {
            self.parts().deadline = deadline;
        }
        self
    }

    /// Has the order wait this long from now before it is handed out. A second call replaces the first.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// # use workpath::Order;
    /// assert!(Order::new("remind").with_delay(Duration::from_secs(3600)).not_before().is_some());
    /// ```
    pub fn with_delay(mut self, delay: Duration) -> Order {
        self.parts().not_before = unix_now().saturating_add(millis(delay));
        self
    }

    /// Has the order wait until then before it is handed out. A second call replaces the first.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// # use workpath::Order;
    /// let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_800);
    /// assert_eq!(Order::new("remind").with_not_before(then).not_before(), Some(then));
    /// ```
    pub fn with_not_before(mut self, time: SystemTime) -> Order {
        self.parts().not_before = unix_millis(time);
        self
    }

    /// How often the order may fail before it becomes a dead letter; zero counts as one. Runs that end with their
    /// process are counted apart: see [`Serve::max_deliveries`](crate::Serve::max_deliveries).
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Order;
    /// assert_eq!(Order::new("charge").with_attempts(1).attempts(), 1);
    /// ```
    pub fn with_attempts(mut self, attempts: u32) -> Order {
        self.parts().attempts = attempts.max(1);
        self
    }

    /// Says which of the orders that wait is handed out first: one of the highest priority, and of those the oldest.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Order, Priority};
    /// assert_eq!(Order::new("thumbnail").with_priority(Priority::Low).priority(), Priority::Low);
    /// ```
    pub fn with_priority(mut self, priority: Priority) -> Order {
        self.parts().priority = priority;
        self
    }

    /// Makes the order the only one of its queue with this key for as long as it is not settled: a second one is
    /// refused with the id of the first ([`QueueErrorKind::Duplicate`](crate::QueueErrorKind::Duplicate)).
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Order;
    /// assert_eq!(Order::new("sync").with_unique_key("sync 7").unique_key(), Some("sync 7"));
    /// ```
    pub fn with_unique_key(mut self, key: impl Into<String>) -> Order {
        self.parts().unique_key = Some(key.into());
        self
    }

    /// How long the queue keeps the result; zero for not at all.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// # use workpath::Order;
    /// assert_eq!(Order::new("log").with_result_ttl(Duration::ZERO).result_ttl(), Duration::ZERO);
    /// ```
    pub fn with_result_ttl(mut self, ttl: Duration) -> Order {
        self.parts().result_ttl = millis(ttl);
        self
    }

    /// The identity, the same at every attempt: the idempotency key.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Order;
    /// assert!(Order::new("first").id() < Order::new("second").id());
    /// ```
    pub fn id(&self) -> JobId {
        self.0.id
    }

    /// The name of the operation.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Order;
    /// assert_eq!(Order::new("resize").operation(), "resize");
    /// ```
    pub fn operation(&self) -> &str {
        &self.0.operation
    }

    /// The payload; empty unless given.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Order;
    /// assert!(Order::new("vacuum").payload().is_empty());
    /// ```
    pub fn payload(&self) -> &[u8] {
        &self.0.payload
    }

    /// The value with this key.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Order;
    /// assert_eq!(Order::new("vacuum").value("width"), None);
    /// ```
    pub fn value(&self, key: &str) -> Option<&[u8]> {
        self.0.values.iter().find(|(known, _)| known == key).map(|(_, value)| &**value)
    }

    /// All values, in the order in which they were given.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Order;
    /// let order = Order::new("resize").with_value("width", "640").with_value("height", "480");
    /// assert_eq!(order.values().map(|(key, _)| key).collect::<Vec<_>>(), ["width", "height"]);
    /// ```
    pub fn values(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.values.iter().map(|(key, value)| (&**key, &**value))
    }

    /// When the order was made.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Order;
    /// assert!(Order::new("resize").created_at() > std::time::SystemTime::UNIX_EPOCH);
    /// ```
    pub fn created_at(&self) -> SystemTime {
        time(self.0.created)
    }

    /// The earliest of the deadlines.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Order;
    /// assert_eq!(Order::new("resize").deadline(), None);
    /// ```
    pub fn deadline(&self) -> Option<SystemTime> {
        (self.0.deadline != 0).then(|| time(self.0.deadline))
    }

    /// When the order may be handed out, if that was given.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Order;
    /// assert_eq!(Order::new("resize").not_before(), None);
    /// ```
    pub fn not_before(&self) -> Option<SystemTime> {
        (self.0.not_before != 0).then(|| time(self.0.not_before))
    }

    /// How often the order may fail.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Order;
    /// assert_eq!(Order::new("resize").attempts(), Order::DEFAULT_ATTEMPTS);
    /// ```
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }

    /// The priority.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::{Order, Priority};
    /// assert_eq!(Order::new("resize").priority(), Priority::Normal);
    /// ```
    pub fn priority(&self) -> Priority {
        self.0.priority
    }

    /// How long the result is kept.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Order;
    /// assert_eq!(Order::new("resize").result_ttl(), Order::DEFAULT_RESULT_TTL);
    /// ```
    pub fn result_ttl(&self) -> Duration {
        Duration::from_millis(self.0.result_ttl)
    }

    /// The unique key, if it has one.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Order;
    /// assert_eq!(Order::new("resize").unique_key(), None);
    /// ```
    pub fn unique_key(&self) -> Option<&str> {
        self.0.unique_key.as_deref()
    }

    /// The order of a dead letter, to be done now.
    pub(crate) fn revived(mut self, now: u64) -> Order {
        self.parts().not_before = 0;
        if self.0.deadline <= now {
            self.parts().deadline = 0;
        }
        self
    }

    /// The name of the operation, without a copy where it is a constant.
    pub(crate) fn name(&self) -> Cow<'static, str> {
        self.0.operation.clone()
    }

    /// Milliseconds since 1970; zero for none.
    pub(crate) fn deadline_millis(&self) -> u64 {
        self.0.deadline
    }

    /// Milliseconds since 1970; zero for at once.
    pub(crate) fn not_before_millis(&self) -> u64 {
        self.0.not_before
    }

    pub(crate) fn result_ttl_millis(&self) -> u64 {
        self.0.result_ttl
    }

    /// The order as bytes.
    ///
    /// A version byte, which is 1, then fields: a tag of one byte, a length of four, and so many bytes, little-endian.
    /// The tags, in the order in which they are written: 1 id (16 bytes), 2 operation, 3 created, 4 not before, 5
    /// deadline (8 bytes each, milliseconds since 1970), 6 attempts (4), 7 priority (1), 8 result TTL (8,
    /// milliseconds), 9 unique key, 10 a value (two bytes of length, the key, the value), 11 payload. What an order
    /// does not have is left out.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Order;
    /// assert_eq!(Order::new("resize").to_bytes()[0], 1);
    /// ```
    pub fn to_bytes(&self) -> Vec<u8> {
        let values: usize = self.0.values.iter().map(|(key, value)| key.len() + value.len() + 7).sum();
        let key = self.0.unique_key.as_ref().map_or(0, String::len);
        let mut bytes = Vec::with_capacity(96 + self.0.operation.len() + key + values + self.0.payload.len());
        bytes.push(VERSION);
        put(&mut bytes, tag::ID, &[uuid::Uuid::from(self.0.id).as_bytes()]);
        put(&mut bytes, tag::OPERATION, &[self.0.operation.as_bytes()]);
        put(&mut bytes, tag::CREATED, &[&self.0.created.to_le_bytes()]);
        for (tag, time) in [(tag::NOT_BEFORE, self.0.not_before), (tag::DEADLINE, self.0.deadline)] {
            if time != 0 {
                put(&mut bytes, tag, &[&time.to_le_bytes()]);
            }
        }
        put(&mut bytes, tag::ATTEMPTS, &[&self.0.attempts.to_le_bytes()]);
        put(&mut bytes, tag::PRIORITY, &[&[rank(self.0.priority)]]);
        put(&mut bytes, tag::RESULT_TTL, &[&self.0.result_ttl.to_le_bytes()]);
        if let Some(key) = &self.0.unique_key {
            put(&mut bytes, tag::UNIQUE_KEY, &[key.as_bytes()]);
        }
        for (key, value) in &self.0.values {
            // No queue takes a key that is too long for its length.
            let length = u16::try_from(key.len()).unwrap_or(u16::MAX);
            let key = &key.as_bytes()[..length.into()];
            put(&mut bytes, tag::VALUE, &[&length.to_le_bytes(), key, value]);
        }
        if !self.0.payload.is_empty() {
            put(&mut bytes, tag::PAYLOAD, &[&self.0.payload]);
        }
        bytes
    }

    /// The order that [`to_bytes`](Order::to_bytes) made these of. Fields that this version does not know are skipped.
    ///
    /// # Errors
    ///
    /// A version other than 1, fields that do not fit, or an order without an id or an operation.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Order;
    /// let error = Order::from_bytes(&[2, 0, 0]).unwrap_err();
    /// assert_eq!(error.unknown_version(), Some(2));
    /// ```
    pub fn from_bytes(bytes: &[u8]) -> Result<Order, DecodeError> {
        let (&version, mut rest) = bytes.split_first().ok_or(DecodeError::Malformed("it is empty"))?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        let (mut id, mut operation) = (None, None);
        let mut order = Parts {
            id: JobId::from_bytes([0; 16]),
            operation: Cow::Borrowed(""),
            created: 0,
            not_before: 0,
            deadline: 0,
            attempts: Order::DEFAULT_ATTEMPTS,
            priority: Priority::Normal,
            result_ttl: millis(Order::DEFAULT_RESULT_TTL),
            unique_key: None,
            values: Vec::new(),
            payload: Vec::new(),
        };
        while let Some((&tag, behind)) = rest.split_first() {
            let (length, behind) = split::<4>(behind)?;
            let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
            let (field, behind) = behind.split_at_checked(length).ok_or(DecodeError::CUT)?;
            rest = behind;
            match tag {
                tag::ID => id = Some(JobId::from_bytes(fixed(field)?)),
                tag::OPERATION => operation = Some(Cow::Owned(text(field)?)),
                tag::CREATED => order.created = u64::from_le_bytes(fixed(field)?),
                tag::NOT_BEFORE => order.not_before = u64::from_le_bytes(fixed(field)?),
                tag::DEADLINE => order.deadline = u64::from_le_bytes(fixed(field)?),
                tag::ATTEMPTS => order.attempts = u32::from_le_bytes(fixed(field)?).max(1),
                tag::PRIORITY => order.priority = priority_of(fixed::<1>(field)?[0]),
                tag::RESULT_TTL => order.result_ttl = u64::from_le_bytes(fixed(field)?),
                tag::UNIQUE_KEY => order.unique_key = Some(text(field)?),
                tag::VALUE => {
                    let (length, field) = split::<2>(field)?;
                    let length = u16::from_le_bytes(length).into();
                    let (key, value) = field.split_at_checked(length).ok_or(DecodeError::CUT)?;
                    order.values.push((text(key)?, value.to_vec()));
                }
                tag::PAYLOAD => order.payload = field.to_vec(),
                _ => {}
            }
        }
        order.id = id.ok_or(DecodeError::Malformed("it has no id"))?;
        order.operation = operation.ok_or(DecodeError::Malformed("it has no operation"))?;
        Ok(Order(Arc::new(order)))
    }
}

impl fmt::Debug for Order {
    /// Lengths in place of contents, which may be large and are nobody's business.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&str> = self.0.values.iter().map(|(key, _)| &**key).collect();
        f.debug_struct("Order")
            .field("id", &self.0.id)
            .field("operation", &self.0.operation)
            .field("priority", &self.0.priority)
            .field("attempts", &self.0.attempts)
            .field("unique_key", &self.0.unique_key)
            .field("values", &keys)
            .field("payload_len", &self.0.payload.len())
            .finish_non_exhaustive()
    }
}

/// Why bytes are not an [`Order`].
///
/// # Examples
///
/// ```
/// use workpath::Order;
///
/// let error = Order::from_bytes(b"").unwrap_err();
/// assert_eq!(error.to_string(), "not an order: it is empty");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// It is of a version that this crate does not know.
    Version(u8),
    /// It is no order at all, or part of one.
    Malformed(&'static str),
}

impl DecodeError {
    const CUT: DecodeError = DecodeError::Malformed("it ends in the middle of a field");

    /// The version, if that is the reason.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Order;
    /// assert_eq!(Order::from_bytes(b"").unwrap_err().unknown_version(), None);
    /// ```
    pub fn unknown_version(&self) -> Option<u8> {
        match self {
            DecodeError::Version(version) => Some(*version),
            DecodeError::Malformed(_) => None,
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Version(version) => write!(f, "an order of the unknown version {version}"),
            DecodeError::Malformed(why) => write!(f, "not an order: {why}"),
        }
    }
}

impl std::error::Error for DecodeError {}

fn put(bytes: &mut Vec<u8>, tag: u8, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    bytes.push(tag);
    // No queue takes four gigabytes.
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
}

fn split<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), DecodeError> {
    bytes.split_first_chunk::<N>().map(|(head, rest)| (*head, rest)).ok_or(DecodeError::CUT)
}

fn fixed<const N: usize>(field: &[u8]) -> Result<[u8; N], DecodeError> {
    field.try_into().map_err(|_| DecodeError::Malformed("a field has the wrong length"))
}

fn text(field: &[u8]) -> Result<String, DecodeError> {
    String::from_utf8(field.to_vec()).map_err(|_| DecodeError::Malformed("a text is not UTF-8"))
}

/// Now, in milliseconds since 1970, by the wall clock itself.
pub(crate) fn unix_now() -> u64 {
    unix_millis(SystemTime::now())
}

/// A time before 1970 counts as 1970.
pub(crate) fn unix_millis(time: SystemTime) -> u64 {
    millis(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn time(unix_millis: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(unix_millis)).unwrap_or(UNIX_EPOCH)
}
