//! The gRPC services. Each checks what it receives, asks the brain, and maps refusals to codes.

mod fleet;
mod join;
mod reduce;
mod runs;
mod status;
mod versions;

pub(crate) use fleet::FleetService;
pub(crate) use join::JoinService;
pub(crate) use reduce::ReduceService;
pub(crate) use runs::RunsService;
pub(crate) use status::StatusService;
pub(crate) use versions::VersionsService;

use retort_coordinator_core::ids::{Refusal, Role, Session};
use retort_proto::{pb, required};
use retort_tls::Caller;
use tonic::Status;

use crate::store;

/// Whether a caller may act in this role: its certificate says what it is. In plain text there is no caller to ask.
pub(crate) fn acts_as(caller: Option<&Caller>, role: Role) -> Result<(), Status> {
    let needed = match role {
        Role::TeacherServer => retort_tls::Role::Teacher,
        Role::StudentWorker => retort_tls::Role::Student,
    };
    match caller {
        Some(caller) if caller.role != needed => Err(Status::permission_denied(format!(
            "a {role} needs the role {needed}; the caller is {}",
            caller.role
        ))),
        _ => Ok(()),
    }
}

/// The session that a message names, in a role that its caller may have.
pub(crate) fn session_of(caller: Option<&Caller>, session: Option<pb::Session>) -> Result<Session, Status> {
    let session: Session = required(session, "session")?;
    acts_as(caller, session.role)?;
    Ok(session)
}

/// Why the core refused, as a code: FAILED_PRECONDITION and ABORTED mean "register again",
/// RESOURCE_EXHAUSTED "ask again later", INVALID_ARGUMENT is a bug of the caller.
pub(crate) fn refusal(refused: Refusal) -> Status {
    match &refused {
        Refusal::Fenced { .. } => Status::failed_precondition(refused.to_string()),
        Refusal::Gone(_) => Status::aborted(refused.to_string()),
        Refusal::Mismatch(_) => Status::permission_denied(refused.to_string()),
        Refusal::NoPart { .. } | Refusal::Full { .. } | Refusal::Wait { .. } | Refusal::Busy(_) => {
            Status::resource_exhausted(refused.to_string())
        }
        Refusal::Invalid(_) => Status::invalid_argument(refused.to_string()),
    }
}

/// Errors of the store: DATA_LOSS is worth another upload, NOT_FOUND and INTERNAL are not.
pub(crate) fn store_error(error: store::Error) -> Status {
    match &error {
        store::Error::Hash { .. } => Status::data_loss(error.to_string()),
        store::Error::FileName(_) => Status::invalid_argument(error.to_string()),
        store::Error::Absent { .. } => Status::not_found(error.to_string()),
        store::Error::Superseded { .. } => Status::aborted(error.to_string()),
        store::Error::Io { .. } | store::Error::Manifest { .. } => Status::internal(error.to_string()),
        #[cfg(feature = "object-store")]
        store::Error::Bucket(_) => Status::internal(error.to_string()),
    }
}
