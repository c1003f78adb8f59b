//! The key-values of a log line about a job.

use log::kv::{Error, Source, Value, VisitSource};

use crate::error::ErrorKind;
use crate::task::Task;
use crate::tokens::Token;

impl Source for Task {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), Error> {
        let mut put = |key: &'static str, value: Value<'kvs>| visitor.visit_pair(key.into(), value);
        let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        put("job_id", Value::from_display(&self.id))?;
        put("job_name", Value::from(&*self.name))?;
        put("state", Value::from(self.ended().token()))?;
        if let Some(worker) = self.worker() {
            put("worker", Value::from(worker as u64))?;
        }
        put("queue_ns", Value::from(nanos(self.queue_time())))?;
        put("run_ns", Value::from(nanos(self.run_time())))?;
        put("round_trip_ns", Value::from(nanos(self.round_trip_time())))?;
        if let Some(overrun) = self.overrun() {
            put("overrun_ns", Value::from(nanos(overrun)))?;
        }
        let Some(Err(error)) = self.outcome().map(|outcome| &outcome.result) else { return Ok(()) };
        put("error", Value::from_display(error))?;
        if let Some(why) = error.why().filter(|_| error.kind() == ErrorKind::Cancelled) {
            put("cancelled_by", Value::from(why.origin().token()))?;
            put("inherited", Value::from(why.is_inherited()))?;
            if let Some(location) = why.location() {
                put("cancelled_at", Value::from_display(location))?;
            }
        }
        Ok(())
    }
}
