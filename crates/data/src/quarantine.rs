//! Rows that cannot be used: they are left out, counted, and named.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};

/// Of all bad rows, so many are named.
const NAMED: usize = 20;
/// In one error: a line that can be read.
const IN_AN_ERROR: usize = 3;
/// As many as are let go where the job does not say: a few damaged files do no harm, a wrong column is no few.
const MOST: u32 = 100;
/// And of so many rows no more than one, since a small set has few to lose.
const SHARE: u64 = 10;

/// Where a bad row is, within its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The file is one sample, or several.
    File,
    /// A line of text, counted from 1.
    Line(u64),
    /// A row of a table, counted from 1.
    Row(u64),
}

/// A row of a data set that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// The file.
    pub file: PathBuf,
    /// Where in it.
    pub place: Place,
    /// What is wrong, and what it should be.
    pub reason: String,
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        match self.place {
            Place::File => write!(f, "{file}: {}", self.reason),
            Place::Line(line) => write!(f, "{file} line {line}: {}", self.reason),
            Place::Row(row) => write!(f, "{file} row {row}: {}", self.reason),
        }
    }
}

/// The rows of a set that were left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BadRows {
    count: u64,
    first: Vec<BadRow>,
}

impl BadRows {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The first of them, in the order of reading: 20 at most.
    pub fn first(&self) -> &[BadRow] {
        &self.first
    }
}

/// `3 rows cannot be used: a.png: ...; b.png: ...`, the first ones.
impl fmt::Display for BadRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = if self.count == 1 { "row" } else { "rows" };
        write!(f, "{} {rows} cannot be used: ", self.count)?;
        for (i, row) in self.first.iter().take(IN_AN_ERROR).enumerate() {
            let separator = if i == 0 { "" } else { "; " };
            write!(f, "{separator}{row}")?;
        }
        if self.count > IN_AN_ERROR as u64 {
            f.write_str("; ...")?;
        }
        Ok(())
    }
}

/// More rows are bad than the job lets go.
#[derive(Debug, thiserror::Error)]
#[error("dataset.bad_rows = {bound}: {bad}: mend them, or set dataset.bad_rows to let so many go")]
pub struct TooMany {
    bound: String,
    bad: BadRows,
}

/// What reading a set fills beside its samples, and how much of those memory may hold, in bytes.
pub(crate) struct Intake {
    pub(crate) bad: Quarantine,
    pub(crate) memory: u64,
}

impl Intake {
    /// `bad_rows` as the job has it.
    pub(crate) fn new(bad_rows: Option<u32>, memory: u64) -> Self {
        let bad = Quarantine::new(bad_rows);
        Self { bad, memory }
    }
}

/// Collects bad rows while a set is read.
#[derive(Debug, Clone)]
pub(crate) struct Quarantine {
    most: Option<u32>,
    good: u64,
    bad: BadRows,
}

impl Quarantine {
    /// `most`: `dataset.bad_rows`.
    pub(crate) fn new(most: Option<u32>) -> Self {
        Self {
            most,
            good: 0,
            bad: BadRows::default(),
        }
    }

    /// A row was read.
    pub(crate) fn good(&mut self) {
        self.good += 1;
    }

    /// A row is left out.
    pub(crate) fn leave_out(&mut self, row: BadRow) -> Result<(), TooMany> {
        self.bad.count += 1;
        if self.bad.first.len() < NAMED {
            self.bad.first.push(row);
        }
        if self.is_beyond_count() {
            return Err(self.too_many());
        }
        Ok(())
    }

    /// A file is left out.
    pub(crate) fn leave_out_file(&mut self, file: &Path, fault: &dyn Error) -> Result<(), TooMany> {
        let row = BadRow {
            file: file.to_owned(),
            place: Place::File,
            reason: with_sources(fault),
        };
        self.leave_out(row)
    }

    /// What a set became, or what is wrong with it, in the light of what was left out.
    pub(crate) fn judge<T, E: Into<crate::Error>>(
        self,
        read: Result<T, E>,
    ) -> Result<(T, BadRows), crate::Error> {
        if self.is_beyond() {
            return Err(self.too_many().into());
        }
        match read.map_err(Into::into) {
            Ok(set) => Ok((set, self.bad)),
            Err(error) if self.bad.count == 0 => Err(error),
            Err(error) => Err(crate::Error::AfterBadRows {
                bad: self.bad,
                source: Box::new(error),
            }),
        }
    }

    /// Whether more are bad than is let go, of the rows so far.
    fn is_beyond(&self) -> bool {
        let rows = self.good + self.bad.count;
        self.is_beyond_count() || (self.most.is_none() && self.bad.count * SHARE > rows)
    }

    fn is_beyond_count(&self) -> bool {
        self.bad.count > u64::from(self.most.unwrap_or(MOST))
    }

    fn too_many(&self) -> TooMany {
        let bound = match self.most {
            Some(most) => most.to_string(),
            None => format!("unset (up to {MOST}, and of {SHARE} rows one)"),
        };
        let bad = self.bad.clone();
        TooMany { bound, bad }
    }
}

/// Its text and that of its sources.
pub(crate) fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(line: u64) -> BadRow {
        BadRow {
            file: "a.csv".into(),
            place: Place::Line(line),
            reason: "odd".to_owned(),
        }
    }

    /// What becomes of a set of so many good and bad rows.
    fn judged(most: Option<u32>, good: u64, bad: u64) -> Result<BadRows, String> {
        let mut quarantine = Quarantine::new(most);
        (0..good).for_each(|_| quarantine.good());
        let read = (1..=bad).try_for_each(|line| quarantine.leave_out(row(line)));
        let read = read.map_err(crate::Error::BadRows);
        quarantine
            .judge(read)
            .map(|(_, bad)| bad)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn a_few_are_let_go_and_named() {
        assert_eq!(judged(None, 0, 0), Ok(BadRows::default()));
        let bad = judged(None, 900, 100).expect("a tenth");
        assert_eq!((bad.count(), bad.first().len()), (100, NAMED));
        assert_eq!(bad.first()[1].to_string(), "a.csv line 2: odd");
        assert_eq!(judged(Some(101), 0, 101).map(|bad| bad.count()), Ok(101));
    }

    #[test]
    fn too_many_are_an_error_that_names_the_first() {
        let unset = "dataset.bad_rows = unset (up to 100, and of 10 rows one): ";
        for (most, good, bad, expected) in [
            (
                None,
                8,
                1,
                format!("{unset}1 row cannot be used: a.csv line 1: odd: mend"),
            ),
            (
                None,
                10_000,
                101,
                format!("{unset}101 rows cannot be used: a.csv line 1: odd; "),
            ),
            (
                Some(0),
                99,
                1,
                "dataset.bad_rows = 0: 1 row cannot be used: a.csv line 1: odd: mend".to_owned(),
            ),
            (
                Some(3),
                99,
                9,
                "dataset.bad_rows = 3: 4 rows cannot be used: ".to_owned(),
            ),
        ] {
            let error = judged(most, good, bad).expect_err("too many");
            assert!(error.starts_with(&expected), "{error}");
        }
    }

    #[test]
    fn what_was_left_out_is_said_with_what_is_wrong_then() {
        let mut quarantine = Quarantine::new(Some(5));
        quarantine.leave_out(row(7)).expect("one");
        let error = quarantine.judge::<(), _>(Err(crate::Error::Config(Vec::new())));
        let error = error.expect_err("wrong");
        assert_eq!(
            with_sources(&error),
            "1 row cannot be used: a.csv line 7: odd: dataset: "
        );
    }
}
