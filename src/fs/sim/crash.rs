//! What a simulated disk holds after a power cut, or after its process was killed.
//!
//! Not here: the choice of what is lost (`loss`).
//!
//! An image shares its pages with the disk it was made from, so that a hundred thousand of them
//! cost what they change.

use std::collections::BTreeMap;
use std::fmt;

use super::file::Change;
use super::loss::{Loss, PendingKind};
use super::page::SECTOR_BYTES;
use super::state::{ROOT, State};
use super::tree::{Child, DirNode, NameChange, NodeId};

/// A change that no sync has confirmed, for a person to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    text: String,
}

impl fmt::Display for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl State {
    /// The places of all pending changes in the disk's order, each with its kind.
    fn pending_order(&self) -> Vec<(u64, PendingKind)> {
        let files = self.files.values().flat_map(|file| &file.pending);
        let names = self.dirs.values().flat_map(|dir| &dir.pending);
        let mut order: Vec<_> = files
            .map(|pending| (pending.seq, pending.kind()))
            .chain(names.map(|pending| (pending.seq, PendingKind::Name)))
            .collect();
        order.sort_unstable_by_key(|(seq, _)| *seq);
        order
    }

    /// The systematic losses of what is pending now.
    pub(super) fn losses(&self, random: u64) -> Vec<Loss> {
        let kinds: Vec<_> = self.pending_order().into_iter().map(|(_, kind)| kind).collect();
        Loss::systematic(&kinds, random)
    }

    /// The disk after a power cut.
    pub(super) fn after_crash(&self, loss: &Loss) -> State {
        let order = self.pending_order();
        let index = |seq: u64| order.partition_point(|(other, _)| *other < seq);
        let mut files = BTreeMap::new();
        let mut dirs = BTreeMap::new();
        let mut reached = vec![ROOT];
        while let Some(id) = reached.pop() {
            let dir = self.dirs[&id].after_crash(loss, index);
            for child in dir.names.values() {
                match *child {
                    Child::Dir(id) => reached.push(id),
                    Child::File(id) => {
                        let file = files
                            .entry(id)
                            .or_insert_with(|| self.files[&id].after_crash(loss, index));
                        file.links += 1;
                    }
                }
            }
            dirs.insert(id, dir);
        }
        self.successor(files, dirs)
    }

    /// The disk after its process was killed: all but who used it.
    pub(super) fn after_kill(&self) -> State {
        let files = self.files.iter().map(|(id, file)| (*id, file.after_kill())).collect();
        let mut dirs = self.dirs.clone();
        dirs.values_mut().for_each(DirNode::change_owner);
        let mut state = self.successor(files, dirs);
        state.collect();
        state
    }

    /// All pending changes in order, for a person to read.
    pub(super) fn pending(&self) -> Vec<Pending> {
        let mut paths: BTreeMap<NodeId, String> = BTreeMap::from([(ROOT, String::new())]);
        self.for_each_path(|path, child| {
            let (Child::File(id) | Child::Dir(id)) = child;
            paths.insert(id, path.to_owned());
        });
        let path = |id: &NodeId| paths.get(id).cloned().unwrap_or_else(|| format!("inode {id}"));
        let mut lines = Vec::new();
        for (id, file) in &self.files {
            for pending in &file.pending {
                let path = path(id);
                let text = match &pending.change {
                    Change::Write { sector, bytes } => {
                        let start = sector * SECTOR_BYTES as u64;
                        format!("{path}: bytes {start}..{}", start + bytes.len() as u64)
                    }
                    Change::Len { from, to } => format!("{path}: length {from} to {to}"),
                };
                lines.push((pending.seq, text));
            }
        }
        for (id, dir) in &self.dirs {
            for pending in &dir.pending {
                let path = path(id);
                let text = match &pending.change {
                    NameChange::Add { name, .. } => format!("{path}/: add {name}"),
                    NameChange::Remove { name, .. } => format!("{path}/: remove {name}"),
                    NameChange::Rename { from, to, .. } => {
                        format!("{path}/: rename {from} to {to}")
                    }
                };
                lines.push((pending.seq, text));
            }
        }
        lines.sort();
        lines.into_iter().map(|(_, text)| Pending { text }).collect()
    }
}
