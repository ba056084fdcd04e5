// The list of jobs follows the store: rows are changed in place, new ones come in at the top.
import { get } from "./api.js";
import { $, say } from "./dom.js";
import { when } from "./units.js";

const EVERY_MS = 1500;
const rows = $("jobs");

function show(row, job) {
  const part = (name) => row.querySelector(`[data-f=${name}]`);
  row.dataset.id = job.id;
  const state = part("state");
  say(state, job.state);
  state.className = `state ${job.state}`;
  part("link").href = `/jobs/${encodeURIComponent(job.id)}`;
  say(part("link"), job.kind);
  say(part("model"), job.model);
  say(part("budgets"), job.budgets.join(" "));
  say(part("stage"), job.stage ?? "");
  say(part("created"), when(job.created_at));
  part("created").dateTime = job.created_at;
  say(part("by"), job.created_by);
  const bar = part("progress");
  bar.hidden = !(job.progress && ["running", "cancelling"].includes(job.state));
  bar.max = job.progress?.total || 1;
  bar.value = job.progress?.done || 0;
}

function update(jobs) {
  const known = new Map([...rows.children].map((row) => [row.dataset.id, row]));
  let before = rows.firstElementChild;
  let added = 0;
  for (const job of jobs) {
    let row = known.get(job.id);
    if (!row) {
      row = $("row").content.firstElementChild.cloneNode(true);
      rows.insertBefore(row, before);
      added += 1;
    } else if (row === before) {
      before = row.nextElementSibling;
    }
    known.delete(job.id);
    show(row, job);
  }
  for (const row of known.values()) row.remove();
  $("list").hidden = jobs.length === 0;
  $("empty").hidden = jobs.length > 0;
  if (added) say($("live"), added === 1 ? "A new job came in." : `${added} new jobs came in.`);
}

async function look() {
  if (!document.hidden) {
    const query = new URLSearchParams(new FormData($("filters")));
    for (const [name, value] of [...query]) if (!value) query.delete(name);
    try {
      update((await get(`/v1/jobs?${query}`)).items);
      if ($("live").classList.replace("lost", "faint")) say($("live"), "The service answers again.");
    } catch (error) {
      say($("live"), error.problem?.detail ?? "The service does not answer; still trying.");
      $("live").classList.replace("faint", "lost");
    }
  }
  setTimeout(look, EVERY_MS);
}

$("filters").addEventListener("change", (event) => {
  if (event.target.tagName === "SELECT") $("filters").requestSubmit();
});
if (rows.dataset.live === "yes") setTimeout(look, EVERY_MS);
