//! Records in etcd, written only while this coordinator leads.
//!
//! Who leads is a key that lives as long as its lease: [`Leadership::win`] waits until there is none and makes it. Every
//! write compares that key's creation with the leader's own, in the same transaction: what a deposed leader still
//! writes changes nothing, whatever its clock says.

mod client;
mod leadership;

use std::collections::BTreeMap;

use retort_proto::etcd as pb;
use tokio::runtime::Handle;

use super::{Batch, Error, Journal};

pub(crate) use client::Client;
pub(crate) use leadership::{Leadership, Place};

/// Changes of one transaction. etcd takes 128 operations unless told otherwise (`--max-txn-ops`).
const OPERATIONS: usize = 100;
/// Bytes of one transaction, and of one record. etcd takes 1.5 MiB unless told otherwise (`--max-request-bytes`).
const BYTES: usize = 1 << 20;
/// Keys of one answer while everything is read.
const PAGE: i64 = 256;

/// Below the prefix: the records themselves, and a batch that is too large for one transaction.
const RECORDS: &str = "records/";
const REDO: &str = "redo/";
/// Says how many parts of a large batch there are; once it is there, the batch is durable.
const REDO_PARTS: &str = "redo/parts";

/// A journal in etcd.
pub(crate) struct EtcdJournal {
    client: Client,
    /// Key of the leadership and the revision that made it.
    leads: (String, i64),
    prefix: String,
    /// The journal is used by threads that may wait.
    runtime: Handle,
}

impl EtcdJournal {
    /// Must be called on a runtime, which does what the journal waits for.
    pub(crate) fn new(leadership: &Leadership) -> Self {
        Self {
            client: leadership.client().clone(),
            leads: leadership.fence(),
            prefix: leadership.prefix().to_owned(),
            runtime: Handle::current(),
        }
    }

    fn wait<T>(&mut self, call: impl AsyncFnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        let runtime = self.runtime.clone();
        tokio::task::block_in_place(|| runtime.block_on(call(self)))
    }

    /// One transaction, if this coordinator leads.
    async fn transact(&mut self, changes: Vec<pb::RequestOp>) -> Result<(), Error> {
        let (key, revision) = &self.leads;
        let request = pb::TxnRequest {
            compare: vec![pb::Compare {
                result: pb::compare::CompareResult::Equal.into(),
                target: pb::compare::CompareTarget::Create.into(),
                key: key.clone().into(),
                target_union: Some(pb::compare::TargetUnion::CreateRevision(*revision)),
            }],
            success: changes,
            failure: Vec::new(),
        };
        if self.client.txn(request).await?.succeeded {
            Ok(())
        } else {
            Err(Error::Deposed)
        }
    }

    fn change(&self, key: &str, value: Option<&[u8]>) -> pb::RequestOp {
        let key = format!("{}{RECORDS}{key}", self.prefix);
        value.map_or_else(|| delete(key.clone()), |value| put(key.clone(), value.to_vec()))
    }

    async fn write_all(&mut self, batch: &Batch) -> Result<(), Error> {
        let size = |(key, value): (&String, &Option<Vec<u8>>)| key.len() + value.as_ref().map_or(0, Vec::len);
        if let Some(entry) = batch.iter().find(|entry| size(*entry) > BYTES) {
            return Err(Error::TooLarge {
                key: entry.0.clone(),
                bytes: size(entry),
                most: BYTES,
            });
        }
        if batch.len() <= OPERATIONS && batch.iter().map(size).sum::<usize>() <= BYTES {
            let changes = batch
                .iter()
                .map(|(key, value)| self.change(key, value.as_deref()));
            let changes = changes.collect();
            return self.transact(changes).await;
        }
        // Too large for one transaction: first all of it beside the records, then the records.
        self.lay_down(batch).await?;
        self.redo(batch).await
    }

    /// Makes a batch durable beside the records.
    async fn lay_down(&mut self, batch: &Batch) -> Result<(), Error> {
        let whole = serde_json::to_vec(batch).expect("keys are strings, so JSON holds every batch");
        let mut parts = 0_u64;
        for part in whole.chunks(BYTES) {
            let key = format!("{}{REDO}{parts:08}", self.prefix);
            self.transact(vec![put(key, part.to_vec())]).await?;
            parts += 1;
        }
        let count = put(
            format!("{}{REDO_PARTS}", self.prefix),
            parts.to_string().into_bytes(),
        );
        self.transact(vec![count]).await
    }

    /// Brings a large batch, which is durable, to the records.
    async fn redo(&mut self, batch: &Batch) -> Result<(), Error> {
        let (mut changes, mut bytes) = (Vec::new(), 0);
        for (key, value) in batch {
            let size = key.len() + value.as_ref().map_or(0, Vec::len);
            if changes.len() == OPERATIONS || bytes + size > BYTES {
                self.transact(std::mem::take(&mut changes)).await?;
                bytes = 0;
            }
            changes.push(self.change(key, value.as_deref()));
            bytes += size;
        }
        self.transact(changes).await?;
        let key = format!("{}{REDO}", self.prefix);
        self.transact(vec![delete_all(key)]).await
    }

    /// The rest of a large batch that a former leader did not bring to the records.
    async fn unfinished(&mut self) -> Result<Option<Batch>, Error> {
        let prefix = format!("{}{REDO}", self.prefix);
        let mut parts = self.client.all(&prefix, PAGE).await?;
        let Some(count) = parts.remove("parts") else {
            return Ok(None);
        };
        let count: usize = String::from_utf8_lossy(&count).parse().unwrap_or(usize::MAX);
        // Parts of an older batch that was never finished may lie behind this one's.
        let whole: Vec<u8> = parts.into_values().take(count).flatten().collect();
        let batch = serde_json::from_slice(&whole);
        batch
            .map(Some)
            .map_err(|e| self.client.error(format!("{prefix}: {e}")))
    }
}

impl Journal for EtcdJournal {
    fn load(&mut self) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        self.wait(async |journal| {
            if let Some(batch) = journal.unfinished().await? {
                journal.redo(&batch).await?;
            }
            let prefix = format!("{}{RECORDS}", journal.prefix);
            journal.client.all(&prefix, PAGE).await
        })
    }

    fn write(&mut self, batch: &Batch) -> Result<(), Error> {
        self.wait(async |journal| journal.write_all(batch).await)
    }
}

/// The first key behind all that begin with `prefix`.
fn behind(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    // A prefix of ours ends with a slash, which has a successor.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

fn put(key: String, value: Vec<u8>) -> pb::RequestOp {
    let put = pb::PutRequest {
        key: key.into(),
        value: value.into(),
        lease: 0,
    };
    pb::RequestOp {
        request: Some(pb::request_op::Request::RequestPut(put)),
    }
}

fn delete(key: String) -> pb::RequestOp {
    delete_range(key.into_bytes(), Vec::new())
}

fn delete_all(prefix: String) -> pb::RequestOp {
    let end = behind(&prefix);
    delete_range(prefix.into_bytes(), end)
}

fn delete_range(key: Vec<u8>, range_end: Vec<u8>) -> pb::RequestOp {
    let range = pb::DeleteRangeRequest {
        key: key.into(),
        range_end: range_end.into(),
    };
    pb::RequestOp {
        request: Some(pb::request_op::Request::RequestDeleteRange(range)),
    }
}

#[cfg(test)]
mod tests;
