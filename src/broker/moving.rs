//! Volumes that come and go while the store is open, and the replicas that move for it.
//!
//! Not here: which volume takes a replica (`placement`), copying it (`partition`).
//!
//! | step of a partition | when |
//! | --- | --- |
//! | a replica is added, on the volume with the fewest | fewer replicas than asked for are on volumes that stay |
//! | another one leads | all of those are in sync, and one that is to go leads |
//! | one that is to go is dropped, its files after that | all of those are in sync, and others lead |
//! | one too many is dropped, where the most are | all of them are in sync |
//!
//! Each step is a term of its own: a change of the metadata with a new epoch, durable before it
//! counts. Nothing pauses: appends go on with the leader, and after a hand-over with the next one.
//!
//! Threads   who decides (`controller`), with the metadata locked; and who asked for it, who waits.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::broker::Inner;
use crate::broker::broker::change;
use crate::broker::controller::{Controller, assignment_of};
use crate::broker::metadata::{Metadata, MetadataAt};
use crate::broker::placement::Load;
use crate::broker::topic::TopicState;
use crate::broker::volume::{Missing, Volume};
use crate::broker::volumes::{FIRST, Member, copy_on, holders, load_of};
use crate::error::{Error, Result};
use crate::format::{Assigned, Assignment, MetadataRecord, Standing, VOLUMES_MAX, VolumeMeta};
use crate::id::{LeaderEpoch, PartitionId, VolumeId};
use crate::log::{Log, Mode};
use crate::partition::{Crew, Overseer, Partition, Replica, Term};
use crate::trace;

/// So many replicas are copied at a time for what moves: the disks are somebody else's too.
const MOVES_MAX: usize = 16;
/// Without threads, how often nothing may move before a drain is given up: what goes wrong goes
/// wrong again at once.
const IDLE_MAX: u32 = 1_000;
/// How often who drains a volume looks whether it is done.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What a partition does next, so that its replicas are where they are to be.
enum Move {
    Add(VolumeId),
    HandOver(VolumeId),
    Drop(VolumeId),
}

impl Inner {
    /// Makes a volume in a folder, and adds it to the store. New partitions are placed on it.
    pub(crate) fn add_volume(self: &Arc<Self>, dir: &Path) -> Result<VolumeId> {
        self.must_be_writable()?;
        let mut metadata = self.metadata().lock();
        self.must_be_writable()?;
        let disk = Arc::clone(self.root_disk());
        if Volume::exists(disk.as_ref(), dir)? {
            return Err(Error::InvalidVolume { why: "there is a volume in the folder already" });
        }
        if metadata.volumes().count() >= VOLUMES_MAX as usize {
            return Err(Error::invalid_config("volumes", "at most 1,024"));
        }
        let cluster = self.volume().cluster_id();
        let volume = {
            let mut ids = self.ids().lock();
            Volume::open(disk, dir, (Missing::Create, Some(cluster)), &mut ids)?
        };
        let mut records = self.as_several(&metadata);
        let next = metadata.next_volume().get().max(FIRST.get() + u32::from(!records.is_empty()));
        let id = VolumeId::new(next);
        let copies = [copy_on(&volume, 0)];
        metadata.add_copy(&MetadataAt {
            copies: &copies,
            mode: Mode::ReadWrite,
            force: true,
            clock: self.clock(),
            handles: self.handles(),
            producers: self.producers(),
        })?;
        records.push(MetadataRecord::PutVolume(VolumeMeta {
            id,
            standing: Standing::Live,
            failures: 0,
            unique_id: volume.unique_id(),
            incarnation: volume.incarnation(),
        }));
        let member = Member::new(id, volume, None, self.background());
        if let Err(error) = change(self.members(), &mut metadata, records) {
            metadata.drop_copies(member.volume.unique_id()).iter().for_each(|copy| copy.give_up());
            return Err(error);
        }
        self.members().add(vec![member]);
        if self.background().is_threaded() {
            let overseer: Arc<dyn Overseer> = Arc::clone(self.controller()) as _;
            for member in self.members().iter().filter(|member| !member.is_gone()) {
                member.start(Some(&overseer), self.fork_mark())?;
            }
            metadata.wait_at_most(self.heartbeats().1);
        }
        Controller::watch(self, id)?;
        trace::event!(INFO, volume = id.get(), "a volume was added");
        Ok(id)
    }

    /// What a store that always had one volume has to say, once it gets another one.
    fn as_several(&self, metadata: &Metadata) -> Vec<MetadataRecord> {
        if metadata.volumes().next().is_some() {
            return Vec::new();
        }
        let mut records = vec![MetadataRecord::PutVolume(self.first_volume())];
        for topic in self.topic_states() {
            for partition in topic.partitions.iter() {
                let log = partition.log();
                let (topic, partition) = (log.place.identity.topic(), log.place.partition());
                records.push(MetadataRecord::PutPartition(Assignment {
                    topic,
                    partition,
                    epoch: log.latest_epoch().max(metadata.epoch_floor()),
                    start: log.start_offset(),
                    leader: Some(FIRST),
                    replicas: vec![Assigned { volume: FIRST, in_sync: true }],
                }));
            }
        }
        records
    }

    /// Moves everything off a volume; returns once nothing is on it.
    pub(crate) fn drain_volume(self: &Arc<Self>, volume: VolumeId) -> Result<()> {
        self.begin_drain(volume)?;
        let (mut before, mut idle) = (None, 0);
        loop {
            self.must_be_writable()?;
            self.move_some();
            if self.is_drained(volume) {
                return Ok(());
            }
            self.must_be_drainable(&self.metadata().lock(), volume)?;
            if self.background().is_threaded() {
                // Copying goes on meanwhile; the controller moves, too.
                self.controller().wait(LOOK_AGAIN);
            } else {
                self.work_off_moves();
                let now = Some(self.moved_so_far());
                idle = if now == before { idle + 1 } else { 0 };
                before = now;
                if idle > IDLE_MAX {
                    return Err(Error::TimedOut { what: "a drain that gets no further" });
                }
            }
        }
    }

    /// From now on everything is moved off a volume, and nothing onto it.
    pub(crate) fn begin_drain(&self, volume: VolumeId) -> Result<()> {
        self.must_be_writable()?;
        let mut metadata = self.metadata().lock();
        let known = known(&metadata, volume)?;
        self.must_be_drainable(&metadata, volume)?;
        let draining = VolumeMeta { standing: Standing::Draining, ..known };
        let record = vec![MetadataRecord::PutVolume(draining)];
        change(self.members(), &mut metadata, record)
    }

    /// Refuses what would never be done: whoever drains waits for it.
    fn must_be_drainable(&self, metadata: &Metadata, volume: VolumeId) -> Result<()> {
        metadata.must_be_usable()?;
        if self.member(volume).is_none_or(Member::is_gone) {
            let why = "it failed: what others have is not moved off it, and it can be removed";
            return Err(Error::InvalidVolume { why });
        }
        let stays = |it: &&VolumeMeta| it.id != volume && self.may_hold(it);
        let staying = metadata.volumes().filter(stays).count();
        if staying == 0 {
            let why = "no other volume is there to take what it holds";
            return Err(Error::InvalidVolume { why });
        }
        let in_need = self.topic_states().into_iter().any(|topic| {
            let config = topic.config();
            let needed = config.min_insync_or_default().min(config.replicas_or_default());
            config.replicas_or_default() > 1 && staying < usize::from(needed)
        });
        if in_need {
            let why = "too few would be left for the min_insync of some topic";
            return Err(Error::InvalidVolume { why });
        }
        for topic in self.topic_states() {
            for partition in topic.partitions.iter().filter(|it| it.on(volume).is_some()) {
                partition.check()?;
            }
        }
        Ok(())
    }

    /// Nothing is on it.
    pub(crate) fn is_drained(&self, volume: VolumeId) -> bool {
        self.held_by(&self.metadata().lock(), volume) == 0
    }

    /// Takes a volume out of the store. With `force` also what it alone holds.
    pub(crate) fn remove_volume(self: &Arc<Self>, volume: VolumeId, force: bool) -> Result<()> {
        self.must_be_writable()?;
        let mut metadata = self.metadata().lock();
        let known = known(&metadata, volume)?;
        let others = metadata.volumes().filter(|it| it.id != volume && self.may_hold(it)).count();
        if others == 0 {
            return Err(Error::InvalidVolume { why: "it is the last one that is there" });
        }
        let gone = self.member(volume).is_none_or(Member::is_gone);
        let mut left = Vec::new();
        for topic in self.topic_states() {
            for partition in topic.partitions.iter() {
                let Some(assigned) = assignment_of(&metadata, partition) else { continue };
                if !assigned.replicas.iter().any(|it| it.volume == volume) {
                    continue;
                }
                let in_sync = |it: &&Assigned| it.volume != volume && it.in_sync;
                let goes_on = assigned.replicas.iter().filter(in_sync).count() > 0;
                if !(force || (gone && goes_on)) {
                    let why = "it holds replicas: drain it first, or force it";
                    return Err(Error::InvalidVolume { why });
                }
                left.push((Arc::clone(partition), assigned, goes_on));
            }
        }
        let why = Error::InvalidVolume { why: "it was removed" };
        if let Some(member) = self.member(volume)
            && !member.is_gone()
            && !left.is_empty()
        {
            let incarnation = member.volume.incarnation();
            drop(metadata);
            self.put_out(&[(volume, incarnation, why.clone())]);
            metadata = self.metadata().lock();
        }
        let mut records = vec![MetadataRecord::DropVolume { volume }];
        for (_, assigned, _) in left.iter().filter(|(.., goes_on)| *goes_on) {
            let now = metadata.assignment(assigned.topic, assigned.partition);
            let now = now.cloned().unwrap_or_else(|| assigned.clone());
            records.push(without(&now, volume));
        }
        let copies = metadata.drop_copies(known.unique_id);
        if let Err(error) = change(self.members(), &mut metadata, records) {
            if !gone {
                // It is of the live set: what changes is to be on it.
                metadata.take_back(known.unique_id, copies);
            }
            return Err(error);
        }
        if let Some(member) = self.member(volume) {
            member.leave(&why);
        }
        for (partition, assigned, _) in left.into_iter().filter(|(.., goes_on)| *goes_on) {
            let assigned = metadata.assignment(assigned.topic, assigned.partition).cloned();
            match assigned {
                Some(assigned) if assigned.leader.is_none() => {
                    self.elect(&mut metadata, std::slice::from_ref(&partition));
                }
                Some(assigned) => self.take_term(&partition, &assigned, None),
                None => {}
            }
            if let Some(log) = partition.lets_go_of(volume) {
                log.give_up();
                log.let_go_of_files();
            }
        }
        drop(metadata);
        if let Some(member) = self.member(volume) {
            for copy in copies {
                if gone {
                    copy.give_up();
                } else {
                    // It is not written to any more.
                    let _ = copy.close();
                }
            }
            Controller::forget(self, member);
            member.is_removed.store(true, Ordering::Relaxed);
            let (worker, crew) = (member.worker.lock().take(), member.crew.lock().take());
            if gone {
                if let Some(worker) = worker {
                    worker.leave();
                }
                if let Some(crew) = crew {
                    crew.leave();
                }
            }
            member.volume.release();
        }
        trace::event!(INFO, volume = volume.get(), "a volume was removed");
        Ok(())
    }

    /// The volume in this folder.
    pub(crate) fn volume_in(&self, dir: &Path) -> Result<VolumeId> {
        let real = |dir: &Path| self.root_disk().real_path(dir).unwrap_or_else(|_| dir.into());
        let wanted = real(dir);
        let is_it = |member: &&Member| {
            !member.is_removed.load(Ordering::Relaxed)
                && (member.volume.dir == dir || real(&member.volume.dir) == wanted)
        };
        let found = self.members().iter().filter(is_it).last().map(|member| member.id);
        found.ok_or(Error::InvalidVolume { why: "no volume of the store is there" })
    }

    /// Whether a replica may be put on it, and stay.
    fn may_hold(&self, volume: &VolumeMeta) -> bool {
        volume.standing == Standing::Live
            && self.member(volume.id).is_some_and(|member| !member.is_gone())
    }

    fn held_by(&self, metadata: &Metadata, volume: VolumeId) -> usize {
        let topics = self.topic_states();
        let all = topics.iter().flat_map(|topic| topic.partitions.iter());
        all.filter_map(|partition| assignment_of(metadata, partition))
            .filter(|assigned| holders(assigned).contains(&volume))
            .count()
    }

    /// The next step of each partition whose replicas are not where they are to be.
    pub(crate) fn move_some(self: &Inner) {
        let mut metadata = self.metadata().lock();
        let draining = |it: &VolumeMeta| it.standing == Standing::Draining;
        let (total, staying) = metadata.volumes().fold((0, 0), |(total, staying), volume| {
            (total + 1, staying + usize::from(self.may_hold(volume)))
        });
        if total == 0 || staying == 0 {
            return;
        }
        let some_drain = metadata.volumes().any(draining);
        let mut loads = self.loads(&metadata);
        let mut moving = 0;
        for topic in self.topic_states() {
            let asked = usize::from(topic.config().replicas_or_default());
            let wanted = asked.min(staying);
            for number in 0..topic.partitions.count() {
                let number = PartitionId::new(number);
                let Some(assigned) = metadata.assignment(topic.id, number).cloned() else {
                    continue;
                };
                let replicas = assigned.replicas.len();
                if !some_drain && replicas >= wanted && replicas <= asked {
                    continue;
                }
                moving += usize::from(assigned.replicas.iter().any(|it| !it.in_sync));
                if let Some(next) = self.next_move(&metadata, &assigned, wanted, &loads) {
                    if matches!(next, Move::Add(_)) {
                        moving += 1;
                        if moving > MOVES_MAX {
                            continue;
                        }
                    }
                    self.do_move(&mut metadata, (&topic, number), &next, &mut loads);
                }
            }
        }
    }

    fn loads(&self, metadata: &Metadata) -> Vec<Load> {
        let there = metadata.volumes().filter(|volume| self.may_hold(volume));
        let mut loads: Vec<Load> = there.map(load_of).collect();
        for assigned in metadata.assignments() {
            for replica in &assigned.replicas {
                if let Some(load) = loads.iter_mut().find(|load| load.volume == replica.volume) {
                    load.replicas += 1;
                }
            }
        }
        loads
    }

    fn next_move(
        &self,
        metadata: &Metadata,
        assigned: &Assignment,
        wanted: usize,
        loads: &[Load],
    ) -> Option<Move> {
        let stays = |it: &&Assigned| {
            metadata.volumes().any(|known| known.id == it.volume && self.may_hold(known))
        };
        let staying: Vec<&Assigned> = assigned.replicas.iter().filter(stays).collect();
        let drains = |it: &&Assigned| {
            let mut known = metadata.volumes();
            known.any(|known| known.id == it.volume && known.standing == Standing::Draining)
        };
        if staying.len() < wanted {
            let free = loads.iter().filter(|load| !holders(assigned).contains(&load.volume));
            return free
                .min_by_key(|load| (load.reluctance(), load.replicas))
                .map(|load| Move::Add(load.volume));
        }
        if staying.iter().filter(|it| it.in_sync).count() < wanted {
            return None;
        }
        // Who goes may have what those who stay have lost.
        let partition = self.partition_of(assigned)?;
        if staying.iter().any(|it| partition.is_being_mended(it.volume)) {
            return None;
        }
        let Some(goes) = assigned.replicas.iter().find(drains).map(|it| it.volume) else {
            return surplus(assigned, &staying, wanted, loads).map(Move::Drop);
        };
        if assigned.leader == Some(goes) {
            Some(Move::HandOver(goes))
        } else {
            Some(Move::Drop(goes))
        }
    }

    fn partition_of(&self, assigned: &Assignment) -> Option<Arc<Partition>> {
        let topic = self.topic_states().into_iter().find(|topic| topic.id == assigned.topic)?;
        topic.partition(assigned.partition).ok().cloned()
    }

    fn do_move(
        &self,
        metadata: &mut Metadata,
        (topic, number): (&Arc<TopicState>, PartitionId),
        next: &Move,
        loads: &mut [Load],
    ) {
        let Ok(partition) = topic.partition(number) else { return };
        let Some(assigned) = assignment_of(metadata, partition) else { return };
        match *next {
            Move::HandOver(from) => {
                self.hand_over(metadata, std::slice::from_ref(partition), from);
            }
            Move::Add(to) => {
                let Some(replica) = self.new_replica(metadata, topic, number, to) else { return };
                let mut more = next_epoch(&assigned);
                if let ([only], None) = (more.replicas.as_mut_slice(), more.leader) {
                    // The others were removed, and who is alone leads without an election.
                    only.in_sync = true;
                    more.leader = Some(only.volume);
                }
                more.replicas.push(Assigned { volume: to, in_sync: false });
                if self.make_term(metadata, more.clone()) {
                    self.take_term(partition, &more, Some(replica));
                    if let Some(load) = loads.iter_mut().find(|load| load.volume == to) {
                        load.replicas += 1;
                    }
                }
            }
            Move::Drop(from) => {
                let mut fewer = next_epoch(&assigned);
                fewer.replicas.retain(|it| it.volume != from);
                if self.make_term(metadata, fewer.clone()) {
                    self.take_term(partition, &fewer, None);
                    if let Some(log) = partition.lets_go_of(from) {
                        self.remove_replica(from, topic, &log);
                    }
                }
            }
        }
    }

    fn make_term(&self, metadata: &mut Metadata, assigned: Assignment) -> bool {
        change(self.members(), metadata, vec![MetadataRecord::PutPartition(assigned)]).is_ok()
    }

    /// The same leader in the next epoch, with the replicas that are durable by now.
    fn take_term(&self, partition: &Arc<Partition>, assigned: &Assignment, more: Option<Replica>) {
        let Some(leader) = assigned.leader else { return };
        if let Some(replica) = more {
            partition.gets_company(replica);
        }
        let in_sync = assigned.replicas.iter().filter(|replica| replica.in_sync);
        let isr = in_sync.map(|replica| replica.volume).collect();
        let term = Term { epoch: assigned.epoch, leader, isr };
        if let Err(error) = partition.lead(&term, &self.seats(assigned), false)
            && let Some(replica) = partition.on(leader)
        {
            self.controller().failed(leader, replica.incarnation, &error);
        }
    }

    /// An empty replica on a volume.
    fn new_replica(
        &self,
        metadata: &Metadata,
        topic: &TopicState,
        number: PartitionId,
        to: VolumeId,
    ) -> Option<Replica> {
        let meta = metadata.topics().find(|meta| meta.id == topic.id && !meta.deleted)?;
        let member = self.member(to)?;
        let name = Arc::clone(&topic.name);
        let opening = self.opening_of((meta, &name), &topic.config(), number, member).ok()?;
        // What an earlier move has left there, and was cut short, is of no use.
        let (log, _) = Log::open_beside(&opening, member.volume.entrance).ok()?;
        if let Some(worker) = member.worker.lock().as_ref() {
            worker.add(&log);
        }
        let crew = member.queue.as_ref().map(|queue| Arc::clone(queue) as Arc<dyn Crew>);
        let place = (to, member.volume.incarnation());
        Some(Replica::new(place, log, Arc::clone(&member.volume.reserve_spent), crew))
    }

    /// The files of a replica that is one no more.
    fn remove_replica(&self, from: VolumeId, topic: &TopicState, log: &Arc<Log>) {
        let Some(member) = self.member(from).filter(|member| !member.is_gone()) else {
            log.give_up();
            log.let_go_of_files();
            return;
        };
        if let Some(worker) = member.worker.lock().as_ref() {
            worker.remove_log(topic.id, log.place.partition());
        }
        log.abandon();
        log.let_go_of_files();
        let (disk, dir) = (&member.volume.disk, &log.place.dir);
        // What is left is no topic's, and never looked at: the volume is to go.
        let files = disk.list(dir).unwrap_or_default();
        for file in files {
            let _ = crate::log::remove_file(disk.as_ref(), &dir.join(&file.name));
        }
        let _ = disk.remove_dir(dir);
        if let Some(folder) = dir.parent() {
            let _ = disk.remove_dir(folder);
        }
    }

    /// What changes with each step of a move, and with each batch that is copied for it.
    fn moved_so_far(&self) -> (u64, u64) {
        let topics = self.topic_states();
        let all = || topics.iter().flat_map(|topic| topic.partitions.iter());
        let epochs = all().filter_map(|it| it.standing()).map(|it| u64::from(it.epoch.get()));
        let ends = all().flat_map(|it| it.logs()).map(|log| log.end_offset().get());
        (epochs.sum(), ends.sum())
    }

    /// Without threads: what the volumes have to do for what moves.
    fn work_off_moves(self: &Arc<Self>) {
        for topic in self.topic_states() {
            for partition in topic.partitions.iter().filter(|it| !it.is_alone()) {
                partition.work_inline();
            }
        }
    }
}

/// One that is not needed: 1. a volume fails while another one is drained, so that a third one is
/// given a replica; 2. the first one is back with the next open.
fn surplus(
    assigned: &Assignment,
    staying: &[&Assigned],
    wanted: usize,
    loads: &[Load],
) -> Option<VolumeId> {
    let is_whole = staying.len() == assigned.replicas.len() && staying.iter().all(|it| it.in_sync);
    if !is_whole || staying.len() <= wanted {
        return None;
    }
    let load = |volume| loads.iter().find(|it| it.volume == volume).map_or(0, |it| it.replicas);
    let others = staying.iter().filter(|it| Some(it.volume) != assigned.leader);
    others.map(|it| it.volume).max_by_key(|volume| load(*volume))
}

fn known(metadata: &Metadata, volume: VolumeId) -> Result<VolumeMeta> {
    let known = metadata.volumes().find(|known| known.id == volume).copied();
    known.ok_or(Error::InvalidVolume { why: "no volume of the store, or its only one" })
}

fn next_epoch(assigned: &Assignment) -> Assignment {
    Assignment { epoch: LeaderEpoch::new(assigned.epoch.get() + 1), ..assigned.clone() }
}

fn without(assigned: &Assignment, volume: VolumeId) -> MetadataRecord {
    let mut fewer = next_epoch(assigned);
    fewer.replicas.retain(|it| it.volume != volume);
    // Where no election could be made durable when it was put out, it still is named.
    fewer.leader = fewer.leader.filter(|leader| *leader != volume);
    MetadataRecord::PutPartition(fewer)
}
