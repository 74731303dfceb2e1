"""`fxquant verify`: every check that loading a saved model makes, and what the file holds. Nothing is built or run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from fxquant.printable import printable

if TYPE_CHECKING:
    from fxquant.artifact.inspecting import Artifact


@click.command("verify")
@click.argument("path", metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(path: str, as_json: bool) -> None:
    """Check every byte of a saved model without running any of it."""
    from fxquant.artifact.inspecting import inspect

    facts = _facts(inspect(path))
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {printable(_shown(value))}")
    print(f"{printable(path)}: whole, and of the form that fxquant writes")


def _facts(artifact: Artifact) -> dict[str, Any]:
    tensors = artifact.state.tensors.values()
    payload = sum(
        tensor.numel() * tensor.element_size() for tensor in {id(tensor): tensor for tensor in tensors}.values()
    )
    return {
        "model": artifact.model_name,
        "sha256": artifact.sha256,
        "size_bytes": artifact.size_bytes,
        "payload_bytes": payload,
        "stage": artifact.stage.name.lower(),
        "target": artifact.target,
        "saved_by": f"fxquant {artifact.producer}, torch {artifact.torch_version}, {artifact.machine}"
        + {True: " with VNNI", False: " without VNNI", None: ""}[artifact.has_vnni],
        "policy": artifact.policy,
        "layers": len(artifact.ledger.layers),
        "nodes": len(artifact.specs),
        "tensors": len(artifact.state.tensors),
        "has_probe": artifact.probe is not None,
        "asks_for": dict(artifact.leaves),
    }


def _shown(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case dict():
            return ", ".join(f"{name} ({kind})" for name, kind in value.items()) or "nothing"
    return str(value).strip().replace("\n", "\n" + " " * 15)
