// The playground: previews the request while it is typed, sends it, and shows both streams.
//
// Everything that comes from clients and upstreams is set as text, never as HTML.
"use strict";

(() => {
  const MAX_ROWS = 1000; // rows of events on one side
  const MAX_KEPT_CHARACTERS = 4_000_000; // of raw events on one side
  const EVENTS_PER_FRAME = 2000;
  const JOINED_KINDS = new Set(["text", "reasoning", "refusal", "call"]);
  const TITLES = {
    text: "Text", reasoning: "Reasoning", refusal: "Refusal", call: "Call of",
    usage: "Usage", finish: "Finish", error: "Error",
  };

  const form = document.getElementById("request");
  const body = document.getElementById("body");
  const sendButton = document.getElementById("send");
  const stopButton = document.getElementById("stop");
  const state = document.getElementById("state");
  const exchange = document.getElementById("exchange");

  // -- preview -----------------------------------------------------------------------------------

  function makeQuery() {
    const query = new URLSearchParams();
    for (const name of ["api", "target", "style"]) {
      if (form.elements[name].value) query.set(name, form.elements[name].value);
    }
    for (const name of ["store", "strict"]) {
      if (form.elements[name].checked) query.set(name, "1");
    }
    return query;
  }

  htmx.defineExtension("playground", {
    onEvent(name, event) {
      if (name === "htmx:configRequest") {
        event.detail.headers["Content-Type"] = "application/json";
        event.detail.path = `${form.dataset.preview}?${makeQuery()}`;
      }
      return true;
    },
    encodeParameters: () => body.value,
  });

  function goToPlace(line, column) {
    const lines = body.value.split("\n");
    const before = lines.slice(0, line - 1).reduce((sum, each) => sum + each.length + 1, 0);
    const at = before + column - 1;
    body.focus();
    body.setSelectionRange(at, at + 1);
    body.scrollTop = Math.max(0, (line - 5) / lines.length) * body.scrollHeight;
  }

  const preview = document.getElementById("preview");
  const previewState = document.getElementById("preview-state");

  preview.addEventListener("htmx:afterSwap", () => {
    const notice = preview.querySelector(".notice.bad");
    setText(previewState, notice ? notice.textContent.trim() : "The request can be translated.");
  });
  preview.addEventListener("click", (event) => {
    const place = event.target.closest("[data-line]");
    if (place) goToPlace(Number(place.dataset.line), Number(place.dataset.column));
  });

  // -- one side of the answer --------------------------------------------------------------------

  function makeElement(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  class Side {
    constructor(name) {
      const root = document.querySelector(`[data-side="${name}"]`);
      for (const role of ["facts", "parts", "events", "count"]) {
        this[role] = root.querySelector(`[data-role="${role}"]`);
      }
      this.clear();
    }

    clear() {
      for (const role of ["facts", "parts", "events", "count"]) this[role].replaceChildren();
      this.panels = new Map();
      this.row = null;
      this.rows = this.total = this.kept = 0;
      this.firstAt = null;
    }

    addFact(text) {
      this.facts.textContent += (this.facts.textContent ? " · " : "") + text;
    }

    addEvent(event) {
      this.total += 1;
      const isAnswer = event.kind === "event" && event.data !== undefined;
      if (isAnswer && this.firstAt === null) this.firstAt = event.at;
      for (const part of event.parts || []) this.addPart(part, event.attempt);
      this.addRow(event);
    }

    addPart(part, attempt) {
      const key = `${attempt || ""} ${part.kind} ${part.key || ""}`;
      let panel = this.panels.get(key);
      if (!panel) {
        panel = { element: makeElement("div", "part"), added: "" };
        panel.element.dataset.kind = part.kind;
        panel.title = makeElement("h4", "", TITLES[part.kind] || part.kind);
        panel.pre = makeElement("pre", "wrap");
        panel.pre.tabIndex = 0;
        panel.text = document.createTextNode("");
        panel.pre.append(panel.text);
        panel.element.append(panel.title, panel.pre);
        this.parts.append(panel.element);
        this.panels.set(key, panel);
      }
      if (part.name) panel.title.textContent = `${TITLES[part.kind]} ${part.name}`;
      if (JOINED_KINDS.has(part.kind)) panel.added += part.text || "";
      else { panel.text.data = ""; panel.added = part.text || ""; }
    }

    addRow(event) {
      const label = describeEvent(event);
      if (this.row && this.row.label === label) {
        this.row.number += 1;
      } else if (this.rows < MAX_ROWS) {
        this.rows += 1;
        this.row = this.makeRow(label, event);
      } else {
        this.row = this.row.label === "more" ? this.row : this.makeRow("more", event);
        this.row.number += 1;
      }
      this.row.isChanged = true;
      const text = JSON.stringify(event.data ?? event.text ?? event.message ?? event, null, 1);
      if (this.kept + text.length <= MAX_KEPT_CHARACTERS) {
        this.kept += text.length;
        this.row.texts.push(text);
      }
    }

    makeRow(label, event) {
      const row = { label, number: 1, texts: [], isChanged: true };
      const summary = makeElement("summary");
      const isBad = event.kind === "error" || (event.parts || []).some((p) => p.kind === "error");
      row.count = makeElement("span", "muted");
      summary.append(
        makeElement("span", "at", formatTime(event.at)),
        makeElement("span", isBad ? "label bad" : "label", label),
        row.count,
      );
      const details = makeElement("details");
      const pre = makeElement("pre", "wrap");
      pre.tabIndex = 0;
      details.append(summary, pre);
      details.addEventListener("toggle", () => {
        pre.textContent = details.open ? row.texts.join("\n") : "";
      });
      row.element = makeElement("li");
      row.element.append(details);
      row.isNew = true;
      this.changed = this.changed || [];
      this.changed.push(row);
      return row;
    }

    draw() {
      const changed = this.changed || [];
      if (this.row && !changed.includes(this.row)) changed.push(this.row);
      this.changed = [];
      const isAtEnd = this.events.scrollHeight - this.events.scrollTop - this.events.clientHeight < 40;
      const added = document.createDocumentFragment();
      for (const row of changed) {
        row.count.textContent = row.number > 1 ? `× ${row.number}` : "";
        if (row.isNew) added.append(row.element);
        row.isNew = false;
      }
      this.events.append(added);
      if (isAtEnd) this.events.scrollTop = this.events.scrollHeight;
      for (const panel of this.panels.values()) {
        if (!panel.added) continue;
        panel.text.appendData(panel.added);
        panel.added = "";
      }
      const first = this.firstAt === null ? "" : `, first after ${formatTime(this.firstAt)}`;
      this.count.textContent = this.total ? `(${this.total}${first})` : "";
    }
  }

  function describeEvent(event) {
    const attempt = event.attempt > 1 ? `${event.attempt}: ` : "";
    if (event.kind === "request") return `${attempt}request to ${event.upstream}`;
    if (event.kind === "head") return `${attempt}status ${event.status}`;
    if (event.kind === "error") return `${attempt}${event.message}`;
    if (event.data === undefined) return attempt + String(event.text).slice(0, 80);
    const kinds = [...new Set((event.parts || []).map((part) => part.kind))].join(", ");
    const type = typeof event.data.type === "string" ? event.data.type : event.event;
    const object = typeof event.data.object === "string" ? event.data.object : "";
    return attempt + (type || (kinds ? `${kinds}` : object || "event"));
  }

  function formatTime(milliseconds) {
    return milliseconds < 1000 ? `${milliseconds.toFixed(0)} ms` : `${(milliseconds / 1000).toFixed(2)} s`;
  }

  // -- sending -----------------------------------------------------------------------------------

  const sides = { client: new Side("client"), upstream: new Side("upstream") };
  let controller = null;
  let queue = [];
  let isScheduled = false;
  let failure = "";

  function schedule() {
    if (isScheduled) return;
    isScheduled = true;
    requestAnimationFrame(drawFrame);
  }

  function drawFrame() {
    isScheduled = false;
    const events = queue.splice(0, EVENTS_PER_FRAME);
    for (const event of events) takeEvent(event);
    for (const side of Object.values(sides)) side.draw();
    if (queue.length) schedule();
  }

  function takeEvent(event) {
    if (event.side === "call") {
      takeCallEvent(event);
      return;
    }
    const side = sides[event.side];
    if (!side) return;
    if (event.kind === "request") side.addFact(`${event.upstream} (${event.protocol}) ${event.url}`);
    if (event.kind === "head") {
      side.addFact(`status ${event.status} after ${formatTime(event.at)}`);
      if (event.side === "client") {
        setState("The answer arrives …");
        if (event.status >= 400) failure = `Failed with status ${event.status}.`;
        for (const [name, text] of Object.entries(event.headers || {})) side.addFact(`${name}: ${text}`);
      }
    }
    side.addEvent(event);
  }

  function takeCallEvent(event) {
    if (event.kind === "refused") {
      failure = `Not sent: ${event.message}${event.param ? ` (${event.param})` : ""}`;
      setState(failure);
      if (event.line) goToPlace(event.line, event.column);
    } else if (event.kind === "error") {
      failure = event.message;
    } else if (event.kind === "end") {
      for (const [name, reason] of Object.entries(event.dropped || {})) {
        sides.client.addFact(`dropped ${name}: ${reason}`);
      }
      if (event.error && !failure) failure = `Failed: ${event.error}.`;
      setState(failure || `Finished after ${formatTime(event.at)}.`);
      if (event.id && form.dataset.exchange) {
        const link = makeElement("a", "", "Open the captured exchange");
        link.href = form.dataset.exchange.replace("NAME", encodeURIComponent(event.id));
        exchange.replaceChildren(link);
      }
    }
  }

  // A disabled button would lose the focus.
  function setRunning(isRunning) {
    sendButton.setAttribute("aria-disabled", String(isRunning));
    stopButton.setAttribute("aria-disabled", String(!isRunning));
  }

  // Screen readers announce a change, so nothing is set twice.
  function setText(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function setState(text) {
    setText(state, text);
  }

  async function readEvents(stream) {
    const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        if (block.startsWith("data: ")) queue.push(JSON.parse(block.slice(6)));
      }
      schedule();
    }
  }

  async function send() {
    if (controller) return;
    const own = new AbortController();
    controller = own;
    queue = [];
    failure = "";
    exchange.replaceChildren();
    for (const side of Object.values(sides)) side.clear();
    setRunning(true);
    setState("Sent. Waiting for the upstream …");
    const headers = { "Content-Type": "application/json" };
    const key = document.getElementById("key").value.trim();
    if (key) headers[form.dataset.keyHeader] = key;
    try {
      const answer = await fetch(`${form.action}?${makeQuery()}`, {
        method: "POST", body: body.value, headers, signal: own.signal, redirect: "error",
      });
      if (answer.ok) await readEvents(answer.body);
      else if (answer.status === 401) setState("Not sent: sign in in a new tab, then send it again.");
      else setState(`Not sent: the forwarder answered with status ${answer.status}.`);
    } catch (error) {
      setState(own.signal.aborted ? "Stopped." : `The connection broke: ${error.message}`);
    } finally {
      controller = null;
      setRunning(false);
      schedule();
    }
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  stopButton.addEventListener("click", () => controller && controller.abort());
  sendButton.disabled = stopButton.disabled = false;
  setRunning(false);
})();
