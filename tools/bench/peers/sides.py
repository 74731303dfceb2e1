"""The sides of the comparison: a name, what it stands for, and the function that builds it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # it imports torch, and a wrong name is told without
    from fxquant.tools.bench.peers.job import Builder, Job

_HERE = "fxquant.tools.bench.peers"


@dataclass(frozen=True, slots=True)
class Side:
    """One row of the table. `function` is 'module:name' below this package, called with the job and `options`."""

    name: str
    group: str  # 'float', 'torch', 'onnxruntime', 'openvino', 'fxquant'
    title: str
    function: str
    options: Mapping[str, Any] = field(default_factory=dict)
    kinds: frozenset[str] = frozenset()  # of models; empty for all
    is_slow: bool = False  # a minute a model: only when asked for
    libraries: tuple[str, ...] = ()  # that it imports only when it is called

    @property
    def is_peer(self) -> bool:
        """Is this what people would use instead?"""
        return self.group != "fxquant"

    def suits(self, kind: str) -> bool:
        """Is this side meant for such models?"""
        return not self.kinds or kind in self.kinds

    def start(self) -> Any:
        """The function, its libraries imported where they are here: importing is charged to nobody."""
        for library in self.libraries:
            with suppress(ModuleNotFoundError):  # the side itself will say so
                import_module(library)
        module, _, name = self.function.partition(":")
        return getattr(import_module(f"{_HERE}.{module}"), name)

    def build(self, function: Any, job: Job) -> Builder:
        """Quantize, for batches of any size."""
        builder: Builder = function(job, **self.options)
        return builder


_TRANSFORMERS = frozenset({"transformer"})
_LINEAR = frozenset({"transformer", "recurrent"})  # what dynamic quantization is for
_ONNX, _OPENVINO = ("onnx", "onnxscript", "onnxruntime"), ("openvino",)
_OF_TARGET = {"onnxruntime": _ONNX, "openvino": _OPENVINO, "auto": (*_ONNX, *_OPENVINO)}


def _fxquant(target: str, *, is_slow: bool = False) -> Side:
    title = "fxquant, auto" if target == "auto" else f"fxquant on {target}"
    libraries = _OF_TARGET.get(target, ())
    return Side(
        f"fxquant-{target}",
        "fxquant",
        title,
        "by_fxquant:compiled",
        {"target": target},
        is_slow=is_slow,
        libraries=libraries,
    )


SIDES: dict[str, Side] = {
    side.name: side
    for side in (
        Side("float-eager", "float", "float32, torch eager", "by_torch:eager"),
        Side("float-onnxruntime", "float", "float32, ONNX Runtime", "by_onnxruntime:unquantized", libraries=_ONNX),
        Side("float-openvino", "float", "float model, OpenVINO's default precision", "by_openvino:unquantized"),
        Side(
            "float-openvino-f32",
            "float",
            "float32, OpenVINO",
            "by_openvino:unquantized",
            {"precision": "f32"},
        ),
        Side("fx-x86", "torch", "prepare_fx/convert_fx, x86", "by_torch:stock", {"engine_name": "x86"}),
        Side("fx-onednn", "torch", "prepare_fx/convert_fx, onednn", "by_torch:stock", {"engine_name": "onednn"}),
        Side("eager-dynamic", "torch", "torch.ao quantize_dynamic", "by_torch:dynamic", kinds=_LINEAR),
        Side("pt2e", "torch", "torchao PT2E, inductor", "by_pt2e:compiled", is_slow=True),
        Side(
            "onnxruntime-static",
            "onnxruntime",
            "ONNX Runtime quantize_static",
            "by_onnxruntime:static",
            libraries=_ONNX,
        ),
        Side(
            "onnxruntime-dynamic",
            "onnxruntime",
            "ONNX Runtime quantize_dynamic",
            "by_onnxruntime:dynamic",
            kinds=_LINEAR,
            libraries=_ONNX,
        ),
        Side("nncf", "openvino", "NNCF + OpenVINO", "by_openvino:quantized", libraries=("nncf",)),
        Side(
            "nncf-transformer",
            "openvino",
            "NNCF for transformers + OpenVINO",
            "by_openvino:quantized",
            {"model_type": "TRANSFORMER"},
            libraries=("nncf",),
            kinds=_TRANSFORMERS,
        ),
        _fxquant("onednn"),
        _fxquant("inductor", is_slow=True),
        _fxquant("onnxruntime"),
        _fxquant("openvino"),
        _fxquant("auto"),
    )
}
