//! Where the core's records live: a store of keys and values that writes a batch whole or not at all.
//!
//! The default is one `redb` file in the data folder. It is locked while it is open, so that two
//! coordinators never share one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use retort_runtime::failpoint;
use tokio::sync::mpsc;
use tracing::{error, info};

/// Key of a record to its JSON.
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");
/// File in the data folder.
const FILE: &str = "state.redb";
/// Pause between two attempts to write, when the disk is full, say.
const RETRY: Duration = Duration::from_secs(1);

/// Why a journal can't be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{} is in use by another coordinator", path.display())]
    InUse { path: PathBuf },
    #[error("{action} {}: {source}", path.display())]
    Storage {
        action: &'static str,
        path: PathBuf,
        source: Box<redb::Error>,
    },
}

/// Changes by key; `None` deletes.
pub(crate) type Batch = BTreeMap<String, Option<Vec<u8>>>;

/// What the coordinator asks of a store of records.
pub(crate) trait Journal: Send {
    /// Everything that was written, by key.
    fn load(&mut self) -> Result<BTreeMap<String, Vec<u8>>, Error>;
    /// Makes a batch durable, whole or not at all.
    fn write(&mut self, batch: &Batch) -> Result<(), Error>;
}

/// A journal in one file.
pub(crate) struct RedbJournal {
    path: PathBuf,
    /// Closed after an error: the next use opens it again.
    database: Option<Database>,
}

impl RedbJournal {
    pub(crate) fn open(data_dir: &Path) -> Result<Self, Error> {
        let mut journal = Self {
            path: data_dir.join(FILE),
            database: None,
        };
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

impl Journal for RedbJournal {
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

/// The journal's own thread: batches go in, the number of the newest durable one comes out.
pub(crate) struct Writer {
    batches: mpsc::Sender<(u64, Batch)>,
    durable: mpsc::Receiver<u64>,
}

impl Writer {
    pub(crate) fn start(mut journal: Box<dyn Journal>) -> std::io::Result<Self> {
        // One batch is written while the next collects: whatever came meanwhile is one commit.
        let (batches, mut inbox) = mpsc::channel::<(u64, Batch)>(1);
        let (done, durable) = mpsc::channel(1);
        std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || {
                while let Some((number, batch)) = inbox.blocking_recv() {
                    failpoint::hit("journal.before-write");
                    let mut failed = false;
                    while let Err(e) = journal.write(&batch) {
                        if !failed {
                            error!("{e}: nothing is acknowledged until it can be written");
                        }
                        failed = true;
                        if inbox.is_closed() {
                            return;
                        }
                        std::thread::sleep(RETRY);
                    }
                    if failed {
                        info!("the journal can be written again");
                    }
                    failpoint::hit("journal.after-write");
                    if done.blocking_send(number).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self { batches, durable })
    }

    /// Hands over the next batch; the one before must be durable.
    pub(crate) fn write(&self, number: u64, batch: Batch) {
        // A thread that has ended is noticed by `durable`.
        let _ = self.batches.try_send((number, batch));
    }

    /// The newest durable batch; `None`: the thread has ended.
    ///
    /// # Cancel safety
    /// A number that was not received stays in the channel.
    pub(crate) async fn durable(&mut self) -> Option<u64> {
        self.durable.recv().await
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
        let mut journal = RedbJournal::open(dir.path()).unwrap();
        assert!(journal.load().unwrap().is_empty());
        journal
            .write(&batch(&[("a", Some("1")), ("b", Some("2"))]))
            .unwrap();
        journal.write(&batch(&[("a", None), ("b", Some("3"))])).unwrap();
        drop(journal);
        let all = RedbJournal::open(dir.path()).unwrap().load().unwrap();
        assert_eq!(
            all.into_iter().collect::<Vec<_>>(),
            [("b".to_owned(), b"3".to_vec())]
        );
    }

    #[test]
    fn two_coordinators_never_share_a_journal() {
        let dir = tempfile::tempdir().unwrap();
        let _first = RedbJournal::open(dir.path()).unwrap();
        let second = RedbJournal::open(dir.path());
        assert!(matches!(second.err(), Some(Error::InUse { .. })));
    }
}
