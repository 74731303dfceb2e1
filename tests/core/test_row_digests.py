"""Digests of rows: the same row has the same one wherever it stands, and another row another one."""

from __future__ import annotations

import pytest
import torch

from fxquant.row_digests import row_digests


def test_a_row_is_known_again_in_another_batch_and_another_layout():
    x = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0))
    whole = row_digests([x])
    assert len(set(whole)) == 6
    assert row_digests([x[4:]]) == whole[4:]
    assert row_digests([x.transpose(1, 2).contiguous().transpose(1, 2)]) == whole


def test_all_tensors_of_a_call_count_and_so_do_dtype_and_shape():
    x = torch.ones(2, 4)
    others = [[x, x], [x.double()], [x.reshape(2, 2, 2)], [x + 1], [x.to(torch.int32)], [x.requires_grad_()]]
    found = [row_digests(leaves)[0] for leaves in others]
    assert [digest == row_digests([torch.ones(2, 4)])[0] for digest in found] == [False] * 5 + [True]


@pytest.mark.parametrize(
    ("leaves", "count"),
    [
        ([torch.ones(3, 2), torch.ones(())], 1),
        ([torch.ones(3, 2), torch.ones(4, 2)], 1),
        ([torch.ones(())], 1),
        ([torch.ones(3, 0)], 3),
        ([torch.ones(0, 3)], 0),
        ([torch.ones(2, 2, dtype=torch.bool), torch.ones(2, dtype=torch.complex64).conj()], 2),
        ([torch.ones(2, 2, dtype=torch.bfloat16)], 2),
        ([], 0),
    ],
)
def test_where_there_are_no_common_rows_all_is_one(leaves, count):
    assert len(row_digests(leaves)) == count
