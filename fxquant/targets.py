"""The table of targets: which engines there are, which of them are here, and which one this CPU should use.

A target's range is a fact about its kernels: without VNNI, u8 × s8 products are summed in saturating int16 pairs.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass

import torch

from fxquant.errors import EngineUnavailableError, UnknownTargetError, did_you_mean

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Target:
    """One engine, as a row of the table."""

    name: str
    device: str
    dtypes: tuple[str, str]  # activations, weights
    full_range: bool  # its default mapping uses all 8 bits of activations; False: 7, so that int16 sums cannot saturate
    description: str
    extra: str = ""  # the pip extra that brings it; '': comes with torch


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target(
            "x86", "cpu", ("quint8", "qint8"), False, "fbgemm or oneDNN per layer, by torch's choice; 7-bit activations"
        ),
        Target("onednn", "cpu", ("quint8", "qint8"), True, "oneDNN kernels; the full 8 bits, made for CPUs with VNNI"),
        Target("fbgemm", "cpu", ("quint8", "qint8"), False, "FBGEMM kernels; 7-bit activations"),
        Target("qnnpack", "cpu", ("quint8", "qint8"), True, "QNNPACK kernels, made for ARM; the full 8 bits"),
    )
}


@dataclass(frozen=True, slots=True)
class Isa:
    """What the CPU can do, as torch sees it. None: this torch does not say."""

    machine: str  # 'x86_64', 'aarch64', ...
    avx2: bool | None
    avx512: bool | None
    vnni: bool | None
    amx: bool | None
    bf16: bool | None


@dataclass(frozen=True, slots=True)
class Resolution:
    """Which engine a target means on this machine, and why. `reduce_range`: activations get 7 bits."""

    engine: str
    reason: str
    reduce_range: bool


def isa() -> Isa:
    """The facts of this CPU."""
    return Isa(
        machine=platform.machine(),
        avx2=_torch_says("_is_avx2_supported", "avx2"),
        avx512=_torch_says("_is_avx512_supported", "avx512_f"),
        vnni=_torch_says("_is_vnni_supported", "avx512_vnni"),
        amx=_torch_says("_is_amx_tile_supported", "amx_tile"),
        bf16=_torch_says("_is_avx512_bf16_supported", "avx512_bf16"),
    )


def _torch_says(function: str, capability: str) -> bool | None:
    """A private function of torch.cpu where this release has it, else the public table that newer ones have."""
    ask = getattr(torch.cpu, function, None)
    if callable(ask):
        return bool(ask())
    table: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(table[capability]) if capability in table else None


def available(name: str) -> bool:
    """Whether the engine is built into this torch."""
    return name in torch.backends.quantized.supported_engines


def has_saturation_risk(engine: str, cpu: Isa) -> bool:
    """Whether full 8-bit activations can saturate: on x86 kernels without VNNI. Unknown counts as without."""
    is_x86 = cpu.machine.lower() in ("x86_64", "amd64", "x86", "i386", "i686")
    return is_x86 and engine in ("x86", "fbgemm", "onednn") and not cpu.vnni


def resolve(target: str = AUTO, cpu: Isa | None = None) -> Resolution:
    """The engine for a target name; 'auto' picks by what the CPU can do.

    Raises UnknownTargetError FXQ109 for a name outside the table, EngineUnavailableError FXQ502 for an engine that
    this torch was built without.
    """
    cpu = isa() if cpu is None else cpu
    if target == AUTO:
        return _resolve_auto(cpu)
    if not isinstance(target, str) or target not in TARGETS:
        known = (AUTO, *TARGETS)
        told = did_you_mean(target, known) if isinstance(target, str) else ""
        raise UnknownTargetError("FXQ109", f"no target is called {target!r}", hint=told or f"known: {', '.join(known)}")
    if not available(target):
        raise _unavailable(f"target '{target}' is not built into this torch")
    if has_saturation_risk(target, cpu):
        why = "no VNNI: presets use reduced 7-bit activations, and so should a mapping of your own"
        return Resolution(target, f"named by the caller; {why}", True)
    if TARGETS[target].full_range:
        return Resolution(target, "named by the caller; full 8-bit range", False)
    return Resolution(target, "named by the caller; its default mapping uses the reduced 7-bit range", True)


def _resolve_auto(cpu: Isa) -> Resolution:
    if cpu.vnni and available("onednn"):
        return Resolution("onednn", "the CPU has VNNI: full 8-bit range on oneDNN", False)
    for engine in ("x86", "fbgemm"):
        if available(engine):
            lack = "no oneDNN in this torch" if cpu.vnni else "the CPU has no VNNI"
            return Resolution(engine, f"{lack}: reduced 7-bit activations, so that int16 sums cannot saturate", True)
    if available("qnnpack"):
        return Resolution("qnnpack", f"no x86 engine on {cpu.machine}: full 8-bit range on QNNPACK", False)
    raise _unavailable("no engine can run quantized layers")


def _unavailable(message: str) -> EngineUnavailableError:
    here = [name for name in TARGETS if available(name)]
    told = f"available here: {', '.join(here)}" if here else "this torch has no quantized engine at all"
    return EngineUnavailableError("FXQ502", message, hint=f"{told}; `fxquant doctor` shows what this machine has")
