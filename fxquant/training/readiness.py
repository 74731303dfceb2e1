"""What a model in training must have before conversion: finite weights, ranges that saw data, some training."""

from __future__ import annotations

import torch
from torch import nn

from fxquant.errors import EmptyCalibrationError, NonFiniteError
from fxquant.program import Program
from fxquant.training.fake_quantizer import FakeQuantizer


def check_finite(model: nn.Module) -> None:
    """FXQ302 that names the first parameter or running statistic with NaN or infinity in it."""
    statistics = (pair for pair in model.named_buffers() if pair[0].endswith((".running_mean", ".running_var")))
    for name, tensor in (*model.named_parameters(), *statistics):
        bad = int((~torch.isfinite(tensor.detach())).sum())
        if bad:
            raise NonFiniteError(
                "FXQ302",
                f"'{name}' holds {bad} of {tensor.numel()} values that are NaN or infinite: training diverged",
                hint="go back to the last good state_dict(), lower the learning rate, clip gradients",
                module=name.rpartition(".")[0],
            )


def check_seen(program: Program) -> None:
    """FXQ301 when there are ranges to find, and none was found."""
    called = (program.module_of(node) for node in program.graph.nodes if node.op == "call_module")
    found = [module for module in called if isinstance(module, FakeQuantizer) and not module.is_idle]
    if found and not any(module.has_range for module in found):
        raise EmptyCalibrationError(
            "FXQ301",
            "nothing was seen: the model was not called in training mode since it was compiled",
            hint="call train() and run your loop on it, or give compile() calibration_data to start with",
        )


def weight_sums(model: nn.Module) -> tuple[float, ...]:
    """What tells weights apart: a sum of each and of its squares."""
    with torch.no_grad():
        pairs = ((p.sum(dtype=torch.float64), p.square().sum(dtype=torch.float64)) for p in model.parameters())
        return tuple(float(value) for pair in pairs for value in pair)


def why_untrained(steps: int) -> tuple[str, str]:
    """What went wrong in a loop after which no weight has changed, and what to do."""
    if steps == 0:
        told = "backward() never reached it: no weight has changed since compile()"
        return told, "in the loop: model.train(); loss.backward(); optimizer.step(), with this model's parameters"
    told = f"backward() ran {steps} times, but no weight has changed since compile()"
    return told, "give the optimizer this model's parameters(), made before the loop, and call optimizer.step()"
