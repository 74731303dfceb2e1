"""What each node of a canonical graph costs on OpenVINO: measured in one compiled graph, kernel by kernel.

A kernel computes several nodes (conv + add + relu + quantize): its time is its main node's, and its other nodes take
nothing. A quantize or dequantize that is a kernel of its own has its own time: that is the price of a border. The least
of the repeats counts, since whatever else runs on the machine only adds to it.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxquant.engines._openvino_session import canonical_names
from fxquant.engines.openvino import compiled, to_model
from fxquant.engines.openvino_placement import LAYERS

_HEAVY = (*LAYERS, torch.matmul, operator.matmul, torch.bmm, F.scaled_dot_product_attention)
_FREE = ("Parameter", "Input", "Output", "Constant", "Const", "Reshape")  # a reshape hands on the memory as it is


def node_times(
    canonical: fx.GraphModule, leaves: tuple[Tensor, ...], *, threads: int, repeats: int = 20
) -> Mapping[str, float]:
    """Seconds by canonical node; nodes that were fused away are 0. EngineRefusal where OpenVINO does not run it."""
    session = compiled(to_model(canonical, leaves), leaves, threads, PERF_COUNT=True)
    least: dict[str, float] = {}
    for _ in range(max(1, repeats)):
        for name, seconds in session.kernel_seconds(leaves).items():
            least[name] = min(seconds, least.get(name, seconds))
    heavy = {node.name for node in canonical.graph.nodes if node.target in _HEAVY}
    times = {node.name: 0.0 for node in canonical.graph.nodes}
    for op in session.model.get_runtime_model().get_ordered_ops():
        seconds = least.get(op.get_friendly_name(), 0.0)
        main = _main_node(op, heavy)
        if seconds and main in times:
            times[main] += seconds
    return times


def _main_node(op: Any, heavy: Collection[str]) -> str:
    """The canonical node that a kernel is for: its layer or else first; of one without any, its neighbour's."""
    about = op.get_rt_info()
    if about["layerType"].astype(str) in _FREE:
        return ""
    own = canonical_names(about["originalLayersNames"].astype(str))
    if own:
        return next((name for name in own if name in heavy), own[0])
    neighbours = [target.get_node() for output in op.outputs() for target in output.get_target_inputs()]
    neighbours += [source.get_node() for source in op.input_values()]
    for node in neighbours:
        near = canonical_names(node.get_rt_info()["originalLayersNames"].astype(str))
        if near:
            return near[0]
    return ""
