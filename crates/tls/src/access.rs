//! Which role may call which method: one table, held by one layer on every server.

use std::future::{Ready, ready};
use std::task::{Context, Poll};
use std::time::SystemTime;

use futures_util::future::Either;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{self, Request, Response};
use tonic::{Code, Status};
use tower_layer::Layer;
use tracing::warn;

use crate::token::{self, Purpose, Token};
use crate::{Credentials, Peer, Role};

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Whoever completed the handshake.
    Anyone,
    /// By certificate or token.
    Roles(&'static [Role]),
    /// By certificate, whatever it says: its holder asks for another one like it.
    Certificate,
    /// By a token for joining.
    Joining,
}

use Role::{Observer, Operator, Student, Teacher};

const WORKERS: Who = Who::Roles(&[Teacher, Student]);
const STUDENTS: Who = Who::Roles(&[Student]);
const OPERATORS: Who = Who::Roles(&[Operator]);
const READERS: Who = Who::Roles(&[Operator, Observer]);

/// All methods. Whatever is not here nobody may call; a test finds what is missing.
pub const TABLE: &[(&str, Who)] = &[
    ("/retort.v1.Fleet/NextRun", WORKERS),
    ("/retort.v1.Fleet/Register", WORKERS),
    ("/retort.v1.Fleet/Control", WORKERS),
    ("/retort.v1.Fleet/Leave", WORKERS),
    ("/retort.v1.Fleet/Lease", STUDENTS),
    ("/retort.v1.Fleet/Release", STUDENTS),
    ("/retort.v1.Fleet/Reject", STUDENTS),
    ("/retort.v1.Fleet/Fail", STUDENTS),
    ("/retort.v1.Join/Join", Who::Joining),
    ("/retort.v1.Join/Renew", Who::Certificate),
    ("/retort.v1.Reduce/Contribute", STUDENTS),
    ("/retort.v1.Runs/Submit", OPERATORS),
    ("/retort.v1.Runs/Stop", OPERATORS),
    ("/retort.v1.Runs/Pause", OPERATORS),
    ("/retort.v1.Runs/Resume", OPERATORS),
    ("/retort.v1.Runs/Drain", OPERATORS),
    ("/retort.v1.Runs/Retune", OPERATORS),
    ("/retort.v1.Runs/KeepReport", OPERATORS),
    // A student asks how its run is, to leave when it has ended (--once).
    (
        "/retort.v1.Status/GetRun",
        Who::Roles(&[Student, Operator, Observer]),
    ),
    ("/retort.v1.Status/ListRuns", READERS),
    ("/retort.v1.Status/WatchRun", READERS),
    ("/retort.v1.Status/ListTeachers", READERS),
    ("/retort.v1.Status/ListStudents", READERS),
    ("/retort.v1.Teacher/Distill", STUDENTS),
    (
        "/retort.v1.Teacher/Describe",
        Who::Roles(&[Student, Operator, Observer]),
    ),
    // A student publishes its group's state, an operator brings a fixed teacher; the service tells them apart.
    ("/retort.v1.Versions/Publish", Who::Roles(&[Student, Operator])),
    (
        "/retort.v1.Versions/Fetch",
        Who::Roles(&[Teacher, Student, Operator]),
    ),
    ("/retort.v1.Versions/List", OPERATORS),
];

/// Services that say what a server is, and nothing of its runs.
const OPEN: [&str; 3] = [
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
];

/// Who may call the method with this path; `None`: nobody.
pub fn who(path: &str) -> Option<Who> {
    let listed = TABLE.iter().find(|(method, _)| *method == path);
    let open = || OPEN.iter().any(|service| path.starts_with(service));
    listed
        .map(|(_, who)| *who)
        .or_else(|| open().then_some(Who::Anyone))
}

/// Who calls; in the extensions of every request that came over TLS.
#[derive(Debug, Clone)]
pub struct Caller {
    pub role: Role,
    pub means: Means,
}

/// What proved the role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Means {
    Certificate,
    Token(Token),
}

impl Caller {
    /// Who calls, if that is known: in plain text nobody is.
    pub fn of<T>(request: &tonic::Request<T>) -> Option<Self> {
        request.extensions().get().cloned()
    }
}

/// The layer. Without credentials it lets everybody pass: there is nobody to ask.
#[derive(Debug, Clone)]
pub struct Guard {
    credentials: Option<Credentials>,
}

impl Guard {
    pub(crate) fn new(credentials: Option<Credentials>) -> Self {
        Self { credentials }
    }

    /// Lets a request pass, with its caller where it has one.
    fn admit<B>(&self, request: &Request<B>) -> Result<Option<Caller>, Status> {
        let Some(credentials) = &self.credentials else {
            return Ok(None);
        };
        let method = request.uri().path();
        let who = who(method)
            .ok_or_else(|| Status::permission_denied(format!("{}: nobody may call it", named(method))))?;
        if who == Who::Anyone {
            return Ok(None);
        }
        // Files are looked at for those only who bring a token.
        let key = bearer(request).and_then(|_| credentials.current().tokens.clone());
        judge(method, who, callers(request, key.as_ref(), SystemTime::now())?).map(Some)
    }
}

/// Those that a request may be taken as: the holder of a certificate, and of a token.
fn callers<B>(
    request: &Request<B>,
    key: Option<&token::Key>,
    now: SystemTime,
) -> Result<Vec<Caller>, Status> {
    let mut callers = Vec::new();
    if let Some(role) = request.extensions().get::<Peer>().and_then(|peer| peer.role) {
        let means = Means::Certificate;
        callers.push(Caller { role, means });
    }
    if let Some(text) = bearer(request) {
        let key = key.ok_or_else(|| {
            Status::unauthenticated("this server takes no tokens: only one with a token.key does")
        })?;
        let token = key
            .verify(text, now)
            .map_err(|e| Status::unauthenticated(e.to_string()))?;
        callers.push(Caller {
            role: token.role,
            means: Means::Token(token),
        });
    }
    Ok(callers)
}

fn bearer<B>(request: &Request<B>) -> Option<&str> {
    let value = request.headers().get(http::header::AUTHORIZATION)?;
    Some(
        value
            .to_str()
            .unwrap_or_default()
            .trim_start_matches("Bearer ")
            .trim(),
    )
}

fn judge(method: &str, who: Who, callers: Vec<Caller>) -> Result<Caller, Status> {
    if callers.is_empty() {
        return Err(Status::unauthenticated(format!(
            "{}: no certificate and no token; --tls DIR names a folder with cert.pem and key.pem",
            named(method)
        )));
    }
    let may = |caller: &Caller| match (who, &caller.means) {
        (Who::Anyone, _) => true,
        (Who::Roles(roles), Means::Certificate) => roles.contains(&caller.role),
        (Who::Roles(roles), Means::Token(token)) => {
            token.purpose == Purpose::Access && roles.contains(&caller.role)
        }
        (Who::Certificate, means) => *means == Means::Certificate,
        (Who::Joining, Means::Token(token)) => token.purpose == Purpose::Join,
        (Who::Joining, Means::Certificate) => false,
    };
    let is: Vec<String> = callers.iter().map(described).collect();
    callers.into_iter().find(may).ok_or_else(|| {
        let needed = match who {
            Who::Anyone => "anyone".to_owned(),
            Who::Roles(roles) => {
                let roles: Vec<&str> = roles.iter().map(|r| r.name()).collect();
                roles.join(" or ")
            }
            Who::Certificate => "a certificate".to_owned(),
            Who::Joining => "a token for joining".to_owned(),
        };
        let (method, is) = (named(method), is.join(" and "));
        Status::new(
            Code::PermissionDenied,
            format!("{method} needs {needed}; the caller is {is}"),
        )
    })
}

fn described(caller: &Caller) -> String {
    match &caller.means {
        Means::Certificate => format!("{} by certificate", caller.role),
        Means::Token(token) => match token.purpose {
            Purpose::Access => format!("{} by token", caller.role),
            Purpose::Join => format!("the holder of a token for joining as {}", caller.role),
        },
    }
}

/// A method as people write it: without the slash at its beginning.
fn named(method: &str) -> &str {
    method.trim_start_matches('/')
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        let guard = self.clone();
        Guarded { inner, guard }
    }
}

/// A service whose calls are held against the table.
#[derive(Debug, Clone)]
pub struct Guarded<S> {
    inner: S,
    guard: Guard,
}

impl<S, B> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<Ready<Result<Self::Response, S::Error>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self.guard.admit(&request) {
            Ok(caller) => {
                if let Some(caller) = caller {
                    request.extensions_mut().insert(caller);
                }
                Either::Right(self.inner.call(request))
            }
            Err(status) => {
                let peer = request.extensions().get::<Peer>().and_then(|peer| peer.address);
                let from = peer.map_or("somebody".to_owned(), |address| address.to_string());
                warn!(from, "denied: {}", status.message());
                Either::Left(ready(Ok(status.into_http())))
            }
        }
    }
}

#[cfg(test)]
mod tests;
