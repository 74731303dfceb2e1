"""The pass normalize-calls: one spelling for each op, and a named module for each functional layer or activation."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx, nn

from fxquant.keep_float import is_kept_float, keep_float
from fxquant.ledger import Ledger
from fxquant.origin import scope
from fxquant.passes._call_forms import bound, form_of
from fxquant.passes._functional_layers import TENSORS, Built, Refusal, explicit_padding
from fxquant.passes._functional_modules import BUILDERS, SIGNATURES
from fxquant.passes._placing import attribute_of, place, replace_at, sweep, twin
from fxquant.passes._survey import Survey
from fxquant.pipeline import Pass
from fxquant.program import Program, Stage

ONE_SIDED_PADDING = "FXQ207"

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class NormalizeCalls(Pass):
    """One spelling for each op: functional calls become named modules, keywords become positions.

    self.conv(input=x)                 ⇒  self.conv(x)
    F.relu(x), torch.relu(x), x.relu() ⇒  self.relu(x)        a module beside the caller's, under a free name
    F.linear(x, self.w, self.b)        ⇒  self.linear(x)      an nn.Linear that holds the same Parameters
    torch.add(x, y), x.add(y)          ⇒  x + y               and so for sub, mul, matmul, flatten, cat
    x.mT                               ⇒  torch.transpose(x, -2, -1)
    x.max(1).values                    ⇒  x.max(1)[0]
    nn.Conv2d(..., padding='same')     ⇒  nn.Conv2d(..., padding=(1, 1))

    A layer whose weight is computed in the graph keeps its functional form, with all its arguments written out.
    """

    name: ClassVar[str] = "normalize-calls"
    accepts: ClassVar[frozenset[Stage]] = frozenset({Stage.TRACED, Stage.PLANNED})

    def run(self, program: Program, ledger: Ledger) -> Program:
        survey, fetched = Survey(program), []
        for node in list(program.graph.nodes):
            if node.op == "call_module":
                _lead_with_positional(program, node)
                _write_out_padding(program, node, ledger)
            elif node.op in ("call_function", "call_method"):
                fetched += [source for source in node.all_input_nodes if source.op == "get_attr"]
                _normalize_call(program, node, ledger, survey)
        _erase_unused(program, fetched)
        return program


def _normalize_call(program: Program, node: fx.Node, ledger: Ledger, survey: Survey) -> None:
    form = form_of(node)
    if form is not None:
        _retarget(node, "call_function", form[0], form[1])
    elif node.target in BUILDERS:
        _modularize(program, node, ledger, survey)


def _modularize(program: Program, node: fx.Node, ledger: Ledger, survey: Survey) -> None:
    arguments = bound(SIGNATURES[node.target], node)
    if arguments is None or not isinstance(arguments.arguments["input"], fx.Node):
        return
    source = arguments.arguments["input"]
    options = {name: value for name, value in arguments.arguments.items() if name != "input"}
    tensors = _fetch(program, {name: options[name] for name in options if name in TENSORS})
    other = next((tensor for tensor in (tensors or {}).values() if _is_of_another_float(tensor)), None)
    if other is not None:
        dtype = str(other.dtype).removeprefix("torch.")
        keep_float(node, f"its weight is {dtype}")
        ledger.decline("FXQ209", node, why=f"its weight is {dtype}: only float32 ones are quantized")
        tensors = None
    is_plain = not any(_holds_node(options[name]) for name in options if name not in TENSORS)
    built: Built = None
    if is_plain and tensors is not None:
        built = BUILDERS[node.target](lambda: survey.rank(source), **(options | tensors))
    match built:
        case nn.Module():
            target = place(program.graph_module, built, scope_name=scope(node), stem=_stem(node))
            _retarget(node, "call_module", target, (source,))
        case Refusal(reason=reason):
            _stay_float(ledger, node, reason)
        case _ if TENSORS & options.keys() and node.op == "call_function":
            node.args, node.kwargs = arguments.args, arguments.kwargs


def _stem(node: fx.Node) -> str:
    """What the module is called after: the op. F.max_pool2d and its like hide behind a function that is called 'fn'."""
    name = str(getattr(node.target, "__name__", node.target))
    return re.sub(r"_\d+$", "", node.name) if name == "fn" else name


def _retarget(node: fx.Node, op: str, target: Any, args: tuple[Any, ...]) -> None:
    """The node keeps its name, its place and its origins, and calls something else."""
    if (node.op, node.target, node.args, dict(node.kwargs)) != (op, target, args, {}):
        node.op, node.target, node.args, node.kwargs = op, target, args, {}


def _fetch(program: Program, arguments: dict[str, Any]) -> dict[str, torch.Tensor | None] | None:
    """The tensors that these get_attr nodes fetch; None where one is computed, or written to, in the graph."""
    found: dict[str, torch.Tensor | None] = {}
    for name, value in arguments.items():
        if value is None:
            found[name] = None
            continue
        if not isinstance(value, fx.Node) or value.op != "get_attr" or _is_written(value):
            return None
        tensor = attribute_of(program.graph_module, str(value.target))
        if not isinstance(tensor, torch.Tensor):
            return None
        found[name] = tensor
    return found


def _is_of_another_float(tensor: torch.Tensor | None) -> bool:
    return tensor is not None and tensor.is_floating_point() and tensor.dtype is not torch.float32


def _is_written(fetched: fx.Node) -> bool:
    def writes(user: fx.Node) -> bool:
        return user.op == "call_method" and str(user.target).endswith("_") and not str(user.target).endswith("__")

    same = [node for node in fetched.graph.nodes if node.op == "get_attr" and node.target == fetched.target]
    return any(writes(user) for node in same for user in node.users)


def _holds_node(value: Any) -> bool:
    found: list[fx.Node] = []
    fx.map_arg(value, found.append)
    return bool(found)


def _lead_with_positional(program: Program, node: fx.Node) -> None:
    """Keywords become positional up to the first parameter left out: m(query=q, flag=True) ⇒ m(q, flag=True)."""
    module = program.module_of(node)
    if module is None or not node.kwargs:
        return
    args, kwargs = list(node.args), dict(node.kwargs)
    for name, parameter in list(inspect.signature(module.forward).parameters.items())[len(args) :]:
        if parameter.kind not in _POSITIONAL or name not in kwargs:
            break
        args.append(kwargs.pop(name))
    node.args, node.kwargs = tuple(args), kwargs


def _write_out_padding(program: Program, node: fx.Node, ledger: Ledger) -> None:
    """Convert wants numbers where nn.Conv also takes 'same' and 'valid'."""
    conv = program.module_of(node)
    if type(conv) not in _CONVOLUTIONS or not isinstance(conv, _CONVOLUTIONS) or not isinstance(conv.padding, str):
        return
    padding = explicit_padding(conv.padding, torch.Size(conv.kernel_size), conv.dilation)
    if isinstance(padding, Refusal):
        _stay_float(ledger, node, padding.reason)
        return
    plain = twin(conv)
    plain.padding = padding if isinstance(padding, tuple) else (0,) * len(conv.kernel_size)
    replace_at(program.graph_module, str(node.target), plain)


def _stay_float(ledger: Ledger, node: fx.Node, reason: str) -> None:
    if not is_kept_float(node):
        keep_float(node, reason)
    ledger.decline(ONE_SIDED_PADDING, node, why=reason, hint="use an odd kernel, or pad with F.pad before the layer")


def _erase_unused(program: Program, fetched: list[fx.Node]) -> None:
    """Take out the get_attr nodes whose tensors live in modules now, and the attributes that nothing else fetches."""
    unused = [node for node in dict.fromkeys(fetched) if not node.users]
    for node in unused:
        program.graph.erase_node(node)
    sweep(program.graph_module, [str(node.target) for node in unused])
