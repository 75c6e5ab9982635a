//! Deterministic simulation of the control plane: the coordinator's own core and the workers' own
//! machine, on a network, clocks, disks and processes that fail by a seed.
//!
//! One seed is one history, always the same. Weights are symbolic: a state is the set of positions
//! it contains, so that an oracle of its own sees what a manifest or a ledger only claims.
//!
//! ```text
//!   history::run ─▶ world (events in time) ─▶ coordinator, student, server ─▶ oracle (P1..P5, P7..P9)
//!                        │
//!                        └─ faults: loss, duplication, reordering, delay, partitions, crashes at
//!                           every point of a write, freezes, drifting clocks, poison, torn files
//! ```
//!
//! It must never depend on tokio, tonic or burn.

pub mod command;
mod coordinator;
mod disk;
mod history;
mod message;
mod model;
mod oracle;
mod plant;
mod random;
mod server;
mod setting;
mod student;
mod world;

pub use history::{Counts, Failure, Options, history};
pub use plant::Plant;
