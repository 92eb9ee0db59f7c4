//! The simulated disk's folders: names as they are seen, as the medium has them, and what lies
//! between until a folder is synced.
//!
//! Not here: what a file holds (`file`).
//!
//! Invariants
//!   1. A rename is one change: after a crash it has happened or not.
//!   2. A node's number is never used again, so an old change cannot take hold of a newer file.
//!   3. What a failed sync lost is not confirmed by a later one. For the next owner (another
//!      process, or who takes a lock) it is pending again: nothing tells it of the failure, and a
//!      name that is there cannot be made once more.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;

use super::loss::{Loss, PendingKind};

/// A file's or folder's number: its inode.
pub(super) type NodeId = u64;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Child {
    File(NodeId),
    Dir(NodeId),
}

/// A change of a folder's names that no sync has confirmed.
#[derive(Clone, Debug)]
pub(super) struct PendingName {
    /// Its place among all changes of the disk.
    pub(super) seq: u64,
    pub(super) change: NameChange,
}

#[derive(Clone, Debug)]
pub(super) enum NameChange {
    Add { name: String, child: Child },
    Remove { name: String, child: Child },
    Rename { from: String, to: String, child: Child },
}

/// Names, shared with the images and copied when they change.
type Names = Arc<BTreeMap<String, Child>>;

/// A folder.
#[derive(Clone, Default)]
pub(super) struct DirNode {
    /// The names as every call sees them.
    pub(super) names: Names,
    /// The names as the medium has them.
    durable: Names,
    pub(super) pending: Vec<PendingName>,
    /// Changes before `pending` that a failed sync took for done.
    lost: Vec<PendingName>,
}

impl DirNode {
    pub(super) fn change(&mut self, change: NameChange, seq: &mut u64) {
        apply(Arc::make_mut(&mut self.names), &change);
        self.pending.push(PendingName { seq: *seq, change });
        *seq += 1;
    }

    /// Adds a name as if it had been there for ever.
    pub(super) fn add_durable(&mut self, name: &str, child: Child) {
        Arc::make_mut(&mut self.names).insert(name.to_owned(), child);
        Arc::make_mut(&mut self.durable).insert(name.to_owned(), child);
    }

    pub(super) fn sync(&mut self) {
        if self.lost.is_empty() {
            self.durable = Arc::clone(&self.names);
            self.pending.clear();
            return;
        }
        for pending in self.pending.drain(..) {
            apply(Arc::make_mut(&mut self.durable), &pending.change);
        }
    }

    /// A sync that failed: the pending changes never get to the medium, and later syncs take them
    /// for done.
    pub(super) fn fail_sync(&mut self) {
        self.lost.append(&mut self.pending);
    }

    /// The folder has another owner, who knows of no failure.
    pub(super) fn change_owner(&mut self) {
        self.lost.append(&mut self.pending);
        std::mem::swap(&mut self.lost, &mut self.pending);
    }

    /// The folder after a power cut.
    pub(super) fn after_crash(&self, loss: &Loss, index: impl Fn(u64) -> usize) -> DirNode {
        let mut names = Arc::clone(&self.durable);
        for pending in &self.pending {
            if loss.keeps(index(pending.seq), PendingKind::Name, 0) {
                apply(Arc::make_mut(&mut names), &pending.change);
            }
        }
        DirNode { durable: Arc::clone(&names), names, ..DirNode::default() }
    }

    /// Calls `each` with everything that may have a name here after a crash, or has one now.
    pub(super) fn for_each_child(&self, mut each: impl FnMut(Child)) {
        self.names.values().chain(self.durable.values()).copied().for_each(&mut each);
        for pending in self.lost.iter().chain(&self.pending) {
            match pending.change {
                NameChange::Add { child, .. }
                | NameChange::Remove { child, .. }
                | NameChange::Rename { child, .. } => each(child),
            }
        }
    }
}

/// Applies a change to names that may lack the changes before it.
fn apply(names: &mut BTreeMap<String, Child>, change: &NameChange) {
    let mut remove = |name: &String, child: Child| {
        if names.get(name) == Some(&child) {
            names.remove(name);
        }
    };
    match change {
        NameChange::Add { name, child } => {
            names.insert(name.clone(), *child);
        }
        NameChange::Remove { name, child } => remove(name, *child),
        NameChange::Rename { from, to, child } => {
            remove(from, *child);
            names.insert(to.clone(), *child);
        }
    }
}

/// A path's names from the root on. The current folder of a simulated disk is its root.
pub(super) fn names_of(path: &Path) -> Vec<Cow<'_, str>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_string_lossy()),
            Component::ParentDir => {
                names.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    names
}

/// A path's folder and last name; the root has none.
pub(super) fn split(path: &Path) -> io::Result<(Vec<Cow<'_, str>>, Cow<'_, str>)> {
    let mut names = names_of(path);
    let last = names.pop().ok_or(io::ErrorKind::InvalidInput)?;
    Ok((names, last))
}
