// From values to pixels and to ticks.
const DECADES = 6;
const TICKS = 6;

/** Evenly spaced values of 1, 2 or 5 times a power of ten. */
function even(low, high) {
  const span = high - low;
  const size = 10 ** Math.floor(Math.log10(span));
  const step = [size / 5, size / 2, size, 2 * size].find((each) => span / each <= TICKS) ?? size;
  const ticks = [];
  for (let n = Math.ceil(low / step); n * step <= high * (1 + 1e-12); n += 1) ticks.push(n * step);
  return ticks;
}

/** Powers of ten, and their 2 and 5 where there is room. */
function decades(low, high) {
  const ticks = [];
  const between = high - low < 2.5 ? [1, 2, 5] : [1];
  for (let n = Math.floor(low); n <= Math.ceil(high); n += 1) {
    for (const digit of between) {
      const value = digit * 10 ** n;
      if (Math.log10(value) >= low - 1e-9 && Math.log10(value) <= high + 1e-9) ticks.push(value);
    }
  }
  return ticks;
}

export class Scale {
  /** From `[low, high]` (logarithms where `log`) to pixels `[start, end]`. */
  constructor([low, high], [start, end], log = false) {
    Object.assign(this, { low, high, start, end, log });
  }

  at(value) {
    const spot = this.log ? (value > 0 ? Math.log10(value) : this.low) : value;
    return this.start + ((spot - this.low) / (this.high - this.low)) * (this.end - this.start);
  }

  /** The inverse, as `[low, high]` are given. */
  spot(pixel) {
    return this.low + ((pixel - this.start) / (this.end - this.start)) * (this.high - this.low);
  }

  ticks() {
    return this.log ? decades(this.low, this.high) : even(this.low, this.high);
  }
}

/** What an axis has to show of these values; a logarithm reaches six decades below the largest. */
export function extent(values, log) {
  const shown = log ? values.filter((value) => value > 0).map(Math.log10) : values;
  if (!shown.length) return [0, 1];
  let [low, high] = [Math.min(...shown), Math.max(...shown)];
  if (log) low = Math.min(Math.max(low, high - DECADES), high - 1);
  else low = Math.min(low, 0);
  const room = (high - low || 1) * 0.03;
  return [log ? low - room : low, high + room];
}
