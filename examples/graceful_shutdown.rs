//! A service that runs until SIGTERM, Ctrl-C or the end of its time (`SECONDS`, or one), and accounts for every job.

use std::error::Error;
use std::time::Duration;

use workpath::{Canceller, Context, Delegator, Job, Shutdown};

#[cfg(unix)]
fn stop_on_signal(service: Canceller) -> std::io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};

    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            service.cancel_with(format!("signal {signal}"));
        }
    });
    Ok(())
}

#[cfg(not(unix))]
fn stop_on_signal(_: Canceller) -> std::io::Result<()> {
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let time = Duration::from_secs(std::env::args().nth(1).map_or(Ok(1), |seconds| seconds.parse())?);
    let (service, canceller) = Context::background().with_timeout(time).with_cancel();
    stop_on_signal(canceller)?;

    // A request every 8 ms, and 20 ms of work for each: two workers cannot quite keep up.
    let delegator = Delegator::builder().workers(2).build()?;
    let mut requests = 0;
    while service.sleep(Duration::from_millis(8)).is_ok() {
        requests += 1;
        let request = Job::new(format!("request {requests}"), |ctx| {
            ctx.sleep(Duration::from_millis(20))?;
            Ok(Vec::new())
        });
        drop(delegator.submit(request)?);
    }
    println!("no more after {requests} requests: {}", service.check().unwrap_err());

    // A tenth of a second for what is queued. What has not begun by then comes back.
    let report = delegator.shutdown(Shutdown::drain().within(Duration::from_millis(100)));
    println!("since then {} completed, {} cancelled", report.completed, report.cancelled);
    for job in &report.unstarted {
        println!("for the next start: {}", job.name());
    }
    println!("stuck workers: {}", report.stuck.len());
    Ok(())
}
