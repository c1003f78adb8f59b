//! A run that can be killed and goes on where it was: SHA-256 sums of all files in a folder, through a queue in one file.
//!
//!     cargo run --release --features sqlite --example outbox -- FOLDER QUEUE SUMS
//!
//! Kill it with `kill -9` and start it again: what has its line in SUMS is skipped, and so is what waits in QUEUE. An
//! order may run twice, if the kill comes between its line and its settlement; the line is the same then, so readers do
//! not mind. `sqlite3 QUEUE 'SELECT * FROM queue'` shows what is left meanwhile.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::time::Duration;

use sha2::{Digest, Sha256};
use workpath::{Catalog, Delegator, Order, OrderQueue, QueueErrorKind, Serve, Shutdown, SqliteQueue};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, file, sums] = &arguments[..] else {
        return Err("usage: outbox FOLDER QUEUE SUMS".into());
    };
    let queue = SqliteQueue::open(file)?;
    let out = File::options().create(true).append(true).open(sums)?;
    let done = fs::read_to_string(sums)?;
    let done: HashSet<&str> = done.lines().filter_map(|line| Some(line.split_once("  ")?.1)).collect();

    let catalog = Catalog::new().with("sum", move |ctx, order| {
        let path = std::str::from_utf8(order.payload())?;
        let bytes = fs::read(path)?;
        let mut sum = Sha256::new();
        for chunk in bytes.chunks(1 << 20) {
            ctx.check()?; // a cancel, or the end of the program
            sum.update(chunk);
        }
        let sum: String = sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        (&out).write_all(format!("{sum}  {path}\n").as_bytes())?; // in one piece: a line is there or not
        Ok(sum.into_bytes())
    });
    let delegator = Delegator::builder().build()?;
    let serving = delegator.serve(&queue, &catalog, Serve::options().prefetch(16))?;

    let (mut new, mut waiting, mut skipped) = (0, 0, 0);
    for entry in walkdir::WalkDir::new(folder).sort_by_file_name() {
        let entry = entry?;
        let path = entry.path().display().to_string();
        if !entry.file_type().is_file() {
            continue;
        }
        if done.contains(&*path) {
            skipped += 1;
            continue;
        }
        let order = Order::new("sum").with_payload(path.as_str()).with_attempts(3).with_unique_key(path);
        match queue.enqueue(order) {
            Ok(_) => new += 1,
            Err(error) if error.kind() == QueueErrorKind::Duplicate => waiting += 1,
            Err(error) => return Err(error.into()),
        }
    }
    println!("{skipped} files were done before, {waiting} were in the queue, {new} are new");
    loop {
        let counts = queue.counts()?;
        if counts.waiting + counts.delayed + counts.leased == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    serving.stop(Shutdown::drain());
    for letter in queue.dead_letters(10)? {
        let path = letter.order.map(|order| String::from_utf8_lossy(order.payload()).into_owned());
        println!("{}: {}", path.unwrap_or_default(), letter.reason);
    }
    println!("all sums are in {sums}");
    Ok(())
}
