// A job that is not over: every second the page is asked anew, and what has changed is put in place.
import { fetchPage } from "./api.js";
import { $ } from "./dom.js";

const EVERY_MS = 1000;
const PARTS = ["state", "stages", "progress", "cost", "reason", "cancel"];
const events = $("events");

/** Parts stay the same elements, so that live regions speak of changes alone. */
function refresh(old, fresh) {
  if (!old || !fresh) return;
  old.hidden = fresh.hidden;
  if (old.innerHTML !== fresh.innerHTML) old.replaceChildren(...fresh.childNodes);
}

async function look() {
  const page = await fetchPage(`${location.pathname}?after=${events.lastElementChild?.dataset.seq ?? 0}`);
  for (const id of PARTS) refresh($(id), page.getElementById(id));
  const atEnd = events.scrollTop + events.clientHeight >= events.scrollHeight - 4;
  events.append(...page.getElementById("events").children);
  if (atEnd) events.scrollTop = events.scrollHeight;
  return page.getElementById("job").dataset.over === "yes";
}

async function poll() {
  let over = false;
  try {
    over = !document.hidden && (await look());
  } catch {
    // The service restarts or the network is away: asked again in a second.
  }
  // Once it is over the page has more to show: the error or the report, files, what is linked.
  if (over) location.reload();
  else setTimeout(poll, EVERY_MS);
}

events.scrollTop = events.scrollHeight;
poll();
