// A profile's curves as a chart; the heat map and the fields choose which.
import { get } from "./api.js";
import { Chart, key } from "./chart.js";
import { $ } from "./dom.js";
import { nats, percent } from "./units.js";

const box = $("chart");
const fields = $("choice").elements;
const cells = [...document.querySelectorAll(".heat a")];
const KINDS = [["qk", "QK"], ["ov", "OV"], ["mlp", "MLP"]];

function series(curve) {
  const full = curve.ranks.at(-1);
  const measured = new Map(curve.measured.map((point) => [point.rank, point]));
  const name = `layer ${curve.layer} ${curve.component.toUpperCase()}`;
  const points = curve.ranks.map((rank, index) => {
    const point = measured.get(rank);
    const told = point ? `${nats(point.loss_nats)} ± ${nats(point.stderr_nats)} nats/token, measured` : `${nats(curve.loss_nats[index])} nats/token, interpolated`;
    return { x: rank / full, y: point ? point.loss_nats : curve.loss_nats[index], error: point?.stderr_nats, dot: Boolean(point), told: `${name}, rank ${rank} of ${full}: ${told}` };
  });
  return { kind: curve.component, layer: String(curve.layer), name, points };
}

async function start() {
  const all = (await get(box.dataset.curves)).curves.filter((curve) => curve.ranks.length > 1).map(series);
  const chart = new Chart(box, { label: "Loss against kept rank", x: { label: "kept share of the full rank", format: percent, domain: [0, 1] } });
  chart.tools.prepend(...key(KINDS));
  const show = () => {
    const [layer, component] = [fields.layer.value, fields.component.value];
    chart.show(all.filter((each) => (!layer || each.layer === layer) && (!component || each.kind === component)), { log: fields.scale.value === "log" });
    for (const cell of cells) cell.classList.toggle("chosen", cell.dataset.layer === layer && cell.dataset.component === component);
  };
  $("choice").addEventListener("change", show);
  $("choice").addEventListener("submit", (event) => {
    event.preventDefault();
    show();
  });
  for (const cell of cells) {
    cell.addEventListener("click", (event) => {
      event.preventDefault();
      fields.layer.value = cell.dataset.layer;
      fields.component.value = cell.dataset.component;
      show();
      $("curves").scrollIntoView({ block: "nearest" });
    });
  }
  $("choice").querySelector("button").hidden = true;
  show();
}

$("removal").addEventListener("change", () => $("removal").requestSubmit());
$("removal").querySelector("button").hidden = true;
start();
