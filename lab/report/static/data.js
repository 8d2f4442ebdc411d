// The page's data, and a few helpers. Everything a user wrote enters the page as text, never as markup.

const page = JSON.parse(document.getElementById("data").textContent);
const samples = page.samples;
const byId = new Map(samples.map((sample, place) => [sample.id, place]));
const comparing = page.runs.length > 1;

/** The element with this id. */
const the = (id) => document.getElementById(id);

/** A new element: properties are set as such, `class` and what holds a dash as attributes; children may be text. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class" || name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** A new element of SVG with these attributes. */
function shape(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Bytes of a text in base64. */
const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

/** Where a picture can be shown from, or null. */
const pictureUrl = (sample) =>
  sample.picture === null ? null : `data:image/webp;base64,${the(`picture-${sample.picture}`).textContent.trim()}`;

/** What the heads of a sample look at: {rows, cols, extent, highest, maps: [bytes, ...]}, or null. Parsed only when it is wanted. */
function mapsOf(sample, run) {
  const block = the(`maps-${run}-${byId.get(sample.id)}`);
  if (!block) return null;
  const { data, ...rest } = JSON.parse(block.textContent);
  const all = bytes(data);
  const cells = rest.rows * rest.cols;
  const maps = Array.from({ length: all.length / cells }, (_, i) => all.subarray(i * cells, (i + 1) * cells));
  return { ...rest, maps };
}

const label = (run) => (comparing ? "AB"[run] : "");
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const fixed = (number, digits = 2) => (number === null ? "∞" : number.toFixed(digits));
const isHit = (found) => found.iou !== null && found.iou >= page.hit;
const nameOfHead = (layer, head) => `L${layer} H${head}`;
const linkTo = (sample) => `#sample=${encodeURIComponent(sample.id)}`;
const linkToHead = (run, number) =>
  `#head=${run}.${Math.floor(number / page.runs[run].heads)}.${number % page.runs[run].heads}`;

/** How a finding stands beside the truth, in words and not in colour alone. */
function verdict(found, sample) {
  if (found.status !== "done") return make("span", { class: "verdict undone" }, found.status === "ranked" ? "no attention stored" : found.status);
  if (sample.absent) return make("span", { class: `verdict ${found.box ? "miss" : "hit"}` }, found.box ? "○ nothing there, but a box" : "● nothing there, no box");
  if (found.iou === null) return make("span", { class: "verdict" }, found.box ? "no truth" : "no box");
  const hit = isHit(found);
  return make("span", { class: `verdict ${hit ? "hit" : "miss"}` }, `${hit ? "● hit" : "○ miss"} ${fixed(found.iou)}`);
}

/** The probability that the thing is there, if it is known. */
const presenceOf = (found) => (found.presence === null ? null : make("span", { class: "presence" }, `presence ${fixed(found.presence)}`));
