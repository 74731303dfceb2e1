"""What MODEL means on the command line: `package.module:factory`, `path/file.py:factory`, a saved model, a snapshot.

Reading a reference runs nothing and opens nothing; `users_code.py` does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath

from fxquant.errors import UsageError, did_you_mean

STAGES = ("traced", "planned", "prepared", "calibrated", "converted", "lowered")  # a test compares it with Stage
FORMS = (
    "MODEL is package.module:factory, path/file.py:factory, a saved model (x.safetensors), "
    "or a snapshot file from `fxquant graph ... -o x.json`"
)

_FACTORY = re.compile(r"(?P<factory>[^\W\d]\w*(?:\.[^\W\d]\w*)*)(?:@(?P<stage>[^@/\\]*))?")
_MODULE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")
_DRIVE = re.compile(r"[A-Za-z]")  # of a Windows path
_PICKLES = {".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".joblib", ".dill"}
_ARTIFACTS = {".safetensors"}
_FILES = {".py", ".json", *_ARTIFACTS}


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a model, its data or a snapshot is. `factory` is '' for a snapshot, `stage` where none was named."""

    place: str  # 'package.module', 'path/file.py', 'path/model.safetensors' or 'path/snapshot.json'
    factory: str = ""
    stage: str = ""

    @property
    def is_snapshot(self) -> bool:
        """A file that `fxquant graph -o x.json` wrote."""
        return _suffix(self.place) == ".json"

    @property
    def is_artifact(self) -> bool:
        """A file that compiled.save() wrote."""
        return _suffix(self.place) in _ARTIFACTS

    @property
    def is_file(self) -> bool:
        """A Python file, not the name of a module."""
        return _suffix(self.place) == ".py"

    def __str__(self) -> str:
        return self.place + (f":{self.factory}" if self.factory else "") + (f"@{self.stage}" if self.stage else "")


def parse(text: str) -> Reference:
    """The reference that a text is. FXQ117 on any other text, saying why."""
    if text.endswith("@"):
        raise UsageError("FXQ117", f"{_cut(text)!r} names no stage after its '@'", hint=f"one of {', '.join(STAGES)}")
    place, factory, stage = _parts(text)
    _check_suffix(place, text)
    if stage and stage not in STAGES:
        raise UsageError("FXQ117", f"no stage is called {stage!r}", hint=did_you_mean(stage, STAGES))
    reference = Reference(place, factory, stage)
    if reference.is_snapshot and (factory or stage):
        what = "no factory" if factory else "one stage only"
        raise UsageError("FXQ117", f"{text!r}: a snapshot file has {what}", hint=f"give {place!r} alone")
    if reference.is_artifact and factory:
        raise UsageError("FXQ117", f"{text!r}: a saved model has no factory", hint=f"give {place!r} alone")
    if not (reference.is_snapshot or reference.is_artifact or reference.is_file or _MODULE.fullmatch(place)):
        raise UsageError("FXQ117", f"{_cut(text)!r} names no model", hint=FORMS)
    return reference


def _parts(text: str) -> tuple[str, str, str]:
    """(place, factory, stage). The last colon parts them, unless it is the one after a drive's letter."""
    head, colon, tail = text.rpartition(":")
    found = _FACTORY.fullmatch(tail)
    is_drive = _DRIVE.fullmatch(head) is not None and _suffix(tail.partition("@")[0]) in _FILES
    if colon and head and found is not None and not is_drive:
        return head, found["factory"], (found["stage"] or "").lower()
    place, at, stage = text.rpartition("@")
    if at and _suffix(place) in _FILES:
        return place, "", stage.lower()
    return text, "", ""


def _check_suffix(place: str, text: str) -> None:
    """FXQ117 for files that are never read."""
    suffix = _suffix(place)
    if suffix in _PICKLES and not _is_dotted(place, text):
        raise UsageError(
            "FXQ117",
            f"{_cut(text)!r} is a pickle by its name, and loading a pickle runs the code in it",
            hint="give the factory that builds the model and loads its weights: path/file.py:factory",
        )


def _is_dotted(place: str, text: str) -> bool:
    """Is it `package.bin:make`, a module that happens to be called like a suffix?"""
    return place != text and _MODULE.fullmatch(place) is not None


def _suffix(place: str) -> str:
    pure = PureWindowsPath(place) if "\\" in place else PurePosixPath(place)
    return pure.suffix.lower()


def _cut(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
