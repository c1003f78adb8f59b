//! What the programs of this crate share: what they measure with, and how they say where they measured.
//!
//! The default program, `peers`, runs the same work on `workpath` and on its peers. `growth` shows what a job costs as
//! numbers grow, and `bytes` what a queued job and a retained record weigh.

pub mod alloc;
pub mod child;
pub mod machine;
pub mod meter;
pub mod stats;
