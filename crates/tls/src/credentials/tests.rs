use std::time::{Duration, SystemTime};

use super::*;
use crate::{Authority, write_folder};

const DAY: Duration = Duration::from_secs(86_400);

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

    fn folder(&self, name: &str, role: Role, now: SystemTime) -> PathBuf {
        let folder = self.dir.path().join(name);
        let issued = self.authority.issue(role, (now, DAY)).unwrap();
        write_folder(&folder, &issued.files(self.authority.ca())).unwrap();
        folder
    }
}

fn refused(folder: &Path, parts: &[&str]) {
    let text = Credentials::of(folder, Role::Teacher).unwrap_err().to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
}

#[test]
fn a_folder_is_refused_with_the_file_and_the_reason() {
    let fleet = Fleet::new();
    let now = SystemTime::now();
    let good = fleet.folder("good", Role::Teacher, now);
    assert_eq!(
        Credentials::of(&good, Role::Teacher).unwrap().role(),
        Some(Role::Teacher)
    );
    let student = fleet.folder("student", Role::Student, now);
    refused(
        &student,
        &["student/cert.pem", "of a student", "one of a teacher"],
    );
    let expired = fleet.folder("expired", Role::Teacher, now - 2 * DAY);
    refused(&expired, &["expired/cert.pem", "expired", "retort certs issue"]);
    let early = fleet.folder("early", Role::Teacher, now + DAY);
    refused(&early, &["early/cert.pem", "not valid yet"]);
    let other = Fleet::new();
    let stranger = fleet.folder("stranger", Role::Teacher, now);
    std::fs::write(stranger.join(CA), other.authority.ca()).unwrap();
    refused(&stranger, &["stranger/cert.pem", "ca.pem"]);
    let mixed = fleet.folder("mixed", Role::Teacher, now);
    std::fs::copy(good.join(KEY), mixed.join(KEY)).unwrap();
    refused(&mixed, &["mixed/key.pem"]);
    for (name, text, part) in [
        (CA, "nothing", "a certificate"),
        (CERTIFICATE, "nothing", "a certificate"),
        (KEY, "nothing", "a private key"),
        (TOKEN_KEY, "nothing", "no token key"),
    ] {
        let broken = fleet.folder("broken", Role::Teacher, now);
        std::fs::write(broken.join(name), text).unwrap();
        refused(&broken, &[name, part]);
        std::fs::remove_dir_all(&broken).unwrap();
    }
    for name in [CA, CERTIFICATE, KEY] {
        let lacking = fleet.folder("lacking", Role::Teacher, now);
        std::fs::remove_file(lacking.join(name)).unwrap();
        refused(&lacking, &[name, "retort certs init"]);
    }
    let trust = fleet.dir.path().join("ca");
    refused(&trust, &["cert.pem"]);
    assert_eq!(Credentials::read(&trust).unwrap().role(), None);
}

#[test]
fn changed_files_are_read_and_broken_ones_are_not() {
    let fleet = Fleet::new();
    let now = SystemTime::now();
    let folder = fleet.folder("own", Role::Teacher, now);
    let credentials = Credentials::of(&folder, Role::Teacher).unwrap();
    let first = credentials.current();
    assert!(Arc::ptr_eq(&first, &credentials.current()), "nothing changed");

    fleet.folder("own", Role::Teacher, now);
    let second = credentials.current();
    assert!(!Arc::ptr_eq(&first, &second), "it was read again");

    std::fs::write(folder.join(CERTIFICATE), "half").unwrap();
    assert!(
        Arc::ptr_eq(&second, &credentials.current()),
        "the former one stays"
    );
    std::fs::remove_file(folder.join(CA)).unwrap();
    assert!(Arc::ptr_eq(&second, &credentials.current()));
    fleet.folder("own", Role::Student, now);
    assert_eq!(credentials.role(), Some(Role::Teacher), "a role does not change");

    fleet.folder("own", Role::Teacher, now);
    let third = credentials.current();
    assert!(!Arc::ptr_eq(&second, &third));
    assert!(
        Arc::ptr_eq(&third, &credentials.clone().current()),
        "clones share it"
    );
}
