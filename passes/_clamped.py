"""A value that only a clamp reads is as wide as what the clamp lets through: its range is that of the clamp's result.

    conv → observer → relu6 → observer      prepare's two observers are one, and see the values before the clamp too
    conv → relu6 → observer                 while the data is seen; `convert` quantizes before the clamp with the same

    clamp(q(v)) = q(clamp(v))  to one step: q's range is that of clamp(v), so it saturates where the clamp would, or
                               later (7-bit scales reach twice as far), and then the clamp does on codes

With values to 3000 before a ReLU6, as behind batch norms that met small variances, a shared range has not one step in
0..6. The step shrinks by the ratio of the two ranges, and the same kernels run.
"""

from __future__ import annotations

from torch import fx, nn

from fxquant.float_observer import FloatObserver
from fxquant.observation import Observation, observer_of
from fxquant.passes._scalar_chains import is_clamp
from fxquant.program import Program
from fxquant.torch_ao import ask_of

NARROWED = "fxq_narrowed"  # meta key of a clamp: its input is quantized as its result is


def narrow(program: Program) -> None:
    """Let the observer behind each clamp stand for the one before it as well, but where the plan wants it in float32.

    With equal ranges on both sides it would run on codes.
    """
    graph_module, plan = program.graph_module, program.plan
    clamps = [node for node in graph_module.graph.nodes if is_clamp(graph_module, node)]
    for clamp in [node for node in clamps if plan is None or not plan.asks_nothing(node)]:
        before = clamp.all_input_nodes[0]
        if not _is_for_this_clamp(graph_module, before, clamp):
            continue
        clamp.replace_input_with(before, before.all_input_nodes[0])
        graph_module.graph.erase_node(before)
        clamp.meta[NARROWED] = True


def _is_for_this_clamp(graph_module: fx.GraphModule, before: fx.Node, clamp: fx.Node) -> bool:
    """Is `before` an observer that serves this clamp alone, and does one that asks for the same watch its result?"""
    first = observer_of(graph_module, before)
    if first is None or len(before.users) != 1 or len(clamp.users) != 1:
        return False
    second = observer_of(graph_module, next(iter(clamp.users)))
    if second is None or not (_has_codes(first) and _has_codes(second)):
        return False
    asks_alike = ask_of(first.module) == ask_of(second.module)
    return asks_alike and not _is_shared_with_inputs(graph_module, before.all_input_nodes[0], first.module)


def _has_codes(observation: Observation) -> bool:
    return observation.is_quantizing and not isinstance(observation.module, FloatObserver)


def _is_shared_with_inputs(graph_module: fx.GraphModule, source: fx.Node, observer: nn.Module) -> bool:
    """Does the op before keep its input's codes (a max pool)? Then its range is not its own to change."""
    found = (observer_of(graph_module, node) for node in source.all_input_nodes)
    return any(one is not None and one.module is observer for one in found)
