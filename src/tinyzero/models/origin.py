"""Where a model comes from: the licence and the base model that its card names.

They are read from the folder that a run starts from, and written into every folder that the run
saves, so that an export of an export still names them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from transformers.utils.hub import cached_file

from tinyzero.models.folder import CONFIG
from tinyzero.models.hub import BUNDLED, find_model, is_hub_id, locate

CARD = "README.md"
KEPT = ("license", "license_name", "license_link", "base_model")
LICENCE_FILES = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*")
LARGEST = 2**20  # bytes of a licence or a card; a larger file is something else


@dataclass(frozen=True)
class Origin:
    """The licence and the base model of a model, as far as its folder says."""

    entries: Mapping[str, Any] = field(default_factory=dict)
    """Entries of a model card: those of KEPT, each a text or a list of texts."""

    licences: Mapping[str, bytes] = field(default_factory=dict)
    """The text of each licence file, by the file's name."""


def origin_of(name: str) -> Origin:
    """The origin of what is trained from the model `name`: its licence, and what it was made from.

    A model on the hub is itself the base model, under its id.
    """
    if name in BUNDLED:
        return Origin({"license": "apache-2.0"})
    if not is_hub_id(locate(name)):
        return read_origin(Path(find_model(name)))

    try:
        folder = Path(str(cached_file(name, CONFIG, local_files_only=True))).parent
    except OSError:  # it was not fetched yet
        return Origin({"base_model": name})
    origin = read_origin(folder)
    return Origin({**origin.entries, "base_model": name}, origin.licences)


def read_origin(folder: Path) -> Origin:
    """What the card and the licence files in a model folder say."""
    entries = {key: value for key, value in _front_matter(folder / CARD).items() if key in KEPT}
    if not folder.is_dir():
        return Origin(entries)

    licences = {
        file.name: file.read_bytes()
        for pattern in LICENCE_FILES
        for file in sorted(folder.glob(pattern))
        if file.is_file() and file.stat().st_size <= LARGEST
    }
    return Origin(entries, licences)


def write_origin(origin: Origin, folder: Path) -> None:
    """Write the licence files, and a card that holds only what `read_origin` reads."""
    for name, licence in origin.licences.items():
        (folder / name).write_bytes(licence)
    if origin.entries:
        card = "\n".join(["---", *front_lines(origin), "---", ""])
        (folder / CARD).write_text(card, encoding="utf-8")


def front_lines(origin: Origin) -> list[str]:
    """The lines of a card's front matter. JSON is a subset of YAML, so values are JSON."""
    return [f"{key}: {json.dumps(value)}" for key, value in origin.entries.items()]


def _front_matter(card: Path) -> dict[str, Any]:
    """The YAML at the beginning of a model card; empty if it cannot be read."""
    try:
        if card.stat().st_size > LARGEST:
            return {}
        text = card.read_text(encoding="utf-8")
        if not text.startswith("---"):
            return {}
        entries = yaml.safe_load(text.split("---")[1])
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}

    if not isinstance(entries, dict):
        return {}
    return {str(key): value for key, value in entries.items() if _is_text(value)}


def _is_text(value: Any) -> bool:
    """Whether a value is a text or a list of texts."""
    listed = value if isinstance(value, list) else [value]
    return bool(listed) and all(isinstance(item, str) for item in listed)
