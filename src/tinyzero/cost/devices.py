"""GPUs and CPUs: memory, bandwidth and rates from data sheets, prices, and assumed efficiency."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tinyzero.errors import UserError
from tinyzero.registry import suggest

GIB, MIB = 2.0**30, 2.0**20

SHARED_WORK = 0.5
"""Share of a CPU's work that is divided among its threads: two are 1.33 times as fast as one."""

PRICES_FROM = (
    "dollars per hour for one card on demand, from the public price lists of marketplaces and "
    "specialised clouds (RunPod, Vast, Lambda, Modal, Verda, Akash) between March and November "
    "2026; the largest clouds ask up to three times as much"
)


@dataclass(frozen=True)
class Device:
    """A device by its data sheet, with the share of its peaks that TinyZero is assumed to reach."""

    name: str
    """The whole name that torch.cuda.get_device_name returns, so that an H20 is not an H200."""
    memory: float
    """Bytes."""
    bandwidth: float
    """Bytes per second."""
    rates: Mapping[str, float]
    """Dense FLOPs per second by data type. A type that the hardware lacks is missing."""
    price: tuple[float, float] | None = None
    """Lowest and highest usual price in dollars per hour (see PRICES_FROM); None if unknown."""
    forward: float = 0.40
    """Share of the rate that reading prompts and scoring reach."""
    update: float = 0.37
    """Share of the rate that learning reaches."""
    decode: float = 0.60
    """Share of the bandwidth that decoding reaches."""
    launch: float = 5.3e-5
    """Least seconds per layer of a decode step, for 23 kernels in a CUDA graph."""
    step: float = 5e-4
    """Seconds per decode step that do not depend on the model: drawing the tokens, and Python."""
    call: float = 5e-4
    """Seconds of the host per layer, micro-batch and forward pass. A backward pass takes two."""
    reading: float = 0.0
    """CPU seconds per token, layer and channel beyond matrix products, when reading or learning."""
    decoding: float = 0.0
    """The same when decoding."""
    fused_attention: bool = True
    is_cpu: bool = False

    def rate(self, dtype: str) -> float:
        """Dense FLOPs per second in `dtype`. Raises UserError if the device does not support it."""
        if dtype not in self.rates:
            others = " or ".join(t for t in self.rates if t in ("bfloat16", "float32"))
            raise UserError(f"{self.name} does not compute in {dtype}: use --model.dtype {others}")
        return self.rates[dtype]

    def with_threads(self, threads: int) -> Device:
        """This CPU with that many threads instead of one; 0 means all of this machine's cores.

        SHARED_WORK of the time is divided among the threads. Calling small operations and moving
        weights through memory stay as slow as with one thread.
        """
        threads = threads or os.cpu_count() or 1
        speedup = 1 / (1 - SHARED_WORK + SHARED_WORK / threads)
        return replace(
            self,
            rates={dtype: rate * speedup for dtype, rate in self.rates.items()},
            reading=self.reading / speedup,
            decoding=self.decoding / speedup,
        )


def _gpu(
    name: str,
    memory: float,
    bandwidth: float,
    bf16: float,
    fp8: float,
    fp32: float,
    price: tuple[float, float] | None = None,
    fp16: float = 0,
) -> Device:
    """A GPU from MiB, TB/s and dense TFLOP/s. A rate of 0 marks a type that it lacks."""
    tflops = {"bfloat16": bf16, "float16": fp16 or bf16, "float8": fp8, "float32": fp32}
    rates = {dtype: rate * 1e12 for dtype, rate in tflops.items() if rate}

    return Device(name, memory * MIB, bandwidth * 1e12, rates, price)


DEVICES = {
    # Hopper, Blackwell and CDNA 3
    "b200": _gpu("NVIDIA B200", 183_359, 8.0, 2250.0, 4500.0, 75.0, (5.0, 6.8)),
    "mi300x": _gpu("AMD Instinct MI300X", 196_592, 5.3, 1307.4, 2614.9, 163.4, (1.9, 3.5)),
    "h200": _gpu("NVIDIA H200", 143_771, 4.8, 989.4, 1978.9, 66.9, (3.4, 4.5)),
    "h100": _gpu("NVIDIA H100 80GB HBM3", 81_559, 3.35, 989.4, 1978.9, 66.9, (2.4, 4.3)),
    "h100-nvl": _gpu("NVIDIA H100 NVL", 95_830, 3.9, 835.5, 1671.0, 60.0, (2.6, 3.2)),
    "h100-pcie": _gpu("NVIDIA H100 PCIe", 81_559, 2.0, 756.4, 1512.9, 51.2, (2.0, 2.9)),
    "h800": _gpu("NVIDIA H800", 81_559, 3.35, 989.4, 1978.9, 66.9),
    "h20": _gpu("NVIDIA H20", 97_871, 4.0, 148.0, 296.0, 44.0),
    # Ampere, Ada and Blackwell in servers and workstations
    "a100": _gpu("NVIDIA A100-SXM4-80GB", 81_920, 2.039, 311.9, 0, 19.5, (1.1, 2.5)),
    "a100-pcie": _gpu("NVIDIA A100 80GB PCIe", 81_920, 1.935, 311.9, 0, 19.5, (1.1, 1.8)),
    "a100-40gb": _gpu("NVIDIA A100-SXM4-40GB", 40_960, 1.555, 311.9, 0, 19.5, (0.8, 2.0)),
    "pro-6000": _gpu(
        "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
        97_887,
        1.792,
        503.8,
        1007.6,
        126.0,
        (0.9, 2.0),
    ),
    "6000-ada": _gpu(
        "NVIDIA RTX 6000 Ada Generation", 49_140, 0.960, 364.2, 728.5, 91.1, (0.7, 1.0)
    ),
    "l40s": _gpu("NVIDIA L40S", 46_068, 0.864, 362.1, 733.0, 91.6, (0.8, 2.0)),
    "l40": _gpu("NVIDIA L40", 46_068, 0.864, 181.1, 362.1, 90.5, (0.7, 1.2)),
    "a6000": _gpu("NVIDIA RTX A6000", 49_140, 0.768, 154.8, 0, 38.7, (0.3, 0.8)),
    "a40": _gpu("NVIDIA A40", 46_068, 0.696, 149.7, 0, 37.4, (0.3, 0.5)),
    "l4": _gpu("NVIDIA L4", 23_034, 0.300, 121.0, 242.5, 30.3, (0.4, 0.8)),
    "a10": _gpu("NVIDIA A10", 23_028, 0.600, 125.0, 0, 31.2, (0.7, 0.9)),
    # GeForce: the rates are those that accumulate in fp32, as training needs
    "5090": _gpu("NVIDIA GeForce RTX 5090", 32_607, 1.792, 209.5, 419.0, 104.8, (0.7, 1.2)),
    "4090": _gpu("NVIDIA GeForce RTX 4090", 24_564, 1.008, 165.2, 330.3, 82.6, (0.3, 0.6)),
    "4080": _gpu("NVIDIA GeForce RTX 4080", 16_376, 0.717, 97.5, 194.9, 48.7),
    "3090": _gpu("NVIDIA GeForce RTX 3090", 24_576, 0.936, 71.2, 0, 35.6, (0.2, 0.4)),
    "3060": _gpu("NVIDIA GeForce RTX 3060", 12_288, 0.360, 25.5, 0, 12.7),
    # without bfloat16
    "v100": _gpu("Tesla V100-SXM2-32GB", 32_768, 0.900, 0, 0, 15.7, (0.2, 0.8), fp16=125.0),
    "v100-16gb": _gpu("Tesla V100-SXM2-16GB", 16_384, 0.900, 0, 0, 15.7, (0.2, 0.8), fp16=125.0),
    "t4": _gpu("Tesla T4", 15_360, 0.320, 0, 0, 8.1, (0.2, 0.6), fp16=65.0),
}
"""GPUs by short name: the memory that the driver reports, and dense rates from the data sheets."""

CPU = Device(
    "one core of a server's CPU",
    memory=16 * GIB,
    bandwidth=6.5e9,  # weights that enter products with few rows
    rates={"float32": 121e9},
    forward=1.0,
    update=1.0,
    decode=1.0,
    launch=4.8e-4,
    step=0.0,
    call=0.0,
    reading=3.0e-8,
    decoding=4.8e-8,
    fused_attention=False,
    is_cpu=True,
)
"""One thread of the CPU in benchmarks/results/plan_cpu.md. `plan --measure` uses your own CPU."""


LACKS = "which the hardware lacks"
"""What is said of a data type that a device has no units for."""


def this_cpu() -> Device:
    """The CPU of this machine, with its own memory and the rates of CPU for every data type."""
    rates = dict.fromkeys(("float32", "bfloat16"), CPU.rates["float32"])
    return replace(CPU, name="this machine", memory=host_memory(), rates=rates)


def host_memory() -> float:
    """Bytes of this machine's memory, or of the container's share of it."""
    memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):  # no limit reads as "max"
        memory = min(memory, float(Path("/sys/fs/cgroup/memory.max").read_text()))
    return memory


def lacks_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this machine's CPU has no units for bfloat16; False if it does not say."""
    try:
        flags = cpuinfo.read_text(encoding="utf-8").split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"} & set(flags)


def device_named(name: str) -> Device | None:
    """The device with exactly this name, as torch.cuda.get_device_name returns it, or None."""
    return next((device for device in DEVICES.values() if device.name == name), None)


def find_device(text: str) -> str:
    """The short name of a card as people write it: a key of DEVICES, or "cpu".

    Raises UserError if the card is unknown.

    >>> find_device("RTX-4090"), find_device("NVIDIA A100 80GB"), find_device("rtx a6000")
    ('4090', 'a100', 'a6000')
    """
    names = ["cpu", *DEVICES]
    letters = re.sub(r"[^a-z0-9]", "", text.lower())
    bare = re.sub(r"^(nvidia|amd|geforce|instinct|tesla|rtx|gtx)+", "", letters)

    by_letters = {name.replace("-", ""): name for name in names}
    for spelling in (bare, re.sub(r"(sxm\d?|80gb|24gb|48gb)+$", "", bare)):
        if spelling in by_letters:
            return by_letters[spelling]
    raise UserError(
        f"unknown --gpu {text!r} (describe your own with --gpu-memory, --gpu-bandwidth and "
        f"--gpu-tflops){suggest(text, names)}"
    )


def described_device(memory: float, bandwidth: float, tflops: float) -> Device:
    """A GPU that is not in the table, from its data sheet: GiB, GB/s and dense TFLOP/s.

    The rate is taken for every data type of the recipe. `memory` is as vendors state it: 24 GB of a
    GPU are 24 GiB.
    """
    rates = dict.fromkeys(("bfloat16", "float32"), tflops * 1e12)
    name = f"a GPU with {memory:g} GiB, {bandwidth:g} GB/s and {tflops:g} TFLOP/s"

    return Device(name, memory * GIB, bandwidth * 1e9, rates)
