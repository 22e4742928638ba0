"""`tinyzero export`: a trained model as a folder for transformers, vLLM or the Hugging Face hub.

    OUT/
      model.safetensors, config.json and the tokenizer's files
      generation_config.json   how it was sampled when it was evaluated, and where its answers end
      README.md, curve.png     the model card, made from the records of the run
      recipe.toml              repeats the run

No other module imports huggingface_hub.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError

from tinyzero import __version__, models
from tinyzero import config as configs
from tinyzero.config import Config
from tinyzero.errors import UserError, brief, first_line, short_path
from tinyzero.run import outputs, records
from tinyzero.tasks import load_task
from tinyzero.tasks.base import Task
from tinyzero.types import Prompt, SamplingParams

CARD, CURVE, RECIPE = "README.md", "curve.png", "recipe.toml"
FIX = "name another folder"
SCORE = re.compile(r"pass@\d+|greedy")


@dataclass(frozen=True)
class History:
    """The records of a run up to the checkpoint that is exported."""

    step: int
    metrics: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]

    def scored(self, split: str) -> list[dict[str, Any]]:
        """The evaluations on a split, in the order of the steps."""
        return [entry for entry in self.evaluations if entry["split"] == split]


def export(model: str, recipe: str | None, out: Path, name: str) -> None:
    """Write `model` to the new folder `out`, completely or not at all. Its card calls it `name`.

    `recipe` is the config.toml of the run that made the model, another recipe, or None if neither
    is known. Raises UserError if `out` exists or cannot be written, or if the model cannot be
    loaded.
    """
    outputs.refuse_others(out, fix=FIX)
    config = configs.resolve(configs.read_recipe(recipe), {}) if recipe else None
    run = None
    if recipe and Path(recipe).name == "config.toml":
        run = read_run(Path(recipe).parent, model)
    if run and find_spec("matplotlib") is None:
        raise UserError("the card's picture needs matplotlib: pip install 'tinyzero[report]'")

    dtype = models.stored_dtype(model)
    lm = models.load_model(model, dtype, note=partial(print, file=sys.stderr))
    tokenizer = models.load_tokenizer(model)
    origin = _origin(model, config)
    if config:
        task = load_task(config.task.name, config.task.options)
        models.set_generation(lm, tokenizer, _params(config, task))

    parameters = sum(parameter.numel() for parameter in lm.parameters())
    kind = f"{parameters:,} parameters, {lm.config.model_type}"
    with _records_of(recipe):
        text = card(name, kind, str(dtype).removeprefix("torch."), config, run, origin, tokenizer)

    _make_parents(out)
    with outputs.whole(out, fix=FIX) as temporary, _as_os_error():
        temporary.mkdir()
        models.save_model(lm, tokenizer, temporary)
        models.use_known_class(tokenizer, temporary)
        models.compare_loaded(lm, tokenizer, temporary)
        models.write_origin(origin, temporary)
        (temporary / CARD).write_text(text, encoding="utf-8")
        if config:
            (temporary / RECIPE).write_text(configs.to_toml(_portable(config)), encoding="utf-8")
        if run:
            with _records_of(recipe):
                draw(run, temporary / CURVE)


def _origin(model: str, config: Config | None) -> models.Origin:
    """The licence and the base model to name: those of the model, or those its run began with.

    A run of an older version did not write them into its checkpoints.
    """
    origin = models.origin_of(model)
    if origin.entries or config is None:
        return origin

    base = config.model.name
    is_known = base in models.BUNDLED or Path(base).is_dir() or models.is_hub_id(base)
    return models.origin_of(base) if is_known else origin


def _portable(config: Config) -> Config:
    """The configuration without the folders of this machine in the names of a user's own code."""
    named = {kind: getattr(config, kind) for kind in ("task", "algorithm", "sampler")}
    changes = {
        kind: section.model_copy(update={"name": str(_public(short_path(Path(section.name))))})
        for kind, section in named.items()
        if ":" in section.name
    }
    return config.model_copy(update=changes)


def _make_parents(out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}; {FIX}") from error


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Turn what safetensors raises for a full disk into the OSError that all others raise."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(str(error)) from error


@contextmanager
def _records_of(recipe: str | None) -> Iterator[None]:
    """Raise UserError if the records lack a key, or hold a value, that the card needs."""
    try:
        yield
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if recipe is None:
            raise
        raise UserError(
            f"the card cannot be made from the records in {Path(recipe).parent} ({brief(error)}): "
            "fix them, or copy the model's own folder elsewhere and export that"
        ) from error


def read_run(folder: Path, model: str) -> History | None:
    """What the run in `folder` recorded until it saved `model`, one of its step_N.

    None if `model` is not a checkpoint's. Raises UserError if steps are missing in the records.
    """
    match = re.search(r"/step_(\d+)(?:/model)?$", Path(model).resolve().as_posix())
    if match is None:
        return None

    step = int(match[1])
    metrics = [record for record in records.read(folder / "metrics.jsonl") if record["step"] < step]
    if len(metrics) < step:
        raise UserError(
            f"{folder / 'metrics.jsonl'} has {len(metrics)} of {step} steps, "
            "and the card is made from all of them"
        )
    evaluations = [entry for entry in records.read(folder / "eval.jsonl") if entry["step"] <= step]
    return History(step, metrics, evaluations)


def draw(run: History, picture: Path) -> None:
    """Plot accuracy and length over training, in training and on dev with 95 % intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    accuracy, length = figure.subplots(1, 2)
    steps = [record["step"] + 1 for record in run.metrics]
    dev = run.scored("dev")
    dev_steps = [entry["step"] for entry in dev]

    panels = (
        (accuracy, "accuracy", "pass@1"),
        (length, "response_length", "response_length"),
    )
    for axis, metric, score in panels:
        axis.plot(steps, [record[metric] for record in run.metrics], alpha=0.4, label="in training")
        axis.plot(dev_steps, [entry[score] for entry in dev], marker="o", label="on dev")
        axis.set(xlabel="step", ylim=(0, None))
        axis.legend()

    low, high = ([entry[f"pass@1/{end}"] for entry in dev] for end in ("low", "high"))
    accuracy.fill_between(dev_steps, low, high, color="C1", alpha=0.2, linewidth=0)
    accuracy.set_title("accuracy")
    length.set_title("tokens per answer")
    figure.savefig(picture, dpi=130)


def card(
    name: str,
    kind: str,
    dtype: str,
    config: Config | None,
    run: History | None,
    origin: models.Origin,
    tokenizer: Any,
) -> str:
    """The model card in Markdown: how the model was made, how it scores, and how to use it.

    `kind` is its size and architecture. Without a run, the card says only how to use the model.
    """
    made_by = f"TinyZero {__version__}"
    parts = [_front_matter(config, run, origin), f"# {name}"]
    if config is None or run is None:
        parts.append(
            f"A causal language model ({kind}, {dtype}), written by {made_by}. "
            "How it was trained is not known."
        )
    else:
        parts += [
            f"`{_public(config.model.name)}` ({kind}, {dtype}), trained on "
            f"{_public(config.task.name)} with {_public(config.algorithm.name)} for "
            f"{run.step} steps and written by {made_by}. It was trained by "
            "reinforcement learning as DeepSeek R1-Zero was: the only reward comes from a "
            "program that checks the answer.",
            f"## Scores\n\n{_scores(run)}\n\n![Accuracy and length over training]({CURVE})",
            f"## Training\n\n{_training(config, run)}",
        ]
    if config:
        parts.append(f"## Use\n\n{_use(name, dtype, config, tokenizer)}")
    parts.append(f"## Limits\n\n{_limits(config, run)}")
    return "\n\n".join(parts) + "\n"


def _front_matter(config: Config | None, run: History | None, origin: models.Origin) -> str:
    """The YAML that the hub reads."""
    tags = ["tinyzero"]
    if config and run:
        tags += [
            "reinforcement-learning",
            _last(config.algorithm.name),
            _last(config.task.name),
        ]
    lines = [
        "library_name: transformers",
        "pipeline_tag: text-generation",
        *models.front_lines(origin),
        f"tags: {json.dumps(tags)}",
    ]
    return "\n".join(["---", *lines, "---"])


def _last(name: str) -> str:
    """The name of a plug-in without its module or file: `my_task.py:Mine` is `Mine`."""
    return re.split("[/:]", name)[-1]


def _scores(run: History) -> str:
    """A table of the first and the last evaluation on each split, with 95 % intervals."""
    chosen = [entry for split in ("test", "dev") for entry in _ends(run.scored(split))]
    if not chosen:
        return "The run was not evaluated before this step."

    keys = [key for key in chosen[0] if SCORE.fullmatch(key)]
    rows = [["split", "problems", "steps", *keys], ["---"] * (3 + len(keys))]
    for entry in chosen:
        scores = [
            f"{entry[key]:.3f} [{entry[f'{key}/low']:.3f}, {entry[f'{key}/high']:.3f}]"
            if key in entry
            else ""
            for key in keys
        ]
        rows.append([entry["split"], str(entry["n"]), str(entry["step"]), *scores])
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)

    notes = (
        f"Sampled at temperature {chosen[0]['temperature']:g}, on problems that were never used in "
        "training, with 95 % intervals."
    )
    later_steps = run.step - max(entry["step"] for entry in chosen)
    if later_steps:
        notes += (
            f" The model was trained for another {_plural(later_steps, 'step')} after the last "
            "evaluation."
        )
    return f"{table}\n\n{notes}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _ends(scored: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first and the last evaluation, or the only one."""
    return [scored[0], scored[-1]] if len(scored) > 1 else list(scored)


def _training(config: Config, run: History) -> str:
    """A table of the main settings, and the command that repeats the run."""
    last = run.metrics[-1]
    rows = {
        "task": _with_options(config.task.name, config.task.options),
        "algorithm": _with_options(config.algorithm.name, config.algorithm.options),
        "batch": f"{config.rollout.prompts} problems × {config.rollout.samples} completions, "
        f"at temperature {config.rollout.temperature:g}",
        "token limit": f"trained with at most {config.rollout.max_tokens} tokens per completion, "
        f"evaluated with at most {config.eval_tokens}",
        "steps": f"{run.step} of {config.steps}",
        "samples": f"{last['samples/generated']:,}",
        "learning rate": f"{config.optimizer.learning_rate:g}, {config.optimizer.schedule}",
        "seed": str(config.seed),
        "minutes": f"{last['time/elapsed'] / 60:.1f}",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())

    names = (config.task.name, config.algorithm.name)
    own = [f"`{_public(name)}`" for name in names if ":" in name]
    needs = ""
    if own:
        verb = "is" if len(own) == 1 else "are"
        needs = f"\n\nIt needs {' and '.join(own)}, which {verb} not part of TinyZero."
    return (
        f"| | |\n|---|---|\n{table}\n\n"
        f"[{RECIPE}]({RECIPE}) holds every setting. This command repeats the run:\n\n"
        f"```\ntinyzero train {RECIPE}\n```{needs}"
    )


def _with_options(name: str, options: Mapping[str, Any]) -> str:
    listed = ", ".join(f"{key} {_public(value)}" for key, value in options.items())
    return f"{_public(name)} ({listed})" if listed else _public(name)


def _public(value: Any) -> Any:
    """A setting as the card shows it: a file on the user's disk without the folders above it.

    >>> _public("/srv/ada/private/dates.jsonl"), _public("Qwen/Qwen2.5-0.5B"), _public("/+-")
    ('dates.jsonl', 'Qwen/Qwen2.5-0.5B', '/+-')
    """
    if isinstance(value, list):
        return [_public(item) for item in value]
    if not isinstance(value, str):
        return value

    path = Path(value)
    is_private = value.startswith("~/") or (path.is_absolute() and len(path.parts) > 2)
    return path.name if is_private else value


def _use(name: str, dtype: str, config: Config, tokenizer: Any) -> str:
    """The exact prompt, and code that generates an answer to it."""
    task = load_task(config.task.name, config.task.options)
    prompt = task.prompt(task.problem("test", 0), config.model.prompt)
    params = _params(config, task)
    shown = _shown(prompt, tokenizer, config.model.date)
    return (
        f"It was trained only on prompts of this form ({config.model.prompt}), and ends its answer"
        f"{_ending(params.stop)}:\n\n```python\n{_assignment(shown)}\n```\n\n"
        f"With transformers:\n\n```python\n{_transformers_code(name, shown)}\n```\n\n"
        f"With vLLM:\n\n```python\n{_vllm_code(name, dtype, shown, params)}\n```\n\n"
        "With TinyZero, on a page in the browser:\n\n"
        f"```\ntinyzero play --web {shlex.quote(name)}\n```"
    )


class Shown(NamedTuple):
    """A prompt as the card shows it: a text, or its token ids if no call gives them for a text.

    `special` says whether the tokenizer adds its special tokens to the text.
    """

    prompt: str | list[int]
    special: bool


def _shown(prompt: Prompt, tokenizer: Any, date: str) -> Shown:
    """The prompt with which the card's code reads exactly the tokens of training.

    Messages are shown as the text that training made of them. A chat template may trim the last
    message or write thinking of its own, and what `apply_chat_template` gives is then another text.
    """
    ids = list(models.encode_prompt(tokenizer, prompt, date=date))
    text = prompt if isinstance(prompt, str) else models.render_chat(tokenizer, prompt, date)
    for special in (True, False) if isinstance(prompt, str) else (False,):
        if list(tokenizer(text, add_special_tokens=special)["input_ids"]) == ids:
            return Shown(text, special)
    return Shown(ids, False)


def _params(config: Config, task: Task) -> SamplingParams:
    """How the model was sampled when it was evaluated."""
    return SamplingParams(
        temperature=config.eval_temperature,
        max_tokens=config.eval_tokens,
        stop=_used_stops(task),
    )


def _used_stops(task: Task) -> tuple[str, ...]:
    """The stop strings that answers to the task end with.

    A task that does not say where its answers end has the default one, which they may not contain.
    """
    try:
        solution = task.solution(task.problem("test", 0))
        solution = [solution] if isinstance(solution, str) else solution
    except UserError:  # no solution is known, or the task's own code raised
        return tuple(task.final_stop)
    return tuple(text for text in task.final_stop if any(text in turn for turn in solution))


def _ending(stop: Sequence[str]) -> str:
    """What an answer ends with, as the end of a sentence."""
    shown = [f"`` {text} ``" if "`" in text else f"`{json.dumps(text)[1:-1]}`" for text in stop]
    return f" with {' or '.join(shown)}" if shown else " with its end token"


def _assignment(shown: Shown) -> str:
    """Code that sets `prompt`, or `ids`, with one line of code per line of the text."""
    if not isinstance(shown.prompt, str):
        return f"ids = {shown.prompt}"

    lines = shown.prompt.splitlines(keepends=True)
    if len(lines) < 2:
        return f"prompt = {shown.prompt!r}"
    return "\n".join(["prompt = (", *(f"    {line!r}" for line in lines), ")"])


def _transformers_code(name: str, shown: Shown) -> str:
    if not isinstance(shown.prompt, str):
        read = '{"input_ids": torch.tensor([ids])}'
    elif shown.special:
        read = 'tokenizer(prompt, return_tensors="pt")'
    else:
        read = 'tokenizer(prompt, add_special_tokens=False, return_tensors="pt")'
    imports = "" if isinstance(shown.prompt, str) else "import torch\n"
    return f"""{imports}from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({json.dumps(name)})
tokenizer = AutoTokenizer.from_pretrained({json.dumps(name)})
inputs = {read}
output = model.generate(**inputs, tokenizer=tokenizer)  # or greedily: do_sample=False
print(tokenizer.decode(output[0]))"""


def _vllm_code(name: str, dtype: str, shown: Shown, params: SamplingParams) -> str:
    if shown.special:
        ids = ""
        asked = "[prompt]"
    else:
        is_text = isinstance(shown.prompt, str)
        tokenize = "ids = llm.get_tokenizer().encode(prompt, add_special_tokens=False)\n"
        ids = tokenize if is_text else ""
        asked = '{"prompt_token_ids": ids}'
    return f"""from vllm import LLM, SamplingParams

llm = LLM({json.dumps(name)}, dtype="{dtype}")
params = SamplingParams(
    temperature={params.temperature},
    max_tokens={params.max_tokens},
    stop={json.dumps(list(params.stop))},
    include_stop_str_in_output=True,
)
{ids}print(llm.generate({asked}, params)[0].outputs[0].text)"""


def _limits(config: Config | None, run: History | None) -> str:
    """What a user of the model should know before relying on it."""
    sentences = [
        "It has not been evaluated on anything else. Only its final answers were checked in "
        "training, so the text before them may be wrong."
    ]
    scored = (run.scored("test") or run.scored("dev")) if run else []
    if scored:
        last = scored[-1]
        sentence = (
            f"After {_plural(last['step'], 'step')}, {last['truncated']:.1%} of its answers were "
            "cut at the token limit"
        )
        if "reward/format" in last:
            sentence += f", and {last['malformed']:.1%} ended in a form that cannot be judged"
        sentences.append(f"{sentence}.")
    if config and config.model.name in models.BUNDLED:
        sentences.append(
            "Its base model was trained only on synthetic text about this type of problem, so it "
            "does not know any language."
        )
    return " ".join(sentences)


def check_hub(name: str) -> None:
    """Raises UserError if the model cannot be pushed as `name`, before any work is done for it."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    with _hub(f"{name} was not pushed"):
        validate_repo_id(name)
        user = HfApi().whoami()["name"]
        if HfApi().repo_exists(name if "/" in name else f"{user}/{name}"):
            raise UserError(f"{name} exists on the hub: name another repository")


def push(folder: Path, name: str, private: bool) -> str:
    """Upload an exported folder as the new repository `name`, and return its URL."""
    from huggingface_hub import HfApi

    with _hub(f"{folder} is complete, but not pushed (`hf upload {name} {folder}` tries again)"):
        created = HfApi().create_repo(name, private=private or None)  # None: the account's default
        HfApi().upload_folder(
            repo_id=created.repo_id, folder_path=folder, commit_message="Exported by TinyZero"
        )
        return str(created)


@contextmanager
def _hub(consequence: str) -> Iterator[None]:
    """Turn what the hub, its client or the network raises into a UserError of one line."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    try:
        yield
    except UserError:
        raise
    except LocalTokenNotFoundError:
        raise UserError(
            f"{consequence}: there is no token: log in with `hf auth login`, or set HF_TOKEN"
        ) from None
    except HFValidationError as error:
        raise UserError(f"{consequence}: {first_line(error)}") from None
    except HfHubHTTPError as error:
        raise UserError(
            f"{consequence}: the hub answered {error.response.status_code}: {first_line(error)}"
        ) from error
    except Exception as error:  # the client may use any network library
        raise UserError(
            f"{consequence}: the hub could not be reached: {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error
