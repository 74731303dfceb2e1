"""The contract on drawn models × drawn mappings: a model that runs on any batch, with an outcome for each site, or a
typed error that is not a fault of fxquant."""

from __future__ import annotations

import torch
from hypothesis import event, given
from hypothesis import strategies as st

import fxquant
from fxquant.errors import FxQuantError
from fxquant.testing import qconfig_mappings
from support.asserts import untouched
from support.counting import counted
from support.drawn_models import drawn, engines
from support.scale import examples

OURS = ("FXQ403", "FXQ404", "FXQ406")  # codes that say: a pass of ours is at fault


@examples(2)
@given(spec=drawn(), target=engines, data=st.data())
def test_any_mapping_on_any_model_gives_one_that_runs_or_a_typed_error(spec, target, data):
    model = spec.build()
    mapping = data.draw(qconfig_mappings(model), label="mapping")
    counted("drawn mapping")
    with untouched(model):
        try:
            made = fxquant.compile(model, mapping, calibration_data=spec.batches(), target=target)
        except FxQuantError as error:
            event(f"refused: {error.code}")
            assert error.code not in OURS, error
            return
        for batch in (3, 1, 0):
            args = spec.inputs(7, batch)
            found, wanted = listed(ran(made, args)), listed(floats(spec, args))
            assert [value.shape for value in found] == [value.shape for value in wanted]
            assert all(bool(value.isfinite().all()) for value in found)
    mute = [row.site for row in made.ledger.layers if not row.effective]
    assert not mute, f"sites without an outcome: {mute}"


def copied(args):
    """Drawn models may write to their arguments."""
    return tuple(argument.clone() for argument in args)


def ran(made, args):
    """What the compiled model gives. What the float model takes, it takes."""
    try:
        return made(*copied(args))
    except FxQuantError as error:
        told = str(error)
    raise AssertionError(told)  # without the generated code in its cause, whose name differs on each run


def floats(spec, args):
    """What the float model gives: another one, for some count their calls."""
    with torch.no_grad():
        return spec.build()(*copied(args))


def listed(result):
    """The outputs as a list."""
    return list(result) if isinstance(result, tuple) else [result]
