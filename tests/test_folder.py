"""Any model folder is loaded as it is meant, or rejected in one line before anything is spent."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import folders
import pytest
import torch
from folders import Change
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
)

from tinyzero import cli, models
from tinyzero.errors import UserError
from tinyzero.models import hub

LAYER = "model.layers.0.self_attn.q_proj"
TOKENS = torch.arange(1, 9)[None]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.write(tmp_path_factory.mktemp("healthy") / "model", "llama")


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.write(tmp_path_factory.mktemp("tied") / "model", "qwen2")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.write(tmp_path_factory.mktemp("sharded") / "model", "llama", shards=True)


def changed(source: Path, out: Path, *changes: Change) -> Path:
    folder = Path(shutil.copytree(source, out / "changed"))
    for change in changes:
        change(folder)
    return folder


def loaded(folder: Path) -> tuple[models.Backbone, list[str]]:
    """The model in a folder, and the lines about what is not used of it."""
    lines: list[str] = []
    model = models.load_model(str(folder), note=lines.append)
    assert all(line.startswith(f"{folder}: ") and "\n" not in line for line in lines)
    return model, [line.removeprefix(f"{folder}: ") for line in lines]


def rejected(folder: Path) -> str:
    """The one line that loading a folder gives, whatever asks for the model."""
    with pytest.raises(UserError) as caught:
        models.load_model(str(folder))
    message = str(caught.value)
    assert "\n" not in message
    assert repr(str(folder)) in message
    return message


def same_weights(one: models.Backbone, other: models.Backbone) -> bool:
    theirs = dict(models.named_weights(other))
    return all(torch.equal(weight, theirs[name]) for name, weight in models.named_weights(one))


# ---- rejected

LISTED = folders.text("config.json", "[1]")
REJECTED: dict[str, tuple[Change, str]] = {
    "config is a list": (LISTED, "config.json holds a list, not an object"),
    "config is empty": (folders.text("config.json", ""), "config.json is not JSON"),
    "config is deep": (folders.text("config.json", "[" * 100_000), "config.json is not JSON"),
    "no model type": (folders.settings(model_type=None), "model_type in config.json is None"),
    "unknown type": (folders.settings(model_type="xyz"), "does not know models of type 'xyz'"),
    "own code": (
        folders.settings(model_type="xyz", auto_map={"AutoConfig": "own.X"}),
        "it needs its own code, which is never run here",
    ),
    "a text as a size": (folders.settings(hidden_size="thirty"), "expected int, got str"),
    "a classifier": (
        folders.settings(architectures=["LlamaForSequenceClassification"]),
        "it is a LlamaForSequenceClassification, not a language model",
    ),
    "too few layers": (
        folders.settings(num_hidden_layers=1),
        "weights that its config.json does not use, such as model.layers.1.",
    ),
    "too many layers": (folders.settings(num_hidden_layers=3), "9 weights are missing"),
    "a bias that is not used": (
        folders.more(**{f"{LAYER}.bias".replace(".", "__"): torch.ones(32)}),
        f"weights that its config.json does not use, such as {LAYER}.bias",
    ),
    "vocabulary too small": (
        lambda folder: folders.edit(folder / "config.json", vocab_size=400),
        "weights are missing or have the wrong shape",
    ),
    "end token is a text": (folders.generation(eos_token_id="</s>"), "'</s>' is not a token id"),
    "end token too large": (
        folders.generation(eos_token_id=[0, 416]),
        "eos_token_id in generation_config.json is [0, 416], but 416 is not a token id of a model "
        "with 416 tokens: correct it",
    ),
    "end token is null in a list": (
        folders.generation(eos_token_id=[0, None]),
        "None is not a token id",
    ),
    "end token is true": (folders.generation(eos_token_id=True), "True is not a token id"),
    "generation config is a list": (
        folders.text("generation_config.json", "[]"),
        "generation_config.json holds a list",
    ),
    "generation config is cut": (
        folders.text("generation_config.json", "{"),
        "generation_config.json is not JSON",
    ),
    "end token of config too large": (
        lambda folder: [
            folders.settings(eos_token_id=999)(folder),
            folders.without("generation_config.json")(folder),
        ],
        "eos_token_id in config.json is 999",
    ),
    "float8 without a flag": (
        folders.projections(torch.float8_e4m3fn),
        f"its weights are quantised ({LAYER}.weight is F8_E4M3), and cannot be trained",
    ),
    "int8 without a flag": (folders.projections(torch.int8), f"{LAYER}.weight is I8"),
    "gptq without a flag": (
        folders.weights(
            lambda all_weights: {
                name.replace("q_proj.weight", "q_proj.qweight"): weight
                for name, weight in all_weights.items()
            }
        ),
        f"its weights are quantised ({LAYER}.qweight is F32)",
    ),
    "int32 without a flag": (folders.projections(torch.int32), f"{LAYER}.weight is I32"),
    "int8 in a pickle": (
        folders.pickled_as(lambda name, weight: folders.cast(name, weight, torch.int8)),
        f"{LAYER}.weight is I8",
    ),
    "scales in a pickle": (
        folders.pickled({f"{LAYER}.weight.absmax": torch.ones(4)}),
        f"{LAYER}.weight.absmax is F32",
    ),
    "a flag of MLX": (
        folders.settings(quantization={"bits": 4}),
        "quantised (by quantization, which names no method), but they are not: remove quantization",
    ),
    "an old flag": (
        folders.settings(compression_config={"quant_method": "compressed-tensors"}),
        "quantised (compressed-tensors), but they are not: remove compression_config",
    ),
    "a pickle of a list": (
        lambda folder: [
            folders.without("model.safetensors")(folder),
            torch.save([1], folder / "pytorch_model.bin"),
        ],
        "pytorch_model.bin holds no weights by their names",
    ),
    "no weights": (folders.without("model.safetensors"), "it has no weights"),
    "weights cut short": (folders.shortened("model.safetensors"), "damaged or was cut short"),
    "weights are empty": (folders.text("model.safetensors", ""), "damaged or was cut short"),
    "weights are a text": (folders.text("model.safetensors", "x" * 99), "damaged or was cut"),
    "weights not finite": (
        folders.more(model__norm__weight=torch.full((32,), torch.nan)),
        "has weights that are not finite",
    ),
    "adapter of another kind": (
        folders.text("adapter_config.json", '{"peft_type": "PROMPT_TUNING"}'),
        "holds an adapter of type 'PROMPT_TUNING', not LORA",
    ),
    "adapter without weights": (
        folders.text("adapter_config.json", '{"peft_type": "LORA"}'),
        "holds adapter_config.json, but no adapter_model.safetensors",
    ),
    "adapter that repeats layers": (
        folders.text(
            "adapter_config.json", '{"peft_type": "LORA", "layer_replication": [[0, 2], [1, 2]]}'
        ),
        "holds an adapter that repeats layers (layer_replication)",
    ),
    "adapter of another width": (folders.adapter(width=16), "cannot merge the adapter"),
    "adapter of one layer more": (
        folders.adapter(kept=lambda name: "layers.0" in name),
        "does not belong to its weights, the first difference is base_model.model.model.layers.1",
    ),
}


@pytest.mark.parametrize("case", REJECTED)
def test_what_cannot_be_trained_correctly_is_one_line(
    case: str, healthy: Path, tmp_path: Path
) -> None:
    change, message = REJECTED[case]
    assert message in rejected(changed(healthy, tmp_path, change))


METHODS = (
    "fp8",
    "gptq",
    "awq",
    "bitsandbytes",
    "compressed-tensors",
    "gguf",
    "mxfp4",
    "one of tomorrow",
)


@pytest.mark.parametrize("method", METHODS)
def test_a_flag_of_quantisation_is_named(method: str, healthy: Path, tmp_path: Path) -> None:
    how = {"quant_method": method, "bits": 4}
    flagged = changed(healthy, tmp_path, folders.settings(quantization_config=how))
    message = rejected(flagged)
    assert f"quantised ({method}), but they are not: remove quantization_config" in message
    folders.projections(torch.float8_e4m3fn)(flagged)
    message = rejected(flagged)
    assert f"its weights are quantised ({method}), and cannot be trained: use the model" in message


def test_a_missing_shard_is_named(sharded: Path, tmp_path: Path) -> None:
    missing = sorted(sharded.glob("model-*"))[1].name
    folder = changed(sharded, tmp_path, folders.without(missing))
    assert f"names {missing}, which is missing: download it again" in rejected(folder)
    folders.text("model.safetensors.index.json", "{}")(folder)
    assert "model.safetensors.index.json has no weight_map" in rejected(folder)


def test_pickled_weights_are_loaded_but_their_code_is_not_run(
    healthy: Path, tmp_path: Path
) -> None:
    plain = changed(healthy, tmp_path / "plain", folders.pickled())
    assert same_weights(loaded(plain)[0], models.load_model(str(healthy)))

    proof = tmp_path / "proof"
    armed = changed(healthy, tmp_path / "armed", folders.pickled(folders.RunsCode(proof)))
    assert "holds code, which is never run here: use a model.safetensors" in rejected(armed)
    assert not proof.exists()

    folders.text("pytorch_model.bin", "hello")(plain)
    assert "pytorch_model.bin is damaged or was cut short" in rejected(plain)


def test_other_kinds_of_folders(healthy: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in rejected(tmp_path / "empty")
    assert "is a file, not a model folder" in rejected(healthy / "model.safetensors")

    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "x.gguf").write_bytes(b"GGUF")
    assert "holds a GGUF model: name the file itself" in rejected(tmp_path / "gguf")

    for step in ("step_000002", "step_000010"):
        (tmp_path / "run" / "checkpoints" / step / "model").mkdir(parents=True)
    assert "step_000010/model'" in rejected(tmp_path / "run")

    alone = tmp_path / "adapter"
    alone.mkdir()
    folders.text("adapter_config.json", '{"base_model_name_or_path": "me/base"}')(alone)
    assert "an adapter without its model: copy the adapter's files into a folder with" in rejected(
        alone
    )

    sizes = {"d_model": 8, "d_ff": 8, "d_kv": 4, "num_heads": 2, "num_layers": 1}
    t5 = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model("t5", vocab_size=16, **sizes))
    t5.save_pretrained(tmp_path / "t5")
    assert "it is an encoder-decoder" in rejected(tmp_path / "t5")


def test_a_folder_that_cannot_be_read(
    healthy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "File name too long" in rejected(tmp_path / ("x" * 300))

    def denied(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", denied)
    assert "config.json: Permission denied" in rejected(healthy)


def test_everything_that_opens_a_model_rejects_it(
    healthy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = changed(healthy, tmp_path, folders.projections(torch.float8_e4m3fn))
    calls: list[Callable[[str], object]] = [
        models.load_tokenizer,
        models.known_context,
        models.stored_dtype,
    ]
    for call in calls:
        with pytest.raises(UserError, match="its weights are quantised"):
            call(str(folder))

    out = tmp_path / "out"
    run = ["--run.dir", str(out), "--model.prompt", "base"]
    for command in (
        ["train", "--dry-run", "--model.name", str(folder), *run],
        ["train", "--model.name", str(folder), *run],
        ["export", str(folder), str(out)],
        ["eval", str(folder), "--n", "1"],
    ):
        assert cli.main(command) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert not out.exists()


# ---- used, with a line about what is not


@pytest.mark.parametrize(
    ("given", "unused"),
    [
        ({"do_sample": False, "temperature": 0.9, "top_p": 0.6}, "temperature, top_p"),
        (
            {"num_beams": 1, "length_penalty": 0.6, "early_stopping": True},
            "early_stopping, length_penalty",
        ),
        ({"num_return_sequences": 3, "unheard_of": {"a": 1}}, "num_return_sequences, unheard_of"),
        ({"pad_token_id": -1, "bos_token_id": 10**9}, "bos_token_id, pad_token_id"),
        ({"cache_implementation": "hybrid", "watermarking_config": {}, "max_length": 20}, ""),
        ({"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}, ""),
    ],
)
def test_a_generation_config_gives_its_end_tokens_alone(
    given: dict[str, object], unused: str, healthy: Path, tmp_path: Path
) -> None:
    folder = changed(healthy, tmp_path, folders.generation(eos_token_id=[3, 7], **given))
    model, lines = loaded(folder)
    assert lines == ([f"not used from generation_config.json: {unused}"] if unused else [])
    assert models.end_ids(folders.bpe(), model) == {3, 7, folders.bpe().eos_token_id}

    models.save_model(model, folders.bpe(), tmp_path / "saved")
    kept = GenerationConfig.from_pretrained(tmp_path / "saved").to_diff_dict()
    kept.pop("transformers_version")
    assert kept == {"eos_token_id": [3, 7]}


def test_code_of_a_known_model_is_not_run(healthy: Path, tmp_path: Path) -> None:
    own = {"AutoModelForCausalLM": "own.X", "AutoConfig": "own.X"}
    folder = changed(
        healthy,
        tmp_path,
        folders.settings(auto_map=own),
        folders.text("own.py", "raise SystemExit('it ran')"),
    )
    model, lines = loaded(folder)
    assert lines == ["its own code is not run: the llama of transformers is used instead"]
    assert same_weights(model, models.load_model(str(healthy)))


def test_weights_of_other_parts_are_named(healthy: Path, tmp_path: Path) -> None:
    folder = changed(healthy, tmp_path, folders.more(visual__block__weight=torch.ones(2)))
    assert loaded(folder)[1] == [
        "1 weights are not part of the language model and are left out, the first is "
        "visual.block.weight"
    ]
    old = changed(
        healthy,
        tmp_path / "old",
        folders.more(model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(4)),
    )
    assert loaded(old)[1] == [], "frequencies are computed, not learned"


@pytest.mark.parametrize("own", [True, False])
def test_a_head_that_is_said_to_be_the_embedding(own: bool, tied: Path, tmp_path: Path) -> None:
    def change(all_weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        embedding = all_weights["model.embed_tokens.weight"]
        head = torch.randn_like(embedding) if own else embedding.clone()
        return all_weights | {"lm_head.weight": head}

    folder = changed(tied, tmp_path, folders.weights(change))
    model, lines = loaded(folder)
    assert [line.startswith("its output layer has weights of its own") for line in lines] == (
        [True] if own else []
    )

    saved = tmp_path / "saved"
    models.save_model(model, folders.bpe(), saved)
    assert json.loads((saved / "config.json").read_text())["tie_word_embeddings"] is not own
    assert ("lm_head.weight" in load_file(saved / "model.safetensors")) is own
    models.compare_loaded(model, folders.bpe(), saved)


def test_the_language_model_of_one_that_also_reads_images(tmp_path: Path) -> None:
    text = folders.SIZE | {"model_type": "llama", "vocab_size": 416, "num_key_value_heads": 4}
    vision = {"model_type": "clip_vision_model", "hidden_size": 8, "intermediate_size": 8}
    vision |= {"num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 4, "patch_size": 2}
    config = AutoConfig.for_model("llava", text_config=text, vision_config=vision, eos_token_id=9)
    torch.manual_seed(0)
    whole = AutoModelForImageTextToText.from_config(config).eval()
    whole.save_pretrained(tmp_path / "whole")

    model, lines = loaded(tmp_path / "whole")
    assert len(lines) == 1
    assert "weights are not part of the language model and are left out" in lines[0]
    expected = whole(input_ids=TOKENS).logits
    torch.testing.assert_close(model.logits(TOKENS), expected, atol=1e-5, rtol=1e-5)

    models.save_model(model, folders.bpe(), tmp_path / "saved")
    models.compare_loaded(model, folders.bpe(), tmp_path / "saved")


def test_an_adapter_next_to_its_weights_is_merged(healthy: Path, tmp_path: Path) -> None:
    folder = changed(healthy, tmp_path, folders.adapter())
    model, lines = loaded(folder)
    assert lines == [
        "merged the adapter in this folder into its weights; if they contain it already, remove "
        "adapter_config.json"
    ]
    assert all(weight.requires_grad for weight in model.parameters())

    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(healthy), folder)
    torch.testing.assert_close(model.logits(TOKENS), theirs(TOKENS).logits, atol=1e-5, rtol=1e-5)
    assert not same_weights(model, models.load_model(str(healthy)))


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_an_adapter_of_a_tied_embedding_is_not_merged_into_both(
    target: str, tied: Path, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's advice about tied weights
        folder = changed(tied, tmp_path, folders.adapter(targets=["q_proj", target]))
    assert "the merged weights are another model" in rejected(folder)


def test_an_export_of_an_adapter_has_weights(healthy: Path, tmp_path: Path) -> None:
    folder, out = changed(healthy, tmp_path, folders.adapter()), tmp_path / "out"
    assert cli.main(["export", str(folder), str(out)]) == 0
    assert not list(out.glob("adapter*"))
    assert same_weights(models.load_model(str(out)), models.load_model(str(folder)))


def test_a_model_of_the_hub_is_taken_apart_too(
    healthy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of the hub are fetched one by one into a folder, like that of any model."""
    snapshot, asked = tmp_path / "snapshot", list[str]()
    snapshot.mkdir()

    def cached_file(name: str, file: str, **options: object) -> str | None:
        assert name == "me/model"
        asked.append(file)
        if not (healthy / file).exists():
            return None
        return str(shutil.copy(healthy / file, snapshot / file))

    monkeypatch.setattr(hub, "cached_file", cached_file)
    monkeypatch.setattr(hub, "_is_cached", lambda name: True)
    assert same_weights(models.load_model("me/model"), models.load_model(str(healthy)))
    assert asked[0] == "config.json"
    assert asked[-1] == "model.safetensors"

    asked.clear()
    shutil.rmtree(snapshot)
    snapshot.mkdir()
    flagged = changed(
        healthy, tmp_path, folders.settings(quantization_config={"quant_method": "awq"})
    )
    healthy = flagged
    with pytest.raises(UserError, match=r"'me/model': config.json says .* \(awq\)"):
        models.load_model("me/model")
    assert "model.safetensors" not in asked, "no weights were fetched"


# ---- written and read back


def test_a_weight_that_is_stored_differently_is_noticed(
    healthy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models.load_model(str(healthy))
    save_pretrained = type(model.lm).save_pretrained

    def broken(lm: object, folder: Path, **options: object) -> None:
        save_pretrained(lm, folder, **options)
        path = folder / "model.safetensors"
        stored = load_file(path)
        stored["model.norm.weight"][3] += 1e-6
        save_file(stored, path, metadata={"format": "pt"})

    monkeypatch.setattr(type(model.lm), "save_pretrained", broken)
    with pytest.raises(UserError, match=r"model.norm.weight was not stored as it is"):
        models.save_model(model, folders.bpe(), tmp_path / "saved")


def test_a_model_that_transformers_cannot_write_is_one_line(healthy: Path, tmp_path: Path) -> None:
    model = models.load_model(str(healthy))
    model.lm.generation_config.update(do_sample=False, temperature=0.5)
    with pytest.raises(UserError, match="transformers cannot write this model: ValueError"):
        models.save_model(model, folders.bpe(), tmp_path / "saved")


def test_the_precision_is_that_of_the_weights(healthy: Path, tmp_path: Path) -> None:
    folder = changed(healthy, tmp_path, folders.settings(dtype="bfloat16"))
    assert models.stored_dtype(str(folder)) == torch.float32
    folders.weights(lambda stored: {name: w.half() for name, w in stored.items()})(folder)
    assert models.stored_dtype(str(folder)) == torch.float16
    folders.pickled()(folder)
    assert models.stored_dtype(str(folder)) == torch.float16
    folders.pickled_as(lambda name, weight: weight.double())(folder)
    assert models.stored_dtype(str(folder)) == torch.bfloat16, "what the configuration says"


SPOILED: dict[str, tuple[Change, str]] = {
    "another angle": (
        folders.settings(rope_parameters={"rope_type": "default", "rope_theta": 5000.0}),
        "its logits differ by",
    ),
    "another norm": (folders.settings(rms_norm_eps=1e-3), "its logits differ by"),
    "another end": (folders.generation(eos_token_id=5), "it ends at tokens [5] instead of"),
    "another template": (folders.text("chat_template.jinja", "{{ messages }}"), "chat template"),
    "no weights": (folders.without("model.safetensors"), "it has no weights"),
    "no tokenizer": (folders.without("tokenizer.json"), "has no tokenizer"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_folder_that_is_another_model_is_noticed(
    case: str, healthy: Path, tmp_path: Path
) -> None:
    model, tokenizer = models.load_model(str(healthy)), models.load_tokenizer(str(healthy))
    models.save_model(model, tokenizer, tmp_path / "saved")
    before = torch.random.get_rng_state()
    models.compare_loaded(model, tokenizer, tmp_path / "saved")
    assert torch.equal(before, torch.random.get_rng_state())

    change, message = SPOILED[case]
    change(tmp_path / "saved")
    with pytest.raises(UserError) as caught:
        models.compare_loaded(model, tokenizer, tmp_path / "saved")
    assert message in str(caught.value)


def test_an_older_file_with_the_chat_template(healthy: Path, tmp_path: Path) -> None:
    folder = changed(healthy, tmp_path, folders.without("chat_template.jinja"))
    assert models.load_tokenizer(str(folder)).chat_template is None
    folders.text("chat_template.json", json.dumps({"chat_template": folders.CHAT}))(folder)
    assert models.load_tokenizer(str(folder)).chat_template == folders.CHAT


def test_a_missing_tokenizer_is_named(healthy: Path, tmp_path: Path) -> None:
    folder = changed(healthy, tmp_path, folders.without("tokenizer.json"))
    with pytest.raises(UserError, match=r"add its tokenizer.json to the folder"):
        models.load_tokenizer(str(folder))


def test_a_head_of_zeros_can_be_saved(healthy: Path, tmp_path: Path) -> None:
    folder = changed(healthy, tmp_path, folders.more(lm_head__weight=torch.zeros(416, 32)))
    model, tokenizer = models.load_model(str(folder)), models.load_tokenizer(str(folder))
    models.save_model(model, tokenizer, tmp_path / "saved")
    models.compare_loaded(model, tokenizer, tmp_path / "saved")


def test_long_rope_ends_where_its_frequencies_change(healthy: Path, tmp_path: Path) -> None:
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 48}
    rope |= {"factor": 4.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    folder = changed(healthy, tmp_path, folders.settings(rope_parameters=rope))
    assert models.load_model(str(folder)).context == 48
    assert models.known_context(str(folder)) == 48


def test_a_folder_may_be_called_like_a_gguf_file(healthy: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(healthy, tmp_path / "name.gguf")
    assert models.known_context(str(folder)) == 512


def test_shards_in_another_folder_are_named(sharded: Path, tmp_path: Path) -> None:
    folder = changed(sharded, tmp_path)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    moved = {name: f"sub/{file}" for name, file in index["weight_map"].items()}
    folders.edit(folder / "model.safetensors.index.json", weight_map=moved)
    assert "put all its files directly into the model's folder" in rejected(folder)


def test_an_empty_flag_of_quantisation_means_nothing(healthy: Path, tmp_path: Path) -> None:
    folder = changed(healthy, tmp_path, folders.settings(quantization_config={}))
    assert same_weights(loaded(folder)[0], models.load_model(str(healthy)))
