//! The tables: which figures each asks for, and what it says about them.

use std::fmt::Write;
use std::iter;

use peers::stats::{figure, thousands};

use crate::Plan;
use crate::cells::WINDOW;

/// Appends a table to the text.
type Table = fn(&Plan, &mut String) -> Result<(), String>;

/// All tables in their order, by name.
pub const ALL: [(&str, Table); 7] = [
    ("jobs", jobs),
    ("backlog", backlog),
    ("producers", producers),
    ("layers", layers),
    ("deadlines", deadlines),
    ("cancellers", cancellers),
    ("cancel", cancel),
];

fn jobs(plan: &Plan, text: &mut String) -> Result<(), String> {
    let what = "Submitted and taken by one thread, at most 1,024 untaken. Memory is the most that was resident, above the \
                program before it.";
    table(text, "Jobs", what, &["jobs", "ns per job", "MiB in all"]);
    for jobs in plan.powers(4, 7) {
        let found = plan.measure("stream", &[jobs, 1, WINDOW])?;
        row(text, jobs, [figure(found[0]), mib(found[1])]);
    }
    Ok(())
}

fn backlog(plan: &Plan, text: &mut String) -> Result<(), String> {
    let what = "All jobs are queued behind one that waits, then run on one worker and are all retained; handles are dropped \
                at once. Resident bytes per job: while queued, with the place in the queue; and when retained, with the \
                queue, which is still there.";
    let head = ["jobs", "ns to queue", "bytes queued", "ns to run", "bytes retained"];
    table(text, "Backlog", what, &head);
    for jobs in plan.powers(4, 7) {
        row(text, jobs, plan.measure("backlog", &[jobs])?.into_iter().map(figure));
    }
    Ok(())
}

fn producers(plan: &Plan, text: &mut String) -> Result<(), String> {
    let what = "As many threads submit and take. First with 1,024 results untaken between them, so that 64 producers wait \
                for each other's turn after every 16 jobs; then with 1,024 each, so that they wait for room in the queue.";
    let head =
        ["producers", "ns per job, 1,024 in all", "MiB in all", "ns per job, 1,024 each", "MiB in all"];
    table(text, "Producers", what, &head);
    for producers in doublings() {
        let shared = plan.measure("stream", &[2 * plan.length(), producers, WINDOW / producers])?;
        let own = plan.measure("stream", &[2 * plan.length(), producers, WINDOW])?;
        row(text, producers, [figure(shared[0]), mib(shared[1]), figure(own[0]), mib(own[1])]);
    }
    Ok(())
}

fn layers(plan: &Plan, text: &mut String) -> Result<(), String> {
    let what = "All jobs share one context, so many layers deep. Beside the time per job, what the context itself costs: to \
                build, per layer; to ask whether it is done; and to look up a value that the outermost layer has. All in \
                nanoseconds.";
    let head = [
        "layers",
        "job, cancellers",
        "job, values",
        "add a canceller",
        "add a value",
        "`check`, cancellers",
        "`check`, values",
        "`value`, values",
    ];
    table(text, "Layers of context", what, &head);
    for layers in doublings() {
        let cancel = plan.measure("layers", &[plan.length(), layers, 0])?;
        let value = plan.measure("layers", &[plan.length(), layers, 1])?;
        let found = [cancel[0], value[0], cancel[1], value[1], cancel[2], value[2], value[3]];
        row(text, layers, found.map(figure));
    }
    Ok(())
}

fn deadlines(plan: &Plan, text: &mut String) -> Result<(), String> {
    let what = "So many contexts with a deadline an hour away are alive meanwhile, each with a function in `on_done`.";
    let head =
        ["deadlines", "ns to add", "bytes each", "ns per job", "ns per job with a timeout", "ns to stop"];
    table(text, "Pending deadlines", what, &head);
    for deadlines in iter::once(0).chain(plan.powers(4, 5)) {
        let found = plan.measure("deadlines", &[plan.length(), deadlines])?;
        row(text, deadlines, found.into_iter().map(figure));
    }
    Ok(())
}

fn cancellers(plan: &Plan, text: &mut String) -> Result<(), String> {
    let what = "So many children of one context are alive meanwhile, each with a canceller; every job has such a child of \
                its own.";
    table(
        text,
        "Live cancellers",
        what,
        &["cancellers", "ns to add", "bytes each", "ns per job", "ns to drop"],
    );
    for cancellers in iter::once(0).chain(plan.powers(4, 5)) {
        let found = plan.measure("cancellers", &[plan.length(), cancellers])?;
        row(text, cancellers, found.into_iter().map(figure));
    }
    Ok(())
}

fn cancel(plan: &Plan, text: &mut String) -> Result<(), String> {
    let what = "Microseconds for `cancel()` on the root of a tree in which every context has ten children, by how many of \
                its descendants have a function in `on_done`. When it returns, all functions have run.";
    let listeners = [0, 10, 100, 1_000, 10_000, 100_000];
    let names = listeners.map(|count| format!("{} listen", thousands(count as i64)));
    let head: Vec<&str> = iter::once("descendants").chain(names.iter().map(String::as_str)).collect();
    table(text, "Cancelling a root", what, &head);
    for descendants in plan.powers(3, 5) {
        let time = |count| match count <= descendants {
            true => plan.measure("cancel", &[descendants, count]).map(|found| figure(found[0])),
            false => Ok(String::new()),
        };
        row(text, descendants, listeners.into_iter().map(time).collect::<Result<Vec<_>, _>>()?);
    }
    Ok(())
}

fn doublings() -> impl Iterator<Item = usize> {
    (0..=6).map(|power| 1 << power)
}

fn table(text: &mut String, title: &str, what: &str, head: &[&str]) {
    let rule = "--:|".repeat(head.len());
    *text += &format!("\n## {title}\n\n{what}\n\n| {} |\n|{rule}\n", head.join(" | "));
}

fn row(text: &mut String, key: usize, cells: impl IntoIterator<Item = String>) {
    let cells: Vec<String> = cells.into_iter().collect();
    writeln!(text, "| {} | {} |", thousands(key as i64), cells.join(" | "))
        .expect("a string takes everything");
}

fn mib(bytes: f64) -> String {
    figure(bytes / f64::from(1 << 20))
}
