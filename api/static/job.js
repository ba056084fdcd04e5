// A job that is not over: its events as they happen, its progress, and the whole page once it ends.
import { get } from "./api.js";
import { $, h, latest, say } from "./dom.js";
import { follow } from "./events.js";
import { when } from "./units.js";

const OVER = ["succeeded", "failed", "crashed", "cancelled"];
const EVERY_MS = 1000;
const about = $("job").dataset;
const path = `/v1/jobs/${encodeURIComponent(about.id)}`;
let job = null;

function add(event) {
  const list = $("events");
  const atEnd = list.scrollTop + list.clientHeight >= list.scrollHeight - 4;
  const time = h("time", { datetime: event.created_at }, when(event.created_at));
  list.append(h("li", { "data-seq": event.seq }, time, " ", h("code", {}, event.type), " ", h("span", {}, event.message)));
  if (atEnd) list.scrollTop = list.scrollHeight;
  refresh();
}

function show() {
  const state = $("state").firstElementChild;
  say(state, job.state);
  state.className = `state ${job.state}`;
  const reached = about.stages.split(" ").indexOf(job.stage);
  [...$("stages").children].forEach((item, index) => {
    item.className = index < reached ? "done" : index === reached ? "now" : "";
    item.toggleAttribute("aria-current", false);
    if (index === reached) item.setAttribute("aria-current", "step");
  });
  $("progress").hidden = !job.progress;
  if (job.progress) {
    const bar = $("progress").firstElementChild;
    bar.max = job.progress.total || 1;
    bar.value = job.progress.done;
    say($("counts"), `${job.stage}: ${job.progress.done} of ${job.progress.total} ${job.progress.unit}`);
  }
  $("reason").hidden = !job.queue_reason;
  say($("reason"), job.queue_reason ?? "");
  if (job.state === "cancelling" && $("cancel")) $("cancel").querySelector("button").disabled = true;
}

async function look() {
  try {
    job = await get(path);
    show();
  } catch {
    // Asked again in a second.
  }
  return job !== null && OVER.includes(job.state);
}

const refresh = latest(look);

async function poll() {
  if (document.hidden || !(await look())) setTimeout(poll, EVERY_MS);
}

$("events").scrollTop = $("events").scrollHeight;
poll();
// Once it is over the page has more to show: the error or the report, files, what is linked.
follow(`${path}/events/stream`, Number(about.seq), add, look).then(() => location.reload());
