"""The table of targets: which engines there are, which of them are here, and which one this CPU should use.

A target's range is a fact about its kernels: without VNNI, u8 × s8 products are summed in saturating int16 pairs. The
plan is always made for a native engine (one of torch's own); a target outside torch takes the converted graph of the
native engine that suits this CPU, and runs it.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass

import torch

from fxquant.errors import EngineUnavailableError, UnknownTargetError, did_you_mean
from fxquant.presence import CPP, Presence, presence_of

AUTO = "auto"
NATIVE_PASS = "lower-native"


@dataclass(frozen=True, slots=True)
class Target:
    """One engine, as a row of the table."""

    name: str
    device: str
    dtypes: tuple[str, str]  # activations, weights
    full_range: bool  # its default mapping uses all 8 bits of activations; False: 7, so that int16 sums cannot saturate
    description: str
    extra: str = ""  # the pip extra that brings it; '': comes with torch
    needs: tuple[tuple[str, str], ...] = ()  # modules and their least versions, beside torch
    lowering: str = NATIVE_PASS  # the pass that lowers a converted graph for it
    fuses: str = ""  # what it computes in one kernel, in words

    @property
    def is_native(self) -> bool:
        """Is it one of torch's own engines?"""
        return self.lowering == NATIVE_PASS


_INT8 = ("quint8", "qint8")
_OWN_FUSES = "conv and linear with their ReLU and requantization; add with ReLU"
_ONNX = (("onnxruntime", "1.20"), ("onnx", "1.17"), ("onnxscript", "0.3"))

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target(
            "x86",
            "cpu",
            _INT8,
            False,
            "fbgemm or oneDNN per layer, by torch's choice; 7-bit activations",
            fuses=_OWN_FUSES,
        ),
        Target(
            "onednn", "cpu", _INT8, True, "oneDNN kernels; the full 8 bits, made for CPUs with VNNI", fuses=_OWN_FUSES
        ),
        Target("fbgemm", "cpu", _INT8, False, "FBGEMM kernels; 7-bit activations", fuses=_OWN_FUSES),
        Target("qnnpack", "cpu", _INT8, True, "QNNPACK kernels, made for ARM; the full 8 bits", fuses=_OWN_FUSES),
        Target(
            "inductor",
            "cpu",
            _INT8,
            True,
            "torch.compile with frozen weights; compiles for tens of seconds",
            needs=((CPP, ""),),
            lowering="lower-inductor",
            fuses="chains of elementwise ops with what stands before them; conv and linear with their requantization",
        ),
        Target(
            "onnxruntime",
            "cpu",
            _INT8,
            True,
            "ONNX Runtime's CPU kernels, on a QDQ ONNX graph",
            extra="onnxruntime",
            needs=_ONNX,
            lowering="lower-onnxruntime",
            fuses="quantize, dequantize and the op between them, with a ReLU or clip that the range holds",
        ),
        Target(
            "openvino",
            "cpu",
            _INT8,
            True,
            "OpenVINO's CPU plugin; float parts in bfloat16 where the CPU has it",
            extra="openvino",
            needs=(("openvino", "2025.0"),),
            lowering="lower-openvino",
            fuses="conv and linear with activation, residual add and requantization; attention",
        ),
    )
}
NATIVE: dict[str, Target] = {name: target for name, target in TARGETS.items() if target.is_native}
EXTERNAL: dict[str, Target] = {name: target for name, target in TARGETS.items() if not target.is_native}


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
    """What a target means on this machine, and why. `reduce_range`: activations get 7 bits."""

    engine: str  # of torch's own: the plan is made for it
    reason: str
    reduce_range: bool
    target: str = ""  # what runs it in the end; the engine itself where nothing else is named

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", self.target or self.engine)


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


def presence(name: str) -> Presence:
    """Whether a target of the table can run here, and why; nothing of it is imported."""
    if name in EXTERNAL:
        return presence_of(EXTERNAL[name].needs)
    return Presence(True, "built into torch") if available(name) else Presence(False, "it is not built into this torch")


def native_engine(target: str) -> str:
    """The engine of torch's own that a target's plan is made for: itself, or what suits this CPU."""
    return resolve(AUTO).engine if target in EXTERNAL else target


def has_saturation_risk(engine: str, cpu: Isa) -> bool:
    """Whether full 8-bit activations can saturate: on x86 kernels without VNNI. Unknown counts as without."""
    is_x86 = cpu.machine.lower() in ("x86_64", "amd64", "x86", "i386", "i686")
    return is_x86 and engine in ("x86", "fbgemm", "onednn") and not cpu.vnni


def resolve(target: str = AUTO, cpu: Isa | None = None) -> Resolution:
    """The engine for a target name; 'auto' picks one of torch's own by what the CPU can do.

    Raises UnknownTargetError FXQ109 for a name outside the table, EngineUnavailableError FXQ502 for an engine that
    this torch was built without, or whose extra is not installed.
    """
    cpu = isa() if cpu is None else cpu
    if target == AUTO:
        return _resolve_auto(cpu)
    check_name(target)
    if target in EXTERNAL:
        return _resolve_external(target, cpu)
    if not available(target):
        raise _unavailable(f"target '{target}' is not built into this torch")
    if has_saturation_risk(target, cpu):
        why = "no VNNI: presets use reduced 7-bit activations, and so should a mapping of your own"
        return Resolution(target, f"named by the caller; {why}", True)
    if TARGETS[target].full_range:
        return Resolution(target, "named by the caller; full 8-bit range", False)
    return Resolution(target, "named by the caller; its default mapping uses the reduced 7-bit range", True)


def check_name(target: object) -> None:
    """FXQ109 with the nearest names for what is in no row of the table."""
    if isinstance(target, str) and target in (AUTO, *TARGETS):
        return
    known = (AUTO, *TARGETS)
    told = did_you_mean(target, known) if isinstance(target, str) else ""
    raise UnknownTargetError("FXQ109", f"no target is called {target!r}", hint=told or f"known: {', '.join(known)}")


def _resolve_external(target: str, cpu: Isa) -> Resolution:
    found, native = presence(target), _resolve_auto(cpu)
    if not found.is_here:
        extra = TARGETS[target].extra
        way = f"pip install 'fxquant[{extra}]', or " if extra else ""
        raise EngineUnavailableError(
            "FXQ502", f"target '{target}' is not here: {found.why}", hint=f"{way}target='auto' takes what is here"
        )
    why = f"named by the caller ({found.why}); planned for {native.engine}: {native.reason}"
    return Resolution(native.engine, why, native.reduce_range, target)


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
    here = [name for name in NATIVE if available(name)]
    told = f"available here: {', '.join(here)}" if here else "this torch has no quantized engine at all"
    return EngineUnavailableError("FXQ502", message, hint=f"{told}; `fxquant doctor` shows what this machine has")
