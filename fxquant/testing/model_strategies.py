"""Strategies for models: a spec is drawn op by op, each from what fits, so it shrinks to the fewest and simplest."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from fxquant.testing.drawn_model import DrawnModel
from fxquant.testing.kind import FORMS
from fxquant.testing.spec import InputSpec, ModelSpec, Op
from fxquant.testing.value import Value
from fxquant.testing.vocabulary import FAMILIES, KINDS
from fxquant.testing.weights import SPECIALS

_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "width": st.integers(1, 8),
    "kernel": st.integers(1, 3),
    "stride": st.integers(1, 2),
    "padding": st.integers(0, 1),
    "groups": st.sampled_from((1, 2, 4)),
    "bias": st.sampled_from((True, False)),
    "form": st.sampled_from(FORMS),
    "special": st.sampled_from(("",) * 8 + SPECIALS),  # most weights are plain
}
_WIDEST = 8

_FLOAT_INPUTS = st.one_of(
    st.integers(1, 8).map(lambda width: InputSpec((width,))),
    st.tuples(st.integers(1, 4), st.integers(2, 6)).map(InputSpec),
    st.tuples(st.integers(1, 4), st.integers(3, 6)).map(lambda size: InputSpec((size[0], size[1], size[1]))),
)
_TOKENS = st.integers(1, 4).map(lambda length: InputSpec((length,), vocabulary=5))
_INPUTS = st.one_of(_FLOAT_INPUTS, _TOKENS)


def models(**options: Any) -> st.SearchStrategy[DrawnModel]:
    """Models in eval mode, at most 12 ops of widths 1 to 8: `model.spec` is what was drawn. Options of `model_specs`.

    `fxquant.compile(model, "int8", calibration_data=model.spec.batches())` compiles one.
    """
    return model_specs(**options).map(ModelSpec.build)


@st.composite
def model_specs(
    draw: st.DrawFn, *, most_ops: int = 12, kinds: Collection[str] | None = None, writes: bool = True
) -> ModelSpec:
    """What `models` builds from. Shrinks to few ops, inputs that are vectors, and seed 0.

    Args:
        most_ops: how many ops at most, dead ones among them.
        kinds: draw only these words of `fxquant.testing.vocabulary.KINDS`; None: all.
        writes: may ops write in place?
    """
    wanted = [name for name, kind in KINDS.items() if (kinds is None or name in kinds) and (writes or not kind.writes)]
    floats = _INPUTS if "embedding" in wanted else _FLOAT_INPUTS
    spec = ModelSpec(tuple(draw(st.lists(floats, min_size=1, max_size=2))), (), (0,))
    for _ in range(draw(st.integers(1, most_ops))):
        spec = draw(_longer(spec, wanted))
    return replace(spec, gives=draw(_outputs(spec)), seed=draw(st.integers(0, 1000)))


@st.composite
def _longer(draw: st.DrawFn, spec: ModelSpec, wanted: Collection[str]) -> ModelSpec:
    """The spec and one op more, where any fits the value that is drawn to be read."""
    sources = range(len(spec.values))
    source = draw(st.sampled_from(sources[::-1]))
    families = [[kind.name for kind in family if kind.name in wanted] for family in FAMILIES]
    fitting = [[name for name in family if _partners(spec, name, source)] for family in families]
    legal = [names for names in fitting if names]
    if not legal:
        return spec
    name = draw(st.sampled_from(draw(st.sampled_from(legal))))
    kind = KINDS[name]
    if name == "again":
        return _with(spec, Op(name, (source,), of=draw(st.sampled_from(_partners(spec, name, source)))))
    inputs = (source, draw(st.sampled_from(_partners(spec, name, source))))[: kind.arity]
    fields = {field: draw(_FIELDS[field]) for field in kind.draws}
    return _with(spec, _fitted(Op(name, inputs, **fields), [spec.values[index] for index in inputs]))


def _with(spec: ModelSpec, op: Op) -> ModelSpec:
    return replace(spec, ops=(*spec.ops, op))


def _partners(spec: ModelSpec, name: str, source: int) -> list[int]:
    """What the second input may be, the latest first: [source] for an op of one, the ops to call again for 'again'."""
    values = spec.values
    if name == "again":
        return [index for index in reversed(range(len(spec.ops))) if _may_call_again(spec, index, values[source])]
    kind = KINDS[name]
    if kind.arity == 1:
        return [source] if kind.accepts(Op(name, (source,)), [values[source]]) else []
    pairs = reversed(range(len(values)))
    return [index for index in pairs if kind.accepts(Op(name, (source, index)), [values[source], values[index]])]


def _may_call_again(spec: ModelSpec, index: int, value: Value) -> bool:
    """Ops of one input that hold a module, on a value of the shape that it was made for."""
    op, kind = spec.ops[index], KINDS[spec.ops[index].kind]
    if not kind.is_module or op.form != "module":
        return False
    return spec.values[op.inputs[0]].shape == value.shape and kind.accepts(op, [value])


def _fitted(op: Op, read: list[Value]) -> Op:
    """The op with the drawn fields that do not fit made plain."""
    op = replace(op, width=min(op.width, _WIDEST // op.groups))
    for field in ("groups", "stride", "kernel", "padding", "width"):
        if KINDS[op.kind].accepts(op, read):
            return op
        op = replace(op, **{field: getattr(_PLAIN, field)})
    return op


_PLAIN = Op("", ())


@st.composite
def _outputs(draw: st.DrawFn, spec: ModelSpec) -> tuple[int, ...]:
    """The last value that can be given, and some of the others that nothing reads; what is left out is dead code."""
    read = {index for op in spec.ops for index in op.inputs}
    floats = [index for index, value in enumerate(spec.values) if not value.is_tokens]
    *others, last = floats
    ends = [index for index in others if index not in read and index >= len(spec.takes)]
    given = [index for index in ends if draw(st.booleans())]
    has_inner: bool = bool(others) and draw(st.booleans())
    inner: list[int] = [draw(st.sampled_from(others[::-1]))] if has_inner else []
    return tuple(dict.fromkeys([*inner, *given, last]))
