use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use retort_proto::pb;
use retort_tls::token::{Token, seconds};
use retort_tls::{Authority, Caller, Means, Proof, Refusal, Role};
use tonic::{Request, Response, Status};
use tracing::info;

/// How long a certificate is good for that is signed here: a machine that is gone can do nothing with it after a month, and
/// whoever renews once a week may miss three.
const VALID: Duration = Duration::from_secs(30 * 86_400);
/// Tokens that were used and have not expired. Only tokens that an operator made count, each once; beyond it nobody joins
/// until some expire.
const USED: usize = 10_000;

pub(crate) struct JoinService {
    authority: Arc<Authority>,
    /// Nonces of used tokens, until they expire. A lock: held for a look-up, never across an await.
    used: Mutex<BTreeMap<String, u64>>,
}

impl JoinService {
    pub(crate) fn new(authority: Authority) -> Self {
        Self {
            authority: Arc::new(authority),
            used: Mutex::default(),
        }
    }

    async fn sign(
        &self,
        request: pb::CertificateRequest,
        role: Role,
    ) -> Result<pb::CertificateReply, Status> {
        let proof = Proof {
            public_key: request.public_key.to_vec(),
            signature: request.signature.to_vec(),
        };
        let authority = self.authority.clone();
        // Reads the CA's files, and signs.
        let sign = move || authority.sign(&proof, role, (SystemTime::now(), VALID));
        let signed = tokio::task::spawn_blocking(sign)
            .await
            .map_err(|e| Status::internal(e.to_string()))?;
        let certificate = signed.map_err(|e| match e {
            Refusal::Proof => Status::invalid_argument(format!("public_key, signature: {e}")),
            e => Status::internal(e.to_string()),
        })?;
        Ok(pb::CertificateReply {
            certificate,
            ca: self.authority.ca().to_owned(),
        })
    }

    /// A token is good once. What was used is forgotten with this process.
    fn use_up(&self, token: &Token, now: u64) -> Result<(), Status> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|_, expiry| *expiry > now);
        if used.contains_key(&token.nonce) {
            return Err(Status::already_exists(
                "the token was used before: each is good for one certificate",
            ));
        }
        if used.len() >= USED {
            return Err(Status::resource_exhausted(format!(
                "{USED} tokens were used and have not expired: join later"
            )));
        }
        used.insert(token.nonce.clone(), token.expiry);
        Ok(())
    }
}

#[tonic::async_trait]
impl pb::join_server::Join for JoinService {
    async fn join(
        &self,
        request: Request<pb::CertificateRequest>,
    ) -> Result<Response<pb::CertificateReply>, Status> {
        let Some(Caller {
            means: Means::Token(token),
            ..
        }) = Caller::of(&request)
        else {
            return Err(Status::unauthenticated("a token for joining is needed"));
        };
        let reply = self.sign(request.into_inner(), token.role).await?;
        self.use_up(&token, seconds(SystemTime::now()))?;
        info!(role = %token.role, "a certificate was signed for a token");
        Ok(Response::new(reply))
    }

    async fn renew(
        &self,
        request: Request<pb::CertificateRequest>,
    ) -> Result<Response<pb::CertificateReply>, Status> {
        let Some(caller) = Caller::of(&request).filter(|c| c.means == Means::Certificate) else {
            return Err(Status::unauthenticated("a certificate is needed"));
        };
        let reply = self.sign(request.into_inner(), caller.role).await?;
        info!(role = %caller.role, "a certificate was renewed");
        Ok(Response::new(reply))
    }
}
