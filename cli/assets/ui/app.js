// The page: what is drawn or brought becomes a batch; one batch at a time is classified and shown.

import * as program from "./connection.js";
import { read } from "./files.js";
import { byId, element, showPast, showRunning, spoken } from "./live.js";
import { Pad, centered, paint } from "./pad.js";

const QUICK = 200;
const SLOW = 3000;

let facts;
let pad = null;
/** Samples of the batch to come: cells from 0 to 1. */
let tray = [];
let wasRunning = null;
/** The batch whose verdict is shown, or about to be. */
let wanted = null;
let timer;
/** Questions for the status so far: an answer to an older one is out of date. */
let nLooks = 0;
/** Whether what is told came from asking for the status, and goes with the next answer. */
let isOfStatus = false;

function tell(error, { ofStatus = false } = {}) {
  const notice = byId("notice");
  const text = error?.message ?? "";
  isOfStatus = ofStatus && text !== "";
  // Said once, however often it happens.
  if (notice.textContent === text) return;
  notice.textContent = text;
  notice.hidden = !text;
  if (text) notice.scrollIntoView({ block: "nearest" });
}

function say(text) {
  const place = byId("announcement");
  if (place.textContent !== text) place.textContent = text;
}

/** Runs an action of a person; what goes wrong is told. */
const acting = (action) => async (event) => {
  tell(null);
  try {
    await action(event);
  } catch (error) {
    tell(error);
  }
};

const count = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;

function showTray() {
  const [height, width, channels] = facts.shape;
  const pictures = tray.map((cells, i) => {
    const canvas = element("canvas");
    paint(canvas, cells, width, height, channels);
    const button = element("button", { type: "button", title: "Take it out of the batch" }, canvas);
    button.setAttribute("aria-label", `Take sample ${i + 1} out of the batch`);
    button.onclick = () => {
      tray.splice(i, 1);
      showTray();
    };
    return element("li", {}, button);
  });
  byId("tray").replaceChildren(...pictures);
  const n = tray.length + (pad && !pad.isEmpty ? 1 : 0);
  const free = Math.max(0, facts.n_places - n);
  byId("room").textContent =
    n === 0
      ? `Empty. A batch has room for ${count(facts.n_places, "sample")}; one costs as much as all of them.`
      : `${count(n, "sample")}. There is room for ${count(free, "more sample")} at the same price.`;
  byId("classify").disabled = n === 0 || wasRunning !== null;
  byId("use-examples").disabled = wasRunning !== null;
  byId("empty").hidden = tray.length === 0;
}

function takeDrawing() {
  if (!pad || pad.isEmpty) return;
  const [height, width] = facts.shape;
  tray.push(centered(pad.cells, width, height));
  pad.clear();
}

/** A batch was accepted. It may be over before anybody looks. */
async function started({ id }) {
  wasRunning = id;
  clear();
  byId("result").hidden = true;
  showTray();
  await look();
  if (wasRunning !== null) byId("live").scrollIntoView({ block: "nearest" });
}

async function classify() {
  takeDrawing();
  const bytes = Uint8Array.from(tray.flatMap((cells) => Array.from(cells, (cell) => Math.round(255 * cell))));
  const batch = await program.classifyPixels(bytes);
  tray = [];
  showTray();
  await started(batch);
}

async function bring(files) {
  if (files.length === 0) return;
  const { table, samples } = await read(files, facts.shape);
  if (table) {
    await started(await program.classifyTable(table));
  } else {
    tray.push(...samples);
    showTray();
  }
}

/** The program writes the result; as a document of its own no script in it would run. */
async function show(id) {
  wanted = id;
  const parsed = new DOMParser().parseFromString(await program.fragment(id), "text/html");
  // Another batch was begun or chosen meanwhile.
  if (wanted !== id) return;
  byId("run-number").textContent = `Batch № ${id}`;
  byId("run").replaceChildren(...parsed.body.childNodes);
  byId("run").dataset.batch = id;
  byId("result").hidden = false;
  byId("empty-result").hidden = true;
  byId("run-number").hidden = false;
  byId("run-actions").hidden = false;
  const verdict = document.querySelector("#run .verdict");
  say([verdict?.querySelector("h2")?.textContent, document.querySelector("#run .samples.one .label")?.textContent].filter(Boolean).join(": "));
  byId("result").scrollIntoView({ block: "nearest" });
}

/** No verdict: that of another batch must not stand in its place. */
function clear() {
  wanted = null;
  byId("run").replaceChildren();
  delete byId("run").dataset.batch;
  byId("run-number").hidden = true;
  byId("run-actions").hidden = true;
}

/** A batch is over. */
async function conclude({ id, is_judged: isJudged, headline }) {
  clear();
  try {
    if (isJudged) return await show(id);
    tell(new Error(`Batch № ${id}: ${headline}.`));
  } catch (error) {
    tell(error);
    if (wanted !== id) return;
  }
  byId("empty-title").textContent = isJudged ? `The verdict on batch № ${id} cannot be shown` : `Batch № ${id} has no verdict`;
  byId("empty-result").hidden = false;
}

async function take({ running, past, tampering }) {
  const before = wasRunning;
  wasRunning = running?.id ?? null;
  showRunning(running);
  if (running) say(spoken(running));
  showPast(past, acting(show));
  // While a choice is under way the program has another one.
  if (tampering && !byId("tampering").disabled) markWay(...tampering);
  if (before === wasRunning) return;
  showTray();
  byId("result").hidden = wasRunning !== null;
  const over = past.find((run) => run.id === before);
  if (over) await conclude(over);
}

async function look() {
  clearTimeout(timer);
  const number = ++nLooks;
  let pause = SLOW;
  try {
    const status = await program.status();
    if (number !== nLooks) return;
    if (isOfStatus) tell(null);
    await take(status);
    if (wasRunning !== null) pause = QUICK;
  } catch (error) {
    if (number === nLooks) tell(error, { ofStatus: true });
  }
  if (number !== nLooks) return;
  clearTimeout(timer);
  timer = setTimeout(look, pause);
}

function markWay(kind, segment) {
  const chosen = document.querySelector(`input[name="way"][value="${CSS.escape(kind)}"]`);
  if (chosen) chosen.checked = true;
  byId("segment").value = String(segment);
  byId("segment").disabled = kind === "honest";
  byId("tampering").classList.toggle("cheating", kind !== "honest");
}

function offerTampering() {
  if (facts.tampering.length === 0) return;
  byId("tampering").hidden = false;
  byId("ways").replaceChildren(
    ...facts.tampering.map(([kind, text]) =>
      element("label", { className: "way" }, element("input", { type: "radio", name: "way", value: kind }), element("span", { text })),
    ),
  );
  byId("segment").replaceChildren(
    ...Array.from({ length: facts.n_segments }, (_, i) => element("option", { value: String(i), text: String(i) })),
  );
  const choose = acting(async () => {
    const kind = document.querySelector('input[name="way"]:checked')?.value ?? "honest";
    const segment = Number(byId("segment").value);
    const focused = document.activeElement;
    byId("tampering").disabled = true;
    try {
      await program.tamper(kind, segment);
      markWay(kind, segment);
    } finally {
      byId("tampering").disabled = false;
      if (document.activeElement === document.body) focused?.focus();
      await look();
    }
  });
  byId("tampering").addEventListener("change", choose);
}

async function save() {
  const id = byId("run").dataset.batch;
  const address = URL.createObjectURL(await program.report(id));
  element("a", { href: address, download: `securedl-batch-${id}.html` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

function offerInput() {
  const [height, width, channels] = facts.shape;
  if (facts.shape.length === 3 && channels === 1) {
    byId("drawing").hidden = false;
    pad = new Pad(byId("pad"), byId("cursor"), width, height, showTray);
  } else if (facts.shape.length !== 3) {
    byId("files-title").textContent = "Bring a table";
    byId("drop-text").firstChild.textContent = "Drop a CSV table here, or ";
    byId("tray").closest("section").hidden = true;
  }
  byId("files").accept = facts.shape.length === 3 ? "image/*,.csv,text/csv" : ".csv,text/csv";
  byId("examples").hidden = facts.n_examples === 0;
  byId("n-examples").max = String(facts.n_examples);
  byId("n-examples").value = String(Math.min(16, facts.n_examples));
}

function listen() {
  byId("add").onclick = () => {
    takeDrawing();
    showTray();
  };
  byId("clear").onclick = () => pad.clear();
  byId("empty").onclick = () => {
    tray = [];
    showTray();
  };
  byId("classify").onclick = acting(classify);
  byId("cancel").onclick = acting(program.cancel);
  byId("save").onclick = acting(save);
  byId("use-examples").onclick = acting(async () => {
    await started(await program.classifyExamples(Number(byId("n-examples").value)));
  });
  byId("files").onchange = acting(async (event) => {
    try {
      await bring(event.target.files);
    } finally {
      event.target.value = "";
    }
  });
  const drop = byId("drop");
  for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", over);
    });
  }
  document.addEventListener("drop", acting((event) => bring(event.dataTransfer.files)));
}

async function start() {
  try {
    facts = await program.facts();
  } catch (error) {
    tell(error);
    return;
  }
  document.title = `SecureDL · ${facts.plan}`;
  byId("facts").textContent =
    `Your samples are encrypted here, at ${facts.security_bits}-bit security. The model ${facts.plan} is evaluated by ` +
    `${facts.place}${facts.is_elsewhere ? ", which sees ciphertexts only" : ""}; every reply is checked.`;
  offerInput();
  offerTampering();
  listen();
  showTray();
  await look();
}

start();
