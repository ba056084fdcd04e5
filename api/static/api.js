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

export const post = async (path, body, signal) =>
  answer(
    await fetch(path, {
      method: "POST",
      headers: { ...ACCEPT, "Content-Type": "application/json" },
      body: JSON.stringify(body),
      signal,
    }),
  );
