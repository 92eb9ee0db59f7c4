//! Every record of the metadata and back, the bytes of each, and bytes that are none.

use super::super::assignment::{Assigned, Standing};
use super::super::testing::{Random, assert_golden};
use super::*;
use crate::id::{Incarnation, Offset, PartitionId};

fn topic(id: u64) -> TopicMeta {
    TopicMeta {
        id: TopicId::new(id),
        salt: 0x1122_3344,
        name: format!("orders.{id}"),
        partitions: 12,
        replicas: 3,
        min_insync: 2,
        durability: 2,
        interval_ms: 100,
        retention_ms: Some(604_800_000),
        retention_bytes: None,
        segment_bytes: 64 << 20,
        segment_age_ms: 86_400_000,
        cleanup: 1,
        dedup: 3,
        dedup_window: 3_600_000,
        compression: 1,
        created: 1_700_000_000_000,
        record_bytes: 1 << 20,
        unclean_leader_election: false,
        deleted: true,
    }
}

fn snapshot() -> MetadataRecord {
    let other = TopicMeta { retention_bytes: Some(0), deleted: false, ..topic(2) };
    MetadataRecord::Snapshot(MetadataSnapshot {
        next_topic_id: 3,
        epoch_floor: LeaderEpoch::new(9),
        topics: vec![topic(1), other],
        next_producer: 5,
        producers: vec![producer(4)],
        next_volume: 4,
        volumes: vec![volume(1), VolumeMeta { standing: Standing::Out, ..volume(3) }],
        assignments: vec![assignment()],
    })
}

fn volume(id: u32) -> VolumeMeta {
    VolumeMeta {
        id: VolumeId::new(id),
        standing: Standing::Draining,
        failures: 0,
        unique_id: 0x0102_0304_0506_0708,
        incarnation: Incarnation::new(6),
    }
}

fn assignment() -> Assignment {
    let on = |id, in_sync| Assigned { volume: VolumeId::new(id), in_sync };
    Assignment {
        topic: TopicId::new(2),
        partition: PartitionId::new(5),
        epoch: LeaderEpoch::new(8),
        start: Offset::new(1_000),
        leader: Some(VolumeId::new(3)),
        replicas: vec![on(3, true), on(1, false)],
    }
}

fn producer(id: u64) -> ProducerMeta {
    ProducerMeta {
        id: ProducerId::new(ProducerId::NAMED_BIT + id),
        epoch: ProducerEpoch::new(3),
        name: "importer-1".to_owned(),
    }
}

fn every_kind() -> [MetadataRecord; 12] {
    [
        snapshot(),
        MetadataRecord::Snapshot(MetadataSnapshot::default()),
        MetadataRecord::PutTopic(topic(1)),
        MetadataRecord::DeleteTopic { topic: TopicId::new(7) },
        MetadataRecord::Purged { topic: TopicId::new(7) },
        MetadataRecord::EpochFloor { epoch: LeaderEpoch::new(5) },
        MetadataRecord::PutProducer(producer(2)),
        MetadataRecord::DropProducer { producer: producer(2).id },
        MetadataRecord::PutVolume(volume(2)),
        MetadataRecord::DropVolume { volume: VolumeId::new(2) },
        MetadataRecord::PutPartition(assignment()),
        MetadataRecord::PutPartition(Assignment { leader: None, ..assignment() }),
    ]
}

#[test]
fn golden_bytes() {
    let all: Vec<u8> = every_kind().iter().flat_map(MetadataRecord::encode).collect();
    assert_golden("metadata", &all, include_str!("golden/metadata.txt"));
    let deletion = MetadataRecord::DeleteTopic { topic: TopicId::new(7) }.encode();
    assert_eq!(deletion, [3, 0, 1, 3, 8, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn every_kind_survives_a_round_trip() {
    for record in every_kind() {
        assert_eq!(MetadataRecord::decode(&record.encode()), Ok(record));
    }
}

#[test]
fn what_was_added_within_known_fields_survives_a_round_trip() {
    let topic = TopicMeta { unclean_leader_election: true, ..topic(1) };
    let volume = VolumeMeta { standing: Standing::OutDraining, failures: 3, ..volume(2) };
    for record in [MetadataRecord::PutTopic(topic), MetadataRecord::PutVolume(volume)] {
        assert_eq!(MetadataRecord::decode(&record.encode()), Ok(record));
    }
}

#[test]
fn every_cut_and_every_addition_is_refused() {
    for record in every_kind() {
        let bytes = record.encode();
        for end in 0..bytes.len() {
            assert_eq!(MetadataRecord::decode(&bytes[..end]), Err(MetadataError::Short));
        }
        let longer = [bytes, vec![0]].concat();
        assert_eq!(MetadataRecord::decode(&longer), Err(MetadataError::Trailing));
    }
}

/// A creation as a newer program may write it: a field more in the topic and in the body.
fn newer(minor: u8) -> Vec<u8> {
    let mut bytes = MetadataRecord::PutTopic(topic(1)).encode();
    let topic_bytes = u32::from_le_bytes(*bytes[8..].first_chunk().unwrap());
    bytes[3] = minor;
    bytes[4..8].copy_from_slice(&(4 + topic_bytes + 3 + 2).to_le_bytes());
    bytes[8..12].copy_from_slice(&(topic_bytes + 3).to_le_bytes());
    bytes.extend_from_slice(&[9; 5]);
    bytes
}

#[test]
fn a_topic_written_before_there_was_a_segment_age_has_the_default() {
    let mut bytes = MetadataRecord::PutTopic(topic(1)).encode();
    bytes[3] = 0;
    assert_eq!(MetadataRecord::decode(&bytes), Err(MetadataError::Trailing));
    for at in [4, 8] {
        let length = u32::from_le_bytes(*bytes[at..].first_chunk().unwrap());
        bytes[at..at + 4].copy_from_slice(&(length - 8).to_le_bytes());
    }
    bytes.truncate(bytes.len() - 8);
    let before = TopicMeta { segment_age_ms: 604_800_000, ..topic(1) };
    assert_eq!(MetadataRecord::decode(&bytes), Ok(MetadataRecord::PutTopic(before)));
}

#[test]
fn fields_of_a_newer_minor_version_are_skipped() {
    assert_eq!(MetadataRecord::decode(&newer(MINOR + 1)), Ok(MetadataRecord::PutTopic(topic(1))));
    assert_eq!(MetadataRecord::decode(&newer(MINOR)), Err(MetadataError::Trailing));
}

#[test]
fn a_snapshot_written_before_there_were_producers_has_none() {
    let snapshot = MetadataRecord::Snapshot(MetadataSnapshot::default());
    let mut bytes = snapshot.encode();
    for (minor, bytes_after) in [(MINOR_VOLUMES, 12), (MINOR_PRODUCERS, 12)] {
        bytes[3] = minor - 1;
        assert_eq!(MetadataRecord::decode(&bytes), Err(MetadataError::Trailing));
        bytes.truncate(bytes.len() - bytes_after);
        bytes[4] -= u8::try_from(bytes_after).unwrap();
        assert_eq!(MetadataRecord::decode(&bytes).as_ref(), Ok(&snapshot));
    }
}

#[test]
fn volumes_and_assignments_that_cannot_be_are_refused_by_name() {
    let refused = |record: &MetadataRecord, at: usize, bytes: &[u8]| {
        let mut record = record.encode();
        record[8 + at..8 + at + bytes.len()].copy_from_slice(bytes);
        MetadataRecord::decode(&record).unwrap_err()
    };
    let put = MetadataRecord::PutVolume(volume(2));
    assert_eq!(refused(&put, 0, &[0]), MetadataError::Field("volume_id"));
    assert_eq!(refused(&put, 4, &[4]), MetadataError::Field("standing"));
    let put = MetadataRecord::PutPartition(assignment());
    assert_eq!(refused(&put, 12, &[0xFF; 4]), MetadataError::Field("epoch"));
    assert_eq!(refused(&put, 16, &[0xFF; 8]), MetadataError::Field("start"));
    assert_eq!(refused(&put, 24, &[2]), MetadataError::Field("leader"));
    assert_eq!(refused(&put, 28, &[0]), MetadataError::Field("replica_count"));
    let many = (VOLUMES_MAX + 1).to_le_bytes();
    assert_eq!(refused(&put, 28, &many), MetadataError::Field("replica_count"));
    assert_eq!(refused(&put, 36, &[2]), MetadataError::Field("flags"));
    assert_eq!(refused(&put, 40, &[3]), MetadataError::Field("replica"));
    let mut record = MetadataRecord::Snapshot(MetadataSnapshot::default()).encode();
    record[40..44].copy_from_slice(&many);
    assert_eq!(MetadataRecord::decode(&record), Err(MetadataError::Field("volume_count")));
}

#[test]
fn producers_that_cannot_be_are_refused_by_name() {
    let refused = |at: usize, bytes: &[u8]| {
        let mut record = MetadataRecord::PutProducer(producer(2)).encode();
        record[8 + at..8 + at + bytes.len()].copy_from_slice(bytes);
        MetadataRecord::decode(&record).unwrap_err()
    };
    assert_eq!(refused(0, &2_u64.to_le_bytes()), MetadataError::Field("producer_id"));
    assert_eq!(refused(0, &[0xFF; 8]), MetadataError::Field("producer_id"));
    assert_eq!(refused(12, &[0; 4]), MetadataError::Field("producer_name"));
    assert_eq!(refused(16, &[0xFF]), MetadataError::Field("producer_name"));
    let mut record = MetadataRecord::Snapshot(MetadataSnapshot::default()).encode();
    record[32..36].copy_from_slice(&(PRODUCERS_MAX + 1).to_le_bytes());
    assert_eq!(MetadataRecord::decode(&record), Err(MetadataError::Field("producer_count")));
    record[24..32].copy_from_slice(&ProducerId::NAMED_BIT.to_le_bytes());
    assert_eq!(MetadataRecord::decode(&record), Err(MetadataError::Field("next_producer")));
}

#[test]
fn a_newer_major_version_and_an_unknown_kind_are_refused() {
    let mut bytes = MetadataRecord::EpochFloor { epoch: LeaderEpoch::new(5) }.encode();
    bytes[0] = 11;
    assert_eq!(MetadataRecord::decode(&bytes), Err(MetadataError::UnknownTag { tag: 11 }));
    bytes[2] = 2;
    assert_eq!(MetadataRecord::decode(&bytes), Err(MetadataError::Version { major: 2 }));
    let bytes = MetadataRecord::EpochFloor { epoch: LeaderEpoch::new(u32::MAX) }.encode();
    assert_eq!(MetadataRecord::decode(&bytes), Err(MetadataError::Field("epoch")));
}

#[test]
fn fields_beyond_their_limits_are_refused_by_name() {
    let refused = |at: usize, bytes: &[u8]| {
        let mut record = MetadataRecord::PutTopic(topic(1)).encode();
        record[12 + at..12 + at + bytes.len()].copy_from_slice(bytes);
        MetadataRecord::decode(&record).unwrap_err()
    };
    assert_eq!(refused(12, &[0; 4]), MetadataError::Field("partitions"));
    let many = (PARTITIONS_MAX + 1).to_le_bytes();
    assert_eq!(refused(12, &many), MetadataError::Field("partitions"));
    assert_eq!(refused(24, &[16]), MetadataError::Field("flags"));
    assert_eq!(refused(48, &[8]), MetadataError::Field("retention"));
    assert_eq!(refused(28, &[0xFF; 4]), MetadataError::Short);
    assert_eq!(refused(28, &[7]), MetadataError::Trailing);
    assert_eq!(refused(88, b"/"), MetadataError::Name(NameError::Character { found: '/' }));
    assert_eq!(refused(88, &[0xFF]), MetadataError::Field("name"));
    assert_eq!(refused(84, &[1]), MetadataError::Field("zero"));
    assert_eq!(refused(0, &(COUNTER_MAX + 1).to_le_bytes()), MetadataError::Field("id"));
    let mut record = snapshot().encode();
    record[8..16].copy_from_slice(&(COUNTER_MAX + 1).to_le_bytes());
    assert_eq!(MetadataRecord::decode(&record), Err(MetadataError::Field("next_topic_id")));
    let mut record = snapshot().encode();
    record[20..24].copy_from_slice(&(TOPICS_MAX + 1).to_le_bytes());
    assert_eq!(MetadataRecord::decode(&record), Err(MetadataError::Field("topic_count")));
}

#[test]
fn random_and_mutated_records_never_panic_and_say_what_they_mean() {
    let mut random = Random::new(6);
    for round in 0..200_000 {
        let mut bytes = every_kind()[[0, 1, 2, 6, 8, 10][round % 6]].encode();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            bytes[at] = random.bytes(1)[0];
        }
        if let Ok(record) = MetadataRecord::decode(&bytes) {
            assert_eq!(MetadataRecord::decode(&record.encode()), Ok(record));
        }
    }
}
