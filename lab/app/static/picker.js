// Pictures come by a drop, from the clipboard, from a file, or from the examples.
const send = async (file) => {
  if (!file) return;
  if (file.size > LIMIT) return trigger("refused", { name: file.name });
  try {
    const { path } = await upload(file);
    trigger("dropped", { path, name: file.name });
  } catch (error) {
    trigger("refused", { name: file.name });
  }
};
element.addEventListener("change", (event) => {
  if (event.target.matches(".lh-file")) { send(event.target.files[0]); event.target.value = ""; }
});
element.addEventListener("click", (event) => {
  const example = event.target.closest("[data-example]");
  if (example) trigger("example", { name: example.dataset.example });
});
const over = (event, on) => {
  if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
  event.preventDefault();
  element.querySelector(".lh-drop").classList.toggle("lh-over", on);
};
// anywhere on the page: a drop beside the box must not make the browser leave the page
document.addEventListener("dragover", (event) => over(event, true));
document.addEventListener("dragleave", (event) => over(event, false));
document.addEventListener("drop", (event) => { over(event, false); send(event.dataTransfer?.files[0]); });
document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
  if (file) { event.preventDefault(); send(file); }
});
