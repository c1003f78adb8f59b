//! Hands one job to a delegator and waits for what comes back.

use std::error::Error;

use workpath::{Delegator, Job};

fn main() -> Result<(), Box<dyn Error>> {
    let delegator = Delegator::builder().workers(2).build()?;

    let job = delegator.submit(Job::new("greeting", |_| Ok(b"hello from a worker".to_vec())))?;
    println!("submitted {} as {}", job.name(), job.id());

    let record = job.wait();
    println!("{record}");
    println!("{}", String::from_utf8_lossy(record.payload().unwrap_or_default()));
    Ok(())
}
