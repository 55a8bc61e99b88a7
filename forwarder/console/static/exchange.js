// Refreshes the page of a running exchange. Open details stay open; a button pauses the refresh.
"use strict";

(() => {
  let isPaused = false;
  let openIds = [];
  let focusId = "";

  const isRefresh = (event) => event.detail.elt?.id === "exchange";

  document.addEventListener("htmx:beforeRequest", (event) => {
    if (isPaused && isRefresh(event)) event.preventDefault();
  });

  document.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.target?.id !== "exchange") return;
    if (event.detail.xhr.status >= 400) event.detail.shouldSwap = false; // keep the shown content
    openIds = [...document.querySelectorAll("#exchange details")].map((each) => [each.id, each.open]);
    focusId = document.activeElement?.closest("details")?.id ?? "";
  });

  document.addEventListener("htmx:afterSwap", () => {
    for (const [id, isOpen] of openIds) {
      const details = document.getElementById(id);
      if (details && details.open !== isOpen) details.open = isOpen;
    }
    if (focusId) document.getElementById(focusId)?.querySelector("summary")?.focus();
    openIds = [];
    focusId = "";
  });

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-refresh-pause]");
    if (!button) return;
    isPaused = !isPaused;
    button.setAttribute("aria-pressed", String(isPaused));
    button.textContent = isPaused ? "Resume" : "Pause";
  });
})();
