// The address of the page is the link to what it shows.
const link = () => element.querySelector("[data-link]");
const address = () => { const found = link(); if (found) history.replaceState(null, "", found.getAttribute("href")); };
element.addEventListener("click", async (event) => {
  const one = event.target.closest("[data-copy], [data-copy-link]");
  if (!one) return;
  const text = one.dataset.copy ?? link().href;
  let done = true;
  try { await navigator.clipboard.writeText(text); } catch { done = false; } // no clipboard without https
  const before = one.textContent;
  one.textContent = done ? "Copied" : "Select and copy it";
  setTimeout(() => { one.textContent = before; }, 1500);
});
watch("value", address);
address();
