// Elements, numbers and words. Text is only ever set as text, because a model can write anything.
"use strict";

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined)
      node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

// A number for a reader: shares in percent, bytes in GiB, others with three significant digits.
function written(value, form = "number") {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (form === "share") return `${(100 * value).toFixed(value > 0 && value < 0.1 ? 1 : 0)}\u202f%`; // a narrow space
  if (form === "dollars") return `$${value.toFixed(value < 10 ? 2 : 0)}`;
  if (form === "bytes") return `${(value / 2 ** 30).toFixed(1)} GiB`;
  const size = Math.abs(value);
  if (size >= 1e9) return value.toExponential(1).replace("e+", "e");
  if (size >= 1000) return Math.round(value).toLocaleString("en-US");
  if (size !== 0 && size < 0.001) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
}

// A large count in a few characters: 25,600 or 3.1 M.
function count(value) {
  return value >= 1e6 && value < 1e9 ? `${(value / 1e6).toPrecision(3)} M` : written(value);
}

function duration(minutes) {
  if (minutes === null || minutes === undefined) return "–";
  if (minutes < 1) return `${Math.round(60 * minutes)} s`;
  return minutes < 90 ? `${written(minutes)} min` : `${written(minutes / 60)} h`;
}

function interval(score, form = "share") {
  const [low, high] = [score.low, score.high].map((end) => written(end, form));
  return form === "share" ? `[${low.replace(/\D+$/, "")}, ${high}]` : `[${low}, ${high}]`;
}

function plural(n, one, many = `${one}s`) {
  return `${written(n)} ${n === 1 ? one : many}`;
}

// A colour of the style sheet, for the canvas.
function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

const HUES = 8; // --hue-1 ... in page.css
const hue = (i) => `--hue-${(i % HUES) + 1}`;

// A table of numbers; the first cell of a row is its heading.
function table(head, rows, caption) {
  return el(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    el(
      "table",
      {},
      el("caption", { class: "unseen" }, caption),
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          head.map((cell) => el("th", { scope: "col" }, cell)),
        ),
      ),
      el(
        "tbody",
        {},
        rows.map(([first, ...rest]) =>
          el(
            "tr",
            {},
            el("th", { scope: "row" }, first),
            rest.map((cell) => el("td", {}, cell)),
          ),
        ),
      ),
    ),
  );
}

// Scores side by side on a scale from 0 to 1: a table whose last column is a picture.
// rows: {label, note, marks: [{value, low, high, hue, hollow, name}], ceiling, shortcut}
function dots(rows, caption) {
  const place = (node, value) => ((node.style.left = `${100 * value}%`), node);
  const line = (row) => {
    const track = el("div", { class: "track", "aria-hidden": "true" });
    if (row.ceiling !== null && row.ceiling !== undefined)
      track.append(place(el("i", { class: "ceiling" }), row.ceiling));
    for (const mark of row.marks) {
      if (mark.low !== null && mark.low !== undefined) {
        const whisker = place(el("i", { class: "whisker" }), mark.low);
        whisker.style.width = `${100 * (mark.high - mark.low)}%`;
        whisker.style.background = `var(${mark.hue})`;
        track.append(whisker);
      }
      const dot = place(el("i", { class: mark.hollow ? "dot hollow" : "dot" }), mark.value);
      dot.style.setProperty("--hue", `var(${mark.hue})`);
      track.append(dot);
    }
    const words = row.marks.map(
      (m) =>
        `${m.name ? `${m.name} ` : ""}${written(m.value, "share")}${m.low === undefined ? "" : ` ${interval(m)}`}`,
    );
    if (row.ceiling !== null && row.ceiling !== undefined)
      words.push(`${row.shortcut} ${written(row.ceiling, "share")}`);
    return el(
      "tr",
      {},
      el("th", { scope: "row" }, row.label, row.note ? el("small", {}, row.note) : null),
      el("td", { class: "picture" }, track, el("small", {}, words.join(" · "))),
    );
  };
  return el(
    "table",
    { class: "dots" },
    el("caption", { class: "unseen" }, caption),
    el("tbody", {}, rows.map(line)),
  );
}
