//! Records in one `redb` file. It is locked while it is open, so that two coordinators never share one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Batch, Error, Journal};

/// Key of a record to its JSON.
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");
/// File in the data folder.
const FILE: &str = "state.redb";

/// A journal in one file.
pub(crate) struct FileJournal {
    path: PathBuf,
    /// Closed after an error: the next use opens it again.
    database: Option<Database>,
}

impl FileJournal {
    /// Makes the folder if it is not there.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, Error> {
        let mut journal = Self {
            path: data_dir.join(FILE),
            database: None,
        };
        std::fs::create_dir_all(data_dir).map_err(|e| Error::Storage {
            action: "create the folder of",
            path: journal.path.clone(),
            source: Box::new(redb::StorageError::from(e).into()),
        })?;
        journal.database()?;
        Ok(journal)
    }

    fn database(&mut self) -> Result<&Database, Error> {
        if self.database.is_none() {
            let opened = Database::create(&self.path).map_err(|e| match e {
                redb::DatabaseError::DatabaseAlreadyOpen => Error::InUse {
                    path: self.path.clone(),
                },
                other => self.storage("open", other.into()),
            })?;
            self.database = Some(opened);
        }
        Ok(self.database.as_ref().expect("opened above"))
    }

    fn storage(&self, action: &'static str, source: redb::Error) -> Error {
        Error::Storage {
            action,
            path: self.path.clone(),
            source: Box::new(source),
        }
    }

    fn try_write(&mut self, batch: &Batch) -> Result<(), redb::Error> {
        let Some(database) = &self.database else {
            return Ok(());
        };
        let transaction = database.begin_write()?;
        {
            let mut table = transaction.open_table(RECORDS)?;
            for (key, value) in batch {
                match value {
                    Some(value) => table.insert(key.as_str(), value.as_slice())?,
                    None => table.remove(key.as_str())?,
                };
            }
        }
        transaction.commit()?;
        Ok(())
    }

    fn try_load(&self) -> Result<BTreeMap<String, Vec<u8>>, redb::Error> {
        let mut all = BTreeMap::new();
        let Some(database) = &self.database else {
            return Ok(all);
        };
        let transaction = database.begin_read()?;
        let table = match transaction.open_table(RECORDS) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(all),
            Err(e) => return Err(e.into()),
        };
        for entry in table.iter()? {
            let (key, value) = entry?;
            all.insert(key.value().to_owned(), value.value().to_owned());
        }
        Ok(all)
    }
}

impl Journal for FileJournal {
    fn load(&mut self) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        self.database()?;
        self.try_load().map_err(|e| self.storage("read", e))
    }

    fn write(&mut self, batch: &Batch) -> Result<(), Error> {
        self.database()?;
        let written = self.try_write(batch);
        written.map_err(|e| {
            self.database = None;
            self.storage("write", e)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(changes: &[(&str, Option<&str>)]) -> Batch {
        let own =
            |(key, value): &(&str, Option<&str>)| ((*key).to_owned(), value.map(|v| v.as_bytes().to_vec()));
        changes.iter().map(own).collect()
    }

    #[test]
    fn what_was_written_is_there_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = FileJournal::open(dir.path()).unwrap();
        assert!(journal.load().unwrap().is_empty());
        journal
            .write(&batch(&[("a", Some("1")), ("b", Some("2"))]))
            .unwrap();
        journal.write(&batch(&[("a", None), ("b", Some("3"))])).unwrap();
        drop(journal);
        let all = FileJournal::open(dir.path()).unwrap().load().unwrap();
        assert_eq!(
            all.into_iter().collect::<Vec<_>>(),
            [("b".to_owned(), b"3".to_vec())]
        );
    }

    #[test]
    fn two_coordinators_never_share_a_journal() {
        let dir = tempfile::tempdir().unwrap();
        let _first = FileJournal::open(dir.path()).unwrap();
        let second = FileJournal::open(dir.path());
        assert!(matches!(second.err(), Some(Error::InUse { .. })));
    }
}
