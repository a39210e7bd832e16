"""Batches requests of similar length into one call: futures, and whole data sets."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any

from isthmus import _core

__all__ = ["Batcher", "Request"]


class Request(Future[Any]):
    """The future answer of a request."""

    _ticket: _core.Ticket | None = None

    def cancel(self) -> bool:
        """Takes the request back; returns False when its call has begun."""
        if self._ticket is None or not self._ticket.cancel():
            return self.cancelled()
        return True


class Batcher:
    """Batches requests of similar length into one call of a model: `isthmus::Batcher`.

    Requests are joined along the named dimension that every input and output begins with, and
    padded along the one other named dimension of the inputs, to the longest request of the call.
    Padding is used only where a golden gave the same answer alone and padded. The answer to each
    request equals that of a single call within the noise floor.

    Use it as a context manager, or `close` it. May be called from many threads.
    """

    def __init__(
        self,
        model: _core.Model,
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
            model: A model without state, from `isthmus.load`. Load it with the number of processors
                divided by `workers` as threads.
            method: The method to call.
            workers: The largest number of calls of the model at a time.
            max_requests: The largest number of requests in one call.
            max_elements: The largest product of rows and longest length in one call, padding
                included; 0: no limit.
            max_padding: The largest share of a call's elements that may be padding; 0: only
                requests of equal length are batched.
            max_wait: The seconds that a request may wait for others when a worker is idle. With 0,
                requests are batched only while the workers are busy.
            max_queue: The largest number of waiting requests.
            when_full: What `submit` does with a full queue: "wait", or "refuse" with an
                ExecutionError.
            padding: Maps an input to the value that pads it; 0 by default.

        Raises:
            InvalidInput: The model has state or writes its inputs, or the limits allow nothing.
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
        self._model: _core.Model | None = model
        self._window = max_queue
        # Workers must have ended before the interpreter does.
        self._finalizer = weakref.finalize(self, self._native.close, True)

    @property
    def stats(self) -> _core.BatcherStats:
        """The numbers of requests, calls, elements and padded elements so far."""
        return self._native.stats

    @property
    def notes(self) -> list[str]:
        """The reasons why requests are not batched or not padded."""
        return self._native.notes

    def submit(self, *args: Any, **kwargs: Any) -> Request:
        """Queues one call of the model; the arguments are the model's own.

        Returns:
            A future with the result of the call. `cancel` takes the request back while it waits;
            its result then raises `concurrent.futures.CancelledError`.

        Raises:
            InvalidInput: The arguments do not fit the signature.
            ExecutionError: The queue is closed, or it is full and refuses.
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

        Yields:
            The answers, in the order of the inputs.
        """
        waiting: deque[Request] = deque()
        done = 0
        for arguments in inputs:
            waiting.append(
                self.submit(**arguments)
                if isinstance(arguments, Mapping)
                else self.submit(*arguments)
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
        """Ends the queue; returns when the last request is answered, or cancelled."""
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
    """Returns the function that the native worker calls once, with the answer."""

    def done(result: Any, raises: Callable[[], None] | None, *, cancelled: bool = False) -> None:
        if cancelled:
            Future.cancel(request)
            request.set_running_or_notify_cancel()
        elif raises is None:
            request.set_result(result)
        else:
            try:
                raises()
            except Exception as error:  # the request's result raises it again
                request.set_exception(error)

    return done
