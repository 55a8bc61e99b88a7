// Applies the theme that the reader chose, before the page is drawn.
"use strict";

(() => {
  const stored = localStorage.getItem("theme");
  if (stored === "light" || stored === "dark") document.documentElement.dataset.theme = stored;
})();
