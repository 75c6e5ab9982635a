//! What travels between the processes of a history.

use std::rc::Rc;

use retort_coordinator_core::ids::Session;
use retort_coordinator_core::lease;
use retort_coordinator_core::round::{RoundPlan, Work};
use retort_coordinator_core::run::{Admission, Heartbeat, Message, Registration, Rejected};
use retort_data::ranges::RangeSet;
use retort_student_worker_core::BlockId;

use crate::model::Model;

/// Index of a process that is no coordinator.
pub(crate) type Node = usize;

/// One call to the coordinator.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) node: Node,
    pub(crate) life: u64,
    pub(crate) call: u64,
    pub(crate) body: Body,
}

#[derive(Debug, Clone)]
pub(crate) enum Body {
    Register(Registration),
    /// With the caller's clock when it was sent.
    Beat(Session, Heartbeat, u64),
    /// A control stream begins.
    Attach(Session, Heartbeat),
    Lease(Session, (u64, u64)),
    Contribute(Session, Work, Option<Weights>),
    Publish {
        session: Session,
        generation: u64,
        round: u64,
        model: Rc<Model>,
    },
    Release(Session, u64, u32, RangeSet),
    Reject(Session, Rejected),
    Leave(Session),
    /// A version's files, of a student's own group.
    Fetch(String, u64),
}

impl Body {
    /// The session that it writes in.
    pub(crate) fn session(&self) -> Option<&Session> {
        match self {
            Self::Beat(s, ..)
            | Self::Attach(s, _)
            | Self::Lease(s, _)
            | Self::Contribute(s, ..)
            | Self::Publish { session: s, .. }
            | Self::Release(s, ..)
            | Self::Reject(s, _)
            | Self::Leave(s) => Some(s),
            Self::Register(_) | Self::Fetch(..) => None,
        }
    }

    pub(crate) fn session_mut(&mut self) -> Option<&mut Session> {
        match self {
            Self::Beat(s, ..)
            | Self::Attach(s, _)
            | Self::Lease(s, _)
            | Self::Contribute(s, ..)
            | Self::Publish { session: s, .. }
            | Self::Release(s, ..)
            | Self::Reject(s, _)
            | Self::Leave(s) => Some(s),
            Self::Register(_) | Self::Fetch(..) => None,
        }
    }
}

/// A replica's weights with those that its round began with.
#[derive(Debug, Clone)]
pub(crate) struct Weights {
    pub(crate) base: Rc<Model>,
    pub(crate) model: Rc<Model>,
}

/// The answer to a call.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Admitted(Box<Admission>),
    /// With the caller's clock of the heartbeat.
    Alive(u64),
    /// With the number of the stream.
    Attached(u64),
    Lease(u64, lease::Answer),
    Merged(RoundPlan, Option<Rc<Model>>),
    Published,
    NotPublished,
    Done,
    Fetched(Rc<Model>),
    Refused(Refused),
}

/// Why a call was refused, as its caller treats it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Register again.
    Lost,
    /// Ask again later.
    Later,
    /// The run is over for this process.
    Ended,
}

/// A block's soft targets, with the version that truly made them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Frame {
    pub(crate) made_by: u64,
}

/// What happens in time.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// A request arrives at the coordinator.
    Request(Box<Request>),
    /// An answer arrives.
    Reply {
        node: Node,
        life: u64,
        call: u64,
        reply: Reply,
    },
    /// The caller notices that its connection broke.
    Broken { node: Node, life: u64, call: u64 },
    /// A call is made again.
    Again { node: Node, life: u64, body: Box<Body> },
    /// A message of a control stream arrives.
    Control { node: Node, life: u64, message: Message },
    /// The worker notices that its control stream broke.
    StreamBroken { node: Node, life: u64, stream: u64 },
    /// A student's want arrives at a server.
    Want {
        server: Node,
        server_life: u64,
        node: Node,
        life: u64,
        want: Want,
    },
    /// A frame arrives, or (`None`) the want failed.
    Frame {
        node: Node,
        life: u64,
        want: Want,
        answer: Option<(u64, Frame)>,
    },
    /// The trainer has done its present job.
    Trainer { node: Node, life: u64, trainer: u64 },
    /// A server has loaded a version.
    Staged { node: Node, life: u64, version: u64 },
    /// Time for a heartbeat.
    Tick { node: Node, life: u64 },
    /// A process starts.
    Start { node: Node },
    /// The coordinator starts.
    CoordinatorStart,
    /// The coordinator has written a group's manifest.
    Written { life: u64, group: String },
    /// The coordinator looks at its clock.
    CoordinatorTick { life: u64 },
    /// Something breaks.
    Fault,
    /// An operator asks for something, or takes it back.
    Operator(Verb),
    /// Is there progress?
    Watch,
}

/// What an operator asks for.
#[derive(Debug, Clone)]
pub(crate) enum Verb {
    Pause,
    Stop,
    Drain(Node),
    Resume,
}

/// A want as a server sees it.
#[derive(Debug, Clone)]
pub(crate) struct Want {
    pub(crate) teacher: String,
    pub(crate) id: BlockId,
    pub(crate) floor: u64,
    pub(crate) exact: Option<u64>,
}
