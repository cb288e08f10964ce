// Images become cells here, in the browser, which decodes them apart from the keys; tables go as they are.

const MAX_IMAGES = 500;

/** What was dropped: cells of images, or one table. Throws an error with the text for people. */
export async function read(files, shape) {
  const list = [...files];
  const tables = list.filter((file) => /\.(csv|txt)$/i.test(file.name) || file.type === "text/csv");
  const images = list.filter((file) => file.type.startsWith("image/"));
  if (tables.length + images.length < list.length) throw new Error("Only images and CSV tables can be read here.");
  if (tables.length > 0) {
    if (list.length > 1) throw new Error("One table at a time, and no images with it.");
    return { table: tables[0] };
  }
  if (shape.length !== 3) throw new Error("The samples of this plan are no images: bring a CSV table.");
  if (images.length > MAX_IMAGES) throw new Error(`At most ${MAX_IMAGES} images at a time.`);
  const samples = [];
  for (const file of images) samples.push(await cells(file, shape));
  return { samples };
}

/** One image as the plan's samples are: cut to its shape, its brightness or colors from 0 to 1. */
async function cells(file, [height, width, channels]) {
  let image;
  try {
    image = await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name} is no image that this browser can read.`);
  }
  const canvas = new OffscreenCanvas(width, height);
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  const scale = Math.max(width / image.width, height / image.height);
  const [w, h] = [image.width * scale, image.height * scale];
  pen.fillRect(0, 0, width, height);
  pen.drawImage(image, (width - w) / 2, (height - h) / 2, w, h);
  image.close();
  const pixels = pen.getImageData(0, 0, width, height).data;
  const values = new Float32Array(width * height * channels);
  for (let i = 0; i < width * height; i++) {
    const [r, g, b] = [0, 1, 2].map((c) => pixels[4 * i + c] / 255);
    if (channels === 3) values.set([r, g, b], 3 * i);
    else values[i] = 0.299 * r + 0.587 * g + 0.114 * b;
  }
  return channels === 1 ? lightOnDark(values, width, height) : values;
}

/** Dark strokes on light paper are turned around: samples of one channel are light on dark. */
function lightOnDark(values, width, height) {
  const border = values.filter((_, i) => {
    const [x, y] = [i % width, Math.floor(i / width)];
    return x === 0 || y === 0 || x === width - 1 || y === height - 1;
  });
  const mean = border.reduce((sum, value) => sum + value, 0) / border.length;
  return mean > 0.5 ? values.map((value) => 1 - value) : values;
}
