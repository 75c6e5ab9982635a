use std::sync::mpsc as channel;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use retort_coordinator_core::ids::Role;
use retort_coordinator_core::lease::Answer;
use retort_coordinator_core::run::{Admission, Registration, Rejected, State};
use retort_proto::pb;
use retort_proto::pb::runs_server::Runs as _;
use retort_runtime::{OnError, TaskGroup};
use tonic::{Code, Request};

use retort_coordinator_core::manifest::Manifest;

use super::*;
use crate::journal::FileJournal;
use crate::services::RunsService;
use crate::store::{Error, FolderShelf, Shelf, Upload};
use crate::watchers::tests::JOB;

/// A store that writes a manifest only when it is let.
#[derive(Debug)]
struct Slow {
    shelf: FolderShelf,
    begun: channel::Sender<()>,
    let_go: Arc<Mutex<channel::Receiver<()>>>,
}

#[derive(Debug)]
struct SlowUpload {
    upload: Box<dyn Upload>,
    begun: channel::Sender<()>,
    let_go: Arc<Mutex<channel::Receiver<()>>>,
}

type Group<'a> = (&'a str, &'a str);

impl Shelf for Slow {
    fn stage(&self, run: &str, id: u64, files: &[(String, Bytes)]) -> Result<Box<dyn Upload>, Error> {
        Ok(Box::new(SlowUpload {
            upload: self.shelf.stage(run, id, files)?,
            begun: self.begun.clone(),
            let_go: self.let_go.clone(),
        }))
    }

    fn versions(&self, group: Group<'_>) -> Result<Vec<u64>, Error> {
        self.shelf.versions(group)
    }

    fn manifest(&self, group: Group<'_>, version: u64) -> Result<Option<Bytes>, Error> {
        self.shelf.manifest(group, version)
    }

    fn file(&self, group: Group<'_>, manifest: &Manifest, name: &str) -> Result<Option<Bytes>, Error> {
        self.shelf.file(group, manifest, name)
    }

    fn put_aside(&self, group: Group<'_>, version: u64, why: &str) -> Result<(), Error> {
        self.shelf.put_aside(group, version, why)
    }

    fn prune(&self, group: Group<'_>, keep_from: u64) {
        self.shelf.prune(group, keep_from);
    }

    fn keep_report(&self, run: &str, page: Bytes) -> Result<(), Error> {
        self.shelf.keep_report(run, page)
    }

    fn report(&self, run: &str) -> Result<Option<Bytes>, Error> {
        self.shelf.report(run)
    }
}

impl Upload for SlowUpload {
    fn at(&self, name: &str) -> Option<String> {
        self.upload.at(name)
    }

    fn publish(&self, manifest: &Manifest, bytes: &Bytes) -> Result<(), Error> {
        let _ = self.begun.send(());
        let _ = self.let_go.lock().map(|let_go| let_go.recv());
        self.upload.publish(manifest, bytes)
    }
}

fn submission(job: &str) -> Request<pb::SubmitRequest> {
    Request::new(pb::SubmitRequest {
        run: "r".into(),
        job_toml: job.into(),
        positions: 128,
        dataset_digest: "0".repeat(64),
        ..Default::default()
    })
}

/// A coordinator with one run of one group.
async fn brain(store: Store, dir: &std::path::Path) -> (Handle, CancellationToken) {
    let token = CancellationToken::new();
    let journal = Box::new(FileJournal::open(dir).unwrap());
    let (handle, thinking) = start(store, journal, token.clone()).unwrap();
    TaskGroup::new(token.clone()).spawn("brain", OnError::Shutdown, thinking);
    let runs = RunsService {
        brain: handle.clone(),
    };
    runs.submit(submission(JOB)).await.unwrap();
    (handle, token)
}

async fn join(brain: &Handle) -> Admission {
    let registration = Registration {
        role: Role::StudentWorker,
        worker: "w".into(),
        dataset_digest: "0".repeat(64),
        address: String::new(),
        process: 1,
        attempt: 1,
        claim: None,
        floors: std::collections::BTreeMap::new(),
    };
    let register = |brain: &mut Brain| {
        let now = brain.now();
        brain.entry("r").unwrap().run.register(registration, now).unwrap()
    };
    brain.ask(register).await.unwrap()
}

/// Row 24: a store that takes its time holds up the version alone.
#[tokio::test(flavor = "multi_thread")]
async fn all_else_goes_on_while_a_manifest_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (begun, writing) = channel::channel();
    let (let_go, gate) = channel::channel();
    let store = Store::new(Slow {
        shelf: FolderShelf::open(dir.path()).unwrap(),
        begun,
        let_go: Arc::new(Mutex::new(gate)),
    });
    let (handle, token) = brain(store.clone(), dir.path()).await;
    let session = join(&handle).await.session;
    let staged = store.stage(("r", 1), &[]).unwrap();
    let at = (session.clone(), 0, 0);
    let state = |brain: &mut Brain| {
        let run = &brain.entry("r").unwrap().run;
        (run.state().0, run.groups()[0].version())
    };
    let publishing = handle.ask_for(move |b, reply| b.commit_round(at, staged, None, reply));
    let meanwhile = async {
        tokio::task::spawn_blocking(move || writing.recv())
            .await
            .unwrap()
            .unwrap();
        // Decisions are made and told, durable ones too.
        let pause = |brain: &mut Brain| {
            let now = brain.now();
            brain.entry("r").unwrap().run.pause(now).map_err(refusal)
        };
        handle.ask(pause).await.unwrap().unwrap();
        assert_eq!(handle.peek(state).await.unwrap(), (State::Paused, None));
        // The same version is not written twice.
        let again = store.stage(("r", 2), &[]).unwrap();
        let at = (session, 0, 0);
        let refused = handle
            .ask_for(move |b, reply| b.commit_round(at, again, None, reply))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        let_go.send(()).unwrap();
    };
    let (published, ()) = tokio::join!(publishing, meanwhile);
    assert_eq!(published.unwrap(), 0);
    assert_eq!(handle.peek(state).await.unwrap(), (State::Paused, Some(0)));
    token.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_a_run_does_not_have_lead_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(FolderShelf::open(dir.path()).unwrap());
    let (handle, token) = brain(store, dir.path()).await;
    for (run, name, found) in [
        ("r", "small", true),
        ("r", "../small", false),
        ("r", "", false),
        ("../r", "small", false),
        ("/etc", "small", false),
    ] {
        let files = move |brain: &mut Brain| brain.files_of(run, name).map(|(_, run, name)| (run, name));
        let files = handle.peek(files).await.unwrap();
        match found {
            true => assert_eq!(files.unwrap(), ("r".to_owned(), "small".to_owned())),
            false => assert_eq!(files.unwrap_err().code(), Code::NotFound, "{run} {name}"),
        }
    }
    token.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_job_under_the_same_id_is_the_same_run() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(FolderShelf::open(dir.path()).unwrap());
    let (handle, token) = brain(store, dir.path()).await;
    let runs = RunsService { brain: handle };
    let again = runs.submit(submission(JOB)).await.unwrap();
    assert_eq!(again.into_inner().run, "r");
    let other = JOB.replace("epochs = 1", "epochs = 2");
    let refused = runs.submit(submission(&other)).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
    token.cancel();
}

/// A control stream tells all quarantined samples at its beginning, however many there are.
#[tokio::test(flavor = "multi_thread")]
async fn a_control_stream_has_room_for_all_that_it_begins_with() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(FolderShelf::open(dir.path()).unwrap());
    let (handle, token) = brain(store, dir.path()).await;
    let session = join(&handle).await.session;
    let attached = move |brain: &mut Brain| {
        let now = brain.now();
        let entry = brain.entry("r").unwrap();
        let mut bad = 0;
        for sequence in 1.. {
            let answer = entry.run.lease(&session, (sequence, sequence - 1), now).unwrap();
            let Answer::Granted { epoch, positions, .. } = answer else {
                break;
            };
            for position in positions {
                let rejected = Rejected {
                    epoch,
                    position,
                    sample: position as u32,
                    reason: "damaged".into(),
                };
                entry.run.reject(&session, &rejected, now).unwrap();
                bad += 1;
            }
        }
        (bad, entry.attach(&session, now).len())
    };
    let (bad, told) = handle.ask(attached).await.unwrap();
    assert!(bad > CONTROL_QUEUE, "{bad}");
    assert!(told >= bad, "{told} messages of {bad} samples");
    token.cancel();
}

/// What a fleet ever made is not read again at each start: only what goes on needs its files.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_reads_no_files_of_a_run_that_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(FolderShelf::open(dir.path()).unwrap());
    for over in [true, false] {
        let journal_dir = dir.path().join(over.to_string());
        std::fs::create_dir(&journal_dir).unwrap();
        let id = "r";
        let tasks = TaskGroup::new(CancellationToken::new());
        let started = |tasks: &TaskGroup| {
            // The thread that wrote it may take a moment to let it go.
            let mut opened = (0..500).map(|_| {
                std::thread::sleep(Duration::from_millis(10));
                FileJournal::open(&journal_dir)
            });
            let journal = Box::new(opened.find_map(Result::ok).expect("a free journal"));
            let (handle, thinking) = start(store.clone(), journal, tasks.token().clone()).unwrap();
            tasks.spawn("brain", OnError::Shutdown, thinking);
            handle
        };
        let handle = started(&tasks);
        let runs = RunsService {
            brain: handle.clone(),
        };
        runs.submit(submission(JOB)).await.unwrap();
        let session = join(&handle).await.session;
        let bytes = Bytes::from_static(b"weights");
        let digest = blake3::hash(&bytes).to_hex().to_string();
        let files = [("model.safetensors".to_owned(), digest, bytes)];
        let staged = store.stage((id, u64::from(over)), &files).unwrap();
        let at = (session.clone(), 0, 0);
        let version = handle.ask_for(move |b, reply| b.commit_round(at, staged, None, reply));
        assert_eq!(version.await.unwrap(), 0);
        let end = move |brain: &mut Brain| {
            let now = brain.now();
            let run = &mut brain.entry(id).unwrap().run;
            if over {
                run.fail(&session, "no more", now).unwrap();
            }
        };
        handle.ask(end).await.unwrap();
        tasks.end(Duration::from_secs(5)).await.unwrap();
        let folder = store::checkpoint_dir(dir.path(), id, "small", 0);
        std::fs::write(folder.join("model.safetensors"), b"damaged").unwrap();
        let tasks = TaskGroup::new(CancellationToken::new());
        let handle = started(&tasks);
        let version = |brain: &mut Brain| brain.entry(id).unwrap().run.groups()[0].version();
        let kept = handle.peek(version).await.unwrap();
        assert_eq!(kept, over.then_some(0), "over: {over}");
        tasks.end(Duration::from_secs(5)).await.unwrap();
        let _ = std::fs::remove_dir_all(folder);
    }
}
