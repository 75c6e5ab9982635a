// Buttons for who may use them: a fleet without credentials, seen from its own machine. Each order waits for a yes.

import { html, update } from "/assets/charts.js";

const $ = (id) => document.getElementById(id);
const ENDED = ["done", "failed", "stopped"];

let run = "";
let paused = false;
let known = false;

/// Shows the buttons if this port takes orders; to be called again until it has said so.
export async function prepareOrders() {
  if (known) return;
  const { allowed } = await (await fetch("/api/orders")).json();
  known = true;
  $("orders").hidden = !allowed;
  if (allowed) $("reading").textContent = "Orders are taken on this machine only.";
}

const number = (input) => (input.value === "" ? null : Number(input.value));

/// What can be asked of this run now.
export function showOrders(status) {
  prefill($("alpha"), status.alpha, run !== status.run);
  prefill($("temperature"), status.temperature, run !== status.run);
  run = status.run;
  paused = ["paused", "stopping", "stopped"].includes(status.state);
  const over = ENDED.includes(status.state);
  $("pause").textContent = paused ? "Resume" : "Pause";
  const names = [
    ...status.groups.flatMap((group) => group.workers.map((w) => w.worker)),
    ...status.teachers.flatMap((t) => t.servers.map((s) => s.worker)),
  ];
  // A run that was stopped may go on; one that waits has nothing to pause.
  $("pause").disabled = ["waiting", "done", "failed"].includes(status.state);
  $("stop").disabled = over || status.state === "stopping";
  $("drain").disabled = over || !names.length;
  $("retune").disabled = over || !status.teachers.length;
  const chosen = $("member").value;
  update($("member"), names.map((name) => html("option", { "data-key": name }, name)));
  if (names.includes(chosen)) $("member").value = chosen;
}

/// What is set stands in its field, so that an order for one value repeats the other; what somebody has typed stays.
function prefill(input, value, anew) {
  const text = String(value ?? "");
  if (anew || input.value === input.dataset.set) input.value = text;
  input.dataset.set = text;
}

function confirm(words, order) {
  const dialog = $("ask");
  // Another run may be shown by the time of the answer.
  const asked = run;
  $("question").textContent = words;
  dialog.returnValue = "";
  dialog.onclose = () => dialog.returnValue === "yes" && give(asked, order);
  dialog.showModal();
}

async function give(run, order) {
  const headers = { "content-type": "application/json" };
  let told;
  try {
    const answer = await fetch(`/api/runs/${encodeURIComponent(run)}/orders`, { method: "POST", headers, body: JSON.stringify(order) });
    told = answer.ok ? `${order.order}: done` : `${order.order}: ${(await answer.text()).trim()}`;
  } catch {
    told = `${order.order}: the coordinator does not answer`;
  }
  $("answer").textContent = told;
}

const ask = (button, words, order) => $(button).addEventListener("click", () => confirm(words(), order()));
ask("pause", () => `${$("pause").textContent} the run?`, () => ({ order: paused ? "resume" : "pause" }));
ask("stop", () => "Stop the run? It can be resumed.", () => ({ order: "stop", reason: "asked for at the dashboard" }));
ask("drain", () => `Drain ${$("member").value}? It finishes what it holds and leaves the run.`, () => ({ order: "drain", worker: $("member").value }));
ask("retune",
  () => `Alpha ${$("alpha").value || "as the job says"}, temperature ${$("temperature").value || "as the job says"}?`,
  () => ({ order: "retune", alpha: number($("alpha")), temperature: number($("temperature")) }));
$("yes").addEventListener("click", () => $("ask").close("yes"));
$("no").addEventListener("click", () => $("ask").close(""));
