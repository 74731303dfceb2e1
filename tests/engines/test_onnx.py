"""The canonical graph as ONNX: the same numbers, weights as int8 initializers, open sizes, names; refusals by name."""

from __future__ import annotations

import logging
import warnings
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import fx, nn

import fxquant
from fxquant.engines.engine import EngineRefusal
from fxquant.engines.onnx import to_onnx
from support.formless import Bessel, Counts
from support.models import MODELS


def as_onnx(model, preset, batch, **options):
    """(the ONNX model, the canonical graph, its inputs)."""
    compiled = fxquant.compile(
        model.eval(), preset, calibration_data=[batch], example_inputs=batch, target="onednn", **options
    )
    leaves = compiled.program.example_leaves
    return to_onnx(compiled.canonical, leaves), compiled.canonical, leaves


def of_zoo(name, preset):
    case = MODELS[name]
    return as_onnx(case.make(), preset, case.inputs(0, 2))


def session(proto, level=onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, options.log_severity_level, options.intra_op_num_threads = level, 4, 1
    return onnxruntime.InferenceSession(proto.SerializeToString(), options)


def run(proto, leaves):
    """What the model gives op by op, with nothing fused."""
    at = session(proto)
    given = {value.name: leaf.numpy() for value, leaf in zip(at.get_inputs(), leaves, strict=True)}
    return [torch.from_numpy(result) for result in at.run(None, given)]


def sqnr(wanted, found):
    noise = (wanted.detach() - found).double().square().sum().clamp(min=1e-30)
    return float(10 * torch.log10(wanted.detach().double().square().sum() / noise))


@pytest.mark.parametrize(
    ("name", "preset", "db"),
    [
        ("unet", "int8", 100),
        ("encoder", "int8-dynamic", 100),
        ("two_inputs", "int8-weight-only", 100),
        ("grouped_transpose_norm", "int8", 100),
        ("lstm_both_ways", "int8-dynamic", 30),  # activations are not quantized there
    ],
)
def test_the_file_has_the_numbers_of_the_canonical_graph(name, preset, db):
    proto, canonical, leaves = of_zoo(name, preset)
    with torch.no_grad():
        wanted = canonical(*leaves)
    assert min(sqnr(one, other) for one, other in zip(wanted, run(proto, leaves), strict=True)) >= db


@pytest.fixture(scope="module")
def conv_net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 5))
    return as_onnx(model, "int8", (torch.randn(2, 3, 8, 8),))


def test_weights_are_int8_initializers_read_by_a_dequantize(conv_net):
    graph = conv_net[0].graph
    held = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    kinds = Counter(node.op_type for node in graph.node)
    readers = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in held]
    assert [held[node.input[0]].dtype for node in readers] == [np.int8] * 3
    assert all(held[node.input[1]].ndim == 1 and held[node.input[2]].dtype == np.int8 for node in readers)
    assert kinds["QuantizeLinear"] + 3 == kinds["DequantizeLinear"] and not kinds["Clip"] and not kinds["Constant"]
    assert not [name for name, array in held.items() if array.dtype == np.float32 and array.ndim > 1]


def test_scales_are_scalars_and_zero_points_of_their_codes_type(conv_net):
    graph = conv_net[0].graph
    held = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    quantizes = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert quantizes and all(held[node.input[1]].shape == () for node in quantizes)
    assert {held[node.input[2]].dtype for node in quantizes} == {np.dtype(np.uint8)}


def test_the_runtime_fuses_every_layer(conv_net, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "fused.onnx"), 4
    onnxruntime.InferenceSession(conv_net[0].SerializeToString(), options)
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node)
    assert (kinds["QLinearConv"], kinds["QGemm"], kinds["Conv"], kinds["Relu"]) == (2, 1, 0, 0)


def test_batch_and_picture_size_are_open(conv_net):
    proto, canonical, _ = conv_net
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    x = torch.randn(5, 3, 8, 8)
    assert torch.equal(run(proto, (x,))[0], canonical(x)[0])


def test_a_batch_of_one_leaves_the_batch_open():
    proto, canonical, _ = as_onnx(nn.Sequential(nn.Linear(4, 4)), "int8", (torch.randn(1, 4),))
    x = torch.randn(7, 4)
    assert torch.equal(run(proto, (x,))[0], canonical(x)[0])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_the_length_of_a_recurrent_layer_is_open(kind):
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.head = kind(6, 5, 2, bidirectional=True, batch_first=True), nn.Linear(10, 3)

        def forward(self, x):
            return self.head(self.layers(x)[0])

    proto, canonical, _ = as_onnx(Tagger(), "int8-weight-only", (torch.randn(2, 7, 6),))
    x = torch.randn(3, 12, 6)
    assert sqnr(canonical(x)[0], run(proto, (x,))[0]) > 100


def test_a_float_recurrent_layer_and_its_first_state_go_too():
    class Started(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.head = nn.LSTM(4, 4, bias=False), nn.Linear(4, 2)

        def forward(self, x, h, c):
            output, (last, _) = self.layers(x, (h, c))
            return self.head(output), last

    given = torch.randn(5, 2, 4), torch.randn(1, 2, 4), torch.randn(1, 2, 4)
    proto, canonical, leaves = as_onnx(Started(), "int8-weight-only", given)
    for wanted, found in zip(canonical(*leaves), run(proto, leaves), strict=True):
        assert sqnr(wanted, found) > 100


def test_weights_in_groups_go_as_blocks():
    proto, canonical, leaves = as_onnx(nn.Sequential(nn.Linear(72, 16)), "int4-weight-only", (torch.randn(3, 72),))
    assert [len(node.attribute) for node in proto.graph.node if node.op_type == "DequantizeLinear"] == [2]
    assert sqnr(canonical(*leaves)[0], run(proto, leaves)[0]) > 100


def test_a_narrow_range_is_kept():
    x = torch.randn(4, 8) * 3
    compiled = fxquant.compile(nn.Sequential(nn.Linear(8, 4)), "int8", calibration_data=[(x,)], target="x86")
    proto = to_onnx(compiled.canonical, (x,))
    assert torch.equal(run(proto, (10 * x,))[0], compiled.canonical(10 * x)[0])


def test_a_refusal_names_the_node_and_the_line_stays_with_it():
    with pytest.raises(EngineRefusal, match="bessel_j0") as caught:
        as_onnx(Bessel(), "int8", (torch.randn(2, 4),))
    assert caught.value.node == "special_bessel_j0"


def test_state_is_refused_by_the_node_that_keeps_it():
    with pytest.raises(EngineRefusal, match="keeps a buffer's new value") as caught:
        as_onnx(Counts(), "int8-dynamic", (torch.randn(2, 4),))
    assert caught.value.node


def test_nothing_is_printed_and_the_process_is_as_before(conv_net, capfd):
    levels = {name: logging.getLogger(name).level for name in ("torch.onnx", "torch.export", "onnxscript")}
    filters, state = list(warnings.filters), torch.random.get_rng_state()
    to_onnx(*conv_net[1:])
    assert capfd.readouterr() == ("", "")
    assert {name: logging.getLogger(name).level for name in levels} == levels
    assert warnings.filters == filters and torch.equal(torch.random.get_rng_state(), state)


def test_nothing_is_logged_of_a_size_of_one_that_stays_fixed(capfd):
    """One channel: torch.export warns of it where there are several rows."""
    torch.manual_seed(0)
    to_onnx(fx.symbolic_trace(nn.Conv2d(1, 2, 3)), (torch.rand(2, 1, 8, 8),))
    assert capfd.readouterr() == ("", "")


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x, table, scale):
        return self.fc(x) * scale + table.mean()


def test_a_row_beside_inputs_that_have_no_rows_or_several_is_open():
    torch.manual_seed(0)
    proto = to_onnx(fx.symbolic_trace(Scaled()), (torch.rand(1, 4), torch.rand(5, 2), torch.rand(())))
    found = run(proto, (torch.rand(3, 4), torch.rand(7, 2), torch.rand(())))
    assert found[0].shape == (3, 3)


class Shifted(nn.Module):
    def forward(self, x, shift):
        return torch.relu(x + shift).view(5, 4)


def test_a_size_of_one_that_is_meant_beside_others_stays():
    proto = to_onnx(fx.symbolic_trace(Shifted()), (torch.rand(5, 4), torch.rand(1, 4)))
    assert run(proto, (torch.rand(5, 4), torch.rand(1, 4)))[0].shape == (5, 4)


class Halves(nn.Module):
    """The rows of a batch in two halves, as guided diffusion has them."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        one, other = self.fc(x).chunk(2)
        return one + 7.5 * (other - one)


def test_rows_in_halves_go_through_although_the_exporters_optimizer_fails_on_them():
    torch.manual_seed(0)
    proto, canonical, _ = as_onnx(Halves(), "int8", (torch.randn(16, 4),))
    x = torch.randn(8, 4)
    assert sqnr(canonical(x)[0], run(proto, (x,))[0]) > 100
