// One card per chart: curves over steps, answers or minutes, a legend, and the same numbers as a
// table.
"use strict";

const HEIGHT = 230;
// distances of ticks on an axis that counts
const WHOLE = [...Array(13).keys()].flatMap((power) => [1, 2, 5].map((n) => n * 10 ** power));
const drawn = new Set(); // every chart on the page, to be redrawn when the colour scheme changes

// The curves of a chart: {label, run, group, hue, x, y, low, high, raw, points, ...}. Over length,
// which rises and falls, they are clouds of points.
function curvesOf(spec, story, axis, picked) {
  const several = story.runs.length > 1;
  const curves = [];
  for (const [r, run] of story.runs.entries()) {
    for (const [i, line] of spec.lines.entries()) {
      const source = run.curves[line.source];
      if (!(line.key in source) || (several && i !== picked)) continue;
      const y = source[line.key],
        x = source[`x/${axis}`],
        steps = line.source === "steps",
        cloud = axis === "length";
      const group = several ? groupOf(story, run) : i,
        window = steps && !cloud ? around(y) : null;
      const band = several
        ? null
        : window && spec.band
          ? window
          : { low: source[`${line.key}/low`], high: source[`${line.key}/high`] };
      curves.push({
        label: several ? nameOf(story, run) : line.label,
        run: run.name,
        group,
        hue: hue(several ? group : i),
        x,
        y,
        smooth: window ? window.mean : y,
        raw: window && !several,
        low: band?.low,
        high: band?.high,
        points: !steps || cloud,
        small: steps,
        only: line.source === "test",
        loose: line.source === "test" || cloud,
        finished: run.finished,
      });
    }
  }
  return curves;
}

function groupOf(story, run) {
  const choices = story.grid ? Object.values(story.grid.choices) : [];
  const at = choices.findIndex((choice) => choice.runs.includes(run.name));
  return at >= 0
    ? at
    : choices.length +
        story.runs.filter((r) => !choices.some((c) => c.runs.includes(r.name))).indexOf(run);
}

function nameOf(story, run) {
  const found =
    story.grid &&
    Object.entries(story.grid.choices).find(([, choice]) => choice.runs.includes(run.name));
  return found ? found[0] : run.name;
}

// The mean over a window of a twentieth of the curve, and its 95 % interval by Student's t from the
// scatter in the window (a little too wide while the curve rises). A short curve is its own mean.
function around(values) {
  const half = Math.floor(values.length / 40);
  if (half === 0) return { mean: values };
  const found = { mean: [], low: [], high: [] };
  for (const [i, own] of values.entries()) {
    const near = values.slice(Math.max(0, i - half), i + half + 1).filter((v) => v !== null),
      d = near.length - 1;
    const mean = near.reduce((a, b) => a + b, 0) / near.length;
    const t = 1.96 + 2.372 / d + 2.822 / d ** 2 + 2.556 / d ** 3;
    const wide =
      d < 1 ? null : t * Math.sqrt(near.reduce((a, v) => a + (v - mean) ** 2, 0) / d / near.length);
    found.mean.push(own === null ? null : mean);
    found.low.push(own === null || wide === null ? null : mean - wide);
    found.high.push(own === null || wide === null ? null : mean + wide);
  }
  return found;
}

function chartCard(spec) {
  const picker = el("select", { "aria-label": `curve of ${spec.title}` });
  const legend = el("div", { class: "legend" }),
    place = el("small");
  const plot = el("div", {
    class: "plot",
    tabindex: 0,
    role: "application",
    "aria-roledescription": "chart",
  }); // it handles arrow keys itself
  const numbers = el("div");
  const details = el("details", {}, el("summary", {}, "Table and definitions"), numbers);
  const node = el(
    "figure",
    { class: "card chart" },
    el(
      "figcaption",
      {},
      el("h3", {}, spec.title),
      el("span", {}, picker, place),
      el("p", {}, spec.says),
    ),
    legend,
    plot,
    details,
  );
  const card = { node, spec, u: null, curves: [], baselines: [] };
  let last = null; // what was drawn last, for events between updates

  card.update = (fresh, story, axis) => {
    last = { story, axis };
    card.spec = spec = fresh;
    card.baselines =
      story.runs.length === 1 && spec === story.sections[0].charts[0]
        ? story.runs[0].baselines
        : [];
    if (picker.options.length !== spec.lines.length)
      picker.replaceChildren(
        ...spec.lines.map((line, i) => el("option", { value: i }, line.label)),
      );
    picker.hidden = story.runs.length < 2 || spec.lines.length < 2;
    const curves = curvesOf(spec, story, axis, Number(picker.value) || 0);
    const shape = (cs) => JSON.stringify(cs.map((c) => [c.label, c.group, !!c.low]));
    const same = card.u && shape(curves) === shape(card.curves) && card.axis === axis;
    card.curves = curves;
    card.axis = axis;
    const data = joined(curves);
    if (same) card.u.setData(data);
    else {
      if (card.u) card.u.destroy();
      card.u = new uPlot(options(card, story, axis), data, plot);
      fit();
    }
    const heard = [
      ...curves.map((c) => said(c, spec.form)),
      ...card.baselines.map((b) => `${b.label} at ${written(b.value, spec.form)}`),
    ];
    plot.setAttribute(
      "aria-label",
      `${spec.title}: ${heard.join("; ")}. Use the arrow keys to read the curves. A table follows.`,
    );
    card.read = (i) => showLegend(legend, place, card, story, axis, i);
    card.read(null);
    if (details.open) fill();
  };

  const fill = () =>
    numbers.replaceChildren(meaning(spec), chartTable(card, last.story, last.axis));
  details.addEventListener("toggle", () => details.open && fill());
  picker.addEventListener("change", () => card.update(spec, last.story, last.axis));
  plot.addEventListener("keydown", (event) => {
    const turn = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!turn || !card.u) return;
    event.preventDefault();
    const xs = card.u.data[0],
      from = card.u.cursor.idx ?? (turn > 0 ? -1 : xs.length);
    const i = Math.min(xs.length - 1, Math.max(0, from + turn));
    card.u.setCursor({ left: card.u.valToPos(xs[i], "x"), top: 0 });
  });
  for (const [event, live] of [
    ["focus", "polite"],
    ["blur", "off"],
  ])
    // every legend follows the cursor, but only one is read out
    plot.addEventListener(event, () =>
      [place, legend].forEach((node) => node.setAttribute("aria-live", live)),
    );
  const fit = () => {
    const width = Math.floor(plot.clientWidth);
    if (card.u && width > 0 && width !== card.u.width) card.u.setSize({ width, height: HEIGHT });
  };
  new ResizeObserver(fit).observe(plot);
  drawn.add(card);
  return card;
}

// One x for all curves. Each curve gives its drawn line and, if it has them, its raw line and its
// bounds.
function joined(curves) {
  const tables = curves.map((c) =>
    ordered([c.x, c.smooth, ...(c.raw ? [c.y] : []), ...(c.low ? [c.low, c.high] : [])]),
  );
  return tables.length ? uPlot.join(tables) : [[]];
}

// Sort by the first column, without the rows that lack it: over length a curve is not in order.
function ordered(columns) {
  const [xs] = columns;
  const rows = [...xs.keys()].filter((i) => xs[i] !== null).sort((a, b) => xs[a] - xs[b]);
  return columns.map((column) => rows.map((i) => column[i]));
}

function options(card, story, axis) {
  const series = [{}],
    bands = [];
  for (const c of card.curves) {
    const paint = () => colour(c.hue);
    const line = { spanGaps: true, stroke: paint, width: story.runs.length > 8 ? 1.25 : 2 };
    const dot = {
      show: c.points,
      size: c.only ? 9 : c.small ? 4 : 6,
      stroke: paint,
      fill: () => colour(c.only ? "--card" : c.hue),
    };
    series.push({ ...line, points: dot, ...(c.loose ? { paths: () => null } : {}) });
    if (c.raw)
      series.push({
        ...line,
        stroke: () => `${colour(c.hue)}40`,
        width: 1,
        points: { show: false },
      });
    if (c.low) {
      const bound = {
        ...line,
        stroke: () => `${colour(c.hue)}${c.loose ? "99" : "00"}`,
        width: 1,
        points: { show: c.loose, size: 5, stroke: paint },
      };
      if (c.loose) bound.paths = () => null;
      else
        bands.push({
          series: [series.length + 1, series.length],
          fill: () => `${colour(c.hue)}26`,
        });
      series.push(bound, bound);
    }
  }
  const form = card.spec.form;
  const ink = {
    stroke: () => colour("--soft"),
    grid: { stroke: () => colour("--grid"), width: 1 },
    ticks: { show: false },
    font: "12px system-ui, sans-serif",
  };
  return {
    width: 300,
    height: HEIGHT,
    series,
    bands,
    legend: { show: false },
    scales: {
      x: { time: false },
      y: { range: (u, low, high) => bounds(low, high, form, card.baselines) },
    },
    axes: [
      {
        ...ink,
        size: 26,
        labelSize: 18,
        labelGap: 0,
        labelFont: "12px system-ui, sans-serif",
        label: story.axes[axis],
        space: 60,
        values: (u, vs) => vs.map((v) => count(v)),
        ...(["step", "samples"].includes(axis) ? { incrs: WHOLE } : {}),
      },
      { ...ink, size: 52, space: 34, values: (u, vs) => vs.map((v) => written(v, form)) },
    ],
    cursor: {
      y: false,
      sync: { key: "tinyzero", scales: ["x", null] },
      drag: { x: true, y: false },
    },
    hooks: {
      setCursor: [(u) => card.read && card.read(u.cursor.idx)],
      draw: [(u) => drawBaselines(u, card.baselines)],
    },
  };
}

// Shares above 40 % show the whole range. What is never negative starts at zero. Baselines are
// always in the plot.
function bounds(low, high, form, baselines) {
  if (low === null || high === null) return [0, 1];
  [low, high] = [
    Math.min(low, ...baselines.map((b) => b.value)),
    Math.max(high, ...baselines.map((b) => b.value)),
  ];
  if (form === "share" && high > 0.4) return [0, 1];
  const room = 0.06 * (high - low || Math.abs(high) || 1);
  return [low >= 0 ? 0 : low - room, high + room];
}

function drawBaselines(u, baselines) {
  const { ctx } = u,
    ratio = devicePixelRatio || 1;
  ctx.save();
  ctx.font = `${11 * ratio}px system-ui, sans-serif`;
  ctx.textAlign = "right";
  ctx.setLineDash([4 * ratio, 4 * ratio]);
  let words = Infinity; // where the label below is: labels of close lines are stacked
  for (const b of [...baselines].sort((one, other) => one.value - other.value)) {
    const y = Math.round(u.valToPos(b.value, "y", true)),
      end = u.bbox.left + u.bbox.width;
    words = Math.min(y - 4 * ratio, words - 13 * ratio);
    ctx.strokeStyle = ctx.fillStyle = colour("--soft");
    ctx.beginPath();
    ctx.moveTo(u.bbox.left, y);
    ctx.lineTo(end, y);
    ctx.stroke();
    ctx.fillText(b.label, end - 4 * ratio, words);
  }
  ctx.restore();
}

// The legend at a position of the joined x: the nearest number of each curve, or the mean of a
// group.
function showLegend(legend, place, card, story, axis, index) {
  const x = index === null || index === undefined ? null : card.u.data[0][index];
  const groups = new Map();
  for (const c of card.curves) {
    if (
      x === null &&
      !c.finished &&
      card.curves.some((other) => other.group === c.group && other.finished)
    )
      continue;
    const entry = groups.get(c.group) ?? { ...c, values: [] };
    const i = x === null ? lastAt(c.y) : nearest(c.x, c.y, x);
    if (i !== null) entry.values.push((c.low ? c.smooth : c.y)[i]); // an interval is of the mean
    entry.bounds = c.low && i !== null ? { low: c.low[i], high: c.high[i] } : null;
    groups.set(c.group, entry);
  }
  const items = [...groups.values()].map((g) => {
    const swatch = el("i", { class: g.only ? "swatch ring" : "swatch" });
    swatch.style.setProperty("--hue", `var(${g.hue})`);
    const mean = g.values.length ? g.values.reduce((a, b) => a + b, 0) / g.values.length : null;
    const words = `${written(mean, card.spec.form)}${g.bounds ? ` ${interval(g.bounds, card.spec.form)}` : ""}`;
    return el("span", {}, swatch, `${g.label} `, el("b", {}, words));
  });
  place.textContent =
    x !== null
      ? positionName(x, axis, story)
      : story.runs.every((run) => run.finished)
        ? "at the end"
        : isLive
          ? "now"
          : "so far";
  legend.replaceChildren(...items);
}

// Whole steps, 0 before training; other axes with their unit.
function positionName(x, axis, story) {
  if (axis === "step") return x === 0 ? "before training" : `step ${count(x)}`;
  return `at ${count(x)} ${story.axes[axis]}`;
}

function lastAt(values) {
  for (let i = values.length - 1; i >= 0; i--) if (values[i] !== null) return i;
  return null;
}

function nearest(xs, ys, x) {
  let best = null;
  for (let i = 0; i < xs.length; i++)
    if (ys[i] !== null && (best === null || Math.abs(xs[i] - x) < Math.abs(xs[best] - x))) best = i;
  return best;
}

function said(curve, form) {
  const last = lastAt(curve.y),
    first = curve.y.findIndex((v) => v !== null);
  return last === null
    ? `${curve.label}, no data yet`
    : `${curve.label} from ${written(curve.y[first], form)} to ${written(curve.y[last], form)}`;
}

function meaning(spec) {
  return el(
    "dl",
    {},
    Object.entries(spec.means).flatMap(([key, means]) => [
      el("dt", {}, el("code", {}, key)),
      el("dd", {}, means ?? "no description"),
    ]),
  );
}

function chartTable(card, story, axis) {
  const tables = card.curves.map((c) => ordered([c.x, c.y, ...(c.low ? [c.low, c.high] : [])]));
  if (!tables.length) return el("p", {}, "No data yet.");
  const [xs, ...columns] = uPlot.join(tables);
  const heads = card.curves.flatMap((c) => [
    story.runs.length > 1 ? c.run : c.label,
    ...(!c.low ? [] : c.raw ? ["mean from", "to"] : ["low", "high"]),
  ]);
  const base = card.baselines.map((b) => written(b.value, card.spec.form));
  const rows = xs.map((x, i) => [
    written(x),
    ...columns.map((column) => written(column[i], card.spec.form)),
    ...base,
  ]);
  return table(
    [story.axes[axis], ...heads, ...card.baselines.map((b) => b.label)],
    rows,
    `${card.spec.title}: the numbers`,
  );
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
  drawn.forEach((card) => card.u && card.u.redraw(false)),
);
