// The leaderboard and the explorer: data that stand in the page, no library, no request. Without this script the static
// figures and tables of the page stay; where it runs it hides them.
(() => {
  "use strict";
  const SVG = "http://www.w3.org/2000/svg";
  const BUDGETS = { any: Infinity, "2 % of retraining": 0.0205, "5 %": 0.051, "10 %": 0.102, "20 %": 0.204, "50 %": 0.51 };

  // ---- small helpers
  const make = (tag, options = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(options)) {
      if (name === "text") node.textContent = value;
      else node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  };
  const draw = (parent, tag, options = {}, text = "") => {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(options)) node.setAttribute(name, value);
    if (text) node.textContent = text;
    parent.append(node);
    return node;
  };
  const known = v => v !== null && v !== undefined;
  // With a minus sign, and no minus zero.
  const text = (v, decimals) => (known(v) ? v.toFixed(decimals).replace(/^-(?=.*[1-9])/, "\u2212").replace(/^-/, "") : "n/a");
  const decimalsFor = size => Math.max(0, Math.min(5, 1 - Math.floor(Math.log10(size || 1))));
  // value and half-width; both ends where the interval is lopsided
  const interval = ([v, low, high] = []) => {
    if (!known(v)) return "n/a";
    if (!known(low) || !known(high)) return text(v, decimalsFor(Math.abs(v) / 10));
    const d = decimalsFor(high - low), half = (high - low) / 2;
    if (Math.abs((low + high) / 2 - v) < 0.1 * half) return `${text(v, d)} \u00b1 ${text(half, d)}`;
    return `${text(v, d)} [${text(low, d)}, ${text(high, d)}]`;
  };
  const share = v => (known(v) ? (v === 0 ? "0" : v < 0.001 ? "< 0.001" : text(v, v < 0.1 ? 3 : 2)) : "n/a");
  const distinct = values => [...new Set(values)];

  // ---- statistics of what is shown
  // Rank interval of each of the shown ranked lines: 1 + surely better ones, to all less the surely worse ones.
  const ranks = (board, shown) => shown.map(i => {
    const better = shown.filter(j => board.order[i][j] > 0).length;
    const worse = shown.filter(j => board.order[i][j] < 0).length;
    return [1 + better, shown.length - worse];
  });
  // Mean difference over seeds with Student's interval; null where a seed lacks one of the two.
  const difference = (board, a, b) => {
    const pairs = a.scores.map((v, i) => [v, b.scores[i]]).filter(([x, y]) => known(x) && known(y));
    if (pairs.length < 2 || !known(board.quantile)) return null;
    const d = pairs.map(([x, y]) => x - y);
    const mean = d.reduce((s, v) => s + v, 0) / d.length;
    const sd = Math.sqrt(d.reduce((s, v) => s + (v - mean) ** 2, 0) / (d.length - 1));
    const half = board.quantile * sd / Math.sqrt(d.length);
    return [mean, mean - half, mean + half];
  };

  // ---- controls
  const control = (parent, label, name, options, chosen, changed) => {
    const select = make("select", { name });
    for (const [value, shown] of options) {
      const option = make("option", { value, text: shown });
      option.selected = String(value) === String(chosen);
      select.append(option);
    }
    select.addEventListener("change", () => changed(select.value));
    parent.append(make("label", {}, make("span", { text: label }), select));
    return select;
  };
  const same = values => values.map(v => [v, v]);

  function table(heads, rows, label) {
    const head = make("tr");
    heads.forEach(([name, kind]) => head.append(make("th", { scope: "col", class: kind || "", text: name })));
    const body = make("tbody");
    for (const row of rows) {
      const line = make("tr");
      row.forEach((cell, i) => {
        const node = make(i === 0 ? "th" : "td", { class: heads[i][1] || "", ...(i === 0 ? { scope: "row" } : {}) });
        node.append(cell);
        line.append(node);
      });
      body.append(line);
    }
    const made = make("table", { class: "board" }, make("thead", {}, head), body);
    return make("div", { class: "board-scroll", role: "region", tabindex: "0", "aria-label": label }, made);
  }

  // ---- markers, by the names that the static figures use
  const SHAPES = {
    o: "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0", s: "M-4.5 -4.5h9v9h-9z", D: "M0 -6L6 0L0 6L-6 0z", "^": "M0 -6L5.5 4.5H-5.5z",
    v: "M0 6L5.5 -4.5H-5.5z", "<": "M-6 0L4.5 -5.5V5.5z", ">": "M6 0L-4.5 -5.5V5.5z", d: "M0 -6L4 0L0 6L-4 0z",
    P: "M-2 -5.5h4v3.5h3.5v4h-3.5v3.5h-4v-3.5h-3.5v-4h3.5z", X: "M-5.5 -3L-3 -5.5L0 -2.5L3 -5.5L5.5 -3L2.5 0L5.5 3L3 5.5L0 2.5L-3 5.5L-5.5 3L-2.5 0z",
    h: "M0 -6L5.2 -3V3L0 6L-5.2 3V-3z",
  };
  const mark = (parent, line, x, y) => draw(parent, "path", { d: SHAPES[line.marker] || SHAPES.o, fill: line.colour, stroke: "#fff", "stroke-width": 0.7, transform: `translate(${x} ${y})` });

  const ticksOf = (low, high, count) => {
    const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map(m => m * power).find(s => s >= rough);
    const found = [];
    for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) found.push(v);
    return [found, Math.max(0, -Math.floor(Math.log10(step)))];
  };

  // A plane with its axes: x and y map data to pixels.
  function plane(holder, title, label, [low, high], names, xTicks) {
    holder.append(make("p", { class: "board-key chosen", text: title }));
    const width = Math.max(300, Math.min(860, holder.clientWidth || 700)), height = width < 500 ? 340 : 400;
    const box = { left: 58, right: width - 14, top: 16, bottom: height - 46 };
    const svg = draw(holder, "svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
    const y = v => box.bottom - (v - low) / (high - low || 1) * (box.bottom - box.top);
    const [ticks, decimals] = ticksOf(low, high, 6);
    for (const v of ticks) {
      draw(svg, "line", { class: "grid", x1: box.left, x2: box.right, y1: y(v), y2: y(v) });
      draw(svg, "text", { x: box.left - 6, y: y(v) + 4, "text-anchor": "end" }, text(v, decimals));
    }
    for (const [position, shown] of xTicks) {
      const at = box.left + position * (box.right - box.left);
      draw(svg, "line", { class: "axis", x1: at, x2: at, y1: box.bottom, y2: box.bottom + 4 });
      draw(svg, "text", { x: at, y: box.bottom + 18, "text-anchor": position === 1 ? "end" : "middle" }, shown);
    }
    draw(svg, "path", { class: "axis", d: `M${box.left} ${box.top}V${box.bottom}H${box.right}` });
    draw(svg, "text", { x: (box.left + box.right) / 2, y: height - 8, "text-anchor": "middle" }, names[0]);
    return { svg, box, y, x: s => box.left + s * (box.right - box.left) };
  }

  function start(data) {
    const { boards } = data;
    const places = Object.fromEntries(["leaderboard", "explorer"].map(n => [n, document.querySelector(`[data-board="${n}"]`)]));
    const ranked = boards.findIndex(b => b.ranked);
    const state = { guarantee: "any", reads: "any", budget: "any", measure: 0, first: "", second: "", leakage: 0, board: Math.max(ranked, 0) };
    const redraw = () => { if (places.leaderboard) leaderboard(); if (places.explorer) explorer(); };
    const set = (name, value) => { state[name] = value; redraw(); };

    // Data and request choose the board; a request that these data lack gives way to their first.
    function choice(controls, allowed) {
      const own = boards[state.board], list = boards.filter(allowed);
      const pick = (d, r) => {
        const found = list.find(b => b.data === d && b.request === r) || list.find(b => b.data === d);
        Object.assign(state, { board: boards.indexOf(found), measure: 0, first: "", second: "", leakage: 0 });
        redraw();
      };
      control(controls, "Data and network", "data", same(distinct(list.map(b => b.data))), own.data, v => pick(v, own.request));
      control(controls, "Request", "request", same(distinct(list.filter(b => b.data === own.data).map(b => b.request))), own.request, v => pick(own.data, v));
    }
    // Draw a place anew and give the keyboard back to the control that had it.
    function fill(place, content) {
      const focus = place.contains(document.activeElement) ? document.activeElement.getAttribute("name") : null;
      place.replaceChildren(...content.filter(Boolean));
      if (focus) place.querySelector(`select[name="${focus}"]`)?.focus();
    }

    function leaderboard() {
      const board = boards[state.board], controls = make("div", { class: "board-controls" });
      choice(controls, b => b.ranked || ranked < 0);
      const kinds = name => [["any", "any"], ...same(distinct(board.lines.map(l => l[name])).sort())];
      control(controls, "Guarantee", "guarantee", kinds("guarantee"), state.guarantee, v => set("guarantee", v));
      control(controls, "Reads", "reads", kinds("reads"), state.reads, v => set("reads", v));
      control(controls, "Budget, at most", "budget", same(Object.keys(BUDGETS)), state.budget, v => set("budget", v));
      const fits = line => ["guarantee", "reads"].every(n => state[n] === "any" || line[n] === state[n]) && (known(line.cost) ? line.cost : Infinity) <= BUDGETS[state.budget];
      const shown = board.lines.map((line, i) => i).filter(i => fits(board.lines[i]));
      const inRank = shown.filter(i => i < board.order.length);
      const place = ranks(board, inRank);
      const rows = shown.map(i => {
        const line = board.lines[i], at = inRank.indexOf(i), cell = make("span");
        if (at < 0) cell.append(board.ranked && !board.order.length ? "one seed" : "not ranked");
        else {
          const [low, high] = place[at], size = 80, x = r => 3 + (r - 1) / Math.max(inRank.length - 1, 1) * (size - 6);
          cell.append(make("span", { class: "rank-text", text: low === high ? `${low}` : `${low} to ${high}` }));
          const bar = draw(cell, "svg", { class: "rank-bar", width: size, height: 12, "aria-hidden": "true" });
          draw(bar, "line", { class: "whole", x1: 0, x2: size, y1: 6, y2: 6 });
          draw(bar, "line", { class: "own", x1: x(low) - 3, x2: x(high) + 3, y1: 6, y2: 6 });
        }
        const mean = line.scores.length ? line.scores.reduce((s, v) => s + v, 0) / line.scores.length : null;
        return [line.method, cell, text(mean, 2), interval(line.damage), share(line.cost)];
      });
      const seeds = board.ranked ? ` Ranks are 95 % intervals over ${board.seeds} seeds, all at once.` : "";
      const said = `${shown.length} of ${board.lines.length} methods.${seeds}` + (board.ranked ? "" : ` No rank: ${board.why}.`);
      const heads = [["Method"], ["Rank"], ["Score", "number"], ["Test accuracy, less retraining's", "number"], ["Cost, of a retraining", "number"]];
      fill(places.leaderboard, [controls, make("p", { class: "board-said", role: "status", text: said }), rows.length ? table(heads, rows, "Leaderboard") : null]);
    }

    function explorer() {
      const board = boards[state.board], controls = make("div", { class: "board-controls" });
      const names = board.lines.map(l => l.method);
      if (!names.includes(state.first)) state.first = names.find(n => !["original", "retrain, other seed"].includes(n)) || names[0];
      if (!names.includes(state.second)) state.second = names.includes("original") ? "original" : names[names.length - 1];
      choice(controls, () => true);
      control(controls, "Measure", "measure", board.estimates.map((e, i) => [i, e.title]), state.measure, v => set("measure", Number(v)));
      control(controls, "First method", "first", same(names), state.first, v => set("first", v));
      control(controls, "Second method", "second", same(names), state.second, v => set("second", v));
      const estimate = board.estimates[state.measure], pair = [state.first, state.second].map(n => board.lines[names.indexOf(n)]);
      const chart = make("div", { class: "board-chart" });
      const notes = board.notes.map(note => make("p", { class: "board-said", text: note }));
      fill(places.explorer, [controls, ...notes, chart, values(board, estimate), ...duel(board, pair, names), leakage(board, pair, names)]);
      if (estimate) scatter(chart, board, estimate, pair);
      const curves = places.explorer.querySelector("[data-curves]");
      if (curves) curve(curves, board, pair, names);
    }

    function scatter(holder, board, estimate, pair) {
      const points = board.lines.map((line, i) => ({ line, p: estimate.points[i] })).filter(({ line, p }) => p && known(line.cost));
      const ends = points.flatMap(({ p }) => p).concat(estimate.null, [estimate.retrained]).filter(known);
      const low = Math.min(...ends), high = Math.max(...ends), pad = (high - low || 1) * 0.05;
      const costs = points.map(({ line }) => line.cost).filter(c => c > 0);
      const from = Math.floor(Math.log10(Math.min(0.01, ...costs))), to = Math.log10(Math.max(1.2, ...costs) * 1.3);
      const at = c => (c > 0 ? 0.12 + 0.86 * (Math.log10(c) - from) / (to - from) : 0.02);
      const ticks = [[at(0), "0"]];
      for (let e = from; e <= to; e += 1) ticks.push([at(10 ** e), e < 0 ? text(10 ** e, -e) : String(10 ** e)]);
      const label = `${estimate.title}, against cost: ${points.length} methods. The same numbers stand in the table below.`;
      const { svg, box, x, y } = plane(holder, estimate.title, label, [low - pad, high + pad], ["cost, as a share of one retraining (log scale)"], ticks);
      const [bottom, top] = estimate.null;
      if (known(bottom) && known(top)) draw(svg, "rect", { class: "null", x: box.left, width: box.right - box.left, y: y(top), height: Math.max(y(bottom) - y(top), 1) });
      if (known(estimate.retrained)) draw(svg, "line", { class: "retrained", x1: box.left, x2: box.right, y1: y(estimate.retrained), y2: y(estimate.retrained) });
      for (const { line, p } of points) {
        const group = draw(svg, "g");
        draw(group, "title", {}, `${line.method}: ${interval(p)}, cost ${share(line.cost)}`);
        if (known(p[1]) && known(p[2])) draw(group, "line", { x1: x(at(line.cost)), x2: x(at(line.cost)), y1: y(p[1]), y2: y(p[2]), stroke: line.colour, "stroke-width": 1.4 });
        mark(group, line, x(at(line.cost)), y(p[0]));
      }
      for (const line of distinct(pair)) {
        const p = estimate.points[board.lines.indexOf(line)];
        if (!p || !known(line.cost)) continue;
        const px = x(at(line.cost)), right = px < (box.left + box.right) / 2;
        draw(svg, "circle", { cx: px, cy: y(p[0]), r: 9, fill: "none", stroke: "#222", "stroke-width": 1.5 });
        draw(svg, "text", { class: "chosen", x: px + (right ? 13 : -13), y: y(p[0]) - 8, "text-anchor": right ? "start" : "end" }, line.method);
      }
      holder.append(key(board.lines), make("p", { class: "board-key", text: "Band: where one more retraining would fall (95 %). Dashed: retrained models. Bars: 95 % intervals over seeds." }));
    }

    function key(lines) {
      const list = make("ul", { class: "board-key" });
      for (const line of lines) {
        const item = make("li"), picture = draw(item, "svg", { viewBox: "-8 -7 16 14", "aria-hidden": "true" });
        mark(picture, line, 0, 0);
        item.append(line.method);
        list.append(item);
      }
      return list;
    }

    function values(board, estimate) {
      if (!estimate) return make("p", { class: "board-said", text: "These files hold no estimate that two methods share." });
      const rows = board.lines.map((line, i) => [line.method, interval(estimate.points[i] || []), share(line.cost)]);
      const heads = [["Method"], [estimate.title, "number"], ["Cost, of a retraining", "number"]];
      return make("details", {}, make("summary", { text: "The figure as a table" }), table(heads, rows, "The figure as a table"));
    }

    function duel(board, pair, names) {
      const [a, b] = pair, d = board.ranked ? difference(board, a, b) : null;
      let said = "These files have no ranking audit for both, so nobody wins; the numbers stand below.";
      if (a === b) said = "Choose two different methods.";
      else if (d) {
        const winner = d[2] < 0 ? a : d[1] > 0 ? b : null;
        const sure = board.order.length && board.order[names.indexOf(a.method)][names.indexOf(b.method)] !== 0;
        said = (winner ? `${winner.method} is nearer to retraining` : `${a.method} and ${b.method} are not told apart`)
          + `: score difference ${interval(d)} over ${board.seeds} seeds, for these two alone. `
          + (sure ? "They differ also when all pairs are compared at once." : "Among all pairs at once they are not told apart.");
      }
      const rows = board.estimates.slice(0, 6).map(e => [e.title, ...pair.map(l => interval(e.points[board.lines.indexOf(l)] || [])), known(e.null[0]) ? `${text(e.null[0], 3)} to ${text(e.null[1], 3)}` : "n/a"]);
      rows.push(["Cost, of a retraining", share(a.cost), share(b.cost), "1.00"]);
      const heads = [["Measure", "measure"], [a.method, "number"], [b.method, "number"], ["One more retraining", "number"]];
      return [make("h3", { text: `${a.method} against ${b.method}` }), make("p", { class: "board-said", role: "status", "data-duel": "", text: said }), table(heads, rows, "Two methods compared")];
    }

    function leakage(board, pair, names) {
      if (!board.leakage.length) return make("p", { class: "board-said", text: "No file says what single examples give away here." });
      const holder = make("div"), controls = make("div", { class: "board-controls" });
      const own = board.leakage[state.leakage];
      control(controls, "Statistic of single examples", "leakage", board.leakage.map((l, i) => [i, l.title]), state.leakage, v => set("leakage", Number(v)));
      holder.append(make("h3", { text: "Example by example" }), controls, make("div", { class: "board-chart", "data-curves": "" }));
      return holder;
    }

    function curve(holder, board, pair, names) {
      const own = board.leakage[state.leakage], shown = distinct([...pair.map(l => l.method), "original", "retrain, other seed"]);
      const lines = shown.map(n => ({ line: board.lines[names.indexOf(n)], q: own.quantiles[names.indexOf(n)] })).filter(({ q }) => q);
      if (!lines.length) { holder.replaceChildren(make("p", { class: "board-key", text: "This statistic is not there for these methods." })); return; }
      const ends = lines.flatMap(({ q }) => q).filter(known), low = Math.min(0, ...ends), high = Math.max(...ends), pad = (high - low || 1) * 0.05;
      const ticks = [0, 0.25, 0.5, 0.75, 1].map(s => [s, `${100 * s} %`]);
      const label = `${own.title}: the examples of each method in ascending order, ${own.examples} examples`;
      const { svg, x, y } = plane(holder, own.title, label, [low - pad, high + pad], [`share of the ${own.examples} examples that give away less`], ticks);
      for (const { line, q } of lines) {
        const path = q.map((v, i) => `${i ? "L" : "M"}${x(i / (q.length - 1)).toFixed(1)} ${y(v).toFixed(1)}`).join("");
        draw(svg, "path", { d: path, fill: "none", stroke: line.colour, "stroke-width": pair.includes(line) ? 2.5 : 1.5, "stroke-dasharray": pair.includes(line) ? "" : "4 3" });
        for (const i of [10, 20, 30]) if (known(q[i])) mark(svg, line, x(i / (q.length - 1)), y(q[i]));
      }
      holder.append(key(lines.map(l => l.line)));
    }

    redraw();
    for (const part of document.querySelectorAll(".board-static")) part.hidden = true;
    let width = innerWidth;
    addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; if (places.explorer) explorer(); } });
  }

  const found = document.getElementById("boards-data");
  const data = found ? JSON.parse(found.textContent) : { boards: [] };
  if (data.boards.length) start(data);
})();
