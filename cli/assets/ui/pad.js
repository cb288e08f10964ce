// A grid of gray cells to draw on: pointer, touch or keyboard.

/** Paints gray cells (0 to 1) onto a canvas of as many pixels. */
export function paint(canvas, cells, width, height, channels = 1) {
  canvas.width = width;
  canvas.height = height;
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = 255 * cells[channels * i + (channels === 3 ? c : 0)];
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** The drawing in the middle, and about as large as samples are. */
export function centered(cells, width, height) {
  let [left, top, right, bottom] = [width, height, -1, -1];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (cells[y * width + x] < 0.1) continue;
      [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x), Math.min(top, y), Math.max(bottom, y)];
    }
  }
  const size = Math.max(right - left, bottom - top) + 1;
  const wanted = (20 / 28) * Math.min(width, height);
  const scale = size > 1.15 * wanted || size < 0.6 * wanted ? Math.min(wanted / size, 2) : 1;
  const [fromX, fromY] = [(left + right) / 2, (top + bottom) / 2];
  const at = (x, y) => (x >= 0 && y >= 0 && x < width && y < height ? cells[y * width + x] : 0);
  return cells.map((_, i) => {
    const x = fromX + ((i % width) - (width - 1) / 2) / scale;
    const y = fromY + (Math.floor(i / width) - (height - 1) / 2) / scale;
    const [x0, y0] = [Math.floor(x), Math.floor(y)];
    const [dx, dy] = [x - x0, y - y0];
    const row = (r) => (1 - dx) * at(x0, r) + dx * at(x0 + 1, r);
    return (1 - dy) * row(y0) + dy * row(y0 + 1);
  });
}

export class Pad {
  /** `changed` is called after every stroke. */
  constructor(canvas, cursor, width, height, changed) {
    Object.assign(this, { canvas, cursor, width, height, changed });
    this.cells = new Float32Array(width * height);
    this.place = { x: Math.floor(width / 2), y: Math.floor(height / 2) };
    this.last = null;
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => this.up());
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("focus", () => this.showCursor());
    canvas.addEventListener("blur", () => (cursor.hidden = true));
    this.show();
  }

  get isEmpty() {
    return this.cells.every((cell) => cell < 0.1);
  }

  clear() {
    this.cells.fill(0);
    this.show();
    this.changed();
  }

  show() {
    paint(this.canvas, this.cells, this.width, this.height);
  }

  position(event) {
    const box = this.canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) / box.width) * this.width - 0.5,
      y: ((event.clientY - box.top) / box.height) * this.height - 0.5,
    };
  }

  down(event) {
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    this.cursor.hidden = true;
    this.canvas.setPointerCapture(event.pointerId);
    this.last = this.position(event);
    this.dot(this.last);
    this.show();
  }

  move(event) {
    if (!this.last) return;
    for (const step of event.getCoalescedEvents?.() ?? [event]) this.line(this.position(step));
    this.show();
  }

  up() {
    if (!this.last) return;
    this.last = null;
    this.changed();
  }

  line(to) {
    const { x, y } = this.last;
    const steps = Math.max(1, Math.ceil(4 * Math.hypot(to.x - x, to.y - y)));
    for (let i = 1; i <= steps; i++) this.dot({ x: x + ((to.x - x) * i) / steps, y: y + ((to.y - y) * i) / steps });
    this.last = to;
  }

  /** A soft round pen, about a fourteenth of the side thick. */
  dot({ x, y }) {
    const radius = Math.min(this.width, this.height) / 26;
    const reach = Math.ceil(radius + 1);
    for (let row = Math.floor(y) - reach; row <= y + reach + 1; row++) {
      for (let column = Math.floor(x) - reach; column <= x + reach + 1; column++) {
        if (row < 0 || column < 0 || row >= this.height || column >= this.width) continue;
        const ink = Math.min(1, Math.max(0, radius + 0.7 - Math.hypot(column - x, row - y)));
        const i = row * this.width + column;
        this.cells[i] = Math.max(this.cells[i], ink);
      }
    }
  }

  key(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (step) {
      this.place.x = Math.min(this.width - 1, Math.max(0, this.place.x + step[0]));
      this.place.y = Math.min(this.height - 1, Math.max(0, this.place.y + step[1]));
      // With Shift the pen stays down.
      if (event.shiftKey) this.ink();
    } else if (event.key === " " || event.key === "Enter") {
      this.ink();
    } else if (event.key === "Delete" || event.key === "Backspace") {
      this.clear();
    } else {
      return;
    }
    event.preventDefault();
    this.showCursor();
  }

  ink() {
    this.dot(this.place);
    this.show();
    this.changed();
  }

  showCursor() {
    if (!this.canvas.matches(":focus-visible")) return;
    const cell = this.canvas.getBoundingClientRect().width / this.width;
    Object.assign(this.cursor.style, {
      left: `${this.place.x * cell}px`,
      top: `${this.place.y * cell}px`,
      width: `${cell + 4}px`,
      height: `${cell + 4}px`,
    });
    this.cursor.hidden = false;
  }
}
