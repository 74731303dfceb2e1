"""compiled.save(path): the canonical graph, its tensors and its ledger as one sealed file. The same bytes each time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

import fxquant
from fxquant.artifact import container, records, signatures
from fxquant.artifact.graphs import GraphWriter
from fxquant.artifact.payload import pack
from fxquant.artifact.text import dump
from fxquant.errors import ContractError, UnsafeError, UnwritableError
from fxquant.files import write_whole
from fxquant.ledger import Ledger
from fxquant.program import Finding, Program, Stage
from fxquant.targets import isa

if TYPE_CHECKING:
    from fxquant.model import CompiledModel

SCHEMA = 1
PROBE = "probe"  # the names of its tensors start so; a colon follows, and as many more as keep them apart


def save(compiled: CompiledModel, path: str | os.PathLike[str], *, has_probe: bool, follows_links: bool) -> Path:
    """Write the file whole or not at all. FXQ606 where it cannot be written, FXQ611 for what no file can hold."""
    if os.path.islink(path) and not follows_links:
        raise UnsafeError(
            "FXQ606",
            f"'{os.fspath(path)}' is a link, and what it points to would be replaced",
            hint="name the file itself, or say save(path, follow_links=True)",
        )
    return write_whole(path, to_bytes(compiled, has_probe=has_probe), failure=UnwritableError, code="FXQ606")


def to_bytes(compiled: CompiledModel, *, has_probe: bool = False) -> bytes:
    """The file's bytes: the same for the same model, in any process."""
    program = compiled.program
    if program.stage < Stage.CONVERTED:
        raise ContractError(
            "FXQ401", f"the model is {program.stage.name}: there is nothing to save yet", hint="call convert() first"
        )
    canonical = compiled.canonical
    writer = GraphWriter(canonical)
    nodes = writer.nodes()
    payload = pack(canonical)
    probe = _probe(program, payload.tensors) if has_probe else {}
    facts: dict[str, Any] = {
        "schema": SCHEMA,
        "producer": fxquant.__version__,
        "torch": torch.__version__,
        "machine": _machine(),
        "model": program.model_name,
        "stage": program.stage.name,
        "target": program.target,
        "policy": program.policy,
        "guard": compiled.guard_inputs,
        "signature": signatures.encode(program.signature),
        "nodes": nodes,
        "files": writer.marks.files,
        "layers": writer.layers,
        "leaves": writer.leaves,
        "odd": payload.odd,
        "probe": list(probe),
        "plan": records.encode_plan(program.plan),
        "ledger": records.encode_ledger(_unlowered(compiled)),
        "values": records.encode_values(program.values),
        "findings": _findings(program.findings, canonical),
    }
    return container.write(dump(facts), {**payload.tensors, **probe})


def _unlowered(compiled: CompiledModel) -> Ledger:
    """The ledger as it was before lowering, so that loading lowers from there and says so anew."""
    state = compiled.program.unlowered
    return compiled.ledger if state is None else Ledger.of(state)


def _machine() -> list[Any]:
    cpu = isa()
    return [cpu.machine, cpu.vnni]


def _findings(findings: Sequence[Finding], canonical: fx.GraphModule) -> list[list[Any]]:
    """[target, steps, indices of nodes] for each."""
    places = {node.name: index for index, node in enumerate(canonical.graph.nodes)}
    return [[f.target, float(f.steps).hex(), [places[name] for name in f.nodes]] for f in findings]


def _probe(program: Program, taken: Any) -> dict[str, Tensor]:
    """The example that the model was compiled with, for a parity check where it is loaded."""
    if program.example_leaves is None:
        raise ContractError("FXQ401", "there is no example to save as a probe", hint="save it without probe=True")
    prefix = f"{PROBE}:"
    while any(name.startswith(prefix) for name in taken):
        prefix += ":"
    return {f"{prefix}{index}": leaf.detach().contiguous() for index, leaf in enumerate(program.example_leaves)}
