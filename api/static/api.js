// What the server answers: documents of the JSON API, and parts of pages as it draws them.
async function answer(path, signal) {
  let response;
  try {
    response = await fetch(path, { headers: { Accept: "*/*" }, signal });
  } catch (error) {
    throw signal?.aborted ? error : new Error("The service does not answer.");
  }
  // A refusal is a problem document, whose detail is for people.
  if (!response.ok) throw new Error((await response.json()).detail);
  return response;
}

export const get = async (path, signal) => (await answer(path, signal)).json();

/** The part of a page that `path` answers with, put in place of the element with this id. What was unfolded stays so. */
export async function swap(id, path, signal) {
  const text = await (await answer(path, signal)).text();
  const [made, old] = [new DOMParser().parseFromString(text, "text/html").body.firstElementChild, document.getElementById(id)];
  const folds = old.querySelectorAll("details");
  made.querySelectorAll("details").forEach((fold, index) => (fold.open = folds[index]?.open ?? false));
  old.replaceWith(made);
}
