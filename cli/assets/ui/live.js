// A run while it goes on, and the list of those that are over.

const MARKS = { waiting: "·", running: "●", passed: "✓", rejected: "✗", good: "✓", bad: "✗", doubtful: "?" };

export const byId = (id) => document.getElementById(id);

export function element(tag, { className = "", text = "", ...rest } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), { className, textContent: text }, rest);
  made.append(...children);
  return made;
}

function picture(id, drawing) {
  const image = byId(id);
  image.hidden = !drawing;
  if (drawing && image.getAttribute("src") !== drawing.source) {
    Object.assign(image, { src: drawing.source, alt: drawing.description, width: drawing.width, height: drawing.height });
  }
}

function step(round) {
  const item = element("li", { className: round.state });
  const part = round.n_blocks > 1 ? ` (${round.n_answered} of ${round.n_blocks} blocks)` : "";
  const words = {
    waiting: "",
    running: round.n_answered > 0 ? "checking the reply" : round.n_begun > 0 ? "encrypting and sending" : "making a key",
    passed: `${round.sizes}, ${round.time}`,
    rejected: `failed its check; ${round.sizes}, ${round.time}`,
  }[round.state];
  const mark = element("span", { className: "mark", text: MARKS[round.state] });
  mark.setAttribute("aria-hidden", "true");
  item.append(
    mark,
    element("span", { text: `Round ${round.number}: ${round.computes}` }),
    element("span", { text: part }),
    element("span", { className: "quiet", text: words }),
  );
  return item;
}

/** Shows the run under way, or nothing. */
export function showRunning(running) {
  byId("live").hidden = !running;
  if (!running) return;
  picture("live-input", running.input);
  picture("live-ciphertext", running.ciphertext);
  byId("live-source").textContent = `${running.n_samples} ${running.n_samples === 1 ? "sample" : "samples"}: ${running.source}`;
  if (running.ciphertext) byId("live-cipher-text").textContent = running.ciphertext.description;
  else byId("live-cipher-text").textContent = "Encrypting …";
  byId("live-rounds").replaceChildren(...running.rounds.map(step));
  byId("live-time").textContent = `${running.seconds.toFixed(1)} s`;
}

/** Where a run is, in a sentence for those who listen. */
export function spoken(running) {
  const round = running.rounds.find((each) => each.state === "running");
  return round ? `Round ${round.number} of ${running.rounds.length}` : "Preparing";
}

let lastPast = "";

/** Shows the runs that are over; `open` is called with the number of the one chosen. */
export function showPast(past, open) {
  const key = JSON.stringify(past);
  // Buttons that are replaced lose focus, and clicks that have begun.
  if (key === lastPast) return;
  lastPast = key;
  byId("past").hidden = past.length === 0;
  byId("past-list").replaceChildren(
    ...past.map((run) => {
      const what = [`${run.n_samples} ${run.n_samples === 1 ? "sample" : "samples"}`, run.source];
      if (run.label !== null) what.push(`taken for ${run.label}`);
      if (run.n_receipts > 0) what.push(`${run.n_receipts} receipts`);
      const inside = [
        element("span", { className: "mark", text: MARKS[run.tone] }),
        element("span", {}, element("strong", { className: "headline", text: run.headline }), element("br"), element("span", { className: "quiet", text: what.join(" · ") })),
        element("span", { className: "quiet", text: `№ ${run.id}` }),
      ];
      const row = run.is_judged
        ? element("button", { type: "button", onclick: () => open(run.id) }, ...inside)
        : element("div", { className: "plain" }, ...inside);
      return element("li", { className: run.tone }, row);
    }),
  );
}
