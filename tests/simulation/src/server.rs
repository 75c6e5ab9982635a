//! A teacher server: holds versions, serves one, and never trains. A stand-in without tensors.

use std::collections::{BTreeMap, BTreeSet};

use retort_coordinator_core::ids::{Role, Session};
use retort_coordinator_core::run::{Admission, Heartbeat, Message, Registration};

use crate::message::{Body, Event, Frame, Node, Refused, Reply, Want};
use crate::plant::Plant;
use crate::world::{Peer, World};

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) peer: Peer,
    session: Option<Session>,
    teacher: String,
    staged: BTreeSet<u64>,
    active: Option<u64>,
    /// To be served as soon as it is staged.
    wanted: Option<u64>,
}

impl Server {
    pub(crate) fn new(peer: Peer) -> Self {
        Self {
            peer,
            session: None,
            teacher: String::new(),
            staged: BTreeSet::new(),
            active: None,
            wanted: None,
        }
    }

    fn heartbeat(&self) -> Heartbeat {
        Heartbeat {
            staged: self.staged.clone(),
            active: self.active,
            ..Heartbeat::default()
        }
    }

    fn activate(&mut self) {
        if let Some(version) = self.wanted.filter(|v| self.staged.contains(v)) {
            self.active = Some(version);
            self.wanted = None;
        }
    }
}

impl World {
    pub(crate) fn start_server(&mut self, server: usize) {
        let node = self.students.len() + server;
        let s = &mut self.servers[server];
        s.peer.start();
        s.session = None;
        s.peer.detach();
        s.staged.clear();
        s.active = None;
        s.wanted = None;
        let life = s.peer.life;
        self.after(1, Event::Tick { node, life });
    }

    pub(crate) fn server_tick(&mut self, server: usize) {
        let node = self.students.len() + server;
        let s = &self.servers[server];
        let life = s.peer.life;
        let body = match &s.session {
            None => Body::Register(Registration {
                role: Role::TeacherServer,
                worker: s.peer.name.clone(),
                dataset_digest: "d".into(),
                address: s.peer.name.clone(),
                process: 0,
                attempt: 0,
                claim: None,
                floors: BTreeMap::new(),
            }),
            Some(session) if s.peer.is_attached() => Body::Beat(session.clone(), s.heartbeat(), self.now),
            Some(session) => Body::Attach(session.clone(), s.heartbeat()),
        };
        let busy = s
            .peer
            .waits_for(|b| matches!(b, Body::Register(_) | Body::Attach(..)));
        if !busy {
            self.call(node, body);
        }
        let heartbeat = self.setting.spec.heartbeat;
        self.after(heartbeat, Event::Tick { node, life });
    }

    pub(crate) fn server_reply(&mut self, server: usize, body: &Body, reply: Reply) {
        match reply {
            Reply::Admitted(admission) => self.server_admitted(server, *admission),
            Reply::Attached(stream) => {
                let s = &mut self.servers[server];
                if body.session() == s.session.as_ref() {
                    s.peer.opened(stream);
                }
            }
            Reply::Refused(Refused::Lost) => {
                let s = &mut self.servers[server];
                if body.session() == s.session.as_ref() {
                    s.session = None;
                    s.peer.detach();
                }
            }
            _ => {}
        }
    }

    fn server_admitted(&mut self, server: usize, admission: Admission) {
        let s = &mut self.servers[server];
        s.session = Some(admission.session);
        s.peer.detach();
        if s.teacher != admission.part {
            s.staged.clear();
            s.active = None;
        }
        s.teacher = admission.part;
        s.wanted = admission.active;
        s.activate();
        for version in admission.stage {
            self.stage(server, version);
        }
    }

    fn stage(&mut self, server: usize, version: u64) {
        let node = self.students.len() + server;
        let life = self.servers[server].peer.life;
        // Now and then a server takes longer over a version than anybody waits for it.
        let wait = match self.fails(30) {
            true => self.random.within(500..9_000),
            false => self.random.within(5..500),
        };
        self.after(wait, Event::Staged { node, life, version });
    }

    pub(crate) fn server_staged(&mut self, server: usize, version: u64) {
        let s = &mut self.servers[server];
        s.staged.insert(version);
        s.activate();
    }

    pub(crate) fn server_control(&mut self, server: usize, message: Message) {
        match message {
            Message::Stage(version) => self.stage(server, version),
            Message::Activate { version, keep_from } => {
                let s = &mut self.servers[server];
                s.wanted = Some(version);
                s.activate();
                s.staged.retain(|v| *v >= keep_from);
            }
            Message::Finish(_) => self.servers[server].session = None,
            _ => {}
        }
    }

    pub(crate) fn server_want(&mut self, server: usize, (node, life): (Node, u64), want: Want) {
        let stale = self.has(Plant::StaleFrame);
        let s = &self.servers[server];
        let made = match want.exact {
            Some(exact) => s.staged.contains(&exact).then_some(exact),
            None => s.active.filter(|a| *a >= want.floor && s.teacher == want.teacher),
        };
        let answer = made.map(|version| {
            let oldest = s.staged.first().copied().unwrap_or(version);
            let made_by = if stale { oldest.min(version) } else { version };
            (version, Frame { made_by })
        });
        let delay = self.delay() + 5;
        self.after(
            delay,
            Event::Frame {
                node,
                life,
                want,
                answer,
            },
        );
    }
}
