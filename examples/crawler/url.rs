//! Addresses of pages, and the links in them.

use std::fmt;
use std::net::SocketAddr;

/// `http://127.0.0.1:8080/path`: as much of a URL as a crawl without names needs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Url {
    pub(crate) host: SocketAddr,
    /// Begins with a slash, and has no fragment.
    pub(crate) path: String,
}

impl Url {
    /// The page that a link on this one leads to. `None` if it is on no host that has a number.
    ///
    /// A fragment is a place within a page, so it goes: two links to two places lead to one page.
    pub(crate) fn join(&self, link: &str) -> Option<Url> {
        let link = link.split_once('#').map_or(link, |(page, _)| page);
        let (host, path) = match link.strip_prefix("http://") {
            Some(rest) => {
                let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                (host.parse().ok()?, path)
            }
            None if link.is_empty() => (self.host, &*self.path),
            None if link.starts_with('/') => (self.host, link),
            None => return None,
        };
        Some(Url { host, path: if path.is_empty() { "/" } else { path }.to_owned() })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.host, self.path)
    }
}

/// What stands in every `href="..."`, in order.
pub(crate) fn links(html: &str) -> impl Iterator<Item = &str> {
    html.split("href=\"").skip(1).filter_map(|rest| Some(rest.split_once('"')?.0))
}
