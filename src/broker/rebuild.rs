//! Making the metadata anew, of one volume on which no copy of it is good, from what the segment
//! files say of themselves.
//!
//! Not here: telling that no copy is good (`metadata`); what one file says (`log::survey`).
//!
//! A segment's header names the topic's id, its salt and the partition, the topic's folder its
//! name, so that every record is found again under the checksums it was written with. What only the
//! metadata knew is not found: settings, names of producers, topics without a file. Each of that is
//! told in a sentence of its own.
//!
//! The order: 1. everything is read, and nothing changed; 2. the folder of the bad copies gets
//! another name, synced; 3. new copies are begun in its place with a snapshot, by the code that
//! begins those of a new store. A crash before 3 is done leaves no metadata beside topics, which is
//! told like bad copies and begins again; one within 3 leaves one copy with the whole snapshot,
//! which an open brings the other up to, or none.
//!
//! Invariants
//!   1. No id is given again: of topics and of named producers the next ones are above all found.
//!   2. Leader epochs go on above every one that was ever given. Each open of a store of one volume
//!      gives one at most, and raises the incarnation before: so no epoch is above the incarnation,
//!      lost ones included. While it was of several there were elections, too: a margin is for
//!      those.
//!   3. Nothing is deleted: what cannot be made a topic again stays where it is.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::broker::metadata::Metadata;
use crate::broker::report::RecoveryReport;
use crate::broker::topic::{from_meta, to_meta};
use crate::broker::volume::{METADATA, Volume};
use crate::broker::volumes::{Shared, open_metadata};
use crate::config::{DedupWindow, PARTITIONS_MAX, TopicConfig};
use crate::error::{Error, Result};
use crate::format::{
    Identity, MetadataSnapshot, SegmentHeader, TOPICS_MAX, TopicMeta, parse_partition_folder,
    parse_topic_folder, same_but_for_case,
};
use crate::fs::{Disk, EntryKind};
use crate::id::{LeaderEpoch, PartitionId, TopicId};
use crate::log::{Survey, headers_in, segment_bytes_of, survey};
use crate::trace;

/// Ids of topics end here: see `format::metadata`.
const TOPIC_IDS_END: u64 = 1 << 62;
/// So many elections may have left no record in a file.
const ELECTIONS_LOST: u32 = 1 << 16;
/// What the name of a folder of bad copies begins with; a number follows.
const SET_ASIDE: &str = "metadata.bad-";
/// So many partitions are named at most in a sentence.
const NAMED_MAX: usize = 16;

/// Makes the metadata of a volume anew. `report` gets a sentence for all that was found, and that
/// is not known any more.
///
/// # Errors
/// `Io` if something cannot be read at all, `Damaged` if files contradict each other: nothing was
/// changed. `StorageFull`: the next call begins again.
pub(crate) fn rebuild(
    volume: &Volume,
    shared: Shared<'_>,
    report: &mut RecoveryReport,
) -> Result<Metadata> {
    let mut found = Found::default();
    found.look(volume)?;
    if found.topics.len() > TOPICS_MAX as usize {
        return Err(Error::damaged(&volume.topics_dir(), "more than 500,000 topics"));
    }
    let was_of_several = holds_segments(volume, "0")? && !holds_segments(volume, "1")?;
    let aside = set_aside(volume)?;

    let mut metadata = open_metadata(std::iter::once(volume), false, shared, &mut Vec::new())?;
    let begun = metadata.begin_with(MetadataSnapshot {
        next_topic_id: found.next_topic_id.max(metadata.next_topic_id().get()),
        epoch_floor: found.epoch_above(volume),
        topics: found.topics.clone(),
        next_producer: found.survey.named_end,
        next_volume: metadata.next_volume().get(),
        ..MetadataSnapshot::default()
    });
    match begun {
        Err(Error::StorageFull(full)) => {
            let reserve = volume.reserve();
            if !reserve.spend() {
                return Err(Error::StorageFull(full));
            }
            metadata.snapshot()?;
            let _ = reserve.fill();
        }
        begun => begun?,
    }
    trace::event!(WARN, topics = found.topics.len(), "the metadata was rebuilt");
    report.rebuilt = true;
    let topics = found.topics.len();
    report.notes.push(format!(
        "the metadata was lost, and rebuilt from the files of {topics} topic{}{}",
        if topics == 1 { "" } else { "s" },
        aside.map(|path| format!("; its bad copies are in {}", path.display())).unwrap_or_default(),
    ));
    report.notes.append(&mut found.notes);
    report.notes.push(
        "what left no file is not known any more: topics and partitions without a record; a topic \
         whose deletion had not ended may be back"
            .to_owned(),
    );
    if found.survey.named_end > 0 {
        report.notes.push(
            "the names of producers are not known any more: who takes one is a new producer, and \
             what it sends again is not told from what it sent"
                .to_owned(),
        );
    }
    if was_of_several {
        report.notes.push(
            "there was no second copy here, as on each of several volumes: what the others hold is \
             not known, and what is here may never have been committed"
                .to_owned(),
        );
    }
    Ok(metadata)
}

/// What the files tell.
#[derive(Debug, Default)]
struct Found {
    topics: Vec<TopicMeta>,
    next_topic_id: u64,
    survey: Survey,
    notes: Vec<String>,
}

impl Found {
    fn look(&mut self, volume: &Volume) -> Result<()> {
        let disk = volume.disk.as_ref();
        let topics = volume.topics_dir();
        let mut by_id = BTreeMap::new();
        for folder in folders_in(disk, &topics)? {
            let Some((name, id)) = parse_topic_folder(&folder) else { continue };
            if id.get() >= TOPIC_IDS_END {
                // No store of ours gave it.
                continue;
            }
            let path = topics.join(&folder);
            let files = TopicFiles::read(disk, &path, id)?;
            self.next_topic_id = self.next_topic_id.max(id.get() + 1);
            match self.topic(disk, (name, id), &files, &path)? {
                Some(topic) => drop(by_id.insert((id, path), topic)),
                None => self.notes.push(format!(
                    "{}: no file in it says which topic it is of; it is left alone",
                    path.display()
                )),
            }
        }
        // A name is given again once its topic is deleted: of two with it the older one was.
        while let Some(((_, path), topic)) = by_id.pop_last() {
            if self.topics.iter().any(|newer| same_but_for_case(&newer.name, &topic.name)) {
                self.notes.push(format!(
                    "{}: a newer topic has this name, so this one was deleted; it is left alone",
                    path.display()
                ));
            } else {
                self.topics.push(topic);
            }
        }
        self.topics.reverse();
        Ok(())
    }

    /// A topic as its files tell it; `None` if none of them does.
    fn topic(
        &mut self,
        disk: &dyn Disk,
        (name, id): (&str, TopicId),
        files: &TopicFiles,
        path: &Path,
    ) -> Result<Option<TopicMeta>> {
        let Some(salt) = files.salt(path)? else { return Ok(None) };
        let own = || files.headers.iter().filter(|header| header.salt == salt);
        let newest = own().max_by_key(|header| (header.created, header.base_offset));
        let created = own().map(|header| header.created).min().unwrap_or_default();
        let mut survey_of_all = Survey::default();
        for (partition, dir) in &files.partitions {
            let identity = Identity::new(id, salt, *partition);
            survey_of_all = survey_of_all.and(survey(disk, dir, &identity)?);
        }
        self.survey = self.survey.and(survey_of_all);

        let partitions = files.partitions.keys().next_back().map_or(1, |last| last.get() + 1);
        // Fixed for a topic, so that without one it could have none for ever. The widest one: it
        // holds whatever the one of before held.
        let dedups =
            survey_of_all.has_window || (!survey_of_all.has_footer && survey_of_all.has_keys);
        let dedup = if dedups { DedupWindow::Retained } else { DedupWindow::Off };
        let config = TopicConfig::new().partitions(partitions).replicas(1).dedup(dedup);
        let sized =
            newest.and_then(segment_bytes_of).map(|bytes| config.clone().segment_bytes(bytes));
        let meta = |config: &TopicConfig| to_meta(id, salt, name, config, created);
        let sized = sized.as_ref().map(meta).filter(|meta| from_meta(meta).is_some());
        let meta = sized.unwrap_or_else(|| meta(&config));

        self.notes.push(format!(
            "topic {name}: partitions={partitions} segment_bytes={} are as its files have them; {}\
             every other setting is the default now, and partitions above these have left no file",
            meta.segment_bytes,
            if dedups {
                "it has dedup keys, which count as long as their records now; "
            } else {
                ""
            },
        ));
        let lost: Vec<u32> =
            (0..partitions).filter(|number| !files.has_segments(*number)).collect();
        if !lost.is_empty() {
            let named: Vec<String> = lost.iter().take(NAMED_MAX).map(u32::to_string).collect();
            let more = if lost.len() > NAMED_MAX { " and others" } else { "" };
            self.notes.push(format!(
                "topic {name}: no file of partition {}{more}: empty now, as if never written to",
                named.join(", "),
            ));
        }
        Ok(Some(meta))
    }

    /// Above every one that was ever given: see invariant 2.
    fn epoch_above(&self, volume: &Volume) -> LeaderEpoch {
        let last = u64::from(i32::MAX.unsigned_abs()) - 1;
        let opened = u32::try_from(volume.incarnation().get().min(last)).unwrap_or_default();
        let above = self.survey.latest_epoch.get().max(opened).saturating_add(1 + ELECTIONS_LOST);
        LeaderEpoch::new(above.min(i32::MAX.unsigned_abs()))
    }
}

/// The files of a topic's folder.
#[derive(Debug, Default)]
struct TopicFiles {
    partitions: BTreeMap<PartitionId, PathBuf>,
    /// The partitions with a segment in it.
    with_segments: BTreeSet<u32>,
    /// Those that belong where they lie, but for the salt.
    headers: Vec<SegmentHeader>,
}

impl TopicFiles {
    fn read(disk: &dyn Disk, path: &Path, id: TopicId) -> Result<Self> {
        let mut files = Self::default();
        for folder in folders_in(disk, path)? {
            let number = parse_partition_folder(&folder);
            let Some(partition) = number.filter(|number| number.get() < PARTITIONS_MAX) else {
                continue;
            };
            let dir = path.join(&folder);
            let headers = headers_in(disk, &dir)?;
            let belongs =
                |header: &&SegmentHeader| header.topic == id && header.partition == partition;
            let good = || headers.iter().filter_map(|(_, header)| header.as_ref());
            let is_of_others = !headers.is_empty()
                && headers.iter().all(|(_, found)| found.as_ref().is_some_and(|it| !belongs(&it)));
            if is_of_others {
                continue;
            }
            files.headers.extend(good().filter(belongs).copied());
            if !headers.is_empty() {
                files.with_segments.insert(partition.get());
            }
            files.partitions.insert(partition, dir);
        }
        Ok(files)
    }

    /// The salt of most files; `None` if no header is good.
    ///
    /// # Errors
    /// `Damaged` if as many have another one: who takes the wrong ones for the topic's would begin
    /// it anew, beside its records.
    fn salt(&self, path: &Path) -> Result<Option<u32>> {
        let mut votes: BTreeMap<u32, usize> = BTreeMap::new();
        for header in &self.headers {
            *votes.entry(header.salt).or_default() += 1;
        }
        let most = votes.values().max().copied().unwrap_or_default();
        let mut first = votes.into_iter().filter(|(_, count)| *count == most).map(|(salt, _)| salt);
        match (first.next(), first.next()) {
            (Some(_), Some(_)) => {
                Err(Error::damaged(path, "half of its files are of another store; take those away"))
            }
            (salt, _) => Ok(salt),
        }
    }

    fn has_segments(&self, number: u32) -> bool {
        self.with_segments.contains(&number)
    }
}

/// Gives the folder of the copies another name, if there is a file in it. Returns that.
fn set_aside(volume: &Volume) -> Result<Option<PathBuf>> {
    if !holds_segments(volume, "0")? && !holds_segments(volume, "1")? {
        return Ok(None);
    }
    let (disk, from) = (&volume.disk, volume.dir.join(METADATA));
    for number in 1_u64.. {
        let to = volume.dir.join(format!("{SET_ASIDE}{number}"));
        match disk.stat(&to) {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Ok(_) => continue,
            Err(e) => return Err(Error::io("look for", &to, e)),
        }
        disk.rename(&from, &to).map_err(|e| Error::io("rename", &from, e))?;
        // Before there is another folder of the old name: it would have to be one or the other.
        disk.sync_dir(&volume.dir).map_err(|e| Error::io("sync", &volume.dir, e))?;
        return Ok(Some(to));
    }
    Ok(None)
}

fn holds_segments(volume: &Volume, copy: &str) -> Result<bool> {
    let dir = volume.dir.join(METADATA).join(copy);
    Ok(!headers_in(volume.disk.as_ref(), &dir)?.is_empty())
}

/// The names of the folders in one.
fn folders_in(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>> {
    match disk.list(dir) {
        Ok(entries) => {
            let folders = entries.into_iter().filter(|entry| entry.kind == EntryKind::Dir);
            Ok(folders.map(|entry| entry.name).collect())
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io("list", dir, e)),
    }
}
