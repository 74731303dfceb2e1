"""Short cuts for tests of error bounds: one call's inputs, both results, and a run with adversarial roundings."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant import qdq
from fxquant.bounds import ErrorBound, error_bound
from fxquant.torch_ao import engine
from support.models.case import Case


def call_of(case: Case, seed: int, batch: int = 2, scale: float = 1.0) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of one call; float ones `scale` times as large as what was calibrated on."""
    args, kwargs = case.inputs(seed, batch), case.arguments(seed, batch)
    return torch.utils._pytree.tree_map_only(
        Tensor, lambda x: x * scale if x.is_floating_point() else x, (args, kwargs)
    )


def bound_of(compiled: fxquant.CompiledModel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ErrorBound:
    """error_bound() of one call, keywords among its arguments."""
    names = list(compiled.program.signature.parameters.parameters)
    given = {**dict(zip(names, args, strict=False)), **kwargs} if kwargs else args
    return error_bound(compiled, copy.deepcopy(given))


def results(compiled: fxquant.CompiledModel, model: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """(the compiled model's, the float model's) result, on inputs of their own."""
    model = copy.deepcopy(model)  # some count their calls
    with engine(compiled.engine), torch.no_grad():
        actual = compiled(*copy.deepcopy(args), **copy.deepcopy(kwargs))
        return actual, model(*copy.deepcopy(args), **copy.deepcopy(kwargs))


class Adversary(fx.Interpreter):
    """The canonical graph on an engine that errs as far as the step rule lets it: half a step, either way.

    Quantizing again with the same scale and zero point is exact on every engine, so it errs once for each of these.
    """

    def __init__(self, graph_module: fx.GraphModule, seed: int) -> None:
        super().__init__(graph_module)
        self.source, self.grids = torch.Generator().manual_seed(seed), set[tuple[float, int]]()

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is qdq.quantize_per_tensor and isinstance(args[1], float):
            x, scale, zero_point, low, high, _ = args
            codes = (x.double() / scale + zero_point).clamp(low, high)
            if (scale, zero_point) in self.grids:
                return codes
            self.grids.add((scale, zero_point))
            return codes + 0.5 * (torch.rand(codes.shape, generator=self.source) * 2 - 1).sign()
        if target is qdq.dequantize_per_tensor and isinstance(args[0], Tensor) and args[0].is_floating_point():
            return ((args[0] - args[2]) * args[1]).float()
        return super().call_function(target, args, kwargs)
