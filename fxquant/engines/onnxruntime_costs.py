"""What each canonical node takes in ONNX Runtime, by its own profiler: one run with a clock in each kernel.

A kernel has the name of one of the nodes that it computes, with suffixes of the runtime's own ('node_conv2d_1_token_5',
'node_add_3_nhwc'); the others of them take nothing by themselves.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, fx

from fxquant.engines.exportable import canonical_name, exported
from fxquant.engines.onnx import to_onnx
from fxquant.engines.onnxruntime import options_for, session_of

_KERNEL, _NODE = "_kernel_time", "node_"
_MICRO = 1e-6


def node_times(
    canonical: fx.GraphModule, leaves: tuple[Tensor, ...], *, threads: int, repeats: int
) -> dict[str, float]:
    """Canonical node → the least of its seconds in so many calls. EngineRefusal where the runtime takes no such graph.

    A node that is part of another one's kernel is not named.
    """
    names = {node.name: canonical_name(node) for node in exported(canonical, leaves, is_dynamic=True).graph.nodes}
    model = to_onnx(canonical, leaves)
    with tempfile.TemporaryDirectory() as folder:
        options = options_for(threads)
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        session = session_of(model.SerializeToString(), options)
        given = {one.name: leaf.numpy() for one, leaf in zip(session.get_inputs(), leaves, strict=True)}
        for _ in range(repeats + 1):
            session.run(None, given)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return least_times(events, names, calls=repeats + 1)


def least_times(events: Iterable[Mapping[str, Any]], names: Mapping[str, str], *, calls: int) -> dict[str, float]:
    """The least seconds of each canonical node. The first of `calls` runs warms up and does not count.

    `names` are canonical nodes by the names that the exporter knows.
    """
    taken: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and str(event["name"]).endswith(_KERNEL):
            taken.setdefault(str(event["name"]).removesuffix(_KERNEL), []).append(float(event["dur"]) * _MICRO)
    found: dict[str, float] = {}
    for kernel, seconds in taken.items():
        canonical = names.get(_exported(kernel, names), "")
        counted = seconds[len(seconds) // calls :] or seconds
        if canonical:
            found[canonical] = found.get(canonical, 0.0) + min(counted)
    return found


def _exported(kernel: str, names: Mapping[str, str]) -> str:
    """The exporter's node behind a kernel: the longest of its names that the kernel's begins with."""
    words = kernel.removeprefix(_NODE).partition("/")[0].split("_")
    prefixes = ("_".join(words[:count]) for count in range(len(words), 0, -1))
    return next((prefix for prefix in prefixes if prefix in names), "")
