"""One tensor under several names: how the graph for an engine holds it, whatever the canonical graph's way is.

    'a.bias' and 'b.bias' in one place of memory      ⇒      a tensor for each, and its readers fuse it
    'a.weight' and 'b.weight' in one place            ⇒      the same tensor, which is written once

torch.export takes one object for one constant, and two objects in one place for two. OpenVINO adds a bias that several
convolutions read in a kernel of its own, in bfloat16, where it fuses one that a single convolution reads. A model that
was compiled and the same read from its file have the same places and different objects: here they come to one form.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn


def normalize_ties(graph_module: fx.GraphModule) -> None:
    """Change which tensors of the module are the same object; none of them gets other numbers."""
    first: dict[Any, Tensor] = {}
    for module, name, tensor in _held(graph_module):
        if not tensor.numel() or tensor.layout is not torch.strided:
            continue
        alike = first.setdefault(_place(tensor), tensor)
        if _is_small(tensor):
            setattr(module, name, _another(tensor))
        elif alike is not tensor:
            setattr(module, name, alike)


def _held(graph_module: fx.GraphModule) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """(module, name, tensor) of what is ours: a module of the user's own may mean something by its tensors."""
    for module in graph_module.modules():
        if isinstance(module, fx.GraphModule) or type(module).__module__.startswith("torch."):
            held = {**module._parameters, **module._buffers}
            yield from ((module, name, tensor) for name, tensor in held.items() if tensor is not None)


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), isinstance(tensor, nn.Parameter)


def _is_small(tensor: Tensor) -> bool:
    return tensor.dim() <= 1 and tensor.is_floating_point()


def _another(tensor: Tensor) -> Tensor:
    view = tensor.detach()
    return nn.Parameter(view, requires_grad=False) if isinstance(tensor, nn.Parameter) else view
