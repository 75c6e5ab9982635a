//! Giving a job to a fleet, local or standing.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use bytes::Bytes;
use clap::Args as ClapArgs;
use retort_data::{Location, Part};
use retort_job::Source;
use retort_models::{Choice, Export};
use retort_proto::pb;
use retort_teacher_server::classifier;
use retort_tls::ClientFlags;
use tonic::Code;

use crate::check::{self, Checked};
use crate::cli::JobArgs;
use crate::collect::{self, REPORT_PAGE};
use crate::coordinator::Coordinator;
use crate::failure::{Failure, block_on};
use crate::follow;

#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Args {
    #[command(flatten)]
    job: JobArgs,
    /// The fleet's coordinator, http://host:port or, with --tls, https://host:port.
    #[arg(long, env = retort_runtime::env::COORDINATOR)]
    coordinator: String,
    #[command(flatten)]
    tls: ClientFlags,
    /// The run's id; made of its name unless given. The same job submitted again under its id goes on being followed.
    #[arg(long, value_name = "ID", default_value = "")]
    run: String,
    /// Folder below which relative paths of the job are looked for, as --base of the workers; the job file's unless given.
    #[arg(long)]
    base: Option<PathBuf>,
    /// Return once the job is accepted.
    #[arg(long)]
    detach: bool,
    /// Folder for report, models and manifests; nothing is fetched without it.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print the report as JSON on stdout; without --out the run's id and how it ended.
    #[arg(long)]
    json: bool,
    /// Also train each student alone with the same budget.
    #[arg(long)]
    baseline: bool,
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(crate) fn submit(args: Args) -> Result<(), Failure> {
    let coordinator = Coordinator::named(args.coordinator.clone(), &args.tls)?;
    if let Some(out) = &args.out {
        holds_no_other(out, &args.run)?;
    }
    let mut checked = check::file_in(&args.job, args.base.clone())?;
    checked.job.run.baseline |= args.baseline;
    check::say_bad_rows(&checked);
    let work = async {
        let began = Instant::now();
        // Paths stay relative: each worker resolves them below its own --base.
        let job_toml = toml::to_string(&checked.job).context("write the job")?;
        let seed = checked.job.run.seed;
        let run = submit_run(&coordinator, &checked, (&job_toml, seed), &args.run).await?;
        if args.detach {
            match args.json {
                true => println!("{:#}", serde_json::json!({ "run": run })),
                false => println!("{run}"),
            }
            return Ok(());
        }
        let ended = follow::to_end(&coordinator, &run, Some(&checked.job.run.name)).await;
        let ended = ended.map_err(Failure::after_start)?;
        let Some(out) = &args.out else {
            if args.json {
                println!("{:#}", serde_json::json!({ "run": run, "state": ended.state }));
            }
            return Ok(());
        };
        let mirrored = collect::mirror(&coordinator, &ended, out).await;
        mirrored.map_err(Failure::after_start)?;
        let finished = collect::gather(&coordinator, &checked, ended).await;
        let finished = finished.map_err(Failure::after_start)?;
        let wall_s = began.elapsed().as_secs_f64();
        let told = collect::finish(&checked, vec![finished], (out, wall_s), args.json);
        if let Err(failure) = keep_report(&coordinator, run, out).await {
            tracing::warn!("the dashboard has no report of this run: {failure}");
        }
        told
    };
    block_on(work)
}

/// A folder has one run: its audit counts all that lie there.
fn holds_no_other(out: &Path, run: &str) -> Result<(), Failure> {
    let Ok(held) = std::fs::read_dir(out.join("checkpoints")) else {
        return Ok(());
    };
    let names = held.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    match names.into_iter().find(|name| name != run) {
        None => Ok(()),
        Some(other) => Err(Failure::input(format!(
            "--out {}: it holds run {other}: expected an empty or absent folder, or --run {other}",
            out.display()
        ))),
    }
}

/// For those who look at the fleet's dashboard.
async fn keep_report(coordinator: &Coordinator, run: String, out: &Path) -> Result<(), Failure> {
    let page = out.join(REPORT_PAGE);
    let html = std::fs::read_to_string(&page).with_context(|| format!("read {}", page.display()))?;
    let mut runs = retort_client::runs(coordinator.reach().await?);
    runs.keep_report(pb::KeepReportRequest { run, html }).await?;
    Ok(())
}

/// The job as its processes get it: with absolute paths.
pub(crate) fn portable(checked: &Checked) -> Result<String, Failure> {
    let mut job = checked.job.clone();
    let data = &mut job.dataset;
    let tokenizer = data.text.as_mut().and_then(|text| text.tokens.path_mut());
    let paths = [data.path.as_mut(), data.unlabelled.as_mut(), tokenizer];
    for path in paths.into_iter().flatten() {
        *path = absolute(&checked.base, path).context("path of the data set")?;
    }
    for teacher in &mut job.teachers {
        if let Source::Checkpoint {
            store: Some(folder), ..
        } = &mut teacher.source
        {
            *folder = std::path::absolute(checked.base.join(&*folder)).context("path of the store")?;
        }
    }
    Ok(toml::to_string(&job).context("write the job")?)
}

/// A configured path that leads to the same place from everywhere on this machine.
fn absolute(base: &Path, path: &str) -> std::io::Result<String> {
    match path.parse() {
        Ok(Location::Local(local)) => Ok(std::path::absolute(base.join(local))?.display().to_string()),
        // An s3:// URL does already; what is no location was refused before.
        _ => Ok(path.to_owned()),
    }
}

/// Submits one run and uploads its fixed teachers. With an id of its own (`wished`) this may be repeated with the same job:
/// what is there already stays, and a run that was stopped goes on.
pub(crate) async fn submit_run(
    coordinator: &Coordinator,
    checked: &Checked,
    (job_toml, seed): (&str, u64),
    wished: &str,
) -> Result<String, Failure> {
    let channel = coordinator.reach().await?;
    let request = pb::SubmitRequest {
        job_toml: job_toml.to_owned(),
        seed,
        positions: u64::from(checked.dataset.train_len()),
        dataset_digest: checked.dataset.digest().to_owned(),
        run: wished.to_owned(),
    };
    let mut runs = retort_client::runs(channel.clone());
    let run = runs.submit(request).await?.into_inner().run;
    let request = pb::GetRunRequest {
        run: run.clone(),
        without_curves: true,
    };
    let status = retort_client::status(channel.clone())
        .get_run(request)
        .await?
        .into_inner();
    if matches!(status.state.as_str(), "stopped" | "stopping" | "paused") {
        let request = pb::ResumeRequest { run: run.clone() };
        runs.resume(request).await?;
    }
    let provided = |name: &str| {
        let known = status.teachers.iter().find(|t| t.name == name);
        known.is_none_or(|t| t.published.is_some())
    };
    let mut versions = retort_client::versions(channel);
    for (teacher, export) in checked.fixed.iter().filter(|(name, _)| !provided(name)) {
        let by = pb::publish_header::By::Teacher(pb::ProvidedTeacher {
            run: run.clone(),
            teacher: teacher.clone(),
        });
        let card = serde_json::to_vec_pretty(&export.card).context("write model card")?;
        let files = vec![
            (
                export.card.weights_file().to_owned(),
                Bytes::from(export.weights.clone()),
            ),
            ("model.json".to_owned(), Bytes::from(card)),
        ];
        let held_out = held_out(checked, export)?;
        retort_client::publish(&mut versions, by, held_out, files).await?;
    }
    Ok(run)
}

/// A fixed teacher's loss on the held-out samples, for the gate.
fn held_out(checked: &Checked, export: &Export) -> Result<Option<pb::Evaluation>, Failure> {
    let split = checked.dataset.split(Part::Validation);
    if split.is_empty() {
        return Ok(None);
    }
    let device = Choice::Flex.open().context("open device")?;
    let mut model = classifier(&export.card.spec(), &export.weights, &device).context("load teacher")?;
    let samples = collect::samples(&checked.dataset, Part::Validation);
    let e = model.evaluate(&samples).context("evaluate teacher")?;
    Ok(Some(pb::Evaluation {
        loss: e.loss,
        accuracy: e.accuracy,
        samples: e.samples as u64,
    }))
}

pub(crate) async fn stop_run(coordinator: &Coordinator, run: &str, reason: &str) -> Result<(), Failure> {
    let channel = coordinator.reach().await?;
    let request = pb::StopRequest {
        run: run.to_owned(),
        reason: reason.to_owned(),
    };
    match retort_client::runs(channel).stop(request).await {
        // It has ended by itself meanwhile.
        Err(status) if status.code() == Code::InvalidArgument => Ok(()),
        stopped => Ok(stopped.map(drop)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paths_of_a_portable_job_start_from_the_root() {
        let text = include_str!("../../examples/digits-offline.toml");
        let store = "teachers.0.source.store='../soft'".to_owned();
        let mut job = retort_job::parse(text, Path::new("job.toml"), &[store]).unwrap();
        let dataset = retort_data::load(&job.dataset, Path::new("."), 1).unwrap();
        job.dataset = toml::from_str(
            "format = 'text'\npath = 'texts'\nunlabelled = 'file:///more.txt'\n\
             text = { tokens = { kind = 'tokenizer', path = 'words/tokenizer.json' } }",
        )
        .unwrap();
        let checked = Checked {
            job,
            dataset,
            base: "/jobs".into(),
            fixed: Vec::new(),
        };
        let job = portable(&checked).unwrap();
        let job = retort_job::parse(&job, Path::new("job.toml"), &[]).unwrap();
        let data = &job.dataset;
        assert_eq!(data.path.as_deref(), Some("/jobs/texts"));
        assert_eq!(data.unlabelled.as_deref(), Some("/more.txt"));
        let mut tokens = data.text.clone().unwrap().tokens;
        assert_eq!(
            tokens.path_mut().map(|path| path.as_str()),
            Some("/jobs/words/tokenizer.json")
        );
        let Source::Checkpoint { store, .. } = &job.teachers[0].source else {
            panic!("{:?}", job.teachers[0].source)
        };
        assert_eq!(store.as_deref(), Some(Path::new("/jobs/../soft")));
    }

    #[test]
    fn paths_lead_to_the_same_place_from_everywhere() {
        for (path, expected) in [
            ("data", "/jobs/data"),
            ("/data", "/data"),
            ("file:///a%20b", "/a b"),
            ("s3://bucket/data", "s3://bucket/data"),
        ] {
            assert_eq!(absolute(Path::new("/jobs"), path).unwrap(), expected);
        }
    }
}
