"""Saved models for tests: small ones as bytes, and files that are wrong on purpose yet carry a seal that is right."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import fxquant
from fxquant.artifact import container, seal
from fxquant.artifact.saving import to_bytes
from fxquant.artifact.text import dump
from support.compiling import compiled
from support.models import MODELS

SMALL = ("mlp", "shared_conv_norm", "counts_calls", "lstm", "transpose_kernel_two", "encoder")


@cache
def model(name: str = "mlp", preset: str = "int8", target: str = "x86") -> fxquant.CompiledModel:
    """A compiled model of the zoo. Do not change it."""
    return compiled(MODELS[name], preset, target=target)


@cache
def saved(name: str = "mlp", preset: str = "int8", *, probe: bool = False) -> bytes:
    """Its file."""
    return to_bytes(model(name, preset), has_probe=probe)


def edited(data: bytes, edit: Callable[[dict[str, Any]], Any]) -> bytes:
    """The file with its graph changed by `edit`, sealed again: what somebody would make who knows the format."""
    contents = container.read(data, "the file")
    facts = json.loads(contents.text)
    changed = edit(facts)
    return container.write(dump(facts if changed is None else changed), contents.tensors())


def with_text(data: bytes, text: str) -> bytes:
    """The file with another text in the place of its graph, sealed."""
    return container.write(text, container.read(data, "the file").tensors())


def with_header(data: bytes, edit: Callable[[dict[str, Any]], Any]) -> bytes:
    """The file with its safetensors header changed, sealed again whatever it says."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    changed = edit(header)
    text = json.dumps(header if changed is None else changed, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return resealed(len(text).to_bytes(8, "little") + text + data[8 + length :])


def resealed(data: bytes) -> bytes:
    """Any bytes with a seal that is right for them."""
    start = 8 + len(seal.MAGIC)
    return seal.sealed(data[:start] + seal.BLANK.encode() + data[seal.END :])


def first(facts: dict[str, Any], target: str) -> list[Any]:
    """The first record that calls an op."""
    return next(node for node in facts["nodes"] if node[0] in ("fn", "method") and node[2] == target)
