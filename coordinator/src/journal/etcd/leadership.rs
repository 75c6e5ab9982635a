//! Who leads: one key that lives as long as its lease.

use std::time::Duration;

use retort_client::Dialer;
use retort_proto::etcd as pb;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Client;
use crate::journal::Error;

/// How long a leader that went silent still leads. A standby takes over within this, [`POLL`] and the time to read the records.
pub(crate) const TTL: Duration = Duration::from_secs(5);
/// How often a leader shows that it lives: three may be lost.
const KEEP_ALIVE: Duration = Duration::from_millis(1_250);
/// How often a standby looks.
const POLL: Duration = Duration::from_millis(500);
/// How long etcd may be away while a coordinator starts; then it gives up, and whoever supervises it tries again.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where to lead.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Members of the cluster, `http://host:port`; `https://` where the dialer encrypts.
    pub(crate) endpoints: Vec<String>,
    pub(crate) dialer: Dialer,
    /// All keys begin with this and a slash.
    pub(crate) prefix: String,
    /// Names this coordinator to the others.
    pub(crate) name: String,
}

/// A leader's right to write, until its lease ends.
#[derive(Debug)]
pub(crate) struct Leadership {
    client: Client,
    prefix: String,
    lease: i64,
    /// The revision that made the key.
    revision: i64,
    /// When the lease was last known to live.
    alive: Instant,
}

impl Leadership {
    /// Waits until nobody leads, and leads. `None`: `token` was cancelled first.
    ///
    /// # Errors
    /// No member of the cluster answered for [`PATIENCE`].
    pub(crate) async fn win(place: &Place, token: &CancellationToken) -> anyhow::Result<Option<Self>> {
        let mut client = Client::new(&place.endpoints, &place.dialer)?;
        let prefix = format!("{}/", place.prefix.trim_end_matches('/'));
        let (mut answered, mut lease, mut leader) = (Instant::now(), None, String::new());
        loop {
            match try_to_lead(&mut client, &prefix, &place.name, &mut lease).await {
                Ok(Attempt::Leads(leadership)) => {
                    info!(name = place.name, lease = leadership.lease, "leads");
                    return Ok(Some(leadership));
                }
                Ok(Attempt::Follows(name)) => {
                    answered = Instant::now();
                    if name != leader {
                        info!(leader = name, "stands by");
                        leader = name;
                    }
                }
                Err(e) if answered.elapsed() > PATIENCE => {
                    return Err(anyhow::Error::from(e).context(format!("tried for {PATIENCE:?}")));
                }
                Err(e) => warn!("{e}: tried again"),
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = token.cancelled() => return Ok(None),
            }
        }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What a write compares: the key, and the revision that made it.
    pub(crate) fn fence(&self) -> (String, i64) {
        (key(&self.prefix), self.revision)
    }

    /// Keeps the lease until `token` is cancelled, then gives it up.
    ///
    /// # Errors
    /// The lease ended, or etcd did not say for [`TTL`] that it lives: another coordinator may lead.
    pub(crate) async fn keep(mut self, token: CancellationToken) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                () = tokio::time::sleep(KEEP_ALIVE) => {}
                () = token.cancelled() => {
                    if let Err(e) = self.client.revoke(self.lease).await {
                        warn!("leadership was not given up, it ends within {TTL:?}: {e}");
                    }
                    return Ok(());
                }
            }
            let asked = Instant::now();
            let left = TTL.saturating_sub(self.alive.elapsed());
            match tokio::time::timeout(left, self.client.keep_alive(self.lease)).await {
                Ok(Ok(true)) => self.alive = asked,
                Ok(Ok(false)) => {
                    anyhow::bail!("the lease of the leadership has ended: another coordinator may lead")
                }
                Ok(Err(e)) if self.alive.elapsed() < TTL => warn!("{e}: the leadership was not renewed"),
                Ok(Err(_)) | Err(_) => {
                    anyhow::bail!(
                        "etcd did not renew the leadership for {TTL:?}: another coordinator may lead"
                    );
                }
            }
        }
    }
}

fn key(prefix: &str) -> String {
    format!("{prefix}leader")
}

enum Attempt {
    Leads(Leadership),
    /// Somebody else does.
    Follows(String),
}

async fn try_to_lead(
    client: &mut Client,
    prefix: &str,
    name: &str,
    lease: &mut Option<i64>,
) -> Result<Attempt, Error> {
    let key = key(prefix);
    let asked = Instant::now();
    let leader = client.get(&key).await?;
    if let Some(leader) = leader
        && Some(leader.lease) != *lease
    {
        return Ok(Attempt::Follows(
            String::from_utf8_lossy(&leader.value).into_owned(),
        ));
    }
    // Nobody leads, or this coordinator does since an attempt whose answer was lost.
    let id = match *lease {
        Some(id) if client.keep_alive(id).await? => id,
        _ => {
            client
                .grant(i64::try_from(TTL.as_secs()).unwrap_or(i64::MAX))
                .await?
        }
    };
    *lease = Some(id);
    let put = pb::PutRequest {
        key: key.clone().into(),
        value: name.to_owned().into(),
        lease: id,
    };
    let request = pb::TxnRequest {
        compare: vec![pb::Compare {
            result: pb::compare::CompareResult::Equal.into(),
            target: pb::compare::CompareTarget::Create.into(),
            key: key.clone().into(),
            // No revision made it: it is not there.
            target_union: Some(pb::compare::TargetUnion::CreateRevision(0)),
        }],
        success: vec![pb::RequestOp {
            request: Some(pb::request_op::Request::RequestPut(put)),
        }],
        failure: Vec::new(),
    };
    client.txn(request).await?;
    Ok(match client.get(&key).await? {
        Some(leader) if leader.lease == id => Attempt::Leads(Leadership {
            client: client.clone(),
            prefix: prefix.to_owned(),
            lease: id,
            revision: leader.create_revision,
            alive: asked,
        }),
        Some(leader) => Attempt::Follows(String::from_utf8_lossy(&leader.value).into_owned()),
        None => Attempt::Follows("nobody, its leader has just gone".into()),
    })
}
