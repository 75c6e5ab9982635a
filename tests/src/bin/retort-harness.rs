//! The command under test: built with the tests, so that no scenario runs a stale program.

use std::process::ExitCode;

fn main() -> ExitCode {
    retort::main()
}
