//! Row 17: a publisher that breaks off, sends what it did not announce, or has a rival. No partial version can be
//! seen, and of two that publish the same version exactly one wins.

#![expect(clippy::unwrap_used, reason = "a helper that fails, fails its scenario")]

use bytes::Bytes;
use retort_client::Channel;
use retort_proto::pb;
use retort_tests::Harness;
use retort_tests::standing::Standing;
use tonic::{Code, Status};

const JOB: &str = r#"
[run]
name = "fixed"
epochs = 1
[dataset]
name = "digits"
[[teachers]]
name = "wide"
source = { kind = "checkpoint", path = "elsewhere" }
[[students]]
name = "small"
model = { architecture = "mlp", hidden = [8] }
teachers = [{ name = "wide" }]
"#;

const FILE: &str = "model.safetensors";

/// A run that waits for its fixed teacher.
async fn submitted(channel: Channel) -> String {
    let request = pb::SubmitRequest {
        job_toml: JOB.to_owned(),
        positions: 1_297,
        dataset_digest: "a".repeat(64),
        ..Default::default()
    };
    let reply = retort_client::runs(channel).submit(request).await.unwrap();
    reply.into_inner().run
}

fn by(run: &str) -> pb::publish_header::By {
    pb::publish_header::By::Teacher(pb::ProvidedTeacher {
        run: run.to_owned(),
        teacher: "wide".to_owned(),
    })
}

async fn published(channel: &Channel, run: &str) -> Vec<u64> {
    let request = pb::ListVersionsRequest {
        run: run.to_owned(),
        group: "wide".to_owned(),
    };
    let list = retort_client::versions(channel.clone())
        .list(request)
        .await
        .unwrap();
    list.into_inner().versions.iter().map(|v| v.version).collect()
}

/// An upload that announces `announced` and sends `sent`.
async fn upload(channel: &Channel, run: &str, announced: &[u8], sent: &'static [u8]) -> Result<u64, Status> {
    use pb::publish_request::Part;
    let header = pb::PublishHeader {
        by: Some(by(run)),
        files: vec![pb::FileHeader {
            name: FILE.to_owned(),
            bytes: announced.len() as u64,
            blake3: blake3::hash(announced).to_hex().to_string(),
        }],
        held_out: None,
    };
    let parts = [Part::Header(header), Part::Chunk(Bytes::from_static(sent))];
    let messages = parts.map(|part| pb::PublishRequest { part: Some(part) });
    let mut versions = retort_client::versions(channel.clone());
    let reply = versions.publish(tokio_stream::iter(messages)).await?;
    Ok(reply.into_inner().version)
}

#[test]
fn a_broken_upload_is_invisible_and_one_of_two_publishers_wins() {
    let h = Harness::new(env!("CARGO_BIN_EXE_retort-harness"));
    let fleet = Standing::new(h, 0, 0);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let channel = retort_client::reach(&fleet.coordinator).await.unwrap();
        let run = submitted(channel.clone()).await;
        let whole = b"weights, as they were announced";

        let cut = upload(&channel, &run, whole, b"weights, as").await.unwrap_err();
        assert_eq!(cut.code(), Code::InvalidArgument, "{cut}");
        assert!(cut.message().contains("ends after 11 of 31 bytes"), "{cut}");
        let changed = upload(&channel, &run, whole, b"weights, as they were changed..").await;
        let changed = changed.unwrap_err();
        assert!(changed.message().contains("arrived with hash"), "{changed}");
        let more = upload(&channel, &run, b"few", b"few and more").await.unwrap_err();
        assert!(more.message().contains("more bytes"), "{more}");
        assert_eq!(published(&channel, &run).await, [0u64; 0], "nothing can be seen");

        let rivals = [b"the weights of the first", b"the weights of a second!"];
        let publish = rivals.map(|weights| {
            let files = vec![(FILE.to_owned(), Bytes::from_static(weights))];
            let (channel, by) = (channel.clone(), by(&run));
            async move {
                let mut versions = retort_client::versions(channel);
                retort_client::publish(&mut versions, by, None, files).await
            }
        });
        let [first, second] = publish;
        let results = tokio::join!(first, second);
        let (winner, loser) = match results {
            (Ok(0), Err(lost)) => (rivals[0], lost),
            (Err(lost), Ok(0)) => (rivals[1], lost),
            other => panic!("{other:?}"),
        };
        assert_eq!(loser.code(), Code::InvalidArgument, "{loser}");
        assert!(loser.message().contains("was provided before"), "{loser}");
        assert_eq!(published(&channel, &run).await, [0]);
        let mut versions = retort_client::versions(channel.clone());
        let fetched = retort_client::fetch(&mut versions, (&run, "wide"), None, FILE)
            .await
            .unwrap();
        assert_eq!(
            fetched.bytes.as_ref(),
            winner,
            "all of the winner's, none of the other's"
        );
        // And a repeated upload is refused, not taken for another version.
        let again = upload(&channel, &run, whole, whole).await.unwrap_err();
        assert!(again.message().contains("was provided before"), "{again}");
    });
}
