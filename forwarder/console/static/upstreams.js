// Refreshes the states of upstreams while the page is visible, and marks wrong fields of the form.
"use strict";

(() => {
  const REFRESH_MILLISECONDS = 10_000;

  function refreshStates() {
    if (document.visibilityState !== "visible") return;
    for (const part of document.querySelectorAll("[data-refresh]")) {
      part.dispatchEvent(new CustomEvent("refresh"));
    }
  }

  // htmx preserves the fields of secrets, so the new form does not mark them.
  function markWrongField(form) {
    for (const message of form.querySelectorAll(".field-error")) {
      const field = document.getElementById(message.id.replace(/-error$/, ""));
      if (!field) continue;
      if (message.textContent) {
        field.setAttribute("aria-invalid", "true");
        field.focus();
      } else {
        field.removeAttribute("aria-invalid");
      }
    }
  }

  setInterval(refreshStates, REFRESH_MILLISECONDS);
  document.addEventListener("visibilitychange", refreshStates);
  document.addEventListener("htmx:afterSettle", (event) => {
    if (event.target.matches?.(".model-form")) markWrongField(event.target);
  });
})();
