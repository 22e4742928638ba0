"""Helpers of several test files: commands that fail, a small disk, scripts as modules."""

import importlib.util
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tinyzero import cli

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line of error that a wrong command prints."""
    capsys.readouterr()
    assert cli.main([str(a) for a in arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("tinyzero: error: ")
    assert said.count("\n") == 1, said
    assert said.endswith("\n")
    assert "Traceback" not in said
    return said


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes. The error is similar to that of a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def has_ipv6() -> bool:
    """Whether this machine has the address ::1."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def benchmark(name: str, monkeypatch: pytest.MonkeyPatch, results: Path) -> Any:
    """A script of benchmarks/ as a module that writes into `results`."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.common, "RESULTS", results)
    return module
