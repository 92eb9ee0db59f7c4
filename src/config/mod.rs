//! Every knob, with its meaning, default and limit.
//!
//! Not here: what the knobs do. The layers below read them.

mod change;
mod clock;
mod limits;
mod topic;

pub use change::TopicChange;
pub(crate) use clock::SystemClock;
pub use clock::{Clock, ManualClock};
pub(crate) use limits::*;
pub use topic::{Acks, Cleanup, Compression, DedupWindow, Durability, Reads, TopicConfig};
