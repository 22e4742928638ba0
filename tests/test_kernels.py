"""Kernels of a GPU are compared with slower ways when a model is loaded. Here they are fakes."""

from collections.abc import Callable
from typing import Any

import folders
import pytest
import tiny
import torch
from torch import Tensor, nn

from tinyzero import models
from tinyzero.algorithms import losses
from tinyzero.errors import UserError
from tinyzero.models import Backbone, attention, contracts, kernels, packing

Varlen = Callable[..., Tensor]


def varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_edges: Tensor,
    key_edges: Tensor,
    longest_query: int,
    longest_key: int,
    causal: bool,
    scaling: float,
    window: int | None,
) -> Tensor:
    """What flash attention computes, one sequence after another, rounded like a kernel's result."""
    assert causal
    results = []
    for i in range(len(query_edges) - 1):
        rows = slice(int(query_edges[i]), int(query_edges[i + 1]))
        seen = slice(int(key_edges[i]), int(key_edges[i + 1]))
        assert rows.stop - rows.start <= longest_query
        assert seen.stop - seen.start <= longest_key
        q, k, v = (
            tensor[chosen].float().transpose(0, 1)[None]
            for tensor, chosen in ((query, rows), (key, seen), (value, seen))
        )
        more = {"sliding_window": window}
        result, _ = attention.grouped_attention(nn.Identity(), q, k, v, None, scaling, **more)
        results.append(result[0].to(query.dtype))
    return torch.cat(results)


def aligned_at_the_top(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_edges: Tensor,
    key_edges: Tensor,
    *more: Any,
    **settings: Any,
) -> Tensor:
    """The first query of a sequence sees only its first key."""
    lengths = query_edges.diff()
    chosen = torch.cat(
        [
            torch.arange(int(start), int(start + length))
            for start, length in zip(key_edges[:-1], lengths, strict=True)
        ]
    )
    return varlen(query, key[chosen], value[chosen], query_edges, query_edges, *more, **settings)


def without_gradient_of_keys(query: Tensor, key: Tensor, *more: Any, **settings: Any) -> Tensor:
    return varlen(query, key.detach() + 0 * key, *more, **settings)


def without_window(*given: Any, window: int | None, **settings: Any) -> Tensor:
    return varlen(*given, window=None, **settings)


def of_another_version(*given: Any, **settings: Any) -> Tensor:
    raise TypeError("_flash_attention_forward() takes 17 positional arguments")


def not_finite(*given: Any, **settings: Any) -> Tensor:
    return varlen(*given, **settings) * torch.nan


@pytest.fixture(name="flash")
def use_flash(monkeypatch: pytest.MonkeyPatch) -> Callable[[Varlen], None]:
    """Has 16-bit tensors attended to by a function, as if they were on a GPU."""

    def use(fake: Varlen) -> None:
        for module in (attention, packing):
            monkeypatch.setattr(module, "has_flash", lambda q, k, v: q.dtype == torch.bfloat16)
        monkeypatch.setattr(packing, "flash_attention", fake)

    return use


def in_bf16(**sizes: int) -> Backbone:
    return tiny.model(**sizes).to(torch.bfloat16)


@pytest.mark.parametrize(
    ("fake", "apart", "shared"),
    [
        (varlen, "", ""),
        (aligned_at_the_top, "", "wrong on this device (values)"),
        (without_gradient_of_keys, "(gradient of keys)", "(gradient of keys)"),
        (of_another_version, "fails: _flash_attention_forward", "fails: _flash_attention_forward"),
        (not_finite, "(values)", "(values)"),
    ],
)
def test_flash_attention_is_compared_in_value_and_gradient(
    fake: Varlen, apart: str, shared: str, flash: Callable[[Varlen], None]
) -> None:
    flash(fake)
    model = in_bf16()
    for fault, expected in ((apart, False), (shared, True)):
        found = kernels.attention_fault(model, expected)
        assert fault in found
        assert bool(fault) == bool(found)


def test_windows_are_compared_if_the_model_has_some(flash: Callable[[Varlen], None]) -> None:
    flash(without_window)
    model = in_bf16()
    model.config.sliding_window = None
    assert not kernels.attention_fault(model, shared=True)
    model.config.sliding_window = 4096
    assert "(values)" in kernels.attention_fault(model, shared=True)
    flash(varlen)
    assert not kernels.attention_fault(model, shared=True)


def test_the_gap_of_a_right_kernel_is_far_below_the_limit(
    flash: Callable[[Varlen], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    flash(varlen)
    monkeypatch.setattr(kernels, "LARGEST_GAP", 0.01)
    assert not kernels.attention_fault(in_bf16(), shared=True)
    flash(aligned_at_the_top)
    monkeypatch.setattr(kernels, "LARGEST_GAP", 0.3)
    assert kernels.attention_fault(in_bf16(), shared=True)


def test_a_wrong_kernel_switches_sharing_off_and_refuses_packing(
    flash: Callable[[Varlen], None], tmp_path: Any
) -> None:
    folder = str(folders.write(tmp_path / "model", "qwen2"))
    bf16, notes = torch.bfloat16, list[str]()

    flash(varlen)
    assert models.load_model(folder, bf16, pack=True, note=notes.append).share
    assert not notes

    flash(aligned_at_the_top)  # rows without a shared prefix are right
    model = models.load_model(folder, bf16, pack=True, note=notes.append)
    assert (model.pack, model.share) == (True, False)
    (note,) = notes
    assert "each prompt is computed once per answer, which is slower: flash attention" in note

    flash(without_gradient_of_keys)
    with pytest.raises(UserError, match=r"set update.pack to false \(flash attention is wrong"):
        models.load_model(folder, bf16, pack=True)
    assert not models.load_model(folder, bf16).share


def test_the_real_model_on_a_gpu_is_tried_with_a_shared_prefix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a CPU it is not run, because there its twin is enough."""
    tried: list[bool] = []

    def can_share(model: Backbone, tolerance: float) -> bool:
        tried.append(tolerance == contracts.LOOSE)
        return False

    model = tiny.model()
    monkeypatch.setattr(contracts, "can_share_prefixes", can_share)
    assert not contracts.sharing_fault(model)
    monkeypatch.setattr(kernels, "is_on_gpu", lambda model: True)
    assert "changes what follows on this device" in contracts.sharing_fault(model)
    assert tried == [True]


def test_a_head_without_its_operator_is_mentioned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """A build of PyTorch for CPUs lacks the operator."""
    folder = str(folders.write(tmp_path / "model", "qwen2"))
    notes: list[str] = []
    models.load_model(folder, torch.bfloat16, note=notes.append)
    assert not notes

    monkeypatch.setattr(kernels, "is_on_gpu", lambda model: True)
    monkeypatch.setattr(torch, "mm", lambda a, b, out_dtype: a.to(out_dtype) @ b.to(out_dtype))
    losses.product_fault.cache_clear()
    models.load_model(folder, torch.float32, note=notes.append)
    assert not notes
    models.load_model(folder, torch.bfloat16, note=notes.append)
    (note,) = notes
    assert "the head's gradient takes two operations, which is slower: Could not run" in note
    losses.product_fault.cache_clear()
