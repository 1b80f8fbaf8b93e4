// Sliders over results that the page holds already. A dial is an <input type="range">, so it takes arrow keys, and its
// reading is an <output> that is spoken when it changes. Nothing is fetched and nothing is computed.
const short = value => (Math.abs(value) >= 1e4 || (value && Math.abs(value) < 1e-2) ? value.toExponential(0) : String(+value.toPrecision(3)));
const made = (tag, name, text) => Object.assign(document.createElement(tag), { className: name, textContent: text ?? "" });

function line(panel, series) {
  const row = made("div", "dial-row");
  const [from, to] = panel.range;
  const place = value => `${(100 * (value - from)) / (to - from || 1)}%`;
  const track = made("span", "dial-track");
  const band = made("span", "dial-band"), dot = made("span", "dial-dot");
  if (panel.level) {
    const null_ = made("span", "dial-null");
    null_.style.left = place(panel.level[0]);
    null_.style.width = `calc(${place(panel.level[1])} - ${place(panel.level[0])} + 2px)`;
    track.append(null_);
  }
  track.append(band, dot);
  const told = made("span", "dial-told");
  row.append(made("span", "dial-name", series.name || panel.y), track, told);
  row.turn = at => {
    const [mid, low, high] = [series.mid[at], series.low[at], series.high[at]];
    track.style.visibility = mid === null ? "hidden" : "";
    if (mid === null) { told.textContent = "not measured"; return; }
    dot.style.left = place(mid);
    band.style.left = place(low);
    band.style.width = `calc(${place(high)} - ${place(low)})`;
    told.textContent = low < high ? `${mid.toFixed(3)} (${low.toFixed(3)} to ${high.toFixed(3)})` : mid.toFixed(3);
  };
  return row;
}

function build(dial, number) {
  const { label, x, panels } = JSON.parse(dial.dataset.dial);
  const slider = Object.assign(document.createElement("input"), { type: "range", min: 0, max: x.length - 1, step: 1, id: `dial-${number}` });
  const reading = made("output", "dial-reading");
  reading.htmlFor = slider.id;
  const head = made("div", "dial-head");
  const name = made("label", "dial-label", label);
  name.htmlFor = slider.id;
  head.append(name, slider, reading);
  dial.append(head);
  const rows = [];
  for (const panel of panels) {
    if (panel.title || panels.length > 1) dial.append(made("p", "dial-title", [panel.title, panel.y].filter(Boolean).join(": ")));
    for (const series of panel.series) rows.push(line(panel, series));
    dial.append(...rows.slice(-panel.series.length));
  }
  const across = [...new Set(panels.map(panel => panel.across).filter(Boolean))];
  if (across.length) dial.append(made("p", "dial-note", `Shaded across: ${across.join("; ")}.`));
  const turn = () => {
    reading.textContent = short(x[slider.value]);
    slider.setAttribute("aria-valuetext", reading.textContent);
    for (const row of rows) row.turn(+slider.value);
  };
  slider.addEventListener("input", turn);
  slider.value = Math.floor(x.length / 2);
  turn();
  dial.setAttribute("role", "group");
  dial.setAttribute("aria-label", `${label}: the numbers of the figure above, at one setting`);
  dial.hidden = false;
}

addEventListener("DOMContentLoaded", () => document.querySelectorAll(".dial").forEach(build));
