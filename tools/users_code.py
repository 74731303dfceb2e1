"""Importing the user's file or module and calling what it names: this runs their code, as they asked.

Whatever goes wrong in it is FXQ117, with their line and the original error as its cause.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module, invalidate_caches
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar
from zlib import crc32

from fxquant.errors import FxQuantError, UsageError, did_you_mean
from fxquant.files import shown
from fxquant.location import Location, of_function, of_traceback
from fxquant.tools.model_reference import Reference
from fxquant.tools.output import refused

T = TypeVar("T")
_MISSING = object()
_MOST_TEXT = 500  # of a message that is not ours
_PRIVATE = "_fxquant_user_"  # what the modules of files are called in sys.modules


@contextmanager
def users_code() -> Iterator[None]:
    """While a verb runs: what is imported leaves no bytecode, and sys.path is afterwards what it was."""
    path, writes_none = list(sys.path), sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    invalidate_caches()
    try:
        yield
    finally:
        sys.path[:], sys.dont_write_bytecode = path, writes_none
        for name in [name for name in sys.modules if name.startswith(_PRIVATE)]:
            del sys.modules[name]


def value_of(reference: Reference, *, is_value: Callable[[Any], bool]) -> Any:
    """What a reference names: the attribute itself where `is_value` holds of it, else what calling it gives.

    FXQ117 when there is no such file, module or attribute, when it is not callable, or when the user's code raises.
    What that code prints goes to stderr: stdout is for the verb's own output.
    """
    with redirect_stdout(sys.stderr):
        found = _attribute(_module(reference), reference)
        if is_value(found):
            return found
        if not callable(found):
            told = f"'{reference}' is of type {type(found).__name__}, which cannot be called"
            raise UsageError("FXQ117", told, hint="name a function or class that takes no arguments")
        return _running(found, f"'{reference}' raised", where=of_function(found))


def _module(reference: Reference) -> ModuleType:
    if not reference.factory:
        raise _without_factory(reference)
    if reference.is_file:
        return _module_of_file(Path(reference.place))
    if "" not in sys.path:
        sys.path.insert(0, "")  # the folder where the command was called, as for `python -m`
    if _spec(reference.place) is None:
        raise _no_module(reference.place)
    name = reference.place
    return _running(lambda: import_module(name), f"importing '{name}' failed")


def _spec(name: str) -> Any:
    """The spec of a module; None where there is none. Its parent packages are imported."""
    parent = name.rpartition(".")[0]
    if parent and _spec(parent) is None:
        return None
    try:
        return _running(lambda: find_spec(name), f"importing '{parent or name}' failed")
    except UsageError as error:
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError) and cause.name == name:  # the parent is a module, no package
            return None
        raise


def _module_of_file(path: Path) -> ModuleType:
    """The file as a module under a name of its own, imported once."""
    path = readable(path).resolve()
    name = f"{_PRIVATE}{path.stem}_{crc32(str(path).encode('utf-8', 'surrogateescape')):08x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError("FXQ117", f"'{path}' cannot be imported as Python")
    sys.path.insert(0, str(path.parent))
    sys.modules[name] = module = module_from_spec(spec)
    loader = spec.loader
    _running(lambda: loader.exec_module(module), f"importing '{path.name}' failed")
    return module


def readable(path: Path) -> Path:
    """FXQ117 unless the path is a file, with the nearest names in its folder."""
    if (refusal := refused(path)) is not None:
        raise UsageError("FXQ117", f"the file '{shown(str(path))}' cannot be read: {refusal}")
    if path.is_file():
        return path
    what = "is a folder" if path.is_dir() else "does not exist"
    names = sorted(other.name for other in path.parent.glob("*.py")) if path.parent.is_dir() else []
    raise UsageError("FXQ117", f"the file '{path}' {what}", hint=did_you_mean(path.name, names))


def _running(call: Callable[[], T], told: str, *, where: Location | None = None) -> T:
    """The call's value; any error in it is FXQ117 at the user's line. Errors of fxquant itself pass as they are."""
    try:
        return call()
    except FxQuantError:
        raise
    except (Exception, SystemExit) as error:
        traceback = error.__traceback__
        at = of_traceback(traceback.tb_next if traceback is not None else None)  # the first frame is this one
        if isinstance(error, SyntaxError) and error.filename is not None:
            at = Location(error.filename, error.lineno or 1, "<module>")
        text = f"{told}: {type(error).__name__}: {str(error)[:_MOST_TEXT]}"
        raise UsageError("FXQ117", text, where=at or where, hint=_advice(error)) from error


def _advice(error: BaseException) -> str:
    match error:
        case ModuleNotFoundError(name=str() as name):
            return f"install '{name.partition('.')[0]}' into this environment, or call fxquant from where it is found"
        case ImportError() if "relative import" in str(error):
            return "a file of a package is named as package.module:factory, from the folder above the package"
        case TypeError() if "required" in str(error) and "argument" in str(error):
            return "the factory is called without arguments: write a small function that gives them"
        case SystemExit():
            return "keep what a script does under `if __name__ == '__main__':`"
    return "the fault is in that code: call it from Python for the whole traceback"


def _attribute(module: ModuleType, reference: Reference) -> Any:
    """The named attribute, dots followed. FXQ117 with the nearest names."""
    found: Any = module
    for name in reference.factory.split("."):
        owner = found
        found = _running(lambda: getattr(owner, name, _MISSING), f"looking up '{reference}' failed")  # noqa: B023
        if found is _MISSING:
            hint = did_you_mean(name, _offered(owner))
            raise UsageError("FXQ117", f"'{reference.place}' defines no '{reference.factory}'", hint=hint)
    return found


def _no_module(name: str) -> UsageError:
    here = sorted(path.stem for path in Path().glob("*.py"))
    hint = did_you_mean(name, here) or "a file is named as path/file.py:factory"
    return UsageError("FXQ117", f"there is no module '{name}' here or among the installed packages", hint=hint)


def _without_factory(reference: Reference) -> UsageError:
    """It lists what the file defines, which is read and not run."""
    path = readable(Path(reference.place)) if reference.is_file else _origin(reference.place)
    names = list(_defined(path))
    shown = ", ".join(f"'{reference.place}:{name}'" for name in names[:8])
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    hint = f"one of {shown}{more}" if names else "it defines no function or class"
    return UsageError("FXQ117", f"'{reference.place}' does not say which function or class builds the model", hint=hint)


def _origin(name: str) -> Path | None:
    if "" not in sys.path:
        sys.path.insert(0, "")
    spec = _spec(name)
    if spec is None:
        raise _no_module(name)
    return Path(spec.origin) if spec.origin is not None and spec.origin.endswith(".py") else None


def _defined(path: Path | None) -> Iterable[str]:
    """Public functions, classes and variables at the top of a file."""
    try:
        tree = ast.parse(path.read_bytes()) if path is not None else ast.Module([], [])
    except (OSError, SyntaxError, ValueError):
        return
    for statement in tree.body:
        match statement:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) if not name.startswith("_"):
                yield name
            case ast.Assign(targets=[ast.Name(id=name)]) if not name.startswith("_") and not name.isupper():
                yield name


def _offered(owner: object) -> list[str]:
    """Public names that could be meant: no modules."""
    known = vars(owner) if hasattr(owner, "__dict__") else {}
    return [name for name in known if not name.startswith("_") and not isinstance(known[name], ModuleType)]
