"""fake-quantize: what calibration would watch becomes what training rounds: observers, layers and their batch norms.

x → observer → conv' → observer → y      conv' is conv with its batch norm folded in
x → FakeQuantizer → QATLayer(conv, bn) → FakeQuantizer → y
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from fxquant.custom import handled_by
from fxquant.errors import PassError, UnsupportedModelError
from fxquant.float_observer import FloatObserver
from fxquant.graphmodule import drop_unused_modules
from fxquant.keep_float import is_kept_float
from fxquant.ledger import Ledger
from fxquant.observation import observer_of
from fxquant.origin import site_of
from fxquant.passes import _embedding, _recurrent
from fxquant.passes._functional import is_weighted
from fxquant.passes._moving import KEEPS_VALUES
from fxquant.passes._placing import replace_at
from fxquant.passes.drop_identity import is_dropout
from fxquant.passes.fold_batchnorm import Folded, folded_into
from fxquant.passes.insert_observers import OBSERVED
from fxquant.pipeline import Pass
from fxquant.plan import Decision, Mode
from fxquant.program import Program, Stage
from fxquant.qconfigs import TensorAsk
from fxquant.targets import has_saturation_risk, isa
from fxquant.torch_ao import quiet, read_qconfig, split_fused
from fxquant.training.agreement import mark_in_float
from fxquant.training.fake_quantizer import FakeQuantizer, grid_of, has_grid, seen_range
from fxquant.training.layers import DynamicInput, QATEmbedding, QATLayer
from fxquant.training.recurrent_layer import QATRecurrent

IN_FLOAT = "FXQ232"
KEEPS_CODES = "fxq_keeps_codes"  # meta key: bake puts this observer behind the node


@dataclass(frozen=True)
class FakeQuantize(Pass):
    """Observers and quantized layers ⇒ modules that train with rounding and pass gradients straight through.

    A range that calibration found is where training starts. What cannot be trained with rounding keeps its float form
    until convert, and its row says so (FXQ232). FXQ231 when nothing at all would be rounded.
    """

    name: ClassVar[str] = "fake-quantize"
    accepts: ClassVar[frozenset[Stage]] = frozenset({Stage.PREPARED, Stage.CALIBRATED})
    yields: ClassVar[Stage] = Stage.PREPARED

    def run(self, program: Program, ledger: Ledger) -> Program:
        _drop_observers_of_dropout(program)
        count = _replace_observers(program)
        for node in [node for node in program.graph.nodes if node.op == "call_module"]:
            count += _replace_layer(program, node, ledger)
        if count == 0:
            raise UnsupportedModelError(
                "FXQ231",
                f"nothing of {program.model_name} would be fake-quantized: the mapping asks for nothing that training "
                "rounds",
                hint="it rounds to 2 to 8 bits with one scale a tensor or channel; groups of 4 bits, 16-bit and small "
                "floats are for compile() without mode='qat', whose ledger says what each layer gets",
            )
        drop_unused_modules(program.graph_module)
        return program.at(Stage.PREPARED)

    def verify(self, program: Program) -> None:
        found = ((node, observer_of(program.graph_module, node)) for node in program.graph.nodes)
        left = [node for node, one in found if one is not None and not isinstance(one.module, FakeQuantizer)]
        if left:
            raise PassError("FXQ403", f"'{left[0].name}' is an observer still", node=left[0].name)


def _drop_observers_of_dropout(program: Program) -> None:
    """x → observer → dropout → flatten → observer: in training the second would see values that dropout scaled up.

    What only moves values keeps the codes of its input (`convert` sees to it), so the second goes until bake.
    """
    for node in list(program.graph.nodes):
        observation = observer_of(program.graph_module, node)
        if observation is None:
            continue
        source = node.all_input_nodes[0]
        first = _observer_before_dropout(program, source, observation.module)
        if first is None:
            continue
        if not is_dropout(program.module_of(source)):
            source.meta[KEEPS_CODES] = str(first.target)
        node.replace_all_uses_with(source)
        program.graph.erase_node(node)


def _observer_before_dropout(program: Program, node: fx.Node, observer: nn.Module) -> fx.Node | None:
    """The observer from which dropout, and what moves values, lead to `node`; None where there is no dropout.

    A function moves values where prepare gave its output the very observer of its input.
    """
    has_dropout = is_shared = False
    while len(node.all_input_nodes) == 1 and observer_of(program.graph_module, node) is None:
        module = program.module_of(node)
        if is_dropout(module):
            has_dropout = True
        elif module is None:
            is_shared = True
        elif type(module) not in KEEPS_VALUES:
            return None
        node = node.all_input_nodes[0]
    found = observer_of(program.graph_module, node)
    if not has_dropout or found is None or (is_shared and found.module is not observer):
        return None
    return node


def _replace_observers(program: Program) -> int:
    """A fake quantizer in the place of each observer; what shared one shares the other."""
    made: dict[int, FakeQuantizer] = {}
    for node in program.graph.nodes:
        observation = observer_of(program.graph_module, node)
        if observation is None or isinstance(observation.module, FakeQuantizer):
            continue
        key, name = id(observation.module), site_of(node.all_input_nodes[0])
        if isinstance(observation.module, FloatObserver):
            raise _untrainable(observation.module.ask, name)
        if key not in made:
            made[key] = _fake_quantizer(observation.module, name)
        program.graph_module.set_submodule(str(node.target), made[key])
    return len(made)


def _untrainable(ask: TensorAsk, site: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        "FXQ231",
        f"'{site}' asks for activations in {ask}, to which training does not round",
        hint="compile() without mode='qat' simulates them; training rounds to 8 bits or fewer, dynamic to 8",
        node=site,
    )


def _fake_quantizer(observer: nn.Module, name: str) -> FakeQuantizer:
    with quiet():
        found, seen = FakeQuantizer(grid_of(observer), name=name), seen_range(observer)
    if seen is not None and found.grid.fixed is None:
        found.start_at(*seen)
    return found.eval()


def _replace_layer(program: Program, node: fx.Node, ledger: Ledger) -> int:
    """1 where the layer's weight is rounded in training from here on."""
    module, decision = program.module_of(node), _decision(program, node)
    folded = folded_into(node)
    if module is None:
        return 0
    base, has_relu = split_fused(module)
    if decision is None or decision.mode is Mode.FLOAT or handled_by(node) is not None:
        if folded is not None:
            _put(program, node, QATLayer(folded.layer, folded.norms, None, has_relu=has_relu, norm_names=folded.names))
        elif handled_by(node) is not None:
            _trains_in_float(node, ledger, "its handler's observed module is what trains")
        return 0
    if isinstance(base, nn.Embedding) and decision.mode is Mode.WEIGHT_ONLY and has_grid(_weight_observer(decision)):
        _put(program, node, QATEmbedding(base, _weight_quantizer(decision, base.weight, node)))
        return 1
    if _recurrent.is_recurrent(base) and decision.mode is Mode.DYNAMIC:
        return _replace_recurrent(program, node, decision, base)
    if _recurrent.is_recurrent(base) or _embedding.is_embedding(base):
        return _trains_in_float(node, ledger, f"{type(base).__name__} is trained in float")
    if not is_weighted(base):
        return 0
    return _replace_weighted(program, node, decision, folded or Folded(base), has_relu, ledger)  # type: ignore[arg-type]


def _replace_weighted(
    program: Program, node: fx.Node, decision: Decision, folded: Folded, has_relu: bool, ledger: Ledger
) -> int:
    is_rounded = decision.mode in (Mode.DYNAMIC, Mode.WEIGHT_ONLY) or bool(node.meta.get(OBSERVED))
    layer, dynamic = folded.layer, None
    if decision.mode is Mode.DYNAMIC:
        asked = read_qconfig(decision.qconfig, f"the plan, for '{node.target}'").activation
        if asked.is_simulated or asked.num_bits != 8:
            raise _untrainable(asked, str(node.target))
        is_reduced = program.engine in ("x86", "fbgemm") or has_saturation_risk(program.engine, isa())
        dynamic = DynamicInput(is_reduced=is_reduced)
    made = QATLayer(layer, folded.norms, None, has_relu=has_relu, input_fake_quant=dynamic, norm_names=folded.names)
    if is_rounded and not has_grid(_weight_observer(decision)):
        _put(program, node, made)
        return _trains_in_float(node, ledger, "its weights are no grid of one scale a tensor or channel")
    if is_rounded:
        made.weight_fake_quant = _weight_quantizer(decision, made.folded()[0], node)
    _put(program, node, made)
    if not is_rounded and decision.mode is not Mode.STATIC:
        return _trains_in_float(node, ledger, f"{decision.mode} keeps what training can tell: it is trained in float")
    return int(is_rounded)


def _replace_recurrent(program: Program, node: fx.Node, decision: Decision, layer: nn.Module) -> int:
    op, options, cells, is_reduced = _recurrent.canonical_of(layer, program.engine)
    names = [f"weight_{half}{cell}" for cell in cells for half in ("ih", "hh")]
    quantizers = {name: _weight_quantizer(decision, getattr(layer, name), node, name) for name in names}
    _put(program, node, QATRecurrent(layer, op, options, cells, quantizers, is_reduced=is_reduced))
    return 1


def _trains_in_float(node: fx.Node, ledger: Ledger, why: str) -> int:
    told = f"{why}, its weights are rounded at convert() only"
    mark_in_float(node)
    ledger.remark(node, told, code=IN_FLOAT)
    ledger.notice(IN_FLOAT, f"'{node.target}': {told}", module=str(node.target))
    return 0


def _decision(program: Program, node: fx.Node) -> Decision | None:
    if program.plan is None or is_kept_float(node):
        return None
    return program.plan.of(node)


def _weight_observer(decision: Decision) -> Any:
    qconfig: Any = decision.qconfig
    with quiet():
        return qconfig.weight()


def _weight_quantizer(decision: Decision, weight: Tensor, node: fx.Node, name: str = "weight") -> FakeQuantizer:
    grid = grid_of(_weight_observer(decision), is_weight=True)
    channels = None if grid.axis is None else int(weight.shape[grid.axis])
    made = FakeQuantizer(grid, channels=channels, name=f"{node.target}.{name}")
    rows = weight.detach().flatten() if grid.axis is None else weight.detach().transpose(0, grid.axis).flatten(1)
    made.start_at(*torch.aminmax(rows, dim=-1))
    return made.eval()


def _put(program: Program, node: fx.Node, made: nn.Module) -> None:
    replace_at(program.graph_module, str(node.target), made)
