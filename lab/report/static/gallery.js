// The gallery: which samples are listed and in what order; cards come as the reader scrolls.

const STEP = 48; // cards made at a time
let listed = samples.map((_, place) => place); // places of the samples that pass every filter, in order
let made = 0; // cards of them that are in the page
let headFilter = null; // {run, number}

const folded = (text) => text.normalize("NFKC").toLocaleLowerCase();
const searched = samples.map((sample) => folded([sample.id, sample.query, ...sample.runs.map((found) => found.query ?? "")].join("\n")));

/** The filters and the order as the reader has set them. */
function wanted() {
  const number = (id, otherwise) => (Number.isFinite(the(id).valueAsNumber) ? the(id).valueAsNumber : otherwise);
  return { words: folded(the("search").value).split(/\s+/).filter(Boolean), outcome: the("outcome").value, low: number("low", 0), high: number("high", 1), order: the("order").value };
}

const OUTCOMES = {
  all: () => true,
  hit: ({ runs: [found] }) => isHit(found),
  miss: ({ runs: [found] }) => found.iou !== null && !isHit(found),
  both: ({ runs: [a, b] }) => isHit(a) && isHit(b),
  first: ({ runs: [a, b] }) => isHit(a) && b.iou !== null && !isHit(b),
  second: ({ runs: [a, b] }) => isHit(b) && a.iou !== null && !isHit(a),
  neither: ({ runs: [a, b] }) => a.iou !== null && b.iou !== null && !isHit(a) && !isHit(b),
  undone: ({ runs }) => runs.some((found) => found.status !== "done"),
};

/** What the range is of: the IoU or, of two runs, by how much theirs differ; null if it is not known. */
function measured({ runs }) {
  if (runs.some((found) => found.iou === null)) return null;
  return comparing ? Math.abs(runs[0].iou - runs[1].iou) : runs[0].iou;
}

function passes(sample, place, { words, outcome, low, high }) {
  const value = measured(sample);
  const inRange = (low <= 0 && high >= 1) || (value !== null && value >= low && value <= high);
  const ofHead = !headFilter || sample.runs[headFilter.run].best.includes(headFilter.number);
  return inRange && ofHead && OUTCOMES[outcome](sample) && words.every((word) => searched[place].includes(word));
}

function inOrder(order) {
  const [direction, run, field = "iou"] = order.split("-");
  if (direction === "id") return (a, b) => a - b; // as they are
  if (direction === "gap") return (a, b) => samples[b].gap - samples[a].gap || a - b;
  const sign = direction === "low" ? 1 : -1;
  const value = (place) => samples[place].runs[Number(run)][field] ?? sign * Infinity; // what is not measured comes last
  return (a, b) => (value(a) === value(b) ? a - b : sign * (value(a) - value(b)));
}

/** Lists anew. */
function refresh() {
  const wishes = wanted();
  listed = samples.map((_, place) => place).filter((place) => passes(samples[place], place, wishes));
  listed.sort(inOrder(wishes.order));
  the("count").textContent = counted();
  const filter = the("head-filter");
  filter.hidden = !headFilter;
  if (headFilter) filter.textContent = `${comparing ? `${label(headFilter.run)}: ` : ""}${headName(headFilter)} among the best ×`;
  the("gallery").replaceChildren();
  made = 0;
  showMore();
}

const headName = ({ run, number }) => nameOfHead(Math.floor(number / page.runs[run].heads), number % page.runs[run].heads);

function counted() {
  const number = (n) => n.toLocaleString("en");
  if (!samples.length) return "There are no samples.";
  if (!listed.length) return `None of ${number(samples.length)} samples fits. Loosen a filter, or reset them.`;
  return listed.length === samples.length ? `${number(samples.length)} ${samples.length === 1 ? "sample" : "samples"}` : `${number(listed.length)} of ${number(samples.length)} samples`;
}

/** The next cards. */
function showMore() {
  const next = listed.slice(made, made + STEP);
  the("gallery").append(...next.map((place) => card(samples[place])));
  made += next.length;
  the("more").hidden = made >= listed.length;
  the("printed").textContent = made < listed.length ? `The first ${made} of ${listed.length.toLocaleString("en")} samples; filter for others.` : "";
}

/** One sample, as a link to its page. */
function card(sample) {
  const stages = sample.runs.map((found, run) => {
    const under = make("p", { class: "result" }, comparing ? make("b", { class: "tag" }, label(run)) : null, verdict(found, sample), presenceOf(found));
    const why = found.status === "done" ? null : make("p", { class: "why", dir: "auto" }, found.why);
    return make("div", { class: "side" }, make("div", { class: "stage" }, frame(sample, run, described(sample, run))), under, why);
  });
  const expression = make("p", { class: "expression", dir: "auto" }, sample.query || "(no expression known)");
  const link = make("a", { href: linkTo(sample), class: "cardlink" }, make("div", { class: "sides" }, ...stages), expression, make("p", { class: "id", dir: "auto" }, sample.id));
  return make("li", { class: "card" }, link);
}

function startGallery() {
  the("toolbar").addEventListener("submit", (event) => event.preventDefault());
  the("toolbar").addEventListener("input", (event) => event.target.type !== "checkbox" && refresh());
  the("toolbar").addEventListener("reset", () => setTimeout(() => { clearHead(); applyLayers(); refresh(); }));
  for (const id of ["mask", "box", "truth"]) the(`show-${id}`).addEventListener("change", applyLayers);
  the("head-filter").addEventListener("click", () => { clearHead(); refresh(); the("search").focus({ preventScroll: true }); });
  the("more").addEventListener("click", showMore);
  new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && showMore(), { rootMargin: "600px" }).observe(the("more"));
  applyLayers();
  refresh();
}

/** What is drawn on every picture of the page, here and on the sample's own page. */
function applyLayers() {
  for (const id of ["mask", "box", "truth"]) document.body.classList.toggle(`without-${id}`, !the(`show-${id}`).checked);
}

function clearHead() {
  headFilter = null;
  if (location.hash.startsWith("#head=")) history.replaceState(null, "", "#samples");
}
