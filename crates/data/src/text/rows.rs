//! Samples of text files, row by row: JSON objects, tables with a header, columns, or plain text.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use csv::{ErrorKind, StringRecord};
use serde_json::Value;

use super::{Error, TextConfig};
use crate::parquet::{self, Columns, Content};
use crate::quarantine::{BadRow, Place, Quarantine};

/// Characters of a value that an error quotes.
const QUOTED: usize = 40;
/// Of one file, so that the samples of all files of a set can be counted in 32 bits.
const MAX_LINES: u64 = 1 << 30;

/// One sample as its file has it.
pub(super) struct Row {
    pub(super) place: Place,
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
    /// Columns.
    Parquet,
    /// One sample a line, without labels.
    Plain,
}

impl Kind {
    pub(super) const LABELLED: [(&str, Self); 4] = [
        ("jsonl", Self::Jsonl),
        ("csv", Self::Csv),
        ("tsv", Self::Tsv),
        (parquet::ENDING, Self::Parquet),
    ];
    pub(super) const ALL: [(&str, Self); 5] = [
        ("jsonl", Self::Jsonl),
        ("csv", Self::Csv),
        ("tsv", Self::Tsv),
        (parquet::ENDING, Self::Parquet),
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
    /// Hands every sample of the file to `each`, in order; blank lines are none. What cannot be read, or is refused by
    /// `each`, is left out.
    pub(super) fn read(
        &self,
        kind: Kind,
        bad: &mut Quarantine,
        mut each: impl FnMut(Row) -> Result<(), BadRow>,
    ) -> Result<(), Error> {
        let each = |line: u64, row: Result<Row, BadRow>| {
            if line > MAX_LINES {
                let expected = format!("the end of the file after at most {MAX_LINES} lines");
                return Err(self.wrong(line, "line", "a sample".to_owned(), expected));
            }
            match row.and_then(&mut each) {
                Ok(()) => bad.good(),
                Err(row) => bad.leave_out(row)?,
            }
            Ok(())
        };
        let open = || {
            let open = File::open(self.file).map_err(|source| self.unreadable(source))?;
            Ok::<_, Error>(BufReader::new(open))
        };
        match kind {
            Kind::Parquet => self.columns(each),
            Kind::Jsonl => self.lines(open()?, |line, text| self.object(line, text), each),
            Kind::Plain => {
                let row = |line, text: &str| {
                    let (place, text, label) = (Place::Line(line), text.to_owned(), None);
                    Ok(Row { place, text, label })
                };
                self.lines(open()?, row, each)
            }
            Kind::Csv => self.table(csv::ReaderBuilder::new().from_reader(open()?), each),
            Kind::Tsv => {
                let mut builder = csv::ReaderBuilder::new();
                self.table(builder.delimiter(b'\t').quoting(false).from_reader(open()?), each)
            }
        }
    }

    fn lines(
        &self,
        mut open: impl BufRead,
        row: impl Fn(u64, &str) -> Result<Row, BadRow>,
        mut each: impl FnMut(u64, Result<Row, BadRow>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut bytes = Vec::new();
        for line in 1.. {
            bytes.clear();
            let read = open.read_until(b'\n', &mut bytes);
            if read.map_err(|source| self.unreadable(source))? == 0 {
                break;
            }
            let text = match std::str::from_utf8(&bytes) {
                Ok(text) if line == 1 => text.trim_start_matches('\u{feff}'),
                Ok(text) => text,
                Err(error) => {
                    let value = format!("bytes that break off UTF-8 after {}", error.valid_up_to());
                    each(
                        line,
                        Err(self.bad(Place::Line(line), "line", value, "UTF-8".to_owned())),
                    )?;
                    continue;
                }
            };
            if !text.trim().is_empty() {
                each(line, row(line, text.trim_end_matches(['\r', '\n'])))?;
            }
        }
        Ok(())
    }

    fn object(&self, line: u64, text: &str) -> Result<Row, BadRow> {
        let place = Place::Line(line);
        let value = serde_json::from_str(text);
        let expected = || format!("a JSON object with {:?}", self.config.text);
        let mut object = match value {
            Ok(Value::Object(object)) => object,
            Ok(_) => return Err(self.bad(place, "line", quoted(text), expected())),
            Err(error) => {
                let expected = format!("{} ({error})", expected());
                return Err(self.bad(place, "line", quoted(text), expected));
            }
        };
        let column = &self.config.text;
        let text = match object.remove(column) {
            Some(Value::String(text)) => text,
            found => {
                let value = found.map_or("absent".to_owned(), |value| quoted(&value.to_string()));
                return Err(self.bad(place, column, value, "a string".to_owned()));
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
                return Err(self.bad(place, column, quoted(&value.to_string()), expected));
            }
        };
        Ok(Row { place, text, label })
    }

    fn table<R: io::Read>(
        &self,
        mut table: csv::Reader<R>,
        mut each: impl FnMut(u64, Result<Row, BadRow>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let header = table.headers().map_err(|error| self.of_header(error))?.clone();
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
        loop {
            let row = match table.read_record(&mut record) {
                Ok(false) => return Ok(()),
                Ok(true) => {
                    let cell = |place: usize| record.get(place).unwrap_or_default().to_owned();
                    Ok(Row {
                        place: Place::Line(record.position().map_or(0, csv::Position::line)),
                        text: cell(text),
                        label: label.map(cell).filter(|label| !label.is_empty()),
                    })
                }
                Err(error) => Err(self.of_csv(error, table.position().line())?),
            };
            each(table.position().line(), row)?;
        }
    }

    fn columns(
        &self,
        mut each: impl FnMut(u64, Result<Row, BadRow>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let columns = Columns {
            content: &self.config.text,
            kind: Content::Text,
            label: &self.config.label,
            unlabelled: self.unlabelled,
        };
        parquet::read(self.file, &columns, |row| {
            let place = Place::Row(row.number);
            let text = row.content.map(std::str::from_utf8);
            let text = match text {
                Some(Ok(text)) => Ok(text.to_owned()),
                Some(Err(_)) => Err("bytes that are no UTF-8"),
                None => Err("null"),
            };
            let text = text
                .map_err(|value| self.bad(place, columns.content, value.to_owned(), "a string".to_owned()));
            let label = row.label.map(|label| label.to_string());
            each(row.number, text.map(|text| Row { place, text, label }))
        })
    }

    /// What is wrong with a row, which ends before the line `next`; an error if the file cannot be read further.
    fn of_csv(&self, error: csv::Error, next: u64) -> Result<BadRow, Error> {
        let line = error.position().map_or(1, csv::Position::line);
        let (value, expected) = match error.into_kind() {
            ErrorKind::Io(source) => return Err(self.unreadable(source)),
            ErrorKind::Utf8 { err, .. } => {
                let value = format!("bytes that break off UTF-8 in column {}", err.field() + 1);
                (value, "UTF-8".to_owned())
            }
            ErrorKind::UnequalLengths {
                expected_len, len, ..
            } => {
                // A stray quote takes what follows for a part of its cell.
                let last = next.saturating_sub(1).max(line);
                let value = match last - line {
                    0 => format!("{len} columns"),
                    _ => format!("{len} columns up to line {last}"),
                };
                (value, format!("{expected_len}, as many as the header"))
            }
            other => return Err(self.wrong(line, "line", format!("{other:?}"), "a row".to_owned())),
        };
        Ok(self.bad(Place::Line(line), "line", value, expected))
    }

    fn of_header(&self, error: csv::Error) -> Error {
        match error.into_kind() {
            ErrorKind::Io(source) => self.unreadable(source),
            _ => self.wrong(
                1,
                "line",
                "a header that is no text".to_owned(),
                "UTF-8".to_owned(),
            ),
        }
    }

    fn unreadable(&self, source: io::Error) -> Error {
        let file = self.file.to_owned();
        Error::Read { file, source }
    }

    /// Something that the whole file rests on.
    fn wrong(&self, line: u64, column: &str, value: String, expected: String) -> Error {
        Error::Line {
            file: self.file.to_owned(),
            line,
            column: column.to_owned(),
            value,
            expected,
        }
    }

    pub(super) fn bad(&self, place: Place, column: &str, value: String, expected: String) -> BadRow {
        BadRow {
            file: self.file.to_owned(),
            place,
            reason: format!("{column} = {value}: expected {expected}"),
        }
    }
}

/// In quotes, shortened.
pub(super) fn quoted(text: &str) -> String {
    let short: String = text.chars().take(QUOTED).collect();
    let more = if short.len() < text.len() { "..." } else { "" };
    format!("{short:?}{more}")
}
