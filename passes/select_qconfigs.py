"""Decide first: the policy looks at the graph as the user wrote it, and each call site gets one decision with a why."""

from __future__ import annotations

import builtins
import math
import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import fx

from fxquant.activation_sites import decide_sites
from fxquant.errors import BackendError, ContractError
from fxquant.ledger import FLOAT, Ledger
from fxquant.origin import part_key, part_of, scope, site_of, where
from fxquant.packing import PACK
from fxquant.pipeline import Pass
from fxquant.plan import Decision, Mode, QuantPlan
from fxquant.policy import Policy
from fxquant.program import Program, Stage
from fxquant.rounds import CODE, tell
from fxquant.rules import Site

CALLS = ("call_module", "call_function", "call_method")

_PLAIN_METHODS = frozenset(
    {
        *("size", "dim", "ndimension", "numel", "nelement", "element_size", "stride", "storage_offset"),
        *("item", "tolist", "get_device", "is_contiguous", "is_floating_point", "is_complex", "is_signed"),
        *("__len__", "__bool__", "__int__", "__float__"),
    }
)
_TENSOR_ATTRIBUTES = frozenset({"T", "mT", "H", "mH", "data", "real", "imag", "grad"})
_PLAIN_FUNCTIONS: frozenset[Any] = frozenset(
    {
        *PACK,
        torch._assert,
        torch.is_tensor,
        torch.is_floating_point,
        torch.is_complex,
        torch.numel,
        torch.Size,
        torch.broadcast_shapes,
    }
)


@dataclass(frozen=True)
class SelectQConfigs(Pass):
    """Policy ⇒ plan: one decision and its why for each call site; the graph stays as it is.

    What the target cannot serve is decided as float, with an FXQ204 row; with `strict` it is FXQ501. Two call sites of
    one module share its name, so no two rules by name can tell them apart; only an index of
    module_name_object_type_order can, and then each site keeps its own decision.
    """

    policy: Policy | None = None  # compile() fills in its own
    strict: bool = False

    name: ClassVar[str] = "select-qconfigs"
    accepts: ClassVar[frozenset[Stage]] = frozenset({Stage.TRACED})
    yields: ClassVar[Stage | None] = Stage.PLANNED

    def run(self, program: Program, ledger: Ledger) -> Program:
        """Build the sites, check that each rule has one, decide."""
        if self.policy is None:
            raise ContractError(
                "FXQ406", "there is no policy to decide by", hint="SelectQConfigs(read_policy('int8', ...))"
            )
        sites = sites_of(program)
        for notice in self.policy.check_all_matched(list(sites.values())):
            ledger.notice("FXQ114", notice)
        decisions: dict[str, Decision] = {}
        declined: list[tuple[fx.Node, Decision]] = []
        begun: set[str] = set()
        for node, site in sites.items():
            if site.id in decisions:  # an earlier pass has written it as several nodes: they share one decision
                continue
            decision = decisions[site.id] = self.policy.decide(site)
            _write(decision, node, ledger, is_first=site_of(node) not in begun)
            begun.add(site_of(node))
            if is_declined(decision):
                declined.append((node, decision))
        if declined and (self.strict or self.policy.declined_is_error):
            raise _refused(declined)
        activations = decide_sites(self.policy.activations, list(sites.values()))
        return replace(program, plan=QuantPlan(tuple(decisions.values()), activations)).at(Stage.PLANNED)

    def verify(self, program: Program) -> None:
        """Every call site has one decision, and it says why."""
        plan = program.plan
        if plan is None:
            raise ContractError("FXQ401", "select-qconfigs made no plan")
        wanted = {part_key(node, site_of(node)) for node in program.graph.nodes if node.op in CALLS}
        counts = Counter(decision.site for decision in plan)
        wrong = sorted(site for site in wanted | set(counts) if counts[site] != 1 or site not in wanted)
        mute = [decision.site for decision in plan if not decision.why]
        if wrong or mute:
            raise ContractError("FXQ406", f"sites without exactly one decision: {wrong}; without a why: {mute}")


def is_declined(decision: Decision) -> bool:
    """Something was asked for, and the target cannot serve it."""
    return decision.mode is Mode.FLOAT and decision.requested != FLOAT


def _write(decision: Decision, node: fx.Node, ledger: Ledger, *, is_first: bool) -> None:
    """The row of a site, or of one part more of it."""
    site = site_of(node)
    ledger.open(site, module=decision.module_name, op=decision.op)
    if is_first:
        ledger.request(site, decision.requested, decision.why)
    elif decision.requested not in ledger[site].requested.split(", "):
        ledger.request_more(site, decision.requested, decision.why)
    tell(decision, ledger)
    if decision.mode is Mode.FLOAT:
        code = "FXQ204" if is_declined(decision) else CODE if decision.tried else ""
        ledger.settle_site(site, FLOAT, decision.why, module=scope(node), code=code, part=part_of(node))


def _refused(declined: list[tuple[fx.Node, Decision]]) -> BackendError:
    node, first = declined[0]
    others = [decision.module_name or decision.op for _, decision in declined[1:]]
    more = f" (and {len(others)} more: {', '.join(others[:5])})" if others else ""
    return BackendError(
        "FXQ501",
        f"layer '{first.module_name or first.op}' asks for {first.requested}: {first.why}{more}",
        hint="change that rule, keep the layer float by name, or leave strict off",
        node=node.name,
        module=first.module_name,
        where=where(node),
    )


def sites_of(program: Program) -> dict[fx.Node, Site]:
    """Every call of the graph as rules see it, in graph order."""
    found: dict[fx.Node, Site] = {}
    counts: Counter[tuple[str, object]] = Counter()
    plain: set[fx.Node] = set()  # nodes whose value is no tensor
    for node in program.graph.nodes:
        if node.op not in CALLS:
            continue
        if not _gives_tensor(node, plain):
            plain.add(node)
        site = _site(node, program)
        found[node] = replace(site, order=_order(site, counts), is_tensor_op=node not in plain)
    return found


def _site(node: fx.Node, program: Program) -> Site:
    classes = tuple(kind for _, kind in node.meta.get("nn_module_stack", {}).values() if isinstance(kind, type))
    module, key = program.module_of(node), part_key(node, site_of(node))
    if module is None:
        op = getattr(node.target, "__name__", str(node.target))
        return Site(key, scope(node), op, node.target, classes)
    weight = getattr(module, "weight", None)
    shape = tuple(weight.shape) if isinstance(weight, torch.Tensor) else None
    kind = type(module)
    return Site(key, str(node.target), kind.__name__, kind, classes[:-1], weight_shape=shape, is_module=True)


def _order(site: Site, counts: Counter[tuple[str, object]]) -> tuple[str, int] | None:
    """Where torch.ao counts calls of this type: modules in their parent, functions in their caller, methods nowhere."""
    if isinstance(site.object_type, str):
        return None
    parent = site.module_name.rpartition(".")[0] if site.is_module else site.module_name
    index = counts[parent, site.object_type]
    counts[parent, site.object_type] += 1
    return parent, index


def _gives_tensor(node: fx.Node, plain: set[fx.Node]) -> bool:
    """False for shapes, numbers, flags and checks: what a quantizer has no business with."""
    if node.op == "call_module":
        return True
    inputs = node.all_input_nodes
    is_plain_fed = bool(inputs) and all(source in plain for source in inputs)
    if node.op == "call_method":
        return node.target not in _PLAIN_METHODS and not is_plain_fed
    target = node.target
    if target is getattr:
        return node.args[1] in _TENSOR_ATTRIBUTES and not is_plain_fed
    if target in _PLAIN_FUNCTIONS:
        return False
    if target is operator.getitem:
        return node.args[0] not in plain
    return not (_is_python(target) and (is_plain_fed or not inputs or target in _PYTHON_NUMBERS))


_PYTHON_NUMBERS: frozenset[Any] = frozenset({len, int, float, bool, isinstance, hasattr, id, type})


def _is_python(target: Callable[..., Any] | str) -> bool:
    """A function of Python itself (arithmetic, min, math.sqrt): a tensor only when it is fed one."""
    return getattr(target, "__module__", None) in (operator.__name__, "_operator", builtins.__name__, math.__name__)
