//! Locks, condition variables and atomics: those that the log's threads meet at.
//!
//! Not here: what they guard. Without `--cfg plimsoll_model` these are `parking_lot`'s and the
//! standard library's own. With it they are `shuttle`'s, with the same names and signatures: every
//! use of one is then a place where the model checker may let another thread go on
//! (`log::tests::interleavings`).
//!
//! What is held while one of these is used has to be one of these: a lock that the checker does not
//! know blocks its only thread for good.

#[cfg(not(plimsoll_model))]
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
#[cfg(not(plimsoll_model))]
pub(crate) use std::sync::atomic;

/// How long a lock is waited for before it is looked whether that is still of use.
#[cfg(not(plimsoll_model))]
const PATIENCE: std::time::Duration = std::time::Duration::from_millis(50);

/// Locks, for as long as the wait is of use: whoever holds it may be in a call of a disk that
/// hangs.
#[cfg(not(plimsoll_model))]
#[inline]
pub(crate) fn lock_while<T>(
    mutex: &Mutex<T>,
    is_of_use: impl Fn() -> bool,
) -> Option<MutexGuard<'_, T>> {
    loop {
        if let Some(guard) = mutex.try_lock_for(PATIENCE) {
            return Some(guard);
        }
        if !is_of_use() {
            return None;
        }
    }
}

/// In a model no call hangs.
#[cfg(plimsoll_model)]
pub(crate) fn lock_while<T>(
    mutex: &Mutex<T>,
    _is_of_use: impl Fn() -> bool,
) -> Option<MutexGuard<'_, T>> {
    Some(mutex.lock())
}

#[cfg(plimsoll_model)]
pub(crate) use modelled::{Condvar, Mutex, MutexGuard, RwLock};
#[cfg(plimsoll_model)]
pub(crate) use shuttle::sync::atomic;

#[cfg(plimsoll_model)]
mod modelled {
    use std::ops::{Deref, DerefMut};
    use std::sync::{PoisonError, TryLockError};
    use std::time::Instant;

    use shuttle::sync;

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(sync::Mutex<T>);

    /// `None` only within [`Condvar::wait`].
    #[derive(Debug)]
    pub(crate) struct MutexGuard<'a, T>(Option<sync::MutexGuard<'a, T>>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard(Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)))
        }

        pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            match self.0.try_lock() {
                Ok(guard) => Some(MutexGuard(Some(guard))),
                Err(TryLockError::Poisoned(poisoned)) => {
                    Some(MutexGuard(Some(poisoned.into_inner())))
                }
                Err(TryLockError::WouldBlock) => None,
            }
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.0.as_ref().expect("held but for the time of a wait")
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().expect("held but for the time of a wait")
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct RwLock<T>(sync::RwLock<T>);

    impl<T> RwLock<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(sync::RwLock::new(value))
        }

        pub(crate) fn read(&self) -> sync::RwLockReadGuard<'_, T> {
            self.0.read().unwrap_or_else(PoisonError::into_inner)
        }

        pub(crate) fn write(&self) -> sync::RwLockWriteGuard<'_, T> {
            self.0.write().unwrap_or_else(PoisonError::into_inner)
        }

        pub(crate) fn try_write(&self) -> Option<sync::RwLockWriteGuard<'_, T>> {
            match self.0.try_write() {
                Ok(guard) => Some(guard),
                Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            }
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct Condvar(sync::Condvar);

    impl Condvar {
        pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            if let Some(held) = guard.0.take() {
                guard.0 = Some(self.0.wait(held).unwrap_or_else(PoisonError::into_inner));
            }
        }

        /// There is no time in a model: no deadline passes.
        pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, _at: Instant) -> Waited {
            self.wait(guard);
            Waited
        }

        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    pub(crate) struct Waited;

    impl Waited {
        #[expect(clippy::unused_self, reason = "parking_lot's signature")]
        pub(crate) fn timed_out(&self) -> bool {
            false
        }
    }
}
