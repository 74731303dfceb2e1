"""One candidate as plain data: what was measured of it, layer by layer what it got, or why it failed."""

from __future__ import annotations

from dataclasses import dataclass

FLOAT_NAME = "float"  # of the row of the model itself


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds of one call, over the rounds of a timing in which all candidates took turns."""

    batch_size: int
    threads: int
    median_seconds: float
    low_seconds: float  # lower quartile
    high_seconds: float  # upper quartile
    rounds: int

    @property
    def setting(self) -> tuple[int, int]:
        """(batch size, threads)."""
        return self.batch_size, self.threads


@dataclass(frozen=True, slots=True)
class Layer:
    """What one call site got in one candidate, and why; its SQNR in dB, where it was measured."""

    site: str
    module: str
    op: str
    effective: str
    code: str
    reason: str
    own_sqnr_db: float | None = None  # fed the float model's own inputs: what this layer alone adds
    sqnr_db: float | None = None  # with the errors of all layers before it


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a candidate has no numbers."""

    code: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.code} {' '.join(self.message.split())}"


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """One candidate. None stands for what could not be measured, or makes no sense for it."""

    name: str
    kind: str  # 'float', 'compiled', 'module' or 'failed'
    target: str = ""  # engine, of a compiled one
    size_bytes: int | None = None  # on disk
    size_of: str = ""  # 'file', or 'state_dict' for what is not saved as a file of ours
    peak_bytes: int | None = None  # of one call at the largest batch size, less weights
    latencies: tuple[Latency, ...] = ()
    metric: float | None = None
    sqnr_db: float | None = None  # against the float model; infinity where they are equal
    int8_share: float | None = None  # of the multiply-accumulates, 0 to 1
    compile_seconds: float | None = None
    layers: tuple[Layer, ...] = ()
    notes: tuple[str, ...] = ()
    failure: Failure | None = None

    @property
    def is_float(self) -> bool:
        """Is it the model itself?"""
        return self.kind == "float"

    def latency(self, batch_size: int | None = None, threads: int | None = None) -> Latency | None:
        """The timing of one setting; of the first that was asked for where none is named. None where there is none."""
        for latency in self.latencies:
            if batch_size in (None, latency.batch_size) and threads in (None, latency.threads):
                return latency
        return None
