//! How a command ends when it does not end well.

use std::fmt;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use retort_client::{FileError, Unreachable, reason};

/// Exit codes: 1 the run failed, 2 bad input (nothing was started), 130 stopped by Ctrl-C.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something the user gave can't be used; the message names it.
    Input(String),
    /// A job that can't start, with everything that is wrong with it.
    Job(Box<retort_job::Error>),
    /// A run or a command failed.
    Run(anyhow::Error),
    /// The coordinator does not answer (it may be starting again).
    Away(anyhow::Error),
    /// Stopped on request, after an orderly checkpoint.
    Interrupted,
}

/// How long a coordinator may be away before a command gives up.
const AWAY: Duration = Duration::from_secs(60);
/// Pause between two attempts to reach it.
const PAUSE: Duration = Duration::from_millis(200);

/// Tries again for as long as the coordinator is away, at most a minute.
pub(crate) async fn patiently<T, F: Future<Output = Result<T, Failure>>>(
    mut attempt: impl FnMut() -> F,
) -> Result<T, Failure> {
    let began = Instant::now();
    loop {
        match attempt().await {
            Err(Failure::Away(_)) if began.elapsed() < AWAY => tokio::time::sleep(PAUSE).await,
            other => return other,
        }
    }
}

impl Failure {
    pub(crate) fn input(message: impl ToString) -> Self {
        Self::Input(message.to_string())
    }

    /// The same after something was started, which bad input is not then.
    pub(crate) fn after_start(self) -> Self {
        match self {
            Self::Input(message) => Self::Run(anyhow::anyhow!(message)),
            Self::Job(error) => Self::Run(anyhow::Error::new(*error)),
            other => other,
        }
    }

    /// Says what is wrong on stderr and gives the exit code.
    #[expect(
        clippy::print_stderr,
        reason = "the last word of a command goes to its user, not to the log"
    )]
    pub(crate) fn report(&self) -> ExitCode {
        let code = match self {
            Self::Input(_) | Self::Job(_) => 2,
            Self::Run(_) | Self::Away(_) => 1,
            Self::Interrupted => 130,
        };
        let before = match self {
            Self::Interrupted => "",
            // As clap colours what it finds itself (https://no-color.org).
            _ if std::io::stderr().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) =>
            {
                "\x1b[1;31merror:\x1b[0m "
            }
            _ => "error: ",
        };
        eprintln!("{before}{self}");
        ExitCode::from(code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(message) => f.write_str(message),
            Self::Job(error) => error.fmt(f),
            Self::Run(error) | Self::Away(error) => write!(f, "{error:#}"),
            Self::Interrupted => f.write_str("stopped: the state is checkpointed"),
        }
    }
}

impl From<Unreachable> for Failure {
    fn from(error: Unreachable) -> Self {
        match error {
            // Nothing was started, and the same would happen again.
            Unreachable::Address(_) | Unreachable::Refused(_) => Self::input(error),
            Unreachable::Nobody { .. } => Self::Away(error.into()),
        }
    }
}

/// Runs a command's asynchronous part.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    retort_runtime::block_on(async { Ok(work.await) })?
}

impl From<retort_job::Error> for Failure {
    fn from(error: retort_job::Error) -> Self {
        Self::Job(Box::new(error))
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Run(error)
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Status(status) => status.into(),
            FileError::Corrupt { .. } => Self::Away(error.into()),
        }
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        let text = format!("{:?}: {}", status.code(), reason(&status));
        match status.code() {
            tonic::Code::InvalidArgument
            | tonic::Code::AlreadyExists
            | tonic::Code::PermissionDenied
            | tonic::Code::Unauthenticated => Self::Input(reason(&status)),
            tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled => {
                Self::Away(anyhow::anyhow!(text))
            }
            _ => Self::Run(anyhow::anyhow!(text)),
        }
    }
}
