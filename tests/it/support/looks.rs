//! What was seen of images when they were opened and used, so that one that comes again need not
//! be opened again.
//!
//! Not here: looking (`check`, or a log's own tests), and the comparison with what was promised,
//! which is made every time: the same image may come after other promises.
//!
//! That rests on this: what is seen depends on nothing but the bytes that a disk shows, and on the
//! key. The looks are at a clock that stands still, on one thread, with a seed. It is checked, too:
//! one image in so many that come again is looked at again, and has to look the same.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::history::Found;
use super::sim::SimDisk;

/// One in so many that are known is looked at again.
const AGAIN_EVERY: u64 = 499;
/// More than that are not remembered at a time. Images come again soon, or not at all.
const REMEMBERED_MAX: usize = 20_000;
/// So much of a value's beginning tells it from others of its length, mostly.
const LABEL_BYTES: usize = 24;

/// See the [module](self). `K` is what a look depends on beside the bytes.
pub(crate) struct Looks<K, S> {
    seen: Mutex<HashMap<(u64, K), Arc<S>>>,
    known: AtomicU64,
}

impl<K: Eq + Hash, S: Debug> Looks<K, S> {
    pub(crate) fn new() -> Self {
        Self { seen: Mutex::new(HashMap::new()), known: AtomicU64::new(0) }
    }

    /// What is seen of a disk that nobody uses: looks at it, unless it is known. It is not as it
    /// was after that.
    pub(crate) fn of(&self, disk: &SimDisk, key: K, look: impl FnOnce(&SimDisk) -> S) -> Arc<S> {
        let key = (disk.fingerprint(), key);
        let known = self.lock().get(&key).map(Arc::clone);
        if let Some(known) = known {
            if (self.known.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(AGAIN_EVERY) {
                let (again, known) = (format!("{:?}", look(disk)), format!("{known:?}"));
                assert!(again == known, "the same image looks otherwise: {again}, not {known}");
            }
            return known;
        }
        let seen = Arc::new(look(disk));
        let mut all = self.lock();
        if all.len() >= REMEMBERED_MAX {
            all.clear();
        }
        all.insert(key, Arc::clone(&seen));
        seen
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(u64, K), Arc<S>>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a value is known by: its length, and how it begins.
type Label = (usize, [u8; LABEL_BYTES]);

/// Values that many images have, kept once.
pub(crate) struct Values(Mutex<HashMap<Label, Arc<[u8]>>>);

impl Values {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    /// Puts shared values in the place of equal ones.
    pub(crate) fn share(&self, found: &mut Found) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for record in &mut found.records {
            let mut label = [0; LABEL_BYTES];
            let bytes = record.value.len().min(LABEL_BYTES);
            label[..bytes].copy_from_slice(&record.value[..bytes]);
            let shared = known
                .entry((record.value.len(), label))
                .or_insert_with(|| Arc::clone(&record.value));
            if *shared == record.value {
                record.value = Arc::clone(shared);
            }
        }
    }
}
