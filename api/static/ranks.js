// The tables of a plan, as the page `macros.html` makes them.
import { h, s } from "./dom.js";
import { amount, percent } from "./units.js";

const COMPONENTS = ["qk", "ov", "mlp"];

function cell(row, beside, component, full) {
  const share = row[component] / full;
  const picture = s("svg", { "aria-hidden": "true", viewBox: "0 0 1 100", preserveAspectRatio: "none" }, s("rect", { class: "kept", y: 100 - 100 * share, width: 1, height: 100 * share }));
  if (beside) picture.append(s("rect", { class: "mark", y: 99 - (99 * beside[component]) / full, width: 1, height: 1.5 }));
  const bits = row.bits?.[component];
  const title = `layer ${row.layer} ${component.toUpperCase()}: ${row[component]} of ${full}${bits ? ` in ${bits} bits` : ""}`;
  return h("td", { title }, picture, h("span", {}, bits ? `${row[component]} @${bits}` : row[component]));
}

export function ranks(rows, full, beside) {
  const head = h("tr", {}, h("th", { scope: "col" }, "layer"), rows.map((row) => h("th", { scope: "col" }, row.layer)));
  const lines = COMPONENTS.map((component) =>
    h("tr", { class: component }, h("th", { scope: "row" }, component.toUpperCase(), h("small", {}, `of ${full[component]}`)), rows.map((row, index) => cell(row, beside?.[index], component, full[component]))),
  );
  const caption = h("caption", { class: "hidden" }, "Ranks by layer; bars show the kept share, lines the uniform plan");
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Ranks by layer" }, h("table", { class: rows.length > 20 ? "ranks many" : "ranks" }, caption, h("thead", {}, head), h("tbody", {}, lines)));
}

const headed = (names) => h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col", class: name === "Price" ? "text" : null }, name))));
const first = (text) => h("th", { scope: "row" }, h("code", {}, text));
const exact = (value, unit) => h("td", { title: `${value} ${unit}` }, amount(value, unit));

export function budgets(rows) {
  const lines = rows.map((row) => {
    const price = row.binding === null ? "–" : (row.binding ? "binding: " : "") + row.shadow_price_text;
    return h("tr", {}, first(row.text), exact(row.used, row.unit), exact(row.limit, row.unit), h("td", {}, percent(row.used / row.limit)), h("td", { class: "text" }, price));
  });
  const caption = h("caption", { class: "hidden" }, "Budgets and what the plan uses of them");
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Budgets" }, h("table", { class: "budgets" }, caption, headed(["Budget", "Used", "Limit", "Share used", "Price"]), h("tbody", {}, lines)));
}

/** What infeasible budgets could reach; `raise` is called with the entry that is to be met. */
export function reach(achievable, raise) {
  const lines = achievable.map((each) => {
    const offer = h("td", { class: "text" }, each.met ? "within reach" : "");
    if (!each.met) {
      const button = h("button", { type: "button" }, `Raise to ${amount(each.minimum, each.unit)}`);
      button.addEventListener("click", () => raise(each));
      offer.append(button);
    }
    return h("tr", {}, first(each.metric), exact(each.limit, each.unit), exact(each.minimum, each.unit), offer);
  });
  return h("table", {}, h("caption", {}, "What each budget can reach"), headed(["Budget", "Asked", "Least", "Cheapest way out"]), h("tbody", {}, lines));
}
