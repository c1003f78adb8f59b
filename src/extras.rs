//! What few jobs have, so that the others need not carry it.

/// The options of a job beyond its operation and its context. A job without any has no `Extras` at all.
#[derive(Default)]
pub(crate) struct Extras {}
