//! A queue on a Redis or Valkey server.
//!
//! 1. What changes something is a script (see `lua`), so it is done as a whole, by the server's clock, and in one round
//!    trip.
//! 2. Each call takes a connection that is idle, or opens one. Who waits for orders or results has one to himself.
//! 3. Who waits for orders blocks on a list of wake-ups, and asks for orders in the same breath: the server runs the script
//!    as soon as the wake-up is there. A wake-up may be lost with a process; so nobody waits for more than a few seconds.

mod lua;
mod server;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::redis::{Cmd, Value};
use parking_lot::Mutex;

use self::lua::DAY;
use self::server::{PATIENCE, Server, ask, ask_all};
use super::order::{Order, millis, rank, time};
use super::queue::{
    DEFAULT_MAX_BYTES, DeadLetter, Lease, LeaseToken, OrderQueue, OrderResult, QueueCounts, QueueError,
    QueueErrorKind, Renewal, Settlement, Verdict, check,
};
use crate::clock::{Tick, real_now};
use crate::id::JobId;

/// For how long a call has the server wait.
const SLICE: Duration = Duration::from_secs(5);

/// How many orders a script gets or gives, and how many bytes it gets. The server does nothing else meanwhile.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 4 << 20;

/// The largest result that the server is asked to keep.
const MAX_RESULT: usize = 64 << 20;

/// The longest TTL of a result, in milliseconds: a hundred years.
const MAX_TTL: u64 = 36_500 * DAY;

/// How often consumers that are gone are forgotten.
const SWEEP: Duration = Duration::from_secs(10 * 60);

/// How long a wake-up may take; a server that is not there shall not delay a stop.
const HASTE: Duration = Duration::from_millis(250);

/// A queue of orders on a Redis or Valkey server, for any number of processes and machines. A clone is the same queue.
///
/// The server must be Redis 6.2 or later, or Valkey. All keys of a queue begin with `wp:{NAME}:`, so that it is one slot of
/// a cluster. Leases, and the times at which orders are due or too late, go by the server's clock. A lease lasts a day
/// at most.
///
/// How safely an order is stored is the server's matter: set `appendonly yes`, so that it outlives the server, and
/// `maxmemory-policy noeviction`, so that the server throws nothing away. With `appendfsync everysec` a power cut may take
/// the last second; so may a kill of the server take up to two, if its disk is slow, since it answers before it has written
/// then. `appendfsync always` is the remedy. A failover to a replica loses whatever the replica does not have yet.
/// What is lost like this is lost without a word: an order that was acknowledged may not be there, and one that was settled
/// may run again.
///
/// Calls fail at once when the server is not there, and reconnect by themselves; [`result`](OrderQueue::result) goes on
/// waiting. An answer may be lost with a connection: an order that is enqueued again after an
/// [`Unavailable`](QueueErrorKind::Unavailable) is a [`Duplicate`](QueueErrorKind::Duplicate) of itself if it is in. Each
/// thread that waits for a result or for orders takes up a connection.
///
/// # Examples
///
/// ```no_run
/// use std::time::Duration;
/// use workpath::{Catalog, Delegator, Order, OrderQueue, RedisQueue, Serve};
///
/// // Anywhere:
/// let queue = RedisQueue::connect("redis://:secret@10.0.0.7", "thumbnails")?;
/// let id = queue.enqueue(Order::new("resize").with_payload("cat.jpg"))?;
///
/// // On any number of machines:
/// let catalog = Catalog::new().with("resize", |_, order| Ok(order.payload().to_vec()));
/// let delegator = Delegator::builder().build()?;
/// let serving = delegator.serve(&queue, &catalog, Serve::options())?;
///
/// println!("{:?}", queue.result(id, Duration::from_secs(60))?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct RedisQueue {
    shared: Arc<Shared>,
}

struct Shared {
    server: Server,
    /// This process's name in the groups; no other ever has it.
    consumer: String,
    capacity: usize,
    max_bytes: usize,
    /// How many calls wait for orders.
    waiting: AtomicUsize,
    /// When leases were last looked after, and consumers.
    looked: Mutex<Tick>,
    swept: Mutex<Tick>,
    /// Until when there is nothing to look for, unless the server calls: the last look left nothing.
    quiet: Mutex<Tick>,
}

impl RedisQueue {
    /// How many orders a queue takes unless it is told otherwise.
    pub const DEFAULT_CAPACITY: usize = 100_000;

    /// The queue of this name on this server, which is made if it is not there: for 100,000 orders of up to 1 MiB.
    ///
    /// The address is `redis://[USER:PASSWORD@]HOST[:PORT][/DB]`, `unix:///PATH`, or with the feature `redis-tls`
    /// `rediss://`, for which the system says whom to trust, or the file that the variable `SSL_CERT_FILE` names. In a
    /// cluster it is the node that has the queue. The name has 1 to 200 bytes, without braces and control characters.
    ///
    /// # Errors
    ///
    /// [`Invalid`](QueueErrorKind::Invalid) for the address or the name, or a node of a cluster that does not have the
    /// queue (the text says who has), [`Unavailable`](QueueErrorKind::Unavailable) if nobody answers within 5 seconds,
    /// [`Denied`](QueueErrorKind::Denied) for a wrong password, missing permissions or a certificate of somebody
    /// else's, [`Version`](QueueErrorKind::Version) for a server that is too old, [`Corrupt`](QueueErrorKind::Corrupt)
    /// if something else has the keys. The text names the queue and the server, and never the password.
    pub fn connect(url: &str, name: &str) -> Result<RedisQueue, QueueError> {
        RedisQueue::connect_with(url, name, RedisQueue::DEFAULT_CAPACITY, DEFAULT_MAX_BYTES)
    }

    /// As [`connect`](RedisQueue::connect), for so many orders, waiting, delayed and handed out together, each with so many
    /// bytes of payload and values. Each process chooses for itself what it lets in.
    ///
    /// # Errors
    ///
    /// As [`connect`](RedisQueue::connect).
    pub fn connect_with(
        url: &str,
        name: &str,
        capacity: usize,
        max_bytes: usize,
    ) -> Result<RedisQueue, QueueError> {
        let server = Server::connect(url, name)?;
        let shared = Shared {
            server,
            consumer: format!("{}-{}", std::process::id(), Order::new("").id()),
            capacity,
            max_bytes,
            waiting: AtomicUsize::new(0),
            looked: Mutex::new(Tick::from_bits(0)),
            swept: Mutex::new(Tick::now()),
            quiet: Mutex::new(Tick::from_bits(0)),
        };
        Ok(RedisQueue { shared: Arc::new(shared) })
    }

    fn server(&self) -> &Server {
        &self.shared.server
    }

    fn ask(&self, cmd: &Cmd) -> Result<Value, QueueError> {
        self.server().ask(cmd, Duration::ZERO)
    }

    /// Enqueues orders that have been checked.
    fn put(&self, orders: &[(Order, Vec<u8>)]) -> Result<Vec<Result<JobId, QueueError>>, QueueError> {
        let server = self.server();
        let mut cmd = server.script(&server.scripts.enqueue);
        cmd.arg(self.shared.capacity);
        orders.iter().for_each(|(order, body)| order_args(&mut cmd, order, body));
        let mut again = false;
        let answer = server.with(Duration::ZERO, PATIENCE, |connection, repeated| {
            again = repeated;
            ask(connection, &cmd)
        });
        let answers = list(answer.map_err(|error| server.explain(&error))?);
        if answers.len() != orders.len() {
            return Err(server.mixed_up());
        }
        let read =
            |((order, _), answer): (&(Order, Vec<u8>), Value)| match refusal(order, &text(&answer), server) {
                // It was in, and only the answer was lost.
                Err(error) if again && error.duplicate_of() == Some(order.id()) => Ok(order.id()),
                answer => answer,
            };
        Ok(orders.iter().zip(answers).map(read).collect())
    }

    /// One look for orders, after waiting for a wake-up for so long. Also whether that was a call of `wake`, and how long it
    /// is until there is more.
    fn look(
        &self,
        max: usize,
        lease: Duration,
        block: Duration,
        scan: bool,
    ) -> Result<(Vec<Lease>, bool, Duration), QueueError> {
        let server = self.server();
        let mut script = server.script(&server.scripts.lease);
        script.arg(&self.shared.consumer).arg(max).arg(millis(lease)).arg(if scan { "1" } else { "0" });
        let (wake_up, answer) = if block.is_zero() {
            (Value::Nil, self.ask(&script)?)
        } else {
            let mut wait = ::redis::cmd("BLPOP");
            wait.arg(self.wake_key()).arg(&server.keys[9]).arg(block.as_secs_f64());
            let cmds = [wait, script];
            let answers = server.with(block, PATIENCE, |connection, _| ask_all(connection, &cmds));
            let mut answers = answers.map_err(|error| server.explain(&error))?.into_iter();
            (answers.next().unwrap_or_default(), answers.next().unwrap_or_default())
        };
        let is_woken = list(wake_up).first().is_some_and(|key| text(key) == self.wake_key());
        let [left, old, new @ ..] = <[Value; 5]>::try_from(list(answer)).map_err(|_| server.mixed_up())?;
        let left = u64::try_from(number(&left)).map_or(Duration::MAX, Duration::from_millis);
        let (mut leases, mut unreadable) = (Vec::new(), Vec::new());
        let mut read = |parts: [Value; 8]| {
            let [id, rank, entry, count, failures, deliveries, cancelled, body] = parts;
            let place = text(&entry)
                .split_once('-')
                .and_then(|(ms, seq)| Some((ms.parse().ok()?, seq.parse().ok()?)));
            let (Ok(id), Some(place), Value::BulkString(body)) = (text(&id).parse(), place, body) else {
                return Err(server.mixed_up());
            };
            let fence = whole(number(&count)) << 2 | whole(number(&rank));
            let token = LeaseToken { id, place, fence };
            let small = |number| u32::try_from(number).unwrap_or(u32::MAX);
            match Order::from_bytes(&body) {
                Ok(order) => leases.push(Lease {
                    order,
                    token,
                    failures: small(self::number(&failures)),
                    deliveries: small(self::number(&deliveries)),
                    cancelled: self::number(&cancelled) != 0,
                }),
                Err(error) => {
                    unreadable.push(Settlement { token, verdict: Verdict::Dead(error.to_string()) });
                }
            }
            Ok(())
        };
        groups(old).try_for_each(&mut read)?;
        for (rank, new) in (0..).zip(new) {
            groups(new).try_for_each(|[id, entry, failures, body]| {
                let once = || Value::Int(1);
                read([id, Value::Int(rank), entry, once(), failures, once(), Value::Int(0), body])
            })?;
        }
        leases.sort_by_key(|lease| rank(lease.order.priority()));
        if !unreadable.is_empty() {
            // If this fails, their leases lapse, and somebody else does it.
            let _ = self.settle(unreadable);
        }
        Ok((leases, is_woken, left))
    }

    fn wake_key(&self) -> String {
        self.server().key(&format!("w:{}", self.shared.consumer))
    }

    fn settle_some(&self, settlements: &[Settlement]) -> Result<Vec<bool>, QueueError> {
        let server = self.server();
        let mut cmd = server.script(&server.scripts.settle);
        cmd.arg(&self.shared.consumer);
        let parts = |settlement: &Settlement| {
            let (what, delay) = match &settlement.verdict {
                Verdict::Complete(_) => ("c", 0),
                Verdict::Discard(_) => ("d", 0),
                Verdict::Dead(_) => ("x", 0),
                Verdict::Retry { after, .. } => ("r", millis(*after)),
                Verdict::Release => ("b", 0),
            };
            (what, settlement.token.fence, delay)
        };
        for alike in settlements.chunk_by(|one, other| parts(one) == parts(other)) {
            let (what, fence, delay) = parts(&alike[0]);
            let places = || alike.iter().map(|settlement| settlement.token.place);
            let (first, last) = (places().min().unwrap_or_default(), places().max().unwrap_or_default());
            cmd.arg(what).arg(fence & 3).arg(fence >> 2).arg(delay);
            cmd.arg(entry(first)).arg(entry(last)).arg(alike.len());
            for Settlement { token, verdict } in alike {
                let text: &[u8] = match verdict {
                    Verdict::Complete(payload) => payload,
                    Verdict::Discard(error) | Verdict::Retry { error, .. } => error.as_bytes(),
                    Verdict::Dead(reason) => reason.as_bytes(),
                    Verdict::Release => &[],
                };
                cmd.arg(token.id.to_string()).arg(entry(token.place)).arg(text);
            }
        }
        let answers = list(self.ask(&cmd)?);
        if answers.len() != settlements.len() {
            return Err(server.mixed_up());
        }
        Ok(answers.iter().map(|answer| number(answer) == 1).collect())
    }

    fn find(&self, id: JobId) -> Result<Option<(u64, String, Vec<u8>)>, QueueError> {
        let server = self.server();
        let found = list(self.ask(server.script(&server.scripts.find).arg(id.to_string()))?);
        Ok(match <[Value; 3]>::try_from(found) {
            Ok([now, entry, Value::BulkString(body)]) => Some((whole(number(&now)), text(&entry), body)),
            _ => None,
        })
    }
}

impl OrderQueue for RedisQueue {
    fn enqueue_all(&self, orders: Vec<Order>) -> Vec<Result<JobId, QueueError>> {
        let mut answers: Vec<Option<Result<JobId, QueueError>>> = Vec::with_capacity(orders.len());
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let send = |batch: &mut Vec<(Order, Vec<u8>)>, answers: &mut Vec<Option<_>>| {
            let sent = if batch.is_empty() { Ok(Vec::new()) } else { self.put(batch) };
            let mut sent = sent.unwrap_or_else(|error| vec![Err(error); batch.len()]).into_iter();
            batch.clear();
            answers.iter_mut().filter(|answer| answer.is_none()).for_each(|answer| *answer = sent.next());
        };
        for order in orders {
            match check(&order, self.shared.max_bytes) {
                Ok(()) => {
                    let body = order.to_bytes();
                    bytes += body.len();
                    batch.push((order, body));
                    answers.push(None);
                }
                Err(error) => answers.push(Some(Err(error))),
            }
            if batch.len() == BATCH || bytes >= BATCH_BYTES {
                send(&mut batch, &mut answers);
                bytes = 0;
            }
        }
        send(&mut batch, &mut answers);
        answers.into_iter().flatten().collect()
    }

    fn lease(&self, max: usize, lease: Duration, wait: Duration) -> Result<Vec<Lease>, QueueError> {
        if max == 0 {
            return Ok(Vec::new());
        }
        if lease > Duration::from_millis(DAY) {
            let text = format!("{}: a lease of {lease:?}, and it may be a day at most", self.server().name());
            return Err(QueueError::new(QueueErrorKind::Invalid, text));
        }
        if is_time(&self.shared.swept, SWEEP) {
            let server = self.server();
            self.ask(&server.script(&server.scripts.set_up))?;
        }
        let give_up = real_now().after(wait);
        let max = max.min(BATCH);
        loop {
            let now = real_now();
            let quiet = self.shared.quiet.lock().since(now).unwrap_or_default();
            // Leases that have ended are looked for at once, and not after a wait.
            let scan = is_time(&self.shared.looked, interval(lease));
            let patience = if scan { Duration::ZERO } else { quiet };
            let block = give_up.since(now).unwrap_or_default().min(patience);
            // To the server, no time at all would be for ever.
            let block = if block.is_zero() { block } else { block.max(Duration::from_millis(1)) };
            if !block.is_zero() {
                self.shared.waiting.fetch_add(1, Ordering::SeqCst);
            }
            let looked = self.look(max, lease, block, scan);
            if !block.is_zero() {
                self.shared.waiting.fetch_sub(1, Ordering::SeqCst);
            }
            let (leases, is_woken, left) =
                looked.inspect_err(|_| *self.shared.quiet.lock() = Tick::from_bits(0))?;
            let now = real_now();
            *self.shared.quiet.lock() = now.after(left.min(interval(lease)));
            if !leases.is_empty() || is_woken || give_up <= now {
                return Ok(leases);
            }
        }
    }

    fn renew(&self, leases: &[LeaseToken], lease: Duration) -> Result<Vec<Renewal>, QueueError> {
        let server = self.server();
        let mut renewals = Vec::with_capacity(leases.len());
        for batch in leases.chunks(BATCH) {
            let mut cmd = server.script(&server.scripts.renew);
            cmd.arg(&self.shared.consumer).arg(millis(lease).min(DAY));
            for token in batch {
                cmd.arg(token.fence & 3)
                    .arg(entry(token.place))
                    .arg(token.fence >> 2)
                    .arg(token.id.to_string());
            }
            let answers = list(self.ask(&cmd)?);
            if answers.len() != batch.len() {
                return Err(server.mixed_up());
            }
            renewals.extend(answers.iter().map(|answer| match number(answer) {
                1 => Renewal::Held,
                2 => Renewal::Cancelled,
                _ => Renewal::Lost,
            }));
        }
        Ok(renewals)
    }

    fn settle(&self, mut settlements: Vec<Settlement>) -> Result<Vec<bool>, QueueError> {
        let mut bytes = 0;
        for settlement in &mut settlements {
            if let Verdict::Complete(payload) = &settlement.verdict {
                let size = payload.len();
                if size > MAX_RESULT {
                    let text =
                        format!("its result has {size} bytes, and the queue keeps at most {MAX_RESULT}");
                    settlement.verdict = Verdict::Dead(text);
                }
            }
        }
        let mut answers = Vec::with_capacity(settlements.len());
        let mut from = 0;
        for to in 1..=settlements.len() {
            if let Verdict::Complete(payload) = &settlements[to - 1].verdict {
                bytes += payload.len();
            }
            if to == settlements.len() || to - from == BATCH || bytes >= BATCH_BYTES {
                answers.extend(self.settle_some(&settlements[from..to])?);
                (from, bytes) = (to, 0);
            }
        }
        Ok(answers)
    }

    fn result(&self, id: JobId, wait: Duration) -> Result<Option<OrderResult>, QueueError> {
        let server = self.server();
        let key = server.key(&format!("r:{id}"));
        let give_up = real_now().after(wait);
        let mut pause = Duration::from_millis(20);
        loop {
            let left = give_up.since(real_now()).unwrap_or_default().min(SLICE);
            let answer = if left < Duration::from_millis(1) {
                self.ask(::redis::cmd("LINDEX").arg(&key).arg(-1))
            } else {
                // Putting the last back where it was is a way to wait for it, and leaves the list and its TTL as they are.
                let mut cmd = ::redis::cmd("BLMOVE");
                server.ask(cmd.arg(&key).arg(&key).arg("RIGHT").arg("RIGHT").arg(left.as_secs_f64()), left)
            };
            match answer {
                Ok(Value::BulkString(mut bytes)) => {
                    let sign = bytes.first().copied();
                    let body = bytes.split_off(bytes.len().min(1));
                    return match sign {
                        Some(b'+') => Ok(Some(Ok(body))),
                        Some(b'-') => Ok(Some(Err(String::from_utf8_lossy(&body).into_owned()))),
                        _ => Err(server.mixed_up()),
                    };
                }
                Err(error) if !error.is_retryable() => return Err(error),
                Err(error) => {
                    let Some(left) = give_up.since(real_now()) else { return Err(error) };
                    std::thread::sleep(pause.min(left));
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                Ok(_) if give_up <= real_now() => return Ok(None),
                Ok(_) => {}
            }
        }
    }

    fn cancel(&self, id: JobId) -> Result<bool, QueueError> {
        let server = self.server();
        Ok(number(&self.ask(server.script(&server.scripts.cancel).arg(id.to_string()))?) == 1)
    }

    fn counts(&self) -> Result<QueueCounts, QueueError> {
        let server = self.server();
        let counts = list(self.ask(&server.script(&server.scripts.counts))?);
        let counts = <[Value; 4]>::try_from(counts).map_err(|_| server.mixed_up())?;
        let [waiting, delayed, leased, dead] = counts.map(|count| whole(number(&count)));
        Ok(QueueCounts { waiting, delayed, leased, dead })
    }

    fn dead_letters(&self, max: usize) -> Result<Vec<DeadLetter>, QueueError> {
        if max == 0 {
            return Ok(Vec::new());
        }
        let mut cmd = ::redis::cmd("XREVRANGE");
        let entries =
            list(self.ask(cmd.arg(&self.server().keys[7]).arg("+").arg("-").arg("COUNT").arg(max))?);
        let letter = |entry: Value| {
            let [entry, fields] = <[Value; 2]>::try_from(list(entry)).ok()?;
            let mut fields = list(fields).into_iter();
            let (mut id, mut failures, mut reason, mut order) = (None, 0, String::new(), None);
            while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
                match &*text(&name) {
                    "id" => id = text(&value).parse().ok(),
                    "n" => failures = u32::try_from(number(&value)).unwrap_or(0),
                    "err" => reason = text(&value),
                    "b" => order = bytes(&value).and_then(|body| Order::from_bytes(body).ok()),
                    _ => {}
                }
            }
            let died = text(&entry).split_once('-').and_then(|(ms, _)| ms.parse().ok()).unwrap_or(0);
            Some(DeadLetter {
                id: id.unwrap_or(JobId::from_bytes([0; 16])),
                operation: order.as_ref().map_or("", Order::operation).to_owned(),
                reason,
                died_at: time(died),
                failures,
                order,
            })
        };
        Ok(entries.into_iter().filter_map(letter).collect())
    }

    fn requeue(&self, id: JobId) -> Result<bool, QueueError> {
        let server = self.server();
        let Some((now, entry, body)) = self.find(id)? else { return Ok(false) };
        let Ok(order) = Order::from_bytes(&body) else { return Ok(false) };
        let order = order.revived(now);
        let mut cmd = server.script(&server.scripts.requeue);
        order_args(cmd.arg(entry), &order, &order.to_bytes());
        match list(self.ask(&cmd)?).first() {
            None => Ok(false),
            Some(answer) => refusal(&order, &text(answer), server).map(|_| true),
        }
    }

    fn wake(&self) {
        let waiting = self.shared.waiting.load(Ordering::SeqCst);
        if waiting == 0 {
            return;
        }
        let key = self.wake_key();
        let mut push = ::redis::cmd("RPUSH");
        push.arg(&key).arg(vec!["1"; waiting]);
        let mut expire = ::redis::cmd("PEXPIRE");
        expire.arg(&key).arg(10_000);
        // If the server is not there, nobody waits for long.
        let _ = self.server().with(Duration::ZERO, HASTE, |connection, _| {
            ask_all(connection, &[push.clone(), expire.clone()])
        });
    }
}

impl fmt::Debug for RedisQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisQueue").field("what", &self.server().name()).finish_non_exhaustive()
    }
}

/// How often leases that have ended are looked for.
fn interval(lease: Duration) -> Duration {
    (lease / 3).min(SLICE)
}

/// Whether this was last done so long ago; if so, it is done now.
fn is_time(last: &Mutex<Tick>, interval: Duration) -> bool {
    let (mut last, now) = (last.lock(), real_now());
    let is_time = last.after(interval) <= now;
    if is_time {
        *last = now;
    }
    is_time
}

fn order_args(cmd: &mut Cmd, order: &Order, body: &[u8]) {
    cmd.arg(order.id().to_string())
        .arg(rank(order.priority()))
        .arg(order.not_before_millis())
        .arg(order.result_ttl_millis().min(MAX_TTL))
        .arg(order.deadline_millis())
        .arg(order.unique_key().unwrap_or_default())
        .arg(body);
}

/// An entry, as the server writes it.
fn entry((ms, seq): (u64, u64)) -> String {
    format!("{ms}-{seq}")
}

/// What the answer to an order that was put in means.
fn refusal(order: &Order, answer: &str, server: &Server) -> Result<JobId, QueueError> {
    let rest = answer.get(1..).unwrap_or_default();
    match answer.chars().next() {
        None => Ok(order.id()),
        Some('i') => Err(QueueError::duplicate(order.id(), "id")),
        Some('k') => {
            let there = rest.parse().map_err(|_| server.mixed_up())?;
            let key = order.unique_key().unwrap_or_default();
            Err(QueueError::duplicate(there, format_args!("key {key:?}")))
        }
        Some('f') => {
            let text = format!("{} is full: it has {rest} orders", server.name());
            Err(QueueError::new(QueueErrorKind::Full, text))
        }
        Some(_) => Err(server.mixed_up()),
    }
}

fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(values) => values,
        _ => Vec::new(),
    }
}

/// A list, so many at a time.
fn groups<const N: usize>(values: Value) -> impl Iterator<Item = [Value; N]> {
    let mut values = list(values).into_iter();
    std::iter::from_fn(move || {
        (values.len() >= N).then(|| std::array::from_fn(|_| values.next().unwrap_or_default()))
    })
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

fn text(value: &Value) -> String {
    bytes(value).map(String::from_utf8_lossy).unwrap_or_default().into_owned()
}

/// Numbers come as such, or as texts.
fn number(value: &Value) -> i64 {
    match value {
        Value::Int(number) => *number,
        value => text(value).parse().unwrap_or(-1),
    }
}

/// What is never negative, and counts as nothing if it is.
fn whole(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
