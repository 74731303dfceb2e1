"""The model that a pruned one has to equal: the original, in which every layer sees zeros where channels are gone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from fxquant.graphs.channels import Alive, indices
from fxquant.passes._channel_flow import Count, Flow
from fxquant.program import Program


class Masked(fx.Interpreter):
    """Runs an unpruned program. What a node sums over is masked; a LayerNorm looks at the channels that stay.

    With `means` (of each channel of what a node sums over), what is masked is not zero but its mean.
    """

    def __init__(
        self, program: Program, flow: Flow, alive: Alive, means: Mapping[fx.Node, torch.Tensor] | None = None
    ) -> None:
        super().__init__(program.graph_module)
        self.flow, self.alive, self.means = flow, alive, means or {}

    def run_node(self, n: fx.Node) -> Any:
        whole = {source: self.env[source] for source, _, _ in self.flow.consumed.get(n, ())}
        for source, dim, labels in self.flow.consumed.get(n, ()):
            shape = [1] * whole[source].ndim
            shape[dim] = -1
            stays = torch.zeros(labels.size).index_fill_(0, torch.from_numpy(indices(labels, self.alive)), 1.0)
            mean = self.means.get(n, torch.zeros(labels.size)) * (1 - stays)
            self.env[source] = self.env[source] * stays.reshape(shape) + mean.reshape(shape)
        result = super().run_node(n)
        self.env.update(whole)
        return result

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = self.fetch_attr(target)
        counts = self.flow.attributes.get(str(target), {}).get("normalized_shape")
        if not isinstance(module, nn.LayerNorm) or counts is None:
            return super().call_module(target, args, kwargs)
        return _normalized(module, args[0], counts, self.alive)


def _normalized(norm: nn.LayerNorm, x: torch.Tensor, counts: tuple[Count, ...], alive: Alive) -> torch.Tensor:
    stays = torch.ones(norm.normalized_shape)
    for dim, count in enumerate(counts):
        gone = torch.ones(count.labels.size, dtype=torch.bool)
        gone[torch.from_numpy(indices(count.labels, alive))] = False
        stays.index_fill_(dim, torch.nonzero(gone).flatten(), 0.0)
    dims = tuple(range(-len(counts), 0))
    mean = (x * stays).sum(dims, keepdim=True) / stays.sum()
    centred = (x - mean) * stays
    scaled = centred / torch.sqrt(centred.square().sum(dims, keepdim=True) / stays.sum() + norm.eps)
    weight = 1.0 if norm.weight is None else norm.weight
    return scaled * weight + (0.0 if norm.bias is None else norm.bias)


def means(program: Program, flow: Flow, leaves: tuple[torch.Tensor, ...]) -> dict[fx.Node, torch.Tensor]:
    """Of each channel of what a node sums over, in the unpruned program on these inputs."""
    found: dict[fx.Node, torch.Tensor] = {}

    class Reader(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            for source, dim, labels in flow.consumed.get(n, ()):
                found[n] = self.env[source].transpose(0, dim).reshape(labels.size, -1).mean(1)
            return super().run_node(n)

    Reader(program.graph_module).run(*leaves)
    return found
