//! A copy of the whole store in another folder, made while it goes on.
//!
//! Not here: how a log is copied (`log::backup`).
//!
//! The order: the folder, locked; every partition, synced with the names that lead to it; the
//! metadata, written anew; last the file `volume`, with ids of its own. Without that file nothing
//! opens the folder as a store: so a backup that was interrupted is none.

use std::path::Path;
use std::sync::Arc;

use crate::broker::Inner;
use crate::broker::metadata::{CopyAt, MetadataAt};
use crate::broker::volume::{METADATA, TOPICS, lock, make_folders, make_volume_file};
use crate::config::TopicConfig;
use crate::error::{Error, Result};
use crate::format::{TopicMeta, partition_folder, topic_folder};
use crate::id::{Incarnation, PartitionId};
use crate::log::{BackedUp, Entrance, LogOptions, Mode, remove_copy};

/// What `Admin::backup` has made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupReport {
    /// Segment files that the copy shares with the original: they take no room of their own.
    pub linked_files: u64,
    /// Segment files that were copied.
    pub copied_files: u64,
    /// How many bytes of them.
    pub copied_bytes: u64,
}

impl Inner {
    pub(crate) fn backup(&self, dir: &Path) -> Result<BackupReport> {
        self.must_be_writable()?;
        self.must_lie_outside(dir)?;
        let disk = &self.volume().disk;
        make_folders(disk.as_ref(), dir)?;
        if !disk.list(dir).map_err(|e| Error::io("list", dir, e))?.is_empty() {
            return Err(Error::invalid_config("backup", "a new or an empty directory"));
        }
        let lock = lock(disk.as_ref(), dir)?;
        let done = self.copy_to(dir);
        // And not only closed: see `Volume::release`. Closing it, which follows, is as good where
        // nobody has inherited it.
        let _ = lock.unlock();
        done
    }

    /// Copies everything into an empty folder, which is locked.
    fn copy_to(&self, dir: &Path) -> Result<BackupReport> {
        let disk = &self.volume().disk;
        let topics = dir.join(TOPICS);
        disk.create_dir(&topics).map_err(|e| Error::io("create", &topics, e))?;

        let metas: Vec<TopicMeta> = {
            let metadata = self.metadata().lock();
            metadata.topics().filter(|meta| !meta.deleted).cloned().collect()
        };
        let mut copied = BackedUp::default();
        let mut there = Vec::new();
        for meta in metas {
            if self.backup_topic(&meta, &topics, &mut copied)? {
                there.push(meta);
            }
        }
        disk.sync_dir(&topics).map_err(|e| Error::io("sync", &topics, e))?;
        {
            let metadata = self.metadata().lock();
            let options = LogOptions {
                incarnation: Incarnation::new(0),
                ..self.log_options(&TopicConfig::new())
            };
            let both = [0, 1].map(|number| CopyAt {
                unique_id: 0,
                number,
                disk: Arc::clone(disk),
                dir: dir.join(METADATA),
                options: options.clone(),
                entrance: Entrance::Unclean,
            });
            let at = MetadataAt {
                copies: &both,
                mode: Mode::ReadWrite,
                force: false,
                clock: self.clock(),
                handles: self.handles(),
                producers: self.producers(),
            };
            metadata.copy_to(&at, there)?;
        }
        disk.sync_dir(dir).map_err(|e| Error::io("sync", dir, e))?;
        let incarnation = self.producers().incarnation();
        make_volume_file(disk.as_ref(), dir, incarnation, &mut self.ids().lock())?;
        Ok(BackupReport {
            linked_files: copied.linked_files,
            copied_files: copied.copied_files,
            copied_bytes: copied.bytes,
        })
    }

    /// Copies the partitions that a topic had when the backup began; false if it was deleted.
    fn backup_topic(&self, meta: &TopicMeta, topics: &Path, copied: &mut BackedUp) -> Result<bool> {
        let Some(state) = self.find_topic(&meta.name).filter(|state| state.id == meta.id) else {
            return Ok(false);
        };
        let disk = &self.volume().disk;
        let folder = topic_folder(&meta.name, meta.id)
            .map_err(|_| Error::damaged(topics, "a topic has a name that it cannot have"))?;
        let folder = topics.join(folder);
        disk.create_dir(&folder).map_err(|e| Error::io("create", &folder, e))?;
        let mut made = Vec::new();
        for (number, partition) in (0..meta.partitions).zip(state.partitions.iter()) {
            let dir = folder.join(partition_folder(PartitionId::new(number)));
            disk.create_dir(&dir).map_err(|e| Error::io("create", &dir, e))?;
            let done = partition.log().backup_to(&dir, copied);
            made.push(dir);
            // The topic may have been deleted under it, in any of its steps.
            let deleted = self.find_topic(&meta.name).is_none_or(|now| now.id != meta.id);
            if deleted && !self.is_closed() {
                for dir in &made {
                    remove_copy(disk.as_ref(), dir)?;
                }
                disk.remove_dir(&folder).map_err(|e| Error::io("remove", &folder, e))?;
                return Ok(false);
            }
            done?;
        }
        disk.sync_dir(&folder).map_err(|e| Error::io("sync", &folder, e))?;
        Ok(true)
    }

    /// A copy within the store would be a stray there.
    fn must_lie_outside(&self, dir: &Path) -> Result<()> {
        let disk = &self.volume().disk;
        let failed = |path: &Path, e| Error::io("look at", path, e);
        let mut own = Vec::new();
        for volume in self.volumes() {
            let path = disk.real_path(&volume.dir).map_err(|e| failed(&volume.dir, e))?;
            let stat = disk.stat(&path).map_err(|e| failed(&path, e))?;
            own.push((stat.device, stat.inode));
        }
        // What there is of the way to it, wherever names and links lead; the rest is to be made.
        let there = dir.ancestors().find_map(|above| disk.real_path(above).ok());
        let missing = || failed(dir, std::io::ErrorKind::NotFound.into());
        for above in there.ok_or_else(missing)?.ancestors() {
            // By device and inode: a folder may be mounted in two places.
            let within =
                disk.stat(above).is_ok_and(|stat| own.contains(&(stat.device, stat.inode)));
            if within {
                return Err(Error::invalid_config("backup", "a directory outside of the store"));
            }
        }
        Ok(())
    }
}
