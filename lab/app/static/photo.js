// The picture lies under every element of class lh-photo: it is sent once, whatever is moved afterwards.
let url = null;
const show = () => {
  const found = element.querySelector("[data-photo]");
  if (!found) return;
  fetch(found.dataset.photo).then((answer) => answer.blob()).then((blob) => {
    if (url) URL.revokeObjectURL(url);
    url = URL.createObjectURL(blob);
    document.documentElement.style.setProperty("--lh-picture", `url(${url})`);
  });
};
watch("value", show);
show();
