"""The report's page in a real browser: no errors, no overflow, and every control works."""

import json
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import sqrt
from pathlib import Path
from statistics import stdev
from typing import Any

import fake_run
import pytest

from tinyzero import config
from tinyzero.run import records
from tinyzero.tools import ablate
from tinyzero.tools.report.page import write_report
from tinyzero.tools.report.watch import Server

pytestmark = pytest.mark.browser

WIDTHS = [375, 1440]
EVIL = (
    "<script>window.evil=1</script><img src=x onerror=window.evil=1></script>"
    "<script>window.evil=1</script>"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium that is installed on this machine."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install tinyzero[dev]"
    )
    path = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if path is None:
        pytest.skip("needs a chromium on the path, such as Debian's package chromium")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(
            executable_path=path, args=["--no-sandbox"] if sys.platform == "linux" else []
        )
        yield found
        found.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a run with an alarm, a malicious text and an answer that became right."""
    folder = tmp_path_factory.mktemp("runs") / "made-up-0"
    fake_run.write(folder, columns={"truncated": lambda step: 0.4})
    records.append(
        folder / "rollouts.jsonl",
        fake_run.rollout(40, "train", 1, EVIL) | {"problem": EVIL, "fields": {}},
    )
    write_report([folder], folder / "report.html")
    return (folder / "report.html").as_uri()


BASELINES = {"forced to go on": {"value": 0.05, "low": 0.03, "high": 0.08, "tokens": 160.0}} | {
    f"best of {n}": {"value": value, "low": value - 0.02, "high": value + 0.02, "tokens": 160.0}
    for n, value in ((4, 0.33), (8, 0.38))
}


@pytest.fixture(scope="module")
def controlled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a run that did not learn, with baselines below and above its curves."""
    folder = tmp_path_factory.mktemp("controlled") / "run"
    fake_run.write(folder, columns={"accuracy": lambda step: 0.2})
    evals = list(records.read(folder / "eval.jsonl"))
    (folder / "eval.jsonl").unlink()
    for e in evals:
        records.append(
            folder / "eval.jsonl", e | {"pass@1": 0.2, "pass@1/low": 0.15, "pass@1/high": 0.25}
        )
    (folder / "baselines.json").write_text(json.dumps({"baselines": BASELINES}))
    write_report([folder], folder / "report.html")
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of four runs."""
    place = tmp_path_factory.mktemp("grid")
    for seed in range(4):
        fake_run.write(
            place / f"a-choice-with-a-rather-long-name-{seed}", steps=20 + seed, seed=seed
        )
    write_report([place], place / "report.html")
    return (place / "report.html").as_uri()


GRID = """
seeds = [0, 1]
[common]
steps = 20
"eval.every" = 10
[axes.algorithm]
grpo = { "algorithm.name" = "grpo" }
rloo = { "algorithm.name" = "rloo" }
[axes.samples]
4 = { "rollout.samples" = 4 }
8 = { "rollout.samples" = 8 }
"""


@contextmanager
def opened(
    browser: Any, address: str, width: int = 1440, dark: bool = False, quiet: bool = True
) -> Iterator[Any]:
    """The opened page. Its console must stay empty, and it must load nothing from elsewhere."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.set_default_timeout(120_000)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith((address, "data:")) else complaints.append(request.url)
        ),
    )
    page.goto(address)
    page.wait_for_selector("canvas")
    yield page
    context.close()
    assert complaints == []


def overflow(page: Any) -> int:
    """Pixels by which the page is wider than the window."""
    return int(
        page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_one_run_fits_in_light_and_dark_with_everything_unfolded(
    browser: Any, report: str, width: int
) -> None:
    for dark in (False, True):
        with opened(browser, report, width, dark) as page:
            assert page.locator("header .scores").inner_text().split()[0].startswith("20")
            assert overflow(page) == 0
            assert (
                page.locator("figure.chart").count()
                == page.locator("figure.chart canvas").count()
                > 10
            )
            page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
            page.wait_for_selector("figure.chart tbody tr")
            assert overflow(page) == 0
            page.evaluate("document.querySelectorAll('select').forEach((s) => (s.value = ''))")


@pytest.mark.parametrize("width", WIDTHS)
def test_several_runs_fit_and_share_their_charts(browser: Any, several: str, width: int) -> None:
    with opened(browser, several, width) as page:
        assert overflow(page) == 0
        figures = page.get_by_role("region", name="Every run in figures")
        assert figures.locator("tbody tr").count() == 4
        chart = page.locator("figure.chart").first
        assert "a-choice-with-a-rather-long-name-0 80" in chart.locator(".legend").inner_text()
        chart.get_by_role("combobox").select_option(label="training answers")
        assert chart.locator(".legend span").count() == 4
        assert page.locator("#kinds thead th").all_inner_texts() == [
            "run",
            "all problems",
            "operators: */",
            "operators: +-",
        ]
        assert page.locator("#kinds tbody tr").count() == 4
        cells = page.locator("#kinds tbody tr").first.locator("td").all_inner_texts()
        assert cells[:2] == [
            "20\u202f% → 80\u202f% [70, 90\u202f%]",
            "10\u202f% → 40\u202f% [30, 50\u202f%]",
        ]
        assert overflow(page) == 0


def test_numbers_are_in_the_column_of_their_run_if_one_has_none(
    browser: Any, tmp_path: Path
) -> None:
    for i, name in enumerate("abc"):
        kl = {"kl": lambda step, i=i: 0.5 + i} if name != "a" else {}
        fake_run.write(tmp_path / name, steps=10, columns=kl)
    write_report([tmp_path], tmp_path / "report.html")
    with opened(browser, (tmp_path / "report.html").as_uri()) as page:
        chart = page.locator("figure.chart", has=page.get_by_role("heading", name="KL"))
        chart.locator("summary").click()
        chart.locator("tbody tr").first.wait_for()
        assert chart.locator("thead th").all_inner_texts() == ["step", "b", "c"]
        assert chart.locator("tbody tr").first.locator("td").all_inner_texts() == ["1.5", "2.5"]


# The share of dark pixels at given heights of the first plot: about half for a dashed line.
DARK = """(values) => {
  const { u } = [...drawn][0], { left, width } = u.bbox;
  const { data } = u.ctx.getImageData(left, 0, width, u.ctx.canvas.height);
  return values.map((value) => {
    const row = Math.round(u.valToPos(value, "y", true)) * width;
    const pixels = [...Array(width).keys()].map((x) => 4 * (row + x));
    const dark = pixels.filter((i) => data[i + 3] > 60 && data[i] < 160);
    return dark.length / width;
  });
}"""


def test_baselines_are_in_the_plot_its_label_and_its_table(browser: Any, controlled: str) -> None:
    with opened(browser, controlled) as page:
        chart = page.locator("figure.chart").first
        low, high = page.evaluate("(({ min, max }) => [min, max])([...drawn][0].u.scales.y)")
        for name, b in BASELINES.items():
            assert low < b["value"] < high < 0.5, "in the plot, which is no larger than needed"
            words = f"{name} at {100 * b['value']:.{int(b['value'] < 0.1)}f}\u202f%"
            assert words in (chart.locator(".plot").get_attribute("aria-label") or "")
        chart.locator("summary").click()
        chart.locator("tbody tr").first.wait_for()
        assert chart.locator("thead th").all_inner_texts()[-3:] == list(BASELINES)
        assert chart.locator("tbody tr").first.locator("td").all_inner_texts()[-3:] == [
            "5.0\u202f%",
            "33\u202f%",
            "38\u202f%",
        ]
        *on_lines, off = page.evaluate(DARK, [*(b["value"] for b in BASELINES.values()), 0.28])
        assert all(0.3 < share < 0.9 for share in on_lines)
        assert off < 0.1, "only baselines have a line"


def test_a_grid_is_a_matrix_of_its_choices(browser: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install tinyzero[report]")
    path, out = tmp_path / "grid.toml", tmp_path / "runs"
    path.write_text(GRID)
    about, cells = ablate.read_grid(path)
    for cell in cells:
        algorithm, size = cell.choices
        settings = {"seed": cell.seed, "algorithm.name": algorithm, "rollout.samples": int(size)}
        fake_run.write(out / cell.name, 20, 10, **settings)
        asked = config.tables_to_toml(config.asked(cell.config))
        (out / cell.name / "asked.toml").write_text(asked)
        manifest = out / cell.name / "checkpoints" / "step_000020" / "manifest.json"
        manifest.parent.mkdir(parents=True)
        manifest.write_text("{}")
    ablate.write(path, about, cells, out, jobs=2)
    write_report([out], out / "report.html")
    with opened(browser, (out / "report.html").as_uri()) as page:
        assert f"tinyzero ablate {path}" in page.locator("#top").inner_text()
        grid = page.locator("#table .scroll").first
        assert grid.locator("thead th").all_inner_texts() == ["algorithm \\ samples", "4", "8"]
        assert grid.locator("tbody th").all_inner_texts() == ["grpo", "rloo"]
        assert grid.locator("td .heat b").all_inner_texts() == ["80\u202f%"] * 4
        assert "A single seed says little" in page.locator("#top").inner_text()
        assert "Means over 2 seeds." in page.locator("#table").inner_text()
        compared = page.get_by_role("region", name="Differences of choices")
        cells = compared.locator("tbody tr").first.locator("th, td").all_inner_texts()
        assert (cells[0], cells[1], cells[3]) == ("grpo-8", "0.0", "no")
        figures = page.get_by_role("region", name="Every run in figures")
        assert figures.locator("tbody tr").count() == 8
        legend = page.locator("figure.chart").first.locator(".legend span")
        assert legend.count() == 4, "the seeds of a choice share an entry"
        assert overflow(page) == 0


def test_what_a_model_wrote_is_text(browser: Any, report: str) -> None:
    with opened(browser, report) as page:
        page.get_by_role("button", name="Show all").click()
        page.locator("#filter-step").select_option("40")
        assert EVIL in page.locator("#samples").inner_text()
        assert page.evaluate("window.evil") is None
        assert page.locator("#samples img, #samples script").count() == 0


def test_filters_choose_among_the_samples(browser: Any, report: str) -> None:
    with opened(browser, report) as page:
        cards = page.locator(".sample")
        assert page.locator("#filter-problem").input_value() == "24 from 3 5 12", (
            "one that was learned"
        )
        assert cards.count() == 6, "of 12: 5 from dev, 2 from test, 5 from training"
        page.get_by_role("button", name="Show more").click()
        assert cards.count() == 12
        page.get_by_role("button", name="Show all").click()
        tally = page.locator(".tally")
        everything = tally.inner_text()
        assert everything.startswith("27 of the 27 answers"), "of three problems, and one more"
        page.locator("#filter-outcome").select_option("right")
        assert all("right" in text for text in page.locator(".sample .verdict").all_inner_texts())
        page.locator("#filter-step").select_option("20")
        page.locator("#filter-split").select_option("dev")
        assert cards.count() == 1
        assert "after 20 steps · dev problem" in cards.inner_text()
        page.locator("#filter-kind").select_option("backtrack")
        assert cards.count() == 1
        page.locator("#filter-outcome").select_option("wrong")
        assert tally.inner_text() == "2 of the 27 answers on this page, 0 right", (
            "the other two problems"
        )
        page.get_by_role("button", name="Show all").click()
        assert tally.inner_text() == everything
        page.get_by_role("button", name="Show it").click()
        assert page.locator("#filter-kind").input_value() == "revises"
        assert "checks, then revises" in cards.first.inner_text()


def test_curves_are_read_with_the_keyboard_and_in_a_table(browser: Any, report: str) -> None:
    with opened(browser, report) as page:
        chart = page.locator(
            "figure.chart", has=page.get_by_role("heading", name="Tokens per answer")
        )
        assert "wrong 69.3" in chart.locator(".legend").inner_text(), "the last of 30.25 + step"
        plot = chart.locator(".plot")
        assert plot.get_attribute("role") == "application", "it handles arrow keys itself"
        plot.focus()
        assert page.locator("[aria-live=polite]").count() == 2, (
            "only one legend is read out, with its position"
        )
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        page.wait_for_function(
            "(node) => node.textContent.includes('31.3')",
            arg=chart.locator(".legend").element_handle(),
        )
        assert "step 2" in chart.locator("figcaption").inner_text()
        assert "from 30.3 to 69.3" in (plot.get_attribute("aria-label") or "")
        chart.locator("summary").focus()
        page.keyboard.press("Enter")
        chart.locator("tbody tr").nth(1).wait_for()
        cells = chart.locator("tbody tr").nth(1).locator("th, td").all_inner_texts()
        assert cells[:3] == ["2", "90.5", "31.3"]
        page.locator("#axis").select_option("samples")
        chart.locator("tbody tr").nth(1).wait_for()
        assert chart.locator("tbody tr").nth(1).locator("th").inner_text() == "256"


def test_over_length_curves_are_clouds_in_order(browser: Any, tmp_path: Path) -> None:
    lengths = [30.0, 50.0, 40.0, 20.0, 60.0] * 50
    columns: dict[str, Any] = {
        "response_length": lambda step: lengths[step],
        "kl": lambda step: step,
    }
    write_report(
        [fake_run.write(tmp_path / "run", steps=250, every=50, columns=columns)],
        tmp_path / "report.html",
    )
    with opened(browser, (tmp_path / "report.html").as_uri()) as page:
        page.locator("#axis").select_option("length")
        chart = page.locator("figure.chart", has=page.get_by_role("heading", name="KL"))
        assert "at the end" in chart.locator("figcaption").inner_text()
        assert "249" in chart.locator(".legend").inner_text(), (
            "the run's end, which is not the longest answer"
        )
        xs = page.evaluate(
            "[...drawn].find((card) => card.spec.title === 'KL divergence').u.data[0]"
        )
        assert xs == sorted(lengths)
        dev = page.evaluate("[...drawn][0].u.data[0]")
        assert dev == sorted(dev)
        assert "tokens per answer" in page.locator("#axis option:checked").inner_text()


def test_the_band_of_a_training_curve_is_students_interval_of_its_neighbours(
    browser: Any, report: str
) -> None:
    near = [0.2, 0.5, 0.3, 0.6, 0.4]
    half = 2.776 * stdev(near) / sqrt(5)
    with opened(browser, report) as page:
        found = page.evaluate("(near) => around([...near, ...Array(75).fill(null)])", near)
        middle = [found[key][2] for key in ("mean", "low", "high")]
        assert middle == pytest.approx([0.4, 0.4 - half, 0.4 + half], rel=0.01)
        assert found["mean"][5] is None
        assert page.evaluate("around([1, 2])") == {"mean": [1, 2]}, "a very short curve has no band"
        chart = page.locator(
            "figure.chart", has=page.get_by_role("heading", name="Reward", exact=True)
        )
        assert "[" in chart.locator(".legend span").first.inner_text()
        chart.locator("summary").click()
        chart.locator("tbody tr").first.wait_for()
        assert chart.locator("thead th").all_inner_texts()[:4] == [
            "step",
            "reward",
            "mean from",
            "to",
        ]


def test_the_tab_key_first_reaches_a_link_to_the_results(browser: Any, report: str) -> None:
    with opened(browser, report) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(
                page.evaluate("document.activeElement.className || document.activeElement.tagName")
            )
        assert {"SUMMARY", "A", "BUTTON", "plot", "thinking"} <= reached


def test_alarms_and_answers_come_before_the_curves(browser: Any, report: str) -> None:
    with opened(browser, report) as page:
        ids = page.locator("main > section").evaluate_all("(nodes) => nodes.map((n) => n.id)")
        assert ids[:3] == ["alarms", "samples", "accuracy"], "written answers before the curves"
        assert ids[-1] == "kinds"
        assert "Many answers are cut off" in page.locator("#alarms").inner_text()


@contextmanager
def watched(folder: Path) -> Iterator[str]:
    """The address of the live page of a folder."""
    with Server(folder, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_live_page_headlines_the_current_training_accuracy(
    browser: Any, tmp_path: Path, width: int
) -> None:
    folder = tmp_path / "run"
    fake_run.write(folder, steps=40, every=10)
    for name in ("metrics.jsonl", "eval.jsonl", "rollouts.jsonl"):
        kept = [line for line in records.read(folder / name) if line["step"] <= 11]
        (folder / name).unlink()
        for line in kept:
            records.append(folder / name, line)
    with watched(folder) as address, opened(browser, address, width) as page:
        top = page.locator("#top")
        assert top.locator(".state").inner_text() == "step 12 of 40, about 1.37 min left"
        assert top.locator(".score").count() == 1
        accuracy = 0.2 + 0.6 * 9 / 40  # the mean of steps 8 to 12
        assert top.locator(".score b").inner_text() == f"{100 * accuracy:.0f}\u202f%"
        assert "in the last 5 steps" in top.inner_text()
        facts = dict(
            zip(
                top.locator(".facts dt").all_inner_texts(),
                top.locator(".facts dd").all_inner_texts(),
                strict=True,
            )
        )
        assert facts["held-out problems, before training"].startswith("20\u202f%")
        assert facts["held-out problems, step 10"].startswith("35\u202f%")
        assert page.locator("figure.chart small").first.inner_text() == "now"
        assert overflow(page) == 0


def test_the_live_page_says_what_is_wrong_with_the_records(browser: Any, tmp_path: Path) -> None:
    folder = fake_run.write(tmp_path / "run", steps=4, every=2)
    whole = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(whole + "damaged\n{}\n")
    with watched(folder) as address:
        page = browser.new_context().new_page()
        page.goto(address)
        page.locator("#top").get_by_text("metrics.jsonl").wait_for()
        (folder / "metrics.jsonl").write_text(whole)
        page.locator("#live").get_by_text("finished").wait_for()
        page.context.close()


def test_steps_are_counted_from_one_with_whole_ticks(browser: Any, tmp_path: Path) -> None:
    fake_run.write(tmp_path / "run", steps=7, every=7)
    write_report([tmp_path / "run"], tmp_path / "report.html")
    with opened(browser, (tmp_path / "report.html").as_uri()) as page:
        find = "[...drawn].find((card) => card.spec.title === 'Entropy').u"
        assert page.evaluate(f"{find}.data[0]") == [1, 2, 3, 4, 5, 6, 7]
        ticks = page.evaluate(f"{find}.axes[0]._splits")
        assert ticks
        assert all(tick == int(tick) for tick in ticks)


def test_runs_are_ranked_only_if_they_were_evaluated_alike(browser: Any, tmp_path: Path) -> None:
    def write(name: str, **evaluated: Any) -> None:
        folder = fake_run.write(tmp_path / name, steps=2, every=2, seed=len(name))
        lines = list(records.read(folder / "eval.jsonl"))
        (folder / "eval.jsonl").unlink()
        for line in lines:
            records.append(folder / "eval.jsonl", line | evaluated)

    def top() -> tuple[str, str]:
        write_report([tmp_path / "a", tmp_path / "bb"], tmp_path / "report.html")
        with opened(browser, (tmp_path / "report.html").as_uri(), 375) as page:
            assert overflow(page) == 0
            return page.locator("#top .sentence").inner_text(), page.locator("#table").inner_text()

    write("a")
    write("bb")
    sentence, table = top()
    assert "cannot be checked" in sentence
    assert "seed\t1\t2" in table
    same = {"n": 4, "max_tokens": 100, "problems": "0" * 16, "k": 2, "clusters": [0, 1, 2, 2]}
    write("a", **same, right=[0, 1, 2, 0])
    write("bb", **same, right=[2, 1, 2, 2])
    sentence, table = top()
    assert sentence == "These runs cannot be told apart on the same 4 problems."
    assert "bb\t+50.0\t[" in table, "2 of 4 problems went from 0 to 2 of 2"
    many = {"n": 64, "clusters": list(range(64))}
    write("a", **(same | many), right=[0] * 64)
    write("bb", **(same | many), right=[2] * 32 + [0] * 32, **{"pass@1": 0.9})
    assert top()[0].startswith("bb has the highest accuracy on held-out problems: 90")
    write("a", **same, right=[0, 1, 2, 0])
    write("bb", **(same | {"max_tokens": 50}), right=[2, 1, 2, 2])
    sentence, table = top()
    assert "differ in the token limit (100 or 50)" in sentence
    assert "Difference from" not in table


def test_the_live_page_updates_itself(browser: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with Server(folder, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            page = browser.new_context().new_page()
            page.set_default_timeout(120_000)
            errors: list[str] = []
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto(f"http://127.0.0.1:{server.server_address[1]}/")
            page.locator("#top").get_by_text("waiting for a run to begin").wait_for()
            fake_run.write(folder, steps=10, every=5)
            page.get_by_text("finished").wait_for()
            page.locator(".setup summary").click()
            page.locator("#contents a").last.focus()
            (folder / "baselines.json").write_text(json.dumps({"baselines": BASELINES}))
            fake_run.write(folder, steps=10, every=5)
            records.append(folder / "metrics.jsonl", fake_run.step_record(10, 20) | {"kl": 0.5})
            page.get_by_role("heading", name="KL").wait_for()
            assert page.locator(".setup").get_attribute("open") is not None, (
                "what was unfolded stays unfolded"
            )
            assert page.evaluate("document.activeElement.textContent") == "Problem types", (
                "and a link with the focus is kept"
            )
            heard = page.locator(".plot").first.get_attribute("aria-label") or ""
            assert "best of 8 at 38" in heard, "measured since the chart was first drawn"
            assert errors == []
        finally:
            server.shutdown()
            thread.join()
