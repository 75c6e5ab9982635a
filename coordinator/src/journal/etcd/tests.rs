mod server;

use std::path::Path;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use retort_client::Dialer;
use tokio_util::sync::CancellationToken;

use self::server::Server;
use super::*;

fn place(server: &Server, name: &str) -> Place {
    Place {
        endpoints: vec!["http://127.0.0.1:1".into(), server.address()],
        dialer: Dialer::plaintext(),
        prefix: "test/fleet".into(),
        name: name.into(),
    }
}

async fn lead(server: &Server, name: &str) -> Leadership {
    let won = Leadership::win(&place(server, name), &CancellationToken::new()).await;
    won.unwrap().expect("nobody cancels it")
}

fn batch(changes: impl IntoIterator<Item = (&'static str, Option<&'static str>)>) -> Batch {
    let own = |(key, value): (&str, Option<&str>)| (key.to_owned(), value.map(|v| v.as_bytes().to_vec()));
    changes.into_iter().map(own).collect()
}

/// More than a transaction takes, in keys and in bytes.
fn large() -> Batch {
    let record = |i: usize| (format!("run/r/{i:04}"), Some(vec![b'0' + (i % 10) as u8; 9_000]));
    (0..700).map(record).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_there_for_the_next_leader() {
    let Some(server) = Server::start() else { return };
    let first = lead(&server, "a").await;
    let mut journal = EtcdJournal::new(&first);
    assert!(journal.load().unwrap().is_empty());
    journal
        .write(&batch([("a", Some("1")), ("b", Some("2"))]))
        .unwrap();
    journal.write(&batch([("a", None), ("b", Some("3"))])).unwrap();
    let token = CancellationToken::new();
    token.cancel();
    first.keep(token).await.unwrap();
    let all = EtcdJournal::new(&lead(&server, "b").await).load().unwrap();
    assert_eq!(
        all.into_iter().collect::<Vec<_>>(),
        [("b".to_owned(), b"3".to_vec())]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_beyond_one_transaction_is_written_whole() {
    let Some(server) = Server::start() else { return };
    let leadership = lead(&server, "a").await;
    let mut journal = EtcdJournal::new(&leadership);
    let mut expected: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for (key, value) in large() {
        expected.insert(key, value.unwrap());
    }
    journal.write(&large()).unwrap();
    assert_eq!(journal.load().unwrap(), expected);
    // One that was durable when its leader died, and of which no record was brought to its place.
    let mut next = large();
    next.insert("run/r/0003".into(), None);
    next.insert("meta/clock".into(), Some(b"7".to_vec()));
    journal.wait(async |j| j.lay_down(&next).await).unwrap();
    expected.remove("run/r/0003");
    expected.insert("meta/clock".into(), b"7".to_vec());
    assert_eq!(EtcdJournal::new(&leadership).load().unwrap(), expected);
    assert_eq!(
        EtcdJournal::new(&leadership).load().unwrap(),
        expected,
        "nothing is left to do"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_etcd_cannot_take_is_named() {
    let Some(server) = Server::start() else { return };
    let mut journal = EtcdJournal::new(&lead(&server, "a").await);
    let refused = journal
        .write(&Batch::from([("big".into(), Some(vec![0; BYTES]))]))
        .unwrap_err();
    assert!(matches!(&refused, Error::TooLarge { key, .. } if key == "big") && refused.is_final());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_lease_ended_writes_nothing_more() {
    let Some(server) = Server::start() else { return };
    let first = lead(&server, "a").await;
    let mut deposed = EtcdJournal::new(&first);
    deposed.write(&batch([("k", Some("1"))])).unwrap();
    // Nobody renews it, as if its process stood still: the next leads once it has ended.
    let second = lead(&server, "b").await;
    let mut journal = EtcdJournal::new(&second);
    let refused = deposed.write(&batch([("k", Some("late"))])).unwrap_err();
    assert!(
        matches!(refused, Error::Deposed) && refused.is_final(),
        "{refused}"
    );
    assert_eq!(journal.load().unwrap()["k"], b"1");
    let lost = first.keep(CancellationToken::new()).await.unwrap_err();
    assert!(
        lost.to_string().contains("another coordinator may lead"),
        "{lost}"
    );
    journal.write(&batch([("k", Some("2"))])).unwrap();
    assert_eq!(journal.load().unwrap()["k"], b"2");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_etcd_is_away_nothing_is_written_and_afterwards_all_goes_on() {
    let Some(mut server) = Server::start() else { return };
    let leadership = lead(&server, "a").await;
    let mut journal = EtcdJournal::new(&leadership);
    journal.write(&batch([("k", Some("1"))])).unwrap();
    server.down();
    let refused = journal.write(&batch([("k", Some("2"))])).unwrap_err();
    assert!(
        refused.to_string().contains(&server.address()) && !refused.is_final(),
        "{refused}"
    );
    assert!(server.up());
    journal.write(&batch([("k", Some("2"))])).unwrap();
    assert_eq!(journal.load().unwrap()["k"], b"2");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_stands_by_stops_when_it_is_told_to() {
    let Some(server) = Server::start() else { return };
    let _leader = lead(&server, "a").await;
    let token = CancellationToken::new();
    token.cancel();
    let won = Leadership::win(&place(&server, "b"), &token).await.unwrap();
    assert!(won.is_none());
}

/// A CA of etcd's own, a member's certificate for 127.0.0.1 (or another name), and a client's.
fn certificates(dir: &Path, member: &str) {
    let write = |name: &str, text: String| std::fs::write(dir.join(name), text).unwrap();
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    write("ca.pem", ca.self_signed(&ca_key).unwrap().pem());
    let issuer = Issuer::new(ca, ca_key);
    let uses = [
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    for (certificate, key_file, names) in [
        ("server.pem", "server.key", vec![member.to_owned()]),
        ("cert.pem", "key.pem", Vec::new()),
    ] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = uses.to_vec();
        write(certificate, params.signed_by(&key, &issuer).unwrap().pem());
        write(key_file, key.serialize_pem());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_encrypts_is_spoken_to_by_its_own_cas_certificates() {
    let [good, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    certificates(good.path(), "127.0.0.1");
    certificates(other.path(), "127.0.0.1");
    let Some(server) = Server::with(Some(good.path().to_owned())) else {
        return;
    };
    let place = |dir: &Path| Place {
        endpoints: vec![server.address()],
        dialer: Dialer::foreign(dir).unwrap(),
        prefix: "test".into(),
        name: "a".into(),
    };
    let token = CancellationToken::new();
    let leads = Leadership::win(&place(good.path()), &token).await.unwrap();
    let leads = leads.expect("nobody cancels it");
    let mut journal = EtcdJournal::new(&leads);
    journal.write(&batch([("a", Some("1"))])).unwrap();
    assert_eq!(journal.load().unwrap().len(), 1);
    // Neither side trusts another CA's certificates; no leadership comes of it, however long one waits.
    let distrusted = place(other.path());
    let stranger = Leadership::win(&distrusted, &token);
    assert!(
        tokio::time::timeout(Duration::from_secs(2), stranger)
            .await
            .is_err()
    );
    // A client without a certificate is refused by the server.
    std::fs::remove_file(good.path().join("cert.pem")).unwrap();
    std::fs::remove_file(good.path().join("key.pem")).unwrap();
    let nameless = place(good.path());
    let nobody = Leadership::win(&nameless, &token);
    assert!(
        tokio::time::timeout(Duration::from_secs(2), nobody)
            .await
            .is_err()
    );
}
