//! `retort export`: one version of a group outside the fleet.

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use retort_models::Export;

use crate::failure::Failure;

#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Args {
    /// A run's folder.
    run: PathBuf,
    /// Group to export: a student, a teacher or a baseline (NAME@alone).
    #[arg(long)]
    group: String,
    /// Version; the newest unless given.
    #[arg(long)]
    version: Option<u64>,
    /// Folder of that seed's checkpoints below RUN/checkpoints; the first unless given.
    #[arg(long)]
    checkpoints: Option<String>,
    /// Folder to write to; must be empty or absent.
    #[arg(long)]
    to: PathBuf,
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(crate) fn export(args: &Args) -> Result<(), Failure> {
    let checkpoints = args.run.join("checkpoints");
    let run = match &args.checkpoints {
        Some(run) => run.clone(),
        None => subfolders(&checkpoints)?
            .into_iter()
            .next()
            .ok_or_else(|| nothing(&checkpoints))?,
    };
    let group = checkpoints.join(&run).join(&args.group);
    let version = match args.version {
        Some(version) => format!("{version:08}"),
        None => subfolders(&group)?
            .into_iter()
            .next_back()
            .ok_or_else(|| nothing(&group))?,
    };
    if std::fs::read_dir(&args.to).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Failure::input(format!(
            "--to {}: expected an empty or absent folder",
            args.to.display()
        )));
    }
    let export = Export::load(&group.join(&version)).map_err(Failure::input)?;
    export
        .save(&args.to)
        .map_err(|e| Failure::input(format!("--to: {e}")))?;
    println!(
        "{}: {} of {run}, version {version}",
        args.to.display(),
        args.group
    );
    Ok(())
}

fn nothing(folder: &Path) -> Failure {
    Failure::input(format!("{}: nothing to export there", folder.display()))
}

/// Names of the folders in a folder, sorted.
fn subfolders(folder: &Path) -> Result<Vec<String>, Failure> {
    let entries =
        std::fs::read_dir(folder).map_err(|e| Failure::input(format!("{}: {e}", folder.display())))?;
    let mut names: Vec<String> = entries
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}
