"""functionalize: what it rewrites, leaves and refuses. The law over random programs has a file of its own."""

from __future__ import annotations

import operator

import pytest
import torch
from torch import nn
from torch.nn import functional

from fxquant.aliasing import applied, rewritten, store, stored_buffers, with_item
from fxquant.errors import MutationError, PassError
from fxquant.ledger import Ledger
from fxquant.passes._aliases import SAME, VIEWS, Aliases
from fxquant.passes.functionalize import Functionalize
from fxquant.pipeline import Pipeline
from support.asserts import assert_pass, assert_same, untouched
from support.tracing import call, run_passes, trace

X = torch.linspace(-3, 3, 24).reshape(4, 6)


class Runs(nn.Module):
    """Runs a function as forward(), beside a layer so that there is something to quantize."""

    def __init__(self, function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(6, 6)
        self.act = nn.ReLU(inplace=True)
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def _residual(self, x):
    y = self.fc(x)
    y += x
    return y


def _unused_result(self, x):
    y = self.fc(x)
    y.add_(1.0)
    return torch.relu(y)


def _module_and_alias(self, x):
    y = self.fc(x)
    z = self.act(y)
    return y + z


def _through_slice(self, x):
    y = self.fc(x)
    y[:, :4].mul_(2)
    return y


def _through_view(self, x):
    y = self.fc(x)
    y.view(-1).add_(1)
    return y


def _through_chunk(self, x):
    y = self.fc(x)
    left, right = y.chunk(2, dim=1)
    left.relu_()
    right += 1
    return y, left


def _set_item(self, x):
    y = self.fc(x)
    y[:, 0] = 3.0
    y[1] = x[0]
    y[..., -1] += 2
    y[y > 1] = 0.5
    return y


def _set_with_tensor_index(self, x):
    y = self.fc(x)
    rows = x[:, 0].abs().long()
    y[rows, 0] = x[:, 1]
    y[None, 0, :2] = 0
    return y


def _new_tensor(self, x):
    y = torch.zeros(4, 6)
    y[:, :3] = x[:, :3]
    return self.fc(y)


def _metadata(self, x):
    y = self.fc(x)
    v = y.view(-1)
    y.unsqueeze_(0)
    y.transpose_(1, 2).mul_(2)
    return y, v


def _twinless(self, x):
    y = self.fc(x)
    y.copy_(x[0])
    z = self.fc(x)
    z.fill_(2.0)
    w = self.fc(x)
    w.zero_()
    u = self.fc(x)
    u.fill_diagonal_(7.0)
    return y, z, w, u


def _functions(self, x):
    y = functional.relu(self.fc(x), inplace=True)
    torch.clamp_(y, 0.1, 2)
    functional.hardtanh_(y, -1, 1)
    functional.leaky_relu(y, 0.1, True)
    return torch.mul(y, 2, out=y)


def _promotes(self, x):
    y = self.fc(x)
    y.add_(x.double())
    z = self.fc(x)
    z.gt_(0)
    return y, z


def _bits_and_lazy_conjugation(self, x):
    y = self.fc(x)
    y.view(torch.int32).bitwise_and_(-65536)
    z = torch.view_as_complex(y.reshape(4, 3, 2).contiguous())
    torch.view_as_real(z).mul_(2)
    z.conj().mul_(1j)
    return y, z


def _residual_with_broadcast(self, x):
    y = self.fc(x)
    w = y
    w -= self.fc.bias
    y /= 2
    y **= 2
    y //= 0.5
    y @= self.fc.weight
    return y, w


def _dropout_of_the_input(self, x):
    y = functional.dropout(x, 0.5, self.training)
    y.mul_(2)
    return x + y


def _fills_an_empty(self, x):
    out = torch.empty(4, 6)
    out[:, :3] = self.fc(x)[:, :3]
    out[:, 3:] = x[:, 3:]
    return out


def _two_layouts(self, x):
    y = self.fc(x).t()
    r = y.reshape(-1)
    r.add_(1)
    f = torch.flatten(y)
    f.mul_(3)
    return y, r, f


def _aten(self, x):
    y = self.fc(x)
    torch.ops.aten.relu_(y)
    torch.ops.aten.add_.Tensor(y, x)
    return y


def _swaps(self, x):
    y = self.fc(x)
    a, b = y[:, :3], y[:, 3:]
    keep = a.clone()
    a.copy_(b)
    b.copy_(keep)
    return y, a


REWRITTEN = [
    value for name, value in sorted(globals().items()) if name.startswith("_") and callable(value) and name[1] != "_"
]


@pytest.mark.parametrize("forward", REWRITTEN, ids=lambda function: function.__name__)
def test_later_readers_see_what_was_written(forward):
    assert_pass(Functionalize(), Runs(forward), X)


def test_without_the_aliases_the_numbers_are_wrong(monkeypatch):
    """The positive control of the tests above."""
    monkeypatch.setattr(Aliases, "read_after", lambda self, node, position: [])
    with pytest.raises(AssertionError, match="not equal"):
        assert_pass(Functionalize(), Runs(_through_slice), X)


def test_no_example_is_needed():
    program, _ = trace(Runs(_through_chunk))
    program, _ = Pipeline((Functionalize(),)).run(program, Ledger())
    with torch.no_grad():
        assert_same(call(program, X), Runs(_through_chunk).eval()(X))


def test_the_same_place_stored_twice_is_dropped_and_said():
    def forward(self, x):
        y = self.fc(x)
        y[0] += 1
        return y

    program, ledger = run_passes(Functionalize(), Runs(forward), X)
    assert with_item not in {node.target for node in program.graph.nodes}
    assert [row.effective for row in ledger.layers if row.op == "setitem"] == ["removed"]


def test_a_plain_write_becomes_its_plain_twin_and_keeps_its_name_and_line():
    program, _ = run_passes(Functionalize(), Runs(_residual), X)
    (added,) = (node for node in program.graph.nodes if node.target is operator.add)
    assert added.name == "iadd"
    assert [node.op for node in program.graph.nodes] == ["placeholder", "call_module", "call_function", "output"]


def test_a_value_that_no_alias_reads_needs_no_rewriting():
    program, _ = run_passes(Functionalize(), Runs(_unused_result), X)
    assert rewritten not in {node.target for node in program.graph.nodes}


def test_a_graph_without_writes_is_left_alone():
    assert_pass(Functionalize(), nn.Sequential(nn.Linear(6, 6), nn.ReLU()), X, changes=False)


@pytest.mark.parametrize(
    "module",
    [nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.SiLU, nn.Dropout, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.Mish,
     nn.Hardsigmoid, nn.RReLU, lambda inplace: nn.Threshold(0.1, -1.0, inplace=inplace)],
)  # fmt: skip
def test_an_inplace_module_is_replaced_by_its_out_of_place_copy(module):
    model = nn.Sequential(nn.Linear(6, 6), module(inplace=True))
    program, _ = assert_pass(Functionalize(), model, X, changes="inplace" in repr(model))
    assert program.graph_module.get_submodule("1").inplace is False
    assert model[1].inplace is True


def test_an_inplace_module_at_two_sites_writes_at_both():
    def forward(self, x):
        a, b = self.fc(x), self.fc(x + 1)
        self.act(a)
        self.act(b)
        return a - b

    assert_pass(Functionalize(), Runs(forward), X)


def test_numbers_count_on_without_touching_their_copies():
    def forward(self, x):
        n = x.size(1)
        m = n
        n += 1
        n -= 1
        return x.reshape(-1, m), self.fc(x.reshape(-1, n))

    program, _ = run_passes(Functionalize(), Runs(forward), X)
    assert_same(call(program, X), Runs(forward).eval()(X))


def test_a_model_input_is_not_written_and_a_notice_says_so():
    def forward(self, x):
        x.mul_(2)
        return self.fc(x)

    x = X.clone()
    program, ledger = run_passes(Functionalize(), Runs(forward), x)
    assert_same(call(program, x), Runs(forward).eval()(X.clone()))
    assert_same(x, X)
    (notice,) = ledger.notices
    assert notice.code == "FXQ214"
    assert "'x'" in notice.reason


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(1))

    def forward(self, x):
        before = self.steps.clone()
        self.steps += 1
        self.steps.add_(1)
        return x * self.steps, before


def test_a_buffer_that_forward_changes_goes_on_from_call_to_call():
    program, ledger = run_passes(Functionalize(), Counts(), X)
    eager = Counts().eval()
    for _ in range(3):
        assert_same(call(program, X), eager(X))
    assert_same(program.graph_module.steps, eager.steps)
    assert stored_buffers(program.graph) == ("steps",)
    assert [(row.code, "'steps'" in row.reason) for row in ledger.notices] == [("FXQ215", True)]


def test_dead_code_elimination_leaves_a_store_alone():
    program, _ = run_passes(Functionalize(), Counts(), X)
    program.graph.eliminate_dead_code()
    assert stored_buffers(program.graph) == ("steps",)


def test_random_writes_draw_the_same_numbers():
    def forward(self, x):
        y = self.fc(x)
        v = y[:, :3]
        v.normal_()
        y.bernoulli_(0.5)
        v.uniform_(0, 1)
        return y

    model = Runs(forward).eval()
    program, _ = run_passes(Functionalize(), model, X)
    torch.manual_seed(3)
    expected = model(X)
    torch.manual_seed(3)
    assert_same(call(program, X), expected)


class Parameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))

    def forward(self, x):
        self.weight.mul_(0.5)
        return x * self.weight


def _resizes(self, x):
    y = self.fc(x)
    y.resize_(2, 12)
    return y


def _reshapes_what_may_be_two(self, x):
    y = self.fc(x)
    z = y.contiguous()
    y.unsqueeze_(0)
    return z, y


def _takes_the_minimum_out(self, x):
    y = self.fc(x)
    torch.min(x, dim=0, out=(y[0], x.long()[0]))
    return y


def _trains_batch_norm(self, x):
    mean, var = x.mean(0), x.var(0)
    return functional.batch_norm(x, mean, var, training=True)


REFUSED = [
    (Runs(_resizes), "resize_"),
    (Runs(_reshapes_what_may_be_two), "'contiguous'"),
    (Runs(_takes_the_minimum_out), "min"),
    (Runs(_trains_batch_norm), "batch_norm"),
    (Parameter(), "'weight'"),
]


@pytest.mark.parametrize(("model", "culprit"), REFUSED, ids=[culprit for _, culprit in REFUSED])
def test_what_has_no_pure_form_is_refused_by_name_and_line(model, culprit):
    with untouched(model), pytest.raises(MutationError) as caught:
        run_passes(Functionalize(), model, X)
    assert caught.value.code == "FXQ211"
    assert culprit in str(caught.value)
    assert caught.value.where is not None
    assert "test_functionalize.py" in caught.value.where.file
    assert caught.value.hint


def test_verify_finds_a_write_that_was_left():
    program, _ = trace(Runs(_residual), X)
    with pytest.raises(PassError, match="iadd"):
        Functionalize().verify(program)


def test_every_view_that_torch_declares_is_known_as_one():
    """aten's schemas mark each result that aliases an argument; a name that is missing here would be miscompiled."""
    declared = {
        schema.name.removeprefix("aten::")
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith("aten::")
        and any(result.alias_info is not None and not result.alias_info.is_write for result in schema.returns)
        and any("Tensor" in str(result.type) for result in schema.returns)
    }
    methods = {name for name in declared if hasattr(torch.Tensor, name) and not name.startswith("_")}
    assert len(methods) > 40
    assert methods - VIEWS - SAME == set()


def test_rewritten_changes_nothing_that_it_is_given():
    base = torch.arange(6.0)
    view, other = base[2:4], torch.zeros(2)
    new_base, new_view, same = rewritten(view, torch.tensor(9.0), (base, view, other))
    assert base.tolist() == [0, 1, 2, 3, 4, 5]
    assert new_base.tolist() == [0, 1, 9, 9, 4, 5]
    assert new_view.untyped_storage().data_ptr() == new_base.untyped_storage().data_ptr()
    assert same is other


def test_rewritten_keeps_gradients_of_the_base():
    base = torch.arange(4.0, requires_grad=True) * 1
    leaf = torch.ones(2, requires_grad=True)
    (new,) = rewritten(base[:2], leaf * 3, (base,))
    (grad,) = torch.autograd.grad(new.sum(), leaf)
    assert grad.tolist() == [3, 3]
    assert torch.autograd.grad(rewritten(base[:2], leaf, (base,))[0].sum(), base)[0].tolist() == [0, 0, 1, 1]


def test_the_pure_forms_leave_their_input():
    x = torch.zeros(3)
    assert with_item(x, 0, 1.0).tolist() == [1, 0, 0]
    assert applied("fill_", x, 2.0).tolist() == [2, 2, 2]
    assert x.tolist() == [0, 0, 0]
    store(x, torch.ones(3))
    assert x.tolist() == [1, 1, 1]
