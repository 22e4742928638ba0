"""`tinyzero export`: a trained model as a folder that transformers, vLLM and the hub take as it is.

    OUT/
      model.safetensors, config.json, the tokenizer's files
      generation_config.json   how it was sampled when it was scored, and where it stops
      README.md, curve.png     its card, made from its run
      recipe.toml              repeats the run

The one importer of huggingface_hub.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from tinyzero import __version__, models
from tinyzero import config as configs
from tinyzero.config import Config
from tinyzero.errors import UserError, brief
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
        """The evaluations on a split."""
        return [e for e in self.evaluations if e["split"] == split]


def export(model: str, recipe: str | None, out: Path, name: str) -> None:
    """Write `model` to the new folder `out`, whole or not at all; `name` is what its card calls it.

    `recipe` is the config.toml of the run that made the model, another recipe, or None where nothing is known of it.
    Raises UserError where `out` exists or cannot be written, or the model cannot be loaded.
    """
    outputs.refuse_others(out, fix=FIX)
    config = configs.resolve(configs.read_recipe(recipe), {}) if recipe else None
    run = (
        read_run(Path(recipe).parent, model)
        if recipe and Path(recipe).name == "config.toml"
        else None
    )
    if run and find_spec("matplotlib") is None:
        raise UserError("the card's picture needs matplotlib: pip install 'tinyzero[report]'")
    dtype = models.stored_dtype(model)
    lm, tokenizer = models.load_model(model, dtype), models.load_tokenizer(model)
    if config:
        task = load_task(config.task.name, config.task.options)
        models.set_generation(lm, tokenizer, _params(config, task))
    size = sum(p.numel() for p in lm.parameters())
    kind = f"{size:,} parameters, {lm.config.model_type}"
    with _records_of(recipe):
        text = card(name, kind, str(dtype).removeprefix("torch."), config, run)
    _make_parents(out)
    with outputs.whole(out, fix=FIX) as temporary, _as_os_error():
        temporary.mkdir()
        models.save_model(lm, tokenizer, temporary)
        (temporary / CARD).write_text(text, encoding="utf-8")
        if config:
            (temporary / RECIPE).write_text(configs.to_toml(config), encoding="utf-8")
        if run:
            with _records_of(recipe):
                draw(run, temporary / CURVE)


def _make_parents(out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}; {FIX}") from error


@contextmanager
def _as_os_error() -> Iterator[None]:
    """What a full disk is to safetensors, as it is to everybody else."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(str(error)) from error


@contextmanager
def _records_of(recipe: str | None) -> Iterator[None]:
    """What a card is made from may lack a key, or hold another kind of value: say so in one line."""
    try:
        yield
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if recipe is None:
            raise
        raise UserError(
            f"the records in {Path(recipe).parent} are not what a card is made from ({brief(error)}): "
            "mend them, or name the model's own folder, copied elsewhere"
        ) from error


def read_run(folder: Path, model: str) -> History | None:
    """What the run in `folder` recorded until it saved `model`, one of its step_N; None where that is no checkpoint's
    model but another that lies in the folder."""
    found = re.search(r"/step_(\d+)(?:/model)?$", Path(model).resolve().as_posix())
    if found is None:
        return None
    step = int(found[1])
    steps = [record for record in records.read(folder / "metrics.jsonl") if record["step"] < step]
    if len(steps) < step:
        raise UserError(
            f"{folder / 'metrics.jsonl'} has {len(steps)} of {step} steps, which the card is made from"
        )
    return History(
        step, steps, [e for e in records.read(folder / "eval.jsonl") if e["step"] <= step]
    )


def draw(run: History, picture: Path) -> None:
    """Accuracy and length over training, with the evaluations on dev and the 95 % intervals of their accuracy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    accuracy, length = figure.subplots(1, 2)
    after = [record["step"] + 1 for record in run.metrics]
    dev = run.scored("dev")
    for axis, key, score in (
        (accuracy, "accuracy", "pass@1"),
        (length, "response_length", "response_length"),
    ):
        axis.plot(after, [record[key] for record in run.metrics], alpha=0.4, label="in training")
        axis.plot([e["step"] for e in dev], [e[score] for e in dev], marker="o", label="on dev")
        axis.set(xlabel="step", ylim=(0, None))
        axis.legend()
    bounds = [[e[f"pass@1/{end}"] for e in dev] for end in ("low", "high")]
    accuracy.fill_between([e["step"] for e in dev], *bounds, color="C1", alpha=0.2, linewidth=0)
    accuracy.set_title("accuracy")
    length.set_title("tokens an answer")
    figure.savefig(picture, dpi=130)


def card(name: str, kind: str, dtype: str, config: Config | None, run: History | None) -> str:
    """The model card: what is known of the model, and how it is used."""
    made_by = f"TinyZero {__version__}"
    parts = [_front_matter(config, run), f"# {name}"]
    if config is None or run is None:
        parts += [
            f"A causal language model ({kind}, {dtype}), written by {made_by}. How it was made is not known here."
        ]
    else:
        parts += [
            f"`{config.model.name}` ({kind}, {dtype}), trained on {config.task.name} with {config.algorithm.name} for "
            f"{run.step} steps and written by {made_by}: reinforcement learning from rewards that a program computes "
            "from the answer, and from nothing else, as for DeepSeek R1-Zero.",
            f"## Scores\n\n{_scores(run)}\n\n![Accuracy and length over training]({CURVE})",
            f"## Training\n\n{_training(config, run)}",
        ]
    if config:
        parts += [f"## Use\n\n{_use(name, dtype, config)}"]
    return "\n\n".join([*parts, f"## Limits\n\n{_limits(config, run)}"]) + "\n"


def _front_matter(config: Config | None, run: History | None) -> str:
    """What the hub reads, as YAML (of which JSON is a part)."""
    tags = ["tinyzero"]
    lines = ["library_name: transformers", "pipeline_tag: text-generation"]
    if config and run:
        tags += [
            "reinforcement-learning",
            *(_last(n) for n in (config.algorithm.name, config.task.name)),
        ]
        base = config.model.name
        if models.is_hub_id(base):
            lines.append(f"base_model: {json.dumps(base)}")
        elif base in models.BUNDLED:
            lines.append("license: apache-2.0")
    return "\n".join(["---", *lines, f"tags: {json.dumps(tags)}", "---"])


def _last(name: str) -> str:
    """The name of a plug-in without its place."""
    return re.split("[/:]", name)[-1]


def _scores(run: History) -> str:
    """The first and the last evaluation of each split, with 95 % intervals."""
    chosen = [e for split in ("test", "dev") for e in _ends(run.scored(split))]
    if not chosen:
        return "The run scored nothing before this step."
    keys = [key for key in chosen[0] if SCORE.fullmatch(key)]
    rows = [["split", "problems", "steps", *keys], ["---"] * (3 + len(keys))]
    for e in chosen:
        scores = [
            f"{e[key]:.3f} [{e[f'{key}/low']:.3f}, {e[f'{key}/high']:.3f}]" if key in e else ""
            for key in keys
        ]
        rows.append([e["split"], str(e["n"]), str(e["step"]), *scores])
    late = run.step - max(e["step"] for e in chosen)
    return "\n".join(
        [
            *("| " + " | ".join(row) + " |" for row in rows),
            "",
            f"At temperature {chosen[0]['temperature']:g}, on problems that training has not held, with 95 % intervals."
            + (
                f" The model was trained for {late} steps more after the last of them."
                if late
                else ""
            ),
        ]
    )


def _ends(scored: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first and the last, or the only one."""
    return [scored[0], scored[-1]] if len(scored) > 1 else list(scored)


def _training(config: Config, run: History) -> str:
    last = run.metrics[-1]
    named = ", ".join(f"{key} {value}" for key, value in config.task.options.items())
    options = ", ".join(f"{key} {value}" for key, value in config.algorithm.options.items())
    rows = {
        "task": f"{config.task.name}{f' ({named})' if named else ''}",
        "algorithm": f"{config.algorithm.name}{f' ({options})' if options else ''}",
        "batch": f"{config.rollout.prompts} problems × {config.rollout.samples} completions of at most "
        f"{config.rollout.max_tokens} tokens, at temperature {config.rollout.temperature:g}",
        "steps": f"{run.step} of {config.steps}",
        "samples": f"{last['samples/generated']:,}",
        "learning rate": f"{config.optimizer.learning_rate:g}, {config.optimizer.schedule}",
        "seed": str(config.seed),
        "minutes": f"{last['time/elapsed'] / 60:.1f}",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    own = [name for name in (config.task.name, config.algorithm.name) if ":" in name]
    needs = (
        f" where {' and '.join(f'`{name}`' for name in own)}, no part of TinyZero, can be loaded"
        if own
        else ""
    )
    return (
        f"| | |\n|---|---|\n{table}\n\nEvery setting is in [{RECIPE}]({RECIPE}), and this repeats the run{needs}:\n\n"
        f"```\ntinyzero train {RECIPE}\n```"
    )


def _use(name: str, dtype: str, config: Config) -> str:
    """The prompt, to the letter, and how to sample from it."""
    task = load_task(config.task.name, config.task.options)
    prompt = task.prompt(task.problem("test", 0), config.model.prompt)
    params = _params(config, task)
    return (
        f"It was trained on this form of prompt and on no other ({config.model.prompt}), and ends its answer"
        f"{_ending(params.stop)}:\n\n```python\n{_assignment(prompt)}\n```\n\n"
        f"With transformers:\n\n```python\n{_transformers_code(name, prompt)}\n```\n\n"
        f"With vLLM:\n\n```python\n{_vllm_code(name, dtype, prompt, params)}\n```\n\n"
        f"With TinyZero, on a page in the browser:\n\n```\ntinyzero play --web {name}\n```"
    )


def _params(config: Config, task: Task) -> SamplingParams:
    """How the model was sampled when it was scored."""
    return SamplingParams(max_tokens=config.eval_tokens, stop=tuple(task.stop))


def _ending(stop: Sequence[str]) -> str:
    """How a card tells what an answer ends with."""
    shown = [f"`{json.dumps(s)[1:-1]}`" if "`" not in s else f"`` {s} ``" for s in stop]
    return f" with {' or '.join(shown)}" if shown else " with its end token"


def _assignment(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return f"prompt = {prompt!r}"
    return "\n".join(["messages = [", *(f"    {dict(message)!r}," for message in prompt), "]"])


def _transformers_code(name: str, prompt: Prompt) -> str:
    read = (
        'tokenizer(prompt, return_tensors="pt")'
        if isinstance(prompt, str)
        else "tokenizer.apply_chat_template(\n    messages, continue_final_message=True, return_dict=True, "
        'return_tensors="pt"\n)'
    )
    return f"""from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({json.dumps(name)})
tokenizer = AutoTokenizer.from_pretrained({json.dumps(name)})
inputs = {read}
output = model.generate(**inputs, tokenizer=tokenizer)  # do_sample=False for its likeliest answer
print(tokenizer.decode(output[0]))"""


def _vllm_code(name: str, dtype: str, prompt: Prompt, params: SamplingParams) -> str:
    call = (
        "llm.generate([prompt], params)"
        if isinstance(prompt, str)
        else "llm.chat(messages, params, add_generation_prompt=False, continue_final_message=True)"
    )
    return f"""from vllm import LLM, SamplingParams

llm = LLM({json.dumps(name)}, dtype="{dtype}")
params = SamplingParams(
    temperature={params.temperature},
    max_tokens={params.max_tokens},
    stop={json.dumps(list(params.stop))},
    include_stop_str_in_output=True,
)
print({call}[0].outputs[0].text)"""


def _limits(config: Config | None, run: History | None) -> str:
    lines = [
        "It has been scored on nothing but what is said above. Nobody checks what it writes while it thinks."
    ]
    scored = (run.scored("test") or run.scored("dev")) if run else []
    if scored:
        cut, malformed = scored[-1]["truncated"], scored[-1].get("malformed", 0.0)
        lines.append(
            f"After {scored[-1]['step']} steps {cut:.1%} of its answers were cut at the limit of tokens, and "
            f"{malformed:.1%} ended without one that can be judged."
        )
    if config and config.model.name in models.BUNDLED:
        lines.append(
            "Its base has read nothing but synthetic text of this one kind of problem: it knows no language."
        )
    return " ".join(lines)


def check_hub(name: str) -> None:
    """Raises UserError where `name` cannot be pushed to: before anything is made that would have to wait for it."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    with _hub(f"{name} was not pushed"):
        validate_repo_id(name)
        user = HfApi().whoami()["name"]
        if HfApi().repo_exists(name if "/" in name else f"{user}/{name}"):
            raise UserError(f"{name} exists on the hub: name another repository")


def push(folder: Path, name: str, private: bool) -> str:
    """Upload an exported folder as the new repository `name`; returns its address."""
    from huggingface_hub import HfApi

    with _hub(f"{folder} is whole, but not pushed (`hf upload {name} {folder}` tries again)"):
        created = HfApi().create_repo(name, private=private or None)  # None: as the account has it
        HfApi().upload_folder(
            repo_id=created.repo_id, folder_path=folder, commit_message="Exported by TinyZero"
        )
        return str(created)


@contextmanager
def _hub(consequence: str) -> Iterator[None]:
    """Whatever the hub, its client or the network raises becomes one line."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    try:
        yield
    except UserError:
        raise
    except LocalTokenNotFoundError:
        raise UserError(
            f"{consequence}: there is no token; log in with `hf auth login`, or set HF_TOKEN"
        ) from None
    except HFValidationError as error:
        raise UserError(f"{consequence}: {models.first_line(error)}") from None
    except HfHubHTTPError as error:
        raise UserError(
            f"{consequence}: the hub answered {error.response.status_code}: {models.first_line(error)}"
        ) from error
    except Exception as error:  # of the client's network library, whichever it is
        raise UserError(
            f"{consequence}: the hub could not be asked: {type(error).__name__}: {models.first_line(error)}"
        ) from error
