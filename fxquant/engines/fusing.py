"""What each engine fuses: which ops read and write codes there, so that a quantize in front of them costs nothing.

A table to be read by passes that place quantize and dequantize. Op kinds are those of `KINDS`. Read from the engines'
own optimized graphs and per-op profiles, onnxruntime 1.32 and openvino 2026.4 on AVX-512 VNNI.
"""

from __future__ import annotations

from dataclasses import dataclass

KINDS = ("conv", "conv_transpose", "linear", "matmul", "add", "mul", "concat", "max_pool", "avg_pool", "move", "relu")


@dataclass(frozen=True, slots=True)
class Fusing:
    """One engine's rules.

    reads_codes: ops with an int8 kernel that takes dequantize → op, whatever becomes of the result.
    only_between: ops whose int8 kernel needs codes on every side (dequantize → op → quantize); else they run in float.
    carries_codes: ops that take codes through unchanged, so one quantize before them serves all that follows.
    folds_clip: a clamp right before a quantize (ReLU6) is folded into it.
    signed_is_symmetric: activations with negative values want int8 codes with the zero point 0.
    activation: the dtype of codes of activations that every kernel of the engine takes.
    """

    reads_codes: frozenset[str]
    only_between: frozenset[str] = frozenset()
    carries_codes: frozenset[str] = frozenset()
    folds_clip: bool = False
    signed_is_symmetric: bool = False
    activation: str = "uint8"


FUSING: dict[str, Fusing] = {
    # conv → QLinearConv (its output must be quantized), linear → QGemm or MatMulIntegerToFloat, matmul likewise. A relu
    # before a quantize with the zero point of its smallest code is dropped; a clip is not, so ranges must hold it.
    "onnxruntime": Fusing(
        reads_codes=frozenset({"linear", "matmul"}),
        only_between=frozenset({"conv", "add", "mul", "concat", "avg_pool"}),
        carries_codes=frozenset({"max_pool", "move", "relu"}),
    ),
    # The kernels of conv and linear quantize their own result, and sum a float one in place: add stays float.
    "openvino": Fusing(
        reads_codes=frozenset({"conv", "conv_transpose", "linear"}),
        carries_codes=frozenset({"max_pool", "move"}),
        signed_is_symmetric=True,
    ),
}
