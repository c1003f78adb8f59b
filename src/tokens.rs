//! Names for data: what `Display` says in words, as one word that never changes.

use crate::error::{ErrorKind, SubmitErrorKind};
use crate::priority::Priority;
use crate::provenance::Origin;
use crate::state::JobState;

pub(crate) trait Token: Copy + 'static {
    /// All values.
    #[cfg(feature = "serde")]
    const ALL: &'static [Self];

    fn token(self) -> &'static str;
}

macro_rules! tokens {
    ($($type:ident { $($variant:ident => $token:literal,)* })*) => {$(
        impl Token for $type {
            #[cfg(feature = "serde")]
            const ALL: &'static [$type] = &[$($type::$variant),*];

            fn token(self) -> &'static str {
                match self {
                    $($type::$variant => $token,)*
                }
            }
        }
    )*};
}

tokens! {
    JobState {
        Scheduled => "scheduled",
        Queued => "queued",
        Running => "running",
        Completed => "completed",
        Failed => "failed",
        Panicked => "panicked",
        Cancelled => "cancelled",
        TimedOut => "timed_out",
    }
    Priority {
        High => "high",
        Normal => "normal",
        Low => "low",
    }
    ErrorKind {
        Operation => "operation",
        Panicked => "panicked",
        Cancelled => "cancelled",
        DeadlineExceeded => "deadline_exceeded",
    }
    SubmitErrorKind {
        Full => "full",
        Timeout => "timeout",
        WouldMissDeadline => "would_miss_deadline",
        ShutDown => "shut_down",
    }
    Origin {
        User => "user",
        Displaced => "displaced",
        Deadline => "deadline",
        JobSet => "job_set",
        Shutdown => "shutdown",
        OrderQueue => "order_queue",
    }
}
