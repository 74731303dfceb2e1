"""Reading a saved model as data: every check there is, and nothing built or run. `fxquant verify` is this."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fxquant import targets
from fxquant.artifact import container, records, seal, signatures
from fxquant.artifact.marks import Marks
from fxquant.artifact.payload import Unpacked, unpack
from fxquant.artifact.saving import SCHEMA
from fxquant.artifact.semantics import Checker
from fxquant.artifact.specs import LayerSpec, NodeSpec, Ref, layers_of, leaves_of, nodes_of
from fxquant.artifact.text import advised, bool_of, int_of, list_of, malformed, object_of, parse, text_of, texts_of
from fxquant.errors import SchemaError
from fxquant.ledger import Ledger
from fxquant.plan import QuantPlan
from fxquant.program import Finding, Stage
from fxquant.signature import Signature

_KEYS = (
    "schema", "producer", "torch", "machine", "model", "stage", "target", "policy", "guard", "signature", "nodes",
    "files", "layers", "leaves", "odd", "probe", "plan", "ledger", "values", "findings",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Artifact:
    """A saved model whose every part was checked; what `load` builds from."""

    sha256: str
    size_bytes: int
    producer: str  # version of fxquant
    torch_version: str
    machine: str  # of the CPU that it was compiled on, and has it VNNI?
    has_vnni: bool | None
    model_name: str
    stage: Stage
    target: str
    policy: str
    guards_inputs: bool
    signature: Signature
    specs: tuple[NodeSpec, ...]
    marks: Marks
    layers: Mapping[str, LayerSpec]
    leaves: Mapping[str, str]
    state: Unpacked
    probe: tuple[torch.Tensor, ...] | None
    plan: QuantPlan | None
    ledger: Ledger
    values: Mapping[str, Any]
    findings: tuple[Finding, ...]


def inspect(path: str | os.PathLike[str], types: Mapping[str, type] | None = None) -> Artifact:
    """The checked contents of a file. Raises ArtifactError FXQ601 to FXQ609.

    `types` are the user's own classes by name; None: their names are not looked at.
    """
    return check(*container.read_file(path), types=types)


def check(data: bytes, title: str = "the file", *, types: Mapping[str, type] | None = None) -> Artifact:
    """`inspect` for bytes: size, seal, header, schema, semantics, in this order."""
    with advised():
        return _checked(data, title, types)


def _checked(data: bytes, title: str, types: Mapping[str, type] | None) -> Artifact:
    contents = container.read(data, title)
    item = object_of(parse(contents.text, "the graph"), "the graph")
    _check_schema(item, title)
    object_of(item, "the graph", keys=_KEYS)
    layers, leaves = layers_of(item["layers"]), leaves_of(item["leaves"])
    specs = nodes_of(item["nodes"], layers, leaves)
    signature = signatures.decode(item["signature"], types)
    _check_ends(specs, signature)
    probe, state = _tensors(contents, item)
    Checker(specs, state.tensors).check()
    machine, has_vnni = list_of(item["machine"], "the machine", sizes=(2,))
    return Artifact(
        sha256=seal.digest_of(data),
        size_bytes=len(data),
        producer=text_of(item["producer"], "the producer"),
        torch_version=text_of(item["torch"], "the version of torch"),
        machine=text_of(machine, "the machine"),
        has_vnni=None if has_vnni is None else bool_of(has_vnni, "the machine"),
        model_name=text_of(item["model"], "the model's name"),
        stage=_stage(item["stage"]),
        target=_target(item["target"]),
        policy=text_of(item["policy"], "the policy"),
        guards_inputs=bool_of(item["guard"], "the guard"),
        signature=signature,
        specs=specs,
        marks=Marks(list(_files(item["files"]))),
        layers=layers,
        leaves=leaves,
        state=state,
        probe=probe,
        plan=records.decode_plan(item["plan"]),
        ledger=records.decode_ledger(item["ledger"]),
        values=records.decode_values(item["values"]),
        findings=_findings(item["findings"], specs),
    )


def _check_schema(item: Mapping[str, Any], title: str) -> None:
    schema = int_of(item.get("schema"), "its schema", 0, 10**6)
    if schema != SCHEMA:
        producer = text_of(item.get("producer", "?"), "the producer")[:40]
        hint = f"it was saved by fxquant {producer}; " + ("upgrade fxquant" if schema > SCHEMA else "save it again")
        told = f"{title} has schema {schema}; this version reads schema {SCHEMA}"
        raise SchemaError("FXQ604", told, hint=hint)


def _check_ends(specs: Sequence[NodeSpec], signature: Signature) -> None:
    """The graph's inputs and outputs are those of the signature."""
    inputs = [spec.name for spec in specs if spec.kind == "in"]
    if len(inputs) != len(signature.tensor_leaves):
        raise malformed(f"its graph has {len(inputs)} inputs, its signature {len(signature.tensor_leaves)}")
    results = specs[-1].args[0]
    if not isinstance(results, tuple) or not all(map(_is_of_nodes, results)):
        raise malformed("its output is no tuple of nodes")
    if any(isinstance(output, int) and output >= len(results) for output in signature.outputs):
        raise malformed(f"its signature names an output beyond the {len(results)} of its graph")


def _is_of_nodes(result: Any) -> bool:
    """A node, or a tuple of nodes that a module returned as it is (an LSTM's output and state)."""
    return isinstance(result, Ref) or (isinstance(result, tuple) and all(map(_is_of_nodes, result)))


def _tensors(contents: container.Contents, item: Mapping[str, Any]) -> tuple[tuple[torch.Tensor, ...] | None, Unpacked]:
    names = texts_of(item["probe"], "the probe")
    missing = [name for name in names if name not in contents.entries]
    if missing or len(set(names)) != len(names):
        raise malformed(f"its probe names tensors that it has not: {', '.join(missing)[:60]}")
    tensors = contents.tensors()
    probe = tuple(tensors.pop(name) for name in names)
    return probe or None, unpack(tensors, item["odd"])


def _stage(found: Any) -> Stage:
    if found not in (Stage.CONVERTED.name, Stage.LOWERED.name):
        raise malformed(f"its stage is {found!r:.40}")
    return Stage[found]


def _target(found: Any) -> str:
    if text_of(found, "the target") not in targets.TARGETS:
        raise malformed(f"its target is {found!r:.40}")
    return str(found)


def _files(found: Any) -> tuple[str, ...]:
    names = texts_of(found, "the files")
    if any(name != os.path.basename(name) for name in names):
        raise malformed("a file of the user's code is named with its folder")
    return names


def _findings(found: Any, specs: Sequence[NodeSpec]) -> tuple[Finding, ...]:
    made = []
    for entry in list_of(found, "the findings"):
        target, steps, places = list_of(entry, "a finding", sizes=(3,))
        indices = [int_of(place, "a finding", 0, len(specs) - 1) for place in list_of(places, "a finding")]
        try:
            value = float.fromhex(text_of(steps, "a finding"))
        except (ValueError, OverflowError) as error:
            raise malformed(f"a finding of {steps[:40]!r} codes") from error
        if not indices:
            raise malformed("a finding is about no node")
        made.append(Finding(tuple(specs[index].name for index in indices), value, _target(target)))
    return tuple(made)
