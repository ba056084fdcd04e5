// The list of jobs follows the store: the page is asked anew, and what has changed is put in place.
import { fetchPage } from "./api.js";
import { $, say } from "./dom.js";

const EVERY_MS = 1500;
const rows = $("jobs");

/** Rows that are the same stay the same elements, so that focus and selection stay. How many came in. */
function update(fresh) {
  const before = new Map([...rows.children].map((row) => [row.dataset.id, row]));
  const focused = document.activeElement?.closest("#jobs tr")?.dataset.id;
  fresh.forEach((row, index) => {
    const [here, old] = [rows.children[index], before.get(row.dataset.id)];
    if (here && here === old) {
      if (here.outerHTML !== row.outerHTML) here.replaceWith(row);
    } else rows.insertBefore(old?.outerHTML === row.outerHTML ? old : row, here ?? null);
  });
  const added = [...rows.children].slice(0, fresh.length).filter((row) => !before.has(row.dataset.id)).length;
  while (rows.children.length > fresh.length) rows.lastElementChild.remove();
  if (focused && !rows.contains(document.activeElement)) rows.querySelector(`[data-id="${CSS.escape(focused)}"] a`)?.focus();
  return added;
}

async function look() {
  if (!document.hidden) {
    try {
      const page = await fetchPage(`${$("filters").action}${location.search}`);
      const added = update([...page.getElementById("jobs").children]);
      for (const id of ["list", "empty", "welcome"]) $(id).hidden = page.getElementById(id).hidden;
      if (added) say($("live"), added === 1 ? "A new job came in." : `${added} new jobs came in.`);
      else if ($("live").classList.contains("lost")) say($("live"), "The service answers again.");
      $("live").className = "faint";
    } catch (error) {
      say($("live"), error.message);
      $("live").className = "lost";
    }
  }
  setTimeout(look, EVERY_MS);
}

$("filters").addEventListener("change", (event) => {
  if (event.target.tagName === "SELECT") $("filters").requestSubmit();
});
if (rows.dataset.live === "yes") setTimeout(look, EVERY_MS);
