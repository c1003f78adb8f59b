//! What the delegator thread is told.

/// A message on the admin channel.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Directive {
    /// The alarm was set to an earlier tick.
    Look,
    /// This worker has left its loop.
    Stopped(usize),
    /// Leave the workers that still run to themselves.
    Detach,
}
