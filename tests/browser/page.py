#!/usr/bin/env python3
"""The local page in a real browser: draw, classify, let the server cheat, look at it in both themes.

    tests/browser/page.py target/debug/securedl [--screenshots DIR]

Needs Chromium and chromedriver (Debian: chromium, chromium-driver) and nothing else: chromedriver
speaks WebDriver, which is JSON over HTTP. Without them it says SKIPPED and succeeds. Waits for what it
wants to see, with a generous limit; nothing has to be fast.
"""

import argparse
import base64
import http.client
import json
import pathlib
import queue
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib

LIMIT = 240  # seconds, for anything
BROWSER_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-dev-shm-usage",
]
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"

# Text that is hard to read: every piece of text on the screen against what is behind it.
HARD_TO_READ = """
const parse = (color) => (color.match(/[\\d.]+/g) ?? []).map(Number);
const linear = (v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
const over = ([r, g, b, a = 1], behind) => [r, g, b].map((v, i) => a * v + (1 - a) * behind[i]);
const behind = (element) => {
  const layers = [];
  for (let at = element; at; at = at.parentElement) layers.unshift(parse(getComputedStyle(at).backgroundColor));
  return layers.reduce((below, layer) => over(layer, below), matchMedia("(prefers-color-scheme: dark)").matches ? [0, 0, 0] : [255, 255, 255]);
};
const found = [];
for (const element of document.querySelectorAll("body *")) {
  const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!hasText || !element.checkVisibility() || element.closest(":disabled, .unseen, .skip")) continue;
  const back = behind(element);
  const [a, b] = [light(over(parse(getComputedStyle(element).color), back)), light(back)].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${element.tagName}.${element.className}: ${element.textContent.trim().slice(0, 40)}`);
}
return found;
"""

# What the server does, by its own word.
WAY = """
const headers = { Authorization: `Bearer ${sessionStorage.getItem("securedl-token")}` };
fetch("/api/status", { headers }).then((answer) => answer.json()).then((status) => arguments[0](status.tampering));
"""

# The page asks for the status as usual, but after a batch was accepted only when that is over; batches after
# `nJudged` look cancelled; while it `isSilent`, the program does not answer.
OVER_AT_ONCE = """
const real = window.fetch;
let over = Promise.resolve();
window.nAsked = 0;
window.nJudged = Infinity;
window.isSilent = false;
window.fetch = async (path, options) => {
  if (window.isSilent) throw new TypeError("silent");
  if (path === "/api/status") {
    await over;
    const answer = await real(path, options);
    const status = await answer.json();
    window.nAsked += 1;
    for (const run of status.past.filter((run) => run.id > window.nJudged)) Object.assign(run, { is_judged: false, headline: "Cancelled" });
    return new Response(JSON.stringify(status), { status: answer.status });
  }
  const answer = await real(path, options);
  if (path === "/api/runs" && answer.ok) {
    over = (async () => {
      const running = async () => (await (await real("/api/status", { headers: options.headers })).json()).running;
      while (await running()) await new Promise((resolve) => setTimeout(resolve, 50));
    })();
  }
  return answer;
};
"""

UNLABELED = """
return [...document.querySelectorAll("button, input, select, canvas[tabindex], img")].filter((e) => e.checkVisibility())
  .filter((e) => !(e.getAttribute("aria-label") || e.alt || e.textContent.trim() || e.labels?.length)).map((e) => e.outerHTML.slice(0, 80));
"""


def wait_for(what, condition):
    """What `condition` gives as soon as that is something."""
    begun = time.monotonic()
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() - begun > LIMIT:
            raise AssertionError(f"no {what} in {LIMIT} s")
        time.sleep(0.1)


class Browser:
    """One window, driven over WebDriver."""

    def __init__(self, port, binary, profile):
        self.port = port
        options = {"binary": binary, "args": [*BROWSER_FLAGS, f"--user-data-dir={profile}"]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self.session = ""
        answer = self.ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.session = f"/session/{answer['sessionId']}"

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
        text = None if body is None else json.dumps(body)
        connection.request(method, self.session + path, text, {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())["value"]
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(f"{path}: {answer['error']}: {answer['message']}")
        return answer

    def close(self):
        self.ask("DELETE", "")

    def open(self, address):
        self.ask("POST", "/url", {"url": address})

    def run(self, script, *arguments):
        return self.ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def run_async(self, script):
        return self.ask("POST", "/execute/async", {"script": script, "args": []})

    def devtools(self, command, **parameters):
        self.ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def find(self, selector):
        return self.ask("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector)

    def click(self, selector):
        self.run("document.querySelector(arguments[0]).scrollIntoView({block: 'center'})", selector)
        wait_for(f"{selector} to click", lambda: self.run("return !document.querySelector(arguments[0]).disabled", selector))
        self.ask("POST", f"/element/{self.find(selector)}/click", {})

    def type(self, selector, keys):
        self.ask("POST", f"/element/{self.find(selector)}/value", {"text": keys})

    def draw(self, selector, strokes):
        """Strokes of points; (0, 0) is the middle of the element."""
        self.run("document.querySelector(arguments[0]).scrollIntoView({block: 'center'})", selector)
        origin = {ELEMENT: self.find(selector)}
        for stroke in strokes:
            moves = [{"type": "pointerMove", "duration": 20, "origin": origin, "x": x, "y": y} for x, y in stroke]
            down, up = {"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}
            actions = [moves[0], down, *moves[1:], up]
            self.ask("POST", "/actions", {"actions": [{"type": "pointer", "id": "pen", "actions": actions}]})

    def size(self, width, height):
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)

    def theme(self, name):
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def errors(self):
        return [entry for entry in self.ask("POST", "/se/log", {"type": "browser"}) if entry["level"] == "SEVERE"]

    def picture(self, path):
        height = self.run("return document.documentElement.scrollHeight")
        width = self.run("return innerWidth")
        self.size(width, height)
        path.write_bytes(base64.b64decode(self.ask("GET", "/screenshot")))


class Visit:
    """The page, and what a person does with it."""

    def __init__(self, browser, folder, screenshots):
        self.browser, self.folder, self.screenshots = browser, folder, screenshots
        self.n_batches = 0

    def classified(self, begin):
        """Begin a batch and wait for its verdict."""
        begin()
        self.n_batches += 1
        n = self.n_batches
        script = "return document.querySelector('#run').dataset.batch === arguments[0] && document.querySelector('#live').hidden"
        wait_for(f"verdict on batch {n}", lambda: self.browser.run(script, str(n)) or self.browser.text("#notice"))
        notice = self.browser.text("#notice")
        assert not notice, notice
        return self.browser.run("return document.querySelector('#run .verdict').dataset.verdict")

    def look(self, name):
        """No text that is hard to read, nothing without a name, nothing beyond the edge; pictures."""
        for theme in ["light", "dark"]:
            self.browser.theme(theme)
            for width, height in [(1280, 900), (390, 844), (320, 640)]:
                self.browser.size(width, height)
                where = f"{name}, {theme}, {width} wide"
                beyond = self.browser.run("return document.documentElement.scrollWidth - innerWidth")
                assert beyond <= 0, f"{where}: {beyond} pixels beyond the edge"
                hard = self.browser.run(HARD_TO_READ)
                assert not hard, f"{where}: {hard}"
                if self.screenshots and width != 320:
                    self.browser.picture(self.screenshots / f"{name}-{theme}-{width}.png")
        unlabeled = self.browser.run(UNLABELED)
        assert not unlabeled, f"{name}: {unlabeled}"
        self.browser.theme("light")
        self.browser.size(1280, 900)

    def cheat(self, kind, segment):
        # A choice is under way until the program has answered.
        chosen = "return !document.querySelector('#tampering').disabled && document.querySelector('[name=way]:checked')?.value"
        self.browser.click(f"input[name=way][value={kind}]")
        wait_for("an answer to the choice", lambda: self.browser.run(chosen) == kind)
        self.browser.run(
            "const s = document.querySelector('#segment'); s.value = arguments[0]; s.dispatchEvent(new Event('change', {bubbles: true}))",
            str(segment),
        )
        wait_for("the choice", lambda: self.browser.run_async(WAY) == [kind, segment])
        marked = "return document.querySelector('#tampering').classList.contains('cheating')"
        wait_for("its mark", lambda: self.browser.run(marked) == (kind != "honest"))

    def samples_of_every_kind(self):
        browser = self.browser
        assert "securedl" in browser.text("#facts").lower() or "128-bit" in browser.text("#facts")
        assert browser.run("return location.hash") == "", "the token leaves the address bar"
        self.look("empty")

        # With a pointer: a one.
        browser.draw("#pad", [[(-10, -70), (14, -100), (10, 0), (6, 100)]])
        assert browser.text("#room").startswith("1 sample."), browser.text("#room")
        assert self.classified(lambda: browser.click("#classify")) == "Intact"
        assert browser.text("#run .label") in list("0123456789")
        assert browser.run("return document.querySelectorAll('#run .journey img').length") == 2
        assert browser.run("return document.querySelectorAll('#run .rounds tbody tr.passed').length") == 3
        self.look("one")

        # With the keyboard: Shift keeps the pen down.
        shift, right, down = "\ue008", "\ue014", "\ue015"
        browser.run("document.querySelector('#pad').focus()")
        browser.type("#pad", shift + 5 * right + 7 * down + shift)
        assert browser.text("#room").startswith("1 sample."), browser.text("#room")
        browser.click("#add")

        # From a file: dark on light, of another size.
        image = self.folder / "seven <b>.png"
        image.write_bytes(png(56, 56, lambda x, y: 0 if 12 < x < 44 and (8 < y < 14 or x + y in range(54, 60)) else 255))
        browser.type("#files", str(image))
        wait_for("two samples", lambda: browser.run("return document.querySelectorAll('#tray li').length") == 2)
        assert self.classified(lambda: browser.click("#classify")) == "Intact"
        assert browser.run("return document.querySelectorAll('#run .sample').length") == 2

        # From a table, with a label; and from one that is none.
        table = self.folder / "digits.csv"
        header = ",".join(f"p{i}" for i in range(784))
        rows = "".join(f"{','.join(['0'] * 300 + ['0.9'] * 184 + ['0'] * 300)},{label}\n" for label in [3, 5])
        table.write_text(f"{header},label\n{rows}")
        assert self.classified(lambda: browser.type("#files", str(table))) == "Intact"
        assert "of 2 right" in browser.text("#run .right")
        table.write_text("a,b\n1,x\n")
        browser.type("#files", str(table))
        wait_for("the reason", lambda: browser.text("#notice"))

        # Examples fill the batch.
        browser.run("document.querySelector('#n-examples').value = 64")
        assert self.classified(lambda: browser.click("#use-examples")) == "Intact"
        assert "of 64 right" in browser.text("#run .right")
        self.look("many")

    def cheats(self):
        browser = self.browser
        for kind, segment in [("weight", 1), ("word", 2), ("honest", 0)]:
            self.cheat(kind, segment)
            browser.draw("#pad", [[(0, -90), (0, 90)]])
            verdict = self.classified(lambda: browser.click("#classify"))
            if kind == "honest":
                assert verdict == "Intact", verdict
                continue
            assert verdict in ["ModelModified", "ComputationTampered"], verdict
            told = browser.text("#run")
            assert "No predictions were released" in told and "What gave it away" in told, told
            assert f"Segment {segment}:" in browser.text("#run .faults"), told
            assert browser.run("return document.querySelectorAll('#run .sample').length") == 0
            if kind == "weight":
                self.look("caught")
        # An old one, by hand.
        browser.click("#past-list li:nth-child(2) button")
        wait_for("the old verdict", lambda: browser.run("return document.querySelector('#run .verdict').classList.contains('bad')"))

    def moments(self):
        """A batch that is over before anybody looks, and one without a verdict."""
        browser = self.browser
        old = browser.run("return document.querySelector('#run').dataset.batch")
        browser.run(OVER_AT_ONCE)
        browser.draw("#pad", [[(0, -90), (0, 90)]])
        assert self.classified(lambda: browser.click("#classify")) == "Intact"
        assert browser.text("#run-number") == f"Batch № {self.n_batches}" and old != str(self.n_batches)

        # Buttons of past batches stay the same ones while nothing happens.
        browser.run("document.querySelector('#past-list button').dataset.mine = 'yes'")
        browser.run("window.nAsked = 0")
        wait_for("two questions", lambda: browser.run("return window.nAsked >= 2"))
        assert browser.run("return document.querySelector('#past-list button').dataset.mine") == "yes"

        browser.run("window.nJudged = arguments[0]", self.n_batches)
        browser.draw("#pad", [[(0, -90), (0, 90)]])
        browser.click("#classify")
        self.n_batches += 1
        wait_for("the reason", lambda: browser.text("#notice"))
        assert browser.text("#notice") == f"Batch № {self.n_batches}: Cancelled.", browser.text("#notice")
        assert browser.text("#run") == "" and browser.run("return document.querySelector('#run-number').hidden")
        assert browser.text("#empty-result h2") == f"Batch № {self.n_batches} has no verdict"
        self.look("none")
        # It was said once, and stays until a person does something.
        browser.run("window.nAsked = 0")
        wait_for("two questions", lambda: browser.run("return window.nAsked >= 2"))
        assert browser.text("#notice") == f"Batch № {self.n_batches}: Cancelled."

        # What comes from asking goes with the next answer.
        browser.run("window.isSilent = true")
        wait_for("the reason", lambda: "does not answer" in browser.text("#notice"))
        browser.run("window.isSilent = false")
        wait_for("no notice", lambda: browser.text("#notice") == "")

    def strangers(self, address):
        """Without the token there is an explanation and nothing else."""
        self.browser.run("sessionStorage.clear()")
        self.browser.open(address.split("#")[0])
        wait_for("the reason", lambda: "token" in self.browser.text("#notice"))
        assert self.browser.run("return document.querySelector('#drawing').hidden")


def png(width, height, gray):
    """A gray PNG."""
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + bytes(gray(x, y) for x in range(width)) for y in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def line_of(process, wanted):
    """The first line of a process that holds a text."""
    lines = queue.Queue()

    def read():
        # To the end, so that the process can write on.
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            line = lines.get(timeout=max(0, deadline - time.monotonic()))
        except queue.Empty:
            raise AssertionError(f"no {wanted!r} in {LIMIT} s") from None
        if line is None:
            raise AssertionError(f"the process ended without {wanted!r}")
        if wanted in line:
            return line.strip()


def end(process):
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--screenshots", type=pathlib.Path)
    arguments = parser.parse_args()
    browser_path, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    if not (browser_path and driver_path):
        print("SKIPPED: no chromium with chromedriver (Debian: apt-get install chromium chromium-driver)")
        return
    if arguments.screenshots:
        arguments.screenshots.mkdir(parents=True, exist_ok=True)
    started, folder = [], tempfile.TemporaryDirectory()

    def start(*command):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True)
        started.append(process)
        return process

    try:
        served = start(str(arguments.program), "demo", "--ui", "--listen", "127.0.0.1:0", "--seed", "5")
        address = line_of(served, "#token=").split()[-1]
        driver = start(driver_path, "--port=0")
        port = int(line_of(driver, "started successfully on port").rstrip(".").split()[-1])
        browser = Browser(port, browser_path, f"{folder.name}/profile")
        visit = Visit(browser, pathlib.Path(folder.name), arguments.screenshots)
        browser.size(1280, 900)
        browser.open(address)
        wait_for("the page", lambda: not browser.run("return document.querySelector('#drawing').hidden"))
        visit.samples_of_every_kind()
        # A table that is none is answered with 422, which browsers log.
        noted = [entry for entry in browser.errors() if "422" not in entry["message"]]
        visit.cheats()
        visit.moments()
        noted += browser.errors()
        assert not noted, noted
        visit.strangers(address)
        browser.close()
        served.send_signal(2)
        assert served.wait(timeout=LIMIT) == 0, "Ctrl-C ends the page"
        print(f"the page holds what it promises ({visit.n_batches} batches)")
    finally:
        for process in started:
            if process.poll() is None:
                end(process)
        folder.cleanup()


if __name__ == "__main__":
    sys.exit(main())
