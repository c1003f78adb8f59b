//! What the delegator thread is told.

use crate::queue::Phase;

/// A message on the admin channel.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Directive {
    /// Stop accepting jobs, and serve what is queued or nothing more.
    Close(Phase),
    /// This worker has left its loop: join its thread.
    Stopped(usize),
    /// Leave the workers that still run to themselves.
    Detach,
}
