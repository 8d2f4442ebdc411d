// A picture with what was found on it: attention as a canvas of grid cells, mask, box and truth as lines.

const colours = bytes(page.colours); // 256 of red, green, blue

/** The shape of a sample's picture, also where it is not known. */
const sizeOf = (sample) => sample.size ?? [4, 3];

/** The picture of a sample, or a placeholder that says why there is none. */
function picture(sample, alternative) {
  const url = pictureUrl(sample);
  if (url) return make("img", { src: url, alt: alternative, loading: "lazy", decoding: "async", draggable: false });
  return make("div", { class: "placeholder", role: "img", "aria-label": `${alternative}: no picture` }, make("span", {}, "no picture"));
}

/** Mask, sharp mask, box and truth of one run over the whole picture; each is hidden where the page's boxes say so. */
function lines(sample, found) {
  const [width, height] = sizeOf(sample);
  const drawing = shape("svg", { class: "lines", viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  const cased = (name, draw) => drawing.append(shape("g", { class: `${name} casing` }, draw()), shape("g", { class: name }, draw()));
  if (found.outline) cased("mask", () => outlined(found.outline));
  if (found.sharp) cased("sharp", () => outlined(found.sharp));
  if (found.box) cased("box", () => boxed(found.box));
  if (sample.truth) cased("truth", () => boxed(sample.truth));
  if (sample.outline) cased("truth area", () => outlined(sample.outline));
  return drawing;
}

const outlined = ([unit, path]) => shape("path", { d: path, transform: `scale(${unit})` });
const boxed = ([x0, y0, x1, y1]) => shape("rect", { x: x0, y: y0, width: x1 - x0, height: y1 - y0 });

/** One map as a canvas that lies over the picture where its grid does. The colours are those of the figures. */
function heat(sample, maps, slot) {
  const [width, height] = sizeOf(sample);
  const [x0, y0, x1, y1] = maps.extent;
  const canvas = make("canvas", { width: maps.cols, height: maps.rows, class: "heat", "aria-hidden": "true" });
  Object.assign(canvas.style, {
    left: `${(100 * x0) / width}%`,
    top: `${(100 * y0) / height}%`,
    width: `${(100 * (x1 - x0)) / width}%`,
    height: `${(100 * (y1 - y0)) / height}%`,
  });
  const context = canvas.getContext("2d");
  const cells = context.createImageData(maps.cols, maps.rows);
  maps.maps[slot].forEach((level, i) => {
    cells.data.set(colours.subarray(3 * level, 3 * level + 3), 4 * i);
    cells.data[4 * i + 3] = 255 * 0.9 * (level / 255) ** 0.75; // as in the figures: faint cells leave the picture to be seen
  });
  context.putImageData(cells, 0, 0);
  return canvas;
}

/** The heat colour of a level, 0 to 255. */
const heatColour = (level) => `rgb(${colours.subarray(3 * level, 3 * level + 3).join(" ")})`;

/** The same on the page's own ground, from which the strongest stands out most: the darkest on light, the lightest on dark. */
const groundColour = (level) => `light-dark(${heatColour(level)}, ${heatColour(255 - level)})`;

/** All colours, the lowest first. */
function ramp(colourOf) {
  const bar = make("div", { class: "ramp", "aria-hidden": "true" });
  const steps = Array.from({ length: 18 }, (_, i) => colourOf(15 * i));
  bar.style.backgroundImage = `linear-gradient(to right, ${steps.join(", ")})`;
  return bar;
}

/** A picture in a frame of its own shape, with layers for heat and lines. */
function frame(sample, run, alternative) {
  const [width, height] = sizeOf(sample);
  const found = sample.runs[run];
  const box = make("div", { class: `frame ${width / height >= 4 / 3 ? "broad" : "tall"}` });
  box.style.aspectRatio = `${width} / ${height}`;
  box.append(picture(sample, alternative), make("div", { class: "heats" }), lines(sample, found));
  if (["missing", "unreadable"].includes(found.status)) box.classList.add("undone");
  return box;
}

/** What a picture shows, for those who do not see it. */
function described(sample, run) {
  const found = sample.runs[run];
  const of = comparing ? `Run ${label(run)}: ` : "";
  if (found.status !== "done") return `${of}“${sample.query}”, ${found.why || found.status}`;
  const box = found.box ? `box x ${found.box[0]} to ${found.box[2]}, y ${found.box[1]} to ${found.box[3]}` : "no box";
  return `${of}“${sample.query}”, ${box}${found.iou === null ? "" : `, IoU ${fixed(found.iou)}`}`;
}
