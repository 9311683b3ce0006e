"use strict";
// Names come from strangers: they go into the page by textContent and value alone.

const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const percent = (share, digits = 1) => (share === null ? "–" : `${(100 * share).toFixed(digits)}\u00a0%`);
const count = (number) => number.toLocaleString("en-US");
const MARKS = { own: "✓", partner: "⇄", neither: "✗", unlabelled: "·" };
const MEANING = { own: "own class", partner: "partner's class", neither: "another class", unlabelled: "no label" };
const CLASSES_SHOWN = 40; // of the heat map
const FEW_CROPS = 6; // more of them over each other are a lattice
const SEEN_SIDE = 128; // pixels of the map of what was seen
const SEEN_COLOURS = [[0, 255], [32, 234], [76, 70]]; // ends of red, green and blue, as Cividis has them
const NUMBERED = 12; // classes, up to which its cells have their numbers

function el(tag, properties = {}, ...children) {
  const { dataset, style, ...others } = properties;
  const made = Object.assign(document.createElement(tag), others);
  Object.assign(made.dataset, dataset);
  Object.assign(made.style, style);
  made.append(...children);
  return made;
}

// Theme

const drawings = []; // functions that draw a chart anew in the theme's colours, once Plotly is there

function isDark() {
  return !matchMedia("print").matches && (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
}

function showTheme() {
  at("theme").setAttribute("aria-pressed", String(isDark()));
  if (window.Plotly) drawings.forEach((draw) => draw());
}

/** Plotly comes in a third of its bytes, packed. */
async function unpackPlotly() {
  const bytes = Uint8Array.from(atob(at("plotly").textContent), (letter) => letter.charCodeAt(0));
  const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  document.head.append(el("script", { textContent: text })); // it runs at once
}

at("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  showTheme();
});
for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).addEventListener("change", showTheme);

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// Charts

function layout(more) {
  const axis = { gridcolor: colour("line"), zerolinecolor: colour("line"), automargin: true, fixedrange: true };
  const { xaxis, yaxis, ...others } = more;
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("ink"), size: 12 },
    margin: { l: 50, r: 12, t: 8, b: 44 }, hovermode: "closest",
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
    // ticks that nobody sees keep the labels below clear of the 0 beside them
    xaxis: { ...axis, ticks: "outside", ticklen: 6, tickcolor: "rgba(0,0,0,0)", ...xaxis, title: { text: xaxis.title, standoff: xaxis.standoff ?? 8 } },
    yaxis: { ...axis, ...yaxis, title: { text: yaxis.title, standoff: 8 } }, ...others,
  };
}

const SETTINGS = { responsive: true, displayModeBar: false };

const hasIntervals = (each) => each.rows.some((row) => row.low !== undefined);
const isBar = (each) => !hasIntervals(each) && !each.line;

/** The part of an axis of percents, [from, to], that shares and their intervals take up; from 0 on where that is near. */
function fitted(series) {
  const rows = series.flatMap((each) => each.rows);
  const low = 100 * Math.min(...rows.map((row) => row.low ?? row.y));
  const high = 100 * Math.max(...rows.map((row) => row.high ?? row.y));
  const room = Math.max(1, 0.08 * (high - low));
  const [from, to] = [Math.floor(low - room), Math.min(100, Math.ceil(high + room))];
  return from < (to - from) / 4 ? [0, to] : [from, to];
}

/** A chart with its numbers as a table. series: [{name, colour, rows: [{x, y, n, low, high, label, width}], line}];
 * whole: x are whole numbers; swap: x goes upwards; asShare: y are shares with their n; range: of x.
 * Bars begin at 0; points show the part of the axis that they take up, and the note says where it begins. */
function chart({ title, note, x, y, unit, series, swap = false, asShare = true, whole = false, range = undefined }) {
  const limits = !asShare ? undefined : series.every(isBar) ? [0, 100] : fitted(series);
  const plot = el("div", { className: "plot" });
  plot.setAttribute("role", "img");
  plot.setAttribute("aria-label", `${title}; the table below says the same`);
  const shown = (value) => (asShare ? percent(value) : count(value));
  const headers = [x, ...(series.length > 1 ? ["of"] : []), y, ...(series.some(hasIntervals) ? ["95 % interval"] : []), ...(asShare ? ["n"] : [])];
  const table = el("table", {}, el("thead", {}, el("tr", {}, ...headers.map((text) => el("th", { scope: "col", textContent: text })))));
  const body = table.appendChild(el("tbody"));
  for (const each of series) {
    for (const row of each.rows) {
      const cells = [row.label ?? row.x, ...(series.length > 1 ? [each.name] : []), shown(row.y), ...(headers.includes("95 % interval") ? [row.low === undefined ? "–" : `${percent(row.low)} to ${percent(row.high)}`] : []), ...(asShare ? [count(row.n)] : [])];
      body.append(el("tr", {}, ...cells.map((text) => el("td", { textContent: text }))));
    }
  }
  const scroll = el("div", { className: "scroll", tabIndex: 0 }, table);
  at("chart-list").append(el("figure", {}, el("h3", { textContent: title }), el("figcaption", { textContent: limits?.[0] ? `${note} The axis begins at ${limits[0]}\u00a0%, not at 0.` : note }), plot,
    el("details", {}, el("summary", { textContent: "Numbers" }), scroll)));
  const rows = Math.max(...series.map((each) => each.rows.length));
  if (swap) plot.style.height = `${Math.max(290, 60 + 20 * rows)}px`;
  const draw = () => {
    const traces = series.map((each) => {
      const values = each.rows.map((row) => (asShare && row.y !== null ? 100 * row.y : row.y));
      const errors = hasIntervals(each) && {
        type: "data", symmetric: false, thickness: 1.5, width: 4, color: colour(each.colour),
        array: each.rows.map((row) => (row.low === undefined ? 0 : 100 * (row.high - row.y))),
        arrayminus: each.rows.map((row) => (row.low === undefined ? 0 : 100 * (row.y - row.low))),
      };
      const places = each.rows.map((row) => row.x);
      return {
        ...(isBar(each) ? { type: "bar", width: each.rows.map((row) => row.width ?? 0.85) } : { type: "scatter", mode: swap ? "markers" : "lines+markers", cliponaxis: false }),
        name: each.name, x: swap ? values : places, y: swap ? places : values,
        marker: { color: colour(each.colour), symbol: each.symbol ?? "circle", size: 7 }, line: { color: colour(each.colour), dash: each.dash ?? "solid" },
        [swap ? "error_x" : "error_y"]: errors || undefined, hoverinfo: "text",
        hovertext: each.rows.map((row) => `${plain(row.label ?? row.x)}: ${shown(row.y)}${row.low === undefined ? "" : ` (${percent(row.low)} to ${percent(row.high)})`}${asShare ? `, n = ${count(row.n)}` : ` ${unit}`}`),
      };
    });
    const value = { title: asShare ? `${y} (%)` : y, rangemode: "tozero", range: limits };
    const place = { title: swap ? "" : x, range, ...(typeof series[0].rows[0].x === "string" ? { type: "category" } : {}), ...(whole ? { dtick: Math.max(1, Math.ceil(rows / 8)) } : {}) };
    Plotly.react(plot, traces, layout({ xaxis: swap ? value : place, yaxis: swap ? place : value, showlegend: series.length > 1 }), SETTINGS);
  };
  drawings.push(draw);
}

/** Text for Plotly, which reads a few tags in its labels. */
function plain(text) {
  return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

const measured = (place, found) => ({ ...place, y: found.share, n: found.views, low: found.interval?.[0], high: found.interval?.[1] });
const seen = (rows) => rows.filter((row) => row.y !== null && row.y !== undefined);
const bin = (row, unit) => (row.from === row.to ? "none" : unit === "%" ? `${Math.round(100 * row.from)}–${Math.round(100 * row.to)} %` : `${row.from.toFixed(1)}–${row.to.toFixed(1)}`);

function drawCharts() {
  const { summary } = data;
  const add = (made) => {
    const series = made.series.map((each) => ({ ...each, rows: seen(each.rows) })).filter((each) => each.rows.length);
    if (series.length) chart({ ...made, series });
  };
  add({ title: "Coverage by shard", note: `Filled views of all ${count(summary.samples * summary.views)}; n counts samples.`, x: "shard", y: "filled", whole: true,
    series: [{ name: "filled", colour: "own", rows: summary.coverage.shards.map((row, number) => ({ x: number, label: row.shard, y: row.share, n: row.samples })) }] });
  const groups = summary.agreement_by_group;
  add({ title: "Agreement by group of views", note: "All labels; n counts labels; no intervals.", x: "views", y: "agreement",
    series: [["own", "own class", "own", "solid", "circle"], ["larger", "class of the larger share", "third", "dash", "square"], ["either", "either class of the mix", "partner", "dot", "diamond"]]
      .slice(0, summary.mixed ? 3 : 1)
      .map(([field, name, tone, dash, symbol]) => ({ name, colour: tone, dash, symbol, line: true, rows: groups.map((row) => ({ x: `${row.views[0]}–${row.views[1] - 1}`, y: row[field], n: row.labels })) })) });
  if (summary.stability) {
    const histogram = (title, bins, unit, digits, x, more = "") => add({ title, note: `${count(summary.stability.samples)} samples of two labels or more.${more}`, x, y: "samples", unit: "samples", asShare: false,
      range: [bins.edges[0], bins.edges.at(-1)],
      series: [{ name: title, colour: "own", rows: bins.samples.map((samples, number) => {
        const [from, to] = bins.edges.slice(number, number + 2);
        return { x: (from + to) / 2, width: 0.88 * (to - from), label: `${from.toFixed(digits)} to ${to.toFixed(digits)} ${unit}`, y: samples, n: samples };
      }) }] });
    histogram("Stability of labels", summary.stability.share_bins, "", 1, "share of the commonest label");
    histogram("Entropy of labels", summary.stability.entropy_bins, "bits", 1, "entropy of a sample's labels (bits)",
      ` The axis ends at the highest possible, ${summary.stability.entropy_bins.edges.at(-1).toFixed(2)} bits.`);
  }
  const sampled = summary.sampled;
  if (!sampled) return;
  const note = `Sampled: ${sampled.dominant}; n counts views. Bars are 95 % intervals.`;
  add({ title: "Agreement by what the crop shows", note, x: "share of the image's area that the view shows", y: "own class",
    series: [{ name: "own class", colour: "own", rows: sampled.by_visible_share.map((row) => measured({ x: bin(row, "%") }, row)) }] });
  const mixes = [...new Set(sampled.by_lambda.map((row) => row.mix))];
  const names = { mixup: "Mixup", cutmix: "CutMix" };
  for (const mix of mixes) {
    const rows = sampled.by_lambda.filter((row) => row.mix === mix);
    add({ title: `Agreement by lambda, ${names[mix] ?? mix}`, note: "All sampled views of this mix; lambda is the sample's own share. n counts views. Bars are 95 % intervals.", x: "lambda", y: "label is that class",
      series: [["own", "own class", "own", "solid", "circle"], ["partner", "partner's class", "partner", "dot", "diamond"]].map(([field, name, tone, dash, symbol]) =>
        ({ name, colour: tone, dash, symbol, rows: rows.map((row) => measured({ x: bin(row) }, row[field])) })) });
  }
  add({ title: "Agreement by erased area", note, x: "share of the view's area that is erased", y: "own class",
    series: [{ name: "own class", colour: "neither", rows: sampled.by_erased_share.map((row) => measured({ x: bin(row, "%") }, row)) }] });
  add({ title: "Agreement by operation", note, x: "operation", y: "own class", swap: true,
    series: [{ name: "own class", colour: "third", rows: sampled.by_operation.map((row) => measured({ x: row.operation ?? "no operation" }, row)) }] });
}

// Confusions

const pairs = new Map(data.pairs.shown.map(([truth, label, labels]) => [`${truth},${label}`, labels]));
const totals = data.labels;
const wrongPairs = data.pairs.shown.filter(([truth, label]) => truth !== label);
let wantedClasses = null; // null: all

function classesShown() {
  const chosen = new Set();
  const isWanted = wantedClasses === null ? () => true : (number) => wantedClasses.has(number);
  if (data.class_names.length <= CLASSES_SHOWN && wantedClasses === null) return [...data.class_names.keys()];
  for (const number of wantedClasses ?? []) if (chosen.size < CLASSES_SHOWN) chosen.add(number);
  for (const [truth, label] of wrongPairs) {
    if (!isWanted(truth) && !isWanted(label)) continue;
    for (const number of [truth, label]) if (chosen.size < (wantedClasses === null ? CLASSES_SHOWN : Math.max(12, wantedClasses.size)) && chosen.size < CLASSES_SHOWN) chosen.add(number);
  }
  return [...chosen].sort((a, b) => a - b);
}

const short = (name, letters) => (name.length > letters ? `${name.slice(0, letters - 1)}…` : name);

/** A cell's number, in percent: nothing where nothing is confused. */
const cellText = (share, digits) => (share === null || share === 0 ? "" : share < 0.5 * 10 ** -digits ? `<${10 ** -digits}` : share.toFixed(digits));

function drawHeat() {
  const numbers = classesShown();
  const names = numbers.map((number) => data.class_names[number]);
  const places = [...numbers.keys()];
  const shares = numbers.map((truth) => numbers.map((label) => (totals[truth] ? (100 * (pairs.get(`${truth},${label}`) ?? 0)) / totals[truth] : null)));
  const errors = shares.map((row, truth) => row.map((share, label) => (truth === label ? null : share)));
  const hits = shares.map((row, truth) => row.map((share, label) => (truth === label ? share : null)));
  const hovertext = numbers.map((truth, row) => numbers.map((label, column) => `${plain(names[row])} called ${plain(names[column])}: ${count(pairs.get(`${truth},${label}`) ?? 0)} of ${count(totals[truth])} labels, ${percent(shares[row][column] === null ? null : shares[row][column] / 100)}`));
  const narrow = innerWidth < 700;
  const [size, letters] = narrow ? [10, 11] : [12, 16];
  const ticks = { tickvals: places, ticktext: names.map((name) => plain(short(name, letters))), tickfont: { size }, showgrid: false, zeroline: false };
  const largest = Math.max(0, ...errors.flat()); // null counts as 0
  const digits = largest < 10 ? 1 : 0;
  const cells = (shown, decimals, more) => ({ type: "heatmap", x: places, y: places, z: shown, hovertext, hoverinfo: "text", hoverongaps: false, xgap: 1, ygap: 1,
    ...(numbers.length <= NUMBERED ? { text: shown.map((row) => row.map((share) => cellText(share, decimals))), texttemplate: "%{text}", textfont: { size } } : {}), ...more });
  const plate = colour("panel");
  at("heat").style.height = `${Math.max(narrow ? 440 : 520, 15 * numbers.length + 160)}px`; // a line of text for each class
  Plotly.react(at("heat"), [
    cells(errors, digits, { colorscale: "Cividis", zmin: 0, zmax: largest || 1,
      colorbar: { orientation: "h", y: 1.01, yanchor: "bottom", thickness: 8, len: 1, title: { text: "errors, % of the class's labels", side: "top", font: { size } }, tickfont: { size }, tickformat: "~g", nticks: 6 } }),
    cells(hits, 0, { colorscale: [[0, plate], [1, plate]], showscale: false, ...(numbers.length <= NUMBERED ? { textfont: { size, color: colour("faint") } } : {}) }),
  ], layout({ margin: { l: 30, r: 8, t: 8, b: narrow ? 100 : 116 }, xaxis: { ...ticks, title: "the teacher's label", standoff: 30, tickangle: narrow ? -90 : -45 }, yaxis: { ...ticks, title: "ground truth", autorange: "reversed" } }), SETTINGS);
  at("heat").removeAllListeners?.("plotly_click");
  at("heat").on("plotly_click", (event) => showPair(names[event.points[0].y], names[event.points[0].x]));
  const some = numbers.length < data.class_names.length ? `${numbers.length} of ${count(data.class_names.length)} classes are drawn. ` : "";
  const left = data.pairs.left_out ? ` ${count(data.pairs.left_out)} rarer pairs are left out of the page.` : "";
  at("confusion-note").textContent = `${some}A cell is the share of the labels of a class's samples, in percent. Colours are of errors alone; the diagonal, where the teacher is right, has none.${left}`;
}

function showPair(truth, label) {
  filters.class.value = truth;
  filters.label.value = truth === label ? "" : label;
  filters.kind.value = "";
  filters.key.value = "";
  showGallery();
  at("samples").scrollIntoView();
  at("samples").focus({ preventScroll: true });
}

function listPairs() {
  const chosen = wrongPairs.filter(([truth, label]) => wantedClasses === null || wantedClasses.has(truth) || wantedClasses.has(label)).slice(0, 50);
  at("pair-list").replaceChildren(...chosen.map(([truth, label, labels]) => {
    const names = [data.class_names[truth], data.class_names[label]];
    const button = el("button", { type: "button" }, el("span", { textContent: `${names[0]} → ${names[1]}` }), el("span", { textContent: `${count(labels)}, ${percent(labels / totals[truth])}` }));
    button.addEventListener("click", () => showPair(...names));
    return el("li", {}, button);
  }));
  if (!chosen.length) at("pair-list").append(el("li", { className: "note", textContent: "No pair." }));
}

at("class-search").addEventListener("input", (event) => {
  const text = event.target.value.trim().toLowerCase();
  wantedClasses = text ? new Set([...data.class_names.keys()].filter((number) => data.class_names[number].toLowerCase().includes(text))) : null;
  if (window.Plotly) drawHeat();
  listPairs();
  fillTable();
});

// The class table

const byClass = new Map((data.summary.sampled?.by_class ?? []).map((row) => [row.class, row]));
const share = (found) => (found?.share === null || found === undefined ? "–" : `${percent(found.share)} (n ${count(found.views)})`);
const columns = [
  { name: "Class", value: (row) => row.class, text: (row) => row.class, isText: true },
  { name: "Samples", value: (row) => row.samples, text: (row) => count(row.samples) },
  { name: "Labels", value: (row) => row.labels, text: (row) => count(row.labels) },
  { name: "Own", value: (row) => row.own, text: (row) => percent(row.own) },
  { name: "Precision", value: (row) => row.precision, text: (row) => percent(row.precision) },
  ...(byClass.size ? [
    { name: "Small crops", value: (row) => byClass.get(row.class).small_crops.share, text: (row) => share(byClass.get(row.class).small_crops) },
    { name: "Large crops", value: (row) => byClass.get(row.class).large_crops.share, text: (row) => share(byClass.get(row.class).large_crops) },
  ] : []),
  { name: "Taken for most", value: (row) => row.taken_for[0]?.share ?? null, text: (row) => (row.taken_for[0] ? `${row.taken_for[0].label}, ${percent(row.taken_for[0].share)}` : "–") },
];
const order = { column: 3, ascending: true };

function fillTable() {
  const { value, isText } = columns[order.column];
  const sign = order.ascending ? 1 : -1;
  const rows = data.classes.filter((row) => wantedClasses === null || wantedClasses.has(row.number)).sort((a, b) => {
    const [first, second] = [value(a), value(b)];
    if (first === null || second === null) return (first === null) - (second === null); // absent ones come last either way
    return sign * (isText ? first.localeCompare(second, "en", { numeric: true }) : first - second);
  });
  document.querySelectorAll("#class-table th").forEach((cell, number) => cell.setAttribute("aria-sort", number !== order.column ? "none" : order.ascending ? "ascending" : "descending"));
  document.querySelector("#class-table tbody").replaceChildren(...rows.map((row) => el("tr", {}, ...columns.map((column) => el("td", { textContent: column.text(row), className: column.isText ? "text" : "" })))));
}

function makeTable() {
  document.querySelector("#class-table thead").append(el("tr", {}, ...columns.map((column, number) => {
    const button = el("button", { type: "button", textContent: column.name });
    button.addEventListener("click", () => {
      order.ascending = order.column === number ? !order.ascending : true;
      order.column = number;
      fillTable();
    });
    return el("th", { scope: "col", className: column.isText ? "text" : "" }, button);
  })));
  fillTable();
}

// Wide tables

/** A line over a region says that it goes on to the right, while it does. */
function hintAtWidth(region) {
  const hint = el("p", { className: "note hint", textContent: "Wider than the screen: scroll it sideways →" });
  region.before(hint);
  const show = () => { hint.hidden = region.scrollWidth <= region.clientWidth + 1; };
  new ResizeObserver(show).observe(region);
  show();
}

// Samples

const ERASED_WITH = { pixel: "noise", rand: "one colour drawn at random", const: "the mean colour" };

/** What the colours of borders mean, for those kinds of views that there are. */
function legend(views) {
  const kinds = new Set(views.map(kindOf));
  return el("span", { className: "legend" }, "Borders: ", ...Object.keys(MARKS).filter((kind) => kinds.has(kind)).map((kind) =>
    el("span", { className: kind }, el("i"), ` ${MARKS[kind]} ${MEANING[kind]}`)), el("br"));
}

/** What there is in a view's picture beside the sample's own pixels. */
function foreignParts() {
  const { mix, erase } = data.summary.policy;
  const parts = [];
  if (erase) parts.push(`Rectangles of ${ERASED_WITH[erase.mode]} are erased parts${mix ? ", the view's own where it says so, else its partner's" : ""}.`);
  if (mix) parts.push("Another picture in a rectangle (CutMix), or over the whole (Mixup), is the partner's part, told in percent of the view.");
  return parts.join(" ");
}

const filters = { kind: at("by-kind"), class: at("by-class"), label: at("by-label"), key: at("by-key") };
let shownSamples = [];
let openNumber = 0; // in shownSamples

const anyRow = (sample) => Object.values(sample.kinds)[0];
const calledAs = (sample) => new Set(Object.values(sample.kinds).flatMap((row) => [row.label, ...(row.second === null ? [] : [row.second])]));
const kindOf = (view) => (view.label === null ? "unlabelled" : view.agrees);

function picture(uri, alt, tone = "") {
  if (uri === null) return el("span", { className: "blank", textContent: "picture left out" });
  const image = el("img", { alt, className: tone });
  image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth <= 64));
  image.src = uri;
  return image;
}

function card(sample, number) {
  const { detail } = sample;
  const row = anyRow(sample);
  const views = detail.views.slice(0, 4);
  const odd = detail.views.filter((view) => kindOf(view) === "neither"); // those that the teacher gets wrong tell most
  const shown = [...odd, ...views].filter((view, place, all) => all.indexOf(view) === place).slice(0, 4);
  const pictures = detail.views.length && sample.image !== null
    ? [picture(sample.image, ""), ...shown.map((view) => picture(sample.views[detail.views.indexOf(view)], "", kindOf(view)))] : [];
  const said = `called ${row.label} ${percent(row.share, 0)}${row.second === null ? "" : `, ${row.second} ${percent(row.second_share, 0)}`}`;
  const button = el("button", { type: "button", className: "card", dataset: { sample: String(detail.sample) } },
    ...(pictures.length ? [el("span", { className: "pictures" }, ...pictures)] : []),
    el("span", {}, el("b", { textContent: row.class }), ` ${said}`),
    el("span", { className: "badges" }, ...Object.keys(sample.kinds).map((kind) => el("span", { className: "badge", textContent: data.kinds[kind] }))),
    el("span", { className: "key", textContent: `${row.shard} ${row.key}` }));
  button.addEventListener("click", () => openSample(number));
  return el("li", {}, button);
}

function showGallery() {
  const key = filters.key.value.trim().toLowerCase();
  shownSamples = data.samples.filter((sample) => (!filters.kind.value || filters.kind.value in sample.kinds)
    && (!filters.class.value || anyRow(sample).class === filters.class.value)
    && (!filters.label.value || calledAs(sample).has(filters.label.value))
    && (!key || `${anyRow(sample).shard}/${anyRow(sample).key}`.toLowerCase().includes(key)));
  at("found").textContent = `${count(shownSamples.length)} of ${count(data.samples.length)} samples`;
  at("gallery").replaceChildren(...shownSamples.map(card));
}

function explainGallery() {
  const views = data.samples.flatMap((sample) => sample.detail.views);
  if (views.length) at("legend").append(legend(views), foreignParts());
}

function fillFilters() {
  const options = (names) => [...names].sort((a, b) => a.localeCompare(b, "en", { numeric: true })).map((name) => el("option", { value: name, textContent: name }));
  // every class of a confusion may be asked for, with or without samples in the lists
  filters.class.append(...options(data.class_names));
  filters.label.append(...options(data.class_names));
  for (const each of Object.values(filters)) each.addEventListener(each === filters.key ? "input" : "change", showGallery);
  at("filters").addEventListener("reset", () => setTimeout(showGallery));
  at("filters").addEventListener("submit", (event) => event.preventDefault());
}

/** Top, left, bottom and right, in pixels of the image, of what a params's window keeps of its crop. */
function seenEdges({ crop, window, resized }) {
  const [rows, columns] = [crop.height / resized[0], crop.width / resized[1]];
  const [top, left] = [crop.top + window.top * rows, crop.left + window.left * columns];
  return [top, left, top + window.height * rows, left + window.width * columns];
}

/** How often each pixel of the image is in a crop of the views, as a picture: dark the seldomest, bright the most often. */
function seenMap(detail) {
  const scale = Math.min(1, SEEN_SIDE / Math.max(...detail.image_size));
  const [height, width] = detail.image_size.map((side) => Math.max(1, Math.round(side * scale)));
  const counts = new Array(height * width).fill(0);
  for (const view of detail.views) {
    const [top, left, bottom, right] = seenEdges(view.params).map((edge) => edge * scale);
    for (let row = Math.floor(top); row < Math.min(height, Math.ceil(bottom)); row += 1) {
      for (let column = Math.floor(left); column < Math.min(width, Math.ceil(right)); column += 1) counts[row * width + column] += 1;
    }
  }
  const [least, most] = [Math.min(...counts), Math.max(...counts)];
  const canvas = el("canvas", { className: "seen", width, height });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  counts.forEach((seen, place) => {
    const level = (seen - least) / Math.max(1, most - least);
    pixels.data.set([...SEEN_COLOURS.map(([dark, bright]) => Math.round(dark + level * (bright - dark))), 255], 4 * place);
  });
  context.putImageData(pixels, 0, 0);
  const said = `How often a pixel was seen: ${least} (dark) to ${most} (bright) of ${detail.views.length} views. Point at a view for its crop.`;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", said);
  return [canvas, el("p", { className: "note", textContent: said })];
}

function openSample(number) {
  openNumber = number;
  const sample = shownSamples[number];
  const { detail } = sample;
  at("sample-title").textContent = `${detail.key}: ${detail.class}`;
  at("previous").disabled = number === 0;
  at("next").disabled = number === shownSamples.length - 1;
  const rows = Object.entries(sample.kinds).map(([kind, row]) => el("p", { textContent:
    `${data.kinds[kind]}: ${row.label} ${percent(row.share)}${row.second === null ? "" : `, ${row.second} ${percent(row.second_share)}`} of the evidence of ${row.evidence.toFixed(1)} views; own class ${percent(row.own_share)}, margin ${row.margin.toFixed(2)}, entropy ${row.entropy_bits.toFixed(2)} bits, n = ${row.labels} labels` }));
  const votes = el("div", { className: "votes" }, ...detail.votes.slice(0, 12).flatMap((vote) => [
    el("span", { textContent: vote.label }),
    el("i", { className: vote.label === detail.class ? "own" : "unlabelled", style: { width: `${100 * vote.share}%` } }),
    el("span", { textContent: `${vote.votes} (${percent(vote.share, 0)})` })]));
  const frame = el("div", { className: "frame" });
  if (sample.image !== null) {
    frame.append(picture(sample.image, "the whole image, with the crops of its views"));
    const [height, width] = detail.image_size;
    for (const view of detail.views) {
      const [top, left, bottom, right] = seenEdges(view.params);
      frame.append(el("i", { className: `crop ${kindOf(view)}`, dataset: { view: view.view }, style: { left: `${(100 * left) / width}%`, top: `${(100 * top) / height}%`, width: `${(100 * (right - left)) / width}%`, height: `${(100 * (bottom - top)) / height}%` } }));
    }
    frame.classList.toggle("many", detail.views.length > FEW_CROPS);
  }
  const below = frame.classList.contains("many") ? seenMap(detail) : [];
  const size = detail.image_size === null ? "" : `, ${detail.image_size[1]} × ${detail.image_size[0]} pixels`;
  at("sample-body").replaceChildren(
    el("p", { className: "key", textContent: `${detail.shard}, sample ${detail.sample}, block ${detail.block}${size}` }),
    el("div", { className: "whole" }, el("div", {}, frame, ...below), el("div", {}, ...rows, el("h3", { textContent: `${detail.num_labels} labels, plain votes` }), votes)),
    detail.views_missing === null
      ? el("p", { className: "note" }, `${detail.views.length} of ${detail.labels.length} views. `, legend(detail.views), foreignParts())
      : el("p", { textContent: `Views are missing: ${detail.views_missing}` }),
    el("ul", { className: "views" }, ...detail.views.map((view, place) => viewTile(view, sample.views[place], frame))));
  if (!at("sample").open) at("sample").showModal();
  at("sample").scrollTop = 0;
}

function viewTile(view, uri, frame) {
  const kind = kindOf(view);
  const facts = [`shows ${percent(view.visible_share, 0)}${view.params.flip ? ", flipped" : ""}`];
  if (view.mix) facts.push(`${view.mix.kind}, partner ${percent(1 - view.mix.lambda, 0)}: ${view.mix.partner.class}`);
  if (view.params.operations.length) facts.push(view.params.operations.map((operation) => operation.name).join(", "));
  if (view.erased_share) facts.push(`erased ${percent(view.erased_share, 0)}: ${ERASED_WITH[view.params.erase_mode]}`);
  const { params, mix } = view;
  const tile = el("li", {}, picture(uri, `view ${view.view}`, kind),
    el("p", { className: `toned ${kind}`, textContent: `${view.view} ${MARKS[kind]} ${view.label ?? (view.skipped ? "skipped" : "no label")}` }),
    ...facts.map((text) => el("p", { className: "faint", textContent: text })),
    el("details", {}, el("summary", { textContent: "View parameters" }), el("pre", { textContent: JSON.stringify(mix ? { params, mix } : { params }, null, 1) })));
  const mark = (isOn) => {
    frame.classList.toggle("marking", isOn);
    for (const crop of frame.querySelectorAll(".crop")) crop.classList.toggle("marked", isOn && Number(crop.dataset.view) === view.view);
  };
  for (const [event, isOn] of [["mouseenter", true], ["focusin", true], ["mouseleave", false], ["focusout", false]]) tile.addEventListener(event, () => mark(isOn));
  return tile;
}

function step(by) {
  const number = openNumber + by;
  if (number >= 0 && number < shownSamples.length) openSample(number);
}

at("previous").addEventListener("click", () => step(-1));
at("next").addEventListener("click", () => step(1));
at("close").addEventListener("click", () => at("sample").close());
at("sample").addEventListener("click", (event) => event.target === at("sample") && at("sample").close());
at("sample").addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
at("sample").addEventListener("close", () => at("gallery").querySelectorAll(".card")[openNumber]?.focus());

drawCharts();
drawings.push(drawHeat);
fillFilters();
listPairs();
makeTable();
document.querySelectorAll("#classes .scroll").forEach(hintAtWidth);
explainGallery();
showGallery();
showTheme();
unpackPlotly().then(showTheme, (error) => at("chart-list").before(el("p", { className: "note", textContent: `Charts need a browser of 2023 or later: ${error}` })));
