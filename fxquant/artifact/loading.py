"""fxquant.load(path): the saved model again, lowered for an engine of this machine. Nothing of the file is executed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from fxquant import targets
from fxquant.artifact.building import build, root_of
from fxquant.artifact.inspecting import Artifact, inspect
from fxquant.artifact.text import advised
from fxquant.errors import (
    ContractError,
    FxQuantError,
    FxQuantWarning,
    LimitError,
    MissingLeafError,
    UnsafeError,
    did_you_mean,
)
from fxquant.lowering import Lowering
from fxquant.model import CompiledModel
from fxquant.pipeline import PassRecord, Pipeline, snapshot_at
from fxquant.program import Program, Stage
from fxquant.racing import SECONDS, Race, race_for
from fxquant.registry import make
from fxquant.sandbox import one_compilation
from fxquant.source import Source
from fxquant.tails import lowering_pass
from fxquant.torch_ao import engine

Leaf = nn.Module | Callable[..., Any]


def load(
    path: str | os.PathLike[str],
    *,
    leaves: Mapping[str, Leaf] | None = None,
    types: Iterable[type] = (),
    target: str | None = None,
    check_probe: bool = False,
) -> CompiledModel:
    """A compiled model that `compiled.save(path)` wrote: the same numbers, bit for bit, on the same engine.

    That holds on one machine with one number of threads, on engines outside torch too: they compile the same graph
    again. One that takes only pieces of a graph, between which it is not known what shapes are handed on (no op runs to
    find out), gives way to torch's own with FXQ512; its numbers are another engine's then.

    Args:
        path: the file. It may come from anyone: no code in it is executed, every byte of it is checked, and no op of
            its graph runs before you call the model (weights are dequantized and packed).
        leaves: modules and functions of your own that the compiled model calls, by the name that the error FXQ609
            says. A module is copied, and its copy gets the numbers of the file.
        types: your own classes among the model's arguments and outputs (dataclasses, named tuples).
        target: another one than it was compiled for; 'auto' for what suits this CPU, or, with `check_probe`, for the
            fastest on the example. An engine outside torch compiles the graph when it is loaded; one that refuses it
            gives way to torch's own.
        check_probe: run the graph on the example that was saved with it, and hold each layer of the engine here to the
            canonical graph. For files that you trust: the graph decides what is computed, and how long it takes.

    Raises:
        ArtifactError: FXQ601 to FXQ609, by what is wrong with the file.
        BackendError: FXQ502 when the engine is not here.
    """
    artifact = inspect(path, {kind.__name__: kind for kind in types})
    given = dict(leaves or {})
    _check_leaves(artifact, given)
    named = artifact.target if target is None else target
    chosen, is_checked = targets.resolve(named), check_probe and artifact.probe is not None
    race = race_for(None, SECONDS) if named == targets.AUTO and is_checked else None
    _warn_unchecked(artifact, chosen, is_checked=is_checked)
    with one_compilation(), engine(chosen.engine), advised():
        return _compiled(artifact, given, chosen.target, race, check_probe=check_probe)


def _compiled(
    artifact: Artifact, leaves: Mapping[str, Leaf], target: str, race: Race | None, *, check_probe: bool
) -> CompiledModel:
    program = replace(_program(artifact, leaves), target=target)
    options = {"check": check_probe}
    steps = (make(lowering_pass(target), **options),) if artifact.stage is Stage.LOWERED else ()
    lowering = Lowering(Pipeline(steps), race=race, places=False, options=options)
    try:
        program, history = lowering.run(program, artifact.ledger)
    except FxQuantError as error:
        if error.code not in ("FXQ403", "FXQ404"):
            raise
        # what failed is the pass, and what made it fail passed every check: the file is at fault
        raise UnsafeError("FXQ605", f"the graph cannot be lowered: {error.message}"[:400]) from error
    except MemoryError as error:
        raise LimitError("FXQ607", "the graph takes more memory than is left") from error
    except Exception as error:
        raise UnsafeError("FXQ605", f"the graph cannot be lowered: {error}"[:400]) from error
    if not history:
        now = snapshot_at(program)
        history = (PassRecord("load", program.stage, now, now, 0.0),)
    source = Source(lambda: None, (), None, ())
    return CompiledModel(
        program, artifact.ledger, history, _refuse, source, guard_inputs=artifact.guards_inputs, born=Stage.CONVERTED
    )


def _program(artifact: Artifact, leaves: Mapping[str, Leaf]) -> Program:
    state = artifact.state
    root = root_of(artifact.layers, leaves, state.tensors, state.parameters)
    return Program(
        build(artifact.specs, root, leaves, artifact.marks, artifact.model_name),
        Stage.CONVERTED,
        artifact.signature,
        example_leaves=artifact.probe,
        values=artifact.values,
        plan=artifact.plan,
        target=artifact.target,
        model_name=artifact.model_name,
        policy=artifact.policy,
        findings=artifact.findings,
        is_foreign=True,
    )


def _refuse(*_: Any) -> Any:
    raise ContractError("FXQ401", "a loaded model is finished", hint="convert() is for models that calibrate")


def _check_leaves(artifact: Artifact, given: Mapping[str, Leaf]) -> None:
    """Exactly what the file asks for, modules where it had modules."""
    for name, kind in artifact.leaves.items():
        if name not in given:
            near = "" if not given else f"; handed in: {', '.join(given)}"
            what = "function" if kind == "function" else f"module of class {kind[:60]}"
            raise MissingLeafError(
                "FXQ609",
                f"the model calls '{name[:80]}', a {what} of its maker's own{near}",
                hint=f"fxquant.load(path, leaves={{'{name[:80]}': ...}})",
                module=name,
            )
        if isinstance(given[name], nn.Module) is (kind == "function") or not callable(given[name]):
            told = (
                f"'{name[:80]}' was a {kind[:60]} when the model was saved, and is a {type(given[name]).__name__} now"
            )
            raise MissingLeafError("FXQ609", told, hint="hand in what the saved model called", module=name)
    for name in given:
        if name not in artifact.leaves:
            told = f"the model calls nothing of yours that is called '{name}'"
            raise MissingLeafError("FXQ609", told, hint=did_you_mean(name, artifact.leaves))


def _warn_unchecked(artifact: Artifact, chosen: targets.Resolution, *, is_checked: bool) -> None:
    """Kernels of another engine, or of a CPU without VNNI, may give other numbers than where the model was compiled."""
    if is_checked:
        return
    target = chosen.target
    way_out = "they are not checked here (save(path, probe=True), then load(path, check_probe=True))"
    if targets.has_saturation_risk(chosen.engine, targets.isa()) and artifact.has_vnni:
        told = f"was compiled on a CPU with VNNI, this one has none: sums on '{target}' may saturate, and {way_out}"
    elif target != artifact.target:
        told = f"was compiled for '{artifact.target}': the kernels of '{target}' may give other numbers, and {way_out}"
    else:
        return
    warnings.warn(f"FXQ506 the model {told}", FxQuantWarning, stacklevel=3)
