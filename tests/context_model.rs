//! Random trees of contexts where time is virtual, and a plain model of them: what ends each context, when, and for which
//! reason, for ever; who is told, in which sequence; deadlines and values.

mod common;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::fired;
use crossbeam_channel::Receiver;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use workpath::{Canceller, Context, Delegator, Manual, OnDone};

#[derive(Debug, Clone)]
enum Step {
    Derive(Index, Kind),
    Cancel(Index, u8),
    /// The functions do what the last says.
    OnDone(Index, Option<Index>),
    Stop(Index),
    Detach(Index),
    Listen(Index),
    Drop(Index),
    Advance(u64),
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Cancel,
    Timeout(u64),
    /// So many milliseconds after the beginning.
    Deadline(u64),
    Without,
    Value(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        4 => Just(Kind::Cancel),
        2 => (0..30_u64).prop_map(Kind::Timeout),
        1 => (0..60_u64).prop_map(Kind::Deadline),
        1 => Just(Kind::Without),
        1 => (0..3_u8, any::<u8>()).prop_map(|(key, value)| Kind::Value(key, value)),
    ];
    let index = any::<Index>;
    prop_oneof![
        6 => (index(), kind).prop_map(|(parent, kind)| Step::Derive(parent, kind)),
        3 => (index(), any::<u8>()).prop_map(|(which, cause)| Step::Cancel(which, cause)),
        4 => (index(), prop::option::weighted(0.3, index())).prop_map(|(which, then)| Step::OnDone(which, then)),
        1 => index().prop_map(Step::Stop),
        1 => index().prop_map(Step::Detach),
        3 => index().prop_map(Step::Listen),
        1 => index().prop_map(Step::Drop),
        3 => (0..12_u64).prop_map(Step::Advance),
    ]
}

/// A context as the model has it.
struct Node {
    /// What can end it, too.
    parent: Option<usize>,
    deadline: Option<u64>,
    /// The number of the cancel among all of them, its time and its cause.
    cancelled: Option<(usize, u64, u8)>,
    values: Vec<(u8, u8)>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Deadline,
    Cancel(u8),
}

struct Function {
    of: usize,
    /// Which canceller it calls, as its cause its own number.
    then: Option<usize>,
    /// It has run, or is about to, or was stopped.
    over: bool,
}

#[derive(Default)]
struct Model {
    now: u64,
    nodes: Vec<Node>,
    /// Of which nodes there are cancellers.
    cancellers: Vec<usize>,
    functions: Vec<Function>,
    cancels: usize,
    ran: Vec<usize>,
}

impl Model {
    /// The node and what is above it.
    fn chain(&self, node: usize) -> impl Iterator<Item = &Node> {
        std::iter::successors(Some(&self.nodes[node]), |node| node.parent.map(|parent| &self.nodes[parent]))
    }

    fn deadline(&self, node: usize) -> Option<u64> {
        self.chain(node).filter_map(|node| node.deadline).min()
    }

    fn end(&self, node: usize) -> Option<End> {
        let deadline = self.deadline(node);
        match self.chain(node).filter_map(|node| node.cancelled).min() {
            Some((_, at, cause)) if deadline.is_none_or(|deadline| at < deadline) => Some(End::Cancel(cause)),
            _ => deadline.filter(|deadline| *deadline <= self.now).map(|_| End::Deadline),
        }
    }

    fn cancel(&mut self, canceller: usize, cause: u8) {
        let node = self.cancellers[canceller];
        if self.nodes[node].cancelled.is_some() {
            return;
        }
        self.nodes[node].cancelled = Some((self.cancels, self.now, cause));
        self.cancels += 1;
        let is_told = |function: &Function| {
            let above = std::iter::successors(Some(function.of), |above| self.nodes[*above].parent);
            !function.over && above.into_iter().any(|above| above == node)
        };
        let told = (0..self.functions.len()).filter(|number| is_told(&self.functions[*number])).collect();
        self.run(told);
    }

    fn run(&mut self, told: Vec<usize>) {
        told.iter().for_each(|number| self.functions[*number].over = true);
        for number in told {
            self.ran.push(number);
            if let Some(canceller) = self.functions[number].then {
                self.cancel(canceller, number as u8);
            }
        }
    }

    fn on_done(&mut self, of: usize, then: Option<usize>) {
        let over = false;
        self.functions.push(Function { of, then, over });
        if self.end(of).is_some() {
            self.run(vec![self.functions.len() - 1]);
        }
    }

    fn advance(&mut self, until: u64) {
        loop {
            let due = self.functions.iter().filter(|function| !function.over);
            let Some(next) = due.filter_map(|function| self.deadline(function.of)).min() else { break };
            if next > until {
                break;
            }
            self.now = next;
            let is_due = |function: &Function| !function.over && self.deadline(function.of) == Some(next);
            let told = (0..self.functions.len()).filter(|number| is_due(&self.functions[*number])).collect();
            self.run(told);
        }
        self.now = until;
    }
}

/// The same, real.
struct Real {
    manual: Manual,
    start: Instant,
    contexts: Vec<Option<Context>>,
    cancellers: Vec<Canceller>,
    watches: Vec<Option<OnDone>>,
    receivers: Vec<(usize, Receiver<std::convert::Infallible>)>,
    ran: Arc<Mutex<Vec<usize>>>,
}

const KEYS: [&str; 3] = ["a", "b", "c"];

impl Real {
    fn derive(&mut self, parent: usize, kind: Kind) -> bool {
        let Some(parent) = &self.contexts[parent] else { return false };
        let child = match kind {
            Kind::Cancel => {
                let (child, canceller) = parent.with_cancel();
                self.cancellers.push(canceller);
                child
            }
            Kind::Timeout(millis) => parent.with_timeout(Duration::from_millis(millis)),
            Kind::Deadline(millis) => parent.with_deadline(self.start + Duration::from_millis(millis)),
            Kind::Without => parent.without_cancel(),
            Kind::Value(key, value) => parent.with_value(KEYS[usize::from(key)], value),
        };
        self.contexts.push(Some(child));
        true
    }

    fn on_done(&mut self, of: usize, then: Option<usize>) -> bool {
        let Some(context) = &self.contexts[of] else { return false };
        let (number, ran, own) = (self.watches.len(), Arc::clone(&self.ran), context.clone());
        let then = then.map(|canceller| self.cancellers[canceller].clone());
        self.watches.push(Some(context.on_done(move || {
            assert!(own.is_done(), "what is told is so");
            ran.lock().unwrap().push(number);
            if let Some(canceller) = then {
                canceller.cancel_with((number as u8).to_string());
            }
        })));
        true
    }

    fn check(&self, model: &Model) {
        assert_eq!(*self.ran.lock().unwrap(), model.ran);
        for (index, context) in self.contexts.iter().enumerate() {
            let Some(context) = context else { continue };
            let end = context.error().map(|error| match error.get_ref() {
                Some(cause) => End::Cancel(cause.to_string().parse().unwrap()),
                None => {
                    assert!(error.is_timeout());
                    End::Deadline
                }
            });
            assert_eq!(end, model.end(index), "context {index}");
            assert_eq!((context.is_done(), context.check().is_err()), (end.is_some(), end.is_some()));
            let deadline = model.deadline(index).map(Duration::from_millis);
            assert_eq!(context.deadline(), deadline.map(|deadline| self.start + deadline));
            let left = deadline.map(|deadline| deadline.saturating_sub(Duration::from_millis(model.now)));
            assert_eq!(context.remaining(), left);
            for (key, name) in (0..).zip(KEYS) {
                let value = model.nodes[index].values.iter().rev().find(|(other, _)| *other == key);
                assert_eq!(context.value::<u8>(name), value.map(|(_, value)| value));
                assert_eq!(context.value::<String>(name), None);
            }
        }
        for (of, receiver) in &self.receivers {
            assert_eq!(fired(receiver), model.end(*of).is_some(), "the receiver of {of}");
        }
    }
}

fn run(program: Vec<Step>) {
    let manual = Delegator::manual();
    let mut real = Real {
        start: manual.now(),
        manual,
        contexts: vec![Some(Context::background())],
        cancellers: Vec::new(),
        watches: Vec::new(),
        receivers: Vec::new(),
        ran: Arc::default(),
    };
    let root = Node { parent: None, deadline: None, cancelled: None, values: Vec::new() };
    let mut model = Model { nodes: vec![root], ..Model::default() };
    for step in program {
        match step {
            Step::Derive(parent, kind) => {
                let parent = parent.index(model.nodes.len());
                if real.derive(parent, kind) {
                    let mut values = model.nodes[parent].values.clone();
                    let mut node =
                        Node { parent: Some(parent), deadline: None, cancelled: None, values: Vec::new() };
                    // What is done stays as it is.
                    let is_done = model.end(parent).is_some();
                    match kind {
                        Kind::Timeout(_) | Kind::Deadline(_) if is_done => {}
                        Kind::Cancel => model.cancellers.push(model.nodes.len()),
                        Kind::Timeout(millis) => node.deadline = Some(model.now + millis),
                        Kind::Deadline(millis) => node.deadline = Some(millis),
                        Kind::Without => node.parent = None,
                        Kind::Value(key, value) => values.push((key, value)),
                    }
                    model.nodes.push(Node { values, ..node });
                }
            }
            Step::Cancel(which, cause) => {
                if !model.cancellers.is_empty() {
                    let which = which.index(model.cancellers.len());
                    real.cancellers[which].cancel_with(cause.to_string());
                    model.cancel(which, cause);
                }
            }
            Step::OnDone(which, then) => {
                let which = which.index(model.nodes.len());
                let then = then.filter(|_| !model.cancellers.is_empty());
                let then = then.map(|then| then.index(model.cancellers.len()));
                if real.on_done(which, then) {
                    model.on_done(which, then);
                }
            }
            Step::Stop(which) | Step::Detach(which) if !model.functions.is_empty() => {
                let number = which.index(model.functions.len());
                let Some(watch) = real.watches[number].take() else { continue };
                if matches!(step, Step::Stop(_)) {
                    assert_eq!(watch.stop(), !model.functions[number].over);
                    model.functions[number].over = true;
                }
            }
            Step::Listen(which) => {
                let which = which.index(model.nodes.len());
                if let Some(context) = &real.contexts[which] {
                    real.receivers.push((which, context.done()));
                }
            }
            Step::Drop(which) => {
                let which = which.index(model.nodes.len());
                // The first is what the others come from.
                if which > 0 {
                    real.contexts[which] = None;
                }
            }
            Step::Advance(millis) => {
                real.manual.advance(Duration::from_millis(millis));
                model.advance(model.now + millis);
            }
            Step::Stop(_) | Step::Detach(_) => {}
        }
        real.check(&model);
    }
}

#[test]
fn contexts_end_as_those_of_the_model() {
    let mut config = Config { failure_persistence: None, max_shrink_time: 60_000, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 500;
    }
    let result = TestRunner::new(config).run(&vec(step(), 1..50), |program| {
        run(program);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
