// The answers that the model wrote, with marks in place and filters.
"use strict";

const PAGE = 6; // cards shown before "Show more"

function sampleSection() {
  const chosen = { run: "", problem: "", split: "", step: "", outcome: "", kind: "" };
  let most = PAGE,
    story = null,
    all = [],
    seen = "";
  const selects = Object.fromEntries(
    Object.keys(chosen).map((name) => [name, el("select", { id: `filter-${name}` })]),
  );
  const titles = {
    run: "Run",
    problem: "Problem",
    split: "Split",
    step: "After step",
    outcome: "Answer",
    kind: "Contains",
  };
  const fields = Object.fromEntries(
    Object.keys(chosen).map((name) => [
      name,
      el(
        "div",
        { class: "field" },
        el("label", { for: `filter-${name}` }, titles[name]),
        selects[name],
      ),
    ]),
  );
  const clear = el("button", { type: "button" }, "Show all");
  const tally = el("p", { class: "tally", role: "status" });
  const cards = el("div", { class: "samples" });
  const more = el("button", { type: "button", class: "more" }, "Show more");
  const first = el("p", { class: "first" }),
    marks = el("p", { class: "marks" });
  const node = el(
    "section",
    { id: "samples" },
    el("h2", {}, "What it wrote"),
    el(
      "p",
      { class: "lead" },
      "The same held-out problems at several points of the run, and some of the training " +
        "problems. The model wrote all of the text, including the verdicts; only the " +
        "highlighting was added.",
    ),
    first,
    marks,
    el(
      "form",
      { class: "filters", onsubmit: (event) => event.preventDefault() },
      Object.values(fields),
      clear,
    ),
    tally,
    cards,
    more,
  );

  for (const [name, select] of Object.entries(selects))
    select.addEventListener("change", () => {
      chosen[name] = select.value;
      most = PAGE;
      show();
    });
  clear.addEventListener("click", () => set({}));
  more.addEventListener("click", () => {
    const before = cards.children.length;
    most += 2 * PAGE;
    show();
    cards.children[before]?.focus();
  });

  function set(values) {
    for (const name of Object.keys(chosen)) chosen[name] = values[name] ?? "";
    most = PAGE;
    show();
  }

  function fits(s) {
    return (
      (!chosen.run || s.run === chosen.run) &&
      (!chosen.problem || s.problem === chosen.problem) &&
      (!chosen.split || s.split === chosen.split) &&
      (chosen.step === "" || s.step === Number(chosen.step)) &&
      (!chosen.outcome || s.right === (chosen.outcome === "right")) &&
      (!chosen.kind || (chosen.kind === "revises" ? s.revises : s.kinds.includes(chosen.kind)))
    );
  }

  // Offer these choices. The current choice stays if it is still among them.
  function offer(name, choices) {
    selects[name].replaceChildren(
      el("option", { value: "" }, "all"),
      ...choices.map(([value, label]) => el("option", { value }, label)),
    );
    if (!choices.some(([value]) => String(value) === chosen[name])) chosen[name] = "";
    fields[name].hidden = choices.length < 2;
  }

  function show() {
    for (const [name, select] of Object.entries(selects)) select.value = chosen[name];
    const matching = all.filter(fits);
    const rightOnes = matching.filter((s) => s.right).length;
    const answers = plural(all.length, "answer");
    tally.textContent = `${written(matching.length)} of the ${answers} on this page, ${rightOnes} right`;
    cards.replaceChildren(
      ...matching.slice(0, most).map((s) => sampleCard(s, story.runs.length > 1)),
    );
    more.hidden = matching.length <= most;
    clear.hidden = Object.values(chosen).every((value) => value === "");
  }

  function update(fresh) {
    story = fresh;
    all = story.runs.flatMap((run) => run.samples.map((s) => ({ ...s, run: run.name })));
    const now = JSON.stringify(all.map((s) => [s.run, s.split, s.step, s.problem, s.tokens]));
    if (now === seen) return;
    const firstTime = seen === "";
    seen = now;
    node.hidden = all.length === 0;
    const unique = (values) => [...new Set(values)];
    offer(
      "run",
      unique(all.map((s) => s.run)).map((v) => [v, v]),
    );
    const repeated = unique(all.filter((s) => s.split !== "train").map((s) => s.problem));
    offer(
      "problem",
      repeated.map((v) => [v, v]),
    );
    offer(
      "split",
      unique(all.map((s) => s.split)).map((v) => [v, v]),
    );
    offer(
      "step",
      unique(all.map((s) => s.step))
        .sort((a, b) => a - b)
        .map((v) => [v, v === 0 ? "0 (before training)" : v]),
    );
    offer("outcome", [
      ["right", "right"],
      ["wrong", "wrong"],
    ]);
    const kinds = Object.entries(story.marks).filter(([kind]) =>
      all.some((s) => s.kinds.includes(kind)),
    );
    offer("kind", [
      ...kinds,
      ...(all.some((s) => s.revises)
        ? [["revises", "a failed check, then a correct revision"]]
        : []),
    ]);
    marks.replaceChildren(...meanings(story.marks, new Set(all.flatMap((s) => s.kinds))));
    showFirst();
    const open = story.runs[0].opening.dev ?? story.runs[0].opening.test;
    if (firstTime && open) set({ problem: story.runs[0].samples[open[0]].problem });
    else show();
  }

  // The first answer that checks and revises.
  function showFirst() {
    const run = story.runs.find((r) => r.revision !== null);
    first.hidden = story.runs.length > 1 || all.length === 0;
    if (first.hidden) return;
    if (!run) {
      const searched = story.runs[0].searched;
      const where =
        searched === null
          ? "the stored answers"
          : `the first ${plural(searched, "right answer")} stored`;
      first.replaceChildren(
        `In none of ${where} does the model check a result, find it wrong, ` +
          "and then find and confirm a right one.",
      );
      return;
    }
    const s = run.samples[run.revision];
    const when =
      s.step === 0
        ? "from before training, so the base model could already do it; " +
          "the curves below show what training adds"
        : `from step ${s.step}`;
    first.replaceChildren(
      el(
        "strong",
        {},
        "The first stored answer in which the model checks a result, finds it wrong and revises it",
      ),
      ` is ${when}. `,
      el(
        "button",
        {
          type: "button",
          onclick: () => {
            set({ problem: "", step: String(s.step), split: s.split, kind: "revises" });
            cards.firstElementChild?.focus();
          },
        },
        "Show it",
      ),
    );
  }

  return { node, update };
}

// The meaning of the marks that occur.
function meanings(marks, kinds) {
  const looks = { right: "attempt right", misjudged: "verification misjudged" };
  return Object.entries(marks)
    .filter(([kind]) => kinds.has(kind))
    .map(([kind, says]) =>
      kind === "backtrack"
        ? el("span", {}, el("code", { class: kind }), ` ${says}`)
        : el("span", {}, el("code", { class: looks[kind] ?? kind }, says)),
    );
}

function sampleCard(s, several) {
  const outcome = s.right ? "right" : s.cut ? "cut off" : "wrong";
  return el(
    "article",
    { class: `card sample ${s.right ? "is-right" : "is-wrong"}`, tabindex: -1 },
    el(
      "header",
      {},
      el("h3", {}, s.problem),
      el(
        "p",
        {},
        el("span", { class: `verdict ${s.right ? "right" : "wrong"}` }, outcome),
        [
          several ? s.run : null,
          s.step === 0 ? "before training" : `after ${plural(s.step, "step")}`,
          `${s.split} problem`,
          plural(s.tokens, "token"),
        ]
          .filter(Boolean)
          .join(" · "),
      ),
    ),
    s.revises ? el("p", { class: "badge" }, "checks, then revises") : null,
    thinking(s.text),
  );
}

function thinking(pieces) {
  return el(
    "div",
    { class: "thinking", tabindex: 0, role: "group", "aria-label": "what the model wrote" },
    pieces.map((piece) =>
      typeof piece === "string" ? piece : el("span", { class: piece[1] }, piece[0]),
    ),
  );
}
