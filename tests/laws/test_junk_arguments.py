"""The contract on arguments: whatever is given in the place of one, the result is success or an FxQuantError."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxquant
from fxquant.errors import FxQuantError
from fxquant.passes.low_rank import LowRank
from fxquant.passes.prune_channels import PruneChannels
from fxquant.passes.prune_magnitude import PruneMagnitude

X = torch.rand(16, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 4
PAIRS = [(X, Y)]
HUGE = 10**20


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def fails(*given):
    raise ZeroDivisionError(f"called with {len(given)} arguments")


JUNK = {
    "None": None, "0": 0, "-1": -1, "1.5": 1.5, "nan": float("nan"), "inf": float("inf"), "huge": HUGE, "True": True,
    "empty text": "", "text": "x", "bytes": b"a", "list": [], "dict": {}, "tuple": (), "object": object(),
    "tensor": torch.rand(3), "no rows": torch.rand(0, 8), "[None]": [None], "{a: None}": {"a": None},
    "function": fails, "module": nn.Linear(8, 4), "[tensor]": [X], "pairs": PAIRS,
}  # fmt: skip


def compared(**options):
    return fxquant.compare(model(), {"int8": "int8"}, PAIRS, **{"seconds": 0, **options})


def profiled(**options):
    return fxquant.profile(model(), [X], **{"verify": False, "seconds": 0.1, **options})


def distilled(**options):
    return fxquant.distil(model(), model(), PAIRS, **{"steps": 1, **options})


def lost(given=X, labels=Y, **options):
    return fxquant.Distillation(model(), **options)(model(), given, labels)


def compressed(step):
    return fxquant.compress(model(), [step], example_inputs=X)


def trained(**options):
    return fxquant.compile(model(), "int8", calibration_data=X, **{"mode": "qat", **options})


CALLS = {
    "compress model": lambda junk: fxquant.compress(junk, []),
    "compress passes": lambda junk: fxquant.compress(model(), junk),
    "compress example_inputs": lambda junk: fxquant.compress(model(), [PruneChannels(ratio=0.5)], example_inputs=junk),
    "evaluate model": lambda junk: fxquant.evaluate(junk, PAIRS),
    "evaluate data": lambda junk: fxquant.evaluate(model(), junk),
    "evaluate metric": lambda junk: fxquant.evaluate(model(), PAIRS, junk),
    "compare candidates": lambda junk: fxquant.compare(model(), junk, PAIRS, seconds=0),
    "compare candidate": lambda junk: fxquant.compare(model(), {"a": junk}, PAIRS, seconds=0),
    "compare data": lambda junk: fxquant.compare(model(), {"int8": "int8"}, junk, seconds=0),
    **{
        f"compare {name}": lambda junk, name=name: compared(**{name: junk})
        for name in ("targets", "batch_sizes", "threads", "seconds", "max_batches", "calibration_data",
                     "is_higher_better", "forward_fn", "compile_options")
    },
    "profile model": lambda junk: fxquant.profile(junk, [X], verify=False),
    "profile data": lambda junk: fxquant.profile(model(), junk, verify=False),
    **{
        f"profile {name}": lambda junk, name=name: profiled(**{name: junk})
        for name in ("qconfig_mapping", "target", "objective", "most_float", "max_batches")
    },
    **{f"qconfig {n}": lambda j, n=n: fxquant.qconfig(**{"weight": "int4", n: j}) for n in ("weight", "group_size")},
    "qconfig activation": lambda junk: fxquant.qconfig(activation=junk),
    "compile mode": lambda junk: trained(mode=junk),
    "compile schedule": lambda junk: trained(schedule=junk),
    "compile chain": lambda junk: fxquant.compile(model(), ("int8", junk), calibration_data=X),
    "schedule": lambda junk: fxquant.QATSchedule(freeze_observers_after=junk),
    "distil student": lambda junk: fxquant.distil(junk, model(), PAIRS, steps=1),
    "distil batches": lambda junk: fxquant.distil(model(), model(), junk, steps=1),
    **{
        f"distil {name}": lambda junk, name=name: distilled(**{name: junk}) for name in ("lr", "temperature", "seed")
    },
    "distil steps": lambda junk: distilled(steps=2 if junk is HUGE else junk),  # so many steps are meant
    "loss inputs": lambda junk: lost(junk),
    "loss labels": lambda junk: lost(X, junk),
    **{
        f"loss {name}": lambda junk, name=name: lost(**{name: junk})
        for name in ("temperature", "alpha", "features", "logits", "class_dim")
    },
    **{
        f"channels {name}": lambda junk, name=name: compressed(PruneChannels(**{name: junk}))
        for name in ("ratio", "macs")
    },
    **{
        f"channels {name}": lambda junk, name=name: compressed(PruneChannels(ratio=0.5, **{name: junk}))
        for name in ("importance", "ignore", "round_to", "min_channels")
    },
    **{
        f"magnitude {name}": lambda junk, name=name: compressed(PruneMagnitude(**{name: junk}))
        for name in ("sparsity", "pattern")
    },
    **{
        f"rank {name}": lambda junk, name=name: compressed(LowRank(**{name: junk}))
        for name in ("rank", "energy", "budget")
    },
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.filterwarnings("ignore::fxquant.FxQuantWarning")  # success may come with one
def test_whatever_an_argument_is_the_result_is_success_or_an_error_of_ours(call):
    refused = 0
    for name, junk in JUNK.items():
        try:
            CALLS[call](junk)
        except FxQuantError as error:
            assert error.code and error.message, name
            refused += 1
    assert refused, "nothing at all was refused: the call does not look at this argument"
