"""English sentences of uneven length from the language reference that pydoc ships."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .kinds import Values

SOURCE = "pydoc_data.topics of Python's standard library (Debian: libpython3-stdlib)"
_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"])")
_MARKUP = re.compile(r"\*\*?|``?|\[\d+\]")
_BULLET = re.compile(r"^\s*(?:\*|-|\d+\.)\s+")
_NOT_PROSE = ("::=", ">>>", "+---", "|", "====", "****", "----")
_MIN_WORDS = 3
_MAX_TOKENS = 512


@dataclass(frozen=True)
class Stream:
    """Tokenised sentences in the order of the text."""

    ids: tuple[np.ndarray, ...]
    """int64[length] each, with the special tokens."""
    sha256: str
    """The digest of the sentences, a line each: Python versions ship different texts."""

    @property
    def lengths(self) -> list[int]:
        """The number of tokens of each sentence."""
        return [len(identifier) for identifier in self.ids]

    @property
    def tokens(self) -> int:
        """The number of all tokens, without padding."""
        return sum(self.lengths)

    def describe(self) -> str:
        """Returns the number of sentences and the distribution of their lengths in words."""
        points = np.quantile(self.lengths, (0, 0.1, 0.5, 0.9, 1)).astype(int)
        spread = ", ".join(
            f"{name} {point}"
            for name, point in zip(("min", "p10", "median", "p90", "max"), points, strict=True)
        )
        return (
            f"{len(self.ids)} sentences, {self.tokens} tokens: {spread},"
            f" mean {self.tokens / len(self.ids):.1f} (sha256 {self.sha256[:12]})"
        )

    def every(self, step: int) -> Stream:
        """Returns a shorter stream with the same spread of lengths."""
        return replace(self, ids=self.ids[::step])

    def save(self, path: Path) -> None:
        """For the workers; `load` reads it."""
        np.savez(path, ids=np.concatenate(self.ids), lengths=np.array(self.lengths, np.int64))


def load(path: Path) -> list[np.ndarray]:
    """int64[length] for each sentence of a saved stream."""
    with np.load(path) as file:
        return np.split(file["ids"], np.cumsum(file["lengths"])[:-1])


def single(ids: np.ndarray) -> Values:
    """One sentence as a call takes it: int64[1, length]."""
    row = ids[None]
    return {
        "input_ids": row,
        "attention_mask": np.ones_like(row),
        "token_type_ids": np.zeros_like(row),
    }


def padded(sentences: Sequence[np.ndarray]) -> Values:
    """A batch, padded to its longest: int64[batch, longest], the attention mask with it."""
    longest = max(map(len, sentences))
    ids = np.zeros((len(sentences), longest), np.int64)
    mask = np.zeros_like(ids)
    for row, sentence in enumerate(sentences):
        ids[row, : len(sentence)] = sentence
        mask[row, : len(sentence)] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def sentences() -> Iterator[str]:
    """Yields the distinct sentences of the text's prose in order, without code and grammar."""
    from pydoc_data.topics import topics

    seen: set[str] = set()
    for name in sorted(topics):
        for block in topics[name].split("\n\n"):
            paragraph = _BULLET.sub("", block)
            if not _is_prose(paragraph):
                continue
            for sentence in _END.split(" ".join(_MARKUP.sub("", paragraph).split())):
                fits = _begins(sentence) and sentence[-1] in ".!?"
                if fits and len(sentence.split()) >= _MIN_WORDS and sentence not in seen:
                    seen.add(sentence)
                    yield sentence


def _is_prose(paragraph: str) -> bool:
    """Returns False for a code block, a grammar or a table."""
    return _begins(paragraph.lstrip()) and not any(mark in paragraph for mark in _NOT_PROSE)


def _begins(text: str) -> bool:
    return text[:1].isupper() or text[:1] == '"'


def tokenised(weights: Path, count: int) -> Stream:
    """Returns the first `count` sentences, tokenised by the tokenizer beside the weights.

    Raises:
        ValueError: The text has fewer sentences.
    """
    from tokenizers import Tokenizer

    texts = [text for text, _ in zip(sentences(), range(count), strict=False)]
    if len(texts) < count:
        raise ValueError(f"{SOURCE} has {len(texts)} sentences, wanted {count}; take fewer")
    tokenizer = Tokenizer.from_file(str(weights / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(_MAX_TOKENS)
    return Stream(
        ids=tuple(np.array(encoding.ids, np.int64) for encoding in tokenizer.encode_batch(texts)),
        sha256=hashlib.sha256("\n".join(texts).encode()).hexdigest(),
    )
