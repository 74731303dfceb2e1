"""What was measured: plain data, to JSON and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fxquant.comparing.timing import Ratio, Timing, ratio
from fxquant.tools.bench.peers.sides import SIDES, Side

EQUAL_DB = 0.5  # a peer whose SQNR is at most this above ours has no more accuracy


@dataclass(frozen=True, slots=True)
class SideResult:
    """One side on one model; `failure` says why there are no numbers. Dictionaries go by the rows of a batch."""

    side: str
    failure: str = ""
    build_seconds: float | None = None  # of the first batch size
    sqnr_db: Mapping[int, float] = field(default_factory=dict)
    seconds: Mapping[int, tuple[float, ...]] = field(default_factory=dict)  # a call, one number a round
    note: str = ""

    @property
    def about(self) -> Side:
        """Its row of the table of sides."""
        return SIDES[self.side]

    def timing(self, rows: int) -> Timing:
        """Medians and spread."""
        return Timing(self.seconds[rows])

    def sqnr(self) -> float:
        """Of the first batch size."""
        return next(iter(self.sqnr_db.values()), float("nan"))


@dataclass(frozen=True, slots=True)
class ModelResult:
    """All sides on one model."""

    model: str
    sides: tuple[SideResult, ...]

    def timed(self, rows: int) -> list[SideResult]:
        """The sides that have a time for this batch."""
        return [side for side in self.sides if rows in side.seconds]

    def find(self, name: str, rows: int) -> SideResult | None:
        """A side by its name, where it was timed."""
        return next((side for side in self.timed(rows) if side.side == name), None)

    def fastest(self, rows: int, *, groups: Sequence[str] = (), most_db: float = float("inf")) -> SideResult | None:
        """The fastest peer, of some groups, and with no more SQNR than this."""
        found = [side for side in self.timed(rows) if side.about.is_peer and side.sqnr() <= most_db]
        found = [side for side in found if not groups or side.about.group in groups]
        return min(found, key=lambda side: side.timing(rows).median, default=None)

    def ratio(self, over: SideResult, under: SideResult, rows: int) -> Ratio:
        """Paired by round."""
        return ratio(over.timing(rows), under.timing(rows))


@dataclass(frozen=True, slots=True)
class Result:
    """A run of the bench. `about` holds the machine, versions and settings."""

    about: Mapping[str, Any]
    models: tuple[ModelResult, ...]

    @property
    def batches(self) -> tuple[int, ...]:
        """Rows of the batches that were timed."""
        return tuple(self.about["batches"])

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON, which has no word for infinity: an SQNR of it is text."""
        given = asdict(self)
        for side in (side for model in given["models"] for side in model["sides"]):
            side["sqnr_db"] = {
                rows: value if math.isfinite(value) else str(value) for rows, value in side["sqnr_db"].items()
            }
        return given

    @classmethod
    def of_dict(cls, given: Mapping[str, Any]) -> Result:
        """What `as_dict` gave, JSON's string keys and lists undone."""
        return cls(
            given["about"],
            tuple(ModelResult(model["model"], tuple(map(_side, model["sides"]))) for model in given["models"]),
        )


def _side(given: Mapping[str, Any]) -> SideResult:
    by_rows = {
        "sqnr_db": {int(rows): float(value) for rows, value in given["sqnr_db"].items()},
        "seconds": {int(rows): tuple(values) for rows, values in given["seconds"].items()},
    }
    return SideResult(**{**given, **by_rows})


def joined(results: Sequence[Result]) -> Result:
    """Runs of some models each as one. ValueError where machine, versions or settings differ."""
    about = results[0].about
    for result in results[1:]:
        if differing := [key for key in about if result.about.get(key) != about[key]]:
            raise ValueError(f"the runs differ in {', '.join(differing)}")
    return Result(about, tuple(model for result in results for model in result.models))
