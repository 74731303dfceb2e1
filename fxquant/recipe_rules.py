"""A Recipe → rules: target texts become keys, weight and activation tables become a QConfig."""

from __future__ import annotations

from fxquant import torch_ao
from fxquant.activation_sites import SiteRule, check_activation
from fxquant.chains import check_chain
from fxquant.number_formats import WEIGHT_OPTIONS, format_name, is_small_float, weight_ask
from fxquant.observers import MSE
from fxquant.presets import links_of, preset_rules
from fxquant.qconfigs import Ask, TensorAsk, check_ask
from fxquant.recipe import Activation, Recipe, RecipeRule, Weight
from fxquant.regexes import read_regex
from fxquant.rules import EVERYTHING, Rule, RuleSet, Target

_OBSERVERS = {
    "minmax": ("MinMaxObserver", "PerChannelMinMaxObserver"),
    "moving-average": ("MovingAverageMinMaxObserver", "MovingAveragePerChannelMinMaxObserver"),
    "histogram": ("HistogramObserver", "HistogramObserver"),
    "mse": (MSE, ""),  # of activations alone
}


def recipe_rules(recipe: Recipe, target: str) -> RuleSet:
    """Top-level `ignore` first, then the rules in order."""
    rules = [_rule(rule, number, recipe, target) for number, rule in enumerate(recipe.rules, start=1)]
    if recipe.ignore:
        ignored = tuple(_target(text, recipe.title) for text in recipe.ignore)
        rules.insert(0, Rule(f"ignore of {recipe.title}", ignored, demand="error"))
    return RuleSet(tuple(rules))


def _rule(rule: RecipeRule, number: int, recipe: Recipe, target: str) -> Rule:
    label = f"rule {number} of {recipe.title}"
    targets = tuple(_target(text, label) for text in rule.targets)
    ignore = tuple(_target(text, label) for text in rule.ignore)
    if isinstance(rule.scheme, tuple):
        links = links_of(check_chain(rule.scheme, label), target)
        return Rule(label, targets, ignore=ignore, chain=links, demand="error")
    if rule.scheme == "float":
        return Rule(label, targets, ignore=ignore, demand="error")
    if rule.scheme:
        scheme = preset_rules(rule.scheme, target)
        return Rule(label, targets, ignore=ignore, scheme=scheme, demand="error")
    qconfig = torch_ao.make_qconfig(Ask(asked_of_activation(rule.activation), asked_of_weight(rule.weight)))
    ask = torch_ao.read_qconfig(qconfig, label)
    check_ask(ask, label)
    return Rule(label, targets, qconfig, ask, ignore, demand="error")


def activation_rules(recipe: Recipe) -> tuple[SiteRule, ...]:
    """The rules for single activation sites, in order. FXQ126 for one that means nothing."""
    found = []
    for number, said in enumerate(recipe.activations, start=1):
        label = f"activation rule {number} of {recipe.title}"
        check_activation(said, label)
        targets, ignore = (tuple(_target(text, label) for text in texts) for texts in (said.targets, said.ignore))
        found.append(SiteRule(said, Rule(label, targets, ignore=ignore, demand="error")))
    return tuple(found)


def _target(text: str, owner: str) -> Target:
    if text == "*":
        return Target(text, (EVERYTHING,))
    if text.startswith("re:"):
        return Target(text, regex=read_regex(text[3:], owner))
    return Target(text, (("name", text), ("op", text)))


def asked_of_weight(weight: Weight | None) -> TensorAsk:
    """What a weight table asks; nothing where there is none."""
    if weight is None:
        return TensorAsk()
    own = weight_ask(weight.dtype, **{name: getattr(weight, name) for name in WEIGHT_OPTIONS})
    if own is not None:
        return own
    low, high = _range(weight.dtype, weight.num_bits)
    return TensorAsk(
        dtype=_dtype(weight.dtype),
        granularity=weight.granularity,
        axis=weight.axis,
        is_symmetric=weight.symmetric,
        observer=_OBSERVERS[weight.observer][weight.granularity == "channel"],
        quant_min=low,
        quant_max=high,
    )


def asked_of_activation(activation: Activation | None) -> TensorAsk:
    """What an activation table asks; nothing where there is none."""
    if activation is None:
        return TensorAsk()
    if is_small_float(activation.dtype):
        watching = _OBSERVERS[activation.observer][0]
        return TensorAsk(
            format_name(activation.dtype), is_dynamic=activation.dynamic, is_symmetric=True, observer=watching
        )
    low, high = _range(activation.dtype, activation.num_bits - activation.reduce_range)
    return TensorAsk(
        dtype=_dtype(activation.dtype),
        is_symmetric=activation.symmetric,
        is_dynamic=activation.dynamic,
        observer=_OBSERVERS[activation.observer][0],
        quant_min=low,
        quant_max=high,
    )


def _dtype(name: str) -> str:
    """torch.ao's observers still speak of qint8 and quint8."""
    return {"int8": "qint8", "uint8": "quint8"}.get(name, name)


def _range(dtype: str, num_bits: int) -> tuple[int, int] | tuple[None, None]:
    """The codes of a narrower grid than the dtype's own; None where it is the whole dtype."""
    if num_bits == 8 or dtype not in ("int8", "uint8"):
        return None, None
    return (-(1 << num_bits - 1), (1 << num_bits - 1) - 1) if dtype == "int8" else (0, (1 << num_bits) - 1)
