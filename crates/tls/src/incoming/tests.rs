use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tokio::io::AsyncReadExt;
use tokio_stream::StreamExt;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;

use super::*;
use crate::{Authority, Connector, Expected, Refused, write_folder};

const DAY: Duration = Duration::from_secs(86_400);
/// Far longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(60);

struct Fleet {
    dir: tempfile::TempDir,
    authority: Authority,
}

impl Fleet {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(&dir.path().join("ca"), SystemTime::now()).unwrap();
        Self { dir, authority }
    }

    fn folder(&self, role: Role, valid_from: SystemTime) -> PathBuf {
        let folder = self.dir.path().join(role.name());
        let issued = self.authority.issue(role, (valid_from, DAY)).unwrap();
        write_folder(&folder, &issued.files(self.authority.ca())).unwrap();
        folder
    }

    fn credentials(&self, role: Role) -> Credentials {
        Credentials::of(&self.folder(role, SystemTime::now()), role).unwrap()
    }
}

/// Listens on this machine, and greets every connection as an HTTP/2 server does: it speaks first.
async fn serve(security: Security) -> (SocketAddr, tokio::sync::mpsc::Receiver<Option<Role>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (roles, seen) = tokio::sync::mpsc::channel(16);
    let mut incoming = Incoming::new(listener, security);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut open = Vec::new();
        while let Some(Ok(mut connection)) = incoming.next().await {
            let role = match &connection {
                Connection::Tls { role, .. } => *role,
                Connection::Plaintext(_) => None,
            };
            let _ = connection.write_all(b"hello").await;
            let _ = connection.flush().await;
            open.push(connection);
            if roles.send(role).await.is_err() {
                return;
            }
        }
    });
    tasks.detach_all();
    (address, seen)
}

async fn connect(
    address: SocketAddr,
    credentials: Credentials,
    expected: impl Into<Expected>,
) -> Result<String, String> {
    let uri: Uri = format!("https://{address}").parse().unwrap();
    let connected = Connector::new(credentials, expected.into()).call(uri);
    let connected = tokio::time::timeout(LIMIT, connected).await.expect("in time");
    let mut stream = match connected {
        Ok(stream) => stream.into_inner(),
        Err(e) => {
            let refused = Refused::below(&*e).expect("distrust").to_string();
            return Err(refused);
        }
    };
    let mut greeting = [0; 5];
    stream.read_exact(&mut greeting).await.unwrap();
    Ok(String::from_utf8(greeting.to_vec()).unwrap())
}

#[tokio::test]
async fn both_ends_know_who_the_other_is() {
    let fleet = Fleet::new();
    let (address, mut seen) = serve(Security::Tls(fleet.credentials(Role::Coordinator))).await;
    for role in Role::ALL {
        let credentials = fleet.credentials(role);
        let greeting = connect(address, credentials, Role::Coordinator).await;
        assert_eq!(greeting.as_deref(), Ok("hello"), "{role}");
        assert_eq!(seen.recv().await, Some(Some(role)));
    }
    let trust = Credentials::read(&fleet.dir.path().join("ca")).unwrap();
    assert!(connect(address, trust, Expected::Anyone).await.is_ok());
    assert_eq!(seen.recv().await, Some(None), "no certificate, no role");
}

#[tokio::test]
async fn whoever_is_not_trusted_learns_why() {
    let (fleet, other) = (Fleet::new(), Fleet::new());
    let (address, _seen) = serve(Security::Tls(fleet.credentials(Role::Teacher))).await;
    let refused = |text: Result<String, String>, parts: &[&str]| {
        let text = text.unwrap_err();
        for part in parts {
            assert!(text.contains(part), "{part:?} is missing in: {text}");
        }
    };
    let student = || fleet.credentials(Role::Student);
    let port = address.to_string();
    refused(
        connect(address, student(), Role::Coordinator).await,
        &[&port, "is a teacher, expected a coordinator"],
    );
    refused(
        connect(address, other.credentials(Role::Student), Role::Teacher).await,
        &[&port, "cannot be trusted by", "ca.pem"],
    );
    // It trusts the server, and shows a certificate of another CA.
    let folder = other.folder(Role::Student, SystemTime::now());
    let stranger = Credentials::read(&folder).unwrap();
    let both = format!("{}{}", other.authority.ca(), fleet.authority.ca());
    std::fs::write(folder.join(crate::CA), both).unwrap();
    refused(
        connect(address, stranger, Role::Teacher).await,
        &[&port, "refuses the certificate in", "retort certs renew"],
    );
    let (plain, _greeted) = serve(Security::Plaintext).await;
    refused(
        connect(plain, student(), Role::Teacher).await,
        &["does not speak TLS", "--tls"],
    );
}

/// A certificate of an operator does not serve, whoever it is shown by.
#[tokio::test]
async fn who_only_calls_cannot_be_taken_for_a_server() {
    let fleet = Fleet::new();
    let (address, _seen) = serve(Security::Tls(fleet.credentials(Role::Operator))).await;
    let refused = connect(address, fleet.credentials(Role::Student), Expected::Anyone).await;
    let text = refused.unwrap_err();
    assert!(text.contains("cannot be trusted"), "{text}");
}

#[tokio::test]
async fn a_silent_connection_holds_up_nobody_and_is_dropped() {
    let fleet = Fleet::new();
    let security = Security::Tls(fleet.credentials(Role::Coordinator));
    let (address, mut seen) = serve(security.clone()).await;
    let _silent = TcpStream::connect(address).await.unwrap();
    let greeting = connect(address, fleet.credentials(Role::Student), Role::Coordinator).await;
    assert!(greeting.is_ok(), "{greeting:?}");
    assert_eq!(seen.recv().await, Some(Some(Role::Student)));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let mut impatient = Incoming::new(listener, security);
    impatient.limit = Duration::from_millis(50);
    let mut byte = [0; 1];
    tokio::select! {
        _ = impatient.next() => panic!("there was no handshake"),
        read = silent.read(&mut byte) => assert_eq!(read.unwrap(), 0, "it was closed"),
    }
}

#[tokio::test]
async fn new_connections_use_what_the_files_say_now() {
    let fleet = Fleet::new();
    let credentials = fleet.credentials(Role::Coordinator);
    let server_folder: &Path = credentials.dir();
    let (address, _seen) = serve(Security::Tls(credentials.clone())).await;
    let student = fleet.credentials(Role::Student);
    assert!(connect(address, student.clone(), Role::Coordinator).await.is_ok());

    // Another CA takes over on the server: the student's certificate is a stranger's from now on.
    let next = Fleet::new();
    let issued = next
        .authority
        .issue(Role::Coordinator, (SystemTime::now(), DAY))
        .unwrap();
    write_folder(server_folder, &issued.files(next.authority.ca())).unwrap();
    let refused = connect(address, student.clone(), Role::Coordinator).await;
    assert!(refused.unwrap_err().contains("cannot be trusted"));

    // And on the student: the same process connects again.
    let issued = next
        .authority
        .issue(Role::Student, (SystemTime::now(), DAY))
        .unwrap();
    write_folder(student.dir(), &issued.files(next.authority.ca())).unwrap();
    let again = connect(address, student, Role::Coordinator).await;
    assert!(again.is_ok(), "{again:?}");
}
