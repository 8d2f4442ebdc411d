// The page of one sample: its picture, large, with every head's map to lay over it.

let current = null; // place of the sample that is shown
const overlays = new Map(); // "run:slot" -> {on, opacity}: what the reader has laid over goes along to the next sample

const overlay = (run, slot) => overlays.get(`${run}:${slot}`) ?? { on: false, opacity: 100 };
const setOverlay = (run, slot, change) => overlays.set(`${run}:${slot}`, { ...overlay(run, slot), ...change });

/** The samples that previous and next move through: those listed or, if this one is not among them, all. */
function neighbours() {
  const order = listed.includes(current) ? listed : samples.map((_, place) => place);
  const at = order.indexOf(current);
  return { at, count: order.length, previous: order[at - 1], next: order[at + 1] };
}

/** Draws the page of the sample at a place. */
function showSample(place) {
  current = place;
  const sample = samples[place];
  const split = sample.split ? ` · ${sample.split}` : "";
  const heading = make("h1", { tabIndex: -1, dir: "auto", class: "expression" }, sample.query || "(no expression known)");
  const notes = sample.notes.map((note) => make("p", { class: "note warn", dir: "auto" }, note));
  const panels = sample.runs.map((_, run) => panel(sample, run));
  the("sample").replaceChildren(steps(), heading, make("p", { class: "id", dir: "auto" }, `${sample.id}${split}`), ...notes, make("div", { class: comparing ? "panels two" : "panels" }, ...panels), keys());
  document.title = `${sample.id}: ${sample.query}`.slice(0, 120);
}

function steps() {
  const { at, count, previous, next } = neighbours();
  const link = (to, name, id) => (to === undefined ? make("span", { class: "off", id }, name) : make("a", { href: linkTo(samples[to]), id, class: "step" }, name));
  return make("nav", { class: "steps", "aria-label": "Samples" }, make("a", { href: "#samples", id: "back", class: "step" }, "All samples"), link(previous, "← Previous", "previous"), make("span", { class: "place" }, `${at + 1} of ${count}`), link(next, "Next →", "next"));
}

const keys = () =>
  make("p", { class: "note keys" }, "Keys: ← and → for the previous and the next sample, Esc for all samples, 1 to 9 for the heads, 0 for all together, m mask, b box, t truth.");

/** One run's picture, figures and heads. */
function panel(sample, run) {
  const found = sample.runs[run];
  const large = frame(sample, run, described(sample, run));
  const title = comparing ? make("h2", {}, "Run ", make("b", { class: "tag" }, label(run))) : null;
  const asked = found.query ? make("p", { class: "note" }, "asked as ", make("q", { dir: "auto" }, found.query)) : null;
  const left = make("div", { class: "large" }, title, asked, make("div", { class: "stage" }, large), figuresOf(sample, found));
  const maps = mapsOf(sample, run);
  const right = maps ? headList(sample, run, maps, large) : make("p", { class: "note" }, found.why || "no attention stored");
  return make("section", { class: "panel", "aria-label": comparing ? `Run ${label(run)}` : "What was found" }, left, make("div", { class: "controls" }, right, bestOf(found, run)));
}

function figuresOf(sample, found) {
  const rounded = (box) => `x ${Math.round(box[0])} to ${Math.round(box[2])}, y ${Math.round(box[1])} to ${Math.round(box[3])}`;
  const rows = [
    ["Result", verdict(found, sample)],
    ["Presence", found.presence === null ? null : fixed(found.presence, 3)],
    ["Box", found.box ? rounded(found.box) : found.noBox ? `none: ${found.noBox}` : null],
    ["True box", sample.truth ? rounded(sample.truth) : sample.absent ? "none: it is not there" : null],
    ["IoU of boxes", found.iou === null ? null : fixed(found.iou, 3)],
    ["IoU of masks", found.maskIou === null ? null : fixed(found.maskIou, 3)],
    ["Sharp mask", found.sharp ? (found.sharpIou == null ? "orange line" : `orange line, IoU ${fixed(found.sharpIou, 3)}`) : null],
    ["Highest cell", found.pointed === null || found.status !== "done" ? null : found.pointed ? "on the object" : "beside the object"],
    ["Answer in words", found.answer],
    ["Image", sample.size ? `${sample.size[0]} × ${sample.size[1]} pixels` : null],
  ];
  const list = make("dl", { class: "figures" });
  for (const [term, value] of rows) if (value !== null) list.append(make("dt", {}, term), make("dd", { dir: "auto" }, value));
  return list;
}

/** A row per head, and one for all together: its map in small, its scores, a box to lay it over the picture and how strongly. */
function headList(sample, run, maps, large) {
  const found = sample.runs[run];
  const names = found.heads.map(([layer, head]) => nameOfHead(layer, head));
  const rows = [...names, "together"].map((name, slot) => {
    const told = slot < names.length ? scoresOf(found.heads[slot]) : ["smoothed"];
    return headRow(sample, run, slot, name, told, maps, large);
  });
  layOver(sample, run, maps, large);
  return make("div", {}, make(comparing ? "h3" : "h2", {}, names.length === 1 ? "The chosen head" : "The chosen heads"), make("ol", { class: "headlist" }, ...rows), heatScale(maps));
}

const scoresOf = ([, , sum, entropy, places]) => [`attention sum ${fixed(sum)}`, `entropy ${fixed(entropy)}`, places === 1 ? "1 place" : `${places} places`];

function headRow(sample, run, slot, name, told, maps, large) {
  const small = frame(sample, run, "");
  small.classList.add("small", "pale");
  small.querySelector("svg").remove();
  small.querySelector(".heats").append(heat(sample, maps, slot));
  const box = make("input", { type: "checkbox", checked: overlay(run, slot).on });
  box.dataset.overlay = `${run}:${slot}`;
  const opacity = make("input", { type: "range", min: 0, max: 100, step: 5, value: overlay(run, slot).opacity, "aria-label": `Opacity of ${name}` });
  box.addEventListener("change", () => { setOverlay(run, slot, { on: box.checked }); layOver(sample, run, maps, large); });
  opacity.addEventListener("input", () => {
    setOverlay(run, slot, { on: true, opacity: Number(opacity.value) });
    box.checked = true;
    layOver(sample, run, maps, large);
  });
  const title = make("label", { class: "headname" }, box, ` ${name}`);
  return make("li", {}, make("div", { class: "stage" }, small), make("div", { class: "headtext" }, title, make("p", { class: "scores" }, told.join(" · ")), opacity));
}

/** Puts the chosen overlays, and no others, on the large picture. */
function layOver(sample, run, maps, large) {
  const on = maps.maps.map((_, slot) => slot).filter((slot) => overlay(run, slot).on);
  large.classList.toggle("pale", on.length > 0);
  large.querySelector(".heats").replaceChildren(
    ...on.map((slot) => {
      const canvas = heat(sample, maps, slot);
      canvas.style.opacity = overlay(run, slot).opacity / 100;
      canvas.dataset.slot = slot;
      return canvas;
    }),
  );
}

/** One scale for all maps of the sample; the colours follow the square root. */
function heatScale(maps) {
  const share = (part) => `${Number((100 * maps.highest * part).toPrecision(2))} %`;
  const ends = make("div", { class: "ends" }, ...[0, 0.25, 1].map((part) => make("span", {}, part ? share(part) : "0")));
  return make("div", { class: "heatscale" }, ramp(heatColour), ends, make("p", { class: "note" }, "attention per cell, the same for all maps of this sample"));
}

function bestOf(found, run) {
  if (!found.best.length) return null;
  const links = found.best.flatMap((number, i) => [i ? ", " : "", make("a", { href: linkToHead(run, number) }, headName({ run, number }))]);
  return make("p", { class: "best" }, "Best of its ranking, lowest entropy first: ", ...links);
}
