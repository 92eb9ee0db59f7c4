//! Looking again, read-only, at a log that a live broker is writing.
//!
//! Not here: a log of our own, which knows its end.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::Result;
use crate::log::core::{Log, Mode};
use crate::log::recover::{Entrance, Opening};

impl Log {
    /// Reads the files again: takes up what has become durable since, and forgets what was
    /// deleted. Does nothing to a log of our own.
    pub(crate) fn refresh(&self) -> Result<()> {
        if self.mode == Mode::ReadWrite {
            return Ok(());
        }
        // One at a time: an older look must not replace a newer one.
        let _turn = self.turn.take();
        let (seen, _) = Log::open(self.opening_read_only(), Entrance::Unclean)?;
        let (leo, start) = (seen.end_offset(), seen.start_offset());
        self.change_segments(|list| *list = seen.segments().to_vec());
        self.leo.fetch_max(leo.get(), Ordering::AcqRel);
        self.durable.fetch_max(leo.get(), Ordering::AcqRel);
        self.log_start.fetch_max(start.get(), Ordering::AcqRel);
        Ok(())
    }

    /// The same log, to be looked at and not touched.
    pub(crate) fn opening_read_only(&self) -> Opening {
        Opening {
            place: Arc::clone(&self.place),
            disk: Arc::clone(&self.disk),
            options: self.options.clone(),
            mode: Mode::ReadOnly,
            clock: Arc::clone(&self.clock),
            housekeeper: None,
            handles: Arc::clone(&self.handles),
        }
    }
}
