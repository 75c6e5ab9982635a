//! Commands and their flags.

mod examples;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use retort_runtime::logging::{self, Format};
use retort_runtime::{Shutdown, TaskGroup, announce, listen};
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::{
    certs, check, compare, control, devices, evaluate, experiment, export, health, import, init, predict,
    report, run, status, submit,
};

/// Retort distils knowledge from teacher models into small students, as a service.
#[derive(Debug, Parser)]
#[command(name = "retort", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How log lines look (they go to stderr; RUST_LOG chooses what is logged).
    #[arg(long, global = true, value_enum, default_value_t)]
    log_format: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Distil on the embedded digits: a coordinator, a teacher and students as local processes.
    #[command(after_help = examples::QUICKSTART)]
    Quickstart(run::Output),
    /// Write a commented job file, from a few answers.
    #[command(after_help = examples::INIT)]
    Init(init::Args),
    /// Run a job file as local processes.
    #[command(after_help = examples::RUN)]
    Run(run::Args),
    /// Compare arms over seeds: the same search for each on validation data, then fresh seeds, one table.
    #[command(after_help = examples::EXPERIMENT)]
    Experiment(experiment::Args),
    /// Give a job to a standing fleet and follow it.
    #[command(after_help = examples::SUBMIT)]
    Submit(submit::Args),
    /// Say everything that is wrong with a job, and start nothing.
    #[command(after_help = examples::CHECK)]
    Check(check::Args),
    /// What this build can compute on here: a quick measurement of each device, and how it agrees with flex.
    #[command(after_help = examples::DEVICES)]
    Devices(devices::Args),
    /// What the status API says of a run.
    #[command(after_help = examples::STATUS)]
    Status(status::Args),
    /// Pause, resume, stop or tune a run that is under way, or drain one of its members.
    #[command(after_help = examples::CONTROL)]
    Control(control::Args),
    /// A run in the terminal, live: fleet, curves, events, and keys to pause, drain and stop.
    #[cfg(feature = "top")]
    #[command(after_help = examples::TOP)]
    Top(crate::top::Args),
    /// A run in the terminal, live (needs the cargo feature `top`).
    #[cfg(not(feature = "top"))]
    Top,
    /// Recompute from the manifests which samples a run's final states contain.
    #[command(after_help = examples::AUDIT)]
    Audit(AuditArgs),
    /// The reports of ended runs side by side, as a table in Markdown.
    #[command(after_help = examples::COMPARE)]
    Compare(compare::Args),
    /// Accuracy, calibration and cost of an exported model on its test data (temperature 1).
    #[command(after_help = examples::EVALUATE)]
    Evaluate(evaluate::Args),
    /// Classify files with an exported model (temperature 1).
    #[command(after_help = examples::PREDICT)]
    Predict(predict::Args),
    /// Export one version of a group from a run's checkpoints, or a model up to one of its exits.
    #[command(after_help = examples::EXPORT)]
    Export(export::Args),
    /// Make a teacher of an ONNX file (needs the cargo feature `onnx`), or of a model on a KServe v2 server: a folder like an
    /// export's.
    #[command(after_help = examples::IMPORT)]
    Import(import::Args),
    /// Certificates and tokens of a fleet that encrypts: make, join, renew.
    Certs(certs::Args),
    /// Ask a role over gRPC whether it serves; exit code 0 if it does.
    #[command(after_help = examples::HEALTH)]
    Health(health::Args),
    /// Print what a shell needs to complete commands.
    #[command(after_help = examples::COMPLETIONS)]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one for each command.
    #[command(after_help = examples::MAN)]
    Man {
        /// Folder for the pages: retort.1, retort-run.1 and so on.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Be the coordinator of a fleet.
    #[command(after_help = examples::COORDINATOR)]
    Coordinator(retort_coordinator::Config),
    /// Be a teacher server.
    #[command(after_help = examples::TEACHER_SERVER)]
    TeacherServer(retort_teacher_server::Config),
    /// Be a student worker.
    #[command(after_help = examples::STUDENT_WORKER)]
    StudentWorker(retort_student_worker::Config),
}

/// A job file and changes to it.
#[derive(Debug, Clone, Args)]
pub(crate) struct JobArgs {
    /// The job file.
    pub(crate) job: PathBuf,
    /// Change one key, such as students.0.replicas=4; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) settings: Vec<String>,
}

#[derive(Debug, Args)]
struct AuditArgs {
    /// A run's folder.
    dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Parses the command line, does what it says, and gives the exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let role = match cli.command {
        Command::Coordinator(_) => Some("retort-coordinator"),
        Command::TeacherServer(_) => Some("retort-teacher-server"),
        Command::StudentWorker(_) => Some("retort-student-worker"),
        _ => None,
    };
    // A command says nothing of itself, but why it takes so long.
    let default = role.map_or("warn,retort_stores=info", |_| "info");
    let _traces = logging::init(cli.log_format, default, role);
    match obey(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn obey(command: Command) -> Result<(), Failure> {
    match command {
        Command::Quickstart(output) => run::quickstart(output),
        Command::Init(args) => init::command(args),
        Command::Run(args) => run::run(args),
        Command::Experiment(args) => experiment::command(args),
        Command::Submit(args) => submit::submit(args),
        Command::Check(args) => check::command(&args),
        Command::Devices(args) => devices::command(&args),
        Command::Status(args) => status::command(args),
        Command::Control(args) => control::command(args),
        #[cfg(feature = "top")]
        Command::Top(args) => crate::top::command(args),
        #[cfg(not(feature = "top"))]
        Command::Top => Err(Failure::input(
            "retort top is not in this build: cargo build --release --features top; or retort status --watch",
        )),
        Command::Audit(args) => audit(&args),
        Command::Compare(args) => compare::command(&args),
        Command::Evaluate(args) => evaluate::command(&args),
        Command::Predict(args) => predict::command(&args),
        Command::Export(args) => export::export(&args),
        Command::Import(args) => import::command(&args),
        Command::Certs(args) => certs::command(args),
        Command::Health(args) => health::command(args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), own_name(), &mut std::io::stdout());
            Ok(())
        }
        Command::Man { out: None } => {
            let page = clap_mangen::Man::new(Cli::command());
            Ok(page.render(&mut std::io::stdout()).map_err(anyhow::Error::from)?)
        }
        Command::Man { out: Some(folder) } => std::fs::create_dir_all(&folder)
            .and_then(|()| clap_mangen::generate_to(Cli::command(), &folder))
            .map_err(|e| Failure::input(format!("--out {}: {e}", folder.display()))),
        Command::Coordinator(config) => {
            let security = config.security().map_err(unfit)?;
            role(async {
                let tasks = tasks(config.exit_with_parent)?;
                match retort_coordinator::bind(&config, &security, tasks.token()).await? {
                    Some(listeners) => retort_coordinator::run(config, security, listeners, tasks).await,
                    None => Ok(()),
                }
            })
        }
        Command::TeacherServer(config) => {
            let security = config.security().map_err(unfit)?;
            role(async {
                let announced = config.announce.as_deref().map(|path| (path, security.scheme()));
                let (listener, tasks) = start(config.listen, announced, config.exit_with_parent).await?;
                retort_teacher_server::run(config, security, listener, tasks).await
            })
        }
        Command::StudentWorker(config) => {
            let security = config.security().map_err(unfit)?;
            role(async {
                let announced = config.announce.as_deref().map(|path| (path, security.scheme()));
                let (listener, tasks) = start(config.listen, announced, config.exit_with_parent).await?;
                retort_student_worker::run(config, security, listener, tasks).await
            })
        }
    }
}

/// What the program is called: one with architectures of its own has another name.
fn own_name() -> String {
    let path = std::env::current_exe().unwrap_or_default();
    let name = path.file_stem().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "retort".into())
}

/// Flags that do not fit together, before anything was started.
fn unfit(error: anyhow::Error) -> Failure {
    Failure::Input(format!("{error:#}"))
}

fn role(role: impl Future<Output = anyhow::Result<()>>) -> Result<(), Failure> {
    Ok(retort_runtime::block_on(role)?)
}

/// What a role with one port does before it runs: bind, say where, watch for the end.
async fn start(
    address: std::net::SocketAddr,
    announced: Option<(&std::path::Path, &str)>,
    exit_with_parent: bool,
) -> anyhow::Result<(tokio::net::TcpListener, TaskGroup)> {
    let listener = listen(address).await?;
    if let Some((path, scheme)) = announced {
        announce(path, &format!("{scheme}://{}", listener.local_addr()?))?;
    }
    Ok((listener, tasks(exit_with_parent)?))
}

/// The tasks of a role's process, which end with a signal or with its supervisor.
fn tasks(exit_with_parent: bool) -> std::io::Result<TaskGroup> {
    let tasks = TaskGroup::new(CancellationToken::new());
    Shutdown::install(&tasks, exit_with_parent)?;
    Ok(tasks)
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn audit(args: &AuditArgs) -> Result<(), Failure> {
    let audit = report::audit(&args.dir).map_err(Failure::input)?;
    if args.json {
        let json = serde_json::to_string_pretty(&audit).map_err(anyhow::Error::from)?;
        println!("{json}");
    } else {
        println!("{audit}");
    }
    let dir = args.dir.display();
    if audit.ok() {
        Ok(())
    } else if audit.ok_so_far() {
        Err(Failure::Run(anyhow::anyhow!(
            "{dir} is not finished; so far nothing is lost or duplicated. \
             Go on with it: retort run JOB --resume --out {dir}"
        )))
    } else {
        Err(Failure::Run(anyhow::anyhow!("the audit of {dir} found faults")))
    }
}

#[cfg(test)]
mod tests;
