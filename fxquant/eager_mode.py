"""What eager-mode quantization leaves in a float model: QuantStub, DeQuantStub, FloatFunctional, `.qconfig` marks.

All are recognized by the home and name of their class, without importing torch.ao.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from fxquant.ledger import Ledger

_STUBS = "torch.ao.quantization.stubs"
_FUNCTIONAL = "torch.ao.nn.quantized.modules.functional_modules"
_OBSERVER_PLACE = "activation_post_process"


def is_stub(module: nn.Module) -> bool:
    """A QuantStub or DeQuantStub: it gives its input back until eager mode converts it."""
    return type(module).__module__ == _STUBS and type(module).__name__ in ("QuantStub", "DeQuantStub")


def is_float_functional(module: nn.Module) -> bool:
    """A FloatFunctional: add, mul, cat ... as methods, with a place for an observer. It lives among quantized ones."""
    return type(module).__module__ == _FUNCTIONAL and type(module).__name__ in ("FloatFunctional", "FXFloatFunctional")


def why_placeless(name: str, module: nn.Module) -> str:
    """Why the call of the module called `name` changes nothing; '' where it is none of eager mode's."""
    if is_stub(module):
        return f"{type(module).__name__} gives its input back: the compiler places quantize and dequantize itself"
    if type(module) is nn.Identity and name.rpartition(".")[2] == _OBSERVER_PLACE:
        return "it is FloatFunctional's place for an observer: the compiler places observers itself"
    return ""


def _marks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if "qconfig" in module.__dict__ and _is_mark(module.__dict__["qconfig"]):
            yield name, module


def _is_mark(value: object) -> bool:
    return value is None or type(value).__module__.startswith("torch.ao.quantization")


def tell_marks(model: nn.Module, ledger: Ledger) -> None:
    """Say that `.qconfig` attributes are not read, and how to ask for the same."""
    found = dict(_marks(model))
    if all(module.__dict__["qconfig"] is None for module in found.values()):
        return  # none at all, or an attribute that means something else
    off = [name for name, module in found.items() if module.__dict__["qconfig"] is None]
    first = next(name for name, module in found.items() if module.__dict__["qconfig"] is not None)
    place = f"'{first}'" if first else "the model itself"
    kept = f"; {', '.join(repr(name) for name in off[:4])} had None there, float in eager mode" if off else ""
    ledger.notice(
        "FXQ238",
        f"{len(found)} modules carry a .qconfig (first: {place}), which is not read: the mapping that was passed "
        f"decides{kept}",
        module=first,
        hint=f"mapping.set_module_name({off[0]!r}, None)"
        if off
        else "pass a QConfigMapping: set_global(model.qconfig)",
    )


def drop_marks(copied: nn.Module) -> None:
    """Take the marks off the compiler's own copy: torch.ao's prepare would read them."""
    for _, module in list(_marks(copied)):
        del module.__dict__["qconfig"]
