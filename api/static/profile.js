// A profile's curves: the heat map and the fields choose which, and the server draws them.
import { swap } from "./api.js";
import { $, h, latest } from "./dom.js";

const choice = $("choice");
const fields = choice.elements;
const cells = [...document.querySelectorAll(".heat a")];

const draw = latest(async () => {
  const query = new URLSearchParams(new FormData(choice));
  const [layer, component] = [fields.layer.value, fields.component.value];
  for (const cell of cells) cell.classList.toggle("chosen", cell.dataset.layer === layer && cell.dataset.component === component);
  try {
    await swap("chart", `${location.pathname}/curves?${query}`);
    history.replaceState(null, "", `?${query}`);
  } catch (error) {
    $("chart").replaceChildren(h("p", { class: "faint" }, error.message));
  }
});

choice.addEventListener("change", draw);
choice.querySelector("button").hidden = true;
for (const cell of cells) {
  cell.addEventListener("click", (event) => {
    event.preventDefault();
    fields.layer.value = cell.dataset.layer;
    fields.component.value = cell.dataset.component;
    draw();
    $("curves").scrollIntoView({ block: "nearest" });
  });
}
$("removal").addEventListener("change", () => $("removal").requestSubmit());
$("removal").querySelector("button").hidden = true;
