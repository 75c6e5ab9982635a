//! `simulate` without building the rest of the workspace.

use std::process::ExitCode;

fn main() -> ExitCode {
    retort_simulation::command::main(std::env::args().skip(1))
}
