// The token of this start, and questions to the program that serves the page.

const STORE = "securedl-token";

/** The token comes in the fragment, which is never sent; afterwards it is kept for this tab alone. */
function token() {
  const found = new URLSearchParams(location.hash.slice(1)).get("token");
  if (found) {
    sessionStorage.setItem(STORE, found);
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem(STORE) ?? "";
}

const TOKEN = token();

/** Asks for a path below /api; throws an error with the text for people. */
async function ask(path, { method = "GET", type, body } = {}) {
  const headers = { Authorization: `Bearer ${TOKEN}` };
  if (type) headers["Content-Type"] = type;
  let answer;
  try {
    answer = await fetch(`/api${path}`, { method, headers, body });
  } catch {
    throw new Error("The program that serves this page does not answer. Was it stopped?");
  }
  if (answer.ok) return answer;
  const text = await answer.text();
  let reason = text.trim();
  try {
    reason = JSON.parse(text).error ?? reason;
  } catch {
    // Not JSON: it is the text itself.
  }
  throw new Error(reason ? reason[0].toUpperCase() + reason.slice(1) + "." : `Answer ${answer.status}.`);
}

export const facts = async () => (await ask("/facts")).json();
export const status = async () => (await ask("/status")).json();
export const fragment = async (id) => (await ask(`/runs/${id}/html`)).text();
export const report = async (id) => (await ask(`/runs/${id}/report`)).blob();
export const cancel = () => ask("/cancel", { method: "POST" });
export const tamper = (kind, segment) =>
  ask("/tampering", { method: "POST", type: "application/json", body: JSON.stringify({ kind, segment }) });

const begin = async (type, body) => (await ask("/runs", { method: "POST", type, body })).json();
export const classifyPixels = (bytes) => begin("application/octet-stream", bytes);
export const classifyTable = (file) => begin("text/csv", file);
export const classifyExamples = (n) => begin("application/json", JSON.stringify({ examples: n }));
