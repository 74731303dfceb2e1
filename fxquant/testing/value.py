"""What is known of a value of a drawn model before it is built: shape, and whose memory it may share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Value:
    """`shape` without the batch. Values of one `owner` may share memory."""

    shape: tuple[int, ...]
    owner: int
    vocabulary: int = 0  # of token ids; 0 for floats
    is_contiguous: bool = True

    @property
    def is_tokens(self) -> bool:
        """Token ids, not floats."""
        return self.vocabulary > 0

    @property
    def rank(self) -> int:
        """Dimensions without the batch."""
        return len(self.shape)
