"""Names of passes → their classes, imported when asked for. Third parties join through the entry point group."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from fxquant.errors import RecipeError, UsageError, did_you_mean
from fxquant.pipeline import Pass

GROUP = "fxquant.passes"

BUILT_IN: dict[str, str] = {
    "select-qconfigs": "fxquant.passes.select_qconfigs:SelectQConfigs",
    "functionalize": "fxquant.passes.functionalize:Functionalize",
    "unshare": "fxquant.passes.unshare:Unshare",
    "normalize-calls": "fxquant.passes.normalize_calls:NormalizeCalls",
    "drop-identity": "fxquant.passes.drop_identity:DropIdentity",
    "skip-batchnorm": "fxquant.passes.skip_batchnorm:SkipBatchnorm",
    "fold-batchnorm": "fxquant.passes.fold_batchnorm:FoldBatchnorm",
    "custom-modules": "fxquant.passes.custom_modules:CustomModules",
    "fuse": "fxquant.passes.fuse:Fuse",
    "insert-observers": "fxquant.passes.insert_observers:InsertObservers",
    "calibrate": "fxquant.passes.calibrate:Calibrate",
    "convert": "fxquant.passes.convert:Convert",
    "canonicalize-qdq": "fxquant.passes.canonicalize_qdq:CanonicalizeQDQ",
    "place-precision": "fxquant.passes.place_precision:PlacePrecision",
    "fuse-projections": "fxquant.passes.fuse_projections:FuseProjections",
    "lower-native": "fxquant.passes.lower_native:LowerNative",
    "lower-inductor": "fxquant.passes.lower_inductor:LowerInductor",
    "lower-onnxruntime": "fxquant.passes.lower_onnxruntime:LowerOnnxRuntime",
    "lower-openvino": "fxquant.passes.lower_openvino:LowerOpenVINO",
    "prune-channels": "fxquant.passes.prune_channels:PruneChannels",
    "prune-magnitude": "fxquant.passes.prune_magnitude:PruneMagnitude",
    "low-rank": "fxquant.passes.low_rank:LowRank",
    "fake-quantize": "fxquant.passes.fake_quantize:FakeQuantize",
    "bake": "fxquant.passes.bake:Bake",
    "distil": "fxquant.passes.distil:Distil",
}


def _third_party() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        owner = BUILT_IN.get(point.name) or (found[point.name].value if point.name in found else None)
        if owner is not None and owner != point.value:
            raise UsageError(
                "FXQ105",
                f"two passes are called '{point.name}': {owner} and {point.value}",
                hint="rename one of them, or uninstall the package that brings it",
            )
        found[point.name] = point
    return found


def names() -> tuple[str, ...]:
    """Every pass that can be named: the built-in ones in pipeline order, then third parties'."""
    return (*BUILT_IN, *sorted(_third_party()))


def find(name: str) -> type[Pass]:
    """The class of a pass. FXQ105 with the nearest names when there is none."""
    if name in BUILT_IN:
        module, attribute = BUILT_IN[name].split(":")
        return cast(type[Pass], getattr(import_module(module), attribute))
    third_party = _third_party()
    if name not in third_party:
        raise UsageError("FXQ105", f"no pass is called '{name}'", hint=did_you_mean(name, names()))
    return cast(type[Pass], third_party[name].load())


def make(name: str, **options: object) -> Pass:
    """An instance of a pass. FXQ106 when it does not take these options."""
    kind = find(name)
    try:
        return kind(**options)
    except TypeError as error:
        raise RecipeError("FXQ106", f"pass '{name}' does not take these options: {error}") from error
