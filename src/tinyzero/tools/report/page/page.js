// The story of one run or of several, top to bottom; live, it is told again as the files grow.
"use strict";

const EVERY = 2000; // milliseconds between questions to the server
const story = JSON.parse(document.getElementById("data").textContent);
const places = Object.fromEntries(["top", "contents", "story", "end"].map((id) => [id, document.getElementById(id)]));
const cards = new Map(), sections = new Map();
const samples = sampleSection();
let axis = "step", told = null;

function tell(fresh) {
  told = fresh;
  const several = told.runs.length > 1;
  keepOpen(places.top, () => places.top.replaceChildren(...(several ? comparison() : headline(told.runs[0]))));
  place("alarms", alarms());
  if (several) place("table", results());
  for (const section of told.sections) place(section.name, curves(section));
  place("kinds", kindsOfProblems());
  samples.update(told);
  place("samples", samples.node);
  contents();
  places.end.replaceChildren(...closing());
}

// What the reader has unfolded stays so when it is made anew.
function keepOpen(within, renew) {
  const open = [...within.querySelectorAll("details[open] > summary")].map((summary) => summary.textContent);
  renew();
  for (const summary of within.querySelectorAll("details > summary"))
    if (open.includes(summary.textContent)) summary.parentElement.open = true;
}

// Put a section in its place, or in that of the one before.
function place(name, node) {
  const old = sections.get(name);
  if (old === node) return;
  if (!node) return old?.remove(), void sections.delete(name);
  if (old) keepOpen(places.story, () => old.replaceWith(node));
  else {
    const order = ["alarms", "table", ...told.sections.map((s) => s.name), "kinds", "samples"];
    const next = order.slice(order.indexOf(name) + 1).map((n) => sections.get(n)).find(Boolean);
    places.story.insertBefore(node, next ?? null);
  }
  sections.set(name, node);
}

function title(run) {
  return run.finished ? "" : run.done ? `step ${run.done} of ${run.steps}` : "no step yet";
}

function headline(run) {
  const { before, after, split, samples: answers, minutes, dollars, flops } = run.headline;
  const score = (s, name) => el("div", { class: `score ${name}` }, el("b", {}, written(s.value, "share")), el("small", {}, interval(s)));
  const result = before
    ? el("div", { class: "scores" }, score(before, "before"), after ? el("span", { class: "arrow", "aria-label": "to" }, "→") : null, after ? score(after, "after") : null)
    : el("p", { class: "waiting" }, "No evaluation yet.");
  const facts = [
    ["answers sampled", answers === null || answers === undefined ? null : count(answers)],
    ["time", minutes === null ? null : duration(minutes)],
    ["cost", dollars ? written(dollars, "dollars") : null],
    ["FLOPs", flops ? written(flops) : null],
    ["tokens an answer", change(before, after, "response_length")],
    ...Object.entries(run.headline.highlights).map(([key, name]) => [name, change(before, after, key)]),
  ].filter(([, value]) => value);
  return [
    el("p", { class: "eyebrow" }, "TinyZero", el("span", {}, run.name), title(run) ? el("span", { class: "state" }, title(run)) : null),
    el("h1", { class: "unseen" }, `Run ${run.name}`),
    el("p", { class: "about" }, run.task.says || `Task: ${run.task.name}.`),
    result,
    before ? el("p", { class: "sentence" }, sentence(before, after, split)) : null,
    el("dl", { class: "facts" }, facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
    repeat(run), setup(run), pair(run),
  ].filter(Boolean);
}

function sentence(before, after, split) {
  const of = `of ${before.n.toLocaleString("en-US")} ${split} problems, which it never trained on,`;
  const when = after ? `before training and after ${plural(after.step, "step")} of it` : "before training";
  return `Right answers ${of} ${when}; in brackets the 95 % interval. A program checked each answer and paid for right ones. Nobody showed it how.`;
}

function change(before, after, key) {
  if (!before || before[key] === undefined) return null;
  return after && after[key] !== undefined ? `${written(before[key])} → ${written(after[key])}` : written(before[key]);
}

function repeat(run) {
  const copy = el("button", { type: "button" }, "Copy");
  copy.addEventListener("click", () => navigator.clipboard?.writeText(run.command).then(() => (copy.textContent = "Copied")));
  return el("p", { class: "command" }, el("code", {}, run.command), copy);
}

function setup(run) {
  const line = (name, value, says) => [el("dt", {}, name), el("dd", {}, value, says ? el("small", {}, says) : null)];
  return el("details", { class: "setup" },
    el("summary", {}, "What was trained, with every setting"),
    el("dl", {}, line("task", run.task.name, run.task.says), line("algorithm", run.algorithm.name, run.algorithm.says),
      line("model", run.model), line("seed", String(run.seed))),
    el("pre", { tabindex: 0, "aria-label": "config.toml" }, run.config));
}

function pair(run) {
  const opening = run.opening.test ?? run.opening.dev;
  if (!opening) return null;
  const [a, b] = opening.map((i) => run.samples[i]);
  const half = (s, when) => el("div", {}, el("h3", {}, when, el("span", { class: `verdict ${s.right ? "right" : "wrong"}` }, s.right ? "right" : "wrong")), thinking(s.text));
  return el("section", { class: "pair", "aria-label": "The same problem before and after" },
    el("p", {}, "The same problem, before and after: ", el("b", {}, a.problem), a.split === "test" ? ", which it never trained on. " : ". ", el("a", { href: "#samples" }, "More of them")),
    el("div", { class: "halves" }, half(a, "Before"), half(b, b.step === run.steps ? "After" : `After ${plural(b.step, "step")}`)));
}

function comparison() {
  return [
    el("p", { class: "eyebrow" }, "TinyZero", told.grid ? el("span", {}, told.grid.command) : null),
    el("h1", {}, `${told.runs.length} runs compared`),
    el("p", { class: "sentence" }, best()),
  ];
}

function best() {
  const scored = told.runs.filter((run) => run.headline.after);
  if (!scored.length) return "None of them has been scored twice yet.";
  const [run] = scored.sort((a, b) => b.headline.after.value - a.headline.after.value);
  return `The most right answers on held-out problems has ${run.name}: ${written(run.headline.after.value, "share")} ${interval(run.headline.after)}. Runs whose intervals overlap much are not told apart.`;
}

function alarms() {
  const found = told.runs.flatMap((run) => run.alarms.map((alarm) => ({ ...alarm, run: run.name })));
  const checks = [...new Set(told.runs.flatMap((run) => run.checks))];
  const looked = el("details", {}, el("summary", {}, `What was looked for (${checks.length})`), el("ul", {}, checks.map((c) => el("li", {}, c))));
  const node = el("section", { id: "alarms", class: found.length ? "card alarming" : "card calm" });
  if (!found.length) node.append(el("h2", {}, "No alarm"), el("p", {}, "Nothing that usually goes wrong in such a run shows in its records."), looked);
  else node.append(
    el("h2", {}, found.length === 1 ? "One alarm" : `${found.length} alarms`),
    el("ul", { class: "alarms" }, found.map((a) => el("li", {}, el("b", {}, told.runs.length > 1 ? `${a.run}: ${a.title}` : a.title), el("p", {}, a.seen), el("p", { class: "advice" }, a.advice)))), looked);
  return node;
}

function results() {
  const runs = told.runs.filter((run) => run.headline.before);
  const mark = (s, h, hollow, name) => ({ value: s.value, low: s.low, high: s.high, hue: h, hollow, name });
  const rows = runs.map((run) => ({
    label: run.name, note: [title(run), run.headline.split === "dev" ? "on dev" : ""].filter(Boolean).join(", ") || null,
    marks: [mark(run.headline.before, "--soft", true, "before"), ...(run.headline.after ? [mark(run.headline.after, hue(groupOf(told, run)), false, "after")] : [])],
  }));
  const figures = told.runs.map((run) => {
    const { before, after, samples: answers, minutes } = run.headline;
    const score = (s) => (s ? `${written(s.value, "share")} ${interval(s)}` : "–");
    return [run.name, run.algorithm.name, String(run.seed), score(before), score(after), after ? written(after.response_length) : "–",
      answers === null || answers === undefined ? "–" : count(answers), duration(minutes), String(run.alarms.length)];
  });
  const head = ["run", "algorithm", "seed", "before", "after", "tokens an answer", "answers", "time", "alarms"];
  return el("section", { id: "table" }, el("h2", {}, "Results"), el("p", { class: "lead" }, "Right answers on held-out problems, before and after, with 95 % intervals."),
    ...grid(), dots(rows, "Right answers by run"), table(head, figures, "Every run in figures"));
}

// An ablation's choices: with two axes as a matrix, else one beside the other.
function grid() {
  if (!told.grid || !Object.keys(told.grid.choices).length) return [];
  const { axes, choices, seeds } = told.grid;
  const score = (c) => ({ value: c.after, low: c["after/low"], high: c["after/high"] });
  const names = Object.keys(axes);
  const over = `Means over ${plural(seeds.length, "seed")}.`;
  if (names.length === 2) {
    const [rows, columns] = names.map((name) => axes[name]);
    const cell = (choice) => {
      if (!choice) return el("span", {}, "–");
      const box = el("span", { class: "heat" }, el("b", {}, written(choice.after, "share")), el("small", {}, interval(score(choice))));
      box.style.setProperty("--heat", `${Math.round(70 * choice.after)}%`);
      return box;
    };
    return [el("p", {}, over), table([`${names[0]} \\ ${names[1]}`, ...columns], rows.map((r) => [r, ...columns.map((c) => cell(choices[`${r}-${c}`]))]), "The grid")];
  }
  const rows = Object.entries(choices).map(([name, c], i) => ({ label: name, note: null, marks: [{ value: c.before, hue: "--soft", hollow: true, name: "before" }, { ...score(c), hue: hue(i), name: "after" }] }));
  return [el("p", {}, over), dots(rows, "Right answers by choice")];
}

function curves(section) {
  const node = sections.get(section.name) ?? el("section", { id: section.name },
    el("h2", {}, section.title), el("p", { class: "lead" }, section.says),
    section === told.sections[0] ? axisPicker() : null, el("div", { class: "charts" }));
  const box = node.querySelector(".charts");
  for (const spec of section.charts) {
    const id = `${section.name}/${spec.title}`;
    if (!cards.has(id)) {
      cards.set(id, chartCard(spec));
      box.append(cards.get(id).node);
    }
    pending.push([id, spec]);
  }
  return node;
}

const pending = []; // charts are drawn when they are in the page and have a width

function draw() {
  for (const [id, spec] of pending.splice(0)) cards.get(id).update(spec, told, axis);
}

function kindName(label) {
  return label === "" ? "all problems" : label.replace("=", ": ");
}

function kindsOfProblems() {
  const [run] = told.runs;
  if (told.runs.length > 1) return kindsByRun();
  if (!run.kinds.length) return null;
  const rows = run.kinds.map((kind) => ({
    label: kindName(kind.label), ceiling: kind.ceiling, shortcut: run.shortcut,
    marks: [{ ...kind.before, hue: "--soft", hollow: true, name: "before" }, ...(kind.after.value === kind.before.value && !run.headline.after ? [] : [{ ...kind.after, hue: hue(0), name: "after" }])],
  }));
  const base = run.baselines.map((b) => ({ label: b.label, note: `untrained, ${written(b.tokens)} tokens a problem`, marks: [{ value: b.value, low: b.low, high: b.high, hue: hue(1) }] }));
  const ceiling = run.kinds.some((kind) => kind.ceiling !== null) ? ` The dashed mark is the share that ${run.shortcut} can solve.` : "";
  const node = el("section", { id: "kinds" }, el("h2", {}, "By kind of problem"),
    el("p", { class: "lead" }, `Right answers on test problems before and after.${ceiling}`), dots(rows, "Right answers by kind of problem"));
  if (base.length) node.append(el("h3", {}, "Without training, for as many tokens"), el("p", {}, "What could be had for the tokens that the trained model spends: from its base, and from no model at all."), dots(base, "Baselines at equal tokens"));
  return node;
}

// Of several runs a table: what each came to on each kind.
function kindsByRun() {
  const labels = [...new Set(told.runs.flatMap((run) => run.kinds.map((kind) => kind.label)))];
  if (!labels.length) return null;
  const cell = (kind) => (kind ? `${written(kind.before.value, "share")} → ${written(kind.after.value, "share")} ${interval(kind.after)}` : "–");
  const rows = told.runs.map((run) => [run.name, ...labels.map((label) => cell(run.kinds.find((kind) => kind.label === label)))]);
  return el("section", { id: "kinds" }, el("h2", {}, "By kind of problem"),
    el("p", { class: "lead" }, "Right answers on test problems, at the first score and at the last, with the last one's 95 % interval."),
    table(["run", ...labels.map(kindName)], rows, "Right answers by kind of problem"));
}

function contents() {
  const names = ["top", ...places.story.children].map((s) => s.id ?? s).filter((id) => !document.getElementById(id).hidden);
  const listed = [...places.contents.querySelectorAll("a")].map((a) => a.hash.slice(1));
  if (names.join() === listed.join()) return; // whoever stands on a link keeps it
  places.contents.replaceChildren(el("ul", {}, names.map((id) => el("li", {}, el("a", { href: `#${id}` }, id === "top" ? "Result" : id[0].toUpperCase() + id.slice(1))))));
}

// What all curves stand over.
function axisPicker() {
  const pick = el("select", { id: "axis" }, Object.entries(told.axes).map(([value, label]) => el("option", { value }, label)));
  pick.addEventListener("change", () => { axis = pick.value; tell(told); draw(); });
  return el("div", { class: "field" }, el("label", { for: "axis" }, "Curves over"), pick);
}

function closing() {
  return [el("p", {}, "Curves: faint is every step, bold the mean over a twentieth of them. Drag over a chart to look closer, double-click to see all again."),
    el("p", {}, "Made by ", el("code", {}, "tinyzero report"), ". The page loads nothing and sends nothing.")];
}

// Live: ask, tell what came, ask again.
let tag = "", standing = "";
async function ask() {
  try {
    const answer = await fetch("data.json", { headers: tag ? { "If-None-Match": tag } : {} });
    if (answer.status === 200) {
      tag = answer.headers.get("ETag") ?? "";
      const fresh = await answer.json();
      standing = fresh.error ?? fresh.waiting ?? (fresh.runs.every((run) => run.finished) ? "finished" : "live");
      if (fresh.runs) { tell(fresh); draw(); }
    }
    live(standing);
  } catch {
    live("the server does not answer");
  }
  setTimeout(ask, EVERY);
}

function live(text) {
  const state = document.getElementById("live") ?? document.body.appendChild(el("p", { id: "live", role: "status" }));
  if (state.textContent !== text) state.textContent = text;
}

if (story) { tell(story); draw(); } else ask();
