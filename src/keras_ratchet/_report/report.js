// The curves of a report: toggles, zoom, values under the pointer or the keyboard's cursor.
// All text is set with textContent; styles are classes, as the page's policy has no inline styles.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const HEIGHT = 230, LEFT = 58, RIGHT = 12, TOP = 10, BOTTOM = 26, COLORS = 6, SMALLEST = 1;
  const KINDS = {
    saves: "saves", reduce_lr: "learning rate cuts", rollback: "rollbacks", resume: "resumes",
    stop: "stops", preempted: "interruptions", gone_bad: "gone bad", save_error: "failed saves",
    average: "averages",
  };
  const ROLES = ["training", "validation"];
  const first = data.epochs[0], last = Math.max(data.epochs[1], first + 1);
  const room = Math.max((last - first) * 0.02, 0.5) + 0.1; // a save in mid-epoch is at half of one
  const whole = [first - room, last + room];
  const state = {
    runs: new Set(data.on), roles: new Set(ROLES),
    kinds: new Set(Object.keys(KINDS)), view: [...whole], cursor: null,
  };
  const many = data.runs.length > 1;
  const charts = [...document.querySelectorAll("[data-chart]")].map(prepared);

  function prepared(figure) {
    const chart = data.charts[Number(figure.dataset.chart)];
    return { ...chart, figure, plot: figure.querySelector(".plot"), log: chart.log };
  }

  function html(name, parent, text, attributes = {}) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    if (parent) parent.append(element);
    return element;
  }

  function svg(name, parent, attributes = {}, text) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    if (parent) parent.append(element);
    return element;
  }

  function short(value) {
    if (value === null || value === undefined) return "";
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-4 || size >= 1e7)) return value.toExponential(3).replace(/\.?0+e/, "e");
    return String(Number(value.toPrecision(6)));
  }

  const isShown = (one) => state.runs.has(one.run) && (!ROLES.includes(one.role) || state.roles.has(one.role));
  const isDrawn = (chart, y) => y !== null && (!chart.log || y > 0);
  const lineClass = (one) =>
    `line ${one.role} c${one.run % COLORS}${one.run >= COLORS ? " again" : ""}`;

  // --- axes

  function steps(low, high, most) {
    const span = high - low, rough = span / most, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((f) => f * power).find((s) => s >= rough);
    const found = [];
    for (let n = Math.ceil(low / step); n * step <= high + step * 1e-9; n++) found.push(n * step);
    return found;
  }

  function logSteps(low, high) {
    const found = [], decades = Math.log10(high) - Math.log10(low), thin = Math.max(1, Math.ceil(decades / 6));
    for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++) {
      for (const f of decades > 3 ? [1] : [1, 2, 5]) {
        const tick = f * 10 ** e;
        if (e % thin === 0 && tick >= low && tick <= high) found.push(tick);
      }
    }
    return found.length > 1 ? found : steps(low, high, 4).filter((tick) => tick > 0);
  }

  function range(chart) {
    let low = Infinity, high = -Infinity;
    const take = (x, y) => {
      if (x < state.view[0] || x > state.view[1] || !isDrawn(chart, y)) return;
      low = Math.min(low, y); high = Math.max(high, y);
    };
    for (const one of chart.series.filter(isShown)) {
      one.x.forEach((x, n) => take(x, one.y[n]));
      if (one.average) take(one.average[0], one.average[1]);
    }
    if (low > high) return null;
    if (chart.log) {
      const pad = low === high ? 2 : 10 ** ((Math.log10(high) - Math.log10(low)) * 0.06);
      return [Math.max(low / pad, Number.MIN_VALUE), Math.min(high * pad, Number.MAX_VALUE)];
    }
    const pad = low === high ? Math.abs(low) * 0.1 || 1 : (high - low) * 0.06;
    return [low - pad, high + pad];
  }

  // --- drawing

  function draw(chart) {
    const width = Math.max(chart.plot.clientWidth, 200);
    const root = svg("svg", null, { viewBox: `0 0 ${width} ${HEIGHT}`, "aria-hidden": "true" });
    const old = chart.plot.querySelector("svg");
    if (old) old.replaceWith(root); else chart.plot.prepend(root);
    chart.width = width;
    chart.range = range(chart);
    const inner = width - LEFT - RIGHT, [from, to] = state.view;
    chart.atX = (x) => LEFT + ((x - from) / (to - from)) * inner;
    chart.xAt = (px) => from + ((px - LEFT) / inner) * (to - from);
    drawAxes(chart, root, inner);
    const clip = `clip${chart.figure.dataset.chart}`;
    const box = { x: LEFT, y: TOP - 6, width: inner, height: HEIGHT - TOP - BOTTOM + 12 };
    svg("rect", svg("clipPath", root, { id: clip }), box);
    const inside = svg("g", root, { "clip-path": `url(#${clip})` });
    drawEvents(chart, inside);
    for (const one of chart.series.filter(isShown)) drawSeries(chart, one, inside);
    chart.over = svg("g", root, { "clip-path": `url(#${clip})` });
    drawCursor(chart);
  }

  function drawAxes(chart, root, inner) {
    const bottom = HEIGHT - BOTTOM;
    for (const x of steps(...state.view, Math.max(2, Math.min(8, inner / 60)))) {
      if (!Number.isInteger(Number(x.toFixed(6)))) continue;
      svg("text", root, { x: chart.atX(x), y: HEIGHT - 9, "text-anchor": "middle", class: "x" }, short(x));
    }
    svg("text", root, { x: LEFT - 6, y: HEIGHT - 9, "text-anchor": "end" }, "epoch");
    svg("line", root, { x1: LEFT, x2: LEFT + inner, y1: bottom, y2: bottom, class: "axis" });
    if (chart.log && chart.series.filter(isShown).some((one) => one.y.some((y) => y !== null && y <= 0))) {
      const at = { x: LEFT + inner, y: TOP + 4, "text-anchor": "end", class: "left-out" };
      svg("text", root, at, "without values of 0 and below");
    }
    if (!chart.range) {
      svg("text", root, { x: LEFT + 8, y: TOP + 34 }, "nothing to show here");
      chart.atY = () => bottom;
      return;
    }
    const scale = chart.log ? Math.log10 : (y) => y, [low, high] = chart.range.map(scale);
    chart.atY = (y) => bottom - ((scale(y) - low) / (high - low)) * (bottom - TOP);
    const ticks = chart.log ? logSteps(...chart.range) : steps(...chart.range, 5);
    for (const y of ticks) {
      const at = chart.atY(y);
      svg("line", root, { x1: LEFT, x2: LEFT + inner, y1: at, y2: at, class: "grid" });
      svg("text", root, { x: LEFT - 6, y: at + 4, "text-anchor": "end", class: "y" }, short(y));
    }
  }

  function drawEvents(chart, root) {
    data.runs.forEach((run, number) => {
      if (!state.runs.has(number)) return;
      for (const mark of run.marks) {
        if (!state.kinds.has(mark.kind) || mark.at < state.view[0] || mark.at > state.view[1]) continue;
        const x = chart.atX(mark.at);
        const line = { x1: x, x2: x, y1: TOP - 4, y2: HEIGHT - BOTTOM, class: `event ${mark.kind}${many ? ` owned c${number % COLORS}` : ""}` };
        svg("title", svg("line", root, line), {}, mark.text);
      }
    });
  }

  function drawSeries(chart, one, root) {
    const group = svg("g", root, { class: `series c${one.run % COLORS}`, "data-name": one.name, "data-run": one.run });
    let path = "", drawing = false, drawn = 0;
    one.x.forEach((x, n) => {
      if (!isDrawn(chart, one.y[n])) { drawing = false; return; }
      path += `${drawing ? "L" : "M"}${chart.atX(x).toFixed(1)} ${chart.atY(one.y[n]).toFixed(1)}`;
      drawing = true; drawn++;
    });
    svg("path", group, { d: path, class: lineClass(one) });
    const inView = (x) => x >= state.view[0] && x <= state.view[1];
    one.x.forEach((x, n) => {
      const before = n > 0 && isDrawn(chart, one.y[n - 1]), after = n + 1 < one.x.length && isDrawn(chart, one.y[n + 1]);
      if (isDrawn(chart, one.y[n]) && !before && !after && inView(x)) circle(chart, group, x, one.y[n], 2.2, "dot");
    });
    for (const x of Object.keys(one.bad).map(Number).filter(inView)) {
      const at = chart.atX(x), y = /^[i\d]/.test(one.bad[x]) ? TOP + 2 : HEIGHT - BOTTOM - 5;
      const cross = `M${at - 4} ${y - 4}l8 8m-8 0l8 -8`;
      svg("title", svg("path", group, { d: cross, class: "bad" }), {}, `${one.name} is ${one.bad[x]} in epoch ${x}`);
    }
    const radius = Math.min(3.6, Math.max(1.6, 180 / Math.max(drawn, 1)));
    for (const [x, y, stays] of state.kinds.has("saves") ? one.saves || [] : []) {
      if (inView(x) && isDrawn(chart, y)) circle(chart, group, x, y, radius, stays ? "save stays" : "save");
    }
    if (one.best && inView(one.best[0]) && isDrawn(chart, one.best[1])) circle(chart, group, ...one.best, 7, "ring");
    if (one.average && isDrawn(chart, one.average[1])) {
      const x = chart.atX(one.average[0]), y = chart.atY(one.average[1]);
      svg("title", svg("path", group, { d: `M${x} ${y - 6}l6 6l-6 6l-6 -6z`, class: "mean" }), {}, one.average[2]);
    }
  }

  function circle(chart, parent, x, y, r, name) {
    svg("circle", parent, { cx: chart.atX(x), cy: chart.atY(y), r, class: name });
  }

  // --- values under the cursor

  function nearest(xs, x) {
    let low = 0, high = xs.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (xs[middle] < x) low = middle + 1; else high = middle;
    }
    return low > 0 && x - xs[low - 1] <= xs[low] - x ? low - 1 : low;
  }

  function closest(chart, x) {
    const found = chart.series.filter(isShown).map((one) => one.x[nearest(one.x, x)]);
    return found.sort((a, b) => Math.abs(a - x) - Math.abs(b - x))[0];
  }

  function drawCursor(chart) {
    chart.over.replaceChildren();
    const x = state.cursor;
    if (x === null || x < state.view[0] || x > state.view[1]) return;
    const at = chart.atX(x);
    svg("line", chart.over, { x1: at, x2: at, y1: TOP - 4, y2: HEIGHT - BOTTOM, class: "cursor" });
    for (const one of chart.range ? chart.series.filter(isShown) : []) {
      const n = nearest(one.x, x);
      if (one.x[n] !== x || !isDrawn(chart, one.y[n])) continue;
      circle(chart, svg("g", chart.over, { class: `c${one.run % COLORS}` }), x, one.y[n], 3.5, "dot");
    }
  }

  function swatch(one, parent) {
    const picture = svg("svg", parent, { class: `swatch c${one.run % COLORS}`, viewBox: "0 0 20 10", "aria-hidden": "true" });
    if (!one.kind) svg("path", picture, { d: "M0 5H20", class: lineClass(one) });
    else if (one.kind === "saves") {
      svg("circle", picture, { cx: 4, cy: 5, r: 3.2, class: "save" });
      svg("circle", picture, { cx: 15, cy: 5, r: 3.2, class: "save stays" });
    } else svg("path", picture, { d: "M0 5H20", class: `event ${one.kind}` });
  }

  function tell(chart, x) {
    state.cursor = x;
    charts.forEach(drawCursor);
    charts.forEach((other) => other !== chart && other.tip.replaceChildren());
    chart.tip.replaceChildren();
    const within = Number.isInteger(x) ? `epoch ${x}` : `within epoch ${Math.ceil(x)}`;
    html("p", chart.tip, within, { class: "faint" });
    for (const one of chart.series.filter(isShown)) {
      const n = nearest(one.x, x);
      if (one.x[n] !== x) continue;
      const line = html("p", chart.tip);
      swatch(one, line);
      html("span", line, many ? `${data.runs[one.run].name}: ${one.name} ` : `${one.name} `);
      html("b", line, one.y[n] === null ? one.bad[x] : `${short(one.y[n])}${chart.unit && " " + chart.unit}`);
    }
    data.runs.forEach((run, number) => {
      for (const mark of state.runs.has(number) ? run.marks : []) {
        if (!state.kinds.has(mark.kind) || Math.ceil(mark.at) !== Math.ceil(x)) continue;
        html("p", chart.tip, many ? `${run.name}: ${mark.text}` : mark.text, { class: "faint" });
      }
    });
    const at = chart.atX(x), right = at > chart.width / 2;
    chart.tip.style.left = right ? "auto" : `${at + 10}px`;
    chart.tip.style.right = right ? `${chart.width - at + 10}px` : "auto";
  }

  function forget() {
    state.cursor = null;
    charts.forEach((chart) => { chart.tip.replaceChildren(); drawCursor(chart); });
  }

  // --- zoom

  function show(from, to) {
    const span = Math.min(Math.max(to - from, SMALLEST), whole[1] - whole[0]);
    const middle = (from + to) / 2;
    let start = Math.max(middle - span / 2, whole[0]);
    start = Math.min(start, whole[1] - span);
    state.view = [start, start + span];
    drawAll();
  }

  function zoom(factor, around) {
    const [from, to] = state.view;
    show(around - (around - from) * factor, around + (to - around) * factor);
  }

  function drawAll() {
    charts.forEach(draw);
    reset.disabled = state.view[0] === whole[0] && state.view[1] === whole[1];
  }

  function listen(chart) {
    const { plot } = chart;
    let start = null, band = null;
    const px = (event) => event.clientX - plot.getBoundingClientRect().left;
    const point = (at) => {
      const x = closest(chart, chart.xAt(at));
      if (x === undefined) forget(); else tell(chart, x);
    };
    const stop = () => { start = null; if (band) band.remove(); band = null; };
    plot.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      start = px(event);
      point(start);
      plot.setPointerCapture(event.pointerId);
    });
    plot.addEventListener("pointermove", (event) => {
      const now = px(event);
      if (start === null || Math.abs(now - start) < 4) { point(now); return; }
      band = band || svg("rect", chart.over.parentNode, { class: "picked", y: TOP, height: HEIGHT - TOP - BOTTOM });
      band.setAttribute("x", Math.min(now, start));
      band.setAttribute("width", Math.abs(now - start));
    });
    plot.addEventListener("pointerup", (event) => {
      const from = start, now = px(event);
      stop();
      if (from !== null && Math.abs(now - from) >= 8) show(chart.xAt(Math.min(from, now)), chart.xAt(Math.max(from, now)));
    });
    plot.addEventListener("pointercancel", stop);
    plot.addEventListener("pointerleave", (event) => {
      if (start === null && event.pointerType === "mouse") forget(); // a finger is gone at once
    });
    plot.addEventListener("dblclick", () => show(...whole));
    plot.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey && !event.shiftKey) return; // the page scrolls
      event.preventDefault();
      zoom((event.deltaY || event.deltaX) > 0 ? 1.25 : 0.8, chart.xAt(px(event)));
    }, { passive: false });
    plot.addEventListener("keydown", (event) => key(chart, event));
    plot.addEventListener("blur", forget);
  }

  function key(chart, event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const around = state.cursor ?? (state.view[0] + state.view[1]) / 2;
    const acts = {
      ArrowLeft: () => step(chart, -1), ArrowRight: () => step(chart, 1),
      "+": () => zoom(0.6, around), "=": () => zoom(0.6, around), "-": () => zoom(1 / 0.6, around),
      0: () => show(...whole), Escape: () => { forget(); show(...whole); },
    };
    if (!acts[event.key]) return;
    event.preventDefault();
    acts[event.key]();
  }

  function step(chart, by) {
    const all = chart.series.filter(isShown).flatMap((one) => one.x);
    const xs = [...new Set(all)].sort((a, b) => a - b);
    if (!xs.length) return;
    const from = state.cursor === null ? (by > 0 ? state.view[0] : state.view[1]) : state.cursor;
    const next = by > 0 ? xs.find((x) => x > from) : xs.findLast((x) => x < from);
    if (next === undefined) return;
    const [start, end] = state.view;
    if (next < start || next > end) show(next - (end - start) / 2, next + (end - start) / 2);
    tell(chart, next);
  }

  // --- controls

  function toggle(parent, text, pressed, act, one) {
    const button = html("button", parent, undefined, { type: "button", "aria-pressed": pressed });
    if (one) swatch(one, button);
    html("span", button, text);
    button.addEventListener("click", () => {
      const now = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", now);
      act(now);
    });
    return button;
  }

  function toggles(title, parent, names, set, one = () => null) {
    const group = html("div", parent, undefined, { class: "group", role: "group", "aria-label": title });
    html("span", group, title);
    for (const [name, text] of names) {
      toggle(group, text, set.has(name), (now) => {
        if (now) set.add(name); else set.delete(name);
        drawAll();
      }, one(name));
    }
  }

  const reset = html("button", null, "Reset zoom", { type: "button" });

  function controls() {
    const box = document.getElementById("controls");
    if (!box) return;
    box.hidden = false;
    document.getElementById("still").remove();
    if (many) {
      const names = data.runs.map((run, number) => [number, run.name]);
      toggles("Runs", box, names, state.runs, (run) => ({ run, role: "validation" }));
    }
    const roles = new Set(data.charts.flatMap((c) => c.series.map((one) => one.role)));
    if (roles.has("validation")) {
      const both = ROLES.map((role) => [role, role]);
      toggles("Curves", box, both, state.roles, (role) => (many ? null : { run: 0, role }));
    }
    const kinds = new Set(data.runs.flatMap((run) => run.marks.map((mark) => mark.kind)));
    if (data.charts.some((c) => c.series.some((one) => one.saves && one.saves.length))) kinds.add("saves");
    const known = Object.entries(KINDS).filter(([kind]) => kinds.has(kind));
    if (known.length) toggles("Events", box, known, state.kinds, (kind) => ({ run: 0, kind }));
    if (charts.length > 1) metrics(box);
    const group = html("div", box, undefined, { class: "group" });
    group.append(reset);
    reset.addEventListener("click", () => show(...whole));
    html("p", box, "Drag to zoom, double-click to reset; Ctrl or Shift with the wheel zooms too. " +
      "On the keyboard: the arrows move from epoch to epoch, + and \u2212 zoom, 0 resets. " +
      "A filled circle is a save that is still there, a hollow one was replaced or deleted since; " +
      "the ring is the best epoch; a cross stands for a value that is no finite number.",
      { class: "help faint" });
  }

  function metrics(box) {
    const group = html("div", box, undefined, { class: "group", role: "group", "aria-label": "Metrics" });
    html("span", group, "Metrics");
    for (const chart of charts) {
      toggle(group, chart.name, true, (now) => { chart.figure.hidden = !now; drawAll(); });
    }
  }

  function themes() {
    const button = document.getElementById("theme"), names = ["auto", "light", "dark"];
    let now = 0;
    button.hidden = false;
    button.addEventListener("click", () => {
      now = (now + 1) % names.length;
      document.documentElement.dataset.theme = names[now];
      button.textContent = `Theme: ${names[now]}`;
    });
  }

  function log(chart) {
    const caption = chart.figure.querySelector("figcaption");
    const button = toggle(caption, "log scale", chart.log, (now) => { chart.log = now; draw(chart); });
    button.className = "log";
    button.setAttribute("aria-label", `log scale of ${chart.name}`);
  }

  for (const chart of charts) {
    chart.tip = html("div", chart.plot, undefined, { class: "tip", role: "status" });
    const label = `${chart.name} over the epochs. Arrow keys move from epoch to epoch.`;
    for (const [name, value] of Object.entries({ tabindex: "0", role: "group", "aria-label": label })) {
      chart.plot.setAttribute(name, value);
    }
    log(chart);
    listen(chart);
  }
  controls();
  themes();
  drawAll();
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth !== width) { width = window.innerWidth; drawAll(); }
  });
})();
