// Lines and points with hover, a keyboard cursor and zoom, as inline SVG.
import { h, s } from "./dom.js";
import { Scale, extent } from "./scale.js";

const [LEFT, RIGHT, TOP, BOTTOM, HEIGHT, NARROWEST] = [52, 26, 24, 38, 330, 260];
const NEAR = 40;
const MANY = 4;

const brief = (value) => (value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(0) : String(Number(value.toPrecision(3))));

export class Chart {
  /**
   * In place of what `box` shows. `x` is {label, format, domain}; `label` says what the whole is.
   * Series: {kind, name, points: [{x, y, told, error?, dot?}], step?}; `told` is what the readout says of a point.
   */
  constructor(box, { label, x }) {
    Object.assign(this, { box, x, series: [], log: true, zoom: null, here: null, limit: null, drag: null });
    this.svg = s("svg", { tabindex: 0, role: "application", "aria-label": `${label}. Arrow keys walk along the points, plus and minus zoom, 0 shows all.` });
    this.readout = h("p", { class: "readout", role: "status", "aria-live": "polite" }, "Point at the chart, or focus it and use the arrow keys; drag to zoom.");
    const button = (text, name, run) => {
      const made = h("button", { type: "button", "aria-label": name, title: name }, text);
      made.addEventListener("click", run);
      return made;
    };
    const zooms = [button("+", "Zoom in", () => this.scaleBy(0.5)), button("−", "Zoom out", () => this.scaleBy(2)), button("All", "Show all", () => this.reset())];
    this.tools = h("div", { class: "tools" }, this.readout, zooms);
    box.replaceChildren(this.svg, this.tools);
    this.listen();
    new ResizeObserver(() => this.draw()).observe(box);
  }

  show(series, { log = this.log, limit = null } = {}) {
    if (log !== this.log) this.zoom = null;
    Object.assign(this, { series, log, limit, here: null });
    this.draw();
  }

  whole() {
    const points = this.series.flatMap((each) => each.points);
    const values = points.flatMap((point) => [point.y, point.y + (point.error ?? 0)]);
    return { x: this.x.domain ?? extent(points.map((point) => point.x), false), y: extent(values, this.log) };
  }

  draw() {
    const width = Math.max(this.box.clientWidth - 20, NARROWEST);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const domain = this.zoom ?? this.whole();
    this.across = new Scale(domain.x, [LEFT, width - RIGHT]);
    this.up = new Scale(domain.y, [HEIGHT - BOTTOM, TOP], this.log);
    const plot = s("svg", { x: LEFT, y: TOP, width: width - LEFT - RIGHT, height: HEIGHT - TOP - BOTTOM, viewBox: `${LEFT} ${TOP} ${width - LEFT - RIGHT} ${HEIGHT - TOP - BOTTOM}` });
    const dim = this.here && this.series.length > MANY;
    this.series.forEach((each, index) => plot.append(this.line(each, dim && index !== this.here.series)));
    if (this.limit !== null) {
      const spot = this.across.at(this.limit);
      plot.append(s("line", { class: "limit", x1: spot, x2: spot, y1: TOP, y2: HEIGHT - BOTTOM }));
    }
    if (this.here) {
      const point = this.series[this.here.series].points[this.here.point];
      plot.append(s("circle", { class: "here", cx: this.across.at(point.x), cy: this.height(point.y), r: 5 }));
    }
    this.selection = s("rect", { class: "box", width: 0, height: 0 });
    plot.append(this.selection);
    this.svg.replaceChildren(...this.axes(width), plot);
  }

  height(y) {
    return Math.min(this.up.at(y), this.up.start + 1e4);
  }

  line(each, dim) {
    const group = s("g", { class: dim ? "dim" : null });
    const steps = each.points.map((point, index) => {
      const [x, y] = [this.across.at(point.x).toFixed(1), Math.min(this.height(point.y), 9999).toFixed(1)];
      return index === 0 ? `M${x} ${y}` : each.step ? `H${x}V${y}` : `L${x} ${y}`;
    });
    group.append(s("path", { class: `line ${each.kind}`, d: steps.join("") }));
    for (const point of each.points.filter((one) => one.dot)) {
      const x = this.across.at(point.x);
      if (point.error) {
        const ends = [point.y + point.error, point.y - point.error].map((y) => this.height(y));
        group.append(s("line", { class: `error ${each.kind}`, x1: x, x2: x, y1: ends[0], y2: ends[1] }));
      }
      group.append(s("circle", { class: each.kind, cx: x, cy: this.height(point.y), r: 2.4 }));
    }
    return group;
  }

  axes(width) {
    const bottom = HEIGHT - BOTTOM;
    const parts = [];
    for (const tick of this.up.ticks()) {
      const y = this.up.at(tick);
      parts.push(s("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y, y2: y }), s("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, brief(tick)));
    }
    for (const tick of this.across.ticks()) {
      const x = this.across.at(tick);
      parts.push(s("line", { class: "axis", x1: x, x2: x, y1: bottom, y2: bottom + 4 }), s("text", { x, y: bottom + 16, "text-anchor": "middle" }, this.x.format(tick)));
    }
    parts.push(s("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: bottom, y2: bottom }));
    parts.push(s("text", { x: (LEFT + width - RIGHT) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, this.x.label));
    parts.push(s("text", { x: 2, y: 12 }, "nats/token"));
    return parts;
  }

  listen() {
    const svg = this.svg;
    svg.addEventListener("pointermove", (event) => (this.drag ? this.stretch(this.place(event)) : this.near(this.place(event))));
    svg.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "touch") return;
      this.drag = this.place(event);
      svg.setPointerCapture(event.pointerId);
    });
    svg.addEventListener("pointerup", (event) => this.release(this.place(event)));
    svg.addEventListener("pointercancel", () => (this.drag = null));
    svg.addEventListener("dblclick", () => this.reset());
    svg.addEventListener("keydown", (event) => {
      const run = { ArrowRight: () => this.walk(1), ArrowLeft: () => this.walk(-1), ArrowUp: () => this.change(-1), ArrowDown: () => this.change(1), "+": () => this.scaleBy(0.5), "=": () => this.scaleBy(0.5), "-": () => this.scaleBy(2), 0: () => this.reset() }[event.key];
      if (!run || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      run();
    });
  }

  place(event) {
    const frame = this.svg.getBoundingClientRect();
    const scale = this.svg.viewBox.baseVal.width / frame.width;
    return { x: (event.clientX - frame.left) * scale, y: (event.clientY - frame.top) * scale };
  }

  near(place) {
    let best = null;
    let least = NEAR;
    this.series.forEach((each, series) =>
      each.points.forEach((point, index) => {
        const away = Math.hypot(this.across.at(point.x) - place.x, this.height(point.y) - place.y);
        if (away < least) [best, least] = [{ series, point: index }, away];
      }),
    );
    if (best && (best.series !== this.here?.series || best.point !== this.here?.point)) this.go(best);
  }

  go(here) {
    this.here = here;
    this.readout.textContent = this.series[here.series].points[here.point].told;
    this.draw();
  }

  walk(by) {
    if (!this.series.length) return;
    const series = this.here?.series ?? 0;
    const last = this.series[series].points.length - 1;
    this.go({ series, point: this.here ? Math.min(Math.max(this.here.point + by, 0), last) : 0 });
  }

  change(by) {
    if (!this.series.length) return;
    const series = ((this.here?.series ?? 0) + by + this.series.length) % this.series.length;
    this.go({ series, point: Math.min(this.here?.point ?? 0, this.series[series].points.length - 1) });
  }

  stretch(place) {
    const [x, y] = [Math.min(place.x, this.drag.x), Math.min(place.y, this.drag.y)];
    for (const [name, value] of Object.entries({ x, y, width: Math.abs(place.x - this.drag.x), height: Math.abs(place.y - this.drag.y) })) this.selection.setAttribute(name, value);
  }

  release(place) {
    const from = this.drag;
    this.drag = null;
    if (!from || Math.abs(place.x - from.x) < 8 || Math.abs(place.y - from.y) < 8) return this.draw();
    const sorted = (scale, one, other) => [scale.spot(one), scale.spot(other)].sort((a, b) => a - b);
    this.zoom = { x: sorted(this.across, from.x, place.x), y: sorted(this.up, from.y, place.y) };
    return this.draw();
  }

  /** Around the chosen point, else around the middle. */
  scaleBy(factor) {
    const chosen = this.here && this.series[this.here.series].points[this.here.point];
    const around = (scale, value) => {
      const middle = value === undefined ? (scale.low + scale.high) / 2 : scale.spot(scale.at(value));
      return [middle + (scale.low - middle) * factor, middle + (scale.high - middle) * factor];
    };
    this.zoom = { x: around(this.across, chosen?.x), y: around(this.up, chosen?.y) };
    this.draw();
  }

  reset() {
    this.zoom = null;
    this.draw();
  }
}

/** A line of the series' kinds and their names. */
export function key(kinds) {
  return kinds.map(([kind, name]) => h("span", { class: "key" }, s("svg", { viewBox: "0 0 26 8", "aria-hidden": "true" }, s("path", { class: `line ${kind}`, d: "M0 4H26" })), name));
}
