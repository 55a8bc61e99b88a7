// Follows the list of exchanges: inserts new rows, replaces changed ones, removes those that are gone.
"use strict";

(() => {
  const MAX_ROWS = 500;
  const rows = document.querySelector("[data-live-rows]");
  if (!rows || !window.EventSource) return;
  const pause = document.querySelector("[data-live-pause]");
  const status = document.querySelector("[data-live-status]");
  const empty = document.querySelector("[data-live-empty]");
  const waiting = new Map(); // id -> row, or null for a row to remove; while paused
  let isPaused = false;

  document.querySelector("[data-live-controls]").hidden = false;

  // The server has rendered and escaped the row. Parsing it in a template loads and runs nothing.
  function parseRow(html) {
    const template = document.createElement("template");
    template.innerHTML = html;
    return template.content.querySelector("tr");
  }

  function showRow(row) {
    const old = document.getElementById(row.id);
    if (old) {
      const hadFocus = old.contains(document.activeElement);
      old.replaceWith(row);
      if (hadFocus) row.querySelector("a")?.focus();
    } else {
      // Ids sort by time; the newest row is the first.
      const next = [...rows.children].find((each) => each.id < row.id);
      rows.insertBefore(row, next ?? null);
    }
    while (rows.children.length > MAX_ROWS) rows.lastElementChild.remove();
  }

  function apply(id, row) {
    if (row) showRow(row);
    else document.getElementById(id)?.remove();
    empty.hidden = rows.children.length > 0;
  }

  function change(id, row) {
    if (!isPaused) {
      apply(id, row);
      return;
    }
    waiting.set(id, row);
    if (waiting.size > MAX_ROWS) waiting.delete(waiting.keys().next().value);
    pause.textContent = `Resume (${waiting.size})`;
  }

  pause.addEventListener("click", () => {
    isPaused = !isPaused;
    pause.setAttribute("aria-pressed", String(isPaused));
    pause.textContent = isPaused ? "Resume" : "Pause";
    if (isPaused) return;
    for (const [id, row] of waiting) apply(id, row);
    waiting.clear();
  });

  // Browsers reconnect by themselves and send the id of the last event.
  const source = new EventSource(rows.dataset.stream);
  source.addEventListener("open", () => { status.textContent = "Live"; });
  source.addEventListener("error", () => {
    status.textContent = source.readyState === EventSource.CLOSED
      ? "Not live: the server refused the connection. Reload the page to try again."
      : "Reconnecting …";
  });
  source.addEventListener("row", (event) => {
    const row = parseRow(event.data);
    if (row) change(row.id, row);
  });
  source.addEventListener("gone", (event) => change(event.data, null));
  source.addEventListener("running", (event) => {
    const running = new Set(event.data.split(" "));
    for (const row of rows.querySelectorAll("tr[data-started]")) {
      if (!running.has(row.id)) change(row.id, null);
    }
  });

  setInterval(() => {
    for (const row of rows.querySelectorAll("tr[data-started]")) {
      const seconds = Math.max(0, (Date.now() - Number(row.dataset.started)) / 1000);
      row.lastElementChild.textContent = `${seconds.toFixed(0)} s`;
    }
  }, 1000);
})();
