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

/// One line: words, quotes taken off, in commands at `&&`, `;`, `|` and `&`; a comment ends it.
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
            (None, ' ' | ';' | '&' | '|') => {
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
