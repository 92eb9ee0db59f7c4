//! The names of producers: who holds one, and passing it on.
//!
//! Not here: what an append checks (`log::producers`), the metadata's records (`format`).
//!
//! The order of passing a name on: 1. the higher epoch is durable in the metadata; 2. the holder of
//! before is fenced, in every partition at once; 3. the new one gets its handle, and asks
//! partitions for the last sequence. A crash after 1 leaves an epoch that nobody has: the next one
//! is higher.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::broker::broker::{Inner, change};
use crate::error::{Error, Result};
use crate::format::MetadataRecord;
use crate::log::ProducerIdentity;

/// What producers have met since the open. Relaxed: the counts order nothing.
#[derive(Debug, Default)]
pub(crate) struct ProducerCounts {
    retries: AtomicU64,
    fenced: AtomicU64,
}

impl ProducerCounts {
    /// Queued batches are tried again.
    pub(crate) fn tried_again(&self, batches: u64) {
        self.retries.fetch_add(batches, Ordering::Relaxed);
    }

    /// A call of a producer was refused, as somebody else has its name.
    pub(crate) fn fenced(&self) {
        self.fenced.fetch_add(1, Ordering::Relaxed);
    }

    /// Retries, and calls that were fenced.
    pub(crate) fn look(&self) -> (u64, u64) {
        (self.retries.load(Ordering::Relaxed), self.fenced.load(Ordering::Relaxed))
    }
}

impl Inner {
    /// A producer without a name, or the next holder of one.
    pub(crate) fn new_producer(&self, name: Option<&str>) -> Result<ProducerIdentity> {
        self.must_be_writable()?;
        match name {
            None => self.producers().make(),
            Some(name) => self.take_name(name),
        }
    }

    fn take_name(&self, name: &str) -> Result<ProducerIdentity> {
        let mut metadata = self.metadata().lock();
        // A close may have waited for nobody but the holder of this lock.
        self.must_be_writable()?;
        let holder = metadata.next_holder(name)?;
        let (id, epoch) = (holder.id, holder.epoch);
        change(self.members(), &mut metadata, vec![MetadataRecord::PutProducer(holder)])?;
        Ok(self.producers().hold(id, epoch, name))
    }

    /// The names, in their order.
    pub(crate) fn producer_names(&self) -> Result<Vec<String>> {
        self.check_fork()?;
        Ok(self.metadata().lock().producers().map(|producer| producer.name.clone()).collect())
    }

    /// Forgets a name: whoever holds it is fenced, and its rows go with the next files.
    pub(crate) fn delete_producer(&self, name: &str) -> Result<()> {
        self.must_be_writable()?;
        let mut metadata = self.metadata().lock();
        self.must_be_writable()?;
        let known = metadata.producers().find(|producer| producer.name == name);
        let Some(producer) = known.map(|producer| producer.id) else {
            return Err(Error::UnknownProducer { name: name.into() });
        };
        change(self.members(), &mut metadata, vec![MetadataRecord::DropProducer { producer }])?;
        self.producers().end(producer);
        Ok(())
    }
}
