// Pages and parts of pages, as the server draws them.
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

/** A page, parsed and not shown. */
export const fetchPage = async (path, signal) => new DOMParser().parseFromString(await (await answer(path, signal)).text(), "text/html");

/** The part of a page that `path` answers with, put in place of the element with this id. What was unfolded stays so. */
export async function swap(id, path, signal) {
  const [fresh, old] = [(await fetchPage(path, signal)).body.firstElementChild, document.getElementById(id)];
  const folds = old.querySelectorAll("details");
  fresh.querySelectorAll("details").forEach((fold, index) => (fold.open = folds[index]?.open ?? false));
  old.replaceWith(fresh);
}
