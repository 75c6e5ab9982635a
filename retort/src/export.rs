//! `retort export`: one version of a group outside the fleet.

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use retort_models::{CARD_FILE, Export};

use crate::failure::Failure;

#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Args {
    /// A run's folder, or one with model.safetensors (or model.onnx) and model.json.
    from: PathBuf,
    /// Group of the run to export: a student, a teacher or a baseline (NAME@alone).
    #[arg(long)]
    group: Option<String>,
    /// Version; the newest unless given.
    #[arg(long)]
    version: Option<u64>,
    /// Folder of that seed's checkpoints below RUN/checkpoints; the first unless given.
    #[arg(long)]
    checkpoints: Option<String>,
    /// Export the smaller model that ends at this exit, one of the model's `exits.at`.
    #[arg(long)]
    exit: Option<u32>,
    /// Folder to write to; must be empty or absent.
    #[arg(long, visible_alias = "out")]
    to: PathBuf,
    /// Print the model's card as JSON: model.json of the folder.
    #[arg(long)]
    json: bool,
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(crate) fn export(args: &Args) -> Result<(), Failure> {
    let folder = source(args)?;
    if std::fs::read_dir(&args.to).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Failure::input(format!(
            "--to {}: expected an empty or absent folder",
            args.to.display()
        )));
    }
    let mut export = Export::load(&folder)
        .map_err(Failure::input)?
        .without_projection()
        .map_err(Failure::input)?;
    if export.tokenizer.is_none() {
        // A run has it once, not with every checkpoint.
        export.tokenizer = export.card.tokenizer_in(&args.from).map_err(Failure::input)?;
    }
    if let Some(exit) = args.exit {
        export = export
            .cut(exit)
            .map_err(|e| Failure::input(format!("--exit {exit}: {e}")))?;
    }
    export
        .save(&args.to)
        .map_err(|e| Failure::input(format!("--to: {e}")))?;
    if args.json {
        println!(
            "{:#}",
            serde_json::to_value(&export.card).map_err(anyhow::Error::from)?
        );
        return Ok(());
    }
    let end = args
        .exit
        .map_or(String::new(), |exit| format!(" up to exit {exit}"));
    println!(
        "{}: {} of {}{end}, {} parameters",
        args.to.display(),
        export.card.name,
        folder.display(),
        export.card.parameters
    );
    Ok(())
}

/// The folder with the model that is asked for: an export's, or that of a run's checkpoint.
fn source(args: &Args) -> Result<PathBuf, Failure> {
    let model = args.from.join(CARD_FILE).is_file();
    let group = match &args.group {
        None if model => return Ok(args.from.clone()),
        Some(group) if !model => group,
        Some(group) => {
            return Err(Failure::input(format!(
                "--group {group}: {} holds one model, expected no group",
                args.from.display()
            )));
        }
        None => {
            return Err(Failure::input(format!(
                "--group: expected a group of the run {}",
                args.from.display()
            )));
        }
    };
    let checkpoints = args.from.join("checkpoints");
    let run = match &args.checkpoints {
        Some(run) => run.clone(),
        None => subfolders(&checkpoints)?
            .into_iter()
            .next()
            .ok_or_else(|| nothing(&checkpoints))?,
    };
    let group = checkpoints.join(&run).join(group);
    let version = match args.version {
        Some(version) => format!("{version:08}"),
        None => subfolders(&group)?
            .into_iter()
            .next_back()
            .ok_or_else(|| nothing(&group))?,
    };
    Ok(group.join(version))
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

#[cfg(test)]
mod tests {
    use retort_data::Shape;
    use retort_models::{Card, Choice, DatasetReference, Net, Preprocessing, Spec};

    use super::*;

    fn save(folder: &Path) {
        let model = "architecture = 'cnn'\nwidth = 2\nexits = { at = [1, 2] }";
        let spec = Spec {
            model: toml::from_str(model).unwrap(),
            input: Shape {
                channels: 1,
                height: 4,
                width: 4,
            },
            classes: 3,
            preprocessing: Preprocessing::none(1),
            tokens: None,
            rows: 1,
            projection: None,
        };
        let net = Net::new(&spec, 1, &Choice::Flex.open().unwrap()).unwrap();
        let dataset = DatasetReference {
            name: "none".into(),
            digest: String::new(),
        };
        let card = Card::new("small", &spec, net.parameters(), dataset);
        let weights = net.to_safetensors();
        Export::new(card, weights).save(folder).unwrap();
    }

    #[test]
    fn an_exit_is_exported_from_a_run_and_from_a_model_alike() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        save(&at("model"));
        for version in ["00000001", "00000002"] {
            save(&at("run/checkpoints/run-1/small").join(version));
        }
        let args = |from: &str, group: Option<&str>, exit, to: &str| Args {
            from: at(from),
            group: group.map(Into::into),
            version: None,
            checkpoints: None,
            exit,
            to: at(to),
            json: false,
        };
        export(&args("model", None, Some(2), "a")).unwrap();
        export(&args("run", Some("small"), Some(2), "b")).unwrap();
        let [a, b] = ["a", "b"].map(|name| Export::load(&at(name)).unwrap());
        assert_eq!(a, b);
        assert_eq!(a.card.model.depth, Some(2));
        export(&args("model", None, None, "c")).unwrap();
        assert_eq!(
            Export::load(&at("c")).unwrap(),
            Export::load(&at("model")).unwrap()
        );

        let refuse = |args: Args| match export(&args).unwrap_err() {
            Failure::Input(message) => message,
            other => panic!("{other:?}"),
        };
        let message = refuse(args("model", None, Some(3), "d"));
        assert_eq!(message, "--exit 3: no exit 3: expected one of 1, 2");
        let message = refuse(args("model", Some("small"), None, "d"));
        assert!(
            message.ends_with("holds one model, expected no group"),
            "{message}"
        );
        let message = refuse(args("run", None, None, "d"));
        assert!(
            message.starts_with("--group: expected a group of the run"),
            "{message}"
        );
        let message = refuse(args("model", None, None, "a"));
        assert!(
            message.ends_with("expected an empty or absent folder"),
            "{message}"
        );
    }
}
