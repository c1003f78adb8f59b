//! A job that submits jobs and waits for them, to any depth, on a single worker.

use std::error::Error;
use std::ops::Range;

use workpath::{Delegator, Job, Submitter};

/// Adds up a range by halves, each half a job of its own.
fn sum(range: Range<u64>, submitter: Submitter) -> Job {
    Job::new(format!("{range:?}"), move |ctx| {
        ctx.check()?;
        let Range { start, end } = range;
        let total = if end - start <= 10 {
            range.clone().sum()
        } else {
            let middle = start + (end - start) / 2;
            // With this context, whatever ends the whole ends the parts, too.
            let low = submitter.submit(sum(start..middle, submitter.clone()).with_context(ctx))?;
            let high = submitter.submit(sum(middle..end, submitter.clone()).with_context(ctx))?;
            // Waiting for a part that no worker has begun runs it right here, so the wait always ends.
            number(&low.join()?) + number(&high.join()?)
        };
        Ok(total.to_le_bytes().to_vec())
    })
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

fn main() -> Result<(), Box<dyn Error>> {
    let delegator = Delegator::builder().workers(1).queue_capacity(1).build()?;
    let total = delegator.submit(sum(0..10_000, delegator.submitter()))?.join()?;
    let jobs = delegator.stats().completed;
    println!("{} from {jobs} jobs on one worker", number(&total));
    Ok(())
}
