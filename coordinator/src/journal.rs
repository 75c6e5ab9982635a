//! Where the core's records live: a store of keys and values that writes a batch whole or not at all.
//!
//! The default is one file in the data folder (`file`). With `etcd` another coordinator can take over.

pub(crate) mod etcd;
mod file;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use retort_runtime::failpoint;
use tokio::sync::mpsc;
use tracing::{error, info};

pub(crate) use file::FileJournal;

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
    #[error("etcd at {endpoints}: {reason}")]
    Etcd { endpoints: String, reason: String },
    #[error("another coordinator leads now: nothing more can be written by this one")]
    Deposed,
    #[error("record {key} has {bytes} bytes, and etcd takes at most {most}")]
    TooLarge { key: String, bytes: usize, most: usize },
}

impl Error {
    /// Another attempt can't succeed.
    fn is_final(&self) -> bool {
        match self {
            Self::Deposed | Self::TooLarge { .. } => true,
            Self::InUse { .. } | Self::Storage { .. } | Self::Etcd { .. } => false,
        }
    }
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
                        if e.is_final() {
                            error!("{e}");
                            return;
                        }
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
