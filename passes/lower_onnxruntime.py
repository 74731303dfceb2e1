"""lower-onnxruntime: the canonical graph on ONNX Runtime.

    quantize → dequantize → conv(dequantize(codes)) → relu → quantize → dequantize   ⇒   onnxruntime(x)

What it refuses stays in torch between its calls; its outputs are held to the canonical graph (see `_lower_engine.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fxquant.ledger import Ledger
from fxquant.passes._lower_engine import lowered
from fxquant.pipeline import Pass
from fxquant.program import Program, Stage


@dataclass(frozen=True)
class LowerOnnxRuntime(Pass):
    """canonical graph ⇒ a QDQ ONNX graph, called as one node; the outputs checked for parity.

    FXQ512 when the engine refuses the graph, FXQ514 when its outputs are off. With `strict`, a quantized layer that
    stays in torch is an error (FXQ504). `check` leaves the parity check out when False.
    """

    name: ClassVar[str] = "lower-onnxruntime"
    accepts: ClassVar[frozenset[Stage]] = frozenset({Stage.CONVERTED})
    yields: ClassVar[Stage] = Stage.LOWERED

    strict: bool = False
    check: bool = True

    def run(self, program: Program, ledger: Ledger) -> Program:
        return lowered(program, ledger, "onnxruntime", is_strict=self.strict, is_checked=self.check)
