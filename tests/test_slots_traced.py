"""A decoding step on fake CUDA tensors: every operation is dispatched as on a GPU.

An operation that needs a number on the host raises an error here, because nothing is computed.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tinyzero.models import Backbone
from tinyzero.samplers import slots as slots_room
from tinyzero.samplers.rooms import Layout
from tinyzero.samplers.slots import Slots, flash_attention
from tinyzero.types import SamplingParams

aten = torch.ops.aten
VIEWS = {"view", "_unsafe_view", "slice", "select", "unsqueeze", "transpose", "expand", "alias"}
VIEWS |= {"split", "split_with_sizes", "t", "permute", "detach", "chunk", "squeeze", "as_strided"}
PARAMS = SamplingParams()


class Indexing(TorchFunctionMode):
    """Square brackets by operators: a build of torch without CUDA has no brackets for CUDA."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is Tensor.copy_:
            return aten.copy_(*args, **(kwargs or {}))
        is_index = function in (Tensor.__getitem__, Tensor.__setitem__)
        if not is_index or not args[0].is_cuda:
            return function(*args, **(kwargs or {}))

        view, indices = bracketed(args[0], args[1])
        if function is Tensor.__getitem__:
            return view if indices is None else aten.index(view, indices)
        value = args[2]
        if indices is not None:
            return aten.index_put_(view, indices, value)
        return aten.copy_(view, value) if isinstance(value, Tensor) else view.fill_(value)


def bracketed(tensor: Tensor, index: Any) -> tuple[Tensor, list[Tensor | None] | None]:
    """The view of numbers, slices and None in an index, and the tensors that index this view."""
    dimension = 0
    indices: list[Tensor | None] = []
    for part in index if isinstance(index, tuple) else (index,):
        if part is Ellipsis:  # all dimensions but those of the parts after it, which are simple
            after = sum(p is not None for p in index[index.index(Ellipsis) + 1 :])
            dimension = tensor.dim() - after
        elif isinstance(part, Tensor):
            indices += [None] * (dimension - len(indices)) + [part]
            dimension += 1
        elif part is None:
            tensor = tensor.unsqueeze(dimension)
            dimension += 1
        elif isinstance(part, slice):
            tensor = aten.slice(tensor, dimension, part.start, part.stop)
            dimension += 1
        else:
            tensor = tensor.select(dimension, part)
    return tensor, indices or None


class Kernels(TorchDispatchMode):
    """Counts operations that run a kernel on CUDA, and those that copy from or to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.copies: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function._opname
        tensors = [value for value in (*args, result) if isinstance(value, Tensor)]
        devices = {tensor.device.type for tensor in tensors if tensor.dim() > 0}
        if len(devices) > 1:
            self.copies.append(name)
        if (
            "cuda" in devices
            and name not in VIEWS
            and name != "device"
            and not name.startswith("empty")
        ):
            self.names[name] += 1
        return result


@pytest.fixture
def on_fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Slots]]:
    """Makes slots of a tiny model in bf16 on a fake GPU, which has flash attention."""
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(slots_room, "fault_of", lambda *_: "")
    monkeypatch.setattr(slots_room, "weights_of", lambda _: [])
    monkeypatch.setattr(slots_room, "joined", lambda _: None)  # fakes have no addresses

    stack = ExitStack()

    def build(shape: str, layers: int = 2) -> Slots:
        model = tiny.model(shape, layers=layers)
        stack.close()
        stack.enter_context(fake_cuda())
        slots = Slots(to_fake_cuda(model), Layout(2, 64, 3, 32))
        assert slots.attention is flash_attention
        assert slots.capturing
        return slots

    with stack:
        yield build


@contextmanager
def fake_cuda() -> Iterator[None]:
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode(), Indexing():
        yield


def to_fake_cuda(model: Backbone) -> Backbone:
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                fake = torch.empty(parameter.shape, dtype=torch.bfloat16, device="cuda")
                module._parameters[name] = nn.Parameter(fake, requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                fake = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")
                module._buffers[name] = fake
    return model


@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_a_step_stays_on_the_gpu(shape: str, on_fake_cuda: Callable[..., Slots]) -> None:
    slots = on_fake_cuda(shape)
    into = torch.zeros(3, dtype=torch.long, device="cuda")
    for params in (
        PARAMS,
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=0.7, top_k=5, top_p=0.9, banned=(3, 4)),
    ):
        with Kernels() as kernels:
            token, logprob = slots._step(5, params)
        assert kernels.copies == [], "nothing may be copied in a CUDA graph"
        assert (token.device.type, logprob.device.type) == ("cuda", "cuda")
        assert (token.shape, logprob.shape) == ((5,), (5,))

        with Kernels() as kernels:
            slots.draw(into, torch.zeros(3, 300, device="cuda"), params)
        assert kernels.copies == []


def kernels_of(slots: Slots) -> Counter[str]:
    with Kernels() as kernels:
        slots._step(5, PARAMS)
    return kernels.names


@pytest.mark.parametrize(("is_joined", "products"), [(False, 7), (True, 4)])
def test_kernels_per_layer(
    is_joined: bool,
    products: int,
    on_fake_cuda: Callable[..., Slots],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What each further layer adds to a step: joined weights save three products and a copy."""
    if is_joined:
        monkeypatch.setattr(slots_room, "joined", like_joined)
    few = kernels_of(on_fake_cuda("llama", 1))
    many = kernels_of(on_fake_cuda("llama", 3))

    per_layer = {name: (count - few[name]) / 2 for name, count in many.items()}
    expected = {"linear": products, "rms_norm": 2, "_flash_attention_forward": 1}
    expected |= {"index_copy_": 2, "mul": 2, "add": 2, "roll": 1, "addcmul": 1, "silu": 1}
    if not is_joined:
        expected["cat"] = 1
    expected["reshape"] = 1  # of the result of attention; a copy only if it is not contiguous
    assert {name: count for name, count in per_layer.items() if count} == expected


def like_joined(parts: list[Tensor | None]) -> Tensor | None:
    """A tensor of the shape of `joined`, since fakes have no addresses."""
    rows = [part for part in parts if part is not None]
    return torch.cat(rows) if rows else None
