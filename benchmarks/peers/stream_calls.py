"""Calls of a contender on a stream of sentences: padded batches, or isthmus's batcher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from .calls import Loaded, hidden_array, load
from .kinds import Request
from .text import load as load_sentences
from .text import padded, single

SAMPLE = 10
"""The distance between sentences that are compared with eager."""


class StreamCall(Protocol):
    """A loaded contender with its stream."""

    runtime: str

    def call(self) -> Sequence[np.ndarray]:
        """Returns the answers to all sentences in order, float32[length, hidden] each."""
        ...

    def elements(self) -> int:
        """Returns the tokens computed in the last call, with padding."""
        ...


def load_stream(request: Request) -> StreamCall:
    """Loads the contender that the request names, with its stream."""
    sentences = load_sentences(Path(request.inputs))
    if request.order == "batcher":
        return _Batcher(request, sentences)
    return _Padded(request, sentences)


def threads_of(request: Request) -> int:
    """Returns the threads of each worker of the batcher: all workers have those of a peer."""
    return max(1, request.threads // request.workers)


def sample(answers: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
    """Returns the answers that are compared, by their place."""
    return {at: answers[at] for at in range(0, len(answers), SAMPLE)}


def batches(lengths: Sequence[int], size: int, *, by_length: bool) -> Iterator[list[int]]:
    """Yields the places of the sentences of each call."""
    order = list(range(len(lengths)))
    if by_length:
        order.sort(key=lengths.__getitem__)
    for start in range(0, len(order), size):
        yield order[start : start + size]


class _Padded:
    """Batches of a fixed number of sentences, padded to the longest."""

    def __init__(self, request: Request, sentences: Sequence[np.ndarray]) -> None:
        self._loaded: Loaded = load(request)
        self._sentences = sentences
        self._size = request.batch
        self._by_length = request.order == "sorted"
        self._elements = 0
        self.runtime = self._loaded.runtime

    def call(self) -> list[np.ndarray]:
        """Sorts and pads the sentences, which counts as the contender's time, and calls it."""
        lengths = [len(sentence) for sentence in self._sentences]
        answers: list[np.ndarray] = [np.empty(0)] * len(lengths)
        self._elements = 0
        for places in batches(lengths, self._size, by_length=self._by_length):
            values = padded([self._sentences[place] for place in places])
            self._elements += values["input_ids"].size
            hidden = self._loaded.array(self._loaded.bind(values)())
            for row, place in enumerate(places):
                answers[place] = hidden[row, : lengths[place]]
        return answers

    def elements(self) -> int:
        """See `StreamCall.elements`."""
        return self._elements


class _Batcher:
    """`isthmus.Batcher`, which gets the sentences in their order."""

    def __init__(self, request: Request, sentences: Sequence[np.ndarray]) -> None:
        import isthmus

        model = isthmus.load(
            request.bundle,
            engine=request.contender.engine,
            artifact=request.contender.option,
            threads=threads_of(request),
            trust="native",
        )
        self._sentences = sentences
        self._batcher = model.batcher(
            workers=request.workers, max_requests=request.batch, max_padding=request.padding
        )
        self._before = self._after = 0
        self.runtime = f"{model.load_report.artifact} on {model.load_report.runtime}"

    def call(self) -> list[np.ndarray]:
        """Returns the answers in the order of the sentences."""
        self._before = self._batcher.stats.elements
        inputs = (single(ids) for ids in self._sentences)
        answers = [hidden_array(result)[0] for result in self._batcher.map(inputs)]
        self._after = self._batcher.stats.elements
        return answers

    def elements(self) -> int:
        """See `StreamCall.elements`."""
        return self._after - self._before
