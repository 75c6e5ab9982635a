//! Samples of text files, line by line: JSON objects, tables with a header, or plain text.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use csv::{ErrorKind, StringRecord};
use serde_json::Value;

use super::{Error, TextConfig};

/// Characters of a value that an error quotes.
const QUOTED: usize = 40;
/// Of one file, so that the samples of all files of a set can be counted in 32 bits.
const MAX_LINES: u64 = 1 << 30;

/// One sample as its file has it.
pub(super) struct Row {
    pub(super) line: u64,
    pub(super) text: String,
    pub(super) label: Option<String>,
}

/// Kinds of files, by their ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One JSON object a line.
    Jsonl,
    /// A table with commas and quotes (RFC 4180).
    Csv,
    /// A table with tabs; quotes mean themselves, as IANA's text/tab-separated-values has it.
    Tsv,
    /// One sample a line, without labels.
    Plain,
}

impl Kind {
    pub(super) const LABELLED: [(&str, Self); 3] =
        [("jsonl", Self::Jsonl), ("csv", Self::Csv), ("tsv", Self::Tsv)];
    pub(super) const ALL: [(&str, Self); 4] = [
        ("jsonl", Self::Jsonl),
        ("csv", Self::Csv),
        ("tsv", Self::Tsv),
        ("txt", Self::Plain),
    ];

    pub(super) fn of(file: &Path, known: &[(&'static str, Self)]) -> Result<Self, Error> {
        let ending = file.extension().and_then(|ending| ending.to_str());
        let found = known.iter().find(|(name, _)| Some(*name) == ending);
        let known = known.iter().map(|(name, _)| format!(".{name}"));
        found.map(|(_, kind)| *kind).ok_or_else(|| Error::Ending {
            file: file.to_owned(),
            expected: known.collect::<Vec<_>>().join(", "),
        })
    }
}

/// What reads one file: its name and columns for errors.
pub(super) struct Reader<'a> {
    pub(super) file: &'a Path,
    pub(super) config: &'a TextConfig,
    /// Whether the label's column may be absent from a table altogether.
    pub(super) unlabelled: bool,
}

impl Reader<'_> {
    /// Hands every sample of the file to `each`, in order; blank lines are none.
    pub(super) fn read(
        &self,
        kind: Kind,
        mut each: impl FnMut(Row) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let each = |row: Row| {
            if row.line > MAX_LINES {
                let expected = format!("the end of the file after at most {MAX_LINES} lines");
                return Err(self.wrong(row.line, "line", "a sample".to_owned(), expected));
            }
            each(row)
        };
        let open = File::open(self.file).map_err(|source| self.unreadable(source))?;
        let open = BufReader::new(open);
        match kind {
            Kind::Jsonl => self.lines(open, |line, text| self.object(line, text), each),
            Kind::Plain => {
                let row = |line, text: &str| {
                    let (text, label) = (text.to_owned(), None);
                    Ok(Row { line, text, label })
                };
                self.lines(open, row, each)
            }
            Kind::Csv => self.table(csv::ReaderBuilder::new().from_reader(open), each),
            Kind::Tsv => {
                let mut builder = csv::ReaderBuilder::new();
                self.table(builder.delimiter(b'\t').quoting(false).from_reader(open), each)
            }
        }
    }

    fn lines(
        &self,
        mut open: impl BufRead,
        row: impl Fn(u64, &str) -> Result<Row, Error>,
        mut each: impl FnMut(Row) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut bytes = Vec::new();
        for line in 1.. {
            bytes.clear();
            let read = open.read_until(b'\n', &mut bytes);
            if read.map_err(|source| self.unreadable(source))? == 0 {
                break;
            }
            let text = std::str::from_utf8(&bytes).map_err(|error| {
                let value = format!("bytes that break off UTF-8 after {}", error.valid_up_to());
                self.wrong(line, "line", value, "UTF-8".to_owned())
            })?;
            let text = if line == 1 {
                text.trim_start_matches('\u{feff}')
            } else {
                text
            };
            if !text.trim().is_empty() {
                each(row(line, text.trim_end_matches(['\r', '\n']))?)?;
            }
        }
        Ok(())
    }

    fn object(&self, line: u64, text: &str) -> Result<Row, Error> {
        let value = serde_json::from_str(text);
        let expected = || format!("a JSON object with {:?}", self.config.text);
        let mut object = match value {
            Ok(Value::Object(object)) => object,
            Ok(_) => return Err(self.wrong(line, "line", quoted(text), expected())),
            Err(error) => {
                let expected = format!("{} ({error})", expected());
                return Err(self.wrong(line, "line", quoted(text), expected));
            }
        };
        let column = &self.config.text;
        let text = match object.remove(column) {
            Some(Value::String(text)) => text,
            found => {
                let value = found.map_or("absent".to_owned(), |value| quoted(&value.to_string()));
                return Err(self.wrong(line, column, value, "a string".to_owned()));
            }
        };
        let column = &self.config.label;
        let label = match object.remove(column) {
            None | Some(Value::Null) => None,
            Some(Value::String(label)) => Some(label).filter(|label| !label.is_empty()),
            Some(Value::Bool(label)) => Some(label.to_string()),
            Some(Value::Number(label)) if !label.is_f64() => Some(label.to_string()),
            Some(value) => {
                let expected = "a string, a whole number, true, false, or null for no label".to_owned();
                return Err(self.wrong(line, column, quoted(&value.to_string()), expected));
            }
        };
        Ok(Row { line, text, label })
    }

    fn table<R: io::Read>(
        &self,
        mut table: csv::Reader<R>,
        mut each: impl FnMut(Row) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let header = table.headers().map_err(|error| self.of_csv(error))?.clone();
        let place = |column: &str| {
            header
                .iter()
                .position(|name| name.trim_start_matches('\u{feff}') == column)
        };
        let absent = |column: &str| {
            let names: Vec<&str> = header.iter().collect();
            let expected = format!("a header that names it, found {}", quoted(&names.join(", ")));
            self.wrong(1, column, "absent".to_owned(), expected)
        };
        let text = place(&self.config.text).ok_or_else(|| absent(&self.config.text))?;
        let label = place(&self.config.label);
        if label.is_none() && !self.unlabelled {
            return Err(absent(&self.config.label));
        }
        let mut record = StringRecord::new();
        while table
            .read_record(&mut record)
            .map_err(|error| self.of_csv(error))?
        {
            let cell = |place: usize| record.get(place).unwrap_or_default().to_owned();
            each(Row {
                line: record.position().map_or(0, csv::Position::line),
                text: cell(text),
                label: label.map(cell).filter(|label| !label.is_empty()),
            })?;
        }
        Ok(())
    }

    fn of_csv(&self, error: csv::Error) -> Error {
        let line = error.position().map_or(1, csv::Position::line);
        match error.into_kind() {
            ErrorKind::Io(source) => self.unreadable(source),
            ErrorKind::Utf8 { err, .. } => {
                let value = format!("bytes that break off UTF-8 in column {}", err.field() + 1);
                self.wrong(line, "line", value, "UTF-8".to_owned())
            }
            ErrorKind::UnequalLengths {
                expected_len, len, ..
            } => {
                let expected = format!("{expected_len}, as many as the header");
                self.wrong(line, "line", format!("{len} columns"), expected)
            }
            other => self.wrong(line, "line", format!("{other:?}"), "a row".to_owned()),
        }
    }

    fn unreadable(&self, source: io::Error) -> Error {
        let file = self.file.to_owned();
        Error::Read { file, source }
    }

    pub(super) fn wrong(&self, line: u64, column: &str, value: String, expected: String) -> Error {
        Error::Line {
            file: self.file.to_owned(),
            line,
            column: column.to_owned(),
            value,
            expected,
        }
    }
}

/// In quotes, shortened.
pub(super) fn quoted(text: &str) -> String {
    let short: String = text.chars().take(QUOTED).collect();
    let more = if short.len() < text.len() { "..." } else { "" };
    format!("{short:?}{more}")
}
