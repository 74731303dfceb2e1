"""A QConfigMapping → rules, in torch.ao's own precedence.

    module_name_object_type_order > module_name, innermost first > module_name_regex, in order > object_type > global

Among object types, the class of the module in whose forward() a call stands goes before the called function or method.
"""

from __future__ import annotations

from typing import Any

from fxquant import torch_ao
from fxquant.errors import QConfigError
from fxquant.presets import type_name
from fxquant.qconfigs import Ask, check_ask
from fxquant.regexes import read_regex
from fxquant.rules import EVERYTHING, Demand, Rule, RuleSet, Target

TITLE = "the QConfigMapping"


def mapping_rules(mapping: Any, target: str) -> RuleSet:
    """The rules of a QConfigMapping or of its dict form. FXQ101, FXQ102, FXQ103 for what means nothing."""
    levels = torch_ao.read_mapping(mapping)
    reader = _Reader()
    rules: list[Rule] = []
    for (module, kind, index), qconfig in levels.module_name_object_type_order:
        text = f"({module!r}, {type_name(kind)}, {index})"
        key = ("order", (module, kind, index))
        rules.append(reader.rule("module_name_object_type_order", Target(text, (key,)), qconfig, "error"))
    names = [(_name(name), qconfig) for name, qconfig in levels.module_name]
    for name, qconfig in sorted(names, key=lambda pair: -pair[0].count(".")):
        rules.append(reader.rule("module_name", Target(name, (("name", name),)), qconfig, "error"))
    for pattern, qconfig in levels.module_name_regex:
        regex = read_regex(pattern, f"module_name_regex of {TITLE}")
        rules.append(reader.rule("module_name_regex", Target(regex.text, regex=regex), qconfig, "error"))
    usual = {kind for kind, _ in torch_ao.default_mapping("x86").object_type}
    for kind, qconfig in sorted(levels.object_type, key=lambda pair: not isinstance(pair[0], type)):
        demand: Demand = "nothing" if kind in usual else "notice"
        rules.append(reader.rule("object_type", Target(type_name(kind), (("type", kind),)), qconfig, demand))
    if levels.everything is not None:
        rules.append(reader.rule("global", Target("*", (EVERYTHING,)), levels.everything, "nothing"))
    return RuleSet(tuple(rules))


def _name(name: object) -> str:
    if isinstance(name, str):
        return name
    raise QConfigError("FXQ102", f"module_name of {TITLE} has {name!r}, a name is text", hint="write 'layer1.0.conv1'")


class _Reader:
    """Reads each qconfig once, however many entries share it."""

    def __init__(self) -> None:
        self._asks: dict[int, Ask] = {}

    def rule(self, level: str, target: Target, qconfig: object | None, demand: Demand) -> Rule:
        label = f"{level} of {TITLE}" if level == "global" else f"{level} '{target.text}' of {TITLE}"
        return Rule(label, (target,), qconfig, self._ask(qconfig, label), demand=demand)

    def _ask(self, qconfig: object | None, label: str) -> Ask | None:
        if qconfig is None:
            return None
        if id(qconfig) not in self._asks:
            ask = torch_ao.read_qconfig(qconfig, label)
            check_ask(ask, label)
            self._asks[id(qconfig)] = ask
        return self._asks[id(qconfig)]
