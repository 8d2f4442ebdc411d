// What is laid over the picture, and the words: each shows its own map while it is pointed at, or until it is clicked again.
const shown = { heat: true, mask: true, box: true };
let pinned = null; // [card, word]
const all = (selector) => [...element.querySelectorAll(selector)];
const layers = () => {
  for (const [name, on] of Object.entries(shown)) {
    element.classList.toggle(`lh-no-${name}`, !on);
    for (const box of all(`[data-layer="${name}"]`)) box.checked = on;
  }
};
const word = (card, button) => {
  const map = card.querySelector(".lh-word");
  if (!map) return;
  if (button) map.style.cssText += ";" + button.dataset.part;
  map.hidden = !button;
  card.classList.toggle("lh-reads", Boolean(button));
  for (const one of card.querySelectorAll("[data-word]")) one.classList.toggle("lh-read", one === button);
};
const rest = (card) => {
  const [of, number] = pinned ?? [];
  const cards = all(".lh-card");
  word(card, cards[of] === card ? card.querySelector(`[data-word="${number}"]`) : null);
};
const pin = (card, button) => {
  const place = [all(".lh-card").indexOf(card), button.dataset.word];
  pinned = String(pinned) === String(place) ? null : place;
  marked();
};
const marked = () => {
  all(".lh-card").forEach((card, of) => {
    for (const one of card.querySelectorAll("[data-word]")) {
      one.setAttribute("aria-pressed", String(String(pinned) === String([of, one.dataset.word])));
    }
    rest(card);
  });
};
const on = (name, act) => element.addEventListener(name, (event) => {
  const button = event.target.closest?.("[data-word]");
  if (button) act(button.closest(".lh-card"), button);
});
on("mouseover", word);
on("focusin", word);
on("mouseout", rest);
on("focusout", rest);
on("click", pin);
element.addEventListener("change", (event) => {
  const layer = event.target.dataset.layer;
  if (layer) { shown[layer] = event.target.checked; layers(); }
});
// after the cards are drawn anew the focus is where it was
let focus = null;
element.addEventListener("focusin", (event) => {
  const { layer, word } = event.target.dataset;
  focus = layer ? `[data-layer="${layer}"]` : word ? `[data-word="${word}"]` : null;
});
element.addEventListener("focusout", (event) => { if (event.relatedTarget) focus = null; });
watch("value", () => {
  layers();
  marked();
  if (focus && document.activeElement === document.body) element.querySelector(focus)?.focus();
});
layers();
