//! Random programs on a queue of orders, and a plain model of what [`OrderQueue`] promises: in memory, in a file and on a
//! server, by two who hold leases. After every call the answer and the numbers must be those of the model, as far as the
//! promise goes: which of several lost orders comes first, and when a lapsed lease is found to have lapsed, is the queue's.
#![cfg(feature = "orders")]

mod common;
#[cfg(feature = "redis")]
#[path = "common/server.rs"]
mod server;

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use workpath::{
    JobId, Lease, LeaseToken, MemoryQueue, Order, OrderQueue, OrderResult, Priority, QueueErrorKind, Renewal,
    Settlement, Verdict,
};

/// Longer than any program runs.
const LONG: Duration = Duration::from_secs(60 * 60);

/// A lease that is over soon, and how long it is waited for.
const SHORT: Duration = Duration::from_millis(3);
const LAPSED: Duration = Duration::from_millis(5);

/// How many orders the queues take.
const CAPACITY: usize = 12;

/// How large these may be.
const MAX_BYTES: usize = 100;

#[derive(Debug, Clone)]
enum Call {
    Enqueue(usize, Vec<New>),
    /// An order once more, most likely one that has come to its end.
    Repeat(usize, prop::sample::Index),
    Lease(usize, usize),
    /// Takes leases, and lets them lapse.
    Lapse(usize, usize),
    Renew(Vec<prop::sample::Index>),
    Settle(Vec<(prop::sample::Index, Verdict)>),
    Cancel(prop::sample::Index),
    DeadLetters(usize),
    Requeue(prop::sample::Index),
    Reopen,
}

#[derive(Debug, Clone)]
struct New {
    priority: Priority,
    is_delayed: bool,
    key: Option<u8>,
    is_kept: bool,
    is_too_large: bool,
}

fn new_order() -> impl Strategy<Value = New> {
    let priority =
        prop_oneof![2 => Just(Priority::Normal), 1 => Just(Priority::High), 1 => Just(Priority::Low)];
    let key = prop_oneof![2 => Just(None), 1 => (0..3_u8).prop_map(Some)];
    (priority, prop::bool::weighted(0.2), key, prop::bool::weighted(0.8), prop::bool::weighted(0.05))
        .prop_map(|(priority, is_delayed, key, is_kept, is_too_large)| New {
            priority,
            is_delayed,
            key,
            is_kept,
            is_too_large,
        })
}

fn verdict() -> impl Strategy<Value = Verdict> {
    let after = prop_oneof![3 => Just(Duration::ZERO), 1 => Just(LONG)];
    prop_oneof![
        3 => any::<u8>().prop_map(|byte| Verdict::Complete(vec![byte])),
        3 => after.prop_map(|after| Verdict::Retry { error: "again".into(), after }),
        2 => any::<u8>().prop_map(|byte| Verdict::Dead(format!("dead {byte}"))),
        1 => Just(Verdict::Discard("discarded".into())),
        2 => Just(Verdict::Release),
    ]
}

fn call() -> impl Strategy<Value = Call> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        6 => (0..2_usize, vec(new_order(), 0..4)).prop_map(|(who, new)| Call::Enqueue(who, new)),
        2 => (0..2_usize, index()).prop_map(|(who, which)| Call::Repeat(who, which)),
        6 => (0..2_usize, 0..5_usize).prop_map(|(who, max)| Call::Lease(who, max)),
        2 => (0..2_usize, 0..3_usize).prop_map(|(who, max)| Call::Lapse(who, max)),
        2 => vec(index(), 0..4).prop_map(Call::Renew),
        6 => vec((index(), verdict()), 0..5).prop_map(Call::Settle),
        2 => index().prop_map(Call::Cancel),
        1 => (0..6_usize).prop_map(Call::DeadLetters),
        3 => index().prop_map(Call::Requeue),
        1 => Just(Call::Reopen),
    ]
}

impl New {
    fn order(&self) -> Order {
        let payload = vec![7; if self.is_too_large { MAX_BYTES + 1 } else { 1 }];
        let ttl = if self.is_kept { LONG } else { Duration::ZERO };
        let mut order =
            Order::new("work").with_payload(payload).with_priority(self.priority).with_result_ttl(ttl);
        if let Some(key) = self.key {
            order = order.with_unique_key(key.to_string());
        }
        if self.is_delayed { order.with_delay(LONG) } else { order }
    }
}

/// A queue with two who use it.
trait Store {
    fn queue(&self, who: usize) -> &dyn OrderQueue;
    /// Closes it and opens it again; `false` if that is not what this queue is for. All leases are void then.
    fn reopen(&mut self) -> bool {
        false
    }
    /// Whether it counts at once what the other has put in and taken out.
    fn counts_exactly(&self) -> bool {
        true
    }
}

impl Store for [MemoryQueue; 2] {
    fn queue(&self, who: usize) -> &dyn OrderQueue {
        &self[who]
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    Due,
    Delayed,
    Leased { token: LeaseToken, lapsed: bool },
    Dead,
    Gone,
}

struct Entry {
    order: Order,
    place: Place,
    failures: u32,
    deliveries: u32,
    cancelled: bool,
    /// It was put in to be done at once, and nothing has come of it yet.
    is_plain: bool,
    /// What is kept of it.
    result: Option<OrderResult>,
    /// Its result may be that of its life before.
    may_be_old: bool,
    reason: String,
}

impl Entry {
    fn is_lost(&self) -> bool {
        match self.place {
            Place::Due => self.deliveries > 0,
            Place::Leased { lapsed, .. } => lapsed,
            _ => false,
        }
    }

    fn is_fresh(&self) -> bool {
        self.place == Place::Due && self.deliveries == 0
    }

    fn is_in(&self) -> bool {
        !matches!(self.place, Place::Dead | Place::Gone)
    }

    fn finish(&mut self, place: Place, result: OrderResult) {
        self.place = place;
        (self.cancelled, self.may_be_old) = (false, false);
        self.result = (!self.order.result_ttl().is_zero()).then_some(result);
    }
}

#[derive(Default)]
struct Model {
    /// In the sequence in which they were first put in.
    entries: Vec<Entry>,
    /// All leases that there were.
    tokens: Vec<(usize, LeaseToken)>,
    /// The dead, in the sequence in which they died.
    dead: Vec<JobId>,
}

impl Model {
    fn find(&mut self, id: JobId) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.order.id() == id)
    }

    fn with_key(&self, key: Option<&str>) -> Option<JobId> {
        let mut holders = self.entries.iter().filter(|entry| entry.is_in());
        let holder = holders.find(|entry| key.is_some() && entry.order.unique_key() == key)?;
        Some(holder.order.id())
    }

    /// The one that is leased with this token.
    fn held(&mut self, token: LeaseToken) -> Option<&mut Entry> {
        let is_it =
            |entry: &&mut Entry| matches!(entry.place, Place::Leased { token: own, .. } if own == token);
        self.entries.iter_mut().find(is_it)
    }

    fn enqueue(&mut self, store: &dyn Store, who: usize, orders: Vec<Order>) {
        let answers = store.queue(who).enqueue_all(orders.clone());
        assert_eq!(answers.len(), orders.len());
        for (order, answer) in orders.into_iter().zip(answers) {
            let id = order.id();
            let there = self.entries.iter().position(|entry| entry.order.id() == id);
            let is_taken = there.is_some_and(|there| self.entries[there].place != Place::Gone);
            let with_key = self.with_key(order.unique_key());
            let room = self.entries.iter().filter(|entry| entry.is_in()).count() < CAPACITY;
            if order.payload().len() > MAX_BYTES {
                assert_eq!(answer.unwrap_err().kind(), QueueErrorKind::TooLarge);
            } else if answer.as_ref().is_err_and(|error| error.kind() == QueueErrorKind::Full) {
                assert!(!room || !store.counts_exactly());
            } else if is_taken || with_key.is_some() || (!room && store.counts_exactly()) {
                // Of several reasons, any.
                let error = answer.unwrap_err();
                assert_eq!(error.kind(), QueueErrorKind::Duplicate);
                assert!([is_taken.then_some(id), with_key].contains(&error.duplicate_of()), "{error}");
            } else {
                assert_eq!(answer.unwrap(), id);
                let is_plain = order.not_before().is_none() && there.is_none();
                let place = match order.not_before() {
                    Some(time) if time > SystemTime::now() => Place::Delayed,
                    _ => Place::Due,
                };
                let mut entry = Entry {
                    order,
                    place,
                    failures: 0,
                    deliveries: 0,
                    cancelled: false,
                    is_plain,
                    result: None,
                    may_be_old: there.is_some(),
                    reason: String::new(),
                };
                match there {
                    Some(there) => {
                        entry.result = self.entries[there].result.take();
                        self.entries[there] = entry;
                    }
                    None => self.entries.push(entry),
                }
            }
        }
    }

    fn lease(&mut self, store: &dyn Store, who: usize, max: usize, lease: Duration) {
        let fresh = self.entries.iter().filter(|entry| entry.is_fresh()).count();
        let lost = self.entries.iter().filter(|entry| entry.is_lost()).count();
        if lease < LONG {
            // Then it is found out at once which leases have lapsed.
            std::thread::sleep(SHORT);
        }
        let leases = store.queue(who).lease(max, lease, Duration::ZERO).unwrap();
        assert!(leases.len() <= max);
        let is_of_lost = leases.iter().any(|lease| lease.deliveries > 1);
        if is_of_lost {
            assert_eq!(leases.len(), 1, "what was lost goes by itself");
        } else if lost == 0 {
            assert_eq!(leases.len(), fresh.min(max), "all that there is, up to so many");
        } else if max > 0 && (fresh > 0 || lease < LONG) {
            assert!(!leases.is_empty(), "there is something");
        }
        if !is_of_lost {
            self.check_sequence(&leases);
        }
        for lease in leases {
            self.take(who, lease);
        }
    }

    /// That none was left for one behind it.
    fn check_sequence(&self, leases: &[Lease]) {
        let rank = |entry: &Entry| match entry.order.priority() {
            Priority::High => 0,
            Priority::Normal => 1,
            _ => 2,
        };
        let place = |id: JobId| self.entries.iter().position(|entry| entry.order.id() == id).unwrap();
        let taken: Vec<usize> = leases.iter().map(|lease| place(lease.order.id())).collect();
        let left =
            (0..self.entries.len()).filter(|index| self.entries[*index].is_fresh() && !taken.contains(index));
        let sequence: Vec<usize> = taken.iter().copied().chain(left).collect();
        for (at, &before) in sequence.iter().enumerate().take(taken.len()) {
            for &behind in &sequence[at + 1..] {
                let (one, other) = (&self.entries[before], &self.entries[behind]);
                if one.is_plain && other.is_plain {
                    assert!((rank(one), before) < (rank(other), behind), "{before} went before {behind}");
                }
                assert!(rank(one) <= rank(other), "{before} went before {behind}");
            }
        }
    }

    fn take(&mut self, who: usize, lease: Lease) {
        let Lease { order, token, failures, deliveries, cancelled, .. } = lease;
        assert_eq!(token.id, order.id());
        assert!(self.tokens.iter().all(|(_, other)| *other != token), "no token comes twice");
        let entry = self.find(order.id()).expect("an order that nobody put in");
        assert!(entry.is_fresh() || entry.is_lost(), "{:?} is not to be handed out", entry.place);
        assert_eq!((&order, failures), (&entry.order, entry.failures));
        assert_eq!((deliveries, cancelled), (entry.deliveries + 1, entry.cancelled));
        entry.deliveries += 1;
        entry.is_plain = false;
        entry.place = Place::Leased { token, lapsed: false };
        self.tokens.push((who, token));
    }

    /// One of the leases that there were, most likely one of the last.
    fn token(&self, index: &prop::sample::Index) -> Option<(usize, LeaseToken)> {
        let recent = &self.tokens[self.tokens.len().saturating_sub(8)..];
        (!recent.is_empty()).then(|| *index.get(recent))
    }

    fn renew(&mut self, store: &dyn Store, which: &[prop::sample::Index]) {
        for who in 0..2 {
            let tokens = which.iter().filter_map(|index| self.token(index));
            let tokens: Vec<_> = tokens.filter(|(owner, _)| *owner == who).map(|(_, token)| token).collect();
            let answers = store.queue(who).renew(&tokens, LONG).unwrap();
            assert_eq!(answers.len(), tokens.len());
            for (token, answer) in tokens.into_iter().zip(answers) {
                let Some(entry) = self.held(token) else {
                    assert_eq!(answer, Renewal::Lost);
                    continue;
                };
                if entry.is_lost() && answer == Renewal::Lost {
                    entry.place = Place::Due;
                    continue;
                }
                assert_eq!(answer, if entry.cancelled { Renewal::Cancelled } else { Renewal::Held });
                entry.place = Place::Leased { token, lapsed: false };
            }
        }
    }

    fn settle(&mut self, store: &dyn Store, which: &[(prop::sample::Index, Verdict)]) {
        for who in 0..2 {
            let settlements = which.iter().filter_map(|(index, verdict)| {
                let (owner, token) = self.token(index)?;
                (owner == who).then(|| Settlement { token, verdict: verdict.clone() })
            });
            let settlements: Vec<_> = settlements.collect();
            let answers = store.queue(who).settle(settlements.clone()).unwrap();
            assert_eq!(answers.len(), settlements.len());
            for (Settlement { token, verdict }, answer) in settlements.into_iter().zip(answers) {
                let Some(entry) = self.held(token) else {
                    assert!(!answer, "a lease that is void settles nothing");
                    continue;
                };
                if entry.is_lost() && !answer {
                    entry.place = Place::Due;
                    continue;
                }
                assert!(answer, "who holds a lease settles it");
                let is_dead = matches!(verdict, Verdict::Dead(_));
                entry.settle(verdict);
                if is_dead {
                    self.dead.push(token.id);
                }
            }
        }
    }

    fn cancel(&mut self, queue: &dyn OrderQueue, id: JobId) {
        let answer = queue.cancel(id).unwrap();
        let orders = { queue.counts().unwrap() };
        let is_in = self.entries.iter().filter(|entry| entry.is_in()).count() as u64;
        let is_out = orders.waiting + orders.delayed + orders.leased < is_in;
        let Some(entry) = self.find(id).filter(|entry| entry.is_in()) else {
            assert!(!answer, "there is nothing to cancel");
            return;
        };
        assert!(answer, "what is there can be cancelled");
        match entry.place {
            Place::Leased { lapsed, .. } if !lapsed || !is_out => entry.cancelled = true,
            _ => entry.finish(Place::Gone, Err("cancelled".into())),
        }
    }

    fn requeue(&mut self, queue: &dyn OrderQueue, id: JobId) {
        let answer = queue.requeue(id);
        let key = self.find(id).and_then(|entry| entry.order.unique_key().map(str::to_owned));
        let there = self.with_key(key.as_deref());
        let Some(entry) = self.find(id).filter(|entry| entry.place == Place::Dead) else {
            assert!(!answer.unwrap(), "there is no such dead letter");
            return;
        };
        if there.is_some() {
            let error = answer.unwrap_err();
            assert_eq!((error.kind(), error.duplicate_of()), (QueueErrorKind::Duplicate, there));
            return;
        }
        assert!(answer.unwrap());
        let letter = std::mem::replace(&mut entry.order, Order::new("x"));
        entry.order = revived(&letter);
        (entry.place, entry.failures, entry.deliveries) = (Place::Due, 0, 0);
        (entry.result, entry.is_plain, entry.cancelled) = (None, false, false);
        self.dead.retain(|dead| *dead != id);
    }

    fn dead_letters(&mut self, queue: &dyn OrderQueue, max: usize) {
        let letters = queue.dead_letters(max).unwrap();
        assert_eq!(letters.len(), max.min(self.dead.len()));
        assert!(letters.is_sorted_by(|one, next| one.died_at >= next.died_at), "the newest first");
        let ids: HashSet<JobId> = letters.iter().map(|letter| letter.id).collect();
        assert_eq!(ids.len(), letters.len());
        for letter in letters {
            let entry = self.find(letter.id).unwrap();
            assert_eq!(entry.place, Place::Dead);
            assert_eq!((letter.reason, letter.failures), (entry.reason.clone(), entry.failures));
            assert_eq!((letter.operation, letter.order.as_ref()), ("work".into(), Some(&entry.order)));
        }
    }

    fn check(&self, queue: &dyn OrderQueue) {
        let count =
            |is: &dyn Fn(&Entry) -> bool| self.entries.iter().filter(|&entry| is(entry)).count() as u64;
        let due = count(&|entry| entry.place == Place::Due);
        let delayed = count(&|entry| entry.place == Place::Delayed);
        let held = count(&|entry| matches!(entry.place, Place::Leased { lapsed: false, .. }));
        let lapsed = count(&|entry| matches!(entry.place, Place::Leased { lapsed: true, .. }));
        let counts = queue.counts().unwrap();
        assert_eq!((counts.delayed, counts.dead), (delayed, self.dead.len() as u64), "{counts:?}");
        assert_eq!(counts.waiting + counts.leased, due + held + lapsed, "{counts:?}");
        assert!((held..=held + lapsed).contains(&counts.leased), "{counts:?}");
        for entry in &self.entries {
            let result = queue.result(entry.order.id(), Duration::ZERO).unwrap();
            if !(entry.may_be_old && result.is_none()) {
                assert_eq!(result, entry.result, "{:?}", entry.place);
            }
        }
    }
}

impl Entry {
    fn settle(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Complete(bytes) => self.finish(Place::Gone, Ok(bytes)),
            Verdict::Discard(error) => self.finish(Place::Gone, Err(error)),
            Verdict::Dead(reason) => {
                self.failures += 1;
                self.reason.clone_from(&reason);
                self.finish(Place::Dead, Err(reason));
            }
            // Nobody is to have it any more.
            _ if self.cancelled => self.finish(Place::Gone, Err("cancelled".into())),
            Verdict::Retry { after, .. } => {
                (self.failures, self.deliveries) = (self.failures + 1, 0);
                self.place = if after.is_zero() { Place::Due } else { Place::Delayed };
            }
            Verdict::Release => {
                self.deliveries -= 1;
                self.place = Place::Due;
            }
            _ => unreachable!(),
        }
    }
}

/// The order that a dead letter is made: the same, to be done at once.
fn revived(order: &Order) -> Order {
    order.clone().with_not_before(SystemTime::UNIX_EPOCH)
}

fn run(store: &mut dyn Store, program: Vec<Call>) {
    let mut model = Model::default();
    for call in program {
        let any = |index: &prop::sample::Index, model: &Model| match model.entries.len() {
            0 => Order::new("of no queue").id(),
            entries => model.entries[index.index(entries)].order.id(),
        };
        match call {
            Call::Enqueue(who, new) => {
                model.enqueue(store, who, new.iter().map(New::order).collect());
            }
            Call::Repeat(who, index) => {
                let ended: Vec<&Entry> = model.entries.iter().filter(|entry| !entry.is_in()).collect();
                let all: Vec<&Entry> = model.entries.iter().collect();
                let some = if ended.is_empty() { all } else { ended };
                if !some.is_empty() {
                    let order = index.get(&some).order.clone();
                    model.enqueue(store, who, vec![order.clone(), order]);
                }
            }
            Call::Lease(who, max) => model.lease(store, who, max, LONG),
            Call::Lapse(who, max) => {
                let before = model.tokens.len();
                model.lease(store, who, max, SHORT);
                std::thread::sleep(LAPSED);
                for entry in &mut model.entries {
                    if let Place::Leased { token, lapsed, .. } = &mut entry.place {
                        *lapsed |= model.tokens[before..].iter().any(|(_, taken)| taken == token);
                    }
                }
            }
            Call::Renew(which) => model.renew(store, &which),
            Call::Settle(which) => model.settle(store, &which),
            Call::Cancel(index) => model.cancel(store.queue(0), any(&index, &model)),
            Call::DeadLetters(max) => model.dead_letters(store.queue(1), max),
            Call::Requeue(index) => {
                let any = any(&index, &model);
                let dead = (!model.dead.is_empty()).then(|| *index.get(&model.dead));
                model.requeue(store.queue(1), dead.unwrap_or(any));
            }
            Call::Reopen => {
                if store.reopen() {
                    for entry in &mut model.entries {
                        if matches!(entry.place, Place::Leased { .. }) {
                            entry.place = Place::Due;
                        }
                    }
                }
            }
        }
        model.check(store.queue(0));
    }
}

/// `cases` programs, or as many as `PROPTEST_CASES` says.
fn config(cases: u32) -> Config {
    let mut config = Config { failure_persistence: None, max_shrink_time: 60_000, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    config
}

/// Runs random programs, each on a store of its own.
fn run_all<S: Store>(cases: u32, store: impl Fn() -> S) {
    let result = TestRunner::new(config(cases)).run(&vec(call(), 1..60), |program| {
        run(&mut store(), program);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn a_queue_in_memory_keeps_its_promise() {
    run_all(200, || {
        let queue = MemoryQueue::with_limits(CAPACITY, MAX_BYTES);
        [queue.clone(), queue]
    });
}

/// Random programs of delegators that serve a queue, and are stopped in every form while their orders fail, panic, sleep and
/// are cancelled.
mod served {
    use std::collections::HashMap;
    use std::sync::{Arc, Mutex};

    use workpath::{Catalog, Delegator, Error, Serve, Serving, Shutdown};

    use super::*;
    use crate::common::PATIENCE;

    #[derive(Debug, Clone)]
    enum Step {
        Put(Vec<Plan>),
        Start(usize),
        Stop(usize, How),
        Cancel(prop::sample::Index),
        Pause(u64),
    }

    /// What an order does: fails so often, at most this often; then what is left.
    #[derive(Debug, Clone, Copy)]
    struct Plan {
        failures: u8,
        attempts: u32,
        then: Then,
        priority: Priority,
    }

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Then {
        Returns,
        Sleeps,
        Panics,
        FailsForGood,
    }

    #[derive(Debug, Clone, Copy)]
    enum How {
        Drain,
        Cancel,
        DrainFor(u64),
        Drop,
    }

    const THEN: [Then; 4] = [Then::Returns, Then::Sleeps, Then::Panics, Then::FailsForGood];

    fn plan() -> impl Strategy<Value = Plan> {
        let failures = prop_oneof![3 => Just(0_u8), 2 => 1..4_u8];
        let then = prop_oneof![
            4 => Just(Then::Returns),
            4 => Just(Then::Sleeps),
            1 => Just(Then::Panics),
            1 => Just(Then::FailsForGood),
        ];
        let priority = prop::sample::select(vec![Priority::Low, Priority::Normal, Priority::High]);
        (failures, 1..4_u32, then, priority).prop_map(|(failures, attempts, then, priority)| Plan {
            failures,
            attempts,
            then,
            priority,
        })
    }

    fn step() -> impl Strategy<Value = Step> {
        let how = prop_oneof![
            Just(How::Drain),
            Just(How::Cancel),
            (0..4_u64).prop_map(How::DrainFor),
            Just(How::Drop),
        ];
        prop_oneof![
            4 => vec(plan(), 1..12).prop_map(Step::Put),
            3 => (0..2_usize).prop_map(Step::Start),
            3 => (0..2_usize, how).prop_map(|(which, how)| Step::Stop(which, how)),
            3 => any::<prop::sample::Index>().prop_map(Step::Cancel),
            2 => (0..4_u64).prop_map(Step::Pause),
        ]
    }

    /// How often an order has failed and returned.
    type Seen = Arc<Mutex<HashMap<JobId, (u8, u32)>>>;

    fn catalog(seen: &Seen) -> Catalog {
        let seen = Arc::clone(seen);
        Catalog::new().with("plan", move |ctx, order| {
            let (failures, then) = (order.payload()[0], THEN[usize::from(order.payload()[1])]);
            let mut all = seen.lock().unwrap();
            let own = all.entry(order.id()).or_default();
            if own.0 < failures {
                own.0 += 1;
                return Err("not yet".into());
            }
            drop(all);
            match then {
                Then::Returns => {}
                Then::Sleeps => ctx.sleep(Duration::from_millis(2))?,
                Then::Panics => panic!("on purpose"),
                Then::FailsForGood => return Err(Error::permanent("never")),
            }
            seen.lock().unwrap().entry(order.id()).or_default().1 += 1;
            Ok(vec![failures])
        })
    }

    fn stop(serving: Serving, how: How) {
        let how = match how {
            How::Drain => Shutdown::drain(),
            How::Cancel => Shutdown::cancel(),
            How::DrainFor(millis) => Shutdown::drain().within(Duration::from_millis(millis)),
            How::Drop => return drop(serving),
        };
        let report = serving.stop(how);
        assert!(report.stuck.is_empty(), "{report:?}");
    }

    fn run(queue: &Arc<dyn OrderQueue>, program: Vec<Step>) {
        let seen = Seen::default();
        let catalog = catalog(&seen);
        let delegators = [2, 1].map(|workers| Delegator::builder().workers(workers).build().unwrap());
        let options = || Serve::options().backoff(Duration::ZERO, Duration::from_millis(1)).prefetch(3);
        let start = |which: usize| delegators[which].serve(queue, &catalog, options()).unwrap();
        let mut servings = [None, None];
        let mut orders: Vec<(JobId, Plan, bool)> = Vec::new();
        for step in program {
            match step {
                Step::Put(plans) => {
                    let order = |plan: &Plan| {
                        Order::new("plan")
                            .with_payload([plan.failures, plan.then as u8])
                            .with_attempts(plan.attempts)
                            .with_priority(plan.priority)
                    };
                    let answers = queue.enqueue_all(plans.iter().map(order).collect());
                    let put = answers.into_iter().zip(plans);
                    orders.extend(put.map(|(answer, plan)| (answer.unwrap(), plan, false)));
                }
                Step::Start(which) => {
                    servings[which].get_or_insert_with(|| start(which));
                }
                Step::Stop(which, how) => {
                    if let Some(serving) = servings[which].take() {
                        stop(serving, how);
                    }
                }
                Step::Cancel(index) => {
                    if !orders.is_empty() {
                        let (id, _, cancelled) = index.get_mut(&mut orders);
                        *cancelled |= queue.cancel(*id).unwrap();
                    }
                }
                Step::Pause(millis) => std::thread::sleep(Duration::from_millis(millis)),
            }
        }
        servings[0].get_or_insert_with(|| start(0));
        for (id, plan, cancelled) in &orders {
            let result = queue.result(*id, PATIENCE).unwrap().expect("an order that is never settled");
            if *cancelled && result == Err("cancelled".into()) {
                continue;
            }
            let (failed, returned) = seen.lock().unwrap().get(id).copied().unwrap_or_default();
            let is_tried_out = u32::from(plan.failures) >= plan.attempts;
            let allowed = if is_tried_out { plan.attempts } else { u32::from(plan.failures) };
            assert_eq!(u32::from(failed), allowed, "{plan:?}");
            match (is_tried_out, plan.then) {
                (true, _) => assert_eq!(result, Err("not yet".into())),
                (false, Then::Panics) => assert!(result.unwrap_err().contains("on purpose")),
                (false, Then::FailsForGood) => assert_eq!(result, Err("never".into())),
                (false, _) => assert_eq!((result, returned), (Ok(vec![plan.failures]), 1), "{plan:?}"),
            }
        }
        servings.into_iter().flatten().for_each(|serving| stop(serving, How::Drain));
        let counts = queue.counts().unwrap();
        assert_eq!((counts.waiting, counts.delayed, counts.leased), (0, 0, 0), "{counts:?}");
    }

    pub(super) fn run_all(cases: u32, queue: impl Fn() -> Arc<dyn OrderQueue>) {
        let config = super::config(cases);
        let result = TestRunner::new(config).run(&vec(step(), 1..30), |program| {
            run(&queue(), program);
            Ok(())
        });
        if let Err(error) = result {
            panic!("{error}");
        }
    }

    #[test]
    fn what_is_served_from_memory_is_done_once() {
        run_all(60, || Arc::new(MemoryQueue::new()));
    }
}

#[cfg(feature = "sqlite")]
mod in_a_file {
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use workpath::{Durability, SqliteQueue};

    use super::*;

    struct File {
        folder: PathBuf,
        queues: Vec<SqliteQueue>,
    }

    impl File {
        fn new(name: &str) -> File {
            let folder = std::env::temp_dir().join(format!("workpath-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&folder);
            std::fs::create_dir_all(&folder).unwrap();
            let mut file = File { folder, queues: Vec::new() };
            file.reopen();
            file
        }
    }

    impl Store for File {
        fn queue(&self, who: usize) -> &dyn OrderQueue {
            &self.queues[who]
        }

        fn reopen(&mut self) -> bool {
            self.queues.clear();
            let path = self.folder.join("orders.db");
            let open = || SqliteQueue::open_with(&path, Durability::Process, CAPACITY, MAX_BYTES).unwrap();
            self.queues.extend([open(), open()]);
            true
        }

        fn counts_exactly(&self) -> bool {
            false
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            self.queues.clear();
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }

    #[test]
    fn a_queue_in_a_file_keeps_its_promise() {
        run_all(40, || File::new("model"));
    }

    #[test]
    fn what_is_served_from_a_file_is_done_once() {
        let file = File::new("served");
        let names = AtomicUsize::new(0);
        served::run_all(20, || {
            let name = format!("{}.db", names.fetch_add(1, Ordering::Relaxed));
            Arc::new(SqliteQueue::open(file.folder.join(name)).unwrap())
        });
    }
}

#[cfg(feature = "redis")]
mod on_a_server {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use workpath::RedisQueue;

    use super::*;
    use crate::server::Server;

    impl Store for [RedisQueue; 2] {
        fn queue(&self, who: usize) -> &dyn OrderQueue {
            &self[who]
        }
    }

    #[test]
    fn a_queue_on_a_server_keeps_its_promise() {
        let Some(server) = Server::start("model", &[]) else { return };
        let names = AtomicUsize::new(0);
        run_all(60, || {
            let name = format!("q{}", names.fetch_add(1, Ordering::Relaxed));
            let open = || RedisQueue::connect_with(&server.url(), &name, CAPACITY, MAX_BYTES).unwrap();
            [open(), open()]
        });
    }

    #[test]
    fn what_is_served_from_a_server_is_done_once() {
        let Some(server) = Server::start("served", &[]) else { return };
        let names = AtomicUsize::new(0);
        served::run_all(20, || {
            let name = format!("q{}", names.fetch_add(1, Ordering::Relaxed));
            Arc::new(RedisQueue::connect(&server.url(), &name).unwrap())
        });
    }
}
