"""Which batches are (input, label) pairs: decided from the first, by what the model takes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fxquant.batches import Batches, reader_for
from fxquant.ledger import Ledger

X, LABELS = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])


class One(nn.Module):
    def forward(self, x):
        return x


class Two(nn.Module):
    def forward(self, x, y):
        return x + y


class Optional(nn.Module):
    def forward(self, x, mask=None):
        return x if mask is None else x * mask


class Any(nn.Module):
    def forward(self, *tensors):
        return tensors[0]


@pytest.mark.parametrize(
    ("model", "batch", "example", "is_labelled"),
    [
        (One(), (X, LABELS), None, True),
        (One(), [X, ["cat", "dog"]], None, True),
        (One(), X, None, False),
        (One(), (X,), None, False),
        (One(), (X, {"scale": 2}), None, False),  # positional and keyword arguments
        (Two(), (X, LABELS), None, False),
        (Two(), (X, LABELS), (X,), True),  # an example says what one call is
        (Two(), (X, LABELS), X, True),
        (One(), (X, LABELS), (X, X), False),
        (Optional(), (X, LABELS), None, True),
        (Optional(), (X, torch.ones(4)), None, False),  # a mask, as floats
        (Optional(), (X, torch.ones(4, 3, dtype=torch.int64)), None, False),
        (Any(), (X, LABELS), None, False),
    ],
)
def test_a_label_is_left_out_where_the_model_takes_one_input_and_a_notice_says_so(model, batch, example, is_labelled):
    ledger = Ledger()
    reader = reader_for(model, Batches([batch]), example, ledger)
    assert reader.is_labelled is is_labelled
    assert [row.code for row in ledger.notices] == (["FXQ308"] if is_labelled else [])


def test_a_loader_over_a_stream_has_no_length_and_is_read():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter([X, X])

    data = Batches(torch.utils.data.DataLoader(Stream(), batch_size=None))
    assert data.length is None and len(list(data)) == 2
