"""Recipes and overrides: bundled recipes resolve, files are read back, errors name their key."""

import json
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from helpers import refused
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tinyzero import config
from tinyzero.algorithms import REGISTRY as ALGORITHM_REGISTRY
from tinyzero.algorithms import load_algorithm
from tinyzero.config import (
    RECIPES,
    Config,
    OptimizerOptions,
    adapter_note,
    option_keys,
    parse_overrides,
    profiles,
    read_recipe,
    recipes,
    resolve,
    sizes,
    split_name,
    to_toml,
)
from tinyzero.errors import UserError
from tinyzero.tasks import REGISTRY as TASK_REGISTRY
from tinyzero.tasks import corpora, load_task
from tinyzero.tools.pretrain.base import PretrainOptions


def resolved(*arguments: str, recipe: dict[str, Any] | None = None) -> Config:
    return resolve(recipe or {}, parse_overrides(arguments))


def error_of(*arguments: str, recipe: dict[str, Any] | None = None) -> str:
    with pytest.raises(UserError) as caught:
        resolved(*arguments, recipe=recipe)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_resolves_and_its_task_and_algorithm_take_their_options(name: str) -> None:
    config = resolve(read_recipe(name), {})
    load_task(config.task.name, config.task.options)
    load_algorithm(config.algorithm.name, config.algorithm.options)
    again = resolve(tomllib.loads(to_toml(config)), {})
    assert again == config


def test_there_is_a_recipe_for_each_file() -> None:
    assert "laptop" in recipes()
    assert len(recipes()) == len(list(RECIPES.iterdir()))


def test_a_resolved_config_is_read_again(tmp_path: Path) -> None:
    config = resolved(
        "--seed=4294967295",
        "--optimizer.learning_rate=1e-06",
        '--model.name=C:\\Büro \U0001f600\t"x"',
        "--task.operators=+-",
        "--task.max_number=25",
        "--algorithm=ppo",
        "--algorithm.whiten=false",
        "--eval.greedy=true",
    )
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config), encoding="utf-8")
    assert resolve(read_recipe(str(path)), {}) == config
    assert config.task.options == {"operators": "+-", "max_number": 25}


@given(
    name=st.text(st.characters(exclude_categories=["Cs", "Cc"])),
    rate=st.floats(1e-12, 1e3),
    note=st.text("ab'\"\\\n\t"),
)
def test_any_text_and_number_is_read_again(name: str, rate: float, note: str) -> None:
    config = resolve(
        {
            "model": {"name": name},
            "optimizer": {"learning_rate": rate},
            "task": {"name": "x", "n": note},
        },
        {},
    )
    assert resolve(tomllib.loads(to_toml(config)), {}) == config


def test_a_table_among_the_options_is_read_again() -> None:
    config = resolved("--task.weights", '{a = 1, "b c" = [0.5, "x"]}')
    assert resolve(tomllib.loads(to_toml(config)), {}).task.options == {
        "weights": {"a": 1, "b c": [0.5, "x"]}
    }


def test_the_runs_folder_is_not_part_of_the_saved_config() -> None:
    assert "dir" not in to_toml(resolved("--run.dir", "somewhere"))


def test_overrides_win_over_the_recipe() -> None:
    recipe = {
        "steps": 5,
        "rollout": {"prompts": 3, "samples": 4},
        "task": {"name": "countdown", "max_number": 9},
    }
    config = resolved("--rollout.samples", "8", "--steps=7", "--task.max_count", "3", recipe=recipe)
    assert (config.steps, config.rollout.prompts, config.rollout.samples) == (7, 3, 8)
    assert config.task.options == {"max_number": 9, "max_count": 3}
    assert recipe["rollout"] == {"prompts": 3, "samples": 4}, "the recipe itself is left alone"


def test_values_are_read_as_toml_where_they_are() -> None:
    found = parse_overrides(
        ["--a.b=1", "--c", "-2.5", "--d=true", "--e=hello world", "--f=[1, 2]", "--g=2024-01-01"]
    )
    assert found == {
        "a.b": 1,
        "c": -2.5,
        "d": True,
        "e": "hello world",
        "f": [1, 2],
        "g": "2024-01-01",
    }
    assert parse_overrides(["--a.b=.5", "--c=2.", "--d=-.5e-3"]) == {
        "a.b": 0.5,
        "c": 2.0,
        "d": -0.0005,
    }
    assert parse_overrides(["--seed=1", "--task", "x", "--algorithm=y", "--steps", "2"]) == {
        "seed": 1,
        "task.name": "x",
        "algorithm.name": "y",
        "steps": 2,
    }


@pytest.mark.parametrize("section", ["task", "algorithm"])
def test_another_name_replaces_the_whole_table(section: str) -> None:
    recipe: dict[str, Any] = {section: {"name": "one", "a": 1, "b": 2}}
    kept = resolved(f"--{section}=one", f"--{section}.b=3", recipe=recipe)
    assert getattr(kept, section).options == {"a": 1, "b": 3}
    for arguments in (
        [f"--{section}=two", f"--{section}.c=3"],
        [f"--{section}.c=3", f"--{section}.name=two"],
    ):
        other = resolved(*arguments, recipe=recipe)
        assert (getattr(other, section).name, getattr(other, section).options) == ("two", {"c": 3})


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("--sed=1", "did you mean seed"),
        ("--stesp=1", "did you mean steps"),
        ("--rolout.prompts=1", "did you mean rollout.prompts"),
        ("--rollout.promts=1", "did you mean prompts"),
        ("--promts=1", "did you mean rollout.prompts"),
        (
            "--learning_rate=1",
            "did you mean optimizer.learning_rate or critic.learning_rate or prm.learning_rate",
        ),
        ("--optimizer.lerning_rate=1", "did you mean learning_rate"),
        ("--rollout.prompts.x=1", "rollout.prompts.x: prompts is a value, not a section"),
        ("--zzz=1", "use one of"),
        ("--=1", "unknown key"),
        ("--task.name.x=1", "task.name.x: name is a value, not a section"),
    ],
)
def test_an_unknown_key_names_the_nearest(argument: str, says: str) -> None:
    message = error_of(argument, recipe={"rollout": {"prompts": 2}, "task": {"name": "countdown"}})
    assert says in message


@pytest.mark.parametrize(
    "argument",
    [
        "--steps=0",
        "--steps=ten",
        "--steps=1.5",
        "--steps=true",
        "--steps=[1]",
        "--seed=-1",
        "--seed=4294967296",
        "--optimizer.learning_rate=0",
        "--optimizer.learning_rate=inf",
        "--optimizer.learning_rate=nan",
        "--optimizer.learning_rate=fast",
        "--optimizer.schedule=cosine",
        "--rollout.temperature=0",
        "--rollout.temperature=inf",
        "--eval.greedy=maybe",
        "--eval.greedy=1",
        "--model.dtype=3",
        "--checkpoint.keep=0",
    ],
)
def test_a_wrong_value_is_named_with_its_key(argument: str) -> None:
    message = error_of(argument)
    assert argument[2:].partition("=")[0] in message


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ({"rollout": 3}, "it is a section"),
        ({"task": "countdown"}, "it is a section"),
        ({"task": {"max_number": 3, "name": 7}}, "task.name is 7"),
        ({"nothing": {"x": 1}}, "unknown key nothing"),
        (
            {"update": {"minibatches": 100}, "rollout": {"prompts": 4, "samples": 4}},
            "above the 16 completions",
        ),
    ],
)
def test_a_wrong_recipe(recipe: dict[str, Any], says: str) -> None:
    assert says in error_of(recipe=recipe)


def test_options_alone_go_to_the_default() -> None:
    config = resolved("--task.max_number=9", recipe={"algorithm": {"kl": 0.1}})
    assert (config.task.name, config.task.options) == ("countdown", {"max_number": 9})
    assert (config.algorithm.name, config.algorithm.options) == ("grpo", {"kl": 0.1})


def test_a_section_that_is_no_table_and_another_name() -> None:
    assert (
        resolved("--task=multiplication", recipe={"task": "countdown"}).task.name
        == "multiplication"
    )


@pytest.mark.parametrize("arguments", [["steps", "3"], ["--steps"], ["--task.x"]])
def test_a_broken_command_line(arguments: list[str]) -> None:
    with pytest.raises(UserError):
        parse_overrides(arguments)


def test_recipes_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean laptop"):
        read_recipe("laptob")
    with pytest.raises(UserError, match="no recipe file"):
        read_recipe(str(tmp_path / "none.toml"))
    broken = tmp_path / "broken.toml"
    for content in (b"steps = \n", b"\xff\xfe", b"steps = 1\nsteps = 2\n"):
        broken.write_bytes(content)
        with pytest.raises(UserError, match="not valid TOML") as caught:
            read_recipe(str(broken))
        assert "\n" not in str(caught.value)


def files(folder: Path, **texts: str) -> Path:
    """Write recipes into a folder and return the path of the last one."""
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text)
    return folder / f"{name}.toml"


def test_a_recipe_inherits_what_it_does_not_say(tmp_path: Path) -> None:
    child = files(
        tmp_path,
        top='inherit = "laptop"\nsteps = 7\n[rollout]\nprompts = 3\n',
        child='inherit = "top.toml"\n[rollout]\nsamples = 4\n',
    )
    config, laptop = resolve(read_recipe(str(child)), {}), resolve(read_recipe("laptop"), {})
    assert (config.steps, config.rollout.prompts, config.rollout.samples) == (7, 3, 4)
    assert config.rollout.max_tokens == laptop.rollout.max_tokens
    assert config.task == laptop.task
    assert "inherit" not in to_toml(config)


@pytest.mark.parametrize("section", ["task", "algorithm"])
def test_another_name_replaces_an_inherited_table(section: str, tmp_path: Path) -> None:
    top = f'[{section}]\nname = "one"\na = 1\nb = 2\n'
    path = files(tmp_path, top=top, same=f'inherit = "top.toml"\n[{section}]\nb = 3\n')
    assert getattr(resolve(read_recipe(str(path)), {}), section).options == {"a": 1, "b": 3}
    path = files(
        tmp_path, top=top, other=f'inherit = "top.toml"\n[{section}]\nname = "two"\nc = 3\n'
    )
    found = getattr(resolve(read_recipe(str(path)), {}), section)
    assert (found.name, found.options) == ("two", {"c": 3})


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ({"a": 'inherit = "labtop"'}, "unknown recipe 'labtop': did you mean laptop"),
        ({"a": 'inherit = "none.toml"'}, "no recipe file"),
        ({"a": "inherit = 3"}, "inherits 3: give the name"),
        ({"a": 'inherit = "a.toml"'}, "inherits 'a.toml', which inherits it"),
        ({"b": 'inherit = "a.toml"', "a": 'inherit = "b.toml"'}, "which inherits it"),
        ({"b": "steps = ", "a": 'inherit = "b.toml"'}, "b.toml is not valid TOML"),
    ],
)
def test_an_inheritance_that_cannot_be(texts: dict[str, str], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_recipe(str(files(tmp_path, **texts)))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


LAYERED: dict[str, Any] = {
    "rollout": {"prompts": 1, "samples": 2},
    "task": {"name": "countdown", "max_number": 9},
    "algorithm": {"name": "grpo", "kl": 0.1},
    "tasks": {"multiplication": {"rollout": {"max_tokens": 3}, "task": {"max_digits": 2}}},
    "algorithms": {
        "ppo": {"rollout": {"prompts": 4}, "profiles": {"small": {"rollout": {"rows": 6}}}},
        "grpo": {"rollout": {"prompts": 8}},
    },
    "profiles": {"small": {"rollout": {"samples": 5, "rows": 7}}, "none": {}},
}


def test_tables_for_the_task_and_the_algorithm_apply_where_these_are_chosen() -> None:
    plain = resolved(recipe=LAYERED)
    assert (plain.rollout.prompts, plain.algorithm.options) == (8, {"kl": 0.1})
    other = resolved("--algorithm=ppo", "--task=multiplication", recipe=LAYERED)
    assert (other.rollout.prompts, other.rollout.max_tokens, other.rollout.samples) == (4, 3, 2)
    assert (other.task.options, other.algorithm.options) == ({"max_digits": 2}, {})
    assert resolved("--algorithm=ppo", "--rollout.prompts=9", recipe=LAYERED).rollout.prompts == 9


def test_a_profile_applies_over_the_recipe_and_under_overrides() -> None:
    assert profiles(LAYERED) == ["small", "none"]
    small = resolve(LAYERED, {}, "small")
    assert (small.rollout.prompts, small.rollout.samples, small.rollout.rows) == (8, 5, 7)
    assert resolve(LAYERED, {"rollout.rows": 3}, "small").rollout.rows == 3
    assert resolve(LAYERED, {"algorithm.name": "ppo"}, "small").rollout.rows == 6, (
        "an algorithm's own profile"
    )
    assert resolve(LAYERED, {}, "none") == resolve(LAYERED, {})
    assert "small" not in to_toml(small)
    assert LAYERED["rollout"] == {"prompts": 1, "samples": 2}


@pytest.mark.parametrize(
    ("recipe", "profile", "says"),
    [
        (LAYERED, "smal", "unknown profile 'smal': did you mean small"),
        (LAYERED, "big", "use one of none, small"),
        ({}, "small", "unknown profile 'small': this recipe has none"),
        ({"profiles": 3}, "small", "profiles is 3"),
        ({"profiles": {"small": 3}}, None, "small is 3: write [profiles.NAME.section]"),
        ({"algorithms": {"grpo": 1}}, None, "grpo is 1"),
        ({"profiles": {"small": {"rolout": {}}}}, "small", "unknown key rolout"),
    ],
)
def test_a_wrong_profile(recipe: dict[str, Any], profile: str | None, says: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(recipe, {}, profile)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_profiles_are_no_keys_of_a_configuration() -> None:
    assert "unknown key profiles.small.steps" in error_of(
        "--profiles.small.steps=3", recipe=LAYERED
    )


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("laptop", ("laptop", None, None)),
        ("laptop-countdown-ppo", ("laptop", "countdown", "ppo")),
        (
            "laptop-multiplication-reinforce++-baseline",
            ("laptop", "multiplication", "reinforce++-baseline"),
        ),
        ("qwen2.5-3b-countdown-grpo", ("qwen2.5-3b", "countdown", "grpo")),
        (
            "qwen2.5-0.5b-instruct-multiplication-prime",
            ("qwen2.5-0.5b-instruct", "multiplication", "prime"),
        ),
        ("some/laptop-countdown-ppo.toml", ("some/laptop-countdown-ppo.toml", None, None)),
    ],
)
def test_a_name_names_a_task_and_an_algorithm(
    name: str, parts: tuple[str, str | None, str | None]
) -> None:
    assert split_name(name) == parts


def test_a_name_is_its_options() -> None:
    named = resolve(read_recipe("laptop-multiplication-ppo"), {})
    assert named == resolved(
        "--task=multiplication", "--algorithm=ppo", recipe=read_recipe("laptop")
    )
    same = resolve(read_recipe("laptop-countdown-grpo"), {})
    assert same == resolve(read_recipe("laptop"), {}), "the recipe's own names keep its options"
    assert (
        resolve(read_recipe("laptop-countdown-grpo"), {"algorithm.name": "ppo"}).algorithm.name
        == "ppo"
    )


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("laptop-countdown-gpro", "or laptop-countdown-grpo?"),
        ("laptop-contdown-ppo", "did you mean laptop-countdown-ppo"),
        ("qwen2.5-4b-countdown-grpo", "did you mean qwen2.5-"),
        ("nothing-like-it", "use one of "),
    ],
)
def test_a_name_of_nothing(name: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        read_recipe(name)
    assert says in str(caught.value)
    assert name in str(caught.value)
    assert len(str(caught.value)) < 400


def test_every_key_has_a_line_of_help() -> None:
    for key in option_keys():
        model: Any = Config
        for part in key.split("."):
            field = model.model_fields[part]
            model = field.annotation
        assert field.description, key


def test_a_config_does_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        OptimizerOptions().learning_rate = 1.0  # type: ignore[misc]


# ---- upper bounds


def models_within(model: type[BaseModel], path: str) -> Iterator[tuple[str, FieldInfo]]:
    """Every field of a model and of the models in it, by dotted path."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from models_within(inner, f"{path}.{name}")
        else:
            yield f"{path}.{name}", field


def option_models() -> list[type[BaseModel]]:
    """Everything that takes numbers from outside: recipes, and the bundled ones' own options."""
    kinds = [ALGORITHM_REGISTRY.find(name) for name in ALGORITHM_REGISTRY.names()]
    kinds += [TASK_REGISTRY.find(name) for name in TASK_REGISTRY.names()]
    read = [corpora.find(name).options for name in corpora.names()]
    return [config.Config, PretrainOptions, *read, *(kind.Options for kind in kinds)]


@pytest.mark.parametrize("model", option_models(), ids=lambda model: model.__name__)
def test_every_number_from_outside_has_an_upper_bound(model: type[BaseModel]) -> None:
    unbounded = [
        path
        for path, field in models_within(model, model.__name__)
        if {int, float} & {field.annotation, *get_args(field.annotation)}
        and not any(hasattr(bound, "le") or hasattr(bound, "lt") for bound in field.metadata)
    ]
    assert unbounded == []


@pytest.mark.parametrize("value", [10**9, 10**400, 1e308])
@pytest.mark.parametrize("key", ["model.threads", "rollout.samples", "eval.problems", "steps"])
def test_a_number_beyond_its_bound_is_refused_in_a_short_line(key: str, value: float) -> None:
    with pytest.raises(UserError, match=key) as refusal:
        config.resolve({}, {key: value})
    assert len(str(refusal.value)) < 300


def test_a_step_has_so_many_completions_at_most() -> None:
    with pytest.raises(UserError, match=r"16384 times rollout\.samples 16384 is above 1,048,576"):
        config.resolve({}, {"rollout.prompts": 16_384, "rollout.samples": 16_384})


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xef\xbb\xbfsteps = 7\n")
    assert config.resolve(config.read_recipe(str(path)), {}).steps == 7


def test_a_run_s_folder_may_begin_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/nowhere")
    assert config.resolve({}, {"run.dir": "~/x"}).run.dir == "/nowhere/x"
    for wrong in ("~nobody-of-this-name/x", "a\0b"):
        with pytest.raises(UserError, match=r"run\.dir"):
            config.resolve({}, {"run.dir": wrong})


RATES = {"optimizer": 1e-6, "critic": 1e-5, "prm": 2e-6}
FULL: dict[str, Any] = {name: {"learning_rate": rate} for name, rate in RATES.items()}


def rates(config: Config) -> list[float]:
    return [getattr(config, name).learning_rate for name in RATES]


class TestAdaptersWithoutALearningRate:
    def test_get_ten_times_that_of_the_recipe_for_every_trained_model(self) -> None:
        assert rates(resolved("--lora.rank=64", recipe=FULL)) == [1e-5, 1e-4, 2e-5]
        assert rates(resolved("--lora.rank=0", recipe=FULL)) == [1e-6, 1e-5, 2e-6]
        assert rates(resolved("--lora.rank=64")) == [1e-5, 1e-5, 1e-5]
        assert rates(resolved(recipe={"lora": {"rank": 8}})) == [1e-5, 1e-5, 1e-5]

    def test_also_where_the_algorithm_chooses_the_rate(self) -> None:
        ppo = {"algorithms": {"ppo": {"critic": {"learning_rate": 3e-5}}}}
        config = resolved("--lora.rank=64", "--algorithm=ppo", recipe=FULL | ppo)
        assert rates(config) == [1e-5, 3e-4, 2e-5]

    def test_keep_a_rate_that_somebody_gave(self) -> None:
        given = "--optimizer.learning_rate=3e-5"
        assert rates(resolved("--lora.rank=64", given, recipe=FULL)) == [3e-5, 1e-4, 2e-5]

    def test_keep_those_of_a_recipe_or_profile_for_adapters(self, tmp_path: Path) -> None:
        own = FULL | {"lora": {"rank": 16}}
        assert rates(resolved("--lora.rank=64", recipe=own)) == list(RATES.values())
        small = {"lora": {"rank": 8}, "optimizer": {"learning_rate": 4e-5}}
        config = resolve(FULL | {"profiles": {"24gb": small}}, {}, "24gb")
        assert rates(config) == [4e-5, 1e-4, 2e-5]

    def test_are_raised_once_in_a_recipe_that_inherits(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.toml"
        path.write_text('inherit = "qwen2.5-3b"\n[lora]\nrank = 16\n')
        config = resolve(read_recipe(str(path)), {"algorithm.name": "ppo"})
        assert rates(config) == [1e-5, 1e-4, 1e-5]
        written = tmp_path / "config.toml"
        written.write_text(to_toml(config))
        assert resolve(read_recipe(str(written)), {}) == config

    def test_are_mentioned_only_if_they_were_raised(self) -> None:
        note = adapter_note(FULL, {"lora.rank": 64})
        assert note is not None
        assert "1e-05" in note
        for recipe, overrides in (
            (FULL, {}),
            (FULL, {"lora.rank": 64, "optimizer.learning_rate": 1e-5}),
            (FULL | {"lora": {"rank": 16}}, {"lora.rank": 64}),
        ):
            assert adapter_note(recipe, overrides) is None


def test_a_task_in_a_file_is_remembered_by_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = resolved("--task=tasks/mine.py:Mine", "--sampler=../own.py:Own")
    assert config.task.name == f"{tmp_path}/tasks/mine.py:Mine"
    assert config.sampler.name == f"{tmp_path.parent}/own.py:Own"
    assert resolved("--task=a.module:Mine").task.name == "a.module:Mine"


@pytest.mark.parametrize("gpu", [False, True])
def test_a_small_real_model_without_a_gpu_gets_the_recipe_for_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: bool
) -> None:
    monkeypatch.setattr(sizes, "has_gpu", lambda: gpu)
    (tmp_path / "tiny.toml").write_text('[model]\nname = "tiny"\ndevice = "cpu"\n')
    assert sizes.recipe_for("x/smol", 135e6, tmp_path) == "qwen2.5-0.5b"
    (tmp_path / "real.toml").write_text('[model]\nname = "models/smol"\ndevice = "cpu"\n')
    assert sizes.recipe_for("x/smol", 135e6, tmp_path) == ("qwen2.5-0.5b" if gpu else "real")
    assert sizes.recipe_for("x/large", 3e9, tmp_path) == "qwen2.5-3b"


def test_a_real_model_in_the_recipe_of_a_tiny_one_gets_a_line_to_paste(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sizes, "has_gpu", lambda: False)
    model = tmp_path / "my model"
    model.mkdir()
    shape = {"hidden_size": 576, "num_hidden_layers": 30, "vocab_size": 49_152}
    (model / "config.json").write_text(json.dumps(shape | {"intermediate_size": 1536}))
    said = refused(capsys, "train", "laptop", "--model.name", model)
    assert said.endswith(f"tinyzero train real-laptop --model.name '{model}'\n")

    words = shlex.split(said.rpartition(": ")[2])[1:]
    recipe, overrides = words[1], {"model.name": words[3]}
    assert resolve(read_recipe(recipe), overrides).model.name == str(model)
    sizes.require_recipe_for_model(read_recipe(recipe), overrides, sizes.BUNDLED)


def test_a_run_without_a_temperature_for_its_evaluations_is_not_resumed(tmp_path: Path) -> None:
    """Older versions evaluated at 1. Half of its curve would be at another temperature."""
    text = config.to_toml(resolve({"rollout": {"temperature": 0.6}}, {}))
    before, evaluation = text.split("[eval]")
    assert "\ntemperature = 0.0\n" in evaluation
    old = before + "[eval]" + evaluation.replace("\ntemperature = 0.0\n", "\n", 1)
    (tmp_path / "config.toml").write_text(old)
    with pytest.raises(UserError, match=r"lacks eval\.temperature: .*another version wrote it"):
        config.resumed(tmp_path, {}, None, True, "--trust")
