//! The flag of a copy that catches up: what it holds may claim more than it has synced.
//!
//! Not here: when a follower catches up (`partition`), what an open makes of it (`recover`).
//!
//! A batch says up to where every replica that counts had synced when it was appended. A copy that
//! is not one of those takes such batches over before it has synced what they speak of. 1. It
//! copies ten batches, of which the last says that the first nine are synced; 2. the power is cut,
//! and of its pages only the last one reached the medium; 3. its next open would take the nine for
//! damage where it only is behind. So it says in its slots that it catches up, and they alone are
//! evidence then. An election, too, goes by the flag: without it a member of the ISR vouches for
//! all it has.

use crate::error::Result;
use crate::log::core::Log;
use crate::sync::atomic::Ordering;

impl Log {
    pub(crate) fn is_catching_up(&self) -> bool {
        self.catching_up.load(Ordering::Acquire)
    }

    /// Sets the flag. It is on the medium when this returns, or goes with the first file.
    pub(crate) fn begin_catching_up(&self) -> Result<()> {
        self.say_catching_up(true)
    }

    /// Syncs what was copied, and then clears the flag. Nothing is copied meanwhile.
    ///
    /// # Errors
    /// Those of a sync. The flag stays.
    pub(crate) fn end_catching_up(&self) -> Result<()> {
        self.sync_to(self.end_offset())?;
        self.say_catching_up(false)
    }

    fn say_catching_up(&self, catching_up: bool) -> Result<()> {
        self.must_be_writable()?;
        let _turn = self.turn.take();
        if self.is_catching_up() == catching_up {
            return Ok(());
        }
        let slot = {
            // With the writer locked, so that the file is the newest, or the next one says it too.
            let _writer = self.writer.lock();
            self.catching_up.store(catching_up, Ordering::Release);
            self.newest_slot(self.start_offset())
        };
        let said = slot.map_or(Ok(()), |(newest, slot)| self.write_synced(&newest, &slot));
        if said.is_err() {
            // Whatever reached the medium: less counts.
            self.catching_up.store(true, Ordering::Release);
        }
        said
    }
}
