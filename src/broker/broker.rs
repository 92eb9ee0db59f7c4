//! [`Broker`], and the changes of its topics.
//!
//! Not here: opening it (`opening`) and closing it (`closing`); what is done with a topic
//! (`client`).
//!
//! Threads   any. `metadata` is taken for changes of topics, one at a time; `topics` for the time
//!           of a look-up.

mod closing;
mod opening;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};

use crate::broker::background::Background;
use crate::broker::builder::BrokerBuilder;
use crate::broker::controller::Controller;
use crate::broker::ids::Ids;
use crate::broker::metadata::Metadata;
use crate::broker::metrics::Retired;
use crate::broker::producers::ProducerCounts;
use crate::broker::report::RecoveryReport;
use crate::broker::scrub::Scrubber;
use crate::broker::sender::Sender;
use crate::broker::topic::{Topic, TopicState, keep, must_match, to_meta};
use crate::broker::volume::Volume;
use crate::broker::volumes::{Member, Shared, open_metadata};
use crate::config::{Clock, TopicChange, TopicConfig};
use crate::error::{Error, InvalidTopicName, Outcome, Result};
use crate::format::{
    MetadataRecord, NameError, TOPICS_MAX, TopicMeta, VolumeMeta, same_but_for_case, topic_folder,
};
use crate::fs::{Disk, ForkMark};
use crate::id::VolumeId;
use crate::log::{Handles, LiveProducers, Log, LogOptions, Mode, Watchers};
use crate::partition::{Partition, Slots};
use crate::trace;

use closing::Closing;

/// The one handle that an application opens: it owns the data directory until it is closed.
///
/// Clones share it; the store closes with the last one, or at [`Broker::close`]. Topics, producers
/// and consumers do not keep it open: their calls then fail with [`Error::Closed`].
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// use plimsoll::{Broker, Record, TopicConfig};
///
/// let broker = Broker::open(dir.path())?;
/// let orders = broker.ensure_topic("orders", TopicConfig::new())?;
/// let ack = broker.producer().build()?.send(&orders, Record::new("paid").key("order-42"))?;
/// assert_eq!(ack.offset.get(), 0);
/// broker.close()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Broker {
    handle: Arc<Handle>,
}

/// Closes the store when the last clone of the broker goes.
#[derive(Debug)]
struct Handle {
    inner: Arc<Inner>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Who wants to know whether it went well calls `close`.
        let _ = self.inner.close();
    }
}

/// What topics, producers and consumers share with the broker.
#[derive(Debug)]
pub(crate) struct Inner {
    /// At least one.
    members: Slots<Member>,
    handles: Arc<Handles>,
    producers: Arc<LiveProducers>,
    pub(crate) producer_counts: ProducerCounts,
    clock: Arc<dyn Clock>,
    mode: Mode,
    /// Lock rank: above every log's.
    metadata: Mutex<Metadata>,
    /// Lock rank: leaf.
    topics: RwLock<BTreeMap<Arc<str>, Arc<TopicState>>>,
    /// Lock rank: leaf.
    ids: Mutex<Ids>,
    sender: Sender,
    controller: Arc<Controller>,
    scrubber: Arc<Scrubber>,
    /// The only volumes that new partitions are placed on. Lock rank: leaf.
    #[cfg(test)]
    pub(crate) only: Mutex<Vec<VolumeId>>,
    replica_lag_max: Duration,
    /// Interval and timeout.
    heartbeats: (Duration, Duration),
    background: Background,
    /// As it was given, for volumes that are added.
    root_disk: Arc<dyn Disk>,
    /// Looked at before any lock is taken: in a forked child it may be locked for ever.
    fork: Arc<ForkMark>,
    report: RecoveryReport,
    /// When it was opened, by the clock.
    pub(crate) opened: i64,
    pub(crate) retired: Retired,
    /// Set with `closing` locked, before anything is closed.
    closed: AtomicBool,
    /// Lock rank: leaf.
    closing: Mutex<Closing>,
    close_ended: Condvar,
    /// Of consumers with paused partitions: told once the broker closed or a topic was deleted.
    pub(crate) endings: Arc<Watchers>,
}

impl Broker {
    /// Opens the store in a directory, and makes it if there is none. One volume.
    ///
    /// # Errors
    /// See [`BrokerBuilder::open`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Broker> {
        Broker::builder().volumes([dir]).open()
    }

    /// Opens a store to look at, beside a live broker or without one: takes no lock, writes
    /// nothing, and reads up to what is known to be durable.
    ///
    /// # Errors
    /// See [`BrokerBuilder::open`].
    pub fn open_read_only(dir: impl AsRef<Path>) -> Result<Broker> {
        Broker::builder().volumes([dir]).read_only(true).open()
    }

    /// Opens with options.
    #[must_use]
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder::new()
    }

    pub(crate) fn open_with(options: BrokerBuilder) -> Result<Broker> {
        let inner = Arc::new(Inner::open(options)?);
        if inner.mode == Mode::ReadWrite && inner.is_of_several() {
            inner.controller.start(&inner)?;
        }
        if inner.background.is_threaded() && inner.mode == Mode::ReadWrite {
            inner.scrubber.start(&inner)?;
        }
        Ok(Broker { handle: Arc::new(Handle { inner }) })
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.handle.inner
    }

    /// Makes a topic.
    ///
    /// # Errors
    /// `TopicExists`, `InvalidTopicName`, `InvalidConfig`, `NotYet`, `StorageFull`, `ReadOnly`.
    #[expect(clippy::needless_pass_by_value, reason = "reads best, and costs the caller nothing")]
    pub fn create_topic(&self, name: &str, config: TopicConfig) -> Result<Topic> {
        self.inner().check_fork()?;
        let mut metadata = self.inner().metadata.lock();
        if let Some(state) = self.inner().find_topic(name) {
            return Err(Error::TopicExists { name: Arc::clone(&state.name) });
        }
        let state = self.inner().create(&mut metadata, name, &config)?;
        Ok(self.inner().topic(state))
    }

    /// The topic of this name, made if there is none.
    ///
    /// # Errors
    /// `TopicConfigMismatch` if it exists with another configuration, also where `Admin::alter` or
    /// `Admin::add_partitions` has changed it since; and those of [`Broker::create_topic`].
    #[expect(clippy::needless_pass_by_value, reason = "reads best, and costs the caller nothing")]
    pub fn ensure_topic(&self, name: &str, config: TopicConfig) -> Result<Topic> {
        self.inner().check_fork()?;
        let mut metadata = self.inner().metadata.lock();
        if let Some(state) = self.inner().find_topic(name) {
            must_match(&state, &config)?;
            return Ok(self.inner().topic(state));
        }
        let state = self.inner().create(&mut metadata, name, &config)?;
        Ok(self.inner().topic(state))
    }

    /// The topic of this name.
    ///
    /// # Errors
    /// `UnknownTopic`.
    pub fn topic(&self, name: &str) -> Result<Topic> {
        self.inner().check_fork()?;
        let state = self.inner().find_topic(name);
        let state = state.ok_or_else(|| Error::UnknownTopic { name: Arc::from(name) })?;
        Ok(self.inner().topic(state))
    }

    /// What the open found and did.
    #[must_use]
    pub fn recovery(&self) -> &RecoveryReport {
        &self.inner().report
    }

    /// Makes everything durable and closes the store, also if clones of this handle are left: their
    /// calls fail with [`Error::Closed`] from now on. The next open then has nothing to scan.
    ///
    /// Where it is being closed already, this waits for that, and returns what that returns: but in
    /// the waker of a task, for which the other one may wait. There it returns at once.
    ///
    /// # Errors
    /// What could not be written. The store is closed all the same, and the next open recovers it.
    pub fn close(self) -> Result<()> {
        self.inner().close()
    }
}

impl Inner {
    /// The store has more than one volume, there or not.
    fn is_of_several(&self) -> bool {
        self.members.count() > 1 || self.metadata.lock().volumes().count() > 1
    }

    fn topic_dir(volume: &Volume, meta: &TopicMeta) -> Result<PathBuf> {
        let folder = topic_folder(&meta.name, meta.id).map_err(|e| bad_name(&meta.name, e))?;
        Ok(volume.topics_dir().join(folder))
    }

    fn create(
        &self,
        metadata: &mut Metadata,
        name: &str,
        config: &TopicConfig,
    ) -> Result<Arc<TopicState>> {
        self.must_be_writable()?;
        for member in self.members.iter().filter(|member| !member.is_gone()) {
            member.volume.must_take_topics()?;
        }
        Topic::check_name(name)?;
        if metadata.topics().any(|t| !t.deleted && same_but_for_case(&t.name, name)) {
            return Err(invalid_name(name, "a topic exists whose name differs only in case"));
        }
        let replicas = config.replicas.unwrap_or_else(|| self.usual_replicas(metadata));
        let config = &config.clone().replicas(replicas);
        config.validate()?;
        if metadata.topics().count() >= TOPICS_MAX as usize {
            return Err(Error::invalid_config("topics", "at most 500,000 in a store"));
        }
        let id = metadata.next_topic_id();
        topic_folder(name, id).map_err(|e| bad_name(name, e))?;
        let salt = self.ids.lock().next_salt();
        let meta = to_meta(id, salt, name, config, self.clock.now_ms());
        // Before the change, so that nothing can fail after it.
        let placed = self.place(metadata, id, 0..config.partitions, replicas)?;
        let on = |partition| placed.volumes(partition);
        let state = self.assemble(&meta, &on, |_, opening| Ok(Log::fresh(opening)))?;
        change(&self.members, metadata, placed.changes(MetadataRecord::PutTopic(meta)))?;
        self.start(state.partitions.iter(), metadata.epoch_floor());
        self.begin(metadata, state.partitions.iter());
        self.topics.write().insert(Arc::clone(&state.name), Arc::clone(&state));
        trace::event!(INFO, topic = name, partitions = config.partitions, "a topic was made");
        Ok(state)
    }

    /// Changes a topic's configuration: in the metadata, then where it has effect.
    pub(crate) fn alter(&self, state: &TopicState, change_of: &TopicChange) -> Result<()> {
        let mut metadata = self.metadata.lock();
        let meta = self.meta_of(&metadata, state)?;
        let config = change_of.apply(&state.config())?;
        let changed = TopicMeta {
            deleted: meta.deleted,
            ..to_meta(meta.id, meta.salt, &meta.name, &config, meta.created)
        };
        if changed != meta {
            let changed = vec![MetadataRecord::PutTopic(changed)];
            change(&self.members, &mut metadata, changed)?;
            let allows = config.unclean_leader_election;
            state.set_config(config);
            if allows {
                self.elect_uncleanly(&mut metadata, state);
            }
        }
        Ok(())
    }

    /// Adds partitions to a topic: in the metadata, then for everyone who has a handle to it.
    pub(crate) fn add_partitions(&self, state: &TopicState, total: u32) -> Result<()> {
        let mut metadata = self.metadata.lock();
        let meta = self.meta_of(&metadata, state)?;
        let count = state.partitions.count();
        let config = state.config().partitions(total);
        config.validate()?;
        if total < count {
            return Err(Error::invalid_config("partitions", "as many as the topic has, or more"));
        }
        if total == count {
            return Ok(());
        }
        // Before the change, so that nothing can fail after it.
        let fresh = &mut |_: &Volume, opening| Ok(Log::fresh(opening));
        let replicas = config.replicas_or_default();
        let placed = self.place(&metadata, meta.id, count..total, replicas)?;
        let on = |partition| placed.volumes(partition);
        let more = self.partitions(&meta, &config, count..total, &on, fresh)?;
        let grown = TopicMeta { partitions: total, ..meta };
        change(&self.members, &mut metadata, placed.changes(MetadataRecord::PutTopic(grown)))?;
        self.start(more.iter(), metadata.epoch_floor());
        self.begin(&metadata, more.iter());
        state.partitions.add(more);
        Ok(())
    }

    /// What the metadata has of a topic that is not deleted.
    fn meta_of(&self, metadata: &Metadata, state: &TopicState) -> Result<TopicMeta> {
        self.must_be_writable()?;
        let meta = metadata.topics().find(|meta| meta.id == state.id && !meta.deleted).cloned();
        meta.ok_or_else(|| Error::UnknownTopic { name: Arc::clone(&state.name) })
    }

    /// Deletes a topic with everything in it. Views that were handed out stay good.
    pub(crate) fn delete_topic(&self, name: &str) -> Result<()> {
        self.must_be_writable()?;
        let mut metadata = self.metadata.lock();
        self.must_be_writable()?;
        let state = self.find_topic(name);
        let state = state.ok_or_else(|| Error::UnknownTopic { name: Arc::from(name) })?;
        let meta = metadata.topics().find(|t| t.id == state.id).cloned();
        let meta = meta.ok_or_else(|| Error::UnknownTopic { name: Arc::from(name) })?;
        // A failure of before refuses the change as a whole, and the topic stays.
        metadata.must_be_usable()?;
        let tombstone = vec![MetadataRecord::DeleteTopic { topic: state.id }];
        let deleted = change(&self.members, &mut metadata, tombstone);
        if let Err(error) = &deleted
            && error.outcome() == Outcome::NotWritten
        {
            return deleted;
        }
        // Also where it is unknown whether the change counts: 1. the tombstone reaches one copy of
        // the metadata; 2. the other fails; 3. a record is acknowledged; 4. the next open finds the
        // tombstone and removes it. Once its logs are abandoned nothing is acknowledged.
        for member in self.members.iter() {
            if let Some(worker) = member.worker.lock().as_ref() {
                worker.remove(state.id);
            }
        }
        for partition in state.partitions.iter() {
            for replica in partition.replicas() {
                let gone = self.member(replica.volume).is_some_and(Member::is_gone);
                if gone { replica.log.give_up() } else { replica.log.abandon() }
            }
            partition.end();
        }
        self.retired.add(&state, || drop(self.topics.write().remove(name)));
        self.endings.moved();
        trace::event!(INFO, topic = name, "a topic was deleted");
        deleted?;
        self.purge_with(&mut metadata, &meta)
    }

    fn purge(&mut self, meta: &TopicMeta) -> Result<()> {
        self.remove_folders(meta)?;
        if self.all_are_there(self.metadata.lock().volumes()) {
            let record = MetadataRecord::Purged { topic: meta.id };
            change(&self.members, self.metadata.get_mut(), vec![record])?;
        }
        Ok(())
    }

    /// Removes a deleted topic's folders. What fails is finished by the next open.
    fn purge_with(&self, metadata: &mut Metadata, meta: &TopicMeta) -> Result<()> {
        self.remove_folders(meta)?;
        if self.all_are_there(metadata.volumes()) {
            change(&self.members, metadata, vec![MetadataRecord::Purged { topic: meta.id }])?;
        }
        Ok(())
    }

    /// Whether none of the volumes may keep a folder of a deleted topic: one that is missing, or
    /// failed, does until an open finds it again.
    fn all_are_there<'m>(&self, mut volumes: impl Iterator<Item = &'m VolumeMeta>) -> bool {
        volumes.all(|known| {
            let is_there = self.member(known.id).is_some_and(|member| !member.is_gone());
            !known.standing.is_out() && is_there
        })
    }

    /// On every volume that is there, also where it fails on one.
    fn remove_folders(&self, meta: &TopicMeta) -> Result<()> {
        let mut first = Ok(());
        for member in self.members.iter().filter(|member| !member.is_gone()) {
            let volume = &member.volume;
            let dir = Self::topic_dir(volume, meta)?;
            first = first.and(remove_topic_folder(volume, &dir));
            if volume.reserve_spent.load(Ordering::Relaxed) {
                // What was freed is set aside first; appends wait until it is.
                let _ = volume.fill_reserve();
            }
        }
        first
    }

    /// The copies of the metadata, each with the volume that it is on.
    pub(crate) fn metadata_logs(&self) -> Vec<(&Volume, Arc<Log>)> {
        let metadata = self.metadata.lock();
        let copies = metadata.copies_by_volume();
        let on = |unique_id| self.volumes().find(|volume| volume.unique_id() == unique_id);
        copies.filter_map(|(id, log)| Some((on(id)?, Arc::clone(log)))).collect()
    }

    pub(crate) fn find_topic(&self, name: &str) -> Option<Arc<TopicState>> {
        self.topics.read().get(name).cloned()
    }

    /// True if the topic of this handle is deleted by now. Read-only, the metadata is looked at as
    /// the live broker has left it; where that cannot be read, nothing new is known.
    pub(crate) fn is_deleted(&self, topic: &TopicState) -> bool {
        if self.mode == Mode::ReadWrite {
            return self.find_topic(&topic.name).is_none_or(|found| found.id != topic.id);
        }
        let mut metadata = self.metadata.lock();
        let ends = |metadata: &Metadata| -> Vec<_> {
            metadata.copies().map(|log| log.end_offset()).collect()
        };
        let known = ends(&metadata);
        let seen = metadata.copies().try_for_each(|copy| copy.refresh().map(drop));
        let Inner { clock, handles, producers, .. } = self;
        let shared = Shared { clock, handles, producers };
        if (seen.is_err() || ends(&metadata) != known)
            && let Ok(newer) = open_metadata(self.volumes(), true, shared, &mut Vec::new())
        {
            *metadata = newer;
        }
        !metadata.topics().any(|known| known.id == topic.id && !known.deleted)
    }

    pub(crate) fn topic_states(&self) -> Vec<Arc<TopicState>> {
        self.topics.read().values().cloned().collect()
    }

    pub(crate) fn topic(self: &Arc<Self>, state: Arc<TopicState>) -> Topic {
        Topic { broker: Arc::clone(self), state }
    }

    pub(crate) fn metadata(&self) -> &Mutex<Metadata> {
        &self.metadata
    }

    pub(crate) fn ids(&self) -> &Mutex<Ids> {
        &self.ids
    }

    pub(crate) fn handles(&self) -> &Arc<Handles> {
        &self.handles
    }

    pub(crate) fn producers(&self) -> &Arc<LiveProducers> {
        &self.producers
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(crate) fn log_options(&self, config: &TopicConfig) -> LogOptions {
        log_options(self.volume(), config)
    }

    /// The volumes that are there.
    pub(crate) fn members(&self) -> &Slots<Member> {
        &self.members
    }

    pub(crate) fn volumes(&self) -> impl Iterator<Item = &Volume> {
        self.members.iter().map(|member| &member.volume)
    }

    pub(crate) fn member(&self, id: VolumeId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }

    /// The first one.
    ///
    /// # Panics
    /// Never: there is one at least.
    pub(crate) fn first(&self) -> &Member {
        self.members.get(0).expect("there is one")
    }

    /// The first one.
    pub(crate) fn volume(&self) -> &Volume {
        &self.first().volume
    }

    /// What sends for the producers.
    pub(crate) fn sender(&self) -> &Sender {
        &self.sender
    }

    pub(crate) fn heartbeats(&self) -> (Duration, Duration) {
        self.heartbeats
    }

    pub(crate) fn background(&self) -> Background {
        self.background
    }

    pub(crate) fn root_disk(&self) -> &Arc<dyn Disk> {
        &self.root_disk
    }

    /// Who decides for its partitions.
    pub(crate) fn controller(&self) -> &Arc<Controller> {
        &self.controller
    }

    pub(crate) fn fork_mark(&self) -> &Arc<ForkMark> {
        &self.fork
    }

    /// Refuses in a forked child.
    #[inline]
    pub(crate) fn check_fork(&self) -> Result<()> {
        if self.fork.is_forked() { Err(Error::Forked) } else { Ok(()) }
    }

    /// An append's error to those who know of topics: the log of a deleted one is closed, though
    /// the broker is not. Counts what is to be counted.
    #[cold]
    pub(crate) fn explain(&self, topic: &TopicState, error: Error) -> Error {
        match error {
            Error::Closed if !self.is_closed() => {
                Error::UnknownTopic { name: Arc::clone(&topic.name) }
            }
            Error::ProducerFenced(_) => {
                self.producer_counts.fenced();
                error
            }
            other => other,
        }
    }

    pub(crate) fn report(&self) -> &RecoveryReport {
        &self.report
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Before an append: fills the reserve of its volume, which a metadata change has spent. Where
    /// there is no room for that, there is none for what is to be appended.
    pub(crate) fn fill_reserve(&self, of: &Arc<Partition>) -> Result<()> {
        let leader = of.leader();
        let filled =
            self.member(leader.volume).map_or(Ok(()), |member| member.volume.fill_reserve());
        if let Err(Error::StorageFull(_)) = filled {
            of.found_full(leader);
        }
        filled
    }

    pub(crate) fn must_be_writable(&self) -> Result<()> {
        self.check_fork()?;
        if self.is_closed() {
            return Err(Error::Closed);
        }
        match self.mode {
            Mode::ReadWrite => Ok(()),
            Mode::ReadOnly => Err(Error::ReadOnly),
        }
    }

    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// The time, in milliseconds since the Unix epoch.
    pub(crate) fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }
}

/// Makes a change of the metadata, with the reserve if the disk is full.
pub(super) fn change(
    members: &Slots<Member>,
    metadata: &mut Metadata,
    records: Vec<MetadataRecord>,
) -> Result<()> {
    // Where volumes are asked whether they are there, they look themselves: a look may hang.
    let asked = |member: &&Member| member.is_gone() || member.crew.lock().is_some();
    for member in members.iter().filter(|member| !asked(member)) {
        match member.volume.must_be_ours() {
            Err(error) if members.count() == 1 => return Err(error),
            Err(error) => metadata.leave_out(member.volume.unique_id(), error),
            Ok(()) => {}
        }
    }
    match metadata.change(records.clone()) {
        Err(Error::StorageFull(full)) => {
            // Held until the change is made: 1. the reserve is given up; 2. a producer that tries
            // again fills it; 3. the change finds the disk as full as before.
            let there = members.iter().filter(|member| !member.is_gone());
            let reserves: Vec<_> = there.map(|member| member.volume.reserve()).collect();
            let mut spent = false;
            for reserve in &reserves {
                spent |= reserve.spend();
            }
            if !spent {
                return Err(metadata.no_room(Error::StorageFull(full)));
            }
            metadata.change(records).map_err(|error| metadata.no_room(error))?;
            for reserve in &reserves {
                // Filled again as soon as there is room: now, or before the next append.
                let _ = reserve.fill();
            }
            Ok(())
        }
        other => other,
    }
}

pub(super) fn log_options(volume: &Volume, config: &TopicConfig) -> LogOptions {
    LogOptions {
        segment_bytes: config.segment_bytes,
        durability: config.durability,
        keep: keep(config),
        allocates: volume.capabilities.allocate,
        coherent: volume.capabilities.coherent,
        dedup: config.dedup,
        incarnation: volume.incarnation(),
    }
}

/// Removes a topic's partitions: each segment loses its name ending in `.log` first.
fn remove_topic_folder(volume: &Volume, dir: &Path) -> Result<()> {
    let disk = &volume.disk;
    let missing = |e: &std::io::Error| e.kind() == std::io::ErrorKind::NotFound;
    let topics = volume.topics_dir();
    // Also where it is gone: whoever removed it may have died before this, or found no descriptor.
    let sync_topics = || disk.sync_dir(&topics).map_err(|e| Error::io("sync", &topics, e));
    let partitions = match disk.list(dir) {
        Ok(entries) => entries,
        Err(e) if missing(&e) => return sync_topics(),
        Err(e) => return Err(Error::io("list", dir, e)),
    };
    for partition in partitions {
        let path = dir.join(&partition.name);
        let files = disk.list(&path).map_err(|e| Error::io("list", &path, e))?;
        for file in files {
            crate::log::remove_file(disk.as_ref(), &path.join(&file.name))?;
        }
        disk.remove_dir(&path).map_err(|e| Error::io("remove", &path, e))?;
    }
    disk.remove_dir(dir).map_err(|e| Error::io("remove", dir, e))?;
    sync_topics()
}

pub(super) fn invalid_name(name: &str, why: &'static str) -> Error {
    Error::InvalidTopicName(Box::new(InvalidTopicName { name: name.to_owned(), why }))
}

pub(super) fn bad_name(name: &str, error: NameError) -> Error {
    invalid_name(name, error.what())
}
