"""normalize-calls: every spelling comes out as one, functional layers as named modules that hold the same tensors."""

from __future__ import annotations

import operator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fxquant.keep_float import is_kept_float
from fxquant.passes.fold_batchnorm import FoldBatchnorm
from fxquant.passes.fuse import Fuse
from fxquant.passes.normalize_calls import NormalizeCalls
from fxquant.pipeline import Pipeline
from support.asserts import assert_pass, assert_same, untouched
from support.tracing import call, run_passes, trace


class Calls(nn.Module):
    """Calls one function on its inputs."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Weighted(nn.Module):
    """Calls a function with its own parameters w (of the shape) and b, and buffers m and v."""

    def __init__(self, shape, outputs, function):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.randn(outputs))
        self.register_buffer("m", torch.randn(outputs))
        self.register_buffer("v", torch.rand(outputs) + 0.5)
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def made(program):
    """The one module that the only call of the graph goes to."""
    (node,) = (node for node in program.graph.nodes if node.op not in ("placeholder", "output"))
    assert node.op == "call_module", f"{node.op} {node.target}"
    return program.graph_module.get_submodule(node.target)


def function_of(program):
    (node,) = (node for node in program.graph.nodes if node.op in ("call_function", "call_method"))
    return node


X4 = torch.randn(2, 4, 6, 6)

ACTIVATIONS = {
    "F.relu": (F.relu, "ReLU()"),
    "torch.relu": (torch.relu, "ReLU()"),
    "x.relu": (lambda x: x.relu(), "ReLU()"),
    "relu by keyword": (lambda x: F.relu(input=x), "ReLU()"),
    "F.relu6": (F.relu6, "ReLU6()"),
    "F.hardtanh": (lambda x: F.hardtanh(x, -2.0, max_val=0.5), "Hardtanh(min_val=-2.0, max_val=0.5)"),
    "F.hardswish": (F.hardswish, "Hardswish()"),
    "F.hardsigmoid": (F.hardsigmoid, "Hardsigmoid()"),
    "F.sigmoid": (F.sigmoid, "Sigmoid()"),
    "torch.sigmoid": (torch.sigmoid, "Sigmoid()"),
    "x.sigmoid": (lambda x: x.sigmoid(), "Sigmoid()"),
    "torch.tanh": (torch.tanh, "Tanh()"),
    "x.tanh": (lambda x: x.tanh(), "Tanh()"),
    "F.gelu": (F.gelu, "GELU(approximate='none')"),
    "F.gelu tanh": (lambda x: F.gelu(x, approximate="tanh"), "GELU(approximate='tanh')"),
    "F.silu": (F.silu, "SiLU()"),
    "F.elu": (lambda x: F.elu(x, 0.7), "ELU(alpha=0.7)"),
    "F.leaky_relu": (lambda x: F.leaky_relu(x, 0.2), "LeakyReLU(negative_slope=0.2)"),
    "F.softmax": (lambda x: F.softmax(x, dim=1), "Softmax(dim=1)"),
    "torch.softmax": (lambda x: torch.softmax(x, -1), "Softmax(dim=-1)"),
    "x.softmax": (lambda x: x.softmax(-1), "Softmax(dim=-1)"),
    "x.softmax by keyword": (lambda x: x.softmax(dim=2), "Softmax(dim=2)"),
    "F.layer_norm": (lambda x: F.layer_norm(x, (6,)), "LayerNorm((6,), eps=1e-05, elementwise_affine=False)"),
    "F.max_pool2d": (
        lambda x: F.max_pool2d(x, 2),
        "MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)",
    ),
    "torch.max_pool2d": (
        lambda x: torch.max_pool2d(x, [3, 3], [1, 2], 1),
        "MaxPool2d(kernel_size=(3, 3), stride=(1, 2), padding=1, dilation=1, ceil_mode=False)",
    ),
    "F.avg_pool2d": (lambda x: F.avg_pool2d(x, 3, 1), "AvgPool2d(kernel_size=3, stride=1, padding=0)"),
    "F.adaptive_avg_pool2d": (
        lambda x: F.adaptive_avg_pool2d(x, (None, 1)),
        "AdaptiveAvgPool2d(output_size=(None, 1))",
    ),
}


@pytest.mark.parametrize("case", ACTIVATIONS)
def test_fires_on_functions_that_have_a_module_form(case):
    function, expected = ACTIVATIONS[case]
    program, _ = assert_pass(NormalizeCalls(), Calls(function), X4)
    module = made(program)
    if not expected.startswith("LayerNorm"):
        assert str(module) == expected
    assert not module.training


@pytest.mark.parametrize(
    ("pool", "shape"),
    [
        (lambda x: F.max_pool1d(x, 2, ceil_mode=True), (2, 3, 7)),
        (lambda x: F.avg_pool1d(x, 3, 2, 1, count_include_pad=False), (2, 3, 7)),
        (lambda x: F.adaptive_avg_pool1d(x, 2), (2, 3, 7)),
        (lambda x: F.max_pool3d(x, 2), (1, 2, 4, 4, 4)),
        (lambda x: F.avg_pool3d(x, (1, 2, 2), divisor_override=3), (1, 2, 4, 4, 4)),
        (lambda x: F.adaptive_avg_pool3d(x, 1), (1, 2, 4, 4, 4)),
        (lambda x: F.avg_pool2d(x, 2, [], 0, True, False, 5), (1, 2, 5, 5)),
    ],
)
def test_fires_on_pools(pool, shape):
    program, _ = assert_pass(NormalizeCalls(), Calls(pool), torch.randn(shape))
    assert "Pool" in type(made(program)).__name__


LAYERS = {
    "linear": (Weighted((5, 6), 5, lambda m, x: F.linear(x, m.w, m.b)), (2, 6), nn.Linear),
    "linear no bias": (Weighted((5, 6), 5, lambda m, x: F.linear(x, m.w)), (2, 6), nn.Linear),
    "linear keywords": (Weighted((5, 6), 5, lambda m, x: F.linear(bias=m.b, weight=m.w, input=x)), (2, 6), nn.Linear),
    "linear buffer bias": (Weighted((5, 6), 5, lambda m, x: F.linear(x, m.w, m.m)), (2, 3, 6), nn.Linear),
    "conv1d": (Weighted((4, 2, 3), 4, lambda m, x: F.conv1d(x, m.w, m.b, 2, 1)), (2, 2, 9), nn.Conv1d),
    "conv2d scalars": (Weighted((4, 2, 3, 3), 4, lambda m, x: F.conv2d(x, m.w, m.b, 2, 1, 2)), (2, 2, 9, 9), nn.Conv2d),
    "conv2d groups": (
        Weighted((4, 1, 3, 3), 4, lambda m, x: F.conv2d(x, m.w, groups=2, padding=[1, 0])), (2, 2, 9, 9), nn.Conv2d
    ),
    "conv2d same": (Weighted((4, 2, 3, 5), 4, lambda m, x: F.conv2d(x, m.w, padding="same")), (2, 2, 9, 9), nn.Conv2d),
    "conv valid": (Weighted((4, 2, 3, 1), 4, lambda m, x: F.conv2d(x, m.w, padding="valid")), (2, 2, 9, 9), nn.Conv2d),
    "conv2d same dilated even": (
        Weighted((4, 2, 2, 2), 4, lambda m, x: F.conv2d(x, m.w, padding="same", dilation=2)), (2, 2, 9, 9), nn.Conv2d
    ),
    "conv3d": (Weighted((4, 2, 1, 3, 3), 4, lambda m, x: F.conv3d(x, m.w, m.b)), (1, 2, 3, 5, 5), nn.Conv3d),
    "conv_transpose1d": (
        Weighted((4, 3, 3), 6, lambda m, x: F.conv_transpose1d(x, m.w, m.b, 2, 1, 1, 2)), (2, 4, 5), nn.ConvTranspose1d
    ),
    "conv_transpose2d": (
        Weighted((4, 3, 3, 3), 3, lambda m, x: F.conv_transpose2d(x, m.w, m.b, dilation=2)), (2, 4, 5, 5),
        nn.ConvTranspose2d,
    ),
    "conv_transpose3d": (
        Weighted((2, 3, 1, 3, 3), 3, lambda m, x: F.conv_transpose3d(x, m.w)), (2, 2, 3, 3, 3), nn.ConvTranspose3d
    ),
    "layer_norm": (Weighted((5,), 5, lambda m, x: F.layer_norm(x, [5], m.w, m.b, 1e-3)), (2, 3, 5), nn.LayerNorm),
    "layer_norm no bias": (Weighted((5,), 5, lambda m, x: F.layer_norm(x, [5], m.w)), (2, 3, 5), nn.LayerNorm),
    "batch_norm 2": (Weighted((5,), 5, lambda m, x: F.batch_norm(x, m.m, m.v, m.w, m.b)), (3, 5), nn.BatchNorm1d),
    "batch_norm 4": (Weighted((5,), 5, lambda m, x: F.batch_norm(x, m.m, m.v, eps=0.1)), (3, 5, 2, 2), nn.BatchNorm2d),
}  # fmt: skip


@pytest.mark.parametrize("case", LAYERS)
def test_fires_on_layers_and_keeps_their_tensors(case):
    model, shape, kind = LAYERS[case]
    program, _ = assert_pass(NormalizeCalls(), model, torch.randn(shape))
    module = made(program)
    assert type(module) is kind
    assert not [name for name in ("w", "b", "m", "v") if hasattr(program.graph_module, name)], "left on the root too"
    traced, ledger = trace(model, torch.randn(shape))
    parameter = getattr(traced.graph_module, "w", None)
    program, _ = Pipeline((NormalizeCalls(),)).run(traced, ledger)
    assert made(program).weight is parameter, "the very same Parameter"


def test_module_looks_like_one_that_the_user_made():
    model, shape, _ = LAYERS["conv2d groups"]
    program, _ = run_passes(NormalizeCalls(), model, torch.randn(shape))
    twin = nn.Conv2d(2, 4, 3, groups=2, padding=(1, 0), bias=False)
    assert str(made(program)) == str(twin)
    assert {k: v for k, v in made(program).__dict__.items() if k[0] != "_" and k != "training"} == {
        k: v for k, v in twin.__dict__.items() if k[0] != "_" and k != "training"
    }


def test_fires_on_embedding_and_leaves_one_that_rescales_itself():
    ids = torch.tensor([[0, 2], [1, 1]])
    model = Weighted((3, 4), 4, lambda m, x: F.embedding(x, m.w, padding_idx=-1))
    program, _ = assert_pass(NormalizeCalls(), model, ids)
    assert made(program).padding_idx == 2
    program, _ = run_passes(NormalizeCalls(), Weighted((3, 4), 4, lambda m, x: F.embedding(x, m.w, max_norm=1.0)), ids)
    assert function_of(program).target is F.embedding


FORMS = {
    "torch.add": (lambda x: torch.add(x, x), operator.add),
    "x.add": (lambda x: x.add(x), operator.add),
    "x.add scalar": (lambda x: x.add(1.5), operator.add),
    "torch.add keywords": (lambda x: torch.add(other=x, input=x, alpha=1), operator.add),
    "torch.sub": (lambda x: torch.sub(x, x), operator.sub),
    "x.sub": (lambda x: x.sub(x), operator.sub),
    "torch.mul": (lambda x: torch.mul(x, x), operator.mul),
    "x.mul": (lambda x: x.mul(x), operator.mul),
    "x @ y": (lambda x: x @ x, torch.matmul),
    "x.matmul": (lambda x: x.matmul(x), torch.matmul),
    "x.flatten": (lambda x: x.flatten(1), torch.flatten),
    "torch.flatten": (lambda x: torch.flatten(x, start_dim=1), torch.flatten),
    "torch.cat": (lambda x: torch.cat(tensors=[x, x], dim=1), torch.cat),
    "torch.cat axis": (lambda x: torch.cat([x, x], axis=1), torch.cat),
    "torch.concat": (lambda x: torch.concat((x, x)), torch.cat),
}


@pytest.mark.parametrize("case", FORMS)
def test_one_spelling_for_each_op(case):
    function, target = FORMS[case]
    program, _ = assert_pass(NormalizeCalls(), Calls(function), X4)
    node = function_of(program)
    assert node.op == "call_function" and node.target is target and not node.kwargs


LEFT_ALONE = {
    "hardtanh of one value": lambda x: F.hardtanh(x, 1.0, 1.0),
    "batch norm of each batch": lambda x: F.batch_norm(x, None, None, training=True),
    "alpha": lambda x: torch.add(x, x, alpha=2),
    "python +": lambda x: x + x,
    "softmax dtype": lambda x: F.softmax(x, 1, dtype=torch.float64),
    "max_pool indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[1],
    "a computed slope": lambda x: F.leaky_relu(x, x.shape[0] * 0.1),
    "an output given": lambda x: torch.add(x, x, out=torch.empty_like(x)),
    "threshold": lambda x: F.threshold(x, 0.1, 20),
    "computed norm shape": lambda x: F.layer_norm(x, x.shape[-1:]),
}


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_leaves_alone(case):
    program, _ = run_passes(NormalizeCalls(), Calls(LEFT_ALONE[case]).eval(), X4)
    assert not [node for node in program.graph.nodes if node.op == "call_module"]
    assert_same(call(program, X4), LEFT_ALONE[case](X4))


def test_a_softmax_over_an_implied_dimension_is_left_alone():
    program, _ = run_passes(NormalizeCalls(), Calls(F.softmax), X4)
    assert function_of(program).target is F.softmax


def test_a_linear_whose_weight_is_a_vector_has_no_module():
    program, _ = assert_pass(
        NormalizeCalls(), Weighted((6,), 1, lambda m, x: F.linear(x, m.w)), torch.randn(2, 6), changes=True
    )
    node = next(node for node in program.graph.nodes if node.op == "call_function")
    assert node.target is F.linear and node.args[2] is None


def test_what_writes_in_place_still_does():
    """In the default pipeline functionalize comes first; alone, this pass must not make a write a copy."""

    def function(x):
        y = x + 1
        F.relu(y, inplace=True)
        return y

    program, _ = assert_pass(NormalizeCalls(), Calls(function), X4)
    assert program.graph_module.relu.inplace


def test_a_weight_computed_in_the_graph_stays_where_it_is_with_its_arguments_written_out():
    model = Weighted((4, 2, 3, 3), 4, lambda m, x: F.conv2d(x, weight=m.w / m.w.norm(), padding=1))
    program, _ = assert_pass(NormalizeCalls(), model, torch.randn(1, 2, 5, 5))
    node = next(node for node in program.graph.nodes if node.target is F.conv2d)
    assert node.args[2:] == (None, 1, 1, 1, 1) and not node.kwargs


def test_a_weight_that_another_op_reads_is_shared_not_moved():
    model = Weighted((5, 6), 5, lambda m, x: F.linear(x, m.w) + m.w.sum())
    program, _ = assert_pass(NormalizeCalls(), model, torch.randn(2, 6))
    assert program.graph_module.linear.weight is program.graph_module.w


def test_a_weight_that_is_written_to_is_left_alone():
    model = Weighted((5, 6), 5, lambda m, x: F.linear(x, m.w.add_(1.0)) + F.linear(x, m.w))
    program, _ = run_passes(NormalizeCalls(), model, torch.randn(2, 6))
    assert [node.op for node in program.graph.nodes].count("call_module") == 0


def test_tied_embedding_and_head_hold_one_parameter():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(7, 4)

        def forward(self, ids):
            return F.linear(self.embedding(ids), self.embedding.weight)

    program, _ = assert_pass(NormalizeCalls(), Tied(), torch.tensor([[1, 2]]))
    assert program.graph_module.linear.weight is program.graph_module.embedding.weight


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        return torch.relu(F.relu(self.fc(x)))


class Nested(nn.Module):
    """Attributes called like the modules to come: 'relu' on the root is a tensor, 'sigmoid' a module."""

    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(Block(), Block())
        self.register_buffer("relu", torch.ones(3))
        self.sigmoid = nn.Linear(3, 3)

    def forward(self, x):
        return torch.sigmoid(self.sigmoid(F.relu(self.layer1(x) + self.relu)))


def test_names_are_under_the_scope_readable_and_free():
    program, _ = assert_pass(NormalizeCalls(), Nested(), torch.randn(2, 3))
    assert [node.target for node in program.graph.nodes if node.op == "call_module"] == [
        "layer1.0.fc", "layer1.0.relu", "layer1.0.relu_1", "layer1.1.fc", "layer1.1.relu", "layer1.1.relu_1",
        "relu_1", "sigmoid", "sigmoid_1",
    ]  # fmt: skip
    assert torch.equal(program.graph_module.relu, torch.ones(3))


@pytest.mark.parametrize("name", ["float", "half", "type"])
def test_a_method_of_modules_is_never_overwritten(name):
    from fxquant.passes._placing import place

    program, _ = trace(Nested().eval(), torch.randn(2, 3))
    assert place(program.graph_module, nn.ReLU(), scope_name="layer1.0", stem=name) == f"layer1.0.{name}_1"


def test_modules_called_by_keyword():
    class Keywords(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.attention = nn.Linear(4, 4), nn.MultiheadAttention(4, 1, batch_first=True)

        def forward(self, x):
            y = self.fc(input=x)
            return self.attention(query=y, key=y, value=y, need_weights=False)[0]

    program, _ = assert_pass(NormalizeCalls(), Keywords(), torch.randn(2, 3, 4))
    arguments = {node.target: (len(node.args), node.kwargs) for node in program.graph.nodes if node.op == "call_module"}
    assert arguments == {"fc": (1, {}), "attention": (3, {"need_weights": False})}


@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular"])
def test_same_padding_of_a_module_is_written_out(mode):
    model = nn.Sequential(nn.Conv2d(1, 2, (3, 5), padding="same", dilation=(2, 1), padding_mode=mode))
    program, _ = assert_pass(NormalizeCalls(), model, torch.randn(1, 1, 8, 8))
    assert made(program).padding == (2, 2) and model[0].padding == "same"


def test_same_padding_that_is_one_sided_stays_float_and_says_so():
    module = nn.Sequential(nn.Conv2d(1, 2, 2, padding="same"))
    functional = Weighted((2, 1, 2, 2), 2, lambda m, x: F.conv2d(x, m.w, padding="same"))
    with pytest.warns(UserWarning, match="even kernel lengths"):
        for model, site in ((module, "_0"), (functional, "conv2d")):
            program, ledger = run_passes(NormalizeCalls(), model, torch.randn(1, 1, 5, 5))
            row = ledger[site]
            assert (row.code, row.effective) == ("FXQ207", "float32") and "same" in row.reason and row.hint
            assert is_kept_float(next(node for node in program.graph.nodes if node.name == site))
            call(program, torch.randn(1, 1, 5, 5))


def test_nothing_is_drawn_and_nothing_global_changes():
    models = [(model, torch.randn(shape)) for model, shape, _ in LAYERS.values()]
    for model, x in models:
        with untouched(model.eval()):
            run_passes(NormalizeCalls(), model, x)


def test_a_functional_network_folds_and_fuses_like_one_of_modules():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.b = nn.Parameter(torch.randn(3, 1, 3, 3)), nn.Parameter(torch.randn(3))
            self.register_buffer("m", torch.randn(3))
            self.register_buffer("v", torch.rand(3) + 0.5)

        def forward(self, x):
            return F.relu(F.batch_norm(F.conv2d(x, self.w, self.b), self.m, self.v))

    model, x = Functional().eval(), torch.randn(2, 1, 6, 6)
    program, ledger = run_passes((NormalizeCalls(), FoldBatchnorm(), Fuse()), model, x)
    assert [node.name for node in program.graph.nodes] == ["x", "conv2d", "output"]
    assert ledger["batch_norm"].effective == "folded into conv2d"
    assert_same(call(program, x), model(x), rtol=1e-5, atol=1e-5)


def test_pools_are_called_after_their_op():
    program, _ = assert_pass(NormalizeCalls(), Calls(lambda x: F.max_pool2d(F.max_pool2d(x, 2), 2)), X4)
    assert [node.target for node in program.graph.nodes][1:3] == ["max_pool2d", "max_pool2d_1"]


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda self, x: F.batch_norm(x, self.m, self.v, self.w, None), (4,)),  # one of a pair
        (lambda self, x: F.layer_norm(x, (6,), None, self.b), (4,)),  # a shift without a scale
    ],
)
def test_what_no_module_can_hold_stays_a_call(function, shape):
    x = torch.randn(2, 4, 6) if shape == (4,) else X4
    model = Weighted(shape, 4 if "batch" in str(function.__code__.co_names) else 6, function)
    program, _ = run_passes(NormalizeCalls(), model, x)
    assert function_of(program).target in (F.batch_norm, F.layer_norm)
    assert_same(call(program, x), model.eval()(x).detach())
