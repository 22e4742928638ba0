// The page of one run or of several, from top to bottom. A live page is drawn again as the files
// grow.
"use strict";

const EVERY = 2000; // milliseconds between requests to the server
const given = JSON.parse(document.getElementById("data").textContent);
const isLive = given === null; // the data come from a server, and a run may still be going
const places = Object.fromEntries(
  ["top", "contents", "story", "end"].map((id) => [id, document.getElementById(id)]),
);
const cards = new Map(),
  sections = new Map();
const samples = sampleSection();
let axis = "step",
  data = null;

function render(fresh) {
  data = fresh;
  const several = data.runs.length > 1;
  keepOpen(places.top, () =>
    places.top.replaceChildren(...(several ? comparison() : headline(data.runs[0]))),
  );
  place("alarms", alarms());
  if (several) place("table", results());
  samples.update(data);
  place("samples", samples.node);
  for (const section of data.sections) place(section.name, curves(section));
  place("kinds", kindsOfProblems());
  contents();
  places.end.replaceChildren(...closing());
}

// What the reader has unfolded stays unfolded when it is made again.
function keepOpen(within, renew) {
  const open = [...within.querySelectorAll("details[open] > summary")].map(
    (summary) => summary.textContent,
  );
  renew();
  for (const summary of within.querySelectorAll("details > summary"))
    if (open.includes(summary.textContent)) summary.parentElement.open = true;
}

// Insert a section in its order, or replace the earlier one of that name.
function place(name, node) {
  const old = sections.get(name);
  if (old === node) return;
  if (!node) return (old?.remove(), void sections.delete(name));
  if (old) keepOpen(places.story, () => old.replaceWith(node));
  else {
    const order = ["alarms", "table", "samples", ...data.sections.map((s) => s.name), "kinds"];
    const next = order
      .slice(order.indexOf(name) + 1)
      .map((n) => sections.get(n))
      .find(Boolean);
    places.story.insertBefore(node, next ?? null);
  }
  sections.set(name, node);
}

// Where an unfinished run is; nothing for a finished one.
function progress(run) {
  if (run.finished) return "";
  if (!run.done) return "no step yet";
  if (run.done >= run.steps) return "training is done, the final evaluation is not";
  const left =
    isLive && run.headline.left !== null ? `, about ${duration(run.headline.left)} left` : "";
  return `step ${run.done} of ${run.steps}${left}`;
}

function headline(run) {
  const { before, after, now, split, samples: answers, minutes, dollars, flops } = run.headline;
  const current = isLive && !run.finished;
  const latest = current ? now : after;
  const facts = [
    ...(current ? heldOut(run.headline) : []),
    ["answers sampled", answers === null || answers === undefined ? null : count(answers)],
    ["time", minutes === null ? null : duration(minutes)],
    ["cost", dollars ? written(dollars, "dollars") : null],
    ["FLOPs", flops ? written(flops) : null],
    ["tokens per answer", change(before, latest, "response_length")],
    ...Object.entries(run.headline.highlights).map(([key, name]) => [
      name,
      change(before, latest, key),
    ]),
  ].filter(([, value]) => value);
  return [
    el(
      "p",
      { class: "eyebrow" },
      "TinyZero",
      el("span", {}, run.name),
      progress(run) ? el("span", { class: "state" }, progress(run)) : null,
    ),
    el("h1", { class: "unseen" }, `Run ${run.name}`),
    el("p", { class: "about" }, run.task.says || `Task: ${run.task.name}.`),
    current ? currentScore(now) : scores(before, after),
    !current && before ? el("p", { class: "sentence" }, sentence(before, after, split)) : null,
    el(
      "dl",
      { class: "facts" },
      facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
    ),
    repeat(run),
    setup(run),
    pair(run),
  ].filter(Boolean);
}

function scores(before, after) {
  if (!before) return el("p", { class: "waiting" }, "No evaluation yet.");
  const score = (s, name) =>
    el(
      "div",
      { class: `score ${name}` },
      el("b", {}, written(s.value, "share")),
      el("small", {}, interval(s)),
    );
  return el(
    "div",
    { class: "scores" },
    score(before, "before"),
    after ? el("span", { class: "arrow", "aria-label": "to" }, "→") : null,
    after ? score(after, "after") : null,
  );
}

// While a run continues: how many of its training answers are currently right.
function currentScore(now) {
  if (!now) return el("p", { class: "waiting" }, "Training has not finished its first step yet.");
  const over = now.steps === 1 ? "in the last step" : `in the last ${now.steps} steps`;
  return el(
    "div",
    { class: "scores" },
    el(
      "div",
      { class: "score after" },
      el("b", {}, written(now.accuracy, "share")),
      el("small", {}, `of the training answers are right, ${over}`),
    ),
  );
}

// The held-out scores of a run that continues.
function heldOut({ before, after }) {
  const score = (s) => (s ? `${written(s.value, "share")} ${interval(s)}` : null);
  return [
    ["held-out problems, before training", score(before)],
    [after ? `held-out problems, step ${after.step}` : "", score(after)],
  ];
}

function sentence(before, after, split) {
  const when = after
    ? `before training and after ${plural(after.step, "step")}`
    : "before training";
  const problems = `${before.n.toLocaleString("en-US")} ${split} problems`;
  return (
    `Share of right answers to ${problems} that the model never trained on, ${when}, with 95 % intervals. ` +
    "The only feedback came from a program that checks answers."
  );
}

function change(before, after, key) {
  const [first, last] = [before?.[key], after?.[key]];
  if (first === undefined) return last === undefined ? null : written(last);
  return last === undefined ? written(first) : `${written(first)} → ${written(last)}`;
}

function repeat(run) {
  const copy = el("button", { type: "button" }, "Copy");
  copy.addEventListener("click", () =>
    navigator.clipboard?.writeText(run.command).then(() => (copy.textContent = "Copied")),
  );
  return el("p", { class: "command" }, el("code", {}, run.command), copy);
}

function setup(run) {
  const line = (name, value, says) => [
    el("dt", {}, name),
    el("dd", {}, value, says ? el("small", {}, says) : null),
  ];
  return el(
    "details",
    { class: "setup" },
    el("summary", {}, "Task, algorithm, model and every setting"),
    el(
      "dl",
      {},
      line("task", run.task.name, run.task.says),
      line("algorithm", run.algorithm.name, run.algorithm.says),
      line("model", run.model),
      line("seed", String(run.seed)),
    ),
    el("pre", { tabindex: 0, "aria-label": "config.toml" }, run.config),
  );
}

function pair(run) {
  const opening = run.opening.test ?? run.opening.dev;
  if (!opening) return null;
  const [a, b] = opening.map((i) => run.samples[i]);
  const half = (s, when) =>
    el(
      "div",
      {},
      el(
        "h3",
        {},
        when,
        el(
          "span",
          { class: `verdict ${s.right ? "right" : "wrong"}` },
          s.right ? "right" : "wrong",
        ),
      ),
      thinking(s.text),
    );
  return el(
    "section",
    { class: "pair", "aria-label": "The same problem before and after" },
    el(
      "p",
      {},
      "The same problem, before and after: ",
      el("b", {}, a.problem),
      a.split === "test" ? ", which it never trained on. " : ". ",
      el("a", { href: "#samples" }, "More answers"),
    ),
    el(
      "div",
      { class: "halves" },
      half(a, "Before"),
      half(b, b.step === run.steps ? "After" : `After ${plural(b.step, "step")}`),
    ),
  );
}

function comparison() {
  return [
    el("p", { class: "eyebrow" }, "TinyZero", data.grid ? el("span", {}, data.grid.command) : null),
    el("h1", {}, `${data.runs.length} runs compared`),
    el("p", { class: "sentence" }, best()),
    ...aboutSeeds(),
  ];
}

// Why the runs of a grid are compared by choice.
function aboutSeeds() {
  if (!data.grid || !Object.keys(data.grid.choices).length) return [];
  const few = data.grid.seeds.length === 1;
  return [
    el(
      "p",
      { class: "sentence" },
      "A single seed says little about a choice, because another seed can give another result. ",
      few
        ? "This grid has only one seed, so its differences may be those of the seed."
        : "The grid's tables, below and in ablation.md, compare the choices over all seeds.",
    ),
  ];
}

// Which run is best, if their scores can be compared and told apart.
function best() {
  const { comparable, reason, leaders, problems } = data.comparison;
  if (comparable === "") return "Fewer than two of these runs have a score after training.";
  if (comparable !== "yes") return reason;
  const scored = data.runs.filter((run) => run.headline.after);
  const same = `on the same ${plural(problems, "problem")}`;
  if (leaders.length === scored.length) return `These runs cannot be told apart ${same}.`;
  if (leaders.length > 1) {
    const named =
      leaders.length > 4
        ? `${leaders.length} of these ${scored.length} runs`
        : `${leaders.slice(0, -1).join(", ")} and ${leaders.at(-1)}`;
    return `No run is clearly the best: ${named} cannot be told apart ${same}.`;
  }
  const { after } = scored.find((run) => run.name === leaders[0]).headline;
  return (
    `${leaders[0]} has the highest accuracy on held-out problems: ` +
    `${written(after.value, "share")} ${interval(after)}. ` +
    `The 95 % intervals of its differences from every other run, ${same}, exclude zero.`
  );
}

function alarms() {
  const found = data.runs.flatMap((run) =>
    run.alarms.map((alarm) => ({ ...alarm, run: run.name })),
  );
  const checks = [...new Set(data.runs.flatMap((run) => run.checks))];
  const looked = el(
    "details",
    {},
    el("summary", {}, `What was checked (${checks.length})`),
    el(
      "ul",
      {},
      checks.map((c) => el("li", {}, c)),
    ),
  );
  const node = el("section", { id: "alarms", class: found.length ? "card alarming" : "card calm" });
  if (!found.length)
    node.append(
      el("h2", {}, "No alarms"),
      el("p", {}, "The records show none of the usual signs of trouble."),
      looked,
    );
  else
    node.append(
      el("h2", {}, found.length === 1 ? "One alarm" : `${found.length} alarms`),
      el(
        "ul",
        { class: "alarms" },
        found.map((a) =>
          el(
            "li",
            {},
            el("b", {}, data.runs.length > 1 ? `${a.run}: ${a.title}` : a.title),
            el("p", {}, a.seen),
            el("p", { class: "advice" }, a.advice),
          ),
        ),
      ),
      looked,
    );
  return node;
}

function results() {
  const runs = data.runs.filter((run) => run.headline.before);
  const mark = (s, h, hollow, name) => ({
    value: s.value,
    low: s.low,
    high: s.high,
    hue: h,
    hollow,
    name,
  });
  const rows = runs.map((run) => ({
    label: run.name,
    note:
      [progress(run), run.headline.split === "dev" ? "on dev" : ""].filter(Boolean).join(", ") ||
      null,
    marks: [
      mark(run.headline.before, "--soft", true, "before"),
      ...(run.headline.after
        ? [mark(run.headline.after, hue(groupOf(data, run)), false, "after")]
        : []),
    ],
  }));
  const figures = data.runs.map((run) => {
    const { before, after, samples: answers, minutes } = run.headline;
    const score = (s) => (s ? `${written(s.value, "share")} ${interval(s)}` : "–");
    return [
      run.name,
      run.algorithm.name,
      String(run.seed),
      score(before),
      score(after),
      after ? written(after.response_length) : "–",
      answers === null || answers === undefined ? "–" : count(answers),
      duration(minutes),
      String(run.alarms.length),
    ];
  });
  const head = [
    "run",
    "algorithm",
    "seed",
    "before",
    "after",
    "tokens per answer",
    "answers",
    "time",
    "alarms",
  ];
  return el(
    "section",
    { id: "table" },
    el("h2", {}, "Results"),
    el(
      "p",
      { class: "lead" },
      "Share of right answers on held-out problems, before and after training, with 95 % " +
        "intervals.",
    ),
    ...grid(),
    dots(rows, "Right answers by run"),
    table(head, figures, "Every run in figures"),
    ...differences(),
    ...settings(),
  );
}

// A difference of two shares in percentage points, with its sign.
function points(value) {
  const sign = value > 0 ? "+" : value < 0 ? "−" : "";
  return sign + (100 * Math.abs(value)).toFixed(1);
}

// Paired differences to the first run: both answered the same problems.
function differences() {
  const { differences: rows } = data.comparison;
  if (!rows.length) return [];
  const cells = rows.map((d) => [d.run, points(d.value), `[${points(d.low)}, ${points(d.high)}]`]);
  return [
    el("h3", {}, `Difference from ${rows[0].to}`),
    el(
      "p",
      { class: "lead" },
      "In percentage points, comparing the runs problem by problem. The 95 % interval accounts for " +
        "related problems, but not for other seeds, and is not corrected for several " +
        "comparisons.",
    ),
    table(["run", "difference", "95 % interval"], cells, "Paired differences"),
  ];
}

function settings() {
  const { settings: rows } = data.comparison;
  if (!rows.length) return [];
  return [
    el("h3", {}, "Settings that differ"),
    table(
      ["setting", ...data.runs.map((run) => run.name)],
      rows.map((row) => [row.key, ...row.values]),
      "Settings that differ",
    ),
  ];
}

// How the choices of an ablation differ from its first choice, over all seeds.
function choiceDifferences() {
  const { differences: compared, seeds } = data.grid;
  const entries = Object.entries(compared?.choices ?? {});
  if (!entries.length) return [];
  const cells = entries.map(([name, d]) => [
    name,
    points(d.difference),
    `[${points(d.low)}, ${points(d.high)}]`,
    d.low > 0 || d.high < 0 ? "yes" : "no",
  ]);
  const head = ["choice", "difference", "95 % interval"];
  return [
    el("h3", {}, `Choices: difference from ${compared.from}`),
    el(
      "p",
      { class: "lead" },
      `In percentage points, over ${plural(seeds.length, "seed")}. The intervals account for ` +
        (seeds.length > 1 ? "the seeds and the problems, " : "the problems but not for the seed, ") +
        "and are corrected for several comparisons.",
    ),
    table([...head, "told apart?"], cells, "Differences of choices"),
    el("h3", {}, "Single runs"),
  ];
}

// The choices of an ablation: a matrix if it has two axes, or else a list.
function grid() {
  if (!data.grid || !Object.keys(data.grid.choices).length) return [];
  const { axes, choices, seeds } = data.grid;
  const score = (c) => ({ value: c.after, low: c["after/low"], high: c["after/high"] });
  const names = Object.keys(axes);
  const over = `Means over ${plural(seeds.length, "seed")}.`;
  if (names.length === 2) {
    const [rows, columns] = names.map((name) => axes[name]);
    const cell = (choice) => {
      if (!choice) return el("span", {}, "–");
      const box = el(
        "span",
        { class: "heat" },
        el("b", {}, written(choice.after, "share")),
        el("small", {}, interval(score(choice))),
      );
      box.style.setProperty("--heat", `${Math.round(70 * choice.after)}%`);
      return box;
    };
    return [
      el("p", {}, over),
      table(
        [`${names[0]} \\ ${names[1]}`, ...columns],
        rows.map((r) => [r, ...columns.map((c) => cell(choices[`${r}-${c}`]))]),
        "The grid",
      ),
      ...choiceDifferences(),
    ];
  }
  const rows = Object.entries(choices).map(([name, c], i) => ({
    label: name,
    note: null,
    marks: [
      { value: c.before, hue: "--soft", hollow: true, name: "before" },
      { ...score(c), hue: hue(i), name: "after" },
    ],
  }));
  return [el("p", {}, over), dots(rows, "Right answers by choice"), ...choiceDifferences()];
}

function curves(section) {
  const node =
    sections.get(section.name) ??
    el(
      "section",
      { id: section.name },
      el("h2", {}, section.title),
      el("p", { class: "lead" }, section.says),
      section.name === data.sections[0].name ? axisPicker() : null,
      el("div", { class: "charts" }),
    );
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

const pending = []; // charts are drawn once they are in the page and have a width

function draw() {
  for (const [id, spec] of pending.splice(0)) cards.get(id).update(spec, data, axis);
}

function kindName(label) {
  return label === "" ? "all problems" : label.replace("=", ": ");
}

function kindsOfProblems() {
  const [run] = data.runs;
  if (data.runs.length > 1) return kindsByRun();
  if (!run.kinds.length) return null;
  const rows = run.kinds.map((kind) => ({
    label: kindName(kind.label),
    ceiling: kind.ceiling,
    shortcut: run.shortcut,
    marks: [
      { ...kind.before, hue: "--soft", hollow: true, name: "before" },
      ...(kind.after.value === kind.before.value && !run.headline.after
        ? []
        : [{ ...kind.after, hue: hue(0), name: "after" }]),
    ],
  }));
  const base = run.baselines.map((b) => ({
    label: b.label,
    note: `untrained, ${written(b.tokens)} tokens per problem`,
    marks: [{ value: b.value, low: b.low, high: b.high, hue: hue(1) }],
  }));
  const ceiling = run.kinds.some((kind) => kind.ceiling !== null)
    ? ` The dashed mark is the share that ${run.shortcut} can solve.`
    : "";
  const node = el(
    "section",
    { id: "kinds" },
    el("h2", {}, "By type of problem"),
    el(
      "p",
      { class: "lead" },
      `Right answers on test problems before and after training.${ceiling}`,
    ),
    dots(rows, "Right answers by type of problem"),
  );
  if (base.length)
    node.append(
      el("h3", {}, "Without training, at the same number of tokens"),
      el(
        "p",
        {},
        "What else solves problems with as many tokens as the trained model: its base model, " +
          "or a program without a model.",
      ),
      dots(base, "Baselines at equal tokens"),
    );
  return node;
}

// For several runs: a table of each run's scores by type of problem.
function kindsByRun() {
  const labels = [...new Set(data.runs.flatMap((run) => run.kinds.map((kind) => kind.label)))];
  if (!labels.length) return null;
  const cell = (kind) =>
    kind
      ? `${written(kind.before.value, "share")} → ${written(kind.after.value, "share")} ${interval(kind.after)}`
      : "–";
  const rows = data.runs.map((run) => [
    run.name,
    ...labels.map((label) => cell(run.kinds.find((kind) => kind.label === label))),
  ]);
  return el(
    "section",
    { id: "kinds" },
    el("h2", {}, "By type of problem"),
    el(
      "p",
      { class: "lead" },
      "Right answers on test problems, at the first and the last evaluation, with the 95 % " +
        "interval of the last.",
    ),
    table(["run", ...labels.map(kindName)], rows, "Right answers by type of problem"),
  );
}

const LABELS = {
  top: "Result",
  alarms: "Alarms",
  table: "Runs",
  samples: "Answers",
  accuracy: "Accuracy",
  length: "Length",
  behaviours: "Behaviour",
  health: "Health",
  lessons: "Learning signal",
  cost: "Cost",
  kinds: "Problem types",
};

function contents() {
  const names = ["top", ...[...places.story.children].map((node) => node.id)].filter(
    (id) => !document.getElementById(id).hidden,
  );
  const listed = [...places.contents.querySelectorAll("a")].map((a) => a.hash.slice(1));
  if (names.join() === listed.join()) return; // a link that has the focus keeps it
  places.contents.replaceChildren(
    el(
      "ul",
      {},
      names.map((id) => el("li", {}, el("a", { href: `#${id}` }, LABELS[id] ?? id))),
    ),
  );
}

// The axis of all curves.
function axisPicker() {
  const pick = el(
    "select",
    { id: "axis" },
    Object.entries(data.axes).map(([value, label]) => el("option", { value }, label)),
  );
  pick.addEventListener("change", () => {
    axis = pick.value;
    render(data);
    draw();
  });
  return el("div", { class: "field" }, el("label", { for: "axis" }, "Curves over"), pick);
}

function closing() {
  return [
    el(
      "p",
      {},
      "Curves: the faint line is every step, the bold one the mean over a twentieth of the " +
        "steps. Drag over a chart to zoom in; double-click to zoom out.",
    ),
    el(
      "p",
      {},
      "Made by ",
      el("code", {}, "tinyzero report"),
      ". The page loads nothing from the network and sends nothing.",
    ),
  ];
}

// A live page asks, draws what came, and asks again.
let tag = "",
  state = "";
async function ask() {
  try {
    const answer = await fetch("data.json", { headers: tag ? { "If-None-Match": tag } : {} });
    if (answer.status !== 304) {
      const fresh = await answer.json();
      tag = answer.headers.get("ETag") ?? "";
      state =
        fresh.error ??
        fresh.waiting ??
        (fresh.runs.every((run) => run.finished) ? "finished" : "live");
      if (fresh.runs) {
        render(fresh);
        draw();
      } else if (!data) places.top.replaceChildren(el("p", { class: "waiting" }, state));
    }
    showState(state);
  } catch {
    showState("the server does not answer");
  }
  setTimeout(ask, EVERY);
}

function showState(text) {
  const node =
    document.getElementById("live") ??
    document.body.appendChild(el("p", { id: "live", role: "status" }));
  if (node.textContent !== text) node.textContent = text;
}

if (isLive) ask();
else {
  render(given);
  draw();
}
