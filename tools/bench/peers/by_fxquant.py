"""Our own side: `fxquant.compile` for a target, as a user would call it."""

from __future__ import annotations

import fxquant
from fxquant.row import Row
from fxquant.tools.bench.peers.by_torch import called
from fxquant.tools.bench.peers.job import Builder, Job, Runner

_ANY_BATCH = ("onednn", "x86", "fbgemm", "qnnpack")  # these compile the same, whatever the batch


def compiled(job: Job, *, target: str) -> Builder:
    """Preset int8 on the same calibration batches; example inputs of the batch that will run."""
    made: dict[int, Runner] = {}

    def build(rows: int) -> Runner:
        key = 0 if target in _ANY_BATCH else rows
        if key not in made:
            model = fxquant.compile(
                job.model, "int8", calibration_data=job.batches, example_inputs=job.rows(rows), target=target
            )
            if target not in ("auto", model.target):  # else another target's time would stand under this one's name
                raise FellBack(f"{model.target} runs it: {_why(model.ledger.notices)}")
            made[key] = called(model)
            TOLD[rows] = model.target if target == "auto" else ""
        return made[key]

    return build


class FellBack(Exception):
    """The target refused the model, and another one runs it."""


def _why(notices: tuple[Row, ...]) -> str:
    return "; ".join(row.reason for row in notices if row.code.startswith("FXQ5"))


TOLD: dict[int, str] = {}  # rows → the target that 'auto' took
