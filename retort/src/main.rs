//! The `retort` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    retort::main()
}
