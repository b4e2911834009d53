"""Pieces of a text that are often together, by number: byte-pair encoding, by the package tokenizers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from consilience.checks import check_count
from consilience.errors import InputError

BYTES = 256  # the pieces that any text is made of


class Subwords:
    """The pieces of a text in UTF-8, from single bytes to words; every text can be encoded.

    Its methods are those of `consilience.data.vocabulary.Vocabulary`.

    References
    ----------
    Sennrich, Haddow and Birch (2016), Neural machine translation of rare words with subword units, ACL; on bytes, as
    in GPT-2.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer  # tokenizers.Tokenizer

    @classmethod
    def of(cls, text: str, n: int) -> Subwords:
        """Return n subwords (257 or more, and fewer where the text has no more pairs) of a text."""
        check_count("subwords", n, BYTES + 1)
        try:
            from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
        except ImportError as error:
            cure = "pip install 'consilience[subwords]', or leave subwords out for characters"
            raise InputError(f"subwords need the package tokenizers, got {error}", cure=cure) from error
        tokenizer: Any = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=n, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator([text], trainer)
        return cls(tokenizer)

    def __len__(self) -> int:
        return int(self.tokenizer.get_vocab_size())

    def encode(self, text: str) -> Tensor:
        """Return the tokens (m,) of a text, as int64."""
        return torch.tensor(self.tokenizer.encode(text).ids, dtype=torch.int64)

    def decode(self, tokens: Tensor | list[int]) -> str:
        """Return the text of tokens (m,)."""
        return str(self.tokenizer.decode([int(token) for token in tokens]))
