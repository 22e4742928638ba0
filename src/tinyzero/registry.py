"""Finds tasks, algorithms and samplers by name, bundled or your own, and checks their options.

A user's class is named as `package.module:Name` or `path/file.py:Name`, so nobody needs a fork.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from tinyzero.errors import UserError, brief

Model = TypeVar("Model", bound=BaseModel)


class Registry(NamedTuple):
    """The tasks, algorithms or samplers that can be named: bundled ones, and a user's by reference.

    Every module of `package` except `parts` is one of them and defines `attribute`, so a new task,
    algorithm or sampler is one new file. Names have `++` for `_pp` and `-` for `_`:
    `reinforce++-baseline` is the module reinforce_pp_baseline. Tasks are listed with `-` only.
    """

    noun: str
    package: str
    attribute: str
    parts: tuple[str, ...]
    needs: tuple[str, ...]
    """The methods and attributes that a class of this kind must have."""

    def names(self) -> list[str]:
        """The names of the bundled ones, without importing them."""
        paths = importlib.import_module(self.package).__path__
        modules = [module.name for module in pkgutil.iter_modules(paths)]
        known = [m for m in modules if m not in self.parts and not m.startswith("_")]
        names = [m.replace("_pp_", "_pp-").replace("_pp", "++") for m in known]
        return sorted(n.replace("_", "-") if self.noun == "task" else n for n in names)

    def reference(self, name: str) -> str:
        """The reference that `load_object` loads for `name`. Raises UserError if it is unknown."""
        if ":" in name:
            return name
        module = module_name(name)
        if module not in map(module_name, self.names()):
            if name.endswith(".py") and Path(name).is_file():
                own_class = self._only_class_in(Path(name)) or "NAME"
                raise UserError(f"{self.noun} {name}: name the class too: {name}:{own_class}")
            own = "your own: package.module:Name or path/file.py:Name"
            raise UserError(f"unknown {self.noun} {name!r}{suggest(name, self.names())} ({own})")
        return f"{self.package}.{module}:{self.attribute}"

    def _only_class_in(self, path: Path) -> str | None:
        """The class in a file that defines the methods of this kind, if there is exactly one.

        The file is read, not run.
        """
        try:
            statements = ast.parse(path.read_bytes()).body
        except (OSError, SyntaxError, ValueError):
            return None

        classes = [node for node in statements if isinstance(node, ast.ClassDef)]
        suited = [node.name for node in classes if _defined_in(node) & set(self.needs)]
        return suited[0] if len(suited) == 1 else None

    def docstring(self, name: str) -> str:
        """What the module of a bundled class says about it, without importing that module.

        For a user's class this is the docstring of the class, or else that of its module.
        """
        if ":" in name:
            kind = self.find(name)
            return inspect.cleandoc(kind.__doc__ or sys.modules[kind.__module__].__doc__ or "")

        spec = importlib.util.find_spec(self.reference(name).partition(":")[0])
        assert spec is not None
        source = Path(spec.origin or "").read_text(encoding="utf-8")
        return ast.get_docstring(ast.parse(source)) or ""

    def find(self, name: str) -> Any:
        """The class with this name. Raises UserError if it does not exist or lacks a method."""
        kind = load_object(self.reference(name))
        if not isinstance(kind, type):
            raise UserError(
                f"{self.noun} {name} is {type(kind).__name__}, not a class: name a class"
            )
        if missing := [need for need in self.needs if not hasattr(kind, need)]:
            raise UserError(
                f"{self.noun} {name} lacks {', '.join(missing)}: it needs {', '.join(self.needs)}"
            )
        return kind


def _defined_in(node: ast.ClassDef) -> set[str]:
    """The names of the methods that a class defines itself."""
    return {part.name for part in node.body if isinstance(part, ast.FunctionDef)}


def module_name(name: str) -> str:
    """The module of the bundled task, algorithm or sampler called `name`."""
    return name.replace("++", "_pp").replace("-", "_")


def lasting_reference(name: str) -> str:
    """`name`, with the whole path if it names a file, so that it also holds in another folder.

    >>> lasting_reference("countdown")
    'countdown'
    """
    source, colon, kind = name.rpartition(":")
    return f"{os.path.abspath(source)}:{kind}" if colon and source.endswith(".py") else name


SESSION = "session"
_defined_here: dict[str, Any] = {}  # classes of this process that no other process can import


def reference_of(kind: type) -> str:
    """A name that `load_object` turns into the class `kind` again, in any process.

    A class from a notebook or from the running script is called `session:Name`, because it exists
    only in this process.
    """
    module, name = sys.modules.get(kind.__module__), kind.__qualname__
    if module is not None and kind.__module__ != "__main__" and getattr(module, name, None) is kind:
        if kind.__module__ == _file_module_name(Path(getattr(module, "__file__", None) or "-")):
            return f"{module.__file__}:{name}"
        return f"{kind.__module__}:{name}"
    name = kind.__name__
    _defined_here[name] = kind
    return f"{SESSION}:{name}"


def load_object(reference: str) -> Any:
    """The object that `package.module:Name` or `path/file.py:Name` names.

    Raises UserError if the file, the module or the name does not exist, or the import fails.
    """
    source, colon, name = reference.rpartition(":")
    if not (source and colon and name.isidentifier()):
        raise UserError(
            f"{reference!r} names nothing: write package.module:Name or path/file.py:Name"
        )
    if source == SESSION:
        if name not in _defined_here:
            raise UserError(
                f"{name} was defined in a notebook or script that has ended: give the class itself "
                "again, or put it into a file and name it as path/file.py:Name"
            )
        return _defined_here[name]

    module = _load_file(Path(source)) if source.endswith(".py") else _load_module(source)
    if not hasattr(module, name):
        public = [known for known in vars(module) if not known.startswith("_")]
        raise UserError(f"{source} has no {name!r}{suggest(name, public)}")
    return getattr(module, name)


def validate(model: type[Model], values: Mapping[str, Any], where: str = "") -> Model:
    """`values` as a checked `model`.

    Raises UserError with one line that names the field, as `where.field`, and its value.
    """
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise UserError(
            f"the Options of {where} are {model!r}: make them a class of pydantic's BaseModel"
        )
    # pydantic would ignore a misspelt option and use the default
    if model.model_config.get("extra", "ignore") == "ignore":
        known = [*model.model_fields, *(f.alias for f in model.model_fields.values() if f.alias)]
        if unknown := [key for key in values if key not in known]:
            key = f"{where}.{unknown[0]}" if where else unknown[0]
            raise UserError(f"unknown key {key}{suggest(unknown[0], known)}")

    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        problems = error.errors(include_url=False)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(_one_line(problems[0], model, where) + more) from None


def acting(options: BaseModel) -> dict[str, Any]:
    """Every option that has an effect, given or by default, as values that TOML can hold.

    The names in `options.without_effect`, if there is such a property, are left out.
    """
    idle: set[str] = getattr(options, "without_effect", set())
    values = options.model_dump(mode="json", exclude_none=True)
    return {name: value for name, value in values.items() if name not in idle}


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known ones, else all of them."""
    names = list(dict.fromkeys(known))
    return near(name, names) or (f": use one of {', '.join(sorted(names))}" if names else "")


def near(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the most similar known names, or "".

    >>> near("rolout.prompts", ["rollout.prompts", "rollout.samples"])
    ': did you mean rollout.prompts?'
    """
    names = list(dict.fromkeys(known))
    by_last_part: dict[str, list[str]] = {}
    for known_name in names:
        by_last_part.setdefault(known_name.rpartition(".")[2], []).append(known_name)

    last_part = name.rpartition(".")[2]
    likely = by_last_part.get(last_part) or _nearest(name, names)
    if not likely:
        for part in _nearest(last_part, by_last_part):
            likely = [*likely, *by_last_part[part]]
    return f": did you mean {' or '.join(likely)}?" if likely else ""


def _nearest(name: str, names: Iterable[str]) -> list[str]:
    """The most similar of the names, several if they are equally similar, or none."""
    close = difflib.get_close_matches(name, names, n=5)
    ratios = [difflib.SequenceMatcher(None, known, name).ratio() for known in close]
    return [known for known, ratio in zip(close, ratios, strict=True) if ratio == ratios[0]]


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # the module's own code runs here and can raise anything
        raise UserError(
            f"cannot import {name}: {brief(error)} (write a file of your own as path/file.py:Name)"
        ) from error


def _file_module_name(path: Path) -> str:
    """A name of its own for each file, so that two of one name, or a module, are not confused."""
    return f"{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"no file {path}: name an existing one as path/file.py:Name")
    name = _file_module_name(path)
    if name in sys.modules:
        return sys.modules[name]

    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # before it runs, because dataclasses and pydantic look their module up by name
    sys.modules[name] = module

    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)  # so that it can import its neighbours, as a script can
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UserError(f"cannot import {path}: {brief(error)}") from error
    finally:
        sys.path.remove(folder)
    return module


def _one_line(problem: Mapping[str, Any], model: type[BaseModel], where: str) -> str:
    """What is wrong with the options of `where`, from pydantic's description of the problem."""
    message = problem["msg"].removeprefix("Value error, ")
    path = [str(part) for part in problem["loc"]]
    key = ".".join([where, *path] if where else path)

    if problem["type"] == "extra_forbidden":
        return f"unknown key {key}{suggest(path[-1], _keys(model, path[:-1]))}"
    if problem["type"] == "missing":
        return f"{key} is missing: give it a value"
    if problem["type"].startswith("bool_"):
        return f"{key} is {problem['input']!r:.200}: write true or false"
    if not path:  # a rule about several fields names them itself
        return f"{key}: {message}" if key else message
    return f"{key} is {problem['input']!r:.200}: {message[0].lower()}{message[1:]}"


def _keys(model: type[BaseModel], path: list[str]) -> list[str]:
    """The fields of the model at `path` inside `model`."""
    for part in path:
        inner = model.model_fields[part].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)
