"""Capture gives a graph that computes what the model computes, for models of many shapes; each node has its origin."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn

from fxquant import origin
from fxquant.capture import capture
from fxquant.errors import ExampleInputError, RecipeError, ResourceError, UnknownTargetError, UntraceableError
from fxquant.ledger import Ledger
from fxquant.request import CaptureRequest
from support import shapes
from support.asserts import assert_same, untouched
from support.tracing import call, trace

torch.set_num_threads(1)

MODELS = {
    "vit": (shapes.VisionTransformer, lambda n: (torch.randn(n, 3, 16, 16),)),
    "unet": (shapes.UNet, lambda n: (torch.randn(n, 1, 9, 9),)),
    "siamese": (shapes.Siamese, lambda n: (torch.randn(n, 4), torch.randn(n, 4))),
    "dense": (shapes.DenseBlock, lambda n: (torch.randn(n, 2, 5, 5),)),
    "shuffle": (shapes.ChannelShuffle, lambda n: (torch.randn(n, 4, 3, 3),)),
    "squeeze": (shapes.SqueezeExcite, lambda n: (torch.randn(n, 4, 3, 3),)),
    "positions": (shapes.Positions, lambda n: (torch.randint(0, 20, (n, 5 + n)),)),
    "views": (shapes.Views, lambda n: (torch.randn(n, 4),)),
    "guards": (shapes.Guards, lambda n: (torch.randn(n, 4),)),
    "custom": (shapes.Custom, lambda n: (torch.randn(n, 4),)),
    "names that code cannot hold": (
        partial(shapes.Named, ['"', "_", "a\\", "a_", "\n", "\ud800", "'\"><b>"]),
        lambda n: (torch.randn(n, 4),),
    ),
    "odd names": (
        partial(shapes.Named, ["class", "graph", "code", "größe", "my-conv", "model", "input", "x", "_code", "relu"]),
        lambda n: (torch.randn(n, 4),),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_captured_model_computes_the_same_also_for_another_batch_size(name):
    make, inputs = MODELS[name]
    model = make().eval()
    example = inputs(2)
    with untouched(model):
        program, _ = trace(model, *copy.deepcopy(example))
    for args in (example, inputs(3)):
        assert_same(call(program, *copy.deepcopy(args)), model(*copy.deepcopy(args)))
    assert all(len(origin.origins(node)) == 1 for node in program.graph.nodes)
    assert all(node.name.isidentifier() for node in program.graph.nodes)
    program.graph.lint()


def test_augmented_assignment_keeps_sharing_memory():
    """fx itself records `y += 1` as an addition and loses the write."""
    model, x = shapes.Views(), torch.randn(2, 4)
    raw = torch.fx.symbolic_trace(nn.Sequential(_Shared()))
    assert not torch.equal(raw(x), _Shared()(x))
    program, _ = trace(_Shared(), x)
    assert_same(call(program, x), _Shared()(x))
    assert_same(call(trace(model, x)[0], x), model(x))


class _Shared(nn.Module):
    def forward(self, x):
        y = x * 2
        z = y.view(-1)
        z += 1
        return y


def test_nested_arguments_and_outputs_come_back_as_they_were():
    model = shapes.Nested().eval()
    args = ({"image": torch.randn(2, 3), "id": 7}, (torch.randn(3), torch.randn(3)), torch.randn(3))
    program, _ = trace(model, *args, scale=3.0, bias=torch.randn(3))
    again = ({"id": 7, "image": torch.randn(4, 3)}, [torch.randn(3), torch.randn(3)], torch.randn(3))
    bias = torch.randn(3)
    got, wanted = call(program, *again, scale=3.0, bias=bias), model(*again, scale=3.0, bias=bias)
    assert_same(got, wanted)
    assert type(got) is shapes.Output and got.x is got["x"]
    assert got["pair"].second is None and got["found"].scores["n"] == 3
    assert got["found"].boxes[1] is again[0]["image"], "an input that is returned stays the very tensor"
    assert torch.equal(got["weight"], model.fc.weight)
    names = [leaf.name for leaf in program.signature.tensor_leaves]
    assert names == ["batch_image", "pair_0", "pair_1", "rest_0", "others_bias"]


def test_constant_none_and_repeated_outputs():
    class Model(nn.Module):
        def forward(self, x):
            y = x + 1
            return y, y, None, 3, x

    program, _ = trace(Model(), torch.ones(2))
    a, b, none, three, same = call(program, x := torch.zeros(2))
    assert a is b and none is None and three == 3 and same is x


def test_a_scripted_submodule_and_a_scripted_function_stay_leaves():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.jit.script(nn.Linear(4, 4))

        def forward(self, x):
            return self.inner(x)

    with pytest.warns(DeprecationWarning):
        model = Model().eval()
    program, _ = trace(model, x := torch.randn(2, 4))
    assert [node.target for node in program.graph.nodes if node.op == "call_module"] == ["inner"]
    assert_same(call(program, x), model(x))


def test_a_custom_autograd_function_is_one_node_with_a_row():
    program, ledger = trace(shapes.Custom(), torch.randn(2, 4))
    assert "Doubled" in [row.op for row in ledger.layers]
    again, _ = trace(shapes.Custom(), torch.randn(2, 4))
    targets = [[n.target for n in p.graph.nodes if n.op == "call_function"] for p in (program, again)]
    assert targets[0] == targets[1]


def test_buffers_steer_branches_and_are_read_by_reference():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("flag", torch.tensor(True))
            self.register_buffer("steps", torch.zeros(()))
            self.weight = nn.Parameter(torch.arange(16.0).reshape(4, 4))  # sums of whole numbers are exact

        def forward(self, x):
            if self.flag:
                x = x.to(self.weight.device, self.weight.dtype)
            self.steps.add_(1)
            return x @ self.weight * self.weight.size(0) + self.steps

    model, x = Model().eval(), torch.arange(8.0).reshape(2, 4)
    with untouched(model):
        program, _ = trace(model, x)
    assert [n.target for n in program.graph.nodes if n.op == "get_attr"] == ["weight", "steps"]
    assert_same([call(program, x), call(program, x)], [copy.deepcopy(model)(x), copy.deepcopy(model)(x) + 1])


def test_numbers_in_buffers_decide_branches_unless_they_are_written():
    class Model(nn.Module):
        def __init__(self, writes):
            super().__init__()
            self.writes = writes
            self.register_buffer("steps", torch.tensor(3))

        def forward(self, x):
            if self.writes:
                self.steps.add_(1)
            for _ in range(int(self.steps)):
                x = x + 1
            return x * 2 if self.steps * 2 > 4 and not self.steps > 3 else x

    program, _ = trace(Model(False), torch.ones(2))
    assert_same(call(program, torch.ones(2)), torch.full((2,), 8.0))
    assert [n.op for n in program.graph.nodes if n.op == "get_attr"] == []
    with pytest.raises(UntraceableError, match="FXQ210"):
        trace(Model(True), torch.ones(2))


def test_names_that_python_owns_are_changed_and_said():
    program, ledger = trace(shapes.Named(["class", "graph"]), torch.randn(2, 4))
    assert [n.target for n in program.graph.nodes if n.op == "call_module"] == ["class_", "graph_"]
    assert [row.code for row in ledger.notices] == ["FXQ225", "FXQ225"]


def test_leaves_by_name_class_and_regex():
    x = torch.randn(2, 4)
    for chosen in ("blocks.0", shapes.Branch, r"re:blocks\.\d"):
        request = CaptureRequest(shapes.Deep().eval(), (x,), leaf_modules=[chosen])
        program = capture(request, Ledger())
        assert "blocks.0" in [node.target for node in program.graph.nodes]
        assert_same(call(program, x), request.model(x))


@pytest.mark.parametrize(
    ("chosen", "error", "code", "told"),
    [
        ("block.0", UnknownTargetError, "FXQ110", "'blocks.0'"),
        (nn.LSTM, UnknownTargetError, "FXQ110", "LSTM"),
        ("re:nothing.*", UnknownTargetError, "FXQ110", "re:nothing.*"),
        ("re:(", RecipeError, "FXQ101", "re:("),
    ],
)
def test_leaf_modules_that_match_nothing(chosen, error, code, told):
    with pytest.raises(error, match=code) as caught:
        capture(CaptureRequest(shapes.Deep(), leaf_modules=[chosen]), Ledger())
    assert told in str(caught.value)


def test_concrete_args_fix_a_branch_and_need_not_be_given_again():
    class Model(nn.Module):
        def forward(self, x, negate):
            return -x if negate else x

    x = torch.randn(3)
    program = capture(CaptureRequest(Model(), concrete_args={"negate": True}), Ledger())
    assert_same(call(program, x), -x)
    assert_same(call(program, x, negate=True), -x)
    with pytest.raises(ExampleInputError, match="FXQ108 argument 'negate'"):
        call(program, x, False)
    with pytest.raises(ExampleInputError, match=r"FXQ107.*'negat'"):
        capture(CaptureRequest(Model(), concrete_args={"negat": True}), Ledger())


def test_origin_names_the_users_line_and_module():
    program, _ = trace(shapes.VisionTransformer(), torch.randn(1, 3, 16, 16))
    for node in program.graph.nodes:
        assert origin.where(node).file == shapes.__file__, node
    node = next(node for node in program.graph.nodes if node.target == "attentions.1.qkv")
    assert origin.where(node).text.startswith("q, k, v = self.qkv(x)")
    assert origin.scope(next(n for n in program.graph.nodes if n.name == "softmax_1")) == "attentions.1"


def test_ranks_are_fixed_only_where_the_code_asks():
    assert trace(shapes.UNet(), torch.randn(1, 1, 8, 8))[0].signature.tensor_leaves[0].rank is None
    program, ledger = trace(shapes.Guards(), torch.randn(2, 4))
    assert program.signature.tensor_leaves[0].rank == 2
    assert [row.code for row in ledger.notices] == ["FXQ219"]
    with pytest.raises(ExampleInputError, match="FXQ107 argument 'x' has 3 dimensions"):
        call(program, torch.randn(2, 4, 1))


def test_a_rank_that_depends_on_sizes_is_not_guessed():
    class Model(nn.Module):
        def forward(self, x):
            return x if x.squeeze().dim() == 1 else x + 1

    with pytest.raises(UntraceableError, match="FXQ210"):
        trace(Model(), torch.randn(1, 4))


def test_five_thousand_layers():
    model = nn.Sequential(*[nn.Identity() for _ in range(4999)], nn.Linear(2, 2)).eval()
    program, ledger = trace(model, x := torch.randn(1, 2))
    assert len(ledger.layers) == 5000
    assert_same(call(program, x), model(x))
    program.graph.lint()


def test_nested_too_deep_is_typed():
    model: nn.Module = nn.Linear(2, 2)
    for _ in range(400):
        model = nn.Sequential(model)
    with pytest.raises(ResourceError, match="FXQ803"):
        capture(CaptureRequest(model.eval(), (torch.randn(1, 2),)), Ledger())


def test_a_model_that_fails_on_its_example_is_told_so():
    with pytest.raises(ExampleInputError, match=r"FXQ113 _Failing itself fails.*no good"):
        trace(_Failing(), torch.ones(1))


class _Failing(nn.Module):
    def forward(self, x):
        raise ValueError("no good")
