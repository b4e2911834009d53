"""The characters of a text by number, and windows of consecutive tokens, each with the token that follows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from consilience.checks import check_size

UNKNOWN = "\ufffd"  # token 0, and what stands for it in decoded text
RAREST = 1e-4  # share of the training text; a rarer character is unknown


@dataclass(frozen=True)
class Vocabulary:
    """The characters of a text; those of no number are token 0.

    Attributes
    ----------
    characters : the character of each token, from 0 (`UNKNOWN`), in the order of their code points.

    Examples
    --------
    >>> vocabulary = Vocabulary.of("banana")
    >>> vocabulary.encode("nab!").tolist(), vocabulary.decode([3, 1, 2, 0])
    ([3, 1, 2, 0], 'nab�')
    """

    characters: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Vocabulary:
        """Return the characters that make up at least `RAREST` of a text."""
        counts = Counter(text)
        return cls((UNKNOWN, *sorted(c for c, n in counts.items() if n >= RAREST * len(text) and c != UNKNOWN)))

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> Tensor:
        """Return the tokens (m,) of a text of m characters, as int64."""
        points = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)
        known = np.array([ord(character) for character in self.characters[1:]], dtype=np.uint32)
        places = np.searchsorted(known, points)
        found = np.append(known, 0)[places] == points  # beyond the last there is none
        found &= places < len(known)
        return torch.from_numpy(np.where(found, places + 1, 0).astype(np.int64))

    def decode(self, tokens: Tensor | list[int]) -> str:
        """Return the text of tokens (m,)."""
        return "".join(self.characters[int(token)] for token in tokens)


def windows(tokens: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return windows x (n, length) of consecutive tokens, and y (n, length), the token after each of x.

    Windows do not overlap. Tokens that do not fill one are left out.

    >>> windows(torch.arange(8), 3)
    (tensor([[0, 1, 2],
            [3, 4, 5]]), tensor([[1, 2, 3],
            [4, 5, 6]]))
    """
    check_size("length", length)
    n = (len(tokens) - 1) // length
    return tokens[: n * length].view(n, length), tokens[1 : n * length + 1].view(n, length)
