//! What the README and the book tell people to type is there to be typed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::*;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// README and book.
fn pages() -> Vec<PathBuf> {
    let book = std::fs::read_dir(root().join("docs")).unwrap();
    let mut pages: Vec<PathBuf> = book.map(|entry| entry.unwrap().path()).collect();
    pages.retain(|path| path.extension().is_some_and(|e| e == "md"));
    pages.push(root().join("README.md"));
    pages.sort();
    pages
}

/// Commands of a page's indented blocks, as the words that a shell would make of them.
fn commands(page: &str) -> Vec<Vec<String>> {
    let lines = page.lines().filter_map(|line| line.strip_prefix("    "));
    let joined = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    joined.lines().flat_map(words).filter(|c| !c.is_empty()).collect()
}

/// One line: words, quotes taken off, in commands at `&&`, `;`, `|`, `&` and `>`; a comment ends it.
fn words(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(q), _) if c == q => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, ' ' | ';' | '&' | '|' | '>') => {
                commands.last_mut().unwrap().extend(word.take());
                if c != ' ' {
                    commands.push(Vec::new());
                }
            }
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    commands.last_mut().unwrap().extend(word);
    commands
}

/// What follows an option, as `-p NAME`.
fn after<'a>(words: &'a [String], option: &str) -> Option<&'a str> {
    let at = words.iter().position(|w| w == option)?;
    words.get(at + 1).map(String::as_str)
}

/// Arguments of our own program; `None`: the command is another's.
fn ours(command: &[String]) -> Option<Vec<String>> {
    let arguments = match &command.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["retort", ..] => &command[1..],
        ["cargo", "run", ..] if after(command, "--bin").is_none() => {
            let at = command.iter().position(|w| w == "--")?;
            &command[at + 1..]
        }
        _ => return None,
    };
    Some(
        ["retort".to_owned()]
            .into_iter()
            .chain(arguments.iter().cloned())
            .collect(),
    )
}

#[test]
fn every_command_of_the_readme_and_the_book_is_understood() {
    let mut parsed = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for command in commands(&text) {
            if let Some(arguments) = ours(&command) {
                if let Err(e) = Cli::try_parse_from(&arguments) {
                    panic!("{}: {}\n{e}", page.display(), command.join(" "));
                }
                parsed += 1;
            }
        }
    }
    assert!(
        parsed > 50,
        "{parsed} commands: the pages are written in another way now"
    );
}

#[test]
fn files_features_and_programs_that_commands_name_exist() {
    let manifest = |name: &str| std::fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
    let (program, tests) = (manifest("retort"), manifest("tests"));
    let named = |manifest: &str, name: &str| manifest.contains(&format!("\nname = \"{name}\"\n"));
    let mut seen = BTreeSet::new();
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for command in commands(&text) {
            let line = format!("{}: {}", page.display(), command.join(" "));
            for word in &command {
                let path = word.split('*').next().unwrap_or_default();
                let ours = ["examples/", "experiments/", "deploy/", "bench/", ".ci/"];
                // A placeholder is written in capitals.
                if ours.iter().any(|o| path.starts_with(o)) && !path.contains("NAME") {
                    assert!(root().join(path).exists(), "{line}: no {path}");
                    seen.insert("file");
                }
            }
            if command.first().is_none_or(|w| w != "cargo") {
                continue;
            }
            for feature in after(&command, "--features")
                .into_iter()
                .flat_map(|f| f.split(','))
            {
                assert!(
                    program.contains(&format!("\n{feature} = [")),
                    "{line}: no feature {feature}"
                );
                seen.insert("feature");
            }
            for target in ["--bin", "--bench"].iter().filter_map(|o| after(&command, o)) {
                assert!(named(&tests, target), "{line}: no {target}");
                seen.insert("target");
            }
        }
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}

/// All commands that do something, with their names.
fn leaves(command: &clap::Command, name: &str, found: &mut Vec<(String, clap::Command)>) {
    for sub in command.get_subcommands().filter(|c| c.get_name() != "help") {
        let name = format!("{name} {}", sub.get_name());
        if sub.has_subcommands() {
            leaves(sub, &name, found);
        } else {
            found.push((name, sub.clone()));
        }
    }
}

fn all() -> Vec<(String, clap::Command)> {
    let mut found = Vec::new();
    leaves(&Cli::command(), "retort", &mut found);
    found
}

#[test]
fn every_command_has_examples_that_are_understood() {
    for (name, command) in all() {
        let help = command
            .get_after_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        assert!(help.starts_with("Example"), "{name} --help: no examples");
        let lines = help.lines().filter_map(|line| line.strip_prefix("  "));
        let examples: Vec<Vec<String>> = lines.flat_map(words).filter_map(|c| ours(&c)).collect();
        assert!(!examples.is_empty(), "{name}: {help}");
        for example in examples {
            if let Err(e) = Cli::try_parse_from(&example) {
                panic!("{}\n{e}", example.join(" "));
            }
        }
    }
}

#[test]
fn every_command_that_answers_does_so_as_json_too() {
    // Those that serve until they are stopped, draw a screen, or print what another program reads.
    let others = [
        "coordinator",
        "teacher-server",
        "student-worker",
        "top",
        "completions",
        "man",
    ];
    let mut root = Cli::command();
    // Options that a command has for all its own.
    root.build();
    let mut found = Vec::new();
    leaves(&root, "retort", &mut found);
    assert!(found.len() > 25, "{}", found.len());
    for (name, command) in found {
        let answers = !others.contains(&name.trim_start_matches("retort "));
        let json = command.get_arguments().any(|a| a.get_long() == Some("json"));
        assert_eq!(json, answers, "{name} --json");
    }
}

#[test]
fn pages_of_the_manual_and_completions_name_every_command() {
    let folder = tempfile::tempdir().unwrap();
    obey(Command::Man {
        out: Some(folder.path().to_owned()),
    })
    .unwrap();
    for (name, _) in all() {
        let page = folder.path().join(format!("{}.1", name.replace(' ', "-")));
        let text = std::fs::read_to_string(&page).unwrap_or_else(|e| panic!("{}: {e}", page.display()));
        assert!(
            text.contains(".SH EXTRA") && text.contains("Example"),
            "{name}: {text}"
        );
    }
    for shell in [
        clap_complete::Shell::Bash,
        clap_complete::Shell::Zsh,
        clap_complete::Shell::Fish,
    ] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "retort", &mut script);
        let script = String::from_utf8(script).unwrap();
        for part in ["quickstart", "retune", "renew", "log-format"] {
            assert!(script.contains(part), "{shell}: {part}");
        }
    }
}

/// Targets of a page's links, but those that leave the repository.
fn links(page: &str) -> Vec<&str> {
    let after = page.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let own = after.filter(|link| !link.contains("://") && !link.starts_with('#') && !link.contains(' '));
    own.map(|link| link.split('#').next().unwrap_or_default())
        .collect()
}

#[test]
fn links_of_the_readme_and_the_book_lead_somewhere_and_the_book_has_every_page() {
    let mut followed = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in links(&text) {
            let target = page.parent().unwrap().join(link);
            assert!(target.exists(), "{}: no {link}", page.display());
            followed += 1;
        }
    }
    assert!(followed > 80, "{followed}");
    let summary = std::fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    let listed: BTreeSet<&str> = links(&summary).into_iter().collect();
    for page in pages() {
        let name = page.file_name().unwrap().to_str().unwrap();
        let listed = listed.contains(name) || ["SUMMARY.md", "README.md"].contains(&name);
        assert!(listed, "{name} is not in docs/SUMMARY.md");
    }
}

#[test]
fn whole_jobs_on_the_pages_are_sound() {
    let mut jobs = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        let fenced = text
            .split("```toml\n")
            .skip(1)
            .filter_map(|rest| rest.split("```").next());
        for job in fenced.filter(|toml| toml.starts_with("[run]")) {
            if let Err(e) = retort_job::parse(job, &page, &[]) {
                panic!("{e}");
            }
            jobs += 1;
        }
    }
    assert!(jobs >= 2, "{jobs}");
}
