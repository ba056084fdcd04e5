// What the workshop's form asks for, in the API's words.
const KINDS = ["align", "min_rank", "pin", "tie"];
const OPTIONS = { memory: ["batch", "context"], flops_per_token: ["context", "phase"] };

const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`);

export class Asked {
  constructor(form) {
    this.data = new FormData(form);
    this.key = form.dataset.key;
    this.use = this.data.getAll("use");
  }

  value(name) {
    return (this.data.get(name) ?? "").trim();
  }

  label(metric) {
    const options = (OPTIONS[metric] ?? []).map((name) => `${name}=${this.value(`${metric}_${name}`)}`);
    return options.length ? `${metric}@${options.join(",")}` : metric;
  }

  budget(metric) {
    const [name, options] = this.label(metric).split("@");
    return `${name}=${this.value(metric)}${options ? `@${options}` : ""}`;
  }

  get budgets() {
    return this.use.map((metric) => this.budget(metric));
  }

  get constraints() {
    const given = KINDS.map((kind) => [kind, this.value(kind).split(/\s+/).filter(Boolean)]);
    return Object.fromEntries(given.filter(([, texts]) => texts.length));
  }

  get body() {
    const body = { profile_key: this.key, budgets: this.budgets };
    return Object.keys(this.constraints).length ? { ...body, constraints: this.constraints } : body;
  }

  /** The path of the frontier along one metric, all else as asked. */
  frontier(metric, points) {
    const query = new URLSearchParams([["metric", this.label(metric)], ["points", points]]);
    for (const other of this.use) if (other !== metric) query.append("budget", this.budget(other));
    for (const [kind, texts] of Object.entries(this.constraints)) for (const text of texts) query.append(kind, text);
    return `/v1/profiles/${encodeURIComponent(this.key)}/frontier?${query}`;
  }

  /** The page's address, to be kept or sent on. */
  get address() {
    const query = new URLSearchParams([["profile", this.key], ...this.use.map((metric) => ["use", metric])]);
    for (const metric of this.use) {
      query.append(metric, this.value(metric));
      for (const option of OPTIONS[metric] ?? []) query.append(`${metric}_${option}`, this.value(`${metric}_${option}`));
    }
    for (const [kind, texts] of Object.entries(this.constraints)) query.append(kind, texts.join(" "));
    return `/workshop?${query}`;
  }

  get cli() {
    const limits = this.budgets.flatMap((text) => ["--budget", text]);
    const others = Object.entries(this.constraints).flatMap(([kind, texts]) => texts.flatMap((text) => [`--${kind.replace("_", "-")}`, text]));
    return ["rankalloc", "plan", this.key, ...limits, ...others].map(quoted).join(" ");
  }

  get rest() {
    const body = JSON.stringify(this.body);
    return ["curl", "-s", `${location.origin}/v1/plans`, "-H", "content-type: application/json", "-d", body].map(quoted).join(" ");
  }
}
