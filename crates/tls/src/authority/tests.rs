use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::Credentials;

const DAY: Duration = Duration::from_secs(86_400);

#[test]
fn a_key_is_signed_for_whoever_holds_it_with_the_role_that_was_chosen() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(&dir.path().join("ca"), SystemTime::now()).unwrap();
    let (proof, key) = Proof::create().unwrap();
    let times = (SystemTime::now(), DAY);
    let certificate = authority.sign(&proof, Role::Student, times).unwrap();
    let own = dir.path().join("own");
    let files = [(CA, authority.ca()), (KEY, &key), (CERTIFICATE, &certificate)];
    write_folder(&own, &files).unwrap();
    assert_eq!(Credentials::read(&own).unwrap().role(), Some(Role::Student));

    let (other, _) = Proof::create().unwrap();
    let stolen = Proof {
        public_key: other.public_key.clone(),
        signature: proof.signature.clone(),
    };
    let nothing = Proof {
        public_key: Vec::new(),
        signature: Vec::new(),
    };
    let short = Proof {
        public_key: proof.public_key[1..].to_vec(),
        signature: proof.signature,
    };
    for bad in [stolen, nothing, short] {
        let refused = authority.sign(&bad, Role::Student, times);
        assert!(matches!(refused, Err(Refusal::Proof)), "{refused:?}");
    }
}

#[test]
fn a_key_that_is_not_the_cas_signs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    Authority::create(&a, SystemTime::now()).unwrap();
    Authority::create(&b, SystemTime::now()).unwrap();
    assert!(Authority::read(&a).is_ok());
    std::fs::copy(b.join(CA_KEY), a.join(CA_KEY)).unwrap();
    let refused = Authority::read(&a).unwrap_err();
    assert!(matches!(refused, Refusal::OtherCa { .. }), "{refused}");
    std::fs::write(a.join(CA_KEY), "no key").unwrap();
    let refused = Authority::read(&a).unwrap_err();
    assert!(refused.to_string().contains("ca-key.pem"), "{refused}");
    std::fs::remove_file(a.join(CA_KEY)).unwrap();
    let refused = Authority::read(&a).unwrap_err();
    assert!(refused.to_string().contains("ca-key.pem"), "{refused}");
}

#[test]
fn nobody_else_can_read_a_key() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("ca");
    Authority::create(&folder, SystemTime::now()).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(&folder.join(CA_KEY)), 0o600);
    // What others could read before is replaced, not written over.
    std::fs::set_permissions(folder.join(CA_KEY), PermissionsExt::from_mode(0o644)).unwrap();
    write_folder(&folder, &[(CA_KEY, "new")]).unwrap();
    assert_eq!(mode(&folder.join(CA_KEY)), 0o600);
}
