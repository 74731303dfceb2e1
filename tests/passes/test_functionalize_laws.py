"""Random programs of views, in-place writes and reads of aliases: eager and functionalized are bit-equal."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import fxquant
from fxquant.passes.functionalize import Functionalize
from support.asserts import assert_same, fingerprint
from support.compiling import ENGINES
from support.tracing import call, run_passes

# Each works on a tensor and on its shadow, an eager tensor of the same shape and strides that tells what is legal.
VIEWS = {
    "view": (lambda t: t.is_contiguous(), lambda t: t.view(-1)),
    "view_as": (lambda t: True, lambda t: t.view_as(t)),
    "reshape": (lambda t: True, lambda t: t.reshape(-1)),
    "flatten": (lambda t: True, lambda t: torch.flatten(t)),
    "transpose": (lambda t: t.dim() > 1, lambda t: t.transpose(0, -1)),
    "t": (lambda t: t.dim() <= 2, lambda t: t.t()),
    "T": (lambda t: t.dim() == 2, lambda t: t.T),
    "permute": (lambda t: t.dim() == 3, lambda t: t.permute(2, 0, 1)),
    "slice": (lambda t: t.dim() > 0, lambda t: t[..., :2]),
    "step": (lambda t: t.dim() > 0, lambda t: t[::2]),
    "item": (lambda t: t.dim() > 1, lambda t: t[0]),
    "item_none": (lambda t: 0 < t.dim() < 4, lambda t: t[None, 0]),
    "unsqueeze": (lambda t: t.dim() < 4, lambda t: t.unsqueeze(0)),
    "squeeze": (lambda t: True, lambda t: torch.squeeze(t)),
    "chunk": (lambda t: t.dim() > 0 and t.shape[-1] > 1, lambda t: t.chunk(2, -1)[1]),
    "split": (lambda t: t.dim() > 1, lambda t: torch.split(t, 1, 0)[0]),
    "unbind": (lambda t: t.dim() > 1, lambda t: t.unbind(0)[-1]),
    "narrow": (lambda t: t.dim() > 0, lambda t: t.narrow(0, 0, 1)),
    "select": (lambda t: t.dim() > 1, lambda t: t.select(-1, 0)),
    "diagonal": (lambda t: t.dim() == 2, lambda t: t.diagonal()),
    "detach": (lambda t: True, lambda t: t.detach()),
    "data": (lambda t: True, lambda t: t.data),
    "contiguous": (lambda t: True, lambda t: t.contiguous()),
    "float": (lambda t: True, lambda t: t.float()),
    "dropout": (lambda t: True, lambda t: functional.dropout(t, 0.5, False)),
    "einsum": (lambda t: t.dim() == 2, lambda t: torch.einsum("ij->ji", t)),
    "add": (lambda t: True, lambda t: t + 1.5),
    "neg": (lambda t: True, lambda t: -t),
    "pos": (lambda t: True, lambda t: +t),
    "mean": (lambda t: True, lambda t: t.mean()),
    "fancy": (lambda t: t.dim() > 0, lambda t: t[[0]]),
}


def _iadd(t, other):
    t += 1


def _imul(t, other):
    t *= 0.5


def _isub(t, other):
    t -= other.mean()


def _item_iadd(t, other):
    t[0] += 1


def _slice_imul(t, other):
    t[..., :1] *= 3


def _set_item(t, other):
    t[0] = 5.0


def _set_slice(t, other):
    t[..., 1:] = other.mean()


def _set_mask(t, other):
    t[t > 0.5] = 0.25


def _set_list(t, other):
    t[[0]] = -2.0


def _set_all(t, other):
    t[...] = other.mean()


def _data_iadd(t, other):
    t.data += 2


HAS_DIMS = {"item_iadd", "slice_imul", "set_item", "set_slice", "set_list"}
WRITES = {
    "add_": lambda t, other: t.add_(1.0),
    "mul_": lambda t, other: t.mul_(2.0),
    "relu_": lambda t, other: t.relu_(),
    "sub_": lambda t, other: t.sub_(other.mean(), alpha=2),
    "clamp_": lambda t, other: t.clamp_(-1.0, 1.0),
    "copy_": lambda t, other: t.copy_(other.mean()),
    "zero_": lambda t, other: t.zero_(),
    "fill_": lambda t, other: t.fill_(3.0),
    "gt_": lambda t, other: t.gt_(0.5),
    "masked_fill_": lambda t, other: t.masked_fill_(t > 1, 0.125),
    "double": lambda t, other: t.add_(other.double().mean() + t.double()),
    "square_": lambda t, other: t.square_(),
    "F.relu": lambda t, other: functional.relu(t, inplace=True),
    "F.hardtanh_": lambda t, other: functional.hardtanh_(t, -0.5, 0.5),
    "F.leaky_relu": lambda t, other: functional.leaky_relu(t, 0.25, True),
    "torch.relu_": lambda t, other: torch.relu_(t),
    "out": lambda t, other: torch.mul(t, 1.5, out=t),
    "iadd": _iadd,
    "imul": _imul,
    "isub": _isub,
    "item_iadd": _item_iadd,
    "slice_imul": _slice_imul,
    "set_item": _set_item,
    "set_slice": _set_slice,
    "set_mask": _set_mask,
    "set_list": _set_list,
    "set_all": _set_all,
    "data_iadd": _data_iadd,
}


class Straight(nn.Module):
    """Interprets a drawn program: `steps` are (operation, which tensor, which other), `returned` what is read last."""

    def __init__(self, steps, returned) -> None:
        super().__init__()
        self.steps, self.returned = steps, returned
        self.register_buffer("seen", torch.arange(4.0))
        self.act = nn.Hardtanh(-0.75, 2.0, inplace=True)

    def forward(self, x):
        shadow = torch.empty(self.shape).permute(self.order) if self.order else torch.empty(self.shape)
        pool = [(x, shadow), (self.seen, torch.empty(4))]
        for name, which, other in self.steps:
            value, shadow = pool[which % len(pool)]
            second, _ = pool[other % len(pool)]
            if name in VIEWS:
                is_legal, view = VIEWS[name]
                if is_legal(shadow):
                    pool.append((view(value), view(shadow)))
            elif name == "module":
                pool.append((self.act(value), shadow))
            elif name not in HAS_DIMS or shadow.dim() > 0:
                WRITES[name](value, second)
        chosen = [value for index, (value, _) in enumerate(pool) if (self.returned >> index) & 1]
        return tuple(chosen) or (pool[-1][0],)


# Shapes, and the order of a permutation that makes them non-contiguous.
INPUTS = [
    ((4,), None),
    ((2, 4), None),
    ((3, 3), (1, 0)),
    ((2, 3, 4), None),
    ((1, 4), None),
    ((2, 3, 2), (2, 0, 1)),
]


@st.composite
def programs(draw):
    number = st.integers(0, 15)
    view = st.tuples(st.sampled_from(sorted(VIEWS)), number, number)
    write = st.tuples(st.sampled_from([*sorted(WRITES), "module"]), number, number)
    steps = draw(st.lists(st.one_of(view, write, view, write), min_size=2, max_size=10))
    model = Straight(steps, draw(st.integers(0, 2**12 - 1)))
    model.shape, model.order = draw(st.sampled_from(INPUTS))
    return model


@settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),  # a program that fails is short enough to read as it is
    suppress_health_check=[HealthCheck.too_slow],
)
@given(programs())
def test_whatever_is_written_every_alias_reads_the_same(model):
    shape = torch.empty(model.shape)
    x = torch.linspace(-2, 2, shape.numel()).reshape(model.shape)
    x = x.permute(model.order) if model.order else x
    before = fingerprint(model)
    eager = copy.deepcopy(model).eval()
    with torch.no_grad():
        expected = [copy.deepcopy(eager(clone_of(x))) for _ in range(2)]  # twice: the buffer goes on
    program, _ = run_passes(Functionalize(), model, x)
    given = clone_of(x)
    assert_same([call(program, given), call(program, given)], expected)
    assert_same(given, x)
    found = dict(program.graph_module.named_buffers()).get("seen", model.seen)
    assert_same(found, eager.seen)
    assert fingerprint(model) == before


def clone_of(x):
    """With the same strides, which decide where reshape copies."""
    return torch.empty_strided(x.size(), x.stride()).copy_(x)


class _ThroughAView(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(2, 3)

    def forward(self, x):
        hidden = self.line(x)
        hidden.flatten(1).add_(5.0)
        return hidden


@pytest.mark.parametrize("target", ENGINES)
def test_a_write_through_a_view_of_a_quantized_layer_is_not_lost(target):
    """Found by I10: a quantize and dequantize stood between the layer and its view, which then shared no memory."""
    model = _ThroughAView().eval()
    x = torch.linspace(-2, 2, 48).sin().reshape(8, 3, 2)
    made = fxquant.compile(model, "int8", calibration_data=x, target=target)
    assert (made(x) - model(x)).abs().max() < 0.1
