"""What a QConfig asks for: refused where no engine has it, with the value that was asked and what is served."""

from __future__ import annotations

import pytest

from fxquant.errors import QConfigError
from fxquant.plan import Mode
from fxquant.qconfigs import Ask, TensorAsk, check_ask, check_shape, refusal

QUINT8, QINT8, FLOAT = TensorAsk("quint8"), TensorAsk("qint8", is_symmetric=True), TensorAsk()
DYNAMIC = TensorAsk("quint8", is_dynamic=True)
PER_CHANNEL = TensorAsk("qint8", "channel", is_symmetric=True)


@pytest.mark.parametrize(
    ("ask", "op", "told"),
    [
        (Ask(TensorAsk("qint8"), QINT8), "Linear", "asks for qint8 activations, target 'x86' serves quint8"),
        (Ask(TensorAsk("quint8", "channel"), QINT8), "Linear", "activations per channel, target 'x86' serves them per"),
        (Ask(TensorAsk("quint8", observer="RecordingObserver"), QINT8), "Linear", "RecordingObserver keeps the values"),
        (Ask(QUINT8, TensorAsk("quint8")), "Linear", "asks for quint8 weights, target 'x86' serves qint8 on 'Linear'"),
        (Ask(QUINT8, QINT8), "PReLU", "asks for qint8 weights, target 'x86' serves quint8 on 'PReLU'"),
        (Ask(QUINT8, PER_CHANNEL), "ConvTranspose2d", "'ConvTranspose2d' has weights per tensor only (pytorch #47535)"),
        (Ask(QUINT8, TensorAsk("quint8", "channel")), "PReLU", "'PReLU' has weights per tensor only"),
        (Ask(QUINT8, TensorAsk("qint8", "channel", axis=1)), "Conv2d", "the channels on axis 1, target 'x86' serves axis 0"),
        (Ask(TensorAsk("qint32", is_dynamic=True), QINT8), "Linear", "asks for qint32 activations, target 'x86' serves quint8"),
        (Ask(DYNAMIC, QINT8), "Conv2d", "'Conv2d' has no dynamic form"),
        (Ask(FLOAT, QINT8), "Embedding", "'Embedding' takes quint8 weights with float qparams"),
        (Ask(FLOAT, TensorAsk("quint8", "channel", is_float_qparams=True, axis=1)), "Embedding", "one scale for each row"),
        (Ask(TensorAsk("float16"), TensorAsk("float16")), "Linear", "float16 activations, target 'x86' computes them in float32"),
        (Ask(TensorAsk("float16", is_dynamic=True), QINT8), "Linear", "the qconfig mixes float16 with qint8 weights"),
    ],
)  # fmt: skip
def test_what_no_kernel_takes_is_refused_in_words(ask, op, told):
    assert told in str(refusal(ask, op, "x86"))


@pytest.mark.parametrize(
    ("ask", "op"),
    [
        (Ask(QUINT8, PER_CHANNEL), "Conv2d"),
        (Ask(QUINT8, TensorAsk("quint8")), "PReLU"),
        (Ask(QUINT8, FLOAT), "sigmoid"),
        (Ask(DYNAMIC, QINT8), "Linear"),
        (Ask(TensorAsk("qint8", is_dynamic=True), QINT8), "Linear"),
        (Ask(FLOAT, TensorAsk("quint8", "channel", is_float_qparams=True)), "Embedding"),
        (Ask(FLOAT, PER_CHANNEL), "Linear"),
        (Ask(TensorAsk("float16", is_dynamic=True), TensorAsk("float16")), "Linear"),
        (Ask(TensorAsk("qint32"), QINT8, is_reuse=True), "reshape"),
    ],
)
def test_what_a_kernel_takes_is_not_refused(ask, op):
    assert refusal(ask, op, "x86") is None


def test_an_affine_weight_is_refused_by_onednn_alone_and_prelus_is_no_weight_of_a_product():
    affine = Ask(QUINT8, TensorAsk("qint8"))
    assert "serves symmetric weights only" in str(refusal(affine, "Linear", "onednn"))
    assert refusal(affine, "Linear", "qnnpack") is None
    assert refusal(Ask(QUINT8, TensorAsk("quint8")), "PReLU", "onednn") is None


@pytest.mark.parametrize(
    ("ask", "mode", "words"),
    [
        (Ask(FLOAT, FLOAT), Mode.FLOAT, "float32"),
        (Ask(QUINT8, PER_CHANNEL), Mode.STATIC, "static quint8 × qint8 per channel"),
        (Ask(QUINT8, FLOAT), Mode.STATIC, "static quint8"),
        (Ask(QUINT8, QINT8, is_reuse=True), Mode.STATIC, "static, as its input"),
        (Ask(FLOAT, QINT8), Mode.WEIGHT_ONLY, "weight-only qint8 per tensor"),
        (Ask(TensorAsk("float16", is_dynamic=True), TensorAsk("float16")), Mode.FLOAT16, "float16"),
        (Ask(TensorAsk("float16"), TensorAsk("float16")), Mode.FLOAT16, "static float16"),
    ],
)
def test_an_ask_is_told_in_words(ask, mode, words):
    assert (ask.mode, ask.words()) == (mode, words)


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (9, 1, "activation has quant_min 9 above quant_max 1"),
        (3, 200, "the range 3..200 of activation leaves out 0"),
        (0, 0, "the range 0..0 of activation has one value"),
    ],
)
def test_a_range_that_means_nothing_is_refused_with_its_rule(low, high, told):
    with pytest.raises(QConfigError) as caught:
        check_ask(Ask(TensorAsk("quint8", quant_min=low, quant_max=high), QINT8), "rule 2")
    assert caught.value.code == "FXQ102" and f"rule 2: {told}" in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("axis", "shape", "told"),
    [(0, (8,), "the weight of 'fc' has shape (8,)"), (2, (8, 4), "on axis 2, but the weight of 'fc' has shape (8, 4)")],
)
def test_a_channel_axis_that_the_weight_does_not_have_is_refused(axis, shape, told):
    ask = Ask(QUINT8, TensorAsk("qint8", "channel", axis=axis))
    with pytest.raises(QConfigError) as caught:
        check_shape(ask, shape, "fc", "rule 1", is_meant=True)
    assert caught.value.code == "FXQ102" and told in str(caught.value) and caught.value.module == "fc"


def test_a_catch_all_rule_may_meet_a_weight_without_channels():
    check_shape(Ask(QUINT8, PER_CHANNEL), (8,), "norm", "the global rule", is_meant=False)
    with pytest.raises(QConfigError):
        check_shape(Ask(QUINT8, PER_CHANNEL), (8,), "norm", "rule 1", is_meant=True)
