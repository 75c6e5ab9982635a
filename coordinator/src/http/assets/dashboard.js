// Chooses a run and follows it: server-sent events while it runs, its last state once it has ended.

import { html, update } from "/assets/charts.js";
import { prepareOrders, showOrders } from "/assets/orders.js";
import { prepare, show } from "/assets/view.js";

const $ = (id) => document.getElementById(id);
/// Pause before runs are looked for again: while one is followed, and while none is.
const FOLLOWING_MS = 10000;
const AGAIN_MS = 3000;
const ENDED = ["done", "failed", "stopped"];
const LOST = "connection lost";

/// The run that was chosen; empty: whatever is under way.
let chosen = new URLSearchParams(location.search).get("run") ?? "";
let followed = "";
let events = null;
let timer = 0;
/// The newest state, which the page shows unless somebody holds it.
let newest = null;
let held = false;

function link(state, words, left = false) {
  $("gone").hidden = words !== LOST;
  $("left").hidden = !left;
  if ($("link").textContent === words) return;
  $("link").className = `link ${state}`;
  $("link").textContent = words;
}

/// Nobody answers. Where the run has ended, nothing is wrong: the coordinator of `retort run` leaves with it.
function unanswered() {
  const over = newest?.run === followed && ENDED.includes(newest.state) && (!chosen || chosen === followed);
  if (!over) return link("lost", LOST);
  $("where").hidden = newest.state !== "done";
  link("", "ended", true);
}

/// Under way, else waiting, else the newest.
function current(runs) {
  const open = runs.filter((run) => !ENDED.includes(run.state));
  return (open.find((run) => run.state !== "waiting") ?? open[0] ?? runs.at(-1))?.run ?? "";
}

function list(runs, older) {
  const option = (value, text) => html("option", { value, "data-key": value }, text);
  update($("runs"), [
    option("", "current run"),
    ...runs.toReversed().map((run) => option(run.run, `${run.run} (${run.state})`)),
    ...(older > 0 ? [html("option", { disabled: "" }, `${older} older: ?run=ID`)] : []),
    ...(chosen && !runs.some((run) => run.run === chosen) ? [option(chosen, chosen)] : []),
  ]);
  $("runs").value = chosen;
}

function showReport(run) {
  $("reported").hidden = !run?.reported;
  if (run?.reported) $("report").setAttribute("href", `/reports/${encodeURIComponent(run.run)}`);
}

async function look() {
  clearTimeout(timer);
  try {
    await prepareOrders();
    const { runs, total } = await (await fetch("/api/runs")).json();
    list(runs, total - runs.length);
    $("empty").hidden = runs.length > 0;
    const wanted = chosen || current(runs);
    const found = runs.find((run) => run.run === wanted);
    // It comes a little after the end.
    if (!held) showReport(found);
    // A run that had been stopped may go on.
    const open = found && !ENDED.includes(found.state);
    // Older ones are not in the list.
    const exists = async () => found || (total > runs.length && (await fetch(`/api/runs/${encodeURIComponent(wanted)}`)).ok);
    if (!wanted) link("", "no run yet");
    else if (wanted !== followed && !(await exists())) link("lost", `no such run: ${wanted}`);
    else if (wanted !== followed || (!events && open)) follow(wanted);
    else if (!events) link("", "ended");
    else if (events.readyState === EventSource.OPEN) link("live", "live");
  } catch {
    unanswered();
  }
  again();
}

function again() {
  clearTimeout(timer);
  timer = setTimeout(look, events ? FOLLOWING_MS : AGAIN_MS);
}

function unfollow() {
  events?.close();
  events = null;
}

function follow(run) {
  unfollow();
  followed = run;
  events = new EventSource(`/events?run=${encodeURIComponent(run)}`);
  events.onmessage = ({ data }) => {
    newest = JSON.parse(data);
    draw();
    if (ENDED.includes(newest.state)) {
      unfollow();
      link("", "ended");
      look();
    } else {
      link("live", "live");
    }
  };
  events.onerror = () => {
    link("lost", LOST);
    // The browser tries again by itself unless the answer was a refusal.
    if (events?.readyState === EventSource.CLOSED) {
      unfollow();
      followed = "";
      again();
    }
  };
}

/// Orders go to the run that is on the page: they are held with it.
function draw() {
  if (held || !newest) return;
  $("shown").hidden = false;
  show(newest);
  showOrders(newest);
}

function hold(on) {
  held = on;
  $("hold").setAttribute("aria-pressed", held);
  draw();
}

prepare();
$("hold").addEventListener("click", () => hold(!held));
$("runs").addEventListener("change", () => {
  chosen = $("runs").value;
  history.replaceState(null, "", chosen ? `?run=${encodeURIComponent(chosen)}` : location.pathname);
  hold(false);
  look();
});
$("runs").addEventListener("focus", look);
look();
