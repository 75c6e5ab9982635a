//! The coordinator's deciding code: membership, leases, ledger, rounds, versions and pace.
//!
//! Pure and synchronous. It reads no clock, draws no random number, does no I/O and iterates no
//! hash map; time comes in with every call. It must never depend on tokio, tonic or burn.
//!
//! ```text
//!   register, heartbeat, lease, contribute, published, ... (with `now`)
//!          │                                        ▲
//!          ▼                                        │ handle_timeout(now)
//!   ┌─────────────┐   poll_command()   ┌───────┐    │ poll_timeout()
//!   │  run::Run   ├───────────────────▶│ shell ├────┘
//!   └──┬───────┬──┘  Send, CloseRound, └───────┘
//!      │       │     AbortRound
//!   group::Group   teacher::Teacher
//!   (ledger,       (versions: publish, stage,
//!    rounds)        floor, activate)
//! ```

pub mod group;
pub mod ids;
pub mod lease;
pub mod ledger;
pub mod manifest;
mod names;
pub mod pace;
pub mod record;
pub mod round;
pub mod run;
pub mod spec;
pub mod teacher;
