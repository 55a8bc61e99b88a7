// Shared by all pages: buttons that copy, and the switch between light and dark.
"use strict";

(() => {
  async function copyText(text) {
    if (navigator.clipboard && window.isSecureContext) {
      await navigator.clipboard.writeText(text);
      return;
    }
    // Pages without HTTPS have no clipboard API, except on localhost.
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    if (!isCopied) throw new Error("The browser refused to copy.");
  }

  async function handleCopy(button) {
    const source = button.dataset.copyFrom;
    button.dataset.label ??= button.textContent; // or a second click would store "Copied"
    try {
      await copyText(source ? document.querySelector(source).textContent : button.dataset.copy);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not copied: select the text";
    }
    button.focus();
    setTimeout(() => { button.textContent = button.dataset.label; }, 1200);
  }

  function switchTheme() {
    const root = document.documentElement;
    const isDark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : window.matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = isDark ? "light" : "dark";
    document.dispatchEvent(new CustomEvent("themechange"));
    localStorage.setItem("theme", root.dataset.theme); // fails if the browser blocks storage
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.copy !== undefined || button.dataset.copyFrom) handleCopy(button);
    if (button.dataset.themeSwitch !== undefined) switchTheme();
  });
})();
