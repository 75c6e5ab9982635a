// A run's status as the page shows it. Names come from users: they are text, never markup.

import { figure, html, key, short, update } from "/assets/charts.js";

const $ = (id) => document.getElementById(id);
const percent = (part, digits = 0) => (Number.isFinite(part) ? `${(100 * part).toFixed(digits)}\u00a0%` : "-");
const decimal = (value, digits = 3) => (Number.isFinite(value) ? value.toFixed(digits) : "-");
const version = (value) => (Number.isFinite(value) ? `v${value}` : "-");
const counted = (n, what) => `${n.toLocaleString("en")} ${what}`;
const sum = (values) => values.reduce((all, value) => all + value, 0);

/// Silence from here on is worth a look.
const LONG_SILENCE_MS = 3000;

/// What a run does, by its state.
const DOES = {
  waiting: "Waiting for a teacher's weights",
  running: "Training",
  paused: "Paused",
  stopping: "Stopping",
  stopped: "Stopped",
  done: "Done",
  failed: "Failed",
};
/// Colours and dashes between a group's own line and that of its alpha beside it.
const BESIDE = 4;

/// Places of the ledger: field, words, colour and pattern.
const PLACES = [
  ["committed", "committed", "s2"],
  ["acked", "merged, not durable yet", "s0 p1"],
  ["leased", "with a worker", "s4 p2"],
  ["available", "to do", "rest"],
  ["quarantined", "quarantined", "bad p3"],
];
/// What replicas spend their time on, in the order of `totals.spent`: words, colour and pattern.
const ACTIVITIES = [
  ["Steps", "s2"],
  ["Reading samples", "s4 p1"],
  ["Soft targets", "s1 p2"],
  ["Waiting for work", "s3 p3"],
  ["Other replicas", "s0 p4"],
  ["Versions", "s6 p5"],
];

/// The status on the page.
let shown;

/// The parts of a page that never change.
export function prepare() {
  update($("doings"), ACTIVITIES.map(([words, tint]) => patch(tint, words)));
  update($("activities"), ["Group", ...ACTIVITIES.map(([words]) => words)].map((words) => html("th", { scope: "col" }, words)));
  $("routine").addEventListener("change", () => shown && update($("events"), events()));
}

/// Shows a status.
export function show(status) {
  shown = status;
  document.title = `${status.name} - Retort`;
  update($("title"), [status.name]);
  update($("facts"), facts(status).map((fact, i) => html("span", {}, (i ? " · " : "") + fact)));
  tell(status);
  update($("groups"), status.groups.map((group, i) => card(status, group, i)));
  update($("curves"), curves(status.groups));
  update($("map"), map(status));
  update($("workers"), workers(status.groups));
  update($("times"), status.groups.map(times));
  $("teaching").hidden = !status.teachers.length;
  update($("teachers"), status.teachers.map(teacher));
  update($("servers"), status.teachers.flatMap((t) => t.servers.map((s) => server(t, s))));
  update($("versions"), timeline(status.groups));
  update($("events"), events());
}

function facts(status) {
  const tuned = [["alpha", status.alpha], ["temperature", status.temperature]]
    .filter(([, value]) => Number.isFinite(value)).map(([name, value]) => `${name} ${value}`).join(", ");
  return [
    `run ${status.run}`, `seed ${status.seed}`, `${status.age_s.toFixed(0)} s since it was accepted`,
    counted(status.positions_per_epoch, "samples an epoch"), `term ${status.term}`,
    ...(tuned ? [`set by an operator: ${tuned}`] : []),
  ];
}

/// An estimate, in no more digits than it deserves; empty where there is none.
function left(seconds) {
  if (!Number.isFinite(seconds)) return "";
  if (seconds < 90) return `about ${Math.max(5, 5 * Math.ceil(seconds / 5))}\u00a0s left`;
  if (seconds < 5400) return `about ${Math.round(seconds / 60)}\u00a0min left`;
  return `about ${(seconds / 3600).toFixed(seconds < 36000 ? 1 : 0)}\u00a0h left`;
}

const total = (status, group) => status.positions_per_epoch * group.epochs;
const finished = (group) => group.ledger.total_committed + group.ledger.total_quarantined;

/// The state in a sentence; spoken when it changes, and at every tenth of the way.
function tell(status) {
  const all = sum(status.groups.map((group) => total(status, group)));
  const part = all > 0 ? sum(status.groups.map(finished)) / all : 0;
  const because = status.reason ? `: ${status.reason}` : "";
  const durable = [`${percent(part)} of the samples of all groups are durable`, left(status.remaining_s)].filter(Boolean).join(", ");
  const sentence = `${DOES[status.state] ?? status.state}${because}. ${durable}.`;
  update($("sentence"), [sentence]);
  $("sentence").className = `sentence ${status.state}`;
  $("whole").value = part;
  const step = `${status.run} ${status.state} ${Math.floor(10 * part)}`;
  if ($("spoken").dataset.step !== step) {
    $("spoken").dataset.step = step;
    $("spoken").textContent = sentence;
  }
}

/// A colour and pattern, and what it stands for.
const patch = (tint, words) => html("li", {}, html("span", { class: `patch ${tint}` }), words);

/// Parts of a whole side by side; `words` tell them where nothing else does.
function bar(parts, words) {
  const whole = sum(parts.map(([amount]) => amount));
  const spans = parts.filter(([amount]) => amount > 0).map(([amount, tint]) => {
    const span = html("span", { class: tint });
    span.style.width = `${(100 * amount) / whole}%`;
    return span;
  });
  return html("div", { class: "bar", role: words && "img", "aria-label": words, "aria-hidden": words ? undefined : "true" }, ...spans);
}

/// Whether it has teachers; an online teacher may have some as well.
const learns = (group) => group.kind === "student" || Number.isFinite(group.last?.alpha);

function card(status, group, index) {
  const ledger = group.ledger;
  const last = group.last ?? {};
  const places = PLACES.filter(([field]) => ledger[field] > 0);
  const facts = [
    ["Accuracy", percent(group.held_out?.accuracy, 1)],
    ["Hard loss", decimal(last.hard_loss)],
    ["KL from the teachers", decimal(last.kl)],
    ...(learns(group) ? [["Teacher's share of the gradient", percent(last.gradient_share)]] : []),
    ["Samples/s", Number.isFinite(last.samples_per_s) ? short(last.samples_per_s) : "-"],
    ["Alpha", decimal(group.alpha, 2)],
    ["Staleness", decimal(last.staleness, 2)],
    ["Published", version(group.version)],
    ["Redelivered", ledger.redelivered.toLocaleString("en")],
  ];
  const progress = [
    `epoch ${Math.min(group.epoch + 1, group.epochs)} of ${group.epochs}`, `${percent(finished(group) / total(status, group))} of all epochs`,
    counted(group.steps, "steps"), left(group.remaining_s),
  ];
  const notes = [];
  if (group.waiting_for && group.phase !== "done") notes.push(html("p", { class: "waits" }, `Waits for ${group.waiting_for}`));
  if (ledger.rolled_back > 0) notes.push(html("p", { class: "waits bad" }, counted(ledger.rolled_back, "samples rolled back")));
  for (const [reason, count] of Object.entries(group.rejected_frames)) {
    notes.push(html("p", { class: "waits bad" }, `${counted(count, "frames refused")}: ${reason}`));
  }
  return html("article", { class: "card" },
    html("h3", {}, html("span", {}, key(index), " ", group.name), html("span", { class: "tag" }, `${group.kind}, ${group.phase}`)),
    html("p", { class: "note" }, progress.filter(Boolean).join(" · ")),
    html("p", { class: "note" }, "Samples of this epoch"),
    bar(places.map(([field, , tint]) => [ledger[field], tint])),
    html("ul", { class: "legend" }, ...places.map(([field, words, tint]) => patch(tint, counted(ledger[field], words)))),
    html("dl", {}, ...facts.map(([name, value]) => html("div", {}, html("dt", {}, name), html("dd", {}, value)))),
    ...notes);
}

function curves(groups) {
  const line = (group, field, label, index) => ({
    label, index, points: group.curve.filter((p) => Number.isFinite(p[field])).map((p) => [p.positions, p[field]]),
  });
  const lines = (field) => groups.map((group, index) => line(group, field, group.name, index));
  const shares = groups.flatMap((group, index) => [
    line(group, "gradient_share", `${group.name}, teacher's share`, index),
    line(group, "alpha", `${group.name}, alpha`, index + BESIDE),
  ]);
  return [
    ["Accuracy", "of the held-out samples", lines("held_out_accuracy"), (v) => percent(v)],
    ["Hard loss", "cross-entropy with the labels, nats", lines("hard_loss"), (v) => decimal(v, 2)],
    ["KL from the teachers", "divergence at the distillation temperature, nats", lines("kl"), (v) => decimal(v, 2)],
    ["Teacher's share of the gradient", "and alpha, the share of the loss that is meant for the teachers", shares, (v) => percent(v)],
    ["Staleness", "versions that soft targets were behind the newest", lines("staleness"), (v) => decimal(v, 1)],
  ].filter(([, , lines]) => lines.some((line) => line.points.length)).map((parts) => figure(...parts));
}

/// Which version taught at which place, and how much each taught.
function timeline(groups) {
  const taught = groups.map((group, index) => ({
    label: group.name, index, stepped: true,
    points: group.curve.filter((p) => Number.isFinite(p.teacher_version)).map((p) => [p.positions, p.teacher_version]),
  }));
  const pairs = groups.flatMap((group) =>
    [...new Set(group.teacher_use.map((use) => use.teacher))].map((name) => [group, name]));
  const used = pairs.map(([group, name], index) => ({
    label: `${group.name} by ${name}`, index,
    points: group.teacher_use.filter((use) => use.teacher === name).map((use) => [use.version, use.samples]),
  }));
  return [
    ["Versions", "newest version that taught each group", taught, (v) => decimal(v, v % 1 ? 1 : 0)],
    ["Use of versions", "samples trained on the soft targets of each version", used, short, "version"],
  ].filter(([, , lines]) => lines.some((line) => line.points.length)).map((parts) => figure(...parts));
}

/// Who is there, by what they work on, and what they do or wait for.
function map(status) {
  const part = (head, tag, tiles) => html("div", {},
    html("h3", {}, ...head, " ", html("span", { class: "tag" }, tag)),
    html("ul", { class: "tiles" }, ...(tiles.length ? tiles : [html("li", { class: "note" }, "nobody")])));
  const serves = (s) => html("p", { class: s.drained ? "bad" : undefined },
    s.drained || `serves ${version(s.active)}, ${counted(s.queued_samples, "queued")}`);
  return [
    ...status.groups.map((group, i) =>
      part([key(i), " ", group.name], group.kind, group.workers.map((worker) =>
        tile(worker, ...doings(worker.spent), ...(worker.waited_for ? [html("p", { class: "waits" }, "the others wait for it")] : []))))),
    ...status.teachers.map((t) => part([t.name], "teacher servers", t.servers.map((s) => tile(s, serves(s))))),
  ];
}

function tile(member, ...lines) {
  const gone = member.silent_ms > LONG_SILENCE_MS;
  return html("li", { class: gone ? "tile gone" : "tile", "data-key": member.worker },
    html("strong", {}, member.worker),
    html("p", { class: "note" }, `${member.device || "-"} · ${short(member.samples_per_s)} samples/s`),
    ...(gone ? [html("p", { class: "bad" }, `silent for ${(member.silent_ms / 1000).toFixed(0)} s`)] : lines));
}

/// What the newest round's time went to: all of it as a bar, the most of it in words.
function doings(spent) {
  const whole = sum(spent);
  const parts = ACTIVITIES.map(([words, tint], i) => [spent[i] / whole, tint, `${words.toLowerCase()} ${percent(spent[i] / whole)}`])
    .filter(([share]) => share > 0);
  const tell = (parts) => parts.map(([, , words]) => words).join(", ") || "nothing merged yet";
  return [bar(parts, tell(parts)), html("p", {}, tell(parts.toSorted(([a], [b]) => b - a).slice(0, 2)))];
}

const cell = (text, kind) => html("td", { class: kind }, text);
const silent = (ms) => cell(`${(ms / 1000).toFixed(1)} s`, ms > LONG_SILENCE_MS ? "bad" : undefined);
const row = (name, ...cells) => html("tr", { "data-key": name }, html("th", { scope: "row" }, name), ...cells);

function workers(groups) {
  return groups.flatMap((group) => group.workers.map((worker) =>
    row(worker.worker, cell(group.name), cell(worker.device || "-"), cell(short(worker.samples_per_s)),
      cell(worker.leased.toLocaleString("en")), cell(worker.merged.toLocaleString("en")), silent(worker.silent_ms))));
}

function times(group) {
  const spent = group.totals.spent;
  const whole = sum(spent);
  const cells = ACTIVITIES.map(([, tint], i) => {
    const share = spent[i] / whole;
    return html("td", { class: "share" }, percent(share), bar(share >= 0 ? [[share, tint], [1 - share, "rest"]] : []));
  });
  return row(group.name, ...cells);
}

function teacher(t) {
  return row(t.name, cell(t.source), cell(version(t.active)), cell(version(t.published)), cell(String(t.activations)),
    cell(decimal(t.held_out_loss)));
}

function server(t, s) {
  const count = (name) => s.counters[name] ?? 0;
  const cached = count("hits") + count("coalesced") + count("replayed");
  const wait = s.queue_wait_s == null ? "-" : `${decimal(s.queue_wait_s, 1)} s`;
  return row(s.worker, cell(t.name), cell(s.device || "-"), cell(short(s.samples_per_s)), cell(s.queued_samples.toLocaleString("en")),
    cell(wait), cell(percent(cached / (cached + count("misses")))), silent(s.silent_ms),
    cell(s.drained || "serves", s.drained ? "bad" : undefined));
}

/// Newest first; routine versions if asked for.
function events() {
  const told = shown.events.filter((event) => event.kind !== "version" || $("routine").checked);
  return told.toReversed().map((event) => html("tr", { "data-key": event.at_s },
    html("th", { scope: "row" }, decimal(event.at_s, 1)), html("td", {}, event.kind), html("td", {}, event.text)));
}
