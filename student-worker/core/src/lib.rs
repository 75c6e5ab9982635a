//! The worker's own state machine: sessions, leases, prefetch, steps, rounds and floors.
//!
//! Pure and synchronous: no clock, no randomness, no I/O; the simulator drives this very code. It
//! must never depend on tokio, tonic or burn. Frames are opaque to it (`F`).
//!
//! ```text
//!   admitted, lost, set_silent, lease_answer, frame, began, trained, merged, published, floor, ...
//!          │
//!          ▼
//!   ┌─────────────┐  poll_command()
//!   │   Worker    ├──▶ coordinator: Register, AskLease, Contribute, Publish, Release, Reject, Beat
//!   └─────────────┘    teacher:     Want
//!                      trainer:     Become, BeginRound, Train, Adopt   (in this order of sending)
//! ```
//!
//! One block's way: leased, wanted from every teacher of the mixture, trained batch by batch on the
//! grid, contributed with the round.

mod queue;
mod worker;

pub use queue::{Batch, BlockId};
pub use worker::{Admitted, Command, OnMissing, Setup, StepDone, Worker};
