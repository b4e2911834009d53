"""Tokenizers beside networks: do members give the same numbers to the same tokens?

Files are compared by what they say of tokens and their numbers, not by how it is written: merges as text or as pairs,
the order of keys, and options that are off. Normalization, padding and truncation are not compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from consilience.errors import InputError, in_one_line

FILES = (
    "tokenizer.json",
    "vocab.json",
    "added_tokens.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
)


def check_tokenizers(folders: Sequence[Path], cure: str) -> None:
    """Raise where tokenizers in directories differ; directories without one are not compared."""
    for name in FILES:
        first: tuple[Path, object] | None = None
        for path in (folder / name for folder in folders if (folder / name).is_file()):
            tokens = _tokens(path)
            first = first or (path, tokens)
            if tokens != first[1]:
                raise InputError(f"{path} must have the tokens of {first[0]}, got others", cure=cure)


def _tokens(path: Path) -> object:
    """What a file of a tokenizer says of tokens, in a form that can be compared."""
    try:
        if path.suffix == ".model":
            return path.read_bytes()
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".txt":
            return [line for line in text.splitlines() if not line.startswith("#version")]
        content = json.loads(text)
        if not isinstance(content, dict):
            raise TypeError(f"expected an object, got {type(content).__name__}")
        return _of_tokenizer(content) if path.name == "tokenizer.json" else content
    except Exception as error:  # of the system, of JSON, or of content of another form
        cure = "write it again with the tokenizer's save_pretrained, or remove it"
        raise InputError(f"{path} must be a file of a tokenizer, got {in_one_line(error)}", cure=cure) from error


def _of_tokenizer(content: Mapping[str, Any]) -> object:
    options = {name: value for name, value in content["model"].items() if value not in (None, False)}
    vocabulary = options.pop("vocab")
    if not isinstance(vocabulary, dict):  # of unigrams: tokens in the order of their numbers, with scores
        options["scores"] = [score for _, score in vocabulary]
        vocabulary = {token: number for number, (token, _) in enumerate(vocabulary)}
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in options.pop("merges", ())]
    added = {token["content"]: token["id"] for token in content.get("added_tokens") or ()}
    return vocabulary | added, merges, options
