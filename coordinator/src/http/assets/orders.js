// Buttons for who may use them: a fleet without credentials, seen from its own machine. Each order waits for a yes.

import { html } from "/assets/charts.js";

const $ = (id) => document.getElementById(id);
const ENDED = ["done", "failed", "stopped"];

let run = "";
let paused = false;

/// Shows the buttons if this port takes orders.
export async function prepareOrders() {
  const { allowed } = await (await fetch("/api/orders")).json();
  $("orders").hidden = !allowed;
  if (!allowed) return;
  $("reading").textContent = "Orders are taken on this machine only.";
  const ask = (words, order) => () => confirm(words(), order());
  $("pause").addEventListener("click", ask(() => `${$("pause").textContent} the run?`, () => ({ order: paused ? "resume" : "pause" })));
  $("stop").addEventListener("click", ask(() => "Stop the run? It can be resumed.", () => ({ order: "stop", reason: "asked for at the dashboard" })));
  $("drain").addEventListener("click", ask(() => `Drain ${$("member").value}?`, () => ({ order: "drain", worker: $("member").value })));
  $("retune").addEventListener("click", ask(
    () => `Alpha ${$("alpha").value || "as the job says"}, temperature ${$("temperature").value || "as the job says"}?`,
    () => ({ order: "retune", alpha: number($("alpha")), temperature: number($("temperature")) })));
  $("yes").addEventListener("click", () => $("ask").close("yes"));
  $("no").addEventListener("click", () => $("ask").close(""));
}

const number = (input) => (input.value === "" ? null : Number(input.value));

/// What can be asked of this run now.
export function showOrders(status) {
  run = status.run;
  paused = ["paused", "stopping", "stopped"].includes(status.state);
  const over = ENDED.includes(status.state);
  $("pause").textContent = paused ? "Resume" : "Pause";
  for (const id of ["stop", "drain", "retune"]) $(id).disabled = over;
  $("pause").disabled = over && status.state !== "stopped";
  const names = [
    ...status.groups.flatMap((group) => group.workers.map((w) => w.worker)),
    ...status.teachers.flatMap((t) => t.servers.map((s) => s.worker)),
  ];
  const chosen = $("member").value;
  const options = names.map((name) => html("option", {}, name));
  const text = (elements) => Array.from(elements, (o) => o.textContent).join("\n");
  if (text(options) !== text($("member").options)) $("member").replaceChildren(...options);
  if (names.includes(chosen)) $("member").value = chosen;
}

function confirm(words, order) {
  const dialog = $("ask");
  $("question").textContent = words;
  dialog.returnValue = "";
  dialog.onclose = () => dialog.returnValue === "yes" && give(order);
  dialog.showModal();
}

async function give(order) {
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
