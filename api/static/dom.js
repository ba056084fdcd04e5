// Elements, and when to do what.

/** An HTML element with a text, which stays text whatever it holds. */
export function h(tag, attributes, text) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

/** The element with this id. */
export const $ = (id) => document.getElementById(id);

/** Set a text only where it differs, so that live regions speak of changes alone. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** `run` once nothing has asked for it during `ms`. */
export function settled(run, ms) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(run, ms);
  };
}

/**
 * `run(signal)` at once, one at a time: what is asked for meanwhile is done once afterwards, as things are then. A run that has
 * taken `patience` ms when it is asked for again is aborted. A hand on a slider thus sees answers while it moves.
 */
export function latest(run, patience = Infinity) {
  let running = null;
  let began = 0;
  let again = false;
  return async function ask() {
    again = true;
    if (running) {
      if (performance.now() - began > patience) running.abort();
      return;
    }
    try {
      while (again) {
        again = false;
        running = new AbortController();
        began = performance.now();
        await run(running.signal);
      }
    } finally {
      running = null;
    }
  };
}
