//! The crawl: what is known, what is under way, and what came of it.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use workpath::{Context, Delegator, Job, JobId, JobRecord, JobSet, SubmitError};

use crate::fetch::{Failure, Fetch};
use crate::url::{self, Url};

/// Everything belongs to the thread that crawls: workers fetch, and never wait for a host to have a place.
pub(crate) struct Crawl {
    run: Context,
    set: JobSet,
    per_host: usize,
    hosts: BTreeMap<SocketAddr, Host>,
    seen: HashSet<Url>,
    under_way: HashMap<JobId, Url>,
    tally: Tally,
}

#[derive(Default)]
struct Host {
    waiting: VecDeque<Url>,
    under_way: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Tally {
    fetched: u64,
    failures: BTreeMap<String, u64>,
    duplicates: u64,
    outside: u64,
    /// Found, and not asked for or not answered before the end.
    pub(crate) left: usize,
}

impl Crawl {
    /// A crawl that stays on these hosts and ends with `run`.
    pub(crate) fn new(
        run: &Context,
        delegator: &Delegator,
        per_host: usize,
        hosts: impl Iterator<Item = SocketAddr>,
    ) -> Crawl {
        Crawl {
            run: run.clone(),
            set: delegator.job_set().with_context(run),
            per_host,
            hosts: hosts.map(|host| (host, Host::default())).collect(),
            seen: HashSet::new(),
            under_way: HashMap::new(),
            tally: Tally::default(),
        }
    }

    /// Fetches this page and all that can be reached from it. What goes wrong is said by URL.
    pub(crate) fn from(mut self, start: Url, say: impl Fn(&str)) -> Result<Tally, SubmitError> {
        self.found(Some(start));
        loop {
            self.submit()?;
            let Some(record) = self.set.next_finished(Duration::MAX) else { break };
            let Some(url) = self.under_way.remove(&record.id()) else { continue };
            self.take(&url, &record, &say);
        }
        self.tally.left += self.hosts.values().map(|host| host.waiting.len()).sum::<usize>();
        Ok(self.tally)
    }

    /// Hands out what waits, as much as each host may be asked for at a time.
    fn submit(&mut self) -> Result<(), SubmitError> {
        for host in self.hosts.values_mut() {
            while host.under_way < self.per_host && !self.run.is_done() {
                let Some(url) = host.waiting.pop_front() else { break };
                let id = self.set.submit(Job::from_operation(Fetch(url.clone())))?;
                host.under_way += 1;
                self.under_way.insert(id, url);
            }
        }
        Ok(())
    }

    fn take(&mut self, url: &Url, record: &JobRecord, say: &impl Fn(&str)) {
        if let Some(host) = self.hosts.get_mut(&url.host) {
            host.under_way -= 1;
        }
        match record.result() {
            Ok(body) => {
                self.tally.fetched += 1;
                for link in url::links(&String::from_utf8_lossy(body)) {
                    self.found(url.join(link));
                }
            }
            Err(error) => {
                say(&format!("{url}: {error}"));
                if error.is_timeout() || error.is_cancelled() {
                    self.tally.left += 1;
                } else {
                    *self.tally.failures.entry(Failure::kind_of(error)).or_default() += 1;
                }
            }
        }
    }

    fn found(&mut self, url: Option<Url>) {
        let known = url.and_then(|url| Some((self.hosts.get_mut(&url.host)?, url)));
        let Some((host, url)) = known else {
            self.tally.outside += 1;
            return;
        };
        if self.seen.insert(url.clone()) {
            host.waiting.push_back(url);
        } else {
            self.tally.duplicates += 1;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed: u64 = self.failures.values().sum();
        writeln!(f, "pages: {} fetched, {failed} failed, {} left", self.fetched, self.left)?;
        for (kind, count) in &self.failures {
            writeln!(f, "failed: {count} {kind}")?;
        }
        write!(f, "links: {} duplicates skipped, {} to other sites", self.duplicates, self.outside)
    }
}
