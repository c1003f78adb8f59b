//! A small device: two workers with 64 KiB stacks and bounded memory read sensors, and skip a beat rather than fall behind.

use std::error::Error;
use std::time::Duration;

use crossbeam_channel::tick;
use workpath::{Context, Delegator, Job, Retention};

/// Stands for a bus that is slow three times in ten.
fn read_sensor(ctx: &Context, beat: u16) -> Result<Vec<u8>, workpath::Error> {
    ctx.sleep(Duration::from_millis(if beat % 10 < 3 { 60 } else { 5 }))?;
    let celsius_tenths = 200 + beat % 17;
    Ok(celsius_tenths.to_le_bytes().to_vec())
}

fn main() -> Result<(), Box<dyn Error>> {
    // Stacks, queue and records: everything that could grow has an end.
    let delegator = Delegator::builder()
        .workers(2)
        .stack_size(64 * 1024)
        .queue_capacity(1)
        .retain(Retention::last(8).max_bytes(1024))
        .build()?;

    for (beat, _) in (0..100).zip(tick(Duration::from_millis(10))) {
        // A reading that is not there after 40 ms is of no use any more.
        let limit = Duration::from_millis(40);
        let job = Job::new("temperature", move |ctx| read_sensor(ctx, beat)).with_timeout(limit);
        if delegator.try_submit(job).is_err() {
            println!("beat {beat}: the bus is busy, skipped");
        }
    }
    delegator.wait_idle();

    let stats = delegator.stats();
    println!("{} read, {} too late, {} skipped", stats.completed, stats.timed_out, stats.rejected);
    for record in delegator.registry().records() {
        if let Some(&[low, high]) = record.payload() {
            let tenths = u16::from_le_bytes([low, high]);
            println!("{:.1} degrees, read in {:.0?}", f32::from(tenths) / 10.0, record.run_time());
        }
    }
    Ok(())
}
