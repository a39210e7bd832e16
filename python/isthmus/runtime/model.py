"""Runs a bundle from Python, on the same native core as in C++."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from isthmus.bundle.manifest import MANIFEST_NAME, Manifest, Method, Tree
from isthmus.bundle.manifest_json import loads
from isthmus.capture.tree import flatten, refuse_other_constants, unflatten
from isthmus.errors import Error, InvalidInput
from isthmus.runtime.op_libraries import installed_libraries

try:
    from isthmus import _core
except ImportError as error:
    raise ImportError(
        f"isthmus._core, the native part of isthmus, cannot be imported ({error}): build it with "
        "`pip install .`, or `pip install -e . --no-build-isolation` to work on it"
    ) from error

if TYPE_CHECKING:
    from isthmus.runtime.batcher import Batcher, Request

__all__ = ["Model", "Session", "load"]


def load(
    path: str | Path,
    *,
    engine: str = "auto",
    device: str = "cpu",
    threads: int | None = None,
    warmup: bool | Literal["background"] = True,
    mmap: bool = True,
    trust: str = "graph",
    op_libraries: Sequence[str | Path] = (),
    optimize: str = "auto",
    unproven: str = "prove",
    specials: str = "refuse",
    artifact: str = "",
    engine_options: Mapping[str, str] | None = None,
    timeout: float | None = None,
    record: str | Path | None = None,
    record_limit: int = 1000,
) -> Model:
    """Opens, checks and loads a bundle.

    Args:
        path: The bundle's folder.
        engine: "auto", or an engine's name such as "torchscript".
        device: "cpu", "cuda" or "cuda:N"; another device is never used instead.
        threads: Threads of an operator in each call (LibTorch has one number for the whole
            process); None leaves them as they are. Processors / threads calls run at a time.
        warmup: Call the model on the bundle's goldens until calls are steady; with "background" the
            load does not wait for it, and `ready()` says when it is over.
        mmap: Map the weights from the bundle's files, where the format allows it: nothing is
            copied, and processes share them. The files may then be replaced (renamed over) while
            the model is in use, but not written to in place. False: read a private copy.
        trust: "data", "graph" (pure operators only) or "native" (as much as running a program).
        op_libraries: Libraries of custom operators to open first. Where none is given, those of the
            installed Python packages that the artifact names are opened; `load_report` lists them.
        optimize: "auto", "none", "freeze" or "inference": the rewriting in memory at load.
        unproven: What to do with an engine that was never tried on the goldens with this version of
            its runtime: "prove" (run them now, once; the verdict is kept in proofs.json),
            "refuse", or "allow", which also takes one that failed. `load_report.proof` says what
            the model was taken on.
        specials: What a call gets with values on which the engine gave other answers than the model
            when it was proven, such as NaN: "refuse" (InvalidInput) or "allow" (its answer).
        artifact: The name of an artifact; empty for the best that fits.
        engine_options: Options that the engine documents.
        timeout: The seconds after which each call is stopped with an ExecutionError, on engines
            that can stop a call (see docs/engines.md); None for no limit. `model.timeout` changes
            it.
        record: The folder to write each call's inputs and outputs to, for `isthmus.replay`.
        record_limit: The largest number of calls that are recorded.

    Raises:
        BundleError: The bundle is damaged, foreign or not trusted that far.
        EngineUnavailable: No engine here can run it, or none that gives the model's answers.
        DeviceUnavailable: The device is absent, or the artifact is not valid on it.
        InvalidInput: An option is wrong.
    """
    if warmup not in (True, False, "background"):
        raise InvalidInput(f'warmup {warmup!r}: expected True, False or "background"')
    options = _core.LoadOptions()
    options.engine = engine
    options.device = device
    options.threads = 0 if threads is None else threads
    options.warmup = bool(warmup)
    options.warmup_in_background = warmup == "background"
    options.mmap = mmap
    options.trust = trust
    options.op_libraries = [Path(library) for library in op_libraries]
    options.optimize = optimize
    options.unproven = unproven
    options.specials = specials
    options.artifact = artifact
    options.engine_options = dict(engine_options or {})
    if record is not None:
        options.record = Path(record)
    options.record_limit = record_limit
    model = Model(Path(path), options)
    if timeout is not None:
        model.timeout = timeout
    return model


def _readable_manifest(path: Path) -> Manifest | None:
    """Returns a bundle's manifest; None where the native part has to say what is wrong with it."""
    try:
        return _manifest_of(path)
    except (Error, OSError, UnicodeError):
        return None


def _manifest_of(path: Path) -> Manifest:
    return loads((path / MANIFEST_NAME).read_text(encoding="utf-8"))


class Model(_core.Model):
    """A loaded model, called like the original module.

    Takes torch tensors, NumPy arrays or anything with DLPack, by position or by name, and returns
    the same family, in the structure of the original outputs. Every call is checked against the
    signature. May be called from many threads; the GIL is released while the model runs.
    """

    def __init__(self, path: Path, options: _core.LoadOptions) -> None:
        manifest = _readable_manifest(path)
        artifacts = manifest.artifacts if manifest is not None else ()
        options.installed_op_libraries = installed_libraries(
            library for artifact in artifacts for library in artifact.op_libraries
        )
        super().__init__(path, options)
        self.path = path
        self._manifest = manifest or _manifest_of(path)
        self._methods = {method.name: method for method in self._manifest.methods}

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self._manifest

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Calls any exported method by name, e.g. "reset"."""
        return self._call(method, args, kwargs)

    def session(self) -> Session:
        """Returns a caller with a state of its own; the weights are shared."""
        return Session(self)

    def batcher(self, **limits: Any) -> Batcher:
        """Returns a queue that batches requests of similar length; see `isthmus.Batcher`."""
        from isthmus.runtime.batcher import Batcher

        return Batcher(self, **limits)

    def submit(self, *args: Any, **kwargs: Any) -> Request:
        """Queues a call with the default limits; returns a future. See `Batcher.submit`."""
        return self._queue.submit(*args, **kwargs)

    def map(
        self,
        inputs: Iterable[Mapping[str, Any] | tuple[Any, ...]],
        *,
        progress: Callable[[int], object] | None = None,
        **limits: Any,
    ) -> Iterator[Any]:
        """Calls the model on each element of a data set; yields answers in the order of the inputs.

        Args:
            inputs: Keyword arguments (a mapping) or positional ones (a tuple) of each call.
            progress: Called with the number of answers so far.
            **limits: The limits of `isthmus.Batcher`.
        """
        with self.batcher(**limits) as batcher:
            yield from batcher.map(inputs, progress=progress)

    @cached_property
    def _queue(self) -> Batcher:
        queue = self.batcher()
        queue._model = None  # the model owns the queue: a cycle would never be freed
        return queue

    def signature(self, method: str = "forward") -> Method:
        """Returns the inputs, outputs and nesting of a method.

        Raises:
            InvalidInput: There is no such method.
        """
        if method not in self._methods:
            raise InvalidInput(
                f'the model has no method "{method}"; it has {", ".join(self._methods)}'
            )
        return self._methods[method]

    def _flatten(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """Returns the flat inputs of a call by name; called by the native module.

        A keyword is a parameter of the original call, or the name of a flat input. What the export
        made a part of the model may be given again, if it is the same.

        Raises:
            InvalidInput: There are too many arguments, one has another structure than the exported
                call, or another constant.
        """
        signature = self.signature(method)
        if len(args) > len(signature.args) + len(signature.kwargs):
            raise InvalidInput(
                f'"{method}" takes {len(signature.args) + len(signature.kwargs)} arguments, '
                f"got {len(args)}"
            )
        parameters: list[tuple[str, Tree]] = [
            *((_parameter_name(tree), tree) for tree in signature.args),
            *signature.kwargs,
        ]
        values: dict[str, Any] = {}
        for at, ((name, tree), value) in enumerate(zip(parameters, args, strict=False)):
            refuse_other_constants(tree, value, name or f"argument {at}")
            values.update(flatten(tree, value))
        rest = dict(parameters[len(args) :])
        for name, value in kwargs.items():
            if name in rest:
                refuse_other_constants(rest[name], value, name)
                values.update(flatten(rest[name], value))
            else:
                values[name] = value
        return {name: value for name, value in values.items() if value is not None}

    def _rebuild(self, method: str, values: dict[str, Any]) -> Any:
        """Returns a result in the original structure; called by the native module."""
        return unflatten(self._methods[method].returns, values)

    def __repr__(self) -> str:
        if not hasattr(self, "_methods"):  # tracebacks show objects whose loading failed
            return "<isthmus.Model, not loaded>"
        report = self.load_report
        return (
            f"<isthmus.Model {self._manifest.name!r}: {report.artifact} on {report.device}, "
            f"{report.runtime}>"
        )


class Session:
    """A separate state of a stateful model; one thread at a time may use it."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._native = model._session()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls "forward" on this session's state."""
        return self._native._call(self._model, "forward", args, kwargs)

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Calls any exported method by name on this session's state."""
        return self._native._call(self._model, method, args, kwargs)


def _parameter_name(tree: Tree) -> str:
    """Returns the parameter of an argument's tree: the first part of its leaves' names."""
    leaves = tree.leaves()
    return leaves[0].partition(".")[0] if leaves else tree.name
