//! What is done to a delegator, and how such sequences are made up.

use proptest::collection::vec;
use proptest::prelude::*;

/// A delegator to do it to.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) workers: usize,
    pub(crate) capacity: usize,
    /// How many records and how many bytes of payload are retained.
    pub(crate) last: usize,
    pub(crate) bytes: Option<usize>,
    pub(crate) default_timeout: Limit,
}

/// A time limit. None of them depends on how fast a machine is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Limit {
    None,
    Zero,
    Past,
    Far,
    Max,
    /// A moment after the submission: the step waits until it is over.
    Soon,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Form {
    Submit,
    Try,
    Timeout(Limit),
    Deadline(Limit),
}

/// What a job does until it is allowed to end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Gate {
    /// Nothing: it ends at once.
    None,
    /// Waits until its gate is opened, whatever its context says.
    Heedless,
    /// Waits until its gate is opened or its context is done.
    Attentive,
}

/// How an operation ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Ending {
    Bytes(usize),
    /// With the error of its context if that is done, otherwise with bytes.
    Obeys(usize),
    Fails,
    /// With the cancellation error of another context.
    Foreign,
    Panics(Payload),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Payload {
    Str,
    Text,
    Number,
    /// Panics again when it is dropped, and so does what that panics with.
    Bomb,
}

/// What becomes of the handle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Watch {
    Kept,
    Dropped,
    /// Another thread waits from the beginning.
    Awaited,
}

/// What an operation does before it ends.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Inside {
    Nothing,
    Nests(Vec<Child>),
    ShutsDown { cancel: bool },
}

/// A job that a job submits. It ends at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Child {
    pub(crate) form: Form,
    pub(crate) ending: Ending,
    pub(crate) bomb: bool,
    /// Under the context of its parent.
    pub(crate) derived: bool,
    /// Whether the parent waits for it.
    pub(crate) waited: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) gate: Gate,
    pub(crate) ending: Ending,
    pub(crate) inside: Inside,
    pub(crate) context: Option<u8>,
    pub(crate) limit: Limit,
    /// The time limit is set before the context.
    pub(crate) limit_first: bool,
    /// What it captures panics when it is dropped.
    pub(crate) bomb: bool,
    /// A type of its own instead of a closure.
    pub(crate) typed: bool,
    pub(crate) watch: Watch,
}

impl Spec {
    /// What is done with a child is up to its parent.
    pub(crate) fn of(child: &Child) -> Spec {
        Spec {
            gate: Gate::None,
            ending: child.ending,
            inside: Inside::Nothing,
            context: None,
            limit: Limit::None,
            limit_first: false,
            bomb: child.bomb,
            typed: false,
            watch: Watch::Kept,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Derive {
    Cancel,
    Value,
    WithoutCancel,
    Limit(Limit),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Look {
    Wait,
    WaitTimeoutZero,
    WaitDeadlinePast,
    TryWait,
    Join,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum End {
    Drain,
    Cancel,
    /// Within so long that it makes no difference.
    DrainFar,
    CancelFar,
    /// Within no time at all. What does not look at its context is stuck.
    DrainNow,
    CancelNow,
}

/// The numbers say which: of those that there are, counted round.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Submit {
        spec: Spec,
        form: Form,
        lent: bool,
        keep: bool,
    },
    Resubmit {
        which: u8,
        form: Form,
    },
    Open {
        which: u8,
    },
    CancelJob {
        which: u8,
        cause: Option<u8>,
    },
    Derive {
        from: u8,
        how: Derive,
    },
    CancelContext {
        which: u8,
        cause: Option<u8>,
    },
    DropContext {
        which: u8,
    },
    DropCanceller {
        which: u8,
    },
    OnDone {
        which: u8,
        panics: bool,
    },
    StopOnDone {
        which: u8,
    },
    Look {
        which: u8,
        how: Look,
    },
    /// Another thread waits from now on.
    WaitElsewhere {
        which: u8,
        done: bool,
    },
    DropHandle {
        which: u8,
    },
    Get {
        which: u8,
    },
    Remove {
        which: u8,
    },
    Clear,
    Shutdown {
        how: End,
    },
    DropDelegator,
}

pub(crate) fn setups() -> impl Strategy<Value = Setup> {
    let last = prop_oneof![Just(0_usize), Just(1), Just(3), Just(1024)];
    let bytes = prop_oneof![2 => Just(None), 1 => Just(Some(100_usize))];
    let timeout = prop_oneof![6 => Just(Limit::None), 1 => Just(Limit::Far), 1 => Just(Limit::Zero), 1 => Just(Limit::Max)];
    (1..=2_usize, prop_oneof![Just(0_usize), Just(1), Just(2), Just(8)], last, bytes, timeout).prop_map(
        |(workers, capacity, last, bytes, default_timeout)| Setup {
            workers,
            capacity,
            last,
            bytes,
            default_timeout,
        },
    )
}

pub(crate) fn sequences() -> impl Strategy<Value = Vec<Op>> {
    vec(ops(), 1..48)
}

fn forms() -> impl Strategy<Value = Form> {
    prop_oneof![
        4 => Just(Form::Submit),
        3 => Just(Form::Try),
        3 => limits().prop_map(Form::Timeout),
        2 => limits().prop_map(Form::Deadline),
    ]
}

/// For the time that a submission or a context may take.
fn limits() -> impl Strategy<Value = Limit> {
    prop_oneof![Just(Limit::Zero), Just(Limit::Past), Just(Limit::Far), Just(Limit::Max)]
}

fn endings() -> impl Strategy<Value = Ending> {
    let lengths = || prop_oneof![Just(0_usize), Just(40), Just(60), Just(100), Just(150)];
    let payloads =
        prop_oneof![Just(Payload::Str), Just(Payload::Text), Just(Payload::Number), Just(Payload::Bomb)];
    prop_oneof![
        3 => lengths().prop_map(Ending::Bytes),
        3 => lengths().prop_map(Ending::Obeys),
        1 => Just(Ending::Fails),
        1 => Just(Ending::Foreign),
        2 => payloads.prop_map(Ending::Panics),
    ]
}

fn children() -> impl Strategy<Value = Child> {
    let form = prop_oneof![
        3 => Just(Form::Submit),
        2 => Just(Form::Try),
        1 => Just(Form::Timeout(Limit::Zero)),
        1 => Just(Form::Timeout(Limit::Max)),
        1 => Just(Form::Deadline(Limit::Past)),
    ];
    (form, endings(), prop::bool::weighted(0.1), any::<bool>(), prop::bool::weighted(0.7))
        .prop_map(|(form, ending, bomb, derived, waited)| Child { form, ending, bomb, derived, waited })
}

fn specs() -> impl Strategy<Value = Spec> {
    let gate = prop_oneof![3 => Just(Gate::None), 3 => Just(Gate::Heedless), 3 => Just(Gate::Attentive)];
    let inside = prop_oneof![
        8 => Just(Inside::Nothing),
        3 => vec(children(), 1..3).prop_map(Inside::Nests),
        1 => any::<bool>().prop_map(|cancel| Inside::ShutsDown { cancel }),
    ];
    let limit = prop_oneof![
        16 => Just(Limit::None),
        2 => Just(Limit::Zero),
        1 => Just(Limit::Past),
        2 => Just(Limit::Far),
        1 => Just(Limit::Max),
        2 => Just(Limit::Soon),
    ];
    let context = prop_oneof![2 => Just(None), 2 => any::<u8>().prop_map(Some)];
    let flags = (any::<bool>(), prop::bool::weighted(0.15), any::<bool>());
    let watch = prop_oneof![6 => Just(Watch::Kept), 2 => Just(Watch::Dropped), 2 => Just(Watch::Awaited)];
    (gate, endings(), inside, context, limit, flags, watch).prop_map(
        |(gate, ending, inside, context, limit, (limit_first, bomb, typed), watch)| {
            // What it does inside it does when its gate has been opened.
            let gate = if inside == Inside::Nothing { gate } else { Gate::Heedless };
            Spec { gate, ending, inside, context, limit, limit_first, bomb, typed, watch }
        },
    )
}

fn ops() -> impl Strategy<Value = Op> {
    let cause = || prop_oneof![Just(None), (0..4_u8).prop_map(Some)];
    let derive = prop_oneof![
        4 => Just(Derive::Cancel),
        1 => Just(Derive::Value),
        1 => Just(Derive::WithoutCancel),
        2 => limits().prop_map(Derive::Limit),
    ];
    let look = prop_oneof![
        Just(Look::Wait),
        Just(Look::WaitTimeoutZero),
        Just(Look::WaitDeadlinePast),
        Just(Look::TryWait),
        Just(Look::Join),
        Just(Look::Done),
    ];
    let end = prop_oneof![
        4 => Just(End::Drain),
        4 => Just(End::Cancel),
        1 => Just(End::DrainFar),
        1 => Just(End::CancelFar),
        1 => Just(End::DrainNow),
        1 => Just(End::CancelNow),
    ];
    let which = any::<u8>;
    prop_oneof![
        30 => (specs(), forms(), any::<bool>(), any::<bool>())
            .prop_map(|(spec, form, lent, keep)| Op::Submit { spec, form, lent, keep }),
        3 => (which(), forms()).prop_map(|(which, form)| Op::Resubmit { which, form }),
        14 => which().prop_map(|which| Op::Open { which }),
        6 => (which(), cause()).prop_map(|(which, cause)| Op::CancelJob { which, cause }),
        7 => (which(), derive).prop_map(|(from, how)| Op::Derive { from, how }),
        5 => (which(), cause()).prop_map(|(which, cause)| Op::CancelContext { which, cause }),
        1 => which().prop_map(|which| Op::DropContext { which }),
        1 => which().prop_map(|which| Op::DropCanceller { which }),
        2 => (which(), any::<bool>()).prop_map(|(which, panics)| Op::OnDone { which, panics }),
        1 => which().prop_map(|which| Op::StopOnDone { which }),
        5 => (which(), look).prop_map(|(which, how)| Op::Look { which, how }),
        3 => (which(), any::<bool>()).prop_map(|(which, done)| Op::WaitElsewhere { which, done }),
        2 => which().prop_map(|which| Op::DropHandle { which }),
        2 => which().prop_map(|which| Op::Get { which }),
        2 => which().prop_map(|which| Op::Remove { which }),
        1 => Just(Op::Clear),
        3 => end.prop_map(|how| Op::Shutdown { how }),
        1 => Just(Op::DropDelegator),
    ]
}
