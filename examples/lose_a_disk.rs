//! Writes to a topic of three replicas, loses the directory of one of them while it does, and goes
//! on: no record is lost, and nobody sees an error. Then another volume takes the lost one's place.
//!
//! ```sh
//! cargo run --release --example lose_a_disk
//! ```

use std::error::Error;
use std::fs;
use std::time::Duration;

use plimsoll::{Broker, Record, TopicConfig, VolumeState};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let disks = ["disk-1", "disk-2", "disk-3"].map(|name| dir.path().join(name));
    let broker = Broker::builder().volumes(&disks).open()?;
    let orders = broker.create_topic("orders", TopicConfig::new().replicas(3).min_insync(2))?;
    let producer = broker.producer().build()?;

    let send = |from: u32, to: u32| -> plimsoll::Result<()> {
        for number in from..to {
            producer.send(&orders, Record::new(&number.to_le_bytes()))?;
        }
        Ok(())
    };
    send(0, 1_000)?;

    // The disk of the leader goes.
    let leader = broker.admin().describe(&orders)?.partitions[0].leader;
    let volumes = broker.admin().volumes()?;
    let lost = volumes.iter().find(|volume| Some(volume.volume) == leader);
    let lost = lost.and_then(|volume| volume.dir.clone()).ok_or("nobody leads")?;
    fs::rename(&lost, dir.path().join("gone"))?;
    println!("lost {}", lost.display());
    send(1_000, 2_000)?;
    while broker.admin().volumes()?.iter().all(|volume| volume.state == VolumeState::Live) {
        send(2_000, 2_001)?;
        std::thread::sleep(Duration::from_millis(10));
    }
    let now = broker.admin().describe(&orders)?.partitions.remove(0);
    println!("leader was {leader:?}, is {:?}", now.leader);

    // Another one in its place.
    broker.admin().remove_volume(&lost, false)?;
    broker.admin().add_volume(dir.path().join("disk-4"))?;
    let in_sync = || -> plimsoll::Result<usize> {
        let described = broker.admin().describe(&orders)?;
        Ok(described.partitions[0].replicas.iter().filter(|replica| replica.in_sync).count())
    };
    while in_sync()? < 3 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let read = broker.reader(&orders).build()?.collect::<Result<Vec<_>, _>>()?;
    println!("{} records, on three replicas again", read.len());
    broker.close()?;
    Ok(())
}
