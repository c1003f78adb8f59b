//! The operation: read one file in chunks, and stop between two of them when told to.

use std::borrow::Cow;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sha2::{Digest, Sha256};
use workpath::{Context, Error, Operation};

use crate::line;

/// The key under which the run's context carries its [`Meter`].
pub(crate) const METER: &str = "meter";

/// What is read between two looks at the context: well under a millisecond of work.
const CHUNK: usize = 64 * 1024;

/// The bytes read so far, by all workers.
#[derive(Debug, Default)]
pub(crate) struct Meter(AtomicU64);

impl Meter {
    /// The bytes read so far in the run that `ctx` belongs to.
    pub(crate) fn reading(ctx: &Context) -> u64 {
        ctx.value::<Meter>(METER).map_or(0, |meter| meter.0.load(Ordering::Relaxed))
    }
}

/// Digests one file. The payload is the finished line, so that printing needs nothing but the record.
pub(crate) struct HashFile {
    pub(crate) path: PathBuf,
    /// Counted from the first byte and not from submission: a file is not to blame for the queue before it.
    pub(crate) limit: Option<Duration>,
}

impl Operation for HashFile {
    fn name(&self) -> Cow<'_, str> {
        self.path.to_string_lossy()
    }

    fn run(&self, ctx: &Context) -> Result<Vec<u8>, Error> {
        let Some(limit) = self.limit else {
            return self.digest(ctx);
        };
        self.digest(&ctx.with_timeout(limit)).map_err(|error| {
            // From below, the limit of this file and the end of the whole run look alike.
            if error.is_timeout() && !ctx.is_done() {
                format!("not read within {limit:?}").into()
            } else {
                error
            }
        })
    }
}

impl HashFile {
    fn digest(&self, ctx: &Context) -> Result<Vec<u8>, Error> {
        let meter = ctx.value::<Meter>(METER).ok_or("no meter in the context")?;
        let mut file = File::open(&self.path)?;
        let mut hasher = Sha256::new();
        let mut chunk = [0; CHUNK];
        loop {
            ctx.check()?;
            match file.read(&mut chunk) {
                Ok(0) => return Ok(line::format(&hasher.finalize(), &self.path)),
                Ok(read) => {
                    hasher.update(&chunk[..read]);
                    meter.0.fetch_add(read as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
