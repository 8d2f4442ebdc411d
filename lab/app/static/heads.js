// Every head: pointing at one shows it large, a click chooses it. The server says what follows from the choice.
let chosen = new Set(), below = new Set(), mode = "maps", looked = null;
// choices that were made here, the last one that the server was told, when, and the last one that it has answered
let choices = 0, told = 0, when = 0, answered = 0;
const LOST = 3000; // milliseconds after which an answer is waited for no longer
const tell = () => { // one at a time: of several under way the last to be done would count, which may be an earlier one
  if (choices === answered || (told > answered && Date.now() - when < LOST)) return;
  told = choices;
  when = Date.now();
  trigger("choose", { heads: [...chosen], choice: choices });
};
const all = (selector) => [...element.querySelectorAll(selector)];
const button = (head) => element.querySelector(`[data-head="${head}"]`);
const draw = () => {
  for (const one of all("[data-head]")) {
    const on = chosen.has(one.dataset.head);
    one.setAttribute("aria-pressed", String(on));
    one.classList.toggle("lh-below", below.has(one.dataset.head));
  }
  element.querySelector(".lh-heads")?.setAttribute("data-mode", mode);
  for (const one of all("[data-show]")) one.setAttribute("aria-pressed", String(one.dataset.show === mode));
  look(button(looked) ?? button([...chosen][0]) ?? element.querySelector("[data-head]"));
};
const look = (one) => {
  if (!one) return;
  const large = element.querySelector(".lh-large");
  large.style.cssText += ";" + one.firstElementChild.getAttribute("style");
  element.querySelector(".lh-about").textContent = one.title + (chosen.has(one.dataset.head) ? ". Chosen." : ".");
  for (const other of all(".lh-looked")) other.classList.remove("lh-looked");
  one.classList.add("lh-looked");
};
const at = (event) => event.target.closest?.("[data-head]");
const point = (event) => {
  const one = at(event);
  if (one) { looked = one.dataset.head; look(one); }
};
element.addEventListener("mouseover", point);
element.addEventListener("focusin", point);
element.addEventListener("click", (event) => {
  const show = event.target.closest("[data-show]");
  if (show) { mode = show.dataset.show; return draw(); }
  const one = at(event);
  if (!one) return;
  const head = one.dataset.head;
  chosen.has(head) ? chosen.delete(head) : chosen.add(head);
  looked = head;
  draw();
  choices += 1;
  tell();
});
const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -9999], End: [0, 9999] };
element.addEventListener("keydown", (event) => {
  const one = at(event), step = STEPS[event.key];
  if (!one || !step) return;
  event.preventDefault();
  const rows = all(".lh-grid tbody tr").map((row) => [...row.querySelectorAll("[data-head]")]);
  const row = rows.findIndex((cells) => cells.includes(one)), clip = (value, most) => Math.max(0, Math.min(most, value));
  const cells = rows[clip(row + step[0], rows.length - 1)];
  const next = cells[clip(rows[row].indexOf(one) + step[1], cells.length - 1)];
  for (const other of all("[data-head]")) other.tabIndex = other === next ? 0 : -1;
  next.focus();
});
// what the server says of the heads comes in an element of its own, so that the maps are not sent again
const read = () => {
  const marks = document.querySelector("[data-marks]");
  const found = marks ? JSON.parse(marks.dataset.marks) : null;
  answered = Math.max(found?.choice ?? 0, answered);
  if (found && answered >= choices) { // else a newer choice is under way, and its answer follows
    chosen = new Set(found.chosen);
    below = new Set(found.below);
  }
  draw();
  tell();
};
document.addEventListener("lh-marks", read);
// the sheet under a short name: a thousand cells that inherit all of its letters take a minute to draw
let url = null;
const lay = async () => {
  const heads = element.querySelector("[data-sheet]");
  if (!heads) return;
  const blob = await (await fetch(heads.dataset.sheet)).blob();
  heads.removeAttribute("data-sheet");
  if (url) URL.revokeObjectURL(url);
  url = URL.createObjectURL(blob);
  heads.style.setProperty("--sheet", `url(${url})`);
};
const anew = () => { answered = choices; lay(); read(); }; // other maps, to which no earlier choice belongs
watch("value", anew);
anew();
