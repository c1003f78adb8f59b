//! A queue in one SQLite file.
//!
//! 1. One thread, the writer, has the connection and its statements. It takes the calls that have come, does them in
//!    one transaction, and answers them when that is committed: so many share the price of a commit. Who waits looks
//!    for the answer a while before it sleeps, and so does the writer for calls, since waking a thread costs as much as
//!    an order. Where a commit takes long, it gives those whom it has just answered a moment to come again: so all of
//!    them share the next one too. While transactions follow each other, what the writer sees of the file is held from
//!    one to the next, since nearly half of the system calls of a small transaction are for that; whether another
//!    process has written meanwhile, SQLite says.
//! 2. A lease is a row's state, its end, and a fence that grows with each. Ends of leases are told by a clock that
//!    nobody sets; times that users give, by the wall clock.
//! 3. A row's number is made of its order's id (see [`number_of`]), so orders need no index by their ids; and those
//!    that are to be handed out in the sequence of their numbers need none at all. Others, as the delayed and the dead,
//!    have negative numbers, and are found by indexes that only they are in.
//! 4. Each process that has the file open holds a shared lock on a file beside it. Who can have that lock alone, when
//!    it opens the queue, knows that all leases are of the dead.

#![expect(clippy::incompatible_msrv, reason = "the feature needs a newer compiler than the crate")]

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, Rows, Statement, params};

use super::memory::MAX_DEAD;
use super::order::{Order, millis, rank, time, unix_now};
use super::queue::{
    CANCELLED, DEFAULT_MAX_BYTES, DeadLetter, Lease, LeaseToken, OrderQueue, OrderResult, QueueCounts,
    QueueError, QueueErrorKind, Renewal, Settlement, Verdict, check,
};
use crate::clock::Tick;
use crate::id::JobId;
use crate::priority::Priority;

/// The version of the tables, kept in the file's `user_version`.
const VERSION: i64 = 1;

/// How many calls share a transaction.
const GROUP: usize = 256;

/// For how long transactions follow each other before the file is let go of: then the log can be moved into it.
const BURST: Duration = Duration::from_millis(5);

/// How long the writer and those who call it look for each other before they sleep.
const PATIENCE: Duration = Duration::from_micros(50);

/// The part of the time of a commit that the writer waits for those who have shared it.
const PAUSE: u32 = 8;

/// How often who waits for an order or a result looks whether another process has brought one.
const LOOK: Duration = Duration::from_millis(250);

/// How often results that are too old are deleted.
const SWEEP: Duration = Duration::from_secs(60);

/// How long a process waits for another that has the file.
const BUSY: Duration = Duration::from_secs(10);

/// How often the bound counts what other processes have put in.
const RECOUNT: Duration = Duration::from_secs(1);

/// How many orders may have ids that make the same number.
const SLOTS: i64 = 8;

const WAITING: i64 = 0;
const DELAYED: i64 = 1;
const LEASED: i64 = 2;
const DEAD: i64 = 3;

const SCHEMA: &str = "
CREATE TABLE orders(
    seq INTEGER PRIMARY KEY, id BLOB NOT NULL, operation TEXT NOT NULL,
    state INTEGER NOT NULL, priority INTEGER NOT NULL, due INTEGER NOT NULL, deadline INTEGER NOT NULL,
    attempts INTEGER NOT NULL, failures INTEGER NOT NULL, deliveries INTEGER NOT NULL, fence INTEGER NOT NULL,
    cancelled INTEGER NOT NULL, result_ttl INTEGER NOT NULL, unique_key TEXT, error TEXT, body BLOB NOT NULL);
CREATE UNIQUE INDEX orders_key ON orders(unique_key) WHERE unique_key IS NOT NULL AND state < 3;
CREATE INDEX orders_special ON orders(priority, seq) WHERE state = 0 AND seq < 0;
CREATE INDEX orders_delayed ON orders(due) WHERE state = 1;
CREATE INDEX orders_leased ON orders(due) WHERE state = 2;
CREATE INDEX orders_dead ON orders(due, seq) WHERE state = 3;
CREATE TABLE results(id BLOB PRIMARY KEY, expires INTEGER NOT NULL, ok INTEGER NOT NULL, body BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX results_expire ON results(expires);
CREATE VIEW queue AS SELECT lower(hex(id)) AS id, operation,
    CASE state WHEN 0 THEN 'waiting' WHEN 1 THEN 'delayed' WHEN 2 THEN 'leased' ELSE 'dead' END AS state,
    priority, datetime(due / 1000, 'unixepoch') AS due, failures, attempts, deliveries, unique_key, error,
    length(body) AS bytes FROM orders;
";

/// What a stored order survives.
///
/// # Examples
///
/// ```
/// assert_eq!(workpath::Durability::default(), workpath::Durability::Process);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Durability {
    /// The end of the process, in whatever way. A power cut, or a crash of the operating system, may take the last moments
    /// before it: the file is whole then, and as it was a little earlier.
    #[default]
    Process,
    /// A power cut too, if the disk keeps what it says that it has written. Every commit waits for the disk.
    Power,
}

/// A queue of orders in one SQLite file, which outlives the process. A clone is the same queue.
///
/// The file belongs to one process at a time; others may open it too, to enqueue, to look, or to serve. Beside it there are
/// SQLite's `-wal` and `-shm`, and a `-lock` by which processes know of each other. Put it on a local disk: locks on network
/// file systems cannot be relied upon. `sqlite3 FILE 'SELECT * FROM queue'` shows what is in it.
///
/// What an `Ok` has said survives a `kill -9` at any instant; for power cuts see [`Durability`]. When the last process
/// that had the file open is gone, the next that opens it takes over its orders at once; otherwise when their leases lapse.
///
/// A thread of its own writes to the file; it ends with the last clone, whose drop waits for it. A queue is not for use
/// on both sides of a `fork`: the child has no such thread, and has to open the file anew.
///
/// # Examples
///
/// ```
/// use workpath::{Order, OrderQueue, SqliteQueue};
///
/// # let folder = std::env::temp_dir().join(format!("workpath-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// let path = folder.join("orders.db");
/// let queue = SqliteQueue::open(&path)?;
/// queue.enqueue(Order::new("resize").with_payload("cat.jpg"))?;
/// drop(queue);
///
/// let queue = SqliteQueue::open(&path)?; // a day later
/// assert_eq!(queue.counts()?.waiting, 1);
/// # drop(queue);
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct SqliteQueue {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    max_bytes: usize,
    /// How long who calls looks for the answer.
    patience: Duration,
    /// Both gone only when this is dropped.
    requests: Option<Sender<Request>>,
    writer: Option<JoinHandle<()>>,
    news: Arc<News>,
}

impl Drop for Shared {
    /// The writer ends when it has done what was asked of it.
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// For those who wait for orders and results.
#[derive(Default)]
struct News {
    counts: Mutex<(u64, u64)>,
    changed: Condvar,
}

impl News {
    /// How often orders or results may have come, and `wake` was called.
    fn seen(&self) -> (u64, u64) {
        *self.counts.lock()
    }

    fn tell(&self, news: u64, woken: u64) {
        let mut counts = self.counts.lock();
        counts.0 = counts.0.wrapping_add(news);
        counts.1 = counts.1.wrapping_add(woken);
        self.changed.notify_all();
    }

    /// Waits until there may be something new. `false` if somebody was woken, or the time is over.
    fn wait(&self, seen: (u64, u64), give_up: Tick) -> bool {
        let mut counts = self.counts.lock();
        let look = Tick::now().after(LOOK);
        while *counts == seen {
            let now = Tick::now();
            let Some(left) = look.min(give_up).since(now) else { return give_up > now };
            self.changed.wait_for(&mut counts, left);
        }
        counts.1 == seen.1
    }
}

/// A call, and who waits for its answer.
struct Request {
    call: Option<Call>,
    reply: Arc<Reply>,
}

struct Reply {
    caller: Thread,
    ready: AtomicBool,
    answer: Mutex<Option<Result<Answer, QueueError>>>,
}

impl Request {
    /// Whether it may bring something for those who wait.
    fn is_news(&self) -> bool {
        matches!(self.call, Some(Call::Enqueue(_) | Call::Settle(_) | Call::Requeue(_) | Call::Cancel(_)))
    }

    fn answer(&self, answer: Result<Answer, QueueError>) {
        *self.reply.answer.lock() = Some(answer);
        self.reply.ready.store(true, Ordering::Release);
        self.reply.caller.unpark();
    }
}

impl Drop for Request {
    /// A writer that panics answers all the same.
    fn drop(&mut self) {
        if !self.reply.ready.load(Ordering::Relaxed) {
            self.answer(Err(closed()));
        }
    }
}

fn closed() -> QueueError {
    QueueError::new(QueueErrorKind::Closed, "the queue has closed: its writer ended with a panic")
}

/// Looks for something for so long, and lets other threads work meanwhile.
fn look_for<T>(patience: Duration, mut there: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        for _ in 0..32 {
            if let Some(found) = there() {
                return Some(found);
            }
            std::hint::spin_loop();
        }
        if started.elapsed() >= patience {
            return None;
        }
        thread::yield_now();
    }
}

enum Call {
    Enqueue(Vec<(Order, Vec<u8>)>),
    Lease(usize, Duration),
    Renew(Vec<LeaseToken>, Duration),
    Settle(Vec<Settlement>),
    Result(JobId),
    Cancel(JobId),
    Counts,
    DeadLetters(usize),
    Requeue(JobId),
    #[cfg(test)]
    Panic,
}

enum Answer {
    Enqueued(Vec<Result<JobId, QueueError>>),
    Leased(Vec<Lease>),
    Renewed(Vec<Renewal>),
    Settled(Vec<bool>),
    Result(Option<OrderResult>),
    Yes(bool),
    Counts(QueueCounts),
    DeadLetters(Vec<DeadLetter>),
    Refused(QueueError),
}

struct Store<'db> {
    db: &'db Connection,
    /// By the addresses of their texts.
    statements: HashMap<(*const u8, usize), Statement<'db>>,
    path: PathBuf,
    capacity: usize,
    /// Whether every commit does.
    waits_for_disk: bool,
    /// What the clock of leases is read from.
    opened: (u64, Instant),
    swept: Option<Instant>,
    tally: Option<Tally>,
}

/// How many orders there are, dead letters apart.
#[derive(Clone, Copy)]
struct Tally {
    orders: u64,
    /// The state of the file that this holds for, and when all were counted.
    version: i64,
    counted: Instant,
}

impl SqliteQueue {
    /// Opens the queue in this file, or makes it, with [`Durability::Process`].
    ///
    /// # Errors
    ///
    /// [`Denied`](QueueErrorKind::Denied) if it cannot be opened or written to, [`Corrupt`](QueueErrorKind::Corrupt) if
    /// it is something else or damaged, [`Version`](QueueErrorKind::Version) if a later version of this crate made it.
    /// The text names the file.
    pub fn open(path: impl AsRef<Path>) -> Result<SqliteQueue, QueueError> {
        SqliteQueue::open_with(path, Durability::Process, usize::MAX, DEFAULT_MAX_BYTES)
    }

    /// Opens the queue in this file, or makes it, with this durability, for so many orders (waiting, delayed and handed
    /// out together) of up to so many bytes of payload and values. [`open`](SqliteQueue::open) allows any number, and 1
    /// MiB. Each process chooses for itself; what other processes have put in is counted once a second.
    ///
    /// # Errors
    ///
    /// As [`open`](SqliteQueue::open).
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Durability, Order, OrderQueue, QueueErrorKind, SqliteQueue};
    ///
    /// # let folder = std::env::temp_dir().join(format!("workpath-doc-open-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder)?;
    /// # let path = folder.join("orders.db");
    /// let queue = SqliteQueue::open_with(&path, Durability::Power, 1, 1024)?;
    /// queue.enqueue(Order::new("first"))?;
    /// assert_eq!(queue.enqueue(Order::new("second")).unwrap_err().kind(), QueueErrorKind::Full);
    /// # drop(queue);
    /// # std::fs::remove_dir_all(&folder)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open_with(
        path: impl AsRef<Path>,
        durability: Durability,
        capacity: usize,
        max_bytes: usize,
    ) -> Result<SqliteQueue, QueueError> {
        let path = path.as_ref().to_owned();
        let (db, lock) = open(&path, durability)?;
        let (requests, calls) = bounded(4 * GROUP);
        let news = Arc::new(News::default());
        let told = Arc::clone(&news);
        let written = path.clone();
        let waits_for_disk = durability == Durability::Power;
        let writer = move || {
            let _lock = lock;
            Store::new(&db, written, waits_for_disk, capacity).work(&calls, &told);
        };
        let writer =
            thread::Builder::new().name("workpath-sqlite".into()).spawn(writer).map_err(|error| {
                let text = format!("the queue {}: no thread can be started for it: {error}", path.display());
                QueueError::new(QueueErrorKind::Unavailable, text)
            })?;
        // The disk takes longer than it takes to be woken.
        let patience = if waits_for_disk { Duration::ZERO } else { PATIENCE };
        let shared =
            Shared { path, max_bytes, patience, requests: Some(requests), writer: Some(writer), news };
        Ok(SqliteQueue { shared: Arc::new(shared) })
    }

    /// Has the writer do a call.
    fn call(&self, call: Call) -> Result<Answer, QueueError> {
        let caller = thread::current();
        let reply = Arc::new(Reply { caller, ready: AtomicBool::new(false), answer: Mutex::default() });
        let request = Request { call: Some(call), reply: Arc::clone(&reply) };
        let requests = self.shared.requests.as_ref().ok_or_else(closed)?;
        drop(requests.send(request));
        let is_ready = || reply.ready.load(Ordering::Acquire).then_some(());
        if look_for(self.shared.patience, is_ready).is_none() {
            // A channel may keep what it got while its receiver went away.
            let is_gone = || self.shared.writer.as_ref().is_none_or(JoinHandle::is_finished);
            while is_ready().is_none() {
                if is_gone() && is_ready().is_none() {
                    return Err(closed());
                }
                thread::park_timeout(LOOK);
            }
        }
        match reply.answer.lock().take().unwrap_or_else(|| Err(closed()))? {
            Answer::Refused(error) => Err(error),
            answer => Ok(answer),
        }
    }
}

/// For answers that are of another kind than the call, which do not happen.
fn mixed_up<T>() -> Result<T, QueueError> {
    Err(QueueError::new(QueueErrorKind::Closed, "the queue gave no answer"))
}

impl OrderQueue for SqliteQueue {
    fn enqueue_all(&self, orders: Vec<Order>) -> Vec<Result<JobId, QueueError>> {
        let count = orders.len();
        let mut refused = Vec::new();
        let mut accepted = Vec::with_capacity(count);
        for (index, order) in orders.into_iter().enumerate() {
            match check(&order, self.shared.max_bytes) {
                Ok(()) => {
                    let body = order.to_bytes();
                    accepted.push((order, body));
                }
                Err(error) => refused.push((index, error)),
            }
        }
        let sent = accepted.len();
        let mut answers = match self.call(Call::Enqueue(accepted)) {
            Ok(Answer::Enqueued(answers)) => answers,
            Ok(_) => vec![mixed_up(); sent],
            Err(error) => vec![Err(error); sent],
        };
        for (index, error) in refused {
            answers.insert(index, Err(error));
        }
        answers
    }

    fn lease(&self, max: usize, lease: Duration, wait: Duration) -> Result<Vec<Lease>, QueueError> {
        let give_up = Tick::now().after(wait);
        loop {
            let seen = self.shared.news.seen();
            let Answer::Leased(leases) = self.call(Call::Lease(max, lease))? else { return mixed_up() };
            if !leases.is_empty() || max == 0 || !self.shared.news.wait(seen, give_up) {
                return Ok(leases);
            }
        }
    }

    fn renew(&self, leases: &[LeaseToken], lease: Duration) -> Result<Vec<Renewal>, QueueError> {
        match self.call(Call::Renew(leases.to_vec(), lease))? {
            Answer::Renewed(renewals) => Ok(renewals),
            _ => mixed_up(),
        }
    }

    fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<bool>, QueueError> {
        match self.call(Call::Settle(settlements))? {
            Answer::Settled(answers) => Ok(answers),
            _ => mixed_up(),
        }
    }

    fn result(&self, id: JobId, wait: Duration) -> Result<Option<OrderResult>, QueueError> {
        let give_up = Tick::now().after(wait);
        loop {
            let seen = self.shared.news.seen();
            let Answer::Result(result) = self.call(Call::Result(id))? else { return mixed_up() };
            // To be woken is for those who wait for orders.
            if result.is_some() || (!self.shared.news.wait(seen, give_up) && give_up <= Tick::now()) {
                return Ok(result);
            }
        }
    }

    fn cancel(&self, id: JobId) -> Result<bool, QueueError> {
        match self.call(Call::Cancel(id))? {
            Answer::Yes(yes) => Ok(yes),
            _ => mixed_up(),
        }
    }

    fn counts(&self) -> Result<QueueCounts, QueueError> {
        match self.call(Call::Counts)? {
            Answer::Counts(counts) => Ok(counts),
            _ => mixed_up(),
        }
    }

    fn dead_letters(&self, max: usize) -> Result<Vec<DeadLetter>, QueueError> {
        match self.call(Call::DeadLetters(max))? {
            Answer::DeadLetters(letters) => Ok(letters),
            _ => mixed_up(),
        }
    }

    fn requeue(&self, id: JobId) -> Result<bool, QueueError> {
        match self.call(Call::Requeue(id))? {
            Answer::Yes(yes) => Ok(yes),
            _ => mixed_up(),
        }
    }

    fn wake(&self) {
        self.shared.news.tell(0, 1);
    }
}

impl fmt::Debug for SqliteQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteQueue").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

type Sql<T> = Result<T, rusqlite::Error>;

/// The connection, and the lock that is held for as long as the queue is open.
fn open(path: &Path, durability: Durability) -> Result<(Connection, File), QueueError> {
    let error = |error| explain(path, &error);
    let mut beside = path.as_os_str().to_owned();
    beside.push("-lock");
    let denied = |what: &dyn fmt::Display| {
        QueueError::new(
            QueueErrorKind::Denied,
            format!("the queue {}: its lock file: {what}", path.display()),
        )
    };
    let lock = File::options().create(true).truncate(false).write(true).open(&beside);
    let lock = lock.map_err(|error| denied(&error))?;
    let is_alone = match lock.try_lock() {
        Ok(()) => true,
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(error)) => return Err(denied(&error)),
    };
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(error)?;
    db.busy_timeout(BUSY).map_err(error)?;
    let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(error)?;
    if !(0..=VERSION).contains(&version) {
        let text = format!("the queue {} is of version {version}; this is for {VERSION}", path.display());
        return Err(QueueError::new(QueueErrorKind::Version, text));
    }
    // An order is small, and every commit writes whole pages. A file that exists keeps what it has.
    db.execute_batch("PRAGMA page_size = 1024").map_err(error)?;
    let mode: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(error)?;
    if mode != "wal" {
        let text = format!("the queue {}: its file system allows no write-ahead log", path.display());
        return Err(QueueError::new(QueueErrorKind::Denied, text));
    }
    let synchronous = match durability {
        Durability::Process => "PRAGMA synchronous = NORMAL",
        Durability::Power => "PRAGMA synchronous = FULL",
    };
    db.execute_batch(synchronous).map_err(error)?;
    // Moving the log into the file waits for the disk, in every mode; so it is done seldom.
    db.execute_batch("PRAGMA wal_autocheckpoint = 8000").map_err(error)?;
    prepare(&db, path)?;
    if is_alone {
        // All leases are of processes that are gone.
        db.execute("UPDATE orders SET state = 0 WHERE state = 2", []).map_err(error)?;
        lock.unlock().map_err(|error| denied(&error))?;
    }
    lock.lock_shared().map_err(|error| denied(&error))?;
    Ok((db, lock))
}

/// Makes the tables, if there are none.
fn prepare(db: &Connection, path: &Path) -> Result<(), QueueError> {
    let error = |error| explain(path, &error);
    db.execute_batch("BEGIN IMMEDIATE").map_err(error)?;
    // Another process may have made them meanwhile.
    let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(error)?;
    if version == 0 {
        let tables: i64 =
            db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(error)?;
        if tables > 0 {
            let text = format!("{} is an SQLite file, but not a queue", path.display());
            return Err(QueueError::new(QueueErrorKind::Corrupt, text));
        }
        db.execute_batch(SCHEMA).map_err(error)?;
        db.execute_batch(&format!("PRAGMA user_version = {VERSION}")).map_err(error)?;
    }
    db.execute_batch("COMMIT").map_err(error)
}

/// The first of the numbers that the row of an order with this id may have.
///
/// The ids that this crate makes begin with a time in milliseconds (48 bits), 4 bits that are the same in all, and the
/// number of the id within the millisecond (12 bits, 10 more behind the 2 bits of the variant); then comes what tells
/// processes apart. Of these, the number has 42 bits of the time, 12 of the number, 6 of all that is left, and 3 zeros:
/// there is room for eight orders whose ids have these in common, and rows are in the sequence in which their orders
/// were made.
fn number_of(id: JobId) -> i64 {
    let bits = uuid::Uuid::from(id).as_u128();
    let part = |from: u32, length: u32| (bits >> from) as u64 & ((1 << length) - 1);
    let (time, number) = (part(80, 48), part(64, 12) << 10 | part(52, 10));
    let rest = part(0, 52) ^ number >> 12 ^ time >> 42;
    let rest = rest.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58;
    ((time << 21 | (number & 0xfff) << 9 | rest << 3) & i64::MAX.cast_unsigned()).cast_signed()
}

/// The same number, among the special ones.
fn special(seq: i64) -> i64 {
    seq | i64::MIN
}

impl<'db> Store<'db> {
    fn new(db: &'db Connection, path: PathBuf, waits_for_disk: bool, capacity: usize) -> Store<'db> {
        let (statements, opened) = (HashMap::new(), (unix_now(), Instant::now()));
        Store { db, statements, path, waits_for_disk, capacity, opened, swept: None, tally: None }
    }

    /// Does calls until nobody can make any more.
    fn work(&mut self, calls: &Receiver<Request>, news: &News) {
        // A file that this cannot be prepared for is not held; what is wrong with it, the calls are told.
        let mut view = self.db.prepare("SELECT 1 FROM sqlite_schema").ok();
        let mut group = Vec::new();
        loop {
            if group.is_empty() {
                let Ok(first) = calls.recv() else { return };
                group.push(first);
                group.extend(calls.try_iter().take(GROUP - 1));
            }
            group = self.burst(group, calls, news, view.as_mut());
        }
    }

    /// Does one group of calls after the other while they come, and holds what it sees of the file. Returns those that
    /// are to be done when that is let go of.
    fn burst(
        &mut self,
        mut group: Vec<Request>,
        calls: &Receiver<Request>,
        news: &News,
        mut view: Option<&mut Statement<'_>>,
    ) -> Vec<Request> {
        let mut held = None;
        let started = Instant::now();
        for done in 0.. {
            let begun = self.begin();
            if held.is_some() && begun.as_ref().is_err_and(is_busy) {
                // Another process writes, or has written; it is waited for with empty hands.
                return group;
            }
            // The first commits without: then SQLite can move the log into the file, if it has grown long.
            if done == 1 && begun.is_ok() {
                held = view.take().and_then(hold);
            }
            let is_news = group.iter().any(Request::is_news);
            let begun_at = Instant::now();
            let answers = match self.transact(begun, &mut group) {
                Ok(answers) => answers,
                Err(error) => {
                    group.iter().for_each(|request| request.answer(Err(error.clone())));
                    return Vec::new();
                }
            };
            let pause = if self.waits_for_disk { begun_at.elapsed() / PAUSE } else { Duration::ZERO };
            let expected = (group.len() + calls.len()).min(GROUP);
            for (request, answer) in group.iter().zip(answers) {
                request.answer(Ok(answer));
            }
            if is_news {
                news.tell(1, 0);
            }
            group = gather(calls, expected, pause);
            if group.is_empty() || started.elapsed() >= BURST {
                break;
            }
        }
        group
    }

    /// The statement with this text.
    fn sql(&mut self, text: &'static str) -> Sql<&mut Statement<'db>> {
        match self.statements.entry((text.as_ptr(), text.len())) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(new) => Ok(new.insert(self.db.prepare(text)?)),
        }
    }

    /// Now, by a clock that goes on evenly: for leases.
    fn steady_now(&self) -> u64 {
        self.opened.0.saturating_add(millis(self.opened.1.elapsed()))
    }

    fn begin(&mut self) -> Sql<()> {
        self.sql("BEGIN IMMEDIATE")?.execute([]).map(drop)
    }

    /// Does these calls, or none of them.
    fn transact(&mut self, begun: Sql<()>, group: &mut [Request]) -> Result<Vec<Answer>, QueueError> {
        begun.and_then(|()| self.try_transact(group)).map_err(|error| {
            // Some errors have rolled back already.
            let _ = self.db.execute_batch("ROLLBACK");
            self.tally = None;
            explain(&self.path, &error)
        })
    }

    fn try_transact(&mut self, group: &mut [Request]) -> Sql<Vec<Answer>> {
        let calls = group.iter_mut().filter_map(|request| request.call.take());
        let answers = calls.map(|call| self.answer(call)).collect::<Sql<Vec<_>>>()?;
        if self.swept.is_none_or(|swept| swept.elapsed() >= SWEEP) {
            self.sweep()?;
            self.swept = Some(Instant::now());
        }
        self.sql("COMMIT")?.execute([])?;
        Ok(answers)
    }

    /// How many orders there are. What another process has changed is counted if the last time is so long ago.
    fn orders(&mut self, recount: Duration) -> Sql<u64> {
        let version = self.sql("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
        if let Some(tally) = self.tally {
            if tally.version == version || tally.counted.elapsed() < recount {
                return Ok(tally.orders);
            }
        }
        let count = |row: &Row<'_>| row.get::<_, i64>(0);
        let all = self.sql("SELECT count(*) FROM orders")?.query_row([], count)?;
        let dead = self.sql("SELECT count(*) FROM orders WHERE state = 3")?.query_row([], count)?;
        let orders = (all - dead).cast_unsigned();
        self.tally = Some(Tally { orders, version, counted: Instant::now() });
        Ok(orders)
    }

    fn orders_came(&mut self) {
        self.tally.iter_mut().for_each(|tally| tally.orders += 1);
    }

    fn orders_went(&mut self) {
        self.tally.iter_mut().for_each(|tally| tally.orders = tally.orders.saturating_sub(1));
    }

    fn answer(&mut self, call: Call) -> Sql<Answer> {
        let now = unix_now();
        Ok(match call {
            Call::Enqueue(orders) => {
                let enqueue = |(order, body): &(Order, Vec<u8>)| self.enqueue(order, body, now);
                Answer::Enqueued(orders.iter().map(enqueue).collect::<Sql<_>>()?)
            }
            Call::Lease(max, lease) => Answer::Leased(self.lease(max, lease, now)?),
            Call::Renew(tokens, lease) => {
                let until = stored(self.steady_now().saturating_add(millis(lease)));
                let renew = |token: &LeaseToken| self.renew(*token, until);
                Answer::Renewed(tokens.iter().map(renew).collect::<Sql<_>>()?)
            }
            Call::Settle(settlements) => {
                let settle = |settlement| self.settle(settlement, now);
                Answer::Settled(settlements.into_iter().map(settle).collect::<Sql<_>>()?)
            }
            Call::Result(id) => Answer::Result(self.result(id, now)?),
            Call::Cancel(id) => Answer::Yes(self.cancel(id, now)?),
            Call::Counts => Answer::Counts(self.counts(now)?),
            Call::DeadLetters(max) => Answer::DeadLetters(self.dead_letters(max)?),
            Call::Requeue(id) => return self.requeue(id, now),
            #[cfg(test)]
            Call::Panic => panic!("on purpose"),
        })
    }

    /// The rows with ids that make the same number as this: whether one is of this order, and the first place that is free.
    fn places(&mut self, id: JobId) -> Sql<(Option<i64>, Option<i64>)> {
        let number = number_of(id);
        let select = self.sql(
            "SELECT seq, id FROM orders WHERE seq BETWEEN ?1 AND ?2 \
             UNION ALL SELECT seq, id FROM orders WHERE seq BETWEEN ?3 AND ?4",
        )?;
        let last = number + (SLOTS - 1);
        let mut rows = select.query([number, last, special(number), special(last)])?;
        let (mut own, mut taken) = (None, 0_u32);
        while let Some(row) = rows.next()? {
            let seq: i64 = row.get(0)?;
            if row.get::<_, [u8; 16]>(1)? == *uuid::Uuid::from(id).as_bytes() {
                own = Some(seq);
            }
            taken |= 1 << (seq & (SLOTS - 1));
        }
        let free = i64::from(taken.trailing_ones());
        Ok((own, (free < SLOTS).then_some(number + free)))
    }

    fn enqueue(&mut self, order: &Order, body: &[u8], now: u64) -> Sql<Result<JobId, QueueError>> {
        let id = order.id();
        let due = order.not_before_millis();
        let seq = match self.places(id)? {
            (Some(_), _) => return Ok(Err(QueueError::duplicate(id, "id"))),
            (None, None) => {
                let text = format!("the queue {} has no place for the id {id}", self.path.display());
                return Ok(Err(QueueError::new(QueueErrorKind::Full, text)));
            }
            (None, Some(seq)) => seq,
        };
        if self.capacity < usize::MAX {
            let there = self.orders(RECOUNT)?;
            if there >= self.capacity as u64 {
                let text = format!("the queue {} is full: it has {there} orders", self.path.display());
                return Ok(Err(QueueError::new(QueueErrorKind::Full, text)));
            }
        }
        let is_plain = due <= now && order.priority() == Priority::Normal;
        let inserted = self
            .sql(
                "INSERT INTO orders(seq, id, operation, state, priority, due, deadline, attempts, failures, deliveries, fence, \
                 cancelled, result_ttl, unique_key, body) \
                 VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0, 0, ?9, 0, ?10, ?11, ?12) ON CONFLICT DO NOTHING",
            )?
            .execute(params![
                if is_plain { seq } else { special(seq) },
                uuid::Uuid::from(id).as_bytes(),
                order.operation(),
                if due > now { DELAYED } else { WAITING },
                i64::from(rank(order.priority())),
                stored(due),
                stored(order.deadline_millis()),
                order.attempts(),
                // The number of a row may come again, when the last one is gone; its fence does not.
                stored(now.saturating_mul(1000)),
                stored(order.result_ttl_millis()),
                order.unique_key(),
                body,
            ])?;
        if inserted > 0 {
            self.orders_came();
            return Ok(Ok(id));
        }
        let there = self.with_key(order.unique_key())?.unwrap_or(id);
        let key = order.unique_key().unwrap_or_default();
        Ok(Err(QueueError::duplicate(there, format_args!("key {key:?}"))))
    }

    fn with_key(&mut self, key: Option<&str>) -> Sql<Option<JobId>> {
        self.sql("SELECT id FROM orders WHERE unique_key = ?1 AND unique_key IS NOT NULL AND state < 3")?
            .query_row([key], |row| Ok(JobId::from_bytes(row.get(0)?)))
            .optional()
    }

    fn lease(&mut self, max: usize, lease: Duration, now: u64) -> Sql<Vec<Lease>> {
        let steady = self.steady_now();
        self.sql("UPDATE orders SET state = 0 WHERE state = 1 AND due <= ?1")?.execute([stored(now)])?;
        self.sql("UPDATE orders SET state = 0 WHERE state = 2 AND due <= ?1")?.execute([stored(steady)])?;
        let until = stored(steady.saturating_add(millis(lease)));
        let mut leases = Vec::new();
        let by_rank = [
            "SELECT seq, id, failures, deliveries, fence, cancelled, body FROM orders \
             WHERE state = 0 AND seq < 0 AND priority < 2 ORDER BY priority, seq LIMIT ?1",
            "SELECT seq, id, failures, deliveries, fence, cancelled, body FROM orders NOT INDEXED \
             WHERE state = 0 AND seq >= 0 ORDER BY seq LIMIT ?1",
            "SELECT seq, id, failures, deliveries, fence, cancelled, body FROM orders \
             WHERE state = 0 AND seq < 0 AND priority >= 2 ORDER BY priority, seq LIMIT ?1",
        ];
        for select in by_rank {
            let left = i64::try_from(max - leases.len()).unwrap_or(i64::MAX);
            if left == 0 {
                break;
            }
            let rows = self.sql(select)?.query_map([left], Found::read)?.collect::<Sql<Vec<_>>>()?;
            for row in rows {
                if row.deliveries > 0 && !leases.is_empty() {
                    return Ok(leases);
                }
                let is_lost = row.deliveries > 0;
                leases.extend(self.hand_out(row, until, now)?);
                if is_lost && !leases.is_empty() {
                    return Ok(leases);
                }
            }
        }
        Ok(leases)
    }

    /// Leases what was found, or buries what is no order.
    fn hand_out(&mut self, row: Found, until: i64, now: u64) -> Sql<Option<Lease>> {
        let Found { seq, id, failures, deliveries, fence, cancelled, body } = row;
        let order = match Order::from_bytes(&body) {
            Ok(order) => order,
            Err(error) => {
                self.bury(seq, failures, &error.to_string(), now)?;
                return Ok(None);
            }
        };
        let (fence, deliveries) = (fence.wrapping_add(1), deliveries.saturating_add(1));
        self.sql("UPDATE orders SET state = 2, due = ?2, deliveries = ?3, fence = ?4 WHERE seq = ?1")?
            .execute(params![seq, until, deliveries, fence])?;
        let token = LeaseToken {
            id: JobId::from_bytes(id),
            place: (seq.cast_unsigned(), 0),
            fence: fence.cast_unsigned(),
        };
        Ok(Some(Lease { order, token, failures, deliveries, cancelled }))
    }

    fn bury(&mut self, seq: i64, failures: u32, reason: &str, now: u64) -> Sql<()> {
        self.sql(
            "UPDATE orders SET seq = ?5, state = 3, due = ?2, failures = ?3, error = ?4 WHERE seq = ?1",
        )?
        .execute(params![seq, stored(now), failures, reason, special(seq)])?;
        self.orders_went();
        Ok(())
    }

    fn renew(&mut self, token: LeaseToken, until: i64) -> Sql<Renewal> {
        let (seq, fence, id) = held_by(&token);
        let cancelled = self
            .sql(
                "UPDATE orders SET due = ?4 WHERE seq = ?1 AND fence = ?2 AND id = ?3 AND state = 2 RETURNING cancelled",
            )?
            .query_row(params![seq, fence, id, until], |row| row.get(0))
            .optional()?;
        Ok(match cancelled {
            None => Renewal::Lost,
            Some(true) => Renewal::Cancelled,
            Some(false) => Renewal::Held,
        })
    }

    fn settle(&mut self, settlement: Settlement, now: u64) -> Sql<bool> {
        let Settlement { token, verdict } = settlement;
        let (seq, fence, id) = held_by(&token);
        let held: Option<(u32, i64, bool)> = self
            .sql(
                "SELECT failures, result_ttl, cancelled FROM orders \
                 WHERE seq = ?1 AND fence = ?2 AND id = ?3 AND state = 2",
            )?
            .query_row(params![seq, fence, id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let Some((failures, ttl, cancelled)) = held else { return Ok(false) };
        let verdict = if cancelled { verdict.of_cancelled() } else { verdict };
        match verdict {
            Verdict::Complete(payload) => {
                self.delete(seq)?;
                self.keep(token.id, ttl, true, &payload, now)?;
            }
            Verdict::Discard(error) => {
                self.delete(seq)?;
                self.keep(token.id, ttl, false, error.as_bytes(), now)?;
            }
            Verdict::Dead(reason) => {
                self.bury(seq, failures.saturating_add(1), &reason, now)?;
                self.keep(token.id, ttl, false, reason.as_bytes(), now)?;
            }
            Verdict::Retry { error, after } => {
                self.sql(
                    "UPDATE orders SET seq = ?4, state = 1, due = ?2, failures = failures + 1, deliveries = 0, error = ?3 \
                     WHERE seq = ?1",
                )?
                .execute(params![seq, stored(now.saturating_add(millis(after))), error, special(seq)])?;
            }
            Verdict::Release => {
                self.sql("UPDATE orders SET state = 0, deliveries = max(0, deliveries - 1) WHERE seq = ?1")?
                    .execute([seq])?;
            }
        }
        Ok(true)
    }

    fn delete(&mut self, seq: i64) -> Sql<()> {
        self.sql("DELETE FROM orders WHERE seq = ?1")?.execute([seq])?;
        self.orders_went();
        Ok(())
    }

    fn keep(&mut self, id: JobId, ttl: i64, ok: bool, body: &[u8], now: u64) -> Sql<()> {
        if ttl > 0 {
            let expires = stored(now).saturating_add(ttl);
            self.sql("INSERT OR REPLACE INTO results(id, expires, ok, body) VALUES(?1, ?2, ?3, ?4)")?
                .execute(params![uuid::Uuid::from(id).as_bytes(), expires, ok, body])?;
        }
        Ok(())
    }

    fn result(&mut self, id: JobId, now: u64) -> Sql<Option<OrderResult>> {
        self.sql("SELECT ok, body FROM results WHERE id = ?1 AND expires > ?2")?
            .query_row(params![uuid::Uuid::from(id).as_bytes(), stored(now)], |row| {
                let (ok, body): (bool, Vec<u8>) = (row.get(0)?, row.get(1)?);
                Ok(if ok { Ok(body) } else { Err(String::from_utf8_lossy(&body).into_owned()) })
            })
            .optional()
    }

    fn cancel(&mut self, id: JobId, now: u64) -> Sql<bool> {
        let Some(seq) = self.places(id)?.0 else { return Ok(false) };
        let select = self.sql("SELECT state, result_ttl FROM orders WHERE seq = ?1")?;
        let (state, ttl): (i64, i64) = select.query_row([seq], |row| Ok((row.get(0)?, row.get(1)?)))?;
        match state {
            DEAD => return Ok(false),
            LEASED => drop(self.sql("UPDATE orders SET cancelled = 1 WHERE seq = ?1")?.execute([seq])?),
            _ => {
                self.delete(seq)?;
                self.keep(id, ttl, false, CANCELLED.as_bytes(), now)?;
            }
        }
        Ok(true)
    }

    fn counts(&mut self, now: u64) -> Sql<QueueCounts> {
        let orders = self.orders(Duration::ZERO)?;
        let mut count = |text, upto: u64| -> Sql<u64> {
            let count: i64 = self.sql(text)?.query_row([stored(upto)], |row| row.get(0))?;
            Ok(count.cast_unsigned())
        };
        let (delayed, leased) = (
            count("SELECT count(*) FROM orders WHERE state = 1 AND due > ?1", now)?,
            count("SELECT count(*) FROM orders WHERE state = 2 AND due <= ?1", u64::MAX)?,
        );
        let dead = count("SELECT count(*) FROM orders WHERE state = 3 AND due <= ?1", u64::MAX)?;
        Ok(QueueCounts { waiting: orders.saturating_sub(delayed + leased), delayed, leased, dead })
    }

    fn dead_letters(&mut self, max: usize) -> Sql<Vec<DeadLetter>> {
        self.sql(
            "SELECT id, operation, error, due, failures, body FROM orders WHERE state = 3 \
             ORDER BY due DESC, seq DESC LIMIT ?1",
        )?
        .query_map([i64::try_from(max).unwrap_or(i64::MAX)], |row| {
            let (died, body): (i64, Vec<u8>) = (row.get(3)?, row.get(5)?);
            Ok(DeadLetter {
                id: JobId::from_bytes(row.get(0)?),
                operation: row.get(1)?,
                reason: row.get::<_, Option<String>>(2)?.unwrap_or_default(),
                died_at: time(u64::try_from(died).unwrap_or(0)),
                failures: row.get(4)?,
                order: Order::from_bytes(&body).ok(),
            })
        })?
        .collect()
    }

    fn requeue(&mut self, id: JobId, now: u64) -> Sql<Answer> {
        let Some(seq) = self.places(id)?.0 else { return Ok(Answer::Yes(false)) };
        let select = self.sql("SELECT body FROM orders WHERE seq = ?1 AND state = 3")?;
        let body: Option<Vec<u8>> = select.query_row([seq], |row| row.get(0)).optional()?;
        let Some(order) = body.and_then(|body| Order::from_bytes(&body).ok()) else {
            return Ok(Answer::Yes(false));
        };
        let order = order.revived(now);
        if let (Some(key), Some(there)) = (order.unique_key(), self.with_key(order.unique_key())?) {
            return Ok(Answer::Refused(QueueError::duplicate(there, format_args!("key {key:?}"))));
        }
        self.sql(
            "UPDATE orders SET state = 0, due = 0, deadline = ?2, failures = 0, deliveries = 0, cancelled = 0, \
             error = NULL, body = ?3 WHERE seq = ?1",
        )?
        .execute(params![seq, stored(order.deadline_millis()), order.to_bytes()])?;
        self.orders_came();
        self.sql("DELETE FROM results WHERE id = ?1")?.execute([uuid::Uuid::from(id).as_bytes()])?;
        Ok(Answer::Yes(true))
    }

    /// Deletes results that are too old, and dead letters that are too many.
    fn sweep(&mut self) -> Sql<()> {
        self.sql("DELETE FROM results WHERE expires <= ?1")?.execute([stored(unix_now())])?;
        self.sql(
            "DELETE FROM orders WHERE seq IN (SELECT seq FROM orders WHERE state = 3 \
             ORDER BY due DESC, seq DESC LIMIT -1 OFFSET ?1)",
        )?
        .execute([i64::try_from(MAX_DEAD).unwrap_or(i64::MAX)])?;
        Ok(())
    }
}

/// Keeps a read under way, and with it what the connection sees of the file.
fn hold<'view>(view: &'view mut Statement<'_>) -> Option<Rows<'view>> {
    let mut rows = view.query([]).ok()?;
    rows.next().ok()??;
    Some(rows)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}

/// The calls that come next, of which so many are expected; none if nobody calls for a while.
fn gather(calls: &Receiver<Request>, expected: usize, pause: Duration) -> Vec<Request> {
    let mut group: Vec<Request> = look_for(PATIENCE, || calls.try_recv().ok()).into_iter().collect();
    if !group.is_empty() {
        if expected > 1 {
            look_for(pause, || (calls.len() + 1 >= expected).then_some(()));
        }
        group.extend(calls.try_iter().take(GROUP - 1));
    }
    group
}

/// A row that may be handed out.
struct Found {
    seq: i64,
    id: [u8; 16],
    failures: u32,
    deliveries: u32,
    fence: i64,
    cancelled: bool,
    body: Vec<u8>,
}

impl Found {
    fn read(row: &Row<'_>) -> Sql<Found> {
        Ok(Found {
            seq: row.get(0)?,
            id: row.get(1)?,
            failures: row.get(2)?,
            deliveries: row.get(3)?,
            fence: row.get(4)?,
            cancelled: row.get(5)?,
            body: row.get(6)?,
        })
    }
}

/// The number, the fence and the id that a leased row must have.
fn held_by(token: &LeaseToken) -> (i64, i64, [u8; 16]) {
    (token.place.0.cast_signed(), token.fence.cast_signed(), *uuid::Uuid::from(token.id).as_bytes())
}

/// Times and durations as SQLite has them.
fn stored(millis: u64) -> i64 {
    i64::try_from(millis).unwrap_or(i64::MAX)
}

fn explain(path: &Path, error: &rusqlite::Error) -> QueueError {
    let kind = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => QueueErrorKind::Full,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => QueueErrorKind::Corrupt,
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            QueueErrorKind::Denied
        }
        Some(_) => QueueErrorKind::Unavailable,
        // A column of the wrong type, which somebody else has put there.
        None => QueueErrorKind::Corrupt,
    };
    QueueError::new(kind, format!("the queue {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("workpath-unit-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn a_writer_that_is_gone_is_an_error_for_all_who_call() {
        let folder = folder("gone");
        let queue = SqliteQueue::open(folder.join("orders.db")).unwrap();
        queue.enqueue(Order::new("work")).unwrap();
        for _ in 0..2 {
            assert_eq!(queue.call(Call::Panic).err().unwrap().kind(), QueueErrorKind::Closed);
        }
        assert_eq!(queue.enqueue(Order::new("more")).unwrap_err().kind(), QueueErrorKind::Closed);
        drop(queue);
        // What was in is in.
        let queue = SqliteQueue::open(folder.join("orders.db")).unwrap();
        assert_eq!(queue.counts().unwrap().waiting, 1);
        drop(queue);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn orders_whose_ids_make_the_same_number_live_side_by_side() {
        let folder = folder("places");
        let queue = SqliteQueue::open(folder.join("orders.db")).unwrap();
        let wanted = number_of(JobId::from_bytes([9; 16]));
        let candidates = (0..=u16::MAX).map(|n| {
            let mut bytes = [9; 16];
            bytes[14..].copy_from_slice(&n.to_be_bytes());
            JobId::from_bytes(bytes)
        });
        let mut ids: Vec<JobId> = candidates.clone().filter(|id| number_of(*id) == wanted).take(9).collect();
        let order = |id: JobId| {
            let mut bytes = vec![1, 1, 16, 0, 0, 0];
            bytes.extend(uuid::Uuid::from(id).as_bytes());
            bytes.extend([2, 1, 0, 0, 0, b'x']);
            Order::from_bytes(&bytes).unwrap()
        };
        // Neighbours take no places of theirs.
        let neighbours = candidates.clone().filter(|id| [wanted - 8, wanted + 8].contains(&number_of(*id)));
        let neighbours: Vec<JobId> = neighbours.take(4).collect();
        assert_eq!(neighbours.len(), 4);
        for id in &neighbours {
            queue.enqueue(order(*id).with_delay(Duration::from_secs(1000))).unwrap();
        }
        for (n, id) in ids.iter().enumerate().take(8) {
            let delay = Duration::from_secs(n as u64 % 2 * 1000);
            assert_eq!(queue.enqueue(order(*id).with_delay(delay)).unwrap(), *id);
            assert_eq!(queue.enqueue(order(*id)).unwrap_err().duplicate_of(), Some(*id));
        }
        let ninth = ids.pop().unwrap();
        assert_eq!(queue.enqueue(order(ninth)).unwrap_err().kind(), QueueErrorKind::Full);
        assert!(!queue.cancel(ninth).unwrap() && queue.cancel(ids[3]).unwrap());
        assert_eq!(queue.enqueue(order(ninth)).unwrap(), ninth);
        let leases = queue.lease(9, Duration::from_secs(30), Duration::ZERO).unwrap();
        assert_eq!(
            leases.iter().map(|lease| lease.order.id()).collect::<Vec<_>>(),
            [ids[0], ids[2], ninth, ids[4], ids[6]]
        );
        drop(queue);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn numbers_grow_with_the_ids_of_a_process() {
        let own = uuid::Uuid::from(JobId::next(0)).as_u128() & ((1 << 52) - 1);
        let id = |time: u128, sequence: u128| {
            let number = (sequence >> 10) << 64 | (sequence & 0x3ff) << 52;
            JobId::from_bytes((time << 80 | 7 << 76 | 2 << 62 | number | own).to_be_bytes())
        };
        let numbers: Vec<i64> =
            (0..9000).map(|n| number_of(id(1_800_000_000_000 + n / 3000, n % 3000))).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b) && numbers[0] > 0);
        assert!(numbers.iter().all(|number| special(*number) < 0 && special(*number) & 7 == 0));
        // Whichever process made them.
        let first_of = |time: u128, process: u128| {
            number_of(JobId::from_bytes((time << 80 | 7 << 76 | 2 << 62 | process << 40).to_be_bytes()))
        };
        assert!((0..64).all(|process| first_of(1_800_000_000_000, process) < first_of(1_800_000_000_001, 0)));
    }
}
