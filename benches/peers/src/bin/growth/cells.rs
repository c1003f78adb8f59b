//! The measurements, each run in a process of its own. A cell takes whole numbers and prints what it found.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use peers::meter::resident;
use workpath::{Context, Delegator, Job, JobHandle, Retention, Submitter};

/// Results left untaken at most.
pub const WINDOW: usize = 1_024;
/// Further away than any run lasts.
const LATER: Duration = Duration::from_secs(3_600);

pub fn run(arguments: &[String]) -> Result<(), String> {
    let (name, rest) = arguments.split_first().ok_or("a cell has a name")?;
    let numbers: Result<Vec<usize>, _> = rest.iter().map(|argument| argument.parse()).collect();
    let found = match (name.as_str(), numbers.map_err(|error| error.to_string())?.as_slice()) {
        ("stream", &[jobs, producers, window]) => stream_cell(jobs, producers, window),
        ("backlog", &[jobs]) => backlog_cell(jobs),
        ("layers", &[jobs, layers, kind]) => layers_cell(jobs, layers, kind == 1),
        ("deadlines", &[jobs, deadlines]) => deadlines_cell(jobs, deadlines),
        ("cancellers", &[jobs, cancellers]) => cancellers_cell(jobs, cancellers),
        ("cancel", &[descendants, listeners]) => cancel_cell(descendants, listeners),
        _ => return Err(format!("no cell {}", arguments.join(" "))),
    };
    let found: Vec<String> = found.iter().map(f64::to_string).collect();
    println!("{}", found.join(" "));
    Ok(())
}

fn two_workers() -> Delegator {
    Delegator::builder().workers(2).build().expect("the system gives a few threads")
}

fn empty_job() -> Job {
    Job::new("empty", |_| Ok(Vec::new()))
}

/// Submits `jobs` and takes them in order, at most `window` untaken.
fn pump(submitter: &Submitter, jobs: usize, window: usize, job: impl Fn() -> Job) {
    let mut open: VecDeque<JobHandle> = VecDeque::with_capacity(window);
    let take = |handle: JobHandle| assert_eq!(handle.wait().payload(), Some(&[][..]));
    for _ in 0..jobs {
        if open.len() == window {
            open.pop_front().into_iter().for_each(take);
        }
        open.push_back(submitter.submit(job()).expect("the delegator runs"));
    }
    open.into_iter().for_each(take);
}

/// Nanoseconds per job, after a warm-up of a tenth.
fn pace(submitter: &Submitter, jobs: usize, job: impl Fn() -> Job) -> f64 {
    pump(submitter, jobs / 10, WINDOW, &job);
    each(jobs, || pump(submitter, jobs, WINDOW, &job))
}

/// Nanoseconds for each of `count`; nothing takes no time.
fn each(count: usize, run: impl FnOnce()) -> f64 {
    let began = Instant::now();
    run();
    if count == 0 { 0.0 } else { began.elapsed().as_nanos() as f64 / count as f64 }
}

fn above(before: u64, now: u64) -> f64 {
    now as f64 - before as f64
}

fn stream_cell(jobs: usize, producers: usize, window: usize) -> Vec<f64> {
    let (before, _) = resident();
    let delegator = two_workers();
    pump(&delegator.submitter(), 1_000, WINDOW, empty_job);
    let time = each(jobs, || {
        thread::scope(|scope| {
            for _ in 0..producers {
                let submitter = delegator.submitter();
                scope.spawn(move || pump(&submitter, jobs / producers, window, empty_job));
            }
        });
    });
    let (_, most) = resident();
    vec![time, above(before, most)]
}

fn backlog_cell(jobs: usize) -> Vec<f64> {
    let (before, _) = resident();
    let builder = Delegator::builder().workers(1).queue_capacity(jobs + 1).retain(Retention::last(jobs + 1));
    let delegator = builder.build().expect("the system gives a few threads");
    let (open, gate) = crossbeam_channel::bounded::<()>(0);
    let (ready, started) = crossbeam_channel::bounded::<()>(1);
    let first = delegator.submit(Job::new("gate", move |_| {
        ready.send(()).map_err(|_| "nobody waits for the gate")?;
        // Ends with an error when the other side is dropped, which opens the gate.
        let _ = gate.recv();
        Ok(Vec::new())
    }));
    let first = first.expect("the delegator runs");
    started.recv().expect("the gate starts");

    let queue = each(jobs, || {
        for _ in 0..jobs {
            drop(delegator.submit(empty_job()).expect("the delegator runs"));
        }
    });
    let queued = above(before, resident().0) / jobs as f64;
    let run = each(jobs, || {
        drop(open);
        drop(first.wait());
        delegator.wait_idle();
    });
    let retained = above(before, resident().0) / jobs as f64;
    assert_eq!(delegator.registry().len(), jobs + 1);
    vec![queue, queued, run, retained]
}

fn layers_cell(jobs: usize, layers: usize, values: bool) -> Vec<f64> {
    const KEYS: [&str; 2] = ["outermost", "inner"];
    const BUILDS: usize = 2_000;
    const LOOKS: usize = 1_000_000;
    let build = || {
        let mut cancellers = Vec::new();
        let mut context = Context::background();
        for layer in 0..layers {
            context = if values {
                context.with_value(KEYS[layer.min(1)], layer)
            } else {
                let (child, canceller) = context.with_cancel();
                cancellers.push(canceller);
                child
            };
        }
        (context, cancellers)
    };
    let adding = each(BUILDS * layers, || {
        for _ in 0..BUILDS {
            black_box(build());
        }
    });
    let (context, _cancellers) = build();
    let checking = each(LOOKS, || {
        for _ in 0..LOOKS {
            black_box(&context).check().expect("nobody cancels");
        }
    });
    let looking = each(LOOKS, || {
        for _ in 0..LOOKS {
            black_box(black_box(&context).value::<usize>(black_box(KEYS[0])));
        }
    });
    let delegator = two_workers();
    let time = pace(&delegator.submitter(), jobs, || empty_job().with_context(&context));
    vec![time, adding, checking, looking]
}

fn deadlines_cell(jobs: usize, deadlines: usize) -> Vec<f64> {
    let delegator = two_workers();
    let submitter = delegator.submitter();
    pump(&submitter, 10_000, WINDOW, empty_job);
    let mut held = Vec::with_capacity(deadlines);
    let (before, _) = resident();
    let adding = each(deadlines, || {
        for place in 0..deadlines {
            // Not in order, as deadlines rarely are.
            let context = Context::background()
                .with_timeout(LATER + Duration::from_micros(place as u64 * 7_919 % 100_003));
            let listener = context.on_done(|| ());
            held.push((context, listener));
        }
    });
    let weight = above(before, resident().0) / deadlines.max(1) as f64;
    let plain = pace(&submitter, jobs, empty_job);
    let timed = pace(&submitter, jobs, || empty_job().with_timeout(LATER));
    let stopping = each(deadlines, || {
        for (context, listener) in held {
            assert!(listener.stop());
            drop(context);
        }
    });
    vec![adding, weight, plain, timed, stopping]
}

fn cancellers_cell(jobs: usize, cancellers: usize) -> Vec<f64> {
    let delegator = two_workers();
    let submitter = delegator.submitter();
    pump(&submitter, 10_000, WINDOW, empty_job);
    let (root, _root_canceller) = Context::background().with_cancel();
    let mut held = Vec::with_capacity(cancellers);
    let (before, _) = resident();
    let adding = each(cancellers, || held.extend((0..cancellers).map(|_| root.with_cancel())));
    let weight = above(before, resident().0) / cancellers.max(1) as f64;
    let time = pace(&submitter, jobs, || empty_job().with_context(&root.with_cancel().0));
    let dropping = each(cancellers, || drop(held));
    vec![adding, weight, time, dropping]
}

fn cancel_cell(descendants: usize, listeners: usize) -> Vec<f64> {
    const BRANCHES: usize = 10;
    let (root, canceller) = Context::background().with_cancel();
    let mut tree = vec![(root, canceller)];
    for place in 0..descendants {
        let child = tree[place / BRANCHES].0.with_cancel();
        tree.push(child);
    }
    let heard = Arc::new(AtomicUsize::new(0));
    let registered: Vec<_> = (0..listeners)
        .map(|listener| {
            let place = 1 + listener * descendants / listeners;
            let heard = Arc::clone(&heard);
            tree[place].0.on_done(move || {
                heard.fetch_add(1, Relaxed);
            })
        })
        .collect();
    let began = Instant::now();
    tree[0].1.cancel();
    let time = began.elapsed();
    assert_eq!(heard.load(Relaxed), listeners, "all have run when `cancel` returns");
    assert!(tree.iter().all(|(context, _)| context.is_done()));
    drop(registered);
    vec![time.as_nanos() as f64 / 1_000.0]
}
