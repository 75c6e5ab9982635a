// Chooses a run and follows it: server-sent events while it runs, its last state once it has ended.

import { prepareOrders, showOrders } from "/assets/orders.js";
import { prepare, show } from "/assets/view.js";

const $ = (id) => document.getElementById(id);
/// Pause before runs are looked for again where nothing is followed.
const AGAIN_MS = 3000;
const ENDED = ["done", "failed", "stopped"];

/// The run that was chosen; empty: whatever is under way.
let chosen = new URLSearchParams(location.search).get("run") ?? "";
let followed = "";
let events = null;
let timer = 0;

function link(state, words) {
  if ($("link").textContent === words) return;
  $("link").className = `link ${state}`;
  $("link").textContent = words;
}

/// Under way, else waiting, else the newest.
function current(runs) {
  const open = runs.filter((run) => !ENDED.includes(run.state));
  return (open.find((run) => run.state !== "waiting") ?? open[0] ?? runs.at(-1))?.run ?? "";
}

function list(runs) {
  const option = (value, text) => {
    const element = document.createElement("option");
    element.value = value;
    element.textContent = text;
    return element;
  };
  const options = [
    option("", "current run"),
    ...runs.toReversed().map((run) => option(run.run, `${run.run} (${run.state})`)),
  ];
  const text = (elements) => Array.from(elements, (o) => o.textContent).join("\n");
  // An open list must not change under somebody's hand for nothing.
  if (text(options) !== text($("runs").options)) $("runs").replaceChildren(...options);
  $("runs").value = chosen;
}

function showReport(run) {
  $("reported").hidden = !run?.reported;
  if (run?.reported) $("report").setAttribute("href", `/reports/${encodeURIComponent(run.run)}`);
}

async function look() {
  clearTimeout(timer);
  try {
    const answer = await fetch("/api/runs");
    const { runs } = await answer.json();
    list(runs);
    $("empty").hidden = runs.length > 0;
    const wanted = chosen || current(runs);
    // It comes a little after the end.
    showReport(runs.find((run) => run.run === wanted));
    // A run that had been stopped may go on.
    const open = runs.some((run) => run.run === wanted && !ENDED.includes(run.state));
    if (wanted && (wanted !== followed || (!events && open))) follow(wanted);
    else if (!wanted) link("", "no run yet");
  } catch {
    link("lost", "connection lost");
  }
  if (!events) timer = setTimeout(look, AGAIN_MS);
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
    const status = JSON.parse(data);
    $("shown").hidden = false;
    show(status);
    showOrders(status);
    if (ENDED.includes(status.state)) {
      unfollow();
      link("", "ended");
      look();
    } else {
      link("live", "live");
    }
  };
  events.onerror = () => {
    link("lost", "connection lost");
    // The browser tries again by itself unless the answer was a refusal.
    if (events?.readyState === EventSource.CLOSED) {
      unfollow();
      followed = "";
      timer = setTimeout(look, AGAIN_MS);
    }
  };
}

prepare();
prepareOrders();
$("runs").addEventListener("change", () => {
  chosen = $("runs").value;
  history.replaceState(null, "", chosen ? `?run=${encodeURIComponent(chosen)}` : location.pathname);
  look();
});
$("runs").addEventListener("focus", look);
look();
