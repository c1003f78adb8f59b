//! Background jobs for programs without an async runtime.

#![forbid(unsafe_code)]

mod builder;
mod clock;
mod context;
mod delegator;
mod directive;
mod engine;
mod error;
mod handle;
mod id;
mod job;
mod panics;
mod queue;
mod record;
mod registry;
mod state;
mod sync;
mod task;
mod worker;

pub use builder::{BuildError, Builder};
pub use context::{Canceller, Context, OnDone};
pub use delegator::{Delegator, Shutdown, ShutdownReport, Stats, SubmitError, Submitter, WorkerStatus};
pub use error::{Error, ErrorKind};
pub use handle::JobHandle;
pub use id::{JobId, ParseJobIdError};
pub use job::{Job, Operation};
pub use record::JobRecord;
pub use registry::{Registry, Retention};
pub use state::JobState;
