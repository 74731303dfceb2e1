"""Packed sequences in a graph: torch's functions for them look at the values of lengths, so they are recorded whole."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx
from torch.nn.utils import rnn

PACK: tuple[Callable[..., Any], ...] = (rnn.pack_padded_sequence, rnn.pack_sequence)
RECORDED: tuple[Callable[..., Any], ...] = (*PACK, rnn.pad_packed_sequence, rnn.unpack_sequence)


def is_packed(node: object) -> bool:
    """Does this node give a PackedSequence: one that was packed, or what a recurrent layer made of it?"""
    while isinstance(node, fx.Node) and node.args:
        if node.op == "call_function" and node.target in PACK:
            return True
        is_first = node.target is operator.getitem and node.args[1] == 0 and node.all_input_nodes[0].op == "call_module"
        if not is_first:
            return False
        node = node.all_input_nodes[0].args[0]
    return False
