//! Calls of the simulated disk, and how they are made to fail.
//!
//! Not here: what a failed sync does to a file (`file`) or a folder (`tree`); waiting in a stalled
//! one (`disk`).

use std::io;

/// What is asked of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is named after what it does")]
pub enum Call {
    Open,
    CreateFile,
    CreateDir,
    List,
    Stat,
    Rename,
    Link,
    RemoveFile,
    RemoveDir,
    SyncDir,
    Lock,
    Read,
    Write,
    Allocate,
    SetLen,
    Len,
    SyncData,
    Links,
    Map,
    Populate,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// An input/output error, at any call. A sync that fails so marks everything clean: what was
    /// pending is never written, although reads still show it and the next sync succeeds. So do the
    /// names of a folder, until another process or a new owner of a lock begins.
    Eio,
    /// No space left, at any call that may take some. At a sync it loses as `Eio` does.
    Enospc,
    /// The file system is read-only, at any call that changes something.
    Erofs,
    /// Too many open files, at any call that opens one.
    Emfile,
    /// A read or write transfers only half. A sync gets the first half of the pending writes to
    /// the medium, loses the others as `Eio` does, and fails.
    Short,
    /// A sync says it is done and is not; everything stays pending.
    LyingSync,
    /// A sync does not return until [`SimDisk::release_stalls`](super::SimDisk::release_stalls).
    StalledSync,
}

impl FaultKind {
    /// All that a single thread can meet: every kind but [`StalledSync`](Self::StalledSync).
    pub const UNSTALLED: [FaultKind; 6] = [
        FaultKind::Eio,
        FaultKind::Enospc,
        FaultKind::Erofs,
        FaultKind::Emfile,
        FaultKind::Short,
        FaultKind::LyingSync,
    ];

    /// Whether a call can fail this way; only those are counted for a [`Fault`].
    #[must_use]
    pub fn applies_to(self, call: Call) -> bool {
        use Call::{
            Allocate, CreateDir, CreateFile, Link, List, Lock, Open, Read, RemoveDir, RemoveFile,
            Rename, SetLen, SyncData, SyncDir, Write,
        };
        match self {
            FaultKind::Eio => true,
            FaultKind::Enospc => matches!(
                call,
                CreateFile
                    | CreateDir
                    | Rename
                    | Link
                    | SyncDir
                    | Lock
                    | Write
                    | Allocate
                    | SyncData
            ),
            FaultKind::Erofs => matches!(
                call,
                CreateFile
                    | CreateDir
                    | Rename
                    | Link
                    | RemoveFile
                    | RemoveDir
                    | Lock
                    | Write
                    | Allocate
                    | SetLen
            ),
            FaultKind::Emfile => matches!(call, Open | CreateFile | List | SyncDir | Lock),
            FaultKind::Short => matches!(call, Read | Write | SyncData),
            FaultKind::LyingSync | FaultKind::StalledSync => matches!(call, SyncData | SyncDir),
        }
    }

    /// The error that a call fails with.
    pub(super) fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            FaultKind::Enospc => libc::ENOSPC,
            FaultKind::Erofs => libc::EROFS,
            FaultKind::Emfile => libc::EMFILE,
            FaultKind::Eio | FaultKind::Short | FaultKind::LyingSync | FaultKind::StalledSync => {
                libc::EIO
            }
        })
    }
}

/// How long a fault lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HowLong {
    /// One call fails.
    Once,
    /// From that call on, all that can fail this way do.
    Forever,
}

/// A failure to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// Which call fails, from 1, counted from arming among those that can fail this way.
    pub at: u64,
    /// Only calls of this kind count and fail; any if `None`.
    pub call: Option<Call>,
    /// How it fails.
    pub what: FaultKind,
    /// How long that lasts.
    pub how_long: HowLong,
}

/// The armed faults.
#[derive(Default)]
pub(super) struct Injector {
    armed: Vec<Armed>,
    fired: u64,
    /// Each pair once.
    fired_at: Vec<(Call, FaultKind)>,
}

struct Armed {
    fault: Fault,
    seen: u64,
}

impl Injector {
    pub(super) fn arm(&mut self, fault: Fault) {
        self.armed.push(Armed { fault, seen: 0 });
    }

    pub(super) fn disarm(&mut self) {
        self.armed.clear();
    }

    /// How often a call was made to fail.
    pub(super) fn fired(&self) -> u64 {
        self.fired
    }

    /// Which calls were made to fail, and how.
    pub(super) fn fired_at(&self) -> &[(Call, FaultKind)] {
        &self.fired_at
    }

    /// Counts a call; how it fails, if it does.
    pub(super) fn on_call(&mut self, call: Call) -> Option<FaultKind> {
        let mut what = None;
        for armed in &mut self.armed {
            let fault = armed.fault;
            if !fault.what.applies_to(call) || fault.call.is_some_and(|only| only != call) {
                continue;
            }
            armed.seen += 1;
            let now = match fault.how_long {
                HowLong::Once => armed.seen == fault.at,
                HowLong::Forever => armed.seen >= fault.at,
            };
            if now && what.is_none() {
                what = Some(fault.what);
            }
        }
        if let Some(what) = what {
            self.fired += 1;
            if !self.fired_at.contains(&(call, what)) {
                self.fired_at.push((call, what));
            }
        }
        what
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_counts_only_calls_that_can_fail_so() {
        let mut injector = Injector::default();
        let fault = Fault { at: 2, call: None, what: FaultKind::Enospc, how_long: HowLong::Once };
        injector.arm(fault);
        assert_eq!(injector.on_call(Call::Read), None);
        assert_eq!(injector.on_call(Call::Write), None);
        assert_eq!(injector.on_call(Call::Read), None);
        assert_eq!(injector.on_call(Call::Write), Some(FaultKind::Enospc));
        assert_eq!(injector.on_call(Call::Write), None);
        assert_eq!(injector.fired(), 1);
    }

    #[test]
    fn a_lasting_fault_of_one_kind_of_call() {
        let mut injector = Injector::default();
        let call = Some(Call::SyncData);
        injector.arm(Fault { at: 1, call, what: FaultKind::Eio, how_long: HowLong::Forever });
        assert_eq!(injector.on_call(Call::Write), None);
        assert_eq!(injector.on_call(Call::SyncData), Some(FaultKind::Eio));
        assert_eq!(injector.on_call(Call::SyncData), Some(FaultKind::Eio));
        injector.disarm();
        assert_eq!(injector.on_call(Call::SyncData), None);
        assert_eq!(injector.fired(), 2);
    }
}
