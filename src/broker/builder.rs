//! How a broker is opened.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::broker::background::Background;
use crate::broker::broker::Broker;
use crate::broker::volume::Missing;
use crate::config::{
    Clock, HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT, REPLICA_LAG_MAX, SCRUB_INTERVAL, SystemClock,
};
use crate::error::{Error, Result};
use crate::format::VOLUMES_MAX;
use crate::fs::{Disk, OsDisk};

/// Options of an open; see `Broker::builder`.
#[derive(Clone, Debug)]
pub struct BrokerBuilder {
    pub(crate) volumes: Vec<PathBuf>,
    pub(crate) missing: Missing,
    pub(crate) read_only: bool,
    pub(crate) force: bool,
    pub(crate) rebuild: bool,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) background: Background,
    pub(crate) seed: Option<u64>,
    pub(crate) replica_lag_max: Duration,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) heartbeat_timeout: Duration,
    pub(crate) scrub_interval: Option<Duration>,
}

impl BrokerBuilder {
    pub(crate) fn new() -> Self {
        Self {
            volumes: Vec::new(),
            missing: Missing::Create,
            read_only: false,
            force: false,
            rebuild: false,
            disk: Arc::new(OsDisk),
            clock: Arc::new(SystemClock),
            background: Background::default(),
            seed: None,
            replica_lag_max: REPLICA_LAG_MAX,
            heartbeat_interval: HEARTBEAT_INTERVAL,
            heartbeat_timeout: HEARTBEAT_TIMEOUT,
            scrub_interval: Some(SCRUB_INTERVAL),
        }
    }

    /// The data directories, one volume each, in any order. The first open makes a volume in each;
    /// later ones find them wherever they were moved. Partitions are spread over them, each with
    /// replicas on as many as its topic asks for.
    #[must_use]
    pub fn volumes<P: AsRef<Path>>(mut self, dirs: impl IntoIterator<Item = P>) -> Self {
        self.volumes = dirs.into_iter().map(|dir| dir.as_ref().to_path_buf()).collect();
        self
    }

    /// Whether a store is made where there is none. Default: true.
    #[must_use]
    pub fn create_if_missing(mut self, create: bool) -> Self {
        self.missing = if create { Missing::Create } else { Missing::Refuse };
        self
    }

    /// Takes no lock and writes nothing: reads beside a live broker, up to what is known to be
    /// durable. Default: false.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Opens also with half or less of the volumes that the store was last written on: what was
    /// changed since, on the others, is lost, and where they come back they are made to follow.
    /// Default: false.
    #[must_use]
    pub fn force_open(mut self, force: bool) -> Self {
        self.force = force;
        self
    }

    /// Of a store of one volume whose metadata is lost, as no copy of it is good: makes it anew
    /// from the segment files, each of which says which topic and partition it is of. Topics that
    /// have a file are there again, with every record at its offset. What only the metadata knew
    /// is not: settings of topics are the defaults now, but for the size of segments; topics and
    /// partitions without any file are gone, and so are the names of producers; a topic whose
    /// deletion had not ended may be back. [`RecoveryReport::notes`](crate::RecoveryReport::notes)
    /// tells each of that. The bad copies are kept, in a folder beside the new ones. A store with
    /// a good copy is opened as ever. Default: false.
    #[must_use]
    pub fn rebuild_metadata(mut self, rebuild: bool) -> Self {
        self.rebuild = rebuild;
        self
    }

    /// A simulated disk instead of the real one.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub fn disk(mut self, disk: &crate::fs::sim::SimDisk) -> Self {
        self.disk = Arc::new(disk.clone());
        self
    }

    /// Where the time comes from. Default: the operating system.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Who does the background work, and sends what is queued. Default: two threads for each
    /// volume, and one for all producers once a record is queued.
    #[must_use]
    pub fn background(mut self, background: Background) -> Self {
        self.background = background;
        self
    }

    /// The seed of every random choice, the ids of volumes and topics for example. Default: from
    /// the operating system.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// For how long a replica may not have been where its leader was, before it counts as not in
    /// sync: acknowledgements by all wait for it until then. Default: 10 s.
    #[must_use]
    pub fn replica_lag_max(mut self, lag: Duration) -> Self {
        self.replica_lag_max = lag;
        self
    }

    /// How often volumes are asked whether they are there. Default: 200 ms.
    #[must_use]
    pub fn heartbeat_interval(mut self, interval: Duration) -> Self {
        self.heartbeat_interval = interval;
        self
    }

    /// For how long a volume may be silent, or take over one sync, before others take its place.
    /// Default: 2 s.
    #[must_use]
    pub fn heartbeat_timeout(mut self, timeout: Duration) -> Self {
        self.heartbeat_timeout = timeout;
        self
    }

    /// How often every finished segment file is read from the medium, to find what went bad while
    /// another replica still has it. Spread evenly over the time: it costs the store's size by this
    /// interval. `None`: never. Default: 7 days. Without threads (`Background::Inline`) nothing is
    /// read; [`Admin::scrub`](crate::Admin::scrub) reads all at once.
    #[must_use]
    pub fn scrub_interval(mut self, interval: impl Into<Option<Duration>>) -> Self {
        self.scrub_interval = interval.into();
        self
    }

    /// Opens the broker.
    ///
    /// # Errors
    /// `Locked` if another broker has it open, `NoStore` if there is none and none is to be made,
    /// `MissingVolumes` with too few of its volumes, `InvalidConfig` with one that is not of it,
    /// `Damaged` or `Incompatible` for a store that cannot be opened, `Io` and `StorageFull`.
    pub fn open(self) -> Result<Broker> {
        if self.volumes.is_empty() {
            return Err(Error::invalid_config("volumes", "at least one directory"));
        }
        if self.volumes.len() > VOLUMES_MAX as usize {
            return Err(Error::invalid_config("volumes", "at most 1,024"));
        }
        if self.rebuild && self.read_only {
            return Err(Error::invalid_config("rebuild_metadata", "not read-only"));
        }
        if self.heartbeat_interval.is_zero() || self.heartbeat_timeout < self.heartbeat_interval {
            let why = "above zero, and not above heartbeat_timeout";
            return Err(Error::invalid_config("heartbeat_interval", why));
        }
        Broker::open_with(self)
    }
}
