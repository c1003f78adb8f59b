//! How a run ends early: a signal cancels it, and the exit status tells.

use std::error::Error;
use std::fmt;
use std::io;

use workpath::{Canceller, Context};

/// The cause that a signal gives when it cancels the run.
#[derive(Debug)]
struct Interrupted {
    signal: i32,
    name: &'static str,
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Error for Interrupted {}

/// Lets Ctrl-C and SIGTERM cancel the run.
#[cfg(unix)]
pub(crate) fn on_signal(run: Canceller) -> io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::{iterator::Signals, low_level::signal_name};

    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            run.cancel_with(Interrupted { signal, name: signal_name(signal).unwrap_or("a signal") });
        }
    })?;
    Ok(())
}

/// Elsewhere Ctrl-C just ends the process.
#[cfg(not(unix))]
pub(crate) fn on_signal(_run: Canceller) -> io::Result<()> {
    Ok(())
}

/// The exit status of a run that did not get through: as a shell shows a signal, or 1.
pub(crate) fn exit_status(run: &Context) -> u8 {
    let error = run.error();
    let cause = error.as_ref().and_then(|error| error.get_ref()?.downcast_ref::<Interrupted>());
    cause.map_or(1, |cause| 128 + cause.signal as u8)
}
