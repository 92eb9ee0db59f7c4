//! The log as a whole, below the broker.
