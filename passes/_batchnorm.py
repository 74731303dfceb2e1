"""Which batch norms can be folded into the layer before them, and why the others cannot.

skip-batchnorm and fold-batchnorm ask the same question here, so that what one keeps the other never folds.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from fxquant.keep_float import is_kept_float, kept_because
from fxquant.passes._survey import Survey
from fxquant.plan import Mode
from fxquant.program import Program

CANNOT_FOLD, NAMED_BY_USER = "FXQ205", "FXQ206"

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d | nn.Linear

BATCH_NORMS: tuple[type[nn.Module], ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
NORM_AFTER: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: nn.BatchNorm1d,
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
    nn.ConvTranspose1d: nn.BatchNorm1d,
    nn.ConvTranspose2d: nn.BatchNorm2d,
    nn.ConvTranspose3d: nn.BatchNorm3d,
}


def batchnorm_of(program: Program, node: fx.Node) -> BatchNorm | None:
    """The batch norm that a node calls (a subclass counts too); None for any other node."""
    module = program.module_of(node)
    return module if isinstance(module, BatchNorm) else None


def why_not_foldable(program: Program, node: fx.Node, survey: Survey | None = None) -> str | None:
    """Why the batch norm called at `node` cannot be folded into the layer before it; None when it can.

    A run of batch norms (conv → bn → bn) folds one by one, so a foldable one in between is looked through.
    """
    survey = survey or Survey(program)
    norm = batchnorm_of(program, node)
    assert norm is not None
    if is_kept_float(node):
        return kept_because(node)
    before = _layer_before(program, node, survey)
    return (
        _why_not_norm(str(node.target), norm, survey)
        or _why_not_layer(program, before, survey)
        or _why_not_pair(program, before, node, norm, survey)
        or _why_not_plan(program, before, node)
    )


def _layer_before(program: Program, node: fx.Node, survey: Survey) -> fx.Node:
    before = node.all_input_nodes[0]
    while batchnorm_of(program, before) is not None and len(before.users) == 1 and not is_kept_float(before):
        if why_not_foldable(program, before, survey) is not None:
            break
        before = before.all_input_nodes[0]
    return before


def _why_not_norm(name: str, norm: BatchNorm, survey: Survey) -> str | None:
    if type(norm) not in BATCH_NORMS:
        return f"{type(norm).__name__} is a batch norm of its own kind"
    if norm.running_mean is None or norm.running_var is None:
        return "it has no running statistics (track_running_stats=False), so it normalizes by each batch"
    if norm.training:
        return "it is in training mode"
    if survey.is_read_directly(name):
        return "its own tensors are also read, or written to, directly"
    if norm._forward_hooks or norm._forward_pre_hooks:
        return "it has forward hooks, which would not run any more"
    return None


def _why_not_layer(program: Program, before: fx.Node, survey: Survey) -> str | None:
    layer = program.module_of(before)
    name = str(before.target)
    if type(layer) not in NORM_AFTER:
        told = f"'{before.name}'" if layer is None else f"'{name}' ({type(layer).__name__})"
        return f"no convolution or linear layer stands directly before it, but {told}"
    assert layer is not None
    if len(before.users) > 1:
        others = len(before.users) - 1
        return f"the output of '{name}' is used in {others} other place{'s' if others > 1 else ''} too"
    if survey.calls[name] > 1:
        return f"'{name}' is called at {survey.calls[name]} sites that share one weight (unshare separates them)"
    if survey.is_read_directly(name):
        return f"the weight of '{name}' is also read directly"
    if layer._forward_hooks or layer._forward_pre_hooks or not isinstance(layer.weight, nn.Parameter):
        return f"'{name}' has forward hooks, or a weight that is computed"
    return None


def _why_not_pair(program: Program, before: fx.Node, node: fx.Node, norm: BatchNorm, survey: Survey) -> str | None:
    layer, name = program.module_of(before), str(before.target)
    assert isinstance(layer, Layer) and isinstance(norm.running_mean, torch.Tensor)
    if type(norm) not in (NORM_AFTER[type(layer)], nn.SyncBatchNorm):
        return f"a {type(norm).__name__} does not normalize the channels of a {type(layer).__name__}"
    channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    if norm.num_features != channels:
        return f"it has {norm.num_features} channels, '{name}' gives {channels}"
    if norm.running_mean.dtype != layer.weight.dtype or not layer.weight.is_floating_point():
        return f"its statistics are {norm.running_mean.dtype}, the weight of '{name}' is {layer.weight.dtype}"
    return _why_not_axis(layer, name, survey.rank(before))


def _why_not_axis(layer: nn.Module, name: str, rank: int | None) -> str | None:
    """BatchNorm's channels are dimension 1; a Linear's features are the last one. They are the same in 2-D only."""
    if isinstance(layer, nn.Linear):
        if rank is None:
            return f"it is not known whether the output of '{name}' is 2-D (example inputs tell it)"
        return None if rank == 2 else f"it normalizes dimension 1 of the {rank}-D output of '{name}', not its features"
    is_unbatched = isinstance(layer, (nn.Conv1d, nn.ConvTranspose1d)) and rank == 2
    return f"the output of '{name}' has no batch dimension" if is_unbatched else None


def _why_not_plan(program: Program, before: fx.Node, node: fx.Node) -> str | None:
    """The numbers of a layer that stays float shall not change; and who names a batch norm shall get what is asked."""
    if program.plan is None:
        return None
    layer, norm = program.plan.of(before), program.plan.of(node)
    if program.plan.mode_of(before) is Mode.FLOAT:
        return f"'{before.target}' stays float32 itself, and folding would only change its rounding"
    if layer is not None and norm is not None and norm.is_explicit and norm.mode is not layer.mode:
        return f"the plan names it as {norm.mode} ({norm.why}), and '{before.target}' is {layer.mode}"
    return None
