"""Requests of similar length in one call: futures, and whole data sets with progress."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any

from isthmus import _core

if TYPE_CHECKING:
    from isthmus.runtime.model import Model

__all__ = ["Batcher", "Request"]


class Request(Future[Any]):
    """The answer to come of one request."""

    _ticket: _core.Ticket | None = None

    def cancel(self) -> bool:
        """Takes the request back; False when it has begun."""
        if self._ticket is None or not self._ticket.cancel():
            return self.cancelled()
        return True


class Batcher:
    """Puts requests of similar length into one call of a model: `isthmus::Batcher`.

    Requests are put together along the named dimension that every input and output begins with,
    and padded along the one other that their inputs have, to the longest of the call. Padding is
    used only where a golden, run alone and padded, gave the same answer. The answer of each request
    is the single call's within the noise floor.

    Use it as a context manager, or `close` it. May be called from many threads.
    """

    def __init__(
        self,
        model: Model,
        *,
        method: str = "forward",
        workers: int = 1,
        max_requests: int = 16,
        max_elements: int = 4096,
        max_padding: float = 0.1,
        max_wait: float = 0.0,
        max_queue: int = 1024,
        when_full: str = "wait",
        padding: Mapping[str, float] | None = None,
    ) -> None:
        """Starts the workers.

        Args:
            model: From `isthmus.load`; without state. Load it with as many threads as processors
                divided by `workers`.
            method: What is called.
            workers: Calls of the model at once.
            max_requests: Requests in one call.
            max_elements: Rows times longest length of one call, padding included; 0: no limit.
            max_padding: Share of a call's elements that may be padding; 0: only requests of equal
                length meet.
            max_wait: Seconds that a request may wait for others when a worker is idle. With 0
                requests meet only while the workers are busy.
            max_queue: Requests that may wait.
            when_full: What `submit` does then: "wait", or "refuse" with an ExecutionError.
            padding: By input name: the value that pads it; 0 by default.

        Raises:
            InvalidInput: The model has state, or the limits allow nothing.
        """
        self._native = _core.Batcher(
            model,
            method=method,
            workers=workers,
            max_requests=max_requests,
            max_elements=max_elements,
            max_padding=max_padding,
            max_wait=max_wait,
            max_queue=max_queue,
            when_full=when_full,
            padding=dict(padding or {}),
        )
        self._model: Model | None = model
        self._window = max_queue
        # Workers that answer while the interpreter ends would find none.
        self._finalizer = weakref.finalize(self, self._native.close, True)

    @property
    def stats(self) -> _core.BatcherStats:
        """Requests, calls of the model, elements and padding so far."""
        return self._native.stats

    @property
    def notes(self) -> list[str]:
        """What is not done, and why: no batching, no padding."""
        return self._native.notes

    def submit(self, *args: Any, **kwargs: Any) -> Request:
        """Queues one call of the model; the arguments are the model's own.

        Returns:
            A future: its result is what the model's call would give. `cancel` takes the request
            back while it waits; its result then raises `concurrent.futures.CancelledError`.

        Raises:
            InvalidInput: The arguments do not fit the signature.
            ExecutionError: The queue is full and refuses, or closed.
        """
        request = Request()
        request._ticket = self._native.submit(_answering(request), args, kwargs)
        return request

    def map(
        self,
        inputs: Iterable[Mapping[str, Any] | tuple[Any, ...]],
        *,
        progress: Callable[[int], object] | None = None,
    ) -> Iterator[Any]:
        """Calls the model on each element of a data set.

        Args:
            inputs: Keyword arguments (a mapping) or positional ones (a tuple) of each call; read as
                far ahead as the queue allows.
            progress: Called with the number of answers so far.

        Returns:
            The answers, in the order of the inputs.
        """
        waiting: deque[Request] = deque()
        done = 0
        for input_spec in inputs:
            waiting.append(
                self.submit(**input_spec)
                if isinstance(input_spec, Mapping)
                else self.submit(*input_spec)
            )
            while len(waiting) > self._window or (waiting and waiting[0].done()):
                yield waiting.popleft().result()
                done += 1
                if progress is not None:
                    progress(done)
        while waiting:
            yield waiting.popleft().result()
            done += 1
            if progress is not None:
                progress(done)

    def close(self, *, cancel: bool = False) -> None:
        """No more requests; returns when the last is answered, or cancelled."""
        self._finalizer.detach()
        self._native.close(cancel)

    def __enter__(self) -> Batcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(cancel=error is not None)


def _answering(request: Request) -> Callable[..., None]:
    """What the native worker calls, once."""

    def done(result: Any, raises: Callable[[], None] | None, *, cancelled: bool = False) -> None:
        if cancelled:
            Future.cancel(request)
            request.set_running_or_notify_cancel()
        elif raises is None:
            request.set_result(result)
        else:
            try:
                raises()
            except Exception as error:  # whatever the call raised is the request's
                request.set_exception(error)

    return done
