// The workshop: at every move the form is sent and the server's answer put in place; the frontier follows.
import { get, part } from "./api.js";
import { Chart } from "./chart.js";
import { offer } from "./copy.js";
import { $, h, latest, say, settled } from "./dom.js";
import { amount, nats } from "./units.js";

const form = $("workshop");
const PATIENCE_MS = 400;
/** Missing where the token only reads: plans are then looked at and not kept. */
const save = $("save");
let chart = null;

const solve = latest(async (signal) => {
  $("answer").classList.add("stale");
  try {
    $("answer").replaceWith(await part(`/workshop/answer?${new URLSearchParams(new FormData(form))}`, signal));
  } catch (error) {
    if (signal.aborted) return;
    $("answer").replaceChildren(h("p", { class: "alert", role: "alert" }, error.problem?.detail ?? "The service does not answer. Change anything to try again."));
    $("answer").classList.remove("stale");
  }
  offer($("answer"));
  if (save) save.disabled = !$("plan");
  const { address, said } = $("answer").dataset;
  if (address) history.replaceState(null, "", address);
  say($("said"), said ?? "");
  later();
}, PATIENCE_MS);

/** Never aborted: the service goes on with what was asked even if nobody waits for it. */
const frontier = latest(async () => {
  const query = $("answer").dataset.frontier;
  if (!query) return;
  try {
    show(await get(`/v1/profiles/${encodeURIComponent(form.dataset.key)}/frontier?${query}`));
  } catch (error) {
    chart = null;
    $("frontier").replaceChildren(h("p", { class: "faint" }, error.problem?.detail ?? "The service does not answer."));
  }
});

function show(found) {
  const { metric: name, unit } = found.metrics[0];
  const told = (point) => `Limit ${amount(point.limits[0], unit)}${unit === "bytes" ? "" : ` ${unit}`}: ${nats(point.loss_nats)} nats/token${point.status === "optimal" ? "" : ", not proven"}`;
  const line = found.points.map((point) => ({ x: point.limits[0], y: point.loss_nats, dot: true, told: told(point) }));
  const ends = [line[0].x, line.at(-1).x];
  const room = (ends[1] - ends[0] || 1) * 0.02;
  const x = { label: `limit of ${name}, ${unit}`, format: (tick) => amount(tick, unit), domain: [ends[0] - room, ends[1] + room] };
  if (!chart) chart = new Chart($("frontier"), { label: "Least predicted loss against the limit", x });
  if (chart.x.label !== x.label) chart.zoom = null;
  chart.x = x;
  chart.show([{ kind: "frontier", name: "frontier", points: line, step: true }]);
}

// A frontier costs the service as much as eight plans: only once the hand rests.
const later = settled(frontier, 350);

/** The slider shows what the field says, where that is a share. */
function follow(metric) {
  const share = Number(form.elements[metric].value);
  if (share > 0 && share <= 1) form.querySelector(`[data-for=${metric}]`).value = share;
}

form.addEventListener("input", (event) => {
  const slider = event.target.dataset.for;
  if (slider) form.elements[slider].value = String(Number(event.target.value));
  else if (event.target.classList.contains("value")) follow(event.target.name);
  solve();
});
$("metric").addEventListener("change", solve);
form.addEventListener("submit", (event) => {
  if (event.submitter?.id === "save") return;
  event.preventDefault();
  solve();
});
$("solve").hidden = true;
// The form may have been changed before this ran, or been filled again by the browser.
for (const slider of form.querySelectorAll("[data-for]")) {
  const sent = Number(slider.defaultValue);
  const moved = Math.abs(Number(slider.value) - sent) > Number(slider.step) / 2;
  if (moved && sent >= Number(slider.min) && sent <= 1) form.elements[slider.dataset.for].value = String(Number(slider.value));
}
const changed = (field) =>
  field.dataset.for === undefined &&
  (field.type === "checkbox" ? field.checked !== field.defaultChecked : field.options ? field.selectedIndex !== Math.max([...field.options].findIndex((each) => each.defaultSelected), 0) : field.value !== field.defaultValue);
if ([...form.elements].some((field) => field.name && changed(field))) solve();
else frontier();
