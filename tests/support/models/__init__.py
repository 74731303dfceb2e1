"""The zoo: architectures by the shape of their graphs, each reproducible to the bit. `MODELS[name].make()`."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from support.data import both, images, tokens, vectors
from support.models import signatures, trouble
from support.models.case import Case
from support.models.dense import MLP, DenseBlock, NormalizedMLP, UNet
from support.models.encoder import PreNormLayer, ViT, encoder, encoder_tiny
from support.models.mobile import MobileNetV3, mobilenet_v2, mobilenet_v2_tiny
from support.models.recurrent import FinalState, Recurrent
from support.models.residual import resnet18, resnet50
from support.models.searched import efficientnet_b0, efficientnet_b0_tiny, mobilenet_v3_large, mobilenet_v3_large_tiny

__all__ = ["BENCHED", "FAMILIES", "MODELS", "SIGNATURES", "TROUBLE", "Case"]


def _as_dict(source: torch.Generator, batch: int) -> tuple[dict[str, torch.Tensor]]:
    (image,), (extra,) = vectors(8)(source, batch), vectors(4)(source, batch)
    return ({"image": image, "extra": extra},)


def _with_shift(source: torch.Generator, batch: int) -> dict[str, torch.Tensor]:
    source.manual_seed(source.initial_seed() + 1)
    return {"shift": vectors(8)(source, batch)[0]}


PICTURE, TEXT, FEATURES = images(32), tokens(16, 100), vectors(8)

FAMILIES: dict[str, Case] = {
    "resnet18": Case(partial(resnet18, 8, 10), PICTURE, images(224), resnet18),
    "resnet50": Case(partial(resnet50, 8, 10), PICTURE, images(224), resnet50),
    "mobilenet_v2": Case(mobilenet_v2_tiny, PICTURE, images(224), mobilenet_v2),
    "mobilenet_v3": Case(partial(MobileNetV3, 8, 10), PICTURE, images(224), partial(MobileNetV3, 16, 1000)),
    "encoder": Case(encoder_tiny, TEXT, tokens(128, 30522), encoder),
    "encoder_pre_norm": Case(
        partial(encoder_tiny, PreNormLayer), TEXT, tokens(128, 30522), partial(encoder, PreNormLayer)
    ),
    "vit": Case(partial(ViT, 32, 8, 2, 32, 4, 10), PICTURE, images(224), partial(ViT, 224, 16, 6, 384, 6, 1000)),
    "unet": Case(UNet, PICTURE, images(128), partial(UNet, 32)),
    "dense_block": Case(DenseBlock, PICTURE),
    "lstm": Case(partial(Recurrent, nn.LSTM, 16), TEXT, build_full=partial(Recurrent, nn.LSTM, 256, layers=2)),
    "lstm_both_ways": Case(partial(Recurrent, nn.LSTM, 16, both_ways=True), TEXT),
    "lstm_state": Case(partial(FinalState, 16), vectors(12, 8)),
    "gru": Case(partial(Recurrent, nn.GRU, 16), TEXT, build_full=partial(Recurrent, nn.GRU, 256, layers=2)),
    "mlp": Case(partial(MLP, 8, 32, 32, 4), FEATURES, vectors(256), partial(MLP, 256, 1024, 1024, 10)),
    "mlp_norm": Case(NormalizedMLP, FEATURES),
}

TROUBLE: dict[str, Case] = {
    "inplace_add": Case(trouble.InplaceAdd, FEATURES),
    "inplace_view": Case(trouble.InplaceView, FEATURES),
    "inplace_input": Case(trouble.InplaceInput, FEATURES),
    "counts_calls": Case(trouble.CountsCalls, FEATURES),
    "shared_linear": Case(trouble.SharedLinear, FEATURES),
    "shared_conv_norm": Case(trouble.SharedConvNorm, images(16)),
    "tied_weights": Case(trouble.TiedWeights, FEATURES),
    "grouped_transpose_norm": Case(trouble.GroupedTransposeNorm, images(8, 4)),
    "transpose_kernel_two": Case(trouble.TransposeKernelTwo, images(8, 8)),
    "functional_relu": Case(trouble.FunctionalRelu, images(16)),
    "functional_dropout": Case(trouble.FunctionalDropout, FEATURES),
    "norm_after_add": Case(trouble.NormAfterAdd, images(16)),
    "branches_on_data": Case(trouble.BranchesOnData, FEATURES, is_traceable=False),
}

SIGNATURES: dict[str, Case] = {
    "dict_output": Case(signatures.DictOutput, FEATURES),
    "dataclass_output": Case(signatures.DataclassOutput, FEATURES),
    "two_inputs": Case(signatures.TwoInputs, both(FEATURES, vectors(4))),
    "dict_input": Case(signatures.DictInput, _as_dict),
    "keyword_only": Case(signatures.KeywordOnly, FEATURES, keywords=_with_shift),
}

BENCHED: dict[str, Case] = {  # what engines are compared on, at full size
    "resnet18": FAMILIES["resnet18"],
    "resnet50": FAMILIES["resnet50"],
    "mobilenet_v2": FAMILIES["mobilenet_v2"],
    "mobilenet_v3_large": Case(mobilenet_v3_large_tiny, PICTURE, images(224), mobilenet_v3_large),
    "efficientnet_b0": Case(efficientnet_b0_tiny, PICTURE, images(224), efficientnet_b0),
    "vit": FAMILIES["vit"],
    "encoder": FAMILIES["encoder"],
    "lstm": FAMILIES["lstm"],
    "unet": FAMILIES["unet"],
}

MODELS: dict[str, Case] = {**FAMILIES, **TROUBLE, **SIGNATURES}
