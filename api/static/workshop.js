// The workshop: at every move the form is sent and the server's answer put in place; the frontier follows.
import { swap } from "./api.js";
import { offer } from "./copy.js";
import { $, h, latest, say, settled } from "./dom.js";

const form = $("workshop");
const PATIENCE_MS = 400;
/** What stores the plan; none where the token only reads: plans are then looked at and not kept. */
const keeps = [...document.querySelectorAll(".keeps")];
const query = () => new URLSearchParams(new FormData(form));

const solve = latest(async (signal) => {
  $("answer").classList.add("stale");
  try {
    await swap("answer", `${form.action}/answer?${query()}`, signal);
  } catch (error) {
    if (signal.aborted) return;
    $("answer").replaceChildren(h("p", { class: "alert", role: "alert" }, error.message));
    $("answer").classList.remove("stale");
  }
  offer($("answer"));
  for (const button of keeps) button.disabled = !$("plan");
  const { address, said } = $("answer").dataset;
  if (address) history.replaceState(null, "", address);
  say($("said"), said ?? "");
  later();
}, PATIENCE_MS);

/** Never aborted: the service goes on with what was asked even if nobody waits for it. */
const frontier = latest(async () => {
  try {
    await swap("frontier", `${form.action}/frontier?${query()}`);
  } catch (error) {
    $("frontier").replaceChildren(h("p", { class: "faint" }, error.message));
  }
});

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
  if (keeps.includes(event.submitter)) return;
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
function changed(field) {
  if (field.type === "checkbox") return field.checked !== field.defaultChecked;
  if (field.options) return field.selectedIndex !== Math.max([...field.options].findIndex((option) => option.defaultSelected), 0);
  return field.value !== field.defaultValue;
}
if ([...form.elements].some((field) => field.name && changed(field))) solve();
else frontier();
