// The layer x head map: a grid of buttons of which Tab reaches one and the arrow keys the others.

/** Draws the map of a run into its place, with a choice of what it shows if there is more than one thing. */
function drawHeadMap(place) {
  const number = Number(place.dataset.run);
  const run = page.runs[number];
  const kinds = [{ name: "how often it is selected", values: run.counts.map((n) => n / run.ranked), told: (i) => `${run.counts[i]} of ${run.ranked} samples` }];
  if (run.quality) kinds.push({ name: "mean IoU of its own box", values: run.quality, told: (i) => `mean IoU of its own box ${fixed(run.quality[i])}` });
  const legend = make("div", { class: "legend" });
  const grid = gridOf(run, number);
  const paint = (kind) => {
    paintGrid(grid, run, kind);
    legend.replaceChildren(make("span", {}, "0"), ramp(groundColour), make("span", {}, percent(Math.max(...kind.values, 0))));
  };
  place.append(make("div", { class: "mapside" }, choice(kinds, number, paint), legend, mostSelected(run, number)), make("div", { class: "scroll mapscroll" }, named(grid)));
  paint(kinds[0]);
}

/** The map between the names of its two axes, which each cell's own name tells as well. */
const named = (grid) =>
  make("div", { class: "axes" }, make("span", { class: "across", "aria-hidden": "true" }, "head"), make("span", { class: "down", "aria-hidden": "true" }, "layer"), grid);

/** Radio buttons for what the map shows; nothing if there is no choice. */
function choice(kinds, run, paint) {
  if (kinds.length < 2) return make("p", { class: "note" }, kinds[0].name);
  const buttons = kinds.map((kind, i) => {
    const input = make("input", { type: "radio", name: `map-${run}`, checked: i === 0, onchange: () => paint(kind) });
    return make("label", {}, input, ` ${kind.name}`);
  });
  return make("fieldset", { class: "layers" }, make("legend", {}, "Colour shows"), ...buttons);
}

function gridOf(run, number) {
  const table = make("table", { class: run.heads <= 12 ? "grid large" : "grid", role: "grid", "aria-label": `Layers and heads${comparing ? ` of run ${label(number)}` : ""}` });
  const every = run.heads <= 12 ? 1 : 4;
  const top = make("tr", {}, make("td", {}, make("span", { class: "unseen" }, "layer and head")));
  for (let head = 0; head < run.heads; head++) top.append(make("th", { scope: "col" }, head % every ? make("span", { class: "unseen" }, `${head}`) : `${head}`));
  table.append(make("thead", {}, top));
  const body = make("tbody");
  for (let layer = 0; layer < run.layers; layer++) {
    const row = make("tr", {}, make("th", { scope: "row" }, layer % every ? make("span", { class: "unseen" }, `${layer}`) : `${layer}`));
    for (let head = 0; head < run.heads; head++) {
      const cell = make("button", { type: "button", tabIndex: layer + head ? -1 : 0 });
      cell.dataset.number = layer * run.heads + head;
      row.append(make("td", { role: "gridcell" }, cell));
    }
    body.append(row);
  }
  table.append(body);
  table.addEventListener("click", (event) => {
    const cell = event.target.closest("button");
    if (cell) location.hash = linkToHead(number, Number(cell.dataset.number));
  });
  table.addEventListener("keydown", (event) => moveInGrid(event, table, run));
  return table;
}

function paintGrid(table, run, kind) {
  const highest = Math.max(...kind.values, 1e-9);
  for (const cell of table.querySelectorAll("button")) {
    const i = Number(cell.dataset.number);
    const level = Math.round((255 * kind.values[i]) / highest);
    cell.classList.toggle("never", kind.values[i] === 0);
    cell.style.backgroundColor = kind.values[i] === 0 ? "" : groundColour(level);
    const chosen = run.fixed.includes(i) ? ", one of the chosen heads" : "";
    const text = `${nameOfHead(Math.floor(i / run.heads), i % run.heads)}: ${kind.told(i)}${chosen}`;
    cell.classList.toggle("chosen", Boolean(chosen));
    cell.title = text;
    cell.setAttribute("aria-label", text);
  }
}

function moveInGrid(event, table, run) {
  const at = Number(event.target.dataset?.number);
  const column = at % run.heads;
  const steps = {
    ArrowRight: column < run.heads - 1 ? 1 : 0,
    ArrowLeft: column > 0 ? -1 : 0,
    ArrowDown: run.heads,
    ArrowUp: -run.heads,
    Home: -column,
    End: run.heads - 1 - column,
  };
  if (!(event.key in steps) || Number.isNaN(at)) return;
  event.preventDefault();
  const cell = table.querySelector(`button[data-number="${at + steps[event.key]}"]`);
  if (!cell) return;
  event.target.tabIndex = -1;
  cell.tabIndex = 0;
  cell.focus();
}

/** The heads selected most often, as links to their samples. */
function mostSelected(run, number) {
  const order = run.counts.map((_, i) => i).filter((i) => run.counts[i]);
  order.sort((a, b) => run.counts[b] - run.counts[a] || a - b);
  const rows = order.slice(0, 8).map((i) => {
    const name = nameOfHead(Math.floor(i / run.heads), i % run.heads);
    const meter = shape("svg", { class: "meter", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" });
    meter.append(shape("rect", { width: (100 * run.counts[i]) / run.ranked, height: 8 }));
    const link = make("a", { href: linkToHead(number, i), class: run.fixed.includes(i) ? "chosen" : "" }, name);
    return make("tr", {}, make("th", { scope: "row" }, link), make("td", {}, meter), make("td", { class: "number" }, percent(run.counts[i] / run.ranked)));
  });
  const note = run.fixed.length ? "Framed and bold: the chosen heads." : "";
  return make("div", {}, make("table", { class: "most" }, make("caption", {}, "Selected most often"), make("tbody", {}, ...rows)), make("p", { class: "note" }, note));
}
