"""The region of each node against the ledger, on the whole zoo, and on what torch.ao makes of models by itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

import fxquant
from fxquant.graphs import kernels
from fxquant.graphs.regions import Region, regions
from fxquant.graphs.snapping import snapshot
from fxquant.graphs.snapshot import GraphSnapshot, NodeRecord, TensorInfo
from fxquant.passes import _native_ops as native
from fxquant.passes._native_float_result import KERNELS as FLOAT_RESULTS
from fxquant.row import Row
from fxquant.torch_ao import raw_mapping
from support.compiled_zoo import of_zoo
from support.compiling import compiled, raw
from support.models import FAMILIES, MODELS
from support.planted import FLOATS, Planted, chain

TRACEABLE = [name for name, case in MODELS.items() if case.is_traceable]
OTHER_PRESETS = ["int8-dynamic", "int8-weight-only", "float16"]
FEW = ["encoder", "mobilenet_v3", "lstm", "mlp", "unet", "shared_linear"]
EXPECTED = {
    "int8": {Region.QUANTIZED},
    "float32": {Region.FLOAT, Region.NEUTRAL},
    "int8 weights": {Region.WEIGHTS},
    "float16 weights": {Region.WEIGHTS},
}
ASIDE = {Region.BOUNDARY, Region.CONSTANT, Region.OBSERVER}  # not the site's own op


def disagreements(model: fxquant.CompiledModel, stage: str) -> Iterator[Row]:
    """Rows of the ledger whose site has nodes, none of them in a region that the row allows."""
    graph = model.snapshot(stage)
    found = regions(graph)
    for row in model.ledger.layers:
        nodes = [node for node in graph if row.site in node.origins]
        own = {found[node.name] for node in nodes} - ASIDE
        if row.op == "getitem" and any("lstm" in node.kind or "gru" in node.kind for node in nodes):
            continue  # an element of a recurrent layer's tuple stands where the layer does, float as it may be
        if row.effective in EXPECTED and own and not own & EXPECTED[row.effective]:
            yield row


def is_honest(row: Row, stage: str) -> bool:
    """The disagreements that have a reason: structure cannot tell, or the ledger speaks of something else."""
    if stage == "lowered" and row.effective == "int8 weights":  # widened ahead of time: the lowered graph is float
        return "widened ahead" in row.reason or "computed in float32" in row.reason
    if stage == "lowered" and row.effective == "float16 weights":  # an LSTM's packed cells do not tell what they hold
        return row.op == "LSTM" or "widened ahead" in row.reason
    is_float_result = "_pointwise on" in row.reason  # which engine has such a kernel, structure cannot tell
    return stage == "converted" and (is_float_result or row.code in ("FXQ504", "FXQ505"))  # asked for in lowering


@pytest.mark.parametrize("stage", ["converted", "lowered"])
@pytest.mark.parametrize("name", TRACEABLE)
def test_regions_agree_with_the_ledger(name: str, stage: str) -> None:
    assert [row for row in disagreements(of_zoo(name), stage) if not is_honest(row, stage)] == []


@pytest.mark.parametrize("preset", OTHER_PRESETS)
@pytest.mark.parametrize("name", FEW)
def test_regions_agree_with_the_ledger_of_other_presets(name: str, preset: str) -> None:
    model = of_zoo(name, preset)
    for stage in ("converted", "lowered"):
        assert [row for row in disagreements(model, stage) if not is_honest(row, stage)] == []


def test_a_disagreement_with_the_ledger_is_found() -> None:
    model = compiled(MODELS["mlp"])  # a copy of its own to spoil
    model.ledger.settle_site("layers_0", "float32", "a lie", module="layers.0")
    assert [row.site for row in disagreements(model, "lowered")] == ["layers_0"]


@pytest.mark.parametrize("name", ["resnet18", "encoder", "lstm"])
def test_a_traced_graph_computes_in_float(name: str) -> None:
    found = set(regions(of_zoo(name).snapshot("traced")).values())
    assert found <= {Region.FLOAT, Region.NEUTRAL, Region.CONSTANT}


def test_a_prepared_graph_is_float_with_observers() -> None:
    graph = of_zoo("resnet18").snapshot("prepared")
    found = regions(graph)
    observers = {node.name for node in graph if node.kind.endswith("Observer")}
    assert observers
    assert {name for name, region in found.items() if region is Region.OBSERVER} == observers
    assert Region.QUANTIZED not in found.values()


@pytest.mark.parametrize("name", ["resnet18", "unet"])
def test_what_convert_fx_makes_is_quantized_between_its_boundaries(name: str) -> None:
    graph = snapshot(raw(FAMILIES[name], "x86"))
    found = regions(graph)
    computing = {found[node.name] for node in graph if node.op == "call_module" or "add" in node.kind}
    assert computing == {Region.QUANTIZED}
    assert [node.kind for node in graph if found[node.name] is Region.BOUNDARY] == ["quantize_per_tensor", "dequantize"]


def test_float_ops_of_a_raw_encoder_are_named() -> None:
    found = regions(snapshot(raw(FAMILIES["encoder"], "x86")))
    floats = [name for name, region in found.items() if region is Region.FLOAT]
    own = ["truediv", "softmax", "layers_0_activation", "truediv_1", "softmax_1", "layers_1_activation"]
    assert floats == ["tokens", "places", *own]


@pytest.fixture(params=["qint8", "float16"])
def raw_dynamic(request: pytest.FixtureRequest) -> tuple[str, GraphSnapshot]:
    from torch.ao.quantization import QConfigMapping, default_dynamic_qconfig, float16_dynamic_qconfig
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    from fxquant.torch_ao import engine, quiet

    qconfig = default_dynamic_qconfig if request.param == "qint8" else float16_dynamic_qconfig
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    with engine("fbgemm"), quiet():
        prepared = prepare_fx(model, QConfigMapping().set_global(qconfig), (torch.zeros(1, 8),))
        return request.param, snapshot(convert_fx(prepared))


def test_raw_dynamic_layers_are_quantized_and_half_ones_hold_weights(raw_dynamic: tuple[str, GraphSnapshot]) -> None:
    dtype, graph = raw_dynamic
    layers = {regions(graph)[node.name] for node in graph if node.op == "call_module"}
    assert layers == {Region.QUANTIZED if dtype == "qint8" else Region.WEIGHTS}


def test_a_raw_reference_graph_is_quantized_where_its_patterns_are() -> None:
    from torch.ao.quantization.quantize_fx import convert_to_reference_fx, prepare_fx

    from fxquant.torch_ao import engine, quiet

    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4)).eval()
    with engine("x86"), quiet():
        prepared = prepare_fx(model, raw_mapping("x86"), (torch.zeros(1, 8),))
        prepared(torch.randn(4, 8))
        graph = snapshot(convert_to_reference_fx(prepared))
    found = regions(graph)
    layers = {node.kind: found[node.name] for node in graph if node.op == "call_module"}
    assert layers == {"Linear": Region.QUANTIZED, "GELU": Region.FLOAT}


def test_sizes_and_indices_are_neutral() -> None:
    graph = of_zoo("encoder").snapshot("lowered")
    found = regions(graph)
    assert {found[node.name] for node in graph if node.kind == "size"} == {Region.NEUTRAL}
    assert found["ids"] is Region.NEUTRAL


def test_a_planted_chain_has_the_regions_of_its_letters() -> None:
    found = regions(chain("qfq"))
    assert [found[name] for name in found if name[0] in "qf" and name[1:].isdigit()] == [
        Region.QUANTIZED,
        Region.FLOAT,
        Region.QUANTIZED,
    ]


def test_the_table_of_kernels_is_the_one_that_lowering_has() -> None:
    modules = {kind.__name__ for kind in native.SHARED_MODULES}
    assert modules == kernels.SHARED_MODULES
    assert {kind.__name__ for kind in native.OWN_MODULES} == kernels.OWN_MODULES
    assert {function.__name__ for function in native.SHARED_FUNCTIONS} == kernels.SHARED_FUNCTIONS
    assert native.SHARED_METHODS == kernels.SHARED_METHODS
    assert {function.__name__ for function, _ in FLOAT_RESULTS.values()} == kernels.FLOAT_RESULTS
    assert {function.__name__ for function in native.BINARY} == kernels.BINARY
    fixed = {kind.__name__: values for kind, (_, *values) in native.FIXED_MODULES.items()}
    assert fixed == {name: list(values) for name, values in kernels.FIXED_MODULES.items()}


class Canonical(Planted):
    """Quantizes and dequantizes as the canonical graph has them."""

    def quantize(self, source: str) -> str:
        return self.add("call_function", "fxquant.qdq.quantize_per_tensor", (source,), TensorInfo("uint8", (2, 8)))

    def dequantize(self, source: str) -> str:
        return self.add("call_function", "fxquant.qdq.dequantize_per_tensor", (source,), FLOATS)

    def call(self, target: str, *inputs: str) -> str:
        return self.add("call_function", target, inputs, FLOATS)


def test_a_sum_is_quantized_only_where_both_its_terms_are_codes() -> None:
    graph = Canonical()
    x = graph.input()
    coded, other = (graph.dequantize(graph.quantize(x)) for _ in range(2))
    both, mixed = graph.call("_operator.add", coded, other), graph.call("_operator.add", coded, x)
    found = regions(graph.output(graph.quantize(both), graph.quantize(mixed)))
    assert (found[both], found[mixed]) == (Region.QUANTIZED, Region.FLOAT)


@pytest.mark.parametrize("is_read_elsewhere", [False, True])
def test_a_relu_is_fused_only_where_it_alone_reads_the_sum(is_read_elsewhere: bool) -> None:
    graph = Canonical()
    coded, other = (graph.dequantize(graph.quantize(graph.input())) for _ in range(2))
    added = graph.call("_operator.add", coded, other)
    relu = graph.call("torch.relu", added)
    extra = [graph.float(added)] if is_read_elsewhere else []
    found = regions(graph.output(graph.quantize(relu), *extra))
    assert {found[added], found[relu]} == {Region.FLOAT if is_read_elsewhere else Region.QUANTIZED}


def test_an_element_of_a_recurrent_layers_tuple_stands_where_the_layer_does() -> None:
    options = (("options", "8, 8, batch_first=True"),)  # of a torch.ao module: no weights to be seen
    layer = NodeRecord("rnn", "call_module", "rnn", "LSTM", "(%x)", ("x",), attributes=options)
    item = NodeRecord("item", "call_function", "_operator.getitem", "getitem", "(%rnn, 0)", ("rnn",))
    found = regions(GraphSnapshot((NodeRecord("x", "placeholder", "x", "x"), layer, item)))
    assert found == {"x": Region.NEUTRAL, "rnn": Region.QUANTIZED, "item": Region.QUANTIZED}


@pytest.mark.parametrize("is_running", [False, True])
def test_an_instance_norm_has_a_kernel_where_it_keeps_no_statistics(is_running: bool) -> None:
    told = (("options", f"4, eps=1e-05, affine=True, track_running_stats={is_running}"),)
    assert kernels.is_own(NodeRecord("n", "call_module", "n", "InstanceNorm2d", attributes=told)) is not is_running
