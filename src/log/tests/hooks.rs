//! A disk that does something once, at a call that a test chooses.

use std::fmt;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::sim::SimDisk;
use crate::fs::{Disk, DiskFile, FileLayer, Layer};

type Hook = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

/// What is done next time a file is opened, and next time one was synced.
#[derive(Clone, Default)]
pub(super) struct Hooks {
    opened: Hook,
    synced: Hook,
}

impl Hooks {
    pub(super) fn at_open(&self, hook: impl FnOnce() + Send + 'static) {
        *self.opened.lock() = Some(Box::new(hook));
    }

    pub(super) fn after_sync(&self, hook: impl FnOnce() + Send + 'static) {
        *self.synced.lock() = Some(Box::new(hook));
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}

fn run(hook: &Hook) {
    let hook = hook.lock().take();
    if let Some(hook) = hook {
        hook();
    }
}

/// The simulated disk with hooks.
#[derive(Debug)]
pub(super) struct HookDisk {
    pub(super) disk: SimDisk,
    pub(super) hooks: Hooks,
}

#[derive(Debug)]
struct HookFile {
    file: Arc<dyn DiskFile>,
    hooks: Hooks,
}

impl Layer for HookDisk {
    fn below(&self) -> &dyn Disk {
        &self.disk
    }

    fn opened(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        run(&self.hooks.opened);
        Arc::new(HookFile { file, hooks: self.hooks.clone() })
    }
}

impl FileLayer for HookFile {
    fn below(&self) -> &dyn DiskFile {
        self.file.as_ref()
    }

    fn sync_bytes(&self) -> io::Result<()> {
        let synced = self.file.sync_data();
        run(&self.hooks.synced);
        synced
    }
}
