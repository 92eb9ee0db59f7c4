//! `volume list`, `add`, `drain` and `remove`.

use std::path::Path;

use plimsoll::{VolumeDescription, VolumeState};
use serde::Serialize;

use crate::output::{Ending, Output, Result};
use crate::store::{Store, end_change, end_look};

#[derive(Serialize)]
struct VolumeLine {
    volume: u32,
    directory: Option<String>,
    state: &'static str,
    incarnation: u64,
    failures: u16,
    partitions: usize,
}

impl From<&VolumeDescription> for VolumeLine {
    fn from(volume: &VolumeDescription) -> Self {
        Self {
            volume: volume.volume.get(),
            directory: volume.dir.as_ref().map(|dir| dir.display().to_string()),
            state: match volume.state {
                VolumeState::Live => "live",
                VolumeState::Missing => "missing",
                VolumeState::Draining => "draining",
                VolumeState::Silent => "silent",
                VolumeState::Failed => "failed",
                _ => "unknown",
            },
            incarnation: volume.incarnation.get(),
            failures: volume.failures,
            partitions: volume.partitions,
        }
    }
}

pub(crate) fn list(store: &Store<'_>, json: bool) -> Result<Ending> {
    let broker = store.open_to_look(None)?;
    let mut out = Output::open()?;
    if !json {
        out.line("volume  state     incarnation  failures  partitions  directory")?;
    }
    for volume in broker.admin().volumes()? {
        let line = VolumeLine::from(&volume);
        if json {
            out.json(&line)?;
        } else {
            out.line(format_args!(
                "{:>6}  {:<8}  {:>11}  {:>8}  {:>10}  {}",
                line.volume,
                line.state,
                line.incarnation,
                line.failures,
                line.partitions,
                line.directory.as_deref().unwrap_or("-"),
            ))?;
        }
    }
    out.flush()?;
    end_look(broker);
    Ok(Ending::Done)
}

pub(crate) fn add(store: &Store<'_>, dir: &Path) -> Result<Ending> {
    let broker = store.open()?;
    broker.admin().add_volume(dir)?;
    end_change(broker)
}

pub(crate) fn drain(store: &Store<'_>, dir: &Path) -> Result<Ending> {
    let broker = store.open()?;
    broker.admin().drain_volume(dir)?;
    end_change(broker)
}

pub(crate) fn remove(store: &Store<'_>, dir: &Path, force: bool) -> Result<Ending> {
    let broker = store.open()?;
    broker.admin().remove_volume(dir, force)?;
    end_change(broker)
}
