//! Tests of the log as a whole come with its harness.
