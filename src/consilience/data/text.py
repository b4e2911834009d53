"""A text as data for the next token: windows of characters or subwords, each with the one that follows.

- The text is cut into contiguous parts, training first, then validation, then test, so that no two of them overlap.
- The vocabulary is that of the training part; characters that are rare there, or absent, are one token. Subwords can
  encode any text.
"""

from __future__ import annotations

from pathlib import Path

import torch

from consilience.checks import check_size
from consilience.data.dataset import TEST_SHARE, VALIDATION_SHARE, Data, Dataset
from consilience.data.subwords import Subwords
from consilience.data.vocabulary import Vocabulary, windows
from consilience.errors import InputError
from consilience.seeds import generator

CONTEXT = 64  # tokens of a window


def load_text(path: Path, context: int, subwords: int | None, random_state: int, n_calibration: int) -> Data:
    """Return the windows of a text in UTF-8; see `consilience.data.load_data`."""
    check_size("context", context)
    try:
        text = path.read_bytes().decode("utf-8")  # line ends stay as they are
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} must be a text in UTF-8, got {error}", cure="convert it to UTF-8") from error
    ends = [round((1 - TEST_SHARE - VALIDATION_SHARE) * len(text)), round((1 - TEST_SHARE) * len(text))]
    pieces = text[: ends[0]], text[ends[0] : ends[1]], text[ends[1] :]
    vocabulary = Vocabulary.of(pieces[0]) if subwords is None else Subwords.of(pieces[0], subwords)
    parts, first = list[Dataset](), 0
    for piece in pieces:
        x, y = windows(vocabulary.encode(piece), context)
        parts.append(Dataset(x, y, torch.arange(first, first + len(x)), task="next-token"))
        first += len(x)
    train, validation, test = parts
    kind = "character" if subwords is None else "subword"
    if not all(map(len, parts)):
        wanted = f"{round((context + 1) / VALIDATION_SHARE) + 1} {kind}s"
        message = f"{path} must have at least {wanted} for windows of {context}, got {len(text)} characters"
        raise InputError(message, cure="set a shorter context")
    calibration = train.take(torch.randperm(len(train), generator=generator(random_state))[:n_calibration])
    read_as = f"x: windows of {context} {kind}s; y: the next {kind}, of {len(vocabulary)}"
    return Data(path.name, train, calibration, validation, test, len(vocabulary), read_as, vocabulary=vocabulary)
