"""Models compute what transformers computes; damaged folders and tokenizers are reported."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import folders
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tinyzero import models
from tinyzero.errors import UserError
from tinyzero.models import KeyValueCache, attention, hub

TEXT = (
    "24 from 3 5 12\n<think>\n12-3=9,9*5=45 vs 24 no\n  5-3=2 vs 24 yes\n</think>\n"
    "<answer>12*(5-3)</answer>"
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    models.save_model(tiny.model(layers=1), tiny.tokenizer(), folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def error_of(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_logits_are_those_of_transformers(shape: str, implementation: str) -> None:
    model = tiny.model(shape)
    reference = copy.deepcopy(model.lm)
    reference.set_attn_implementation(implementation)
    # one block of queries, and several
    lengths = [attention.QUERY_BLOCK + 20, 7, attention.QUERY_BLOCK]
    tokens = torch.randint(0, 105, (3, lengths[0]), generator=torch.Generator().manual_seed(0))
    for i, length in enumerate(lengths):
        tokens[i, length:] = 0  # padding, which must not matter
    logits = model.logits(tokens)
    for i, length in enumerate(lengths):
        expected = reference(tokens[i : i + 1, :length]).logits[0]
        torch.testing.assert_close(logits[i, :length], expected, atol=1e-5, rtol=1e-5)
    assert logits.std() > 0.5


@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_gradients_are_those_of_transformers(shape: str) -> None:
    model = tiny.model(shape)
    reference = copy.deepcopy(model.lm)
    reference.set_attn_implementation("eager")
    tokens = torch.arange(attention.QUERY_BLOCK + 3)[None] % 105
    model.logits(tokens).logsumexp(-1).sum().backward()
    reference(tokens).logits.logsumexp(-1).sum().backward()
    for ours, theirs in zip(model.lm.parameters(), reference.parameters(), strict=True):
        assert theirs.grad is not None
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_a_cached_step_equals_reading_everything(shape: str) -> None:
    model = tiny.model(shape)
    tokens = torch.randint(1, 105, (3, 9), generator=torch.Generator().manual_seed(1))
    full = model.hidden(tokens)
    pads = torch.tensor([0, 2, 4])
    rows = torch.stack(
        [
            torch.cat((tokens.new_zeros(int(p)), row[: 9 - p]))
            for p, row in zip(pads, tokens, strict=True)
        ]
    )
    cache = KeyValueCache(model.config, pads, 9, model.dtype, model.device)
    first = model.step(rows[:, :5], cache)
    for row, pad in enumerate(pads):
        torch.testing.assert_close(first[row, pad:], full[row, : 5 - pad], atol=1e-5, rtol=1e-5)
    order = torch.tensor([2, 0, 0])
    cache.select(order)
    for t in range(5, 9):
        step = model.step(rows[order, t : t + 1], cache)
        wanted = torch.stack([full[row, t - pads[row]] for row in order])
        torch.testing.assert_close(step[:, 0], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_what_is_saved_is_loaded_exactly(shape: str, tmp_path: Path) -> None:
    model = tiny.model(shape)
    models.save_model(model, tiny.tokenizer(), tmp_path)
    loaded = models.load_model(str(tmp_path))
    assert loaded.dtype == torch.float32
    for (name, before), (_, after) in zip(
        model.state_dict().items(), loaded.state_dict().items(), strict=True
    ):
        assert torch.equal(before, after), name
    alone = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokens = torch.arange(8)[None]
    torch.testing.assert_close(alone(tokens).logits, model.logits(tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_stored_in_bf16_and_loaded_in_fp32(shape: str, tmp_path: Path) -> None:
    model = tiny.model(shape)
    models.save_model(model, tiny.tokenizer(), tmp_path, torch.bfloat16)
    stored = load_file(tmp_path / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.bfloat16}
    # tied weights are stored once
    assert sum(t.numel() for t in stored.values()) == sum(p.numel() for p in model.parameters())
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    loaded = models.load_model(str(tmp_path))
    assert loaded.dtype == torch.float32
    for before, after in zip(model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(before.to(torch.bfloat16).float(), after)


def test_the_tokenizer_keeps_every_character_through_autotokenizer(saved: Path) -> None:
    every = "".join(map(chr, range(32, 127))) + "\n  \n x  y \n"
    built, auto = tiny.tokenizer(), AutoTokenizer.from_pretrained(saved)
    for text in (TEXT, every):
        ids = auto(text)["input_ids"]
        assert ids == built(text)["input_ids"]
        assert auto.decode(ids) == text
    assert auto.tokenize("4 vs 4 yes\n") == ["4", " vs ", "4", " yes\n"]
    assert auto.eos_token_id == 0
    assert auto.decode([5, 0], skip_special_tokens=False).endswith("<|endoftext|>")
    assert len(auto) == 105


def test_a_prompt_the_tokenizer_cannot_write_is_refused() -> None:
    tokenizer = tiny.tokenizer()
    assert tokenizer.decode(models.encode_prompt(tokenizer, TEXT)) == TEXT
    assert "é" in error_of(lambda: models.encode_prompt(tokenizer, "caf\u00e9"))
    assert "chat template" in error_of(
        lambda: models.encode_prompt(tokenizer, [{"role": "user", "content": "hi"}])
    )


@pytest.mark.parametrize("opening", [None, "", "<think>"])
def test_a_model_answers_the_user_and_continues_the_assistant(opening: str | None) -> None:
    tokenizer = folders.bpe()
    messages = [{"role": "user", "content": "What is 7 * 8?"}]
    if opening is not None:
        messages.append({"role": "assistant", "content": opening})

    ids = models.encode_prompt(tokenizer, messages)

    assert tokenizer.decode(ids) == (
        f"<|im_start|>user\nWhat is 7 * 8?<|im_end|>\n<|im_start|>assistant\n{opening or ''}"
    )


def test_end_ids_are_the_tokenizers_and_the_generation_configs() -> None:
    model = tiny.model(layers=1)
    assert models.end_ids(tiny.tokenizer(), model) == {0}
    model.lm.generation_config.eos_token_id = [0, 7]
    assert models.end_ids(tiny.tokenizer(), model) == {0, 7}
    stop = tiny.tokenizer().decode([7])
    assert models.end_ids(tiny.tokenizer(), model, (stop,)) == {0}, (
        "a stop token belongs to the text and is no end token"
    )
    assert models.end_ids(tiny.tokenizer(), model, (stop * 2,)) == {0, 7}, (
        "a stop string of two tokens is no end token"
    )


@pytest.mark.parametrize("name", ["nothing", "/no/such/folder", "./nothing", "", "a/b/c"])
def test_a_missing_folder(name: str) -> None:
    for load in (models.load_model, models.load_tokenizer):
        error_of(lambda load=load: load(name))


def test_an_empty_folder(tmp_path: Path) -> None:
    for load in (models.load_model, models.load_tokenizer):
        assert "config.json" in error_of(lambda load=load: load(str(tmp_path)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "null",
        '{"model_type": "nonsense"}',
        '{"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2}',
    ],
)
def test_a_garbled_config(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    assert str(folder) in error_of(lambda: models.load_model(str(folder)))


@pytest.mark.parametrize("keep", [0, 4, 1000, -1])
def test_truncated_weights(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert str(folder) in error_of(lambda: models.load_model(str(folder)))


def test_weights_that_are_missing_or_misshapen_are_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole, name = load_file(path), "model.layers.0.mlp.up_proj.weight"
    save_file({k: v for k, v in whole.items() if k != name}, path, metadata={"format": "pt"})
    assert name in error_of(lambda: models.load_model(str(folder)))
    save_file(whole | {name: torch.zeros(7)}, path, metadata={"format": "pt"})
    assert name in error_of(lambda: models.load_model(str(folder)))
    path.unlink()
    error_of(lambda: models.load_model(str(folder)))


def test_weights_that_are_not_finite_are_no_other_kind_of_model(tmp_path: Path) -> None:
    model = tiny.model(layers=1)
    with torch.no_grad():
        next(model.parameters())[0, 0] = torch.nan
    models.save_model(model, tiny.tokenizer(), tmp_path)
    with pytest.raises(UserError, match="weights that are not finite"):
        models.load_model(str(tmp_path))


def test_a_damaged_or_missing_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:100])
    error_of(lambda: models.load_tokenizer(str(folder)))
    path.unlink()
    assert "tokenizer" in error_of(lambda: models.load_tokenizer(str(folder)))


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "bloom", "hidden_size": 32, "n_layer": 1, "n_head": 2},
        {
            "model_type": "gemma2",
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "head_dim": 16,
        }
        | {"num_key_value_heads": 1, "intermediate_size": 32},
        {
            "model_type": "cohere",
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        }
        | {"num_key_value_heads": 1, "intermediate_size": 32, "logit_scale": 0.0625},
    ],
    ids=["positions in the attention", "capped", "scaled"],
)
def test_a_model_that_would_be_computed_wrongly_is_refused(
    config: dict[str, object], tmp_path: Path
) -> None:
    ids = {"vocab_size": 105, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    models.save_model(models.build_model(config | ids, 0), tiny.tokenizer(), tmp_path)
    assert "not supported" in error_of(lambda: models.load_model(str(tmp_path)))


def test_a_sliding_window_hides_what_is_further_back(tmp_path: Path) -> None:
    config = {
        "model_type": "mistral",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 32,
        "vocab_size": 105,
        "sliding_window": 16,
    }
    models.save_model(models.build_model(config, 0), tiny.tokenizer(), tmp_path)
    model = models.load_model(str(tmp_path), pack=True)
    tokens = 1 + torch.arange(2 * 300).view(2, 300) % 104

    reference = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    torch.testing.assert_close(model.logits(tokens), reference(tokens).logits, atol=1e-5, rtol=1e-5)
    joined = model.hidden(tokens, torch.tensor([300, 200]))
    torch.testing.assert_close(joined[1, :200], model.hidden(tokens)[1, :200])


@pytest.mark.parametrize("name", models.BUNDLED)
def test_a_bundled_base_is_small_whole_and_bf16(name: str) -> None:
    folder = Path(models.locate(name))
    assert folder.is_dir(), "the bundled model is missing: build it with `tinyzero pretrain`"
    model, tokenizer = models.load_model(name), models.load_tokenizer(name)
    assert sum(p.numel() for p in model.parameters()) <= 4_000_000
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= 10_000_000
    assert {t.dtype for t in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    assert model.dtype == torch.float32
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.decode(tokenizer(TEXT)["input_ids"]) == TEXT


@pytest.mark.parametrize("name", ["runs/mine", "./mine", "../mine", "/nowhere/mine", "a/b/c"])
def test_what_is_plainly_a_path_is_not_looked_up_elsewhere(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        AutoModelForCausalLM, "from_pretrained", lambda *a, **k: pytest.fail("looked up")
    )
    for call in (models.load_model, models.known_context):
        message = error_of(lambda call=call: call(name))  # type: ignore[misc]
        assert f"no model folder at {name!r}" in message


def test_the_context_is_known_without_loading(saved: Path) -> None:
    assert models.known_context(str(saved)) == tiny.model(layers=1).context
    assert models.known_context("Qwen/Qwen2.5-3B") is None


def test_a_mistyped_folder_is_not_looked_up_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "urlopen", lambda *a, **k: pytest.fail("looked up"))
    (tmp_path / "my" / "tinyqwen").mkdir(parents=True)
    for call in (models.load_model, models.load_tokenizer, models.known_context):
        message = error_of(lambda call=call: call("my/tinyqwenn"))  # type: ignore[misc]
        assert message == "no model folder at 'my/tinyqwenn': did you mean my/tinyqwen?"


def test_a_hub_that_cannot_be_reached_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the port that discards everything
    hub._hub_answers.cache_clear()
    monkeypatch.setattr(
        AutoTokenizer, "from_pretrained", lambda *a, **k: pytest.fail("retried for a minute")
    )
    message = error_of(lambda: models.load_tokenizer("nobody/nothing"))
    hub._hub_answers.cache_clear()
    assert message == "no folder 'nobody/nothing' here, and the hub could not be reached"
