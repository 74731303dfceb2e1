"""Writing a compiled model in formats of others: ONNX, OpenVINO's, and torch.export's.

What goes in is the canonical graph, so a file has the same numbers whatever the model was compiled for. They are for
other programs to run: fxquant does not read them back (`CompiledModel.save` is for that). Loading a .pt2 runs code.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fxquant.engines.engine import EngineRefusal
from fxquant.engines.importing import imported
from fxquant.errors import EngineUnavailableError, FxQuantError, LoweringError, UsageError, did_you_mean, in_one_line
from fxquant.files import shown, write_together
from fxquant.graphs.snapshot import TensorInfo
from fxquant.origin import where
from fxquant.sandbox import one_compilation
from fxquant.structure import flatten_with_paths
from fxquant.values import known_value

if TYPE_CHECKING:
    from fxquant.model import CompiledModel
    from fxquant.program import Program

MOST_BYTES = 2**31 - 1  # of a protocol buffer, which an ONNX file is


@dataclass(frozen=True, slots=True)
class Format:
    """A row of the table of formats."""

    name: str
    suffix: str
    extra: str  # the pip extra that brings its package; '': comes with torch
    package: str
    files: Callable[[CompiledModel, tuple[torch.Tensor, ...]], dict[str, bytes]]  # suffix → bytes, the main one last


def export(compiled: CompiledModel, path: str | os.PathLike[str], *, format: str | None = None) -> Path:
    """See CompiledModel.export."""
    chosen = chosen_format(_name_of(path), format)
    target = Path(path)
    program, graph_module = compiled.program, compiled.canonical  # FXQ401 while it calibrates
    try:
        with one_compilation(), torch.no_grad():
            parts = chosen.files(compiled, example_of(program))
    except ImportError as error:
        raise EngineUnavailableError(
            "FXQ516",
            f"format '{chosen.name}' needs '{chosen.package}', which cannot be imported: {error}",
            hint=f'pip install "fxquant[{chosen.extra}]"',
        ) from error
    except OSError as error:  # of the files that packages write on the way
        told = f"'{shown(str(path))}' cannot be written: {error.strerror or error}"
        raise UsageError("FXQ118", told, hint="what stood there before is as it was") from error
    except EngineRefusal as refusal:
        raise _formless(chosen, graph_module, refusal) from refusal
    except (FxQuantError, MemoryError):
        raise
    except Exception as error:  # of any kind: packages outside torch write the file
        raise _formless(chosen, graph_module, EngineRefusal(in_one_line(error))) from error
    return write_together(
        (target.with_suffix(suffix) if suffix != chosen.suffix else target, data) for suffix, data in parts.items()
    )


def _name_of(path: object) -> str:
    """The path as text. FXQ118 for what is none."""
    if isinstance(path, (str, os.PathLike)) and isinstance(name := os.fspath(path), str):
        return name
    raise UsageError("FXQ118", f"{path!r:.80} is no path of a file", hint="give a str or a Path, such as 'm.onnx'")


def chosen_format(path: str, name: str | None = None) -> Format:
    """The format of this name; None: of the path's suffix. FXQ118 where they are none, or do not go together."""
    suffix = Path(path).suffix.lower()
    if name is None:
        found = next((one for one in FORMATS.values() if one.suffix == suffix), None)
        if found is None:
            known = [one.suffix for one in FORMATS.values()]
            told = f"'{shown(path)}' ends in '{suffix}'" if suffix else f"'{shown(path)}' has no suffix"
            hint = did_you_mean(suffix, known) if suffix else f"one of {', '.join(known)}"
            raise UsageError("FXQ118", f"{told}, which is no format that a model is exported to", hint=hint)
        return found
    if not isinstance(name, str) or name not in FORMATS:
        raise UsageError(
            "FXQ118", f"a model is not exported to the format {name!r}", hint=did_you_mean(str(name), FORMATS)
        )
    if suffix != FORMATS[name].suffix:
        told = f"a file of format '{name}' ends in '{FORMATS[name].suffix}', '{shown(path)}' does not"
        raise UsageError("FXQ118", told, hint="leave format= out to go by the suffix")
    return FORMATS[name]


def example_of(program: Program) -> tuple[torch.Tensor, ...]:
    """Inputs to trace with: those that are known, else zeros of the shapes that are. FXQ517 where neither is."""
    if program.example_leaves is not None:
        return program.example_leaves
    made = []
    for node in program.graph.nodes:
        if node.op != "placeholder":
            continue
        info = known_value(node)
        if not isinstance(info, TensorInfo):
            raise LoweringError(
                "FXQ517",
                f"the shape of input '{node.name}' is not known, and every format has it",
                hint="compile with example_inputs, or call the model while it calibrates",
            )
        made.append(torch.zeros(info.shape, dtype=getattr(torch, info.dtype)))
    return tuple(made)


def _formless(chosen: Format, graph_module: Any, refusal: EngineRefusal) -> LoweringError:
    node = next((one for one in graph_module.graph.nodes if one.name == refusal.node), None)
    named = "" if node is None else f" '{_op(node, graph_module)}' at '{node.name}':"
    return LoweringError(
        "FXQ517",
        f"the graph has no form in format '{chosen.name}':{named} {refusal.why}",
        hint="export another format, or keep the layer out of the exported model",
        node=refusal.node or None,
        where=None if node is None else where(node),
    )


def _op(node: Any, graph_module: Any) -> str:
    if node.op == "call_module":
        return type(graph_module.get_submodule(node.target)).__name__
    return str(getattr(node.target, "__name__", node.target))


def _onnx(compiled: CompiledModel, leaves: tuple[torch.Tensor, ...]) -> dict[str, bytes]:
    proto = imported("fxquant.engines.onnx").to_onnx(compiled.canonical, leaves, names=_names(compiled.program))
    proto.producer_name, proto.producer_version = "fxquant", version("fxquant")
    for key, value in _facts(compiled).items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    if proto.ByteSize() > MOST_BYTES:
        raise EngineRefusal(f"it takes {proto.ByteSize():,} bytes, and an ONNX file holds {MOST_BYTES:,} at most")
    return {".onnx": proto.SerializeToString(deterministic=True)}


def _openvino(compiled: CompiledModel, leaves: tuple[torch.Tensor, ...]) -> dict[str, bytes]:
    openvino: Any = imported("openvino")
    model = imported("fxquant.engines.openvino").to_model(compiled.canonical, leaves, is_dynamic=True)
    for ports, names in zip((model.inputs, model.outputs), _names(compiled.program), strict=True):
        for port, name in zip(ports, names, strict=True):
            port.get_tensor().set_names({name})
    for key, value in _facts(compiled).items():
        model.set_rt_info(value, key.split("."))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "model.xml"
        openvino.save_model(model, place, compress_to_fp16=False)
        return {".bin": place.with_suffix(".bin").read_bytes(), ".xml": place.read_bytes()}


def _pt2(compiled: CompiledModel, leaves: tuple[torch.Tensor, ...]) -> dict[str, bytes]:
    from fxquant.engines.pt2 import to_exported_program

    program, buffer = to_exported_program(compiled.canonical, leaves), io.BytesIO()
    torch.export.save(program, buffer, extra_files=_facts(compiled))
    return {".pt2": buffer.getvalue()}


def _names(program: Program) -> tuple[list[str], list[str]]:
    """What the user calls the inputs and outputs: 'x', "batch['image']"; 'output', 'output.logits'."""
    signature = program.signature
    outputs = range(len(signature.outputs))
    assert signature.output_structure is not None
    _, paths, _ = flatten_with_paths(signature.output_structure.unflatten(outputs), "output")
    named = {item: path for item, path in zip(signature.outputs, paths, strict=True) if isinstance(item, int)}
    return [leaf.path for leaf in signature.tensor_leaves], [named[index] for index in sorted(named)]


def _facts(compiled: CompiledModel) -> dict[str, str]:
    """What a file says of itself."""
    codes = sorted({str(held.dtype).removeprefix("torch.") for held in compiled.state_dict().values()})
    told = [dtype for dtype in codes if dtype in ("int8", "uint8")]
    return {
        "fxquant.version": version("fxquant"),
        "fxquant.model": compiled.program.model_name,
        "fxquant.weights": ", ".join(told) or "float32",
    }


FORMATS: dict[str, Format] = {
    one.name: one
    for one in (
        Format("onnx", ".onnx", "onnxruntime", "onnx", _onnx),
        Format("openvino", ".xml", "openvino", "openvino", _openvino),
        Format("pt2", ".pt2", "", "torch", _pt2),
    )
}
