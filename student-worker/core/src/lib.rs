//! The worker's own state machine: leases, prefetch, steps, rounds and floors of one session.
//!
//! Pure and synchronous: no clock, no randomness, no I/O; the simulator drives this very code. It
//! must never depend on tokio, tonic or burn. Frames are opaque to it (`F`).
//!
//! ```text
//!   lease_answer, frame, frame_failed, began, published, trained, merged, floor, endpoints, finish
//!          │
//!          ▼
//!   ┌─────────────┐  poll_command()
//!   │   Worker    ├──▶ AskLease ─ Want ─ BeginRound ─ Train ─ Contribute ─ Release ─ Beat ─ Leave
//!   └─────────────┘
//! ```
//!
//! One block's way: leased, wanted from every teacher of the mixture, trained batch by batch on the
//! grid, contributed with the round.

mod queue;
mod worker;

pub use queue::{Batch, BlockId};
pub use worker::{Command, Setup, StepDone, Worker};
