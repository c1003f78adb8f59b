//! A queue in one SQLite file.
//!
//! 1. Calls line up, and whoever finds nobody at work does the calls of all in one transaction. So one producer pays for no
//!    switch of threads, and many share the price of a commit. A call is answered when its transaction is committed.
//! 2. A lease is a row's state, its end, and a fence that grows with each. Ends of leases are told by a clock that nobody sets;
//!    times that users give, by the wall clock.
//! 3. Each process that has the file open holds a shared lock on a file beside it. Who can have that lock alone, when it opens the
//!    queue, knows that all leases are of the dead.

#![expect(clippy::incompatible_msrv, reason = "the feature needs a newer compiler than the crate")]

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};

use super::memory::{CANCELLED, MAX_DEAD};
use super::order::{Order, millis, rank, time, unix_now};
use super::queue::{
    DEFAULT_MAX_BYTES, DeadLetter, Lease, LeaseToken, OrderQueue, OrderResult, QueueCounts, QueueError,
    QueueErrorKind, Renewal, Settlement, Verdict, check,
};
use crate::clock::Tick;
use crate::id::JobId;

/// The version of the tables, kept in the file's `user_version`.
const VERSION: i64 = 1;

/// How many calls share a transaction.
const GROUP: usize = 256;

/// How often who waits for an order or a result looks whether another process has brought one.
const LOOK: Duration = Duration::from_millis(250);

/// How often results that are too old are deleted.
const SWEEP: Duration = Duration::from_secs(60);

/// How long a process waits for another that has the file.
const BUSY: Duration = Duration::from_secs(10);

const WAITING: i64 = 0;
const DELAYED: i64 = 1;
const LEASED: i64 = 2;
const DEAD: i64 = 3;

const SCHEMA: &str = "
CREATE TABLE orders(
    seq INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, operation TEXT NOT NULL,
    state INTEGER NOT NULL, priority INTEGER NOT NULL, due INTEGER NOT NULL, deadline INTEGER NOT NULL,
    attempts INTEGER NOT NULL, failures INTEGER NOT NULL, deliveries INTEGER NOT NULL, fence INTEGER NOT NULL,
    cancelled INTEGER NOT NULL, result_ttl INTEGER NOT NULL, unique_key TEXT, error TEXT, body BLOB NOT NULL);
CREATE UNIQUE INDEX orders_key ON orders(unique_key) WHERE unique_key IS NOT NULL AND state < 3;
CREATE INDEX orders_waiting ON orders(priority, seq) WHERE state = 0;
CREATE INDEX orders_delayed ON orders(due) WHERE state = 1;
CREATE INDEX orders_leased ON orders(due) WHERE state = 2;
CREATE INDEX orders_dead ON orders(due, seq) WHERE state = 3;
CREATE TABLE results(id BLOB PRIMARY KEY, expires INTEGER NOT NULL, ok INTEGER NOT NULL, body BLOB NOT NULL);
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
    line: Mutex<Line>,
    /// A call is answered, or something is due.
    changed: Condvar,
    store: Mutex<Store>,
    max_bytes: usize,
}

/// The calls that wait to be done.
#[derive(Default)]
struct Line {
    calls: VecDeque<(u64, Call)>,
    answers: HashMap<u64, Result<Answer, QueueError>>,
    next: u64,
    /// Somebody does calls.
    at_work: bool,
    /// How often orders or results may have come, and `wake` was called.
    news: u64,
    woken: u64,
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

struct Store {
    db: Connection,
    /// What the clock of leases is read from.
    opened: (u64, Instant),
    swept: Option<Instant>,
    /// Held for as long as the queue is open.
    _lock: File,
}

impl SqliteQueue {
    /// Opens the queue in this file, or makes it, with [`Durability::Process`].
    ///
    /// # Errors
    ///
    /// [`Denied`](QueueErrorKind::Denied) if it cannot be opened or written to, [`Corrupt`](QueueErrorKind::Corrupt) if it is
    /// something else or damaged, [`Version`](QueueErrorKind::Version) if a later version of this crate made it. The text names
    /// the file.
    pub fn open(path: impl AsRef<Path>) -> Result<SqliteQueue, QueueError> {
        SqliteQueue::open_with(path, Durability::Process, DEFAULT_MAX_BYTES)
    }

    /// Opens the queue in this file, or makes it, with this durability, for orders of up to so many bytes of payload and values
    /// ([`open`](SqliteQueue::open) allows 1 MiB). Each process chooses for itself.
    ///
    /// # Errors
    ///
    /// As [`open`](SqliteQueue::open).
    pub fn open_with(
        path: impl AsRef<Path>,
        durability: Durability,
        max_bytes: usize,
    ) -> Result<SqliteQueue, QueueError> {
        let path = path.as_ref().to_owned();
        let store = Store::open(&path, durability)?;
        let shared = Shared {
            path,
            line: Mutex::default(),
            changed: Condvar::new(),
            store: Mutex::new(store),
            max_bytes,
        };
        Ok(SqliteQueue { shared: Arc::new(shared) })
    }

    /// Has a call done, by this thread or by another that does it along with its own.
    fn call(&self, call: Call) -> Result<Answer, QueueError> {
        let shared = &*self.shared;
        let mut line = shared.line.lock();
        let number = line.next;
        line.next += 1;
        line.calls.push_back((number, call));
        loop {
            if let Some(answer) = line.answers.remove(&number) {
                return match answer? {
                    Answer::Refused(error) => Err(error),
                    answer => Ok(answer),
                };
            }
            if line.at_work {
                shared.changed.wait(&mut line);
                continue;
            }
            line.at_work = true;
            let count = line.calls.len().min(GROUP);
            let group: Vec<_> = line.calls.drain(..count).collect();
            drop(line);
            let (answers, news) = shared.store.lock().transact(&shared.path, group);
            line = shared.line.lock();
            line.at_work = false;
            line.news += u64::from(news);
            line.answers.extend(answers);
            shared.changed.notify_all();
        }
    }

    /// Waits until there may be something new. `false` if the time is over.
    fn wait_for_news(&self, seen: u64, woken: u64, give_up: Tick) -> bool {
        let mut line = self.shared.line.lock();
        let look = Tick::now().after(LOOK);
        while line.news == seen && line.woken == woken {
            let now = Tick::now();
            let Some(left) = look.min(give_up).since(now) else { return give_up > now };
            self.shared.changed.wait_for(&mut line, left);
        }
        line.woken == woken
    }

    fn news(&self) -> (u64, u64) {
        let line = self.shared.line.lock();
        (line.news, line.woken)
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
            let (seen, woken) = self.news();
            let Answer::Leased(leases) = self.call(Call::Lease(max, lease))? else { return mixed_up() };
            if !leases.is_empty() || max == 0 || !self.wait_for_news(seen, woken, give_up) {
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
            let (seen, woken) = self.news();
            let Answer::Result(result) = self.call(Call::Result(id))? else { return mixed_up() };
            // To be woken is for those who wait for orders.
            if result.is_some() || (!self.wait_for_news(seen, woken, give_up) && give_up <= Tick::now()) {
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
        self.shared.line.lock().woken += 1;
        self.shared.changed.notify_all();
    }
}

impl fmt::Debug for SqliteQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteQueue").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

type Sql<T> = Result<T, rusqlite::Error>;

/// The answers by the numbers of their calls.
type Answers = Vec<(u64, Result<Answer, QueueError>)>;

impl Store {
    fn open(path: &Path, durability: Durability) -> Result<Store, QueueError> {
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
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags).map_err(error)?;
        db.set_prepared_statement_cache_capacity(64);
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
        Store::prepare(&db, path)?;
        if is_alone {
            // All leases are of processes that are gone.
            db.execute("UPDATE orders SET state = 0 WHERE state = 2", []).map_err(error)?;
            lock.unlock().map_err(|error| denied(&error))?;
        }
        lock.lock_shared().map_err(|error| denied(&error))?;
        Ok(Store { db, opened: (unix_now(), Instant::now()), swept: None, _lock: lock })
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

    /// Now, by a clock that goes on evenly: for leases.
    fn steady_now(&self) -> u64 {
        self.opened.0.saturating_add(millis(self.opened.1.elapsed()))
    }

    /// Does these calls, or none of them; whether there may be something for those who wait.
    fn transact(&mut self, path: &Path, group: Vec<(u64, Call)>) -> (Answers, bool) {
        let news = group.iter().any(|(_, call)| {
            matches!(call, Call::Enqueue(_) | Call::Settle(_) | Call::Requeue(_) | Call::Cancel(_))
        });
        let numbers: Vec<u64> = group.iter().map(|(number, _)| *number).collect();
        match self.try_transact(group) {
            Ok(answers) => (numbers.into_iter().zip(answers.into_iter().map(Ok)).collect(), news),
            Err(error) => {
                // Some errors have rolled back already.
                let _ = self.db.execute_batch("ROLLBACK");
                let error = explain(path, &error);
                (numbers.into_iter().map(|number| (number, Err(error.clone()))).collect(), false)
            }
        }
    }

    fn try_transact(&mut self, group: Vec<(u64, Call)>) -> Sql<Vec<Answer>> {
        self.run("BEGIN IMMEDIATE")?;
        let mut answers = Vec::with_capacity(group.len());
        for (_, call) in group {
            answers.push(self.answer(call)?);
        }
        if self.swept.is_none_or(|swept| swept.elapsed() >= SWEEP) {
            self.sweep()?;
            self.swept = Some(Instant::now());
        }
        self.run("COMMIT")?;
        Ok(answers)
    }

    fn run(&self, sql: &str) -> Sql<usize> {
        self.db.prepare_cached(sql)?.execute([])
    }

    fn answer(&self, call: Call) -> Sql<Answer> {
        let now = unix_now();
        Ok(match call {
            Call::Enqueue(orders) => {
                let enqueue = |(order, body): &(Order, Vec<u8>)| self.enqueue(order, body, now);
                Answer::Enqueued(orders.iter().map(enqueue).collect::<Sql<_>>()?)
            }
            Call::Lease(max, lease) => Answer::Leased(self.lease(max, lease, now)?),
            Call::Renew(tokens, lease) => {
                let renew = |token: &LeaseToken| self.renew(*token, lease);
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
        })
    }

    fn enqueue(&self, order: &Order, body: &[u8], now: u64) -> Sql<Result<JobId, QueueError>> {
        let id = order.id();
        let due = order.not_before_millis();
        let inserted = self
            .db
            .prepare_cached(
                "INSERT INTO orders(id, operation, state, priority, due, deadline, attempts, failures, deliveries, fence, \
                 cancelled, result_ttl, unique_key, body) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, 0, 0, ?11, 0, ?8, ?9, ?10) \
                 ON CONFLICT DO NOTHING",
            )?
            .execute(params![
                uuid::Uuid::from(id).as_bytes(),
                order.operation(),
                if due > now { DELAYED } else { WAITING },
                i64::from(rank(order.priority())),
                stored(due),
                stored(order.deadline_millis()),
                order.attempts(),
                stored(order.result_ttl_millis()),
                order.unique_key(),
                body,
                // The number of a row may come again, when the last one is gone; its fence does not.
                stored(now.saturating_mul(1000)),
            ])?;
        if inserted > 0 {
            return Ok(Ok(id));
        }
        Ok(Err(match (order.unique_key(), self.with_key(order.unique_key())?) {
            (Some(key), Some(there)) if there != id => {
                QueueError::duplicate(there, format_args!("key {key:?}"))
            }
            _ => QueueError::duplicate(id, "id"),
        }))
    }

    fn with_key(&self, key: Option<&str>) -> Sql<Option<JobId>> {
        self.db
            .prepare_cached(
                "SELECT id FROM orders WHERE unique_key = ?1 AND unique_key IS NOT NULL AND state < 3",
            )?
            .query_row([key], |row| Ok(JobId::from_bytes(row.get(0)?)))
            .optional()
    }

    fn lease(&self, max: usize, lease: Duration, now: u64) -> Sql<Vec<Lease>> {
        let steady = self.steady_now();
        let due = |state: &str, now| {
            let sql = format!("UPDATE orders SET state = 0 WHERE state = {state} AND due <= ?1");
            self.db.prepare_cached(&sql)?.execute([stored(now)])
        };
        due("1", now)?;
        due("2", steady)?;
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        let mut select = self.db.prepare_cached(
            "SELECT seq, id, failures, deliveries, fence, cancelled, body FROM orders WHERE state = 0 \
             ORDER BY priority, seq LIMIT ?1",
        )?;
        type Row = (i64, [u8; 16], u32, u32, i64, bool, Vec<u8>);
        let rows: Vec<Row> = select
            .query_map([max], |row| {
                Ok((
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                    row.get(3)?,
                    row.get(4)?,
                    row.get(5)?,
                    row.get(6)?,
                ))
            })?
            .collect::<Sql<_>>()?;
        let mut leases = Vec::with_capacity(rows.len());
        for (seq, id, failures, deliveries, fence, cancelled, body) in rows {
            if deliveries > 0 && !leases.is_empty() {
                break;
            }
            let order = match Order::from_bytes(&body) {
                Ok(order) => order,
                Err(error) => {
                    self.bury(seq, failures, &error.to_string(), now)?;
                    continue;
                }
            };
            let (fence, deliveries) = (fence.wrapping_add(1), deliveries.saturating_add(1));
            self.db
                .prepare_cached(
                    "UPDATE orders SET state = 2, due = ?2, deliveries = ?3, fence = ?4 WHERE seq = ?1",
                )?
                .execute(params![seq, stored(steady.saturating_add(millis(lease))), deliveries, fence])?;
            let token = LeaseToken {
                id: JobId::from_bytes(id),
                place: (seq.cast_unsigned(), 0),
                fence: fence.cast_unsigned(),
            };
            leases.push(Lease { order, token, failures, deliveries, cancelled });
            if deliveries > 1 {
                break;
            }
        }
        Ok(leases)
    }

    fn bury(&self, seq: i64, failures: u32, reason: &str, now: u64) -> Sql<usize> {
        self.db
            .prepare_cached(
                "UPDATE orders SET state = 3, due = ?2, failures = ?3, error = ?4 WHERE seq = ?1",
            )?
            .execute(params![seq, stored(now), failures, reason])
    }

    fn renew(&self, token: LeaseToken, lease: Duration) -> Sql<Renewal> {
        let until = stored(self.steady_now().saturating_add(millis(lease)));
        let cancelled = self
            .db
            .prepare_cached(
                "UPDATE orders SET due = ?3 WHERE seq = ?1 AND fence = ?2 AND id = ?4 AND state = 2 RETURNING cancelled",
            )?
            .query_row(params![token.place.0.cast_signed(), token.fence.cast_signed(), until, uuid::Uuid::from(token.id).as_bytes()], |row| {
                row.get(0)
            })
            .optional()?;
        Ok(match cancelled {
            None => Renewal::Lost,
            Some(true) => Renewal::Cancelled,
            Some(false) => Renewal::Held,
        })
    }

    fn settle(&self, settlement: Settlement, now: u64) -> Sql<bool> {
        let Settlement { token, verdict } = settlement;
        let seq = token.place.0.cast_signed();
        let held: Option<(u32, i64)> = self
            .db
            .prepare_cached(
                "SELECT failures, result_ttl FROM orders WHERE seq = ?1 AND fence = ?2 AND id = ?3 AND state = 2",
            )?
            .query_row(params![seq, token.fence.cast_signed(), uuid::Uuid::from(token.id).as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((failures, ttl)) = held else { return Ok(false) };
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
                self.db
                    .prepare_cached(
                        "UPDATE orders SET state = 1, due = ?2, failures = failures + 1, deliveries = 0, error = ?3 \
                         WHERE seq = ?1",
                    )?
                    .execute(params![seq, stored(now.saturating_add(millis(after))), error])?;
            }
            Verdict::Release => {
                self.db
                    .prepare_cached(
                        "UPDATE orders SET state = 0, deliveries = max(0, deliveries - 1) WHERE seq = ?1",
                    )?
                    .execute([seq])?;
            }
        }
        Ok(true)
    }

    fn delete(&self, seq: i64) -> Sql<usize> {
        self.db.prepare_cached("DELETE FROM orders WHERE seq = ?1")?.execute([seq])
    }

    fn keep(&self, id: JobId, ttl: i64, ok: bool, body: &[u8], now: u64) -> Sql<()> {
        if ttl > 0 {
            self.db
                .prepare_cached(
                    "INSERT OR REPLACE INTO results(id, expires, ok, body) VALUES(?1, ?2, ?3, ?4)",
                )?
                .execute(params![
                    uuid::Uuid::from(id).as_bytes(),
                    stored(now).saturating_add(ttl),
                    ok,
                    body
                ])?;
        }
        Ok(())
    }

    fn result(&self, id: JobId, now: u64) -> Sql<Option<OrderResult>> {
        self.db
            .prepare_cached("SELECT ok, body FROM results WHERE id = ?1 AND expires > ?2")?
            .query_row(params![uuid::Uuid::from(id).as_bytes(), stored(now)], |row| {
                let (ok, body): (bool, Vec<u8>) = (row.get(0)?, row.get(1)?);
                Ok(if ok { Ok(body) } else { Err(String::from_utf8_lossy(&body).into_owned()) })
            })
            .optional()
    }

    fn cancel(&self, id: JobId, now: u64) -> Sql<bool> {
        let found: Option<(i64, i64, i64)> = self
            .db
            .prepare_cached("SELECT seq, state, result_ttl FROM orders WHERE id = ?1 AND state < 3")?
            .query_row([uuid::Uuid::from(id).as_bytes()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let Some((seq, state, ttl)) = found else { return Ok(false) };
        if state == LEASED {
            self.db.prepare_cached("UPDATE orders SET cancelled = 1 WHERE seq = ?1")?.execute([seq])?;
        } else {
            self.delete(seq)?;
            self.keep(id, ttl, false, CANCELLED.as_bytes(), now)?;
        }
        Ok(true)
    }

    fn counts(&self, now: u64) -> Sql<QueueCounts> {
        let count = |state: i64, upto: u64| -> Sql<u64> {
            let sql = format!("SELECT count(*) FROM orders WHERE state = {state} AND due <= ?1");
            let count: i64 = self.db.prepare_cached(&sql)?.query_row([stored(upto)], |row| row.get(0))?;
            Ok(count.cast_unsigned())
        };
        let due = count(DELAYED, now)?;
        Ok(QueueCounts {
            waiting: count(WAITING, u64::MAX)? + due,
            delayed: count(DELAYED, u64::MAX)? - due,
            leased: count(LEASED, u64::MAX)?,
            dead: count(DEAD, u64::MAX)?,
        })
    }

    fn dead_letters(&self, max: usize) -> Sql<Vec<DeadLetter>> {
        self.db
            .prepare_cached(
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

    fn requeue(&self, id: JobId, now: u64) -> Sql<Answer> {
        let id = uuid::Uuid::from(id);
        let found: Option<(i64, Vec<u8>)> = self
            .db
            .prepare_cached("SELECT seq, body FROM orders WHERE id = ?1 AND state = 3")?
            .query_row([id.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((seq, body)) = found else { return Ok(Answer::Yes(false)) };
        let Ok(order) = Order::from_bytes(&body) else { return Ok(Answer::Yes(false)) };
        let order = order.revived(now);
        if let (Some(key), Some(there)) = (order.unique_key(), self.with_key(order.unique_key())?) {
            return Ok(Answer::Refused(QueueError::duplicate(there, format_args!("key {key:?}"))));
        }
        self.db
            .prepare_cached(
                "UPDATE orders SET state = 0, due = 0, deadline = ?2, failures = 0, deliveries = 0, cancelled = 0, \
                 error = NULL, body = ?3 WHERE seq = ?1",
            )?
            .execute(params![seq, stored(order.deadline_millis()), order.to_bytes()])?;
        self.db.prepare_cached("DELETE FROM results WHERE id = ?1")?.execute([id.as_bytes()])?;
        Ok(Answer::Yes(true))
    }

    /// Deletes results that are too old, and dead letters that are too many.
    fn sweep(&self) -> Sql<()> {
        self.db.prepare_cached("DELETE FROM results WHERE expires <= ?1")?.execute([stored(unix_now())])?;
        self.db
            .prepare_cached(
                "DELETE FROM orders WHERE seq IN (SELECT seq FROM orders WHERE state = 3 \
                 ORDER BY due DESC, seq DESC LIMIT -1 OFFSET ?1)",
            )?
            .execute([i64::try_from(MAX_DEAD).unwrap_or(i64::MAX)])?;
        Ok(())
    }
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
