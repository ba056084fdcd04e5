// The JSON API. A refusal is thrown as `Refused` with its problem document.
export class Refused extends Error {
  constructor(problem) {
    super(problem.detail);
    this.problem = problem;
  }
}

async function answer(response) {
  const body = await response.json();
  if (!response.ok) throw new Refused(body);
  return body;
}

const ACCEPT = { Accept: "application/json" };

export const get = async (path, signal) => answer(await fetch(path, { headers: ACCEPT, signal }));

/** A part of a page, as the server draws it: one element, ready to be put in place. */
export async function part(path, signal) {
  const response = await fetch(path, { headers: { Accept: "*/*" }, signal });
  if (!response.ok) throw new Refused(await response.json());
  return new DOMParser().parseFromString(await response.text(), "text/html").body.firstElementChild;
}
