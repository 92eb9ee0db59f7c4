//! Events and spans for the `tracing` crate, which are nothing without the feature `tracing`.
//!
//! Told is what happens now and then: opening, recovery, a new file, a full one, a failure, a
//! deletion, closing. Nothing is told of an append, a fetch or a sync that went well.
//!
//! Not here: a subscriber, which is the application's. Every event has the target `plimsoll`.

/// An event: a level, fields, and a sentence.
#[cfg(feature = "tracing")]
macro_rules! event {
    ($level:ident, $($rest:tt)+) => {
        ::tracing::event!(target: "plimsoll", ::tracing::Level::$level, $($rest)+)
    };
}

/// A span that the rest of the block is in.
#[cfg(feature = "tracing")]
macro_rules! span {
    ($($rest:tt)+) => {
        let _span = ::tracing::info_span!(target: "plimsoll", $($rest)+).entered();
    };
}

#[cfg(not(feature = "tracing"))]
macro_rules! event {
    ($($rest:tt)+) => {};
}

#[cfg(not(feature = "tracing"))]
macro_rules! span {
    ($($rest:tt)+) => {};
}

pub(crate) use {event, span};
