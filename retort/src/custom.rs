//! Programs of one's own: `retort` with architectures and data sets that it does not have (`docs/custom.md`).

pub use retort_data::custom::{Custom, Read, Sample, Set};
pub use retort_data::{Shape, rng};
pub use retort_models::custom::{Dropout, Init, Input, Network, burn};

use std::process::ExitCode;

/// The command, and what it is to know beside what it has.
///
/// The processes of a local fleet are this very program in other roles, so that all of them know the same; on a standing
/// fleet every role has to run it.
#[derive(Debug, Default)]
#[must_use = "nothing happens before `main`"]
pub struct Program(());

impl Program {
    /// Without anything of its own yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// With an architecture: `model = { architecture = "custom", custom = { name = "NAME", ... } }`.
    pub fn network<N: Network>(self) -> Self {
        retort_models::custom::register::<N>();
        self
    }

    /// With a data set: `dataset = { format = "custom", custom = { name = "NAME", ... } }`.
    pub fn dataset(self, name: &str, read: Read) -> Self {
        retort_data::custom::register(name, read);
        self
    }

    /// Does what the command line says, and gives the exit code.
    pub fn main(self) -> ExitCode {
        crate::cli::main()
    }
}
