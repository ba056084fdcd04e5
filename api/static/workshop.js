// The workshop: at every move of the form a plan that is only looked at, drawn at once; the frontier follows.
import { get, post } from "./api.js";
import { Asked } from "./asked.js";
import { Chart } from "./chart.js";
import "./copy.js";
import { $, h, latest, say, settled } from "./dom.js";
import { budgets, ranks, reach } from "./ranks.js";
import { amount, nats } from "./units.js";

const form = $("workshop");
const full = JSON.parse(form.dataset.full);
const points = Number(form.dataset.points);
const PATIENCE_MS = 400;
/** Missing where the token only reads: plans are then looked at and not kept. */
const save = $("save");
let chart = null;

function draw(plan) {
  $("problem").hidden = true;
  $("plan").hidden = false;
  const loss = (found) => (found ? nats(found.predicted_loss_nats) : "–");
  say($("loss"), nats(plan.predicted.loss_nats));
  say($("uniform"), loss(plan.baseline.uniform));
  say($("uniform-kind"), loss(plan.baseline.uniform_kind));
  say($("proof"), plan.certificate.status);
  say($("gap"), plan.certificate.gap.toExponential(1));
  $("ranks").replaceChildren(ranks(plan.ranks, full, plan.baseline.uniform?.ranks));
  $("budgets").replaceChildren(budgets(plan.budgets));
  savable(true);
}

function refuse(problem) {
  say($("problem-title"), problem.title ?? "The service does not answer");
  say($("problem-detail"), problem.detail ?? "Change anything to try again.");
  $("reach").replaceChildren(...(problem.achievable ? [reach(problem.achievable, raise)] : []));
  $("problem").hidden = false;
  $("plan").hidden = true;
  savable(false);
}

function savable(yes) {
  if (save) save.disabled = !yes;
}

/** The smallest limit that ranks reach, as a share where it was one. */
function raise(each) {
  const metric = each.metric.split("@")[0];
  const field = form.elements[metric];
  const asked = Number(field.value);
  const share = asked > 0 && asked <= 1;
  const needed = share ? Math.ceil(((each.minimum / each.limit) * asked + 1e-9) * 100) / 100 : each.minimum;
  field.value = share ? String(Math.min(needed, 1)) : String(needed);
  follow(metric);
  solve();
}

/** The slider shows what the field says, where that is a share. */
function follow(metric) {
  const share = Number(form.elements[metric].value);
  if (share > 0 && share <= 1) form.querySelector(`[data-for=${metric}]`).value = share;
}

const solve = latest(async (signal) => {
  const asked = new Asked(form);
  history.replaceState(null, "", asked.address);
  say($("cli"), asked.cli);
  say($("rest"), asked.rest);
  say($("saved"), "");
  $("plan").classList.add("stale");
  try {
    if (!asked.use.length) throw { problem: { title: "No budget", detail: "Tick at least one budget." } };
    draw(await post("/v1/plans", { ...asked.body, store: false }, signal));
  } catch (error) {
    if (signal.aborted) return;
    refuse(error.problem ?? {});
  }
  $("plan").classList.remove("stale");
  later();
}, PATIENCE_MS);

/** Never aborted: the service goes on with what was asked even if nobody waits for it. */
const frontier = latest(async () => {
  const [asked, metric] = [new Asked(form), $("metric").value];
  try {
    show(await get(asked.frontier(metric, points)), asked, metric);
  } catch (error) {
    chart = null;
    $("frontier").replaceChildren(h("p", { class: "faint" }, error.problem?.detail ?? "The service does not answer."));
  }
});

function show(found, asked, metric) {
  const { metric: name, unit } = found.metrics[0];
  const told = (point) => `Limit ${amount(point.limits[0], unit)}${unit === "bytes" ? "" : ` ${unit}`}: ${nats(point.loss_nats)} nats/token${point.status === "optimal" ? "" : ", not proven"}`;
  const line = found.points.map((point) => ({ x: point.limits[0], y: point.loss_nats, dot: true, told: told(point) }));
  const ends = [line[0].x, line.at(-1).x];
  const room = (ends[1] - ends[0] || 1) * 0.02;
  const x = { label: `limit of ${name}, ${unit}`, format: (tick) => amount(tick, unit), domain: [ends[0] - room, ends[1] + room] };
  if (!chart) chart = new Chart($("frontier"), { label: "Least predicted loss against the limit", x });
  if (chart.x.label !== x.label) chart.zoom = null;
  chart.x = x;
  chart.show([{ kind: "frontier", name: "frontier", points: line, step: true }], { limit: limitOf(asked, metric, found.dense[0]) });
}

/** Where the form's own budget lies on the axis; null where it has none or is not a share. */
function limitOf(asked, metric, dense) {
  const share = Number(asked.value(metric));
  return asked.use.includes(metric) && share > 0 && share <= 1 ? share * dense : null;
}

// A frontier costs the service as much as eight plans: only once the hand rests.
const later = settled(frontier, 350);

form.addEventListener("input", (event) => {
  const slider = event.target.dataset.for;
  if (slider) form.elements[slider].value = String(Number(event.target.value));
  else if (event.target.classList.contains("value")) follow(event.target.name);
  solve();
});
$("metric").addEventListener("change", frontier);
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (event.submitter?.id !== "save") return solve();
  try {
    const { digest } = await post("/v1/plans", new Asked(form).body);
    $("saved").replaceChildren("Saved as ", h("a", { href: `/plans/${encodeURIComponent(digest)}` }, digest.slice(0, 12)));
  } catch (error) {
    say($("saved"), error.problem?.detail ?? "It was not saved: the service does not answer.");
  }
});
$("solve").hidden = true;
// The form may have been changed before this ran, or been filled again by the browser.
for (const slider of form.querySelectorAll("[data-for]")) {
  const sent = Number(slider.defaultValue);
  const moved = Math.abs(Number(slider.value) - sent) > Number(slider.step) / 2;
  if (moved && sent >= Number(slider.min) && sent <= 1) form.elements[slider.dataset.for].value = String(Number(slider.value));
}
if ($("problem").hidden && new Asked(form).cli === $("cli").textContent) frontier();
else solve();
