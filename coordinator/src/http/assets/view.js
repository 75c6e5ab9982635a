// A run's status as the page shows it. Names come from users: they are text, never markup.

import { colour, figure, html, short } from "/assets/charts.js";

const $ = (id) => document.getElementById(id);
const percent = (part, digits = 0) => (Number.isFinite(part) ? `${(100 * part).toFixed(digits)} %` : "-");
const decimal = (value, digits = 3) => (Number.isFinite(value) ? value.toFixed(digits) : "-");
const version = (value) => (Number.isFinite(value) ? `v${value}` : "-");
const counted = (n, what) => `${n.toLocaleString("en")} ${what}`;

/// Silence from here on is worth a look.
const LONG_SILENCE_MS = 3000;

/// Places of the ledger: field, words, colour.
const PLACES = [
  ["committed", "committed", "s2"],
  ["acked", "merged, not durable yet", "s0"],
  ["leased", "with a worker", "s4"],
  ["available", "to do", "rest"],
  ["quarantined", "quarantined", "bad"],
];
/// What replicas spend their time on, in the order of `totals.spent`.
const ACTIVITIES = ["Steps", "Reading samples", "Soft targets", "Work", "Other replicas", "Versions"];

/// The parts of a page that never change.
export function prepare() {
  $("places").replaceChildren(...PLACES.map(([, words, tint]) =>
    html("li", {}, html("span", { class: `key bar ${tint}` }, html("span", { class: "whole" })), words)));
  const heads = ["Group", ...ACTIVITIES].map((words) => html("th", { scope: "col" }, words));
  $("activities").replaceChildren(...heads);
}

/// Shows a status.
export function show(status) {
  document.title = `${status.name} - Retort`;
  $("title").textContent = status.name;
  $("facts").textContent = [
    `run ${status.run}`, `seed ${status.seed}`, `${status.age_s.toFixed(0)} s since it was accepted`,
    `${counted(status.positions_per_epoch, "samples an epoch")}`, `term ${status.term}`,
  ].join(" · ");
  tell(status);
  $("groups").replaceChildren(...status.groups.map((group, i) => card(status, group, i)));
  $("curves").replaceChildren(...curves(status.groups));
  $("workers").replaceChildren(...workers(status.groups));
  $("times").replaceChildren(...status.groups.map(times));
  $("teaching").hidden = !status.teachers.length;
  $("teachers").replaceChildren(...status.teachers.map(teacher));
  $("servers").replaceChildren(...status.teachers.flatMap((t) => t.servers.map((s) => server(t, s))));
  $("versions").replaceChildren(...timeline(status.groups));
  $("events").replaceChildren(...status.events.toReversed().map((event) =>
    html("tr", {}, html("th", { scope: "row" }, decimal(event.at_s, 1)), html("td", {}, event.text))));
}

const total = (status, group) => status.positions_per_epoch * group.epochs;
const finished = (group) => group.ledger.total_committed + group.ledger.total_quarantined;

/// The state in a sentence; spoken when it changes, and at every tenth of the way.
function tell(status) {
  const all = status.groups.reduce((sum, group) => sum + total(status, group), 0);
  const done = status.groups.reduce((sum, group) => sum + finished(group), 0);
  const part = all > 0 ? done / all : 0;
  const because = status.reason ? `: ${status.reason}` : "";
  const sentence = `The run is ${status.state}${because}. ${percent(part)} of its samples are durable.`;
  $("sentence").textContent = sentence;
  $("sentence").className = `sentence ${status.state}`;
  $("whole").value = part;
  const step = `${status.run} ${status.state} ${Math.floor(10 * part)}`;
  if ($("spoken").dataset.step !== step) {
    $("spoken").dataset.step = step;
    $("spoken").textContent = sentence;
  }
}

/// Parts of a whole side by side, told in words to those who do not see them.
function bar(parts, words) {
  const whole = parts.reduce((sum, [amount]) => sum + amount, 0);
  const spans = parts.filter(([amount]) => amount > 0).map(([amount, tint]) => {
    const span = html("span", { class: tint });
    span.style.width = `${(100 * amount) / whole}%`;
    return span;
  });
  return html("div", { class: "bar", role: "img", "aria-label": words }, ...spans);
}

function card(status, group, index) {
  const ledger = group.ledger;
  const last = group.last ?? {};
  const words = PLACES.filter(([field]) => ledger[field] > 0)
    .map(([field, name]) => `${ledger[field].toLocaleString("en")} ${name}`).join(", ");
  const facts = [
    ["Accuracy", percent(group.held_out?.accuracy, 1)],
    ["Hard loss", decimal(last.hard_loss)],
    ["Soft loss", decimal(last.kl)],
    ["Samples/s", Number.isFinite(last.samples_per_s) ? short(last.samples_per_s) : "-"],
    ["Alpha", decimal(group.alpha, 2)],
    ["Staleness", decimal(last.staleness, 2)],
    ["Published", version(group.version)],
    ["Redelivered", ledger.redelivered.toLocaleString("en")],
  ];
  const epoch = `epoch ${Math.min(group.epoch + 1, group.epochs)} of ${group.epochs}`;
  const notes = [];
  if (group.waiting_for && group.phase !== "done") notes.push(html("p", { class: "waits" }, `Waits for ${group.waiting_for}`));
  if (ledger.rolled_back > 0) notes.push(html("p", { class: "waits bad" }, counted(ledger.rolled_back, "samples rolled back")));
  for (const [reason, count] of Object.entries(group.rejected_frames)) {
    notes.push(html("p", { class: "waits bad" }, `${counted(count, "frames refused")}: ${reason}`));
  }
  return html("article", { class: "card" },
    html("h3", { class: colour(index) }, group.name, html("span", { class: "tag" }, `${group.kind}, ${group.phase}`)),
    bar(PLACES.map(([field, , tint]) => [ledger[field], tint]), `${epoch}: ${words}`),
    html("p", { class: "note" }, `${epoch} · ${percent(finished(group) / total(status, group))} of all · ${counted(group.steps, "steps")}`),
    html("dl", {}, ...facts.map(([name, value]) => html("div", {}, html("dt", {}, name), html("dd", {}, value)))),
    ...notes);
}

function curves(groups) {
  const lines = (field, stepped) => groups.map((group, index) => ({
    label: group.name, index, stepped,
    points: group.curve.filter((p) => Number.isFinite(p[field])).map((p) => [p.positions, p[field]]),
  }));
  return [
    ["Accuracy", "of the held-out samples", "held_out_accuracy", (v) => percent(v)],
    ["Hard loss", "cross-entropy with the labels, nats", "hard_loss", (v) => decimal(v, 2)],
    ["Soft loss", "KL divergence from the teachers at the distillation temperature, nats", "kl", (v) => decimal(v, 2)],
    ["Staleness", "versions that soft targets were behind the newest", "staleness", (v) => decimal(v, 1)],
  ].filter(([, , field]) => lines(field).some((line) => line.points.length))
    .map(([title, note, field, unit]) => figure(title, note, lines(field), unit));
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

const cell = (text, kind) => html("td", { class: kind }, text);
const silent = (ms) => cell(`${(ms / 1000).toFixed(1)} s`, ms > LONG_SILENCE_MS ? "bad" : undefined);
const row = (name, ...cells) => html("tr", {}, html("th", { scope: "row" }, name), ...cells);

function workers(groups) {
  return groups.flatMap((group) => group.workers.map((worker) =>
    row(worker.worker, cell(group.name), cell(worker.device || "-"), cell(short(worker.samples_per_s)),
      cell(worker.leased.toLocaleString("en")), cell(worker.merged.toLocaleString("en")), silent(worker.silent_ms))));
}

function times(group) {
  const spent = group.totals.spent;
  const whole = spent.reduce((sum, seconds) => sum + seconds, 0);
  const cells = ACTIVITIES.map((_, i) => {
    const share = whole > 0 ? spent[i] / whole : NaN;
    const parts = whole > 0 ? [[share, i ? "s1" : "s2"], [1 - share, "rest"]] : [];
    const drawn = bar(parts, "");
    drawn.setAttribute("aria-hidden", "true");
    return html("td", { class: "share" }, percent(share), drawn);
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
  return row(s.worker, cell(t.name), cell(s.device || "-"), cell(short(s.samples_per_s)), cell(s.queued_samples.toLocaleString("en")),
    cell(percent(cached / (cached + count("misses")))), silent(s.silent_ms), cell(s.drained || "serves", s.drained ? "bad" : undefined));
}
