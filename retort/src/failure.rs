//! How a command ends when it does not end well.

use std::process::ExitCode;

use retort_client::Unreachable;

/// Exit codes: 1 the run failed, 2 bad input (nothing was started), 130 stopped by Ctrl-C.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something the user gave can't be used; the message names it.
    Input(String),
    /// A run or a command failed.
    Run(anyhow::Error),
    /// Stopped on request, after an orderly checkpoint.
    Interrupted,
}

impl Failure {
    pub(crate) fn input(message: impl ToString) -> Self {
        Self::Input(message.to_string())
    }

    /// Says what is wrong on stderr and gives the exit code.
    #[expect(
        clippy::print_stderr,
        reason = "the last word of a command goes to its user, not to the log"
    )]
    pub(crate) fn report(&self) -> ExitCode {
        match self {
            Self::Input(message) => {
                eprintln!("error: {message}");
                ExitCode::from(2)
            }
            Self::Run(error) => {
                eprintln!("error: {error:#}");
                ExitCode::from(1)
            }
            Self::Interrupted => {
                eprintln!("stopped: the state is checkpointed");
                ExitCode::from(130)
            }
        }
    }
}

impl From<Unreachable> for Failure {
    fn from(error: Unreachable) -> Self {
        match error {
            Unreachable::Address(_) => Self::input(error),
            Unreachable::Nobody { .. } => Self::Run(error.into()),
        }
    }
}

/// Runs a command's asynchronous part.
pub(crate) fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    retort_runtime::block_on(async { Ok(work.await) })?
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Run(error)
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        let text = format!("{:?}: {}", status.code(), status.message());
        match status.code() {
            tonic::Code::InvalidArgument => Self::Input(status.message().to_owned()),
            _ => Self::Run(anyhow::anyhow!(text)),
        }
    }
}
