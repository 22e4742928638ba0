"""Devices by their data sheets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tinyzero.errors import UserError

GIB, MIB = 2.0**30, 2.0**20


@dataclass(frozen=True)
class Device:
    """A device by its data sheet, and the shares of its peaks that work reaches."""

    name: str
    """As torch.cuda.get_device_name has it, to the letter: an H200 is not an H20."""
    memory: float
    """Bytes."""
    bandwidth: float
    """Bytes a second."""
    rates: Mapping[str, float]
    """Dense FLOPs a second by type of number; one that is missing is not computed in hardware, or not known."""
    forward: float = 0.45
    """Share of the rate that reading reaches."""
    update: float = 0.40
    """Share of the rate that learning reaches."""
    decode: float = 0.60
    """Share of the bandwidth that decoding reaches."""
    launch: float = 1.1e-5
    """Seconds that a layer of a decode step takes however little it computes; the step being one CUDA graph."""
    reading: float = 0.0
    """Seconds a token, layer and channel of width that are not matrix products; on a GPU the shares cover them."""
    decoding: float = 0.0
    """The same in a decode step."""
    fused_attention: bool = True
    is_cpu: bool = False

    def rate(self, dtype: str) -> float:
        """FLOPs a second. Raises UserError where the device has none for that type."""
        if dtype not in self.rates:
            raise UserError(
                f"{self.name} has no rate in {dtype}: use --model.dtype {' or '.join(self.rates)}"
            )
        return self.rates[dtype]


def _gpu(
    name: str, memory: float, bandwidth: float, bf16: float, fp8: float, fp32: float
) -> Device:
    """From MiB, TB/s and TFLOP/s, where 0 means not in hardware."""
    rates = {"bfloat16": bf16, "float8": fp8, "float32": fp32}
    return Device(
        name, memory * MIB, bandwidth * 1e12, {k: r * 1e12 for k, r in rates.items() if r}
    )


DEVICES = {
    "h100": _gpu("NVIDIA H100 80GB HBM3", 81_559, 3.35, 989.4, 1978.9, 66.9),
    "h100-pcie": _gpu("NVIDIA H100 PCIe", 81_559, 2.0, 756.4, 1512.9, 51.2),
    "h200": _gpu("NVIDIA H200", 143_771, 4.8, 989.4, 1978.9, 66.9),
    "h800": _gpu("NVIDIA H800", 81_559, 3.35, 989.4, 1978.9, 66.9),
    "h20": _gpu("NVIDIA H20", 97_871, 4.0, 148.0, 296.0, 44.0),
    "a100": _gpu("NVIDIA A100-SXM4-80GB", 81_920, 2.039, 311.9, 0, 19.5),
    "a100-40gb": _gpu("NVIDIA A100-SXM4-40GB", 40_960, 1.555, 311.9, 0, 19.5),
    "l40s": _gpu("NVIDIA L40S", 46_068, 0.864, 362.1, 733.0, 91.6),
    "4090": _gpu("NVIDIA GeForce RTX 4090", 24_564, 1.008, 165.2, 330.3, 82.6),
    "t4": _gpu("Tesla T4", 15_360, 0.320, 0, 0, 8.1),
}
"""By short name: memory as the driver reports it, bandwidth and dense rates as NVIDIA's data sheets give them."""

CPU = Device(
    "a CPU",
    memory=16 * GIB,
    bandwidth=3.9e9,  # of weights into products of a few rows
    rates={"float32": 68e9},
    forward=1.0,
    update=1.0,
    decode=1.0,
    launch=6e-4,
    reading=5.1e-8,
    decoding=8.9e-8,
    fused_attention=False,
    is_cpu=True,
)
"""One core of the machine that benchmarks/results/plan_cpu.md tells of; `tinyzero plan --calibrate` measures yours."""


def device_named(name: str) -> Device | None:
    """The device whose whole name this is, or None for one that is not in the table."""
    return next((device for device in DEVICES.values() if device.name == name), None)
