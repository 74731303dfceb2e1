"""What a pruned channel gave on average goes into the bias of each layer that read it.

    y_o = b_o + Σ_c w_oc ∗ x_c        b'_o = b_o + Σ_{c pruned} mean(x_c) · Σ_k w_ock

mean(x_c) is taken over the example. It is exact where x_c is constant (a dead channel, relu(beta) behind a batch norm
whose gamma is 0) and no padding mixes zeros in. A layer without a bias that a batch norm follows takes it there:
bn(y + d) with the running mean m is bn(y) with m − d.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from math import prod
from typing import Any, cast

import numpy as np
import torch
from torch import fx, nn

from fxquant.graphs.channels import Alive, Axis, Labels
from fxquant.passes._channel_flow import Flow, tensors_of
from fxquant.passes._placing import replace_at, twin
from fxquant.program import Program

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_means(program: Program, flow: Flow, alive: Alive) -> None:
    """Put the means of what is not alive into biases, before it is taken out."""
    calls = Counter(node.target for node in program.graph.nodes if node.op == "call_module")
    sites = {
        node: found[0]
        for node, found in flow.consumed.items()
        if isinstance(program.module_of(node), _WEIGHTED) and calls[node.target] == 1 and not alive[found[0][2]].all()
    }
    means = _means(program, sites)
    for node, (_, _, labels) in sites.items():
        added = _added(cast(Any, program.module_of(node)), means[node], labels, alive)
        if bool(added.isfinite().all()):
            _put(program, flow, node, added, calls)


def _means(program: Program, sites: Mapping[fx.Node, tuple[fx.Node, int, Labels]]) -> dict[fx.Node, torch.Tensor]:
    """The mean of each channel of what these nodes read."""
    reader = _Reader(program.graph_module, sites)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        reader.run(*(leaf.clone() for leaf in program.example_leaves or ()))
    return reader.means


class _Reader(fx.Interpreter):
    """Runs a graph and keeps the means. What the graph or a module of the user's writes to is a copy."""

    def __init__(self, graph_module: fx.GraphModule, sites: Mapping[fx.Node, tuple[fx.Node, int, Labels]]) -> None:
        super().__init__(graph_module)
        self.sites, self.means = sites, dict[fx.Node, torch.Tensor]()

    def run_node(self, n: fx.Node) -> Any:
        if n in self.sites:
            source, dim, _ = self.sites[n]
            self.means[n] = self.env[source].double().movedim(dim, 0).flatten(1).mean(1)
        return super().run_node(n)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return copy.deepcopy(self.fetch_attr(target))

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = self.fetch_attr(target)
        is_pure = type(module).__module__.startswith("torch.nn.")  # in eval
        return (module if is_pure else copy.deepcopy(module))(*args, **kwargs)


def _added(module: Any, means: torch.Tensor, labels: Labels, alive: Alive) -> torch.Tensor:
    """Of each output channel: what the pruned inputs gave it on average."""
    weight = module.weight.detach().double()
    inputs, share = (0, prod(module.stride)) if isinstance(module, _TRANSPOSED) else (1, 1)
    ordered = weight.movedim(inputs, 0)
    by_channel = ordered.reshape(*ordered.shape[:2], -1).sum(2) / share  # (in, out)
    gone = torch.from_numpy(np.flatnonzero(~alive[labels])).to(weight.device)
    return torch.einsum("i,io->o", means[gone], by_channel[gone])


def _put(program: Program, flow: Flow, node: fx.Node, added: torch.Tensor, calls: Counter[Any]) -> None:
    module = cast(Any, program.module_of(node))
    reader = next(iter(node.users)) if len(node.users) == 1 else node
    norm = program.module_of(reader)
    if module.bias is None and isinstance(norm, _NORMS) and norm.running_mean is not None and calls[reader.target] == 1:
        moved = twin(norm)
        moved.running_mean = (norm.running_mean.double() - added).to(norm.running_mean.dtype)
        replace_at(program.graph_module, str(reader.target), moved)
        return
    if module.bias is not None and sum(one is module.bias for one in tensors_of(program.graph_module).values()) > 1:
        return  # another layer has the same bias, and none of this
    biased = twin(module)
    before = torch.zeros_like(added) if module.bias is None else module.bias.detach().double()
    biased.bias = nn.Parameter((before + added).to(module.weight.dtype), requires_grad=module.weight.requires_grad)
    replace_at(program.graph_module, str(node.target), biased)
    if module.bias is None:
        flow.channels.axes[Axis(f"{node.target}.bias", 0)] = flow.made[node]
