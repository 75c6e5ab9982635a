//! What to type, for `--help`. A test parses each.

pub(super) const QUICKSTART: &str = "\
Examples:
  retort quickstart
  retort quickstart --seeds 3 --out retort-runs/first";

pub(super) const INIT: &str = "\
Examples:
  retort init job.toml                             # asks
  retort init job.toml --data pictures --labelled 200
  retort init job.toml --data train.jsonl --teacher mutual";

pub(super) const RUN: &str = "\
Examples:
  retort run job.toml --out retort-runs/mine --baseline --seeds 3
  retort run job.toml --set students.0.replicas=4 --set run.epochs=2
  retort run --resume --out retort-runs/mine       # after Ctrl-C, or worse";

pub(super) const EXPERIMENT: &str = "\
Examples:
  retort experiment experiments/labels.toml --dry-run
  retort experiment experiments/labels.toml --out retort-runs/labels   # again: it goes on";

pub(super) const SUBMIT: &str = "\
Examples:
  retort submit job.toml --tls certs/operator --coordinator https://HOST:7300 --out RUN
  retort submit job.toml --coordinator http://127.0.0.1:7300 --detach --run tonight";

pub(super) const CHECK: &str = "\
Examples:
  retort check job.toml
  retort check job.toml --set distillation.temperature=8 --json";

pub(super) const DEVICES: &str = "\
Examples:
  retort devices
  retort devices --json";

pub(super) const STATUS: &str = "\
Examples:
  retort status                                    # the newest run on this machine
  retort status --watch
  retort status --runs
  retort status --json --tls certs/observer --coordinator https://HOST:7300";

pub(super) const CONTROL: &str = "\
Examples:
  retort control pause
  retort control resume
  retort control retune --alpha 0.5 --temperature 2
  retort control drain w1 --tls certs/operator --coordinator https://HOST:7300
  retort control stop --reason 'enough learned'";

#[cfg(feature = "top")]
pub(super) const TOP: &str = "\
Examples:
  retort top                                       # the newest run on this machine
  retort top --tls certs/operator --coordinator https://HOST:7300";

pub(super) const AUDIT: &str = "\
Examples:
  retort audit retort-runs/mine
  retort audit retort-runs/mine --json";

pub(super) const COMPARE: &str = "\
Examples:
  retort compare retort-runs/a retort-runs/b
  retort compare retort-runs/a retort-runs/b --json";

pub(super) const EVALUATE: &str = "\
Examples:
  retort evaluate retort-runs/mine/students/small
  retort evaluate retort-runs/mine/students/small --teacher retort-runs/mine/teachers/wide
  retort evaluate TEACHER --job job.toml           # a model from elsewhere names no data set";

pub(super) const PREDICT: &str = "\
Examples:
  retort predict retort-runs/mine/students/small a.png b.png
  retort predict retort-runs/mine/students/small a.png --json";

pub(super) const EXPORT: &str = "\
Examples:
  retort export retort-runs/mine --group small --version 7 --to small-7
  retort export retort-runs/mine/students/small --exit 1 --to early";

pub(super) const IMPORT: &str = "\
Examples:
  retort import MODEL.onnx --out TEACHER           # beside it MODEL.toml
  retort import MODEL.safetensors --out TEACHER
  retort import http://HOST:8001/MODEL --out TEACHER
  retort import FOLDER --job job.toml --out TEACHER";

pub(super) const HEALTH: &str = "\
Examples:
  retort health http://127.0.0.1:7300
  retort health https://HOST:7310 --tls certs/observer --timeout 1s";

pub(super) const COMPLETIONS: &str = "\
Examples:
  retort completions bash > /etc/bash_completion.d/retort
  retort completions zsh > ~/.zfunc/_retort";

pub(super) const MAN: &str = "\
Examples:
  retort man | man -l -
  retort man --out /usr/local/share/man/man1       # a page for each command";

pub(super) const COORDINATOR: &str = "\
Examples:
  retort coordinator --listen 127.0.0.1:7300 --data-dir state
  retort coordinator --tls certs/coordinator --data-dir /var/lib/retort
  retort coordinator --tls certs/coordinator --etcd http://E1:2379,http://E2:2379,http://E3:2379 --data-dir /shared/retort";

pub(super) const TEACHER_SERVER: &str = "\
Examples:
  retort teacher-server --listen 127.0.0.1:7310 --coordinator http://127.0.0.1:7300
  retort teacher-server --tls certs/teacher --coordinator https://HOST:7300";

pub(super) const STUDENT_WORKER: &str = "\
Examples:
  retort student-worker --listen 127.0.0.1:7320 --coordinator http://127.0.0.1:7300
  retort student-worker --tls certs/student --coordinator https://HOST:7300 --once";
