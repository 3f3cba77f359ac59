"use strict";
/* Draws the charts anew with Vega, lets one choice be followed through the whole page, and zooms over training steps.
   Without this script, or on paper, the drawings that stand in the page are shown. */
(() => {
  const { subjects, charts } = JSON.parse(document.getElementById("charts").textContent);
  const views = new Map();
  let chosen = null;

  const ink = name => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const theme = () => {
    const axis = { labelColor: ink("soft"), titleColor: ink("soft"), gridColor: ink("line"), domainColor: ink("faint"), tickColor: ink("faint") };
    const font = getComputedStyle(document.body).fontFamily;
    return {
      background: null, font, view: { stroke: null }, bar: { fill: ink("core"), stroke: ink("ink") },
      axis: { ...axis, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", titleAnchor: "end" },
      range: { category: ["core", "cue0", "cue1", "cue2", "cue3", "red", "soft"].map(ink) },
    };
  };

  const subjectsOf = spec => new Set([spec, ...spec.layer].flatMap(part => part.data ? part.data.values : []).map(row => row.subject));
  const about = (spec, subject) => subject !== null && subjectsOf(spec).has(subject) ? subject : null;

  async function draw(figure, spec) {
    let place = figure.querySelector(".live");
    if (!place) {
      place = document.createElement("div");
      place.className = "live";
      figure.querySelector("svg").after(place);
    }
    figure.classList.add("drawn");
    const { view, finalize } = await vegaEmbed(place, structuredClone(spec), {
      mode: "vega-lite", renderer: "svg", actions: false, ast: true, config: theme(), tooltip: { theme: "custom" },
    });
    views.get(figure)?.finalize();
    views.set(figure, { view, spec, finalize });
    view.addEventListener("click", (event, item) => {
      const subject = item && item.datum ? item.datum.subject : undefined;
      if (subject !== undefined && subject >= 0) choose(subject);
    });
    view.signal("chosen", about(spec, chosen)).run();
    if (zooms(figure)) view.addSignalListener("zoom_x", (name, domain) => zoomAll(domain, figure));
  }

  /* one choice for the whole page */
  function choose(subject) {
    chosen = subject === chosen ? null : subject;
    for (const { view, spec } of views.values()) view.signal("chosen", about(spec, chosen)).runAsync();
    for (const group of document.querySelectorAll("tbody, .pictures")) {
      const rows = [...group.querySelectorAll("[data-subject]")];
      const any = rows.some(row => chosen !== null && Number(row.dataset.subject) === chosen);
      for (const row of rows) {
        row.classList.toggle("followed", any && Number(row.dataset.subject) === chosen);
        row.classList.toggle("aside", any && Number(row.dataset.subject) !== chosen);
      }
    }
    for (const button of document.querySelectorAll("#follow button")) button.setAttribute("aria-pressed", String(Number(button.dataset.choice) === chosen));
  }

  function offer() {
    if (!subjects.length) return;
    const bar = document.createElement("div");
    bar.id = "follow";
    bar.setAttribute("role", "group");
    bar.setAttribute("aria-label", "Follow through all charts");
    bar.append("Follow ");
    subjects.forEach((name, i) => {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.choice = i;
      button.setAttribute("aria-pressed", "false");
      button.textContent = name;
      button.addEventListener("click", () => choose(i));
      bar.append(button);
    });
    document.querySelector("main").append(bar);
    document.addEventListener("keydown", event => { if (event.key === "Escape" && chosen !== null) choose(chosen); });
    for (const row of document.querySelectorAll("tr[data-subject], figure[data-subject]")) row.addEventListener("click", () => choose(Number(row.dataset.subject)));
  }

  /* one window over training steps for all panels of the timeline */
  const zooms = figure => figure.dataset.chart.startsWith("timeline/");
  let passing = false;
  function zoomAll(domain, from) {
    if (passing) return;
    passing = true;
    const others = [...views].filter(([figure]) => figure !== from && zooms(figure));
    Promise.all(others.map(([, { view }]) => view.signal("zoom_x", domain && [...domain]).runAsync())).finally(() => { passing = false; });
  }
  function zoomBy(factor) {
    const [figure, { view, spec }] = [...views].find(([figure]) => zooms(figure));
    const whole = spec.layer[0].encoding.x.scale.domain;
    const [low, high] = (view.signal("zoom_x") || whole).map(Math.log1p);
    const [middle, half] = [(low + high) / 2, (high - low) / 2 * factor];
    const [first, last] = [Math.max(whole[0], Math.expm1(middle - half)), Math.min(whole[1], Math.expm1(middle + half))];
    const domain = factor === Infinity || last - first >= whole[1] - whole[0] ? null : [first, last];
    for (const [figure, { view }] of views) if (zooms(figure)) view.signal("zoom_x", domain).runAsync();
  }
  function offerZoom() {
    const panels = document.querySelector("#timeline .panels");
    if (!panels) return;
    const bar = document.createElement("p");
    bar.className = "small zoom";
    for (const [label, said, factor] of [["+", "Zoom in", 0.5], ["−", "Zoom out", 2], ["all", "All steps", Infinity]]) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = label;
      button.setAttribute("aria-label", said);
      button.addEventListener("click", () => zoomBy(factor));
      bar.append(button);
    }
    bar.append(" Or turn the wheel with Ctrl held, drag to move, double-click for all steps.");
    panels.before(bar);
  }

  const drawAll = () => Promise.all([...document.querySelectorAll("figure[data-chart]")]
    .filter(figure => Object.hasOwn(charts, figure.dataset.chart))
    .map(figure => draw(figure, charts[figure.dataset.chart])));
  offer();
  offerZoom();
  drawAll().then(() => { document.documentElement.dataset.live = "ready"; });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
})();
