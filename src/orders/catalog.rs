//! What the operations of orders do.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::order::{Order, unix_now};
use super::queue::QueueError;
use crate::context::Context;
use crate::error::Error;
use crate::job::Job;

pub(crate) type CatalogOperation = Arc<dyn Fn(&Context, &Order) -> Result<Vec<u8>, Error> + Send + Sync>;

/// Operations by name: what turns an [`Order`] into a [`Job`].
///
/// Every process that runs orders has a catalog, and those that only make them need none. A clone is cheap and has the same
/// operations.
///
/// # Examples
///
/// ```
/// use workpath::{Catalog, Delegator, Order};
///
/// let catalog = Catalog::new().with("greet", |ctx, order| {
///     let greeting = ctx.value::<Vec<u8>>("greeting").ok_or("no greeting")?;
///     Ok([greeting, order.payload()].concat())
/// });
/// let order = Order::new("greet").with_value("greeting", "hello, ").with_payload("world");
///
/// let delegator = Delegator::builder().workers(1).build()?;
/// let handle = delegator.submit(catalog.job(&order)?)?; // here and now, without any queue
/// assert_eq!(handle.id(), order.id());
/// assert_eq!(handle.join()?, b"hello, world");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
pub struct Catalog {
    operations: Arc<BTreeMap<String, CatalogOperation>>,
}

impl Catalog {
    /// An empty catalog.
    ///
    /// # Examples
    ///
    /// ```
    /// assert!(!workpath::Catalog::new().contains("greet"));
    /// ```
    pub fn new() -> Catalog {
        Catalog::default()
    }

    /// Adds an operation; one of the same name is replaced. Other clones of the catalog stay as they are.
    ///
    /// The operation gets the context of its job, with the values of the order as `Vec<u8>` under their keys, and the
    /// order itself. It may run more than once for the same order, also when it has returned `Ok`, if the process ends
    /// before that is stored: [`Order::id`] is what such runs have in common.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::Catalog;
    ///
    /// let catalog = Catalog::new().with("length", |_, order| Ok(vec![order.payload().len() as u8]));
    /// assert!(catalog.contains("length"));
    /// ```
    #[must_use = "the original catalog is consumed"]
    pub fn with(
        mut self,
        name: impl Into<String>,
        operation: impl Fn(&Context, &Order) -> Result<Vec<u8>, Error> + Send + Sync + 'static,
    ) -> Catalog {
        Arc::make_mut(&mut self.operations).insert(name.into(), Arc::new(operation));
        self
    }

    /// Whether there is an operation of this name.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Catalog;
    /// assert!(Catalog::new().with("noop", |_, _| Ok(Vec::new())).contains("noop"));
    /// ```
    pub fn contains(&self, name: &str) -> bool {
        self.operations.contains_key(name)
    }

    /// The names of all operations, sorted.
    ///
    /// # Examples
    ///
    /// ```
    /// # use workpath::Catalog;
    /// let catalog = Catalog::new().with("b", |_, _| Ok(Vec::new())).with("a", |_, _| Ok(Vec::new()));
    /// assert_eq!(catalog.names().collect::<Vec<_>>(), ["a", "b"]);
    /// ```
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.operations.keys().map(|name| &**name)
    }

    /// The job that this order describes: with its id, name, values and deadline. How often it may be tried, and what a
    /// queue does before and after, is the queue's: the job is one attempt.
    ///
    /// # Errors
    ///
    /// [`UnknownOperation`](crate::QueueErrorKind::UnknownOperation), which names it.
    ///
    /// # Examples
    ///
    /// ```
    /// use workpath::{Catalog, Order};
    ///
    /// let error = Catalog::new().job(&Order::new("greet")).unwrap_err();
    /// assert_eq!(error.to_string(), "unknown operation \"greet\"");
    /// ```
    pub fn job(&self, order: &Order) -> Result<Job, QueueError> {
        let operation = self.operation(order)?;
        let ordered = order.clone();
        Ok(job_of(order, move |ctx| operation(ctx, &ordered)))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&CatalogOperation> {
        self.operations.get(name)
    }

    fn operation(&self, order: &Order) -> Result<CatalogOperation, QueueError> {
        let operation = self.get(order.operation()).map(Arc::clone);
        operation.ok_or_else(|| QueueError::unknown_operation(order.operation()))
    }
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// A job with the identity, the values, the priority and the deadline of this order.
pub(crate) fn job_of(
    order: &Order,
    run: impl Fn(&Context) -> Result<Vec<u8>, Error> + Send + 'static,
) -> Job {
    let mut job = Job::new(order.name(), run).with_priority(order.priority());
    job.id = order.id();
    if order.values().next().is_some() {
        let background = Context::background();
        let context = order
            .values()
            .fold(background, |context, (key, value)| context.with_value(key.to_owned(), value.to_vec()));
        job = job.with_context(&context);
    }
    match order.deadline_millis() {
        0 => job,
        deadline => job.with_timeout(Duration::from_millis(deadline.saturating_sub(unix_now()))),
    }
}
