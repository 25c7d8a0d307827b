"""Texts to token rows, once per stage, with the tokenizer that stands beside the base model.

Decides truncation and what counts as a text without tokens. Uses the fast tokenizer (tokenizer.json) directly: no
Python code of a model repository ever runs. Called by the recipes and by the policy server.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ratchet_jobs.runtime.errors import BadConfigError, BadModelError

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_FILES = (TOKENIZER_FILE, "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
"""Copied into every artifact, so that a policy is served without its base model's folder at hand for text."""

_CHUNK = 4096


class TokenRows(NamedTuple):
    """Token ids of N texts."""

    rows: list[NDArray[np.int32]]
    lengths: NDArray[np.int64]
    """(N,) tokens per row, special tokens included."""
    has_words: NDArray[np.bool_]
    """(N,) False = nothing but special tokens is left of the text."""


def load_tokenizer(folder: Path, *, max_tokens: int, keep: Literal["start", "end"] = "start") -> Tokenizer:
    """Read tokenizer.json and set truncation.

    Args:
        folder: that has it.
        max_tokens: of a text, special tokens included.
        keep: which end of a longer text is kept.

    Raises:
        BadModelError: the file is missing or cannot be parsed.
        BadConfigError: max_tokens leaves no room beside the special tokens.
    """
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())) or "nothing"
        raise BadModelError(
            f"baseModel: {TOKENIZER_FILE} is missing (found: {found}); "
            "add it, as AutoTokenizer.from_pretrained(...).save_pretrained(...) of a fast tokenizer writes it"
        )
    try:
        tokenizer: Tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises bare Exception for every malformed file
        raise BadModelError(f"baseModel: {TOKENIZER_FILE} cannot be read: {error}; restore the file") from error
    special = tokenizer.num_special_tokens_to_add(is_pair=False)
    if max_tokens <= special:
        raise BadConfigError(f"maxTokens: {max_tokens} leaves no room beside {special} special tokens; raise it")
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens, direction="right" if keep == "start" else "left")
    return tokenizer


def tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> TokenRows:
    """Tokenise texts in parallel, cut as `load_tokenizer` set it.

    Args:
        tokenizer: from `load_tokenizer`.
        texts: N texts.
    """
    special = tokenizer.num_special_tokens_to_add(is_pair=False)
    rows: list[NDArray[np.int32]] = []
    for start in range(0, len(texts), _CHUNK):
        encoded = tokenizer.encode_batch_fast(list(texts[start : start + _CHUNK]))
        rows += [np.asarray(row.ids, dtype=np.int32) for row in encoded]
    lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
    return TokenRows(rows=rows, lengths=lengths, has_words=lengths > special)
