// Numbers and times as `api/pages/units.py` writes them.
const BINARY = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const DECIMAL = ["", "k", "M", "G", "T", "P"];

function scaled(value, base, names) {
  let power = 0;
  while (Math.abs(value) >= base && power < names.length - 1) {
    value /= base;
    power += 1;
  }
  const size = Math.abs(value);
  const decimals = power === 0 || size >= 100 ? 0 : size >= 10 ? 1 : 2;
  return `${value.toFixed(decimals)} ${names[power]}`.trim();
}

export function nats(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  if (Math.abs(value) >= 999.5) return value.toFixed(0);
  if (Math.abs(value) < 0.0001) return value.toExponential(2);
  return value.toPrecision(3);
}

export function amount(value, unit = "") {
  if (unit === "bytes") return scaled(value, 1024, BINARY);
  if (Math.abs(value) < 10000) return Math.round(value).toLocaleString("en-US");
  return scaled(value, 1000, DECIMAL);
}

export const percent = (share) => `${(100 * share).toFixed(1).replace(/\.0$/, "")} %`;

export const when = (text) => (text ? text.slice(0, 19).replace("T", " ") : "–");
