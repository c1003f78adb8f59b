//! A full queue says so, and gives the job back: run it later, wait a little for it, or do without.

use std::error::Error;
use std::time::Duration;

use workpath::{Delegator, Job, SubmitError};

fn main() -> Result<(), Box<dyn Error>> {
    let delegator = Delegator::builder().workers(1).queue_capacity(2).build()?;
    let (mut accepted, mut late, mut dropped) = (Vec::new(), 0, 0);

    for n in 0..20 {
        let job = Job::new(format!("frame {n}"), |ctx| {
            ctx.sleep(Duration::from_millis(10))?;
            Ok(Vec::new())
        });

        // Never blocks. `submit` would, until there is room.
        match delegator.try_submit(job) {
            Ok(handle) => accepted.push(handle),

            // It is the same job, with the same id: nothing has to be built again.
            Err(SubmitError::Full(job)) => match delegator.submit_timeout(job, Duration::from_millis(6)) {
                Ok(handle) => {
                    late += 1;
                    accepted.push(handle);
                }
                Err(refused) => {
                    dropped += 1;
                    println!("dropped {}", refused.into_job().name());
                }
            },
            Err(other) => return Err(other.into()),
        }
    }
    println!("{} accepted, {late} of them after a wait, {dropped} dropped", accepted.len());

    for job in accepted {
        job.join()?;
    }
    println!("refused by the queue: {} times", delegator.stats().rejected);
    Ok(())
}
