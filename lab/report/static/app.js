// What the address says is shown; keys; light and dark.

const TITLE = document.title;
let scrolled = 0; // where the reader was among the samples

/** Shows what the part of the address behind # asks for. */
function route() {
  const [kind, value] = location.hash.slice(1).split(/=(.*)/s);
  const cameFromSample = !the("sample").hidden;
  if (kind === "sample") return openSample(decoded(value), !cameFromSample);
  the("sample").hidden = true;
  the("overview").hidden = false;
  document.title = TITLE;
  if (kind === "head") return openHead(value);
  if (cameFromSample && kind === "samples") return backToCard();
  if (kind && the(kind)) the(kind).scrollIntoView();
}

function decoded(text) {
  try {
    return decodeURIComponent(text ?? "");
  } catch {
    return text;
  }
}

function openSample(id, arriving) {
  if (arriving) scrolled = window.scrollY;
  const focused = document.activeElement?.id; // the link that was used stays in focus on the next page
  the("overview").hidden = true;
  the("sample").hidden = false;
  if (byId.has(id)) showSample(byId.get(id));
  else the("sample").replaceChildren(make("nav", { class: "steps" }, make("a", { href: "#samples", class: "step" }, "All samples")), make("h1", { tabIndex: -1, dir: "auto" }, `No sample ${id} in this report`));
  if (arriving) window.scrollTo(0, 0);
  const kept = ["previous", "next"].includes(focused) ? the("sample").querySelector(`a#${focused}`) : null;
  (kept ?? the("sample").querySelector("h1")).focus({ preventScroll: true });
}

/** Lists the samples of a head, `run.layer.head`. */
function openHead(value) {
  const [run, layer, head] = (value ?? "").split(".").map(Number);
  const { layers, heads } = page.runs[run] ?? {};
  if (!(layer >= 0 && layer < layers && head >= 0 && head < heads)) return;
  headFilter = { run, number: layer * heads + head };
  refresh();
  the("samples").scrollIntoView();
  the("samples-title").focus({ preventScroll: true });
}

function backToCard() {
  window.scrollTo(0, scrolled);
  const link = current === null ? null : [...document.querySelectorAll(".cardlink")].find((one) => one.hash === linkTo(samples[current]));
  (link ?? the("samples-title")).focus({ preventScroll: Boolean(scrolled) });
  link?.scrollIntoView({ block: "nearest" });
}

function onKey(event) {
  const field = event.target.closest?.("input:not([type=checkbox]):not([type=radio]), select, textarea, [role=grid]");
  if (event.ctrlKey || event.metaKey || event.altKey || (field && event.key !== "Escape")) return;
  if (the("sample").hidden) {
    if (event.key === "/") { event.preventDefault(); the("search").focus(); }
    return;
  }
  const { previous, next } = current === null ? {} : neighbours();
  if (event.key === "Escape") location.hash = "#samples";
  else if (event.key === "ArrowLeft" && previous !== undefined) location.hash = linkTo(samples[previous]);
  else if (event.key === "ArrowRight" && next !== undefined) location.hash = linkTo(samples[next]);
  else if (/^\d$/.test(event.key)) toggleHead(Number(event.key));
  else {
    const layer = { m: "mask", b: "box", t: "truth" }[event.key];
    if (layer) the(`show-${layer}`).click();
  }
}

/** The nth head of every run, or with 0 all together. */
function toggleHead(number) {
  for (const list of the("sample").querySelectorAll(".headlist")) {
    const boxes = list.querySelectorAll("input[type=checkbox]");
    if (number === 0) boxes[boxes.length - 1].click();
    else if (number < boxes.length) boxes[number - 1].click();
  }
}

// Light and dark: as the system has it, unless the reader chooses; where storage is refused the choice ends with the visit.
const THEMES = ["system", "light", "dark"];

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  the("theme").textContent = `Theme: ${theme}`;
  try {
    localStorage.setItem("theme", theme);
  } catch { /* not kept */ }
}

function startTheme() {
  let kept = null;
  try {
    kept = localStorage.getItem("theme");
  } catch { /* none */ }
  setTheme(THEMES.includes(kept) ? kept : "system");
  the("theme").addEventListener("click", () => setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % 3]));
}

startTheme();

// The rest once the pictures behind this script are there too.
document.addEventListener("DOMContentLoaded", () => {
  for (const place of document.querySelectorAll(".headmap")) drawHeadMap(place);
  startGallery();
  window.addEventListener("hashchange", route);
  document.addEventListener("keydown", onKey);
  if (location.hash) route();
});
