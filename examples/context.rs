//! What a job gets from its context: values, a deadline, and the word to stop, with the reason.

use std::error::Error;
use std::thread;
use std::time::Duration;

use workpath::{Context, Delegator, Job};

fn count(ctx: &Context) -> Result<Vec<u8>, workpath::Error> {
    let step = *ctx.value::<Duration>("step").ok_or("how fast?")?;
    let mut count: u32 = 0;
    while count < 10 {
        ctx.sleep(step)?; // returns early when the context is done
        count += 1;
    }
    Ok(count.to_string().into_bytes())
}

fn main() -> Result<(), Box<dyn Error>> {
    let delegator = Delegator::builder().workers(3).build()?;
    let app = Context::background().with_value("step", Duration::from_millis(20));

    // A value from above, unless it is overridden further down.
    let fast = app.with_value("step", Duration::from_millis(1));
    let in_time = delegator.submit(Job::new("in time", count).with_context(&fast))?;

    // A deadline. A job below this context could ask for less time, not for more.
    let hurried = app.with_timeout(Duration::from_millis(50));
    let too_slow = delegator.submit(Job::new("too slow", count).with_context(&hurried))?;

    // A cancel from another thread.
    let (session, canceller) = app.with_cancel();
    let unwanted = delegator.submit(Job::new("unwanted", count).with_context(&session))?;
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(30));
        canceller.cancel_with("the user closed the window");
    });

    for job in [in_time, too_slow, unwanted] {
        let record = job.wait();
        match record.result() {
            Ok(count) => println!("{}: counted to {}", record.name(), String::from_utf8_lossy(count)),
            Err(error) => println!("{}: {error}, after {:.0?}", record.name(), record.run_time()),
        }
    }
    Ok(())
}
