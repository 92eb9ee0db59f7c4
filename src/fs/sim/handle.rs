//! Open files and held locks of the simulated disk.
//!
//! Not here: what the calls do to a file (`file`), how they are made to fail (`disk`).

use std::fmt;
use std::io;

use super::disk::{Entered, SimDisk};
use super::fault::{Call, FaultKind};
use super::region::SimRegion;
use super::state::{FILE_BYTES_MAX, State};
use super::tree::{Child, NodeId};
use crate::fs::disk::{DiskFile, DiskLock, MapAccess, Stat};
use crate::fs::heap::HeapRegion;
use crate::fs::map::{DiskShare, MapWriter, Region};

/// An open file.
pub(super) struct SimFile {
    disk: SimDisk,
    node: NodeId,
    writable: bool,
}

impl SimFile {
    /// The caller has counted the handle in the node's `opens`.
    pub(super) fn new(disk: SimDisk, node: NodeId, writable: bool) -> Self {
        Self { disk, node, writable }
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EBADF)) }
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        close(&mut self.disk.state(), self.node);
    }
}

fn close(state: &mut State, node: NodeId) {
    let file = state.node(node).0;
    file.opens -= 1;
    if file.opens == 0 && file.links == 0 {
        state.collect();
    }
}

/// The end of a range; too long a file is refused as a real one would be.
fn checked_end(position: u64, bytes: u64) -> io::Result<u64> {
    match position.checked_add(bytes) {
        Some(end) if end <= FILE_BYTES_MAX => Ok(end),
        _ => Err(io::Error::from_raw_os_error(libc::EFBIG)),
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let Entered { mut state, fault } = self.disk.enter(Call::Read)?;
        let (file, seq) = state.node(self.node);
        file.harvest(seq);
        let asked = if fault == Some(FaultKind::Short) { buf.len().div_ceil(2) } else { buf.len() };
        let bytes = file.readable(position, asked).ok_or_else(|| FaultKind::Eio.error())?;
        file.read(position, &mut buf[..bytes]);
        Ok(bytes)
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<usize> {
        let Entered { mut state, fault } = self.disk.enter(Call::Write)?;
        self.check_writable()?;
        checked_end(position, buf.len() as u64)?;
        let asked = if fault == Some(FaultKind::Short) { buf.len().div_ceil(2) } else { buf.len() };
        let bytes = state.room(self.node, position, asked);
        if bytes == 0 && asked > 0 {
            return Err(FaultKind::Enospc.error());
        }
        let (file, seq) = state.node(self.node);
        file.write(position, &buf[..bytes], seq);
        Ok(bytes)
    }

    fn allocate(&self, from: u64, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.enter(Call::Allocate)?.state;
        self.check_writable()?;
        let end = checked_end(from, bytes)?;
        if bytes == 0 {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let free = state.blocks_free();
        let (file, seq) = state.node(self.node);
        if file.blocks_missing(from..end) > free {
            return Err(FaultKind::Enospc.error());
        }
        file.allocate(from, bytes, seq);
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.enter(Call::SetLen)?.state;
        self.check_writable()?;
        checked_end(bytes, 0)?;
        let (file, seq) = state.node(self.node);
        file.set_len(bytes, seq);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.enter(Call::Len)?.state;
        Ok(state.node(self.node).0.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        let Entered { mut state, fault } = self.disk.enter(Call::SyncData)?;
        let (file, seq) = state.node(self.node);
        match fault {
            None => file.sync(seq),
            Some(FaultKind::LyingSync) => {}
            Some(what) => {
                let half = what == FaultKind::Short;
                file.fail_sync(|writes| if half { writes / 2 } else { 0 }, seq);
                return Err(what.error());
            }
        }
        Ok(())
    }

    fn links(&self) -> io::Result<u64> {
        let mut state = self.disk.enter(Call::Links)?.state;
        Ok(state.node(self.node).0.links)
    }

    fn map(
        &self,
        bytes: usize,
        readable_from: usize,
        published: usize,
        access: MapAccess,
    ) -> io::Result<MapWriter> {
        let mut state = self.disk.enter(Call::Map)?.state;
        if access == MapAccess::Write {
            self.check_writable()?;
        }
        if bytes == 0 || readable_from > published || published > bytes {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let (file, seq) = state.node(self.node);
        file.harvest(seq);
        let mut heap = HeapRegion::zeroed(bytes)?;
        file.fill(heap.bytes_mut());
        let region = Region::Sim(SimRegion::new(heap, self.disk.downgrade(), self.node));
        let writer = MapWriter::new(region, readable_from, published, access);
        file.mappings.push(DiskShare::new(writer.mapping()));
        Ok(writer)
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFile").field("inode", &self.node).finish_non_exhaustive()
    }
}

/// A held lock.
pub(super) struct SimLock {
    disk: SimDisk,
    node: NodeId,
}

impl SimLock {
    /// The caller has counted the handle in the node's `opens`.
    pub(super) fn new(disk: SimDisk, node: NodeId) -> Self {
        Self { disk, node }
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        state.locked.remove(&self.node);
        close(&mut state, self.node);
    }
}

impl DiskLock for SimLock {
    fn stat(&self) -> io::Result<Stat> {
        let state = self.disk.enter(Call::Stat)?.state;
        Ok(state.stat(Child::File(self.node)))
    }

    /// Nobody inherits it: dropping it releases it.
    fn unlock(&self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for SimLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimLock").field("inode", &self.node).finish_non_exhaustive()
    }
}
