// Draws the charts of the usage page with uPlot, from the numbers in the page.
"use strict";

(() => {
  const HEIGHT = 180;
  const container = document.getElementById("charts");
  const series = JSON.parse(container.dataset.series);
  let plots = [];

  const CHARTS = {
    requests: [["requests", "Requests", "--accent"], ["errors", "Errors", "--bad"]],
    tokens: [["input", "Input", "--accent"], ["output", "Output", "--good"]],
    first: [["first", "Milliseconds", "--accent"]],
    cost: [["cost", "US dollars", "--accent"]],
  };

  // For uPlot: shortest interval of ticks in seconds, their text, and a second line at the first
  // tick of a year or a day.
  const TIME_TICKS = [
    [86400, "{MM}-{DD}", "\n{YYYY}", null, null, null, null, null, 1],
    [3600, "{HH}:{mm}", "\n{YYYY}-{MM}-{DD}", null, "\n{MM}-{DD}", null, null, null, 1],
  ];

  // A canvas cannot resolve CSS variables, so their values are read from an element.
  function readColor(name) {
    const probe = document.createElement("span");
    probe.style.color = `var(${name})`;
    container.append(probe);
    const color = getComputedStyle(probe).color;
    probe.remove();
    return color;
  }

  function formatAmount(value) {
    if (value === null) return "";
    if (value >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
    if (value >= 1e3) return `${+(value / 1e3).toPrecision(3)}k`;
    return String(+value.toPrecision(3));
  }

  function makeAxis(format) {
    return {
      stroke: readColor("--muted"),
      grid: { stroke: readColor("--line"), width: 1 },
      ticks: { show: false },
      ...(format ? { values: (_, ticks) => ticks.map(format), size: 56 } : {}),
    };
  }

  function drawChart(place, lines) {
    const options = {
      width: place.clientWidth,
      height: HEIGHT,
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"), // the bounds of hours and days
      cursor: { drag: { x: false, y: false } },
      scales: { y: { range: (_, low, high) => [0, (high || 1) * 1.1] } },
      axes: [{ ...makeAxis(null), values: TIME_TICKS }, makeAxis(formatAmount)],
      series: [
        { label: "Time (UTC)", value: "{YYYY}-{MM}-{DD} {HH}:{mm}" },
        ...lines.map(([, label, color]) => ({
          label,
          stroke: readColor(color),
          width: 2,
          points: { show: series.times.length < 40, size: 5 },
          value: (_, value) => formatAmount(value),
        })),
      ],
    };
    return new uPlot(options, [series.times, ...lines.map(([name]) => series[name])], place);
  }

  function drawCharts() {
    plots.forEach((plot) => plot.destroy());
    plots = Object.entries(CHARTS).map(([name, lines]) =>
      drawChart(container.querySelector(`[data-chart="${name}"]`), lines));
  }

  drawCharts();
  let width = container.clientWidth;
  new ResizeObserver(() => {
    if (container.clientWidth === width) return;
    width = container.clientWidth;
    drawCharts();
  }).observe(container);
  document.addEventListener("themechange", drawCharts);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCharts);
})();
