//! Something of everything, for a second and a half.

use std::thread;
use std::time::Duration;

use workpath::{Context, Delegator, Error, Job, Priority, Submitter};

/// Submits all of it. The delegator is still at it when this returns.
pub(crate) fn run(delegator: &Delegator) -> Result<(), Box<dyn std::error::Error>> {
    let (imports, canceller) = Context::background().with_cancel();

    for beat in 0..26 {
        match beat {
            // A burst: more than the workers get through before the next one.
            0 | 12 => {
                for n in 0..36 {
                    submit(delegator, nap("thumbnail", 5 + n % 7 * 3).with_priority(Priority::Low))?;
                }
            }
            2 => submit(delegator, nap("report", 420))?,
            4 => submit(delegator, index(delegator.submitter(), 4))?,
            // Eight at once, each in need of a worker within 150 ms. Some wait for too long.
            7 => {
                for n in 0..8 {
                    let quote = nap("quote", 50 + n * 12).with_timeout(Duration::from_millis(150));
                    submit(delegator, quote)?;
                }
            }
            // A group that is called off while most of it still waits.
            15 => {
                for _ in 0..12 {
                    submit(delegator, nap("import", 200).with_context(&imports))?;
                }
            }
            17 => submit(delegator, index(delegator.submitter(), 4))?,
            20 => canceller.cancel_with("superseded"),
            22 => submit(delegator, index(delegator.submitter(), 5))?,
            23 => submit(delegator, nap("report", 260))?,
            _ => {}
        }
        if beat % 3 == 1 {
            submit(delegator, nap("urgent", 12).with_priority(Priority::High))?;
        }
        if beat % 6 == 5 {
            submit(delegator, Job::new("upload", upload))?;
        }
        if beat % 10 == 6 {
            submit(delegator, Job::new("parse", parse))?;
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// The record tells the rest.
fn submit(delegator: &Delegator, job: Job) -> Result<(), Box<dyn std::error::Error>> {
    let _handle = delegator.submit(job)?;
    Ok(())
}

fn nap(name: &'static str, millis: u64) -> Job {
    Job::new(name, move |ctx| sleep(ctx, millis).map(|()| Vec::new()))
}

/// A job that submits others and waits for them: whatever is queued by then, it runs itself.
fn index(submitter: Submitter, parts: usize) -> Job {
    Job::new("index", move |ctx| {
        sleep(ctx, 20)?;
        let parts: Result<Vec<_>, _> = (0..parts).map(|_| submitter.submit(nap("part", 45))).collect();
        for part in parts? {
            part.join()?;
        }
        sleep(ctx, 15)?;
        Ok(Vec::new())
    })
}

fn upload(ctx: &Context) -> Result<Vec<u8>, Error> {
    sleep(ctx, 60)?;
    Err("connection refused".into())
}

fn parse(ctx: &Context) -> Result<Vec<u8>, Error> {
    sleep(ctx, 70)?;
    panic!("line 17: no such field")
}

fn sleep(ctx: &Context, millis: u64) -> Result<(), Error> {
    ctx.sleep(Duration::from_millis(millis))
}
