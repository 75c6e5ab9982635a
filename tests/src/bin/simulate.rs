//! Deterministic simulation of the control plane; see the simulation crate.
//!
//! `cargo run --release -p retort-tests --bin simulate -- --seeds 0..1000`

use std::process::ExitCode;

fn main() -> ExitCode {
    retort_simulation::command::main(std::env::args().skip(1))
}
