//! Calls to a cluster, to one of its members after the other.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use retort_client::{BadAddress, Channel, Dialer, MAX_MESSAGE};
use retort_proto::etcd as pb;
use retort_tls::Expected;
use tonic::{Response, Status};
use tracing::debug;

use super::behind;
use crate::journal::Error;

/// How long a member has for an answer; then the next is asked.
const ANSWER: Duration = Duration::from_secs(2);

/// A cluster. Cheap to clone: clones share connections, each remembers the member that answered it last.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    members: Vec<Channel>,
    /// The one to ask first.
    at: usize,
    addresses: String,
}

impl Client {
    /// Connections are made when they are needed.
    pub(crate) fn new(addresses: &[String], dialer: &Dialer) -> Result<Self, BadAddress> {
        Ok(Self {
            members: addresses
                .iter()
                .map(|a| dialer.connect(a, Expected::Host))
                .collect::<Result<_, _>>()?,
            at: 0,
            addresses: addresses.join(","),
        })
    }

    pub(crate) fn error(&self, reason: impl Into<String>) -> Error {
        Error::Etcd {
            endpoints: self.addresses.clone(),
            reason: reason.into(),
        }
    }

    /// Asks every member at most once, until one answers.
    async fn ask<M, T, F>(&mut self, message: M, call: impl Fn(Channel, M) -> F) -> Result<T, Error>
    where
        M: Clone,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut reason = String::from("no member");
        for _ in 0..self.members.len() {
            match tokio::time::timeout(ANSWER, call(self.members[self.at].clone(), message.clone())).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => reason = format!("{}: {}", status.code(), status.message()),
                Err(_) => reason = format!("no answer within {ANSWER:?}"),
            }
            debug!(member = self.at, "etcd: {reason}");
            self.at = (self.at + 1) % self.members.len();
        }
        Err(self.error(reason))
    }

    pub(crate) async fn txn(&mut self, request: pb::TxnRequest) -> Result<pb::TxnResponse, Error> {
        self.ask(request, |channel, request| async move {
            kv(channel).txn(request).await
        })
        .await
    }

    pub(crate) async fn range(&mut self, request: pb::RangeRequest) -> Result<pb::RangeResponse, Error> {
        self.ask(request, |channel, request| async move {
            kv(channel).range(request).await
        })
        .await
    }

    /// All keys below a prefix, by what follows it, as they were at one moment.
    pub(crate) async fn all(&mut self, prefix: &str, page: i64) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        let mut all = BTreeMap::new();
        let mut request = pb::RangeRequest {
            key: prefix.to_owned().into(),
            range_end: behind(prefix).into(),
            limit: page,
            revision: 0,
        };
        loop {
            let answer = self.range(request.clone()).await?;
            request.revision = answer
                .header
                .map_or(0, |header| header.revision)
                .max(request.revision);
            for pair in &answer.kvs {
                let key = String::from_utf8_lossy(&pair.key[prefix.len()..]).into_owned();
                all.insert(key, pair.value.to_vec());
            }
            match answer.kvs.last() {
                // The first possible key behind the last one.
                Some(last) if answer.more => request.key = [&last.key[..], &[0]].concat().into(),
                _ => return Ok(all),
            }
        }
    }

    /// A lease of `ttl` seconds.
    pub(crate) async fn grant(&mut self, ttl: i64) -> Result<i64, Error> {
        let request = pb::LeaseGrantRequest { ttl, id: 0 };
        let answer = self
            .ask(request, |channel, request| async move {
                lease(channel).lease_grant(request).await
            })
            .await?;
        if answer.error.is_empty() {
            Ok(answer.id)
        } else {
            Err(self.error(answer.error))
        }
    }

    /// Lets a lease live its time once more; `false`: it has ended.
    pub(crate) async fn keep_alive(&mut self, id: i64) -> Result<bool, Error> {
        let request = pb::LeaseKeepAliveRequest { id };
        let answer = self.ask(request, |channel, request| async move {
            let requests = tokio_stream::once(request);
            let mut answers = lease(channel).lease_keep_alive(requests).await?.into_inner();
            let first = answers.message().await?;
            first
                .map(Response::new)
                .ok_or_else(|| Status::unavailable("the stream ended"))
        });
        Ok(answer.await?.ttl > 0)
    }

    /// Ends a lease now, so that another needn't wait for it.
    pub(crate) async fn revoke(&mut self, id: i64) -> Result<(), Error> {
        let request = pb::LeaseRevokeRequest { id };
        self.ask(request, |channel, request| async move {
            lease(channel).lease_revoke(request).await
        })
        .await?;
        Ok(())
    }

    /// The key, if it is there.
    pub(crate) async fn get(&mut self, key: &str) -> Result<Option<pb::KeyValue>, Error> {
        let request = pb::RangeRequest {
            key: Bytes::from(key.to_owned()),
            ..pb::RangeRequest::default()
        };
        Ok(self.range(request).await?.kvs.pop())
    }
}

fn kv(channel: Channel) -> pb::kv_client::KvClient<Channel> {
    pb::kv_client::KvClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}

fn lease(channel: Channel) -> pb::lease_client::LeaseClient<Channel> {
    pb::lease_client::LeaseClient::new(channel)
}
