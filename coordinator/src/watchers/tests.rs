use retort_proto::pb::runs_server::Runs as _;
use retort_runtime::{OnError, TaskGroup};
use tempfile::TempDir;
use tonic::{Code, Request};

use super::*;
use crate::brain;
use crate::journal::FileJournal;
use crate::services::RunsService;
use crate::store::{FolderShelf, Store};

pub(crate) const JOB: &str = r#"
[run]
name = "watched"
epochs = 1
batch_size = 32

[dataset]
name = "digits"

[[students]]
name = "small"
model = { architecture = "mlp", hidden = [16] }
learning_rate = 0.01
"#;
const SOON: Duration = Duration::from_millis(1);

/// A coordinator's state with one run that waits for workers.
pub(crate) struct Runs {
    pub(crate) watchers: Watchers,
    service: RunsService,
    token: CancellationToken,
    _dir: TempDir,
}

impl Runs {
    pub(crate) async fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let token = CancellationToken::new();
        let store = Store::new(FolderShelf::open(dir.path()).unwrap());
        let journal = Box::new(FileJournal::open(dir.path()).unwrap());
        let (brain, thinking) = brain::start(store, journal, token.clone()).unwrap();
        let tasks = TaskGroup::new(token.clone());
        tasks.spawn("brain", OnError::Shutdown, thinking);
        let runs = Self {
            watchers: Watchers::new(brain.clone(), token.clone()),
            service: RunsService { brain },
            token,
            _dir: dir,
        };
        runs.submit("watched").await;
        runs
    }

    async fn submit(&self, id: &str) {
        let request = pb::SubmitRequest {
            run: id.into(),
            job_toml: JOB.into(),
            positions: 64,
            dataset_digest: "0".repeat(64),
            ..Default::default()
        };
        self.service.submit(Request::new(request)).await.unwrap();
    }

    pub(crate) async fn stop(&self) {
        let request = pb::StopRequest {
            run: "watched".into(),
            reason: "enough".into(),
        };
        self.service.stop(Request::new(request)).await.unwrap();
    }

    async fn watch(&self, pause: Duration, seen: u64) -> Watcher {
        self.watchers.watch("watched".into(), pause, seen).await.unwrap()
    }
}

async fn next(watcher: &mut Watcher) -> Arc<Snapshot> {
    watcher.next().await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_ask_in_the_same_while_share_a_snapshot() {
    let runs = Runs::new().await;
    let (mut a, mut b) = (runs.watch(SOON, 0).await, runs.watch(SOON, 0).await);
    let (of_a, of_b) = (next(&mut a).await, next(&mut b).await);
    assert!(Arc::ptr_eq(&of_a, &of_b), "nothing has changed between them");
    // Another run is no news of this one, though the coordinator's state has changed.
    let patient = Duration::from_secs(3_600);
    let mut c = runs.watch(patient, 0).await;
    runs.submit("another").await;
    assert!(
        Arc::ptr_eq(&of_a, &next(&mut c).await),
        "new enough for one that comes so rarely"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_hears_of_what_is_new_to_it_and_of_the_end() {
    let runs = Runs::new().await;
    let revision = next(&mut runs.watch(SOON, 0).await).await.status.revision;
    let mut watcher = runs.watch(SOON, revision).await;
    let early = tokio::time::timeout(Duration::from_millis(100), watcher.next()).await;
    assert!(early.is_err(), "it knows that already");
    runs.stop().await;
    let last = next(&mut watcher).await;
    assert_eq!(
        (last.status.state.as_str(), last.status.reason.as_str()),
        ("stopped", "enough")
    );
    assert!(watcher.next().await.is_none());
    let late = next(&mut runs.watch(SOON, last.status.revision).await).await;
    assert!(late.ended, "who comes late is told the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_waits_for_no_pause() {
    let runs = Runs::new().await;
    let mut watcher = runs.watch(Duration::from_secs(3_600), 0).await;
    next(&mut watcher).await;
    runs.stop().await;
    let end = tokio::time::timeout(Duration::from_secs(60), next(&mut watcher));
    assert!(end.await.expect("at once").ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_watcher_too_many_is_refused_and_a_place_is_freed_when_one_goes() {
    let runs = Runs::new().await;
    let mut all = Vec::new();
    for _ in 0..MAX_WATCHERS {
        all.push(runs.watch(SOON, 0).await);
    }
    let refused = runs.watchers.watch(String::new(), SOON, 0).await.err().unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    all.pop();
    assert_eq!(runs.watchers.count(), MAX_WATCHERS - 1);
    runs.watch(SOON, 0).await;
    let unknown = runs.watchers.watch("nobody".into(), SOON, 0).await.err().unwrap();
    assert_eq!(unknown.code(), Code::NotFound, "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_coordinator_ends_its_watchers() {
    let runs = Runs::new().await;
    let mut watcher = runs.watch(SOON, 0).await;
    next(&mut watcher).await;
    runs.token.cancel();
    assert!(watcher.next().await.is_none());
}

#[test]
fn a_long_curve_is_thinned_and_keeps_evaluations_and_its_end() {
    let point = |step: u64| pb::CurvePoint {
        step,
        held_out_loss: (step == 501).then_some(0.5),
        ..Default::default()
    };
    let mut curve: Vec<_> = (0..1_000).map(point).collect();
    thin(&mut curve);
    let steps: Vec<u64> = curve.iter().map(|p| p.step).collect();
    assert!(curve.len() <= POINTS, "{}", curve.len());
    assert!([0, 501, 999].iter().all(|s| steps.contains(s)), "{steps:?}");
    let mut short: Vec<_> = (0..10).map(point).collect();
    thin(&mut short);
    assert_eq!(short.len(), 10);
    thin(&mut Vec::new());
    // As many evaluations as a curve keeps, and as many points besides.
    let often = |step| pb::CurvePoint {
        held_out_loss: (step % 3 == 0).then_some(0.5),
        ..point(step)
    };
    let mut long: Vec<_> = (0..1_500).map(often).collect();
    thin(&mut long);
    let evaluated = long.iter().filter(|p| p.held_out_loss.is_some()).count();
    assert!(long.len() <= POINTS + 1, "{}", long.len());
    assert!(evaluated > POINTS / 3, "{evaluated}");
}

#[test]
fn a_brief_state_has_no_curves_and_the_newest_events() {
    let status = pb::RunStatus {
        groups: vec![pb::GroupStatus {
            curve: vec![pb::CurvePoint::default(); 3],
            teacher_use: vec![pb::VersionUse::default(); 3],
            ..Default::default()
        }],
        events: (0..100)
            .map(|i| pb::Event {
                at_s: f64::from(i),
                kind: if i < 50 { "version" } else { "order" }.into(),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    };
    let snapshot = Snapshot::new(status, Changes::default());
    assert_eq!(
        (
            snapshot.status.groups[0].curve.len(),
            snapshot.status.events.len()
        ),
        (3, EVENTS + 50)
    );
    assert_eq!(
        (snapshot.brief.groups[0].curve.len(), snapshot.brief.events.len()),
        (0, EVENTS)
    );
    assert!(snapshot.brief.groups[0].teacher_use.is_empty());
    assert_eq!(snapshot.brief.events.last().map(|e| e.at_s), Some(99.0));
}

#[test]
fn many_versions_are_counted_together_and_no_sample_is_lost() {
    let used = |teacher: &str, version| pb::VersionUse {
        teacher: teacher.into(),
        version,
        samples: 1 + version % 3,
    };
    let all: Vec<_> = (0..10_000).map(|v| used("a", v)).chain([used("b", 7)]).collect();
    let samples = |uses: &[pb::VersionUse]| uses.iter().map(|u| u.samples).sum::<u64>();
    let mut few = all.clone();
    gather(&mut few);
    assert!(few.len() <= POINTS + 1, "{}", few.len());
    assert_eq!(samples(&few), samples(&all));
    let newest: Vec<_> = few
        .iter()
        .rev()
        .take(2)
        .map(|u| (u.teacher.as_str(), u.version))
        .collect();
    assert_eq!(newest, [("b", 7), ("a", 9_999)]);
    let mut short = all[..10].to_vec();
    gather(&mut short);
    assert_eq!(short, all[..10]);
}
