//! Everything a simulated disk knows, behind its one lock.
//!
//! Not here: the lock, the calls and their faults (`disk`); images after a crash (`crash`).

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::Path;

use super::fault::{Call, Injector};
use super::file::FileNode;
use super::page::mix;
use super::tree::{Child, DirNode, NameChange, NodeId, names_of, split};
use crate::fs::disk::{EntryKind, Stat};
use crate::fs::heap::PAGE_BYTES;

/// The root folder's number.
pub(super) const ROOT: NodeId = 1;
/// What `stat` gives as the device.
const DEVICE: u64 = 1;
/// No file is longer: its positions must fit the structures that index by page.
pub(super) const FILE_BYTES_MAX: u64 = 1 << 40;

/// Whether a disk still answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    On,
    /// Goes off at the call that comes when this many have been made.
    OffAfter(u64),
    /// With the call that met the cut; none if it was cut between calls.
    Off(Option<Call>),
    /// The process that used this handle was killed.
    Killed,
}

/// Whether the process that uses a disk still runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Process {
    Runs,
    /// Dies at the call that comes when this many have been made.
    DiesAfter(u64),
    Dead,
}

pub(super) struct State {
    pub(super) files: BTreeMap<NodeId, FileNode>,
    pub(super) dirs: BTreeMap<NodeId, DirNode>,
    next_node: NodeId,
    /// Numbers every change of the disk.
    pub(super) seq: u64,
    pub(super) locked: HashSet<NodeId>,
    pub(super) power: Power,
    pub(super) process: Process,
    /// How many calls were made.
    pub(super) calls: u64,
    pub(super) faults: Injector,
    /// How many blocks of a page there are, if that is limited.
    pub(super) capacity_blocks: Option<u64>,
    /// How many times stalled syncs were released.
    pub(super) releases: u64,
    /// How many syncs are stalled now.
    pub(super) stalled: usize,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            files: BTreeMap::new(),
            dirs: BTreeMap::from([(ROOT, DirNode::default())]),
            next_node: ROOT + 1,
            seq: 0,
            locked: HashSet::new(),
            power: Power::On,
            process: Process::Runs,
            calls: 0,
            faults: Injector::default(),
            capacity_blocks: None,
            releases: 0,
            stalled: 0,
        }
    }

    /// A disk with the same contents and nobody using it.
    pub(super) fn successor(
        &self,
        files: BTreeMap<NodeId, FileNode>,
        dirs: BTreeMap<NodeId, DirNode>,
    ) -> Self {
        Self {
            files,
            dirs,
            next_node: self.next_node,
            seq: self.seq,
            capacity_blocks: self.capacity_blocks,
            ..Self::new()
        }
    }

    fn new_node(&mut self) -> NodeId {
        self.next_node += 1;
        self.next_node - 1
    }

    fn walk(&self, names: &[Cow<'_, str>]) -> io::Result<NodeId> {
        let mut dir = ROOT;
        for name in names {
            dir = match self.dirs[&dir].names.get(&**name) {
                Some(Child::Dir(id)) => *id,
                Some(Child::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => return Err(io::ErrorKind::NotFound.into()),
            };
        }
        Ok(dir)
    }

    /// The folder at a path.
    pub(super) fn dir(&self, path: &Path) -> io::Result<NodeId> {
        self.walk(&names_of(path))
    }

    /// The folder that a path's last name lies in, that name, and what it stands for.
    pub(super) fn find<'p>(
        &self,
        path: &'p Path,
    ) -> io::Result<(NodeId, Cow<'p, str>, Option<Child>)> {
        let (names, last) = split(path)?;
        let dir = self.walk(&names)?;
        let child = self.dirs[&dir].names.get(&*last).copied();
        Ok((dir, last, child))
    }

    /// The file at a path.
    pub(super) fn file(&self, path: &Path) -> io::Result<NodeId> {
        match self.find(path)?.2 {
            Some(Child::File(id)) => Ok(id),
            Some(Child::Dir(_)) => Err(io::ErrorKind::InvalidInput.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// A node's file. Handles keep their file's node, so it is there.
    pub(super) fn node(&mut self, id: NodeId) -> (&mut FileNode, &mut u64) {
        (self.files.get_mut(&id).expect("an open file has a node"), &mut self.seq)
    }

    fn change(&mut self, dir: NodeId, change: NameChange) {
        let node = self.dirs.get_mut(&dir).expect("a folder that was found has a node");
        node.change(change, &mut self.seq);
    }

    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<NodeId> {
        let (dir, name, child) = self.find(path)?;
        if child.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = self.new_node();
        let mut file = FileNode::default();
        file.links = 1;
        self.files.insert(id, file);
        self.change(dir, NameChange::Add { name: name.into_owned(), child: Child::File(id) });
        Ok(id)
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        // The root has no name to be looked for.
        if self.dir(path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let (dir, name, child) = self.find(path)?;
        if child.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = self.new_node();
        self.dirs.insert(id, DirNode::default());
        self.change(dir, NameChange::Add { name: name.into_owned(), child: Child::Dir(id) });
        Ok(())
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        let (dir, name, child) = self.find(path)?;
        match child {
            Some(child @ Child::File(id)) => {
                self.node(id).0.links -= 1;
                self.change(dir, NameChange::Remove { name: name.into_owned(), child });
                self.collect();
                Ok(())
            }
            Some(Child::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn remove_dir(&mut self, path: &Path) -> io::Result<()> {
        let (dir, name, child) = self.find(path)?;
        match child {
            Some(child @ Child::Dir(id)) => {
                if !self.dirs[&id].names.is_empty() {
                    return Err(io::ErrorKind::DirectoryNotEmpty.into());
                }
                self.change(dir, NameChange::Remove { name: name.into_owned(), child });
                Ok(())
            }
            Some(Child::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (dir, from, child) = self.find(from)?;
        let (to_dir, to, replaced) = self.find(to)?;
        let child = child.ok_or(io::ErrorKind::NotFound)?;
        if dir != to_dir {
            return Err(io::ErrorKind::CrossesDevices.into());
        }
        match (child, replaced) {
            (_, None) => {}
            (old, Some(new)) if old == new => return Ok(()),
            (Child::File(_), Some(Child::File(id))) => self.node(id).0.links -= 1,
            (Child::File(_), Some(Child::Dir(_))) => {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            (Child::Dir(_), Some(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
        }
        let (from, to) = (from.into_owned(), to.into_owned());
        self.change(dir, NameChange::Rename { from, to, child });
        self.collect();
        Ok(())
    }

    pub(super) fn link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let id = self.file(from)?;
        let (dir, name, taken) = self.find(to)?;
        if taken.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.node(id).0.links += 1;
        self.change(dir, NameChange::Add { name: name.into_owned(), child: Child::File(id) });
        Ok(())
    }

    pub(super) fn stat(&self, child: Child) -> Stat {
        let (kind, bytes, inode) = match child {
            Child::File(id) => (EntryKind::File, self.files[&id].len(), id),
            Child::Dir(id) => (EntryKind::Dir, 0, id),
        };
        Stat { kind, bytes, device: DEVICE, inode }
    }

    /// Takes over all stores through mappings.
    pub(super) fn harvest(&mut self) {
        for file in self.files.values_mut() {
            file.harvest(&mut self.seq);
        }
    }

    /// Forgets files that nobody has open and no crash can bring back.
    pub(super) fn collect(&mut self) {
        // Most often there is none, and no need to look at all the names.
        if self.files.values().all(|file| file.links > 0 || file.opens > 0) {
            return;
        }
        let mut named = HashSet::new();
        for dir in self.dirs.values() {
            dir.for_each_child(|child| {
                if let Child::File(id) = child {
                    named.insert(id);
                }
            });
        }
        self.files.retain(|id, file| file.links > 0 || file.opens > 0 || named.contains(id));
    }

    /// How many blocks are in use: by files with a name, an open handle or a live mapping.
    fn blocks_taken(&mut self) -> u64 {
        self.harvest();
        let live = |file: &&FileNode| file.links > 0 || file.opens > 0 || !file.mappings.is_empty();
        self.files.values().filter(live).map(FileNode::blocks_taken).sum()
    }

    /// How many blocks more may be taken.
    pub(super) fn blocks_free(&mut self) -> u64 {
        match self.capacity_blocks {
            Some(capacity) => capacity.saturating_sub(self.blocks_taken()),
            None => u64::MAX,
        }
    }

    /// How much of a write at `position` finds room.
    pub(super) fn room(&mut self, id: NodeId, position: u64, bytes: usize) -> usize {
        let mut free = self.blocks_free();
        let file = &self.files[&id];
        let end = position + bytes as u64;
        if file.blocks_missing(position..end) <= free {
            return bytes;
        }
        let mut fits = position;
        while fits < end {
            let next = (fits / PAGE_BYTES as u64 + 1) * PAGE_BYTES as u64;
            let missing = file.blocks_missing(fits..next.min(end));
            if missing > free {
                break;
            }
            free -= missing;
            fits = next.min(end);
        }
        usize::try_from(fits - position).unwrap_or(0)
    }

    /// Puts a file there as if it had always been, with the folders above it.
    pub(super) fn put_durable(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let (names, last) = split(path)?;
        let mut dir = ROOT;
        for name in &names {
            dir = match self.dirs[&dir].names.get(&**name) {
                Some(Child::Dir(id)) => *id,
                Some(Child::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => {
                    let id = self.new_node();
                    self.dirs.insert(id, DirNode::default());
                    self.add_durable(dir, name, Child::Dir(id));
                    id
                }
            };
        }
        let id = match self.dirs[&dir].names.get(&*last) {
            Some(Child::Dir(_)) => return Err(io::ErrorKind::IsADirectory.into()),
            Some(Child::File(id)) => *id,
            None => self.new_node(),
        };
        let (links, opens) = self.files.get(&id).map_or((1, 0), |old| (old.links, old.opens));
        let mut file = FileNode::durable(bytes);
        (file.links, file.opens) = (links, opens);
        self.files.insert(id, file);
        self.add_durable(dir, &last, Child::File(id));
        Ok(())
    }

    fn add_durable(&mut self, dir: NodeId, name: &str, child: Child) {
        if let Some(node) = self.dirs.get_mut(&dir) {
            node.add_durable(name, child);
        }
    }

    /// Calls `each` with every path, its folders first, in a fixed order.
    pub(super) fn for_each_path(&self, mut each: impl FnMut(&str, Child)) {
        self.visit(ROOT, &mut String::new(), &mut each);
    }

    fn visit(&self, dir: NodeId, path: &mut String, each: &mut impl FnMut(&str, Child)) {
        for (name, child) in &*self.dirs[&dir].names {
            let before = path.len();
            path.push('/');
            path.push_str(name);
            each(path, *child);
            if let Child::Dir(id) = child {
                self.visit(*id, path, each);
            }
            path.truncate(before);
        }
    }

    /// A hash of everything that calls can see.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hash = 0;
        self.for_each_path(|path, child| {
            for chunk in path.as_bytes().chunks(8) {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                hash = mix(hash, u64::from_le_bytes(word));
            }
            hash = match child {
                Child::Dir(_) => mix(hash, u64::MAX),
                Child::File(id) => self.files[&id].hash_into(mix(hash, path.len() as u64)),
            };
        });
        hash
    }
}
