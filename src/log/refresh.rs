//! Looking again, read-only, at a log that a live broker is writing.
//!
//! Not here: a log of our own, which knows its end.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::{Error, Result};
use crate::log::core::{Log, Mode};
use crate::log::recover::{Entrance, LogReport, Opening};

/// How often a log is opened anew of which a live broker deletes files meanwhile.
const OPENS_MAX: u32 = 3;

impl Log {
    /// As [`Log::open`]; read-only also where a live broker deletes a file after it was listed.
    pub(crate) fn open_beside(
        opening: &Opening,
        entrance: Entrance,
    ) -> Result<(Arc<Log>, LogReport)> {
        for _ in 1..OPENS_MAX {
            match Log::open(opening.clone(), entrance) {
                Err(Error::Io(failure))
                    if opening.mode == Mode::ReadOnly
                        && failure.source.kind() == std::io::ErrorKind::NotFound => {}
                opened => return opened,
            }
        }
        Log::open(opening.clone(), entrance)
    }

    /// Reads the files again: takes up what has become durable since, and forgets what was
    /// deleted. Does nothing to a log of our own.
    pub(crate) fn refresh(&self) -> Result<()> {
        if self.mode == Mode::ReadWrite {
            return Ok(());
        }
        // One at a time: an older look must not replace a newer one.
        let _turn = self.turn.take();
        let (seen, _) = Log::open_beside(&self.opening_read_only(), Entrance::Unclean)?;
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
