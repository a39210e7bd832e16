"""
The native core of isthmus.
"""

from __future__ import annotations

import collections.abc
import os
import pathlib
import typing

import typing_extensions

__all__: list[str] = [
    "ArchiveScan",
    "Batcher",
    "BatcherStats",
    "EngineInfo",
    "ExportedScan",
    "Finding",
    "IdentifiedFile",
    "LoadOptions",
    "LoadReport",
    "Machine",
    "Model",
    "OnnxScan",
    "OutputParity",
    "Session",
    "Tensor",
    "Ticket",
    "WarmupReport",
    "build_info",
    "compare",
    "engine_formats",
    "engine_info",
    "engine_names",
    "identify_file",
    "machine_key",
    "scan_exported_program",
    "scan_onnx",
    "scan_torchscript",
    "this_machine",
]

class Tensor:
    """
    An array of the native library, which imports and exports DLPack.
    """
    def __dlpack__(self, **kwargs: typing.Any) -> typing_extensions.CapsuleType: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...
    def __init__(self, array: typing.Any) -> None:
        """
        Shares the memory of any array.
        """
    def __repr__(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...

class IdentifiedFile:
    """
    The kind of a file, judged by its content.
    """
    @property
    def advice(self) -> str: ...
    @property
    def kind(self) -> str: ...

class Finding:
    """
    A finding of a scan, and its place.
    """
    def __repr__(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def refused(self) -> bool: ...
    @property
    def what(self) -> str: ...
    @property
    def where(self) -> str: ...

class ArchiveScan:
    """
    The content of a TorchScript archive.
    """
    def describe(self) -> str: ...
    @property
    def code(self) -> dict[str, str]: ...
    @property
    def file_format_version(self) -> int: ...
    @property
    def findings(self) -> list[Finding]: ...
    @property
    def format(self) -> str: ...
    @property
    def operators(self) -> dict[str, int]: ...
    @property
    def refused(self) -> bool: ...
    @property
    def unknown_namespaces(self) -> set[str]: ...

class ExportedScan:
    """
    The content of an exported program.
    """
    def describe(self) -> str: ...
    @property
    def findings(self) -> list[Finding]: ...
    @property
    def graph(self) -> str: ...
    @property
    def operators(self) -> dict[str, int]: ...
    @property
    def refused(self) -> bool: ...
    @property
    def schema_version(self) -> tuple[int, int]: ...
    @property
    def tensors(self) -> list[str]: ...
    @property
    def torch_version(self) -> str: ...
    @property
    def unknown_namespaces(self) -> set[str]: ...

class OnnxScan:
    """
    The content of an ONNX file.
    """
    def describe(self) -> str: ...
    @property
    def external_files(self) -> set[str]: ...
    @property
    def findings(self) -> list[Finding]: ...
    @property
    def inputs(self) -> list[str]: ...
    @property
    def ir_version(self) -> int: ...
    @property
    def operators(self) -> dict[str, int]: ...
    @property
    def opsets(self) -> dict[str, int]: ...
    @property
    def outputs(self) -> list[str]: ...
    @property
    def refused(self) -> bool: ...

class LoadOptions:
    """
    The options of a load; see isthmus.load.
    """

    artifact: str
    device: str
    engine: str
    mmap: bool
    optimize: str
    specials: str
    trust: str
    unproven: str
    warmup: bool
    warmup_in_background: bool
    def __init__(self) -> None: ...
    @property
    def engine_options(self) -> dict[str, str]: ...
    @engine_options.setter
    def engine_options(self, arg0: collections.abc.Mapping[str, str]) -> None: ...
    @property
    def installed_op_libraries(self) -> dict[str, pathlib.Path]: ...
    @installed_op_libraries.setter
    def installed_op_libraries(
        self, arg0: collections.abc.Mapping[str, os.PathLike[str] | str | bytes]
    ) -> None: ...
    @property
    def op_libraries(self) -> list[pathlib.Path]: ...
    @op_libraries.setter
    def op_libraries(
        self, arg0: collections.abc.Sequence[os.PathLike[str] | str | bytes]
    ) -> None: ...
    @property
    def record(self) -> pathlib.Path: ...
    @record.setter
    def record(self, arg0: os.PathLike[str] | str | bytes) -> None: ...
    @property
    def record_limit(self) -> int: ...
    @record_limit.setter
    def record_limit(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    @property
    def threads(self) -> int: ...
    @threads.setter
    def threads(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None: ...

class WarmupReport:
    """
    The warm-up of one shape.
    """
    @property
    def calls(self) -> int: ...
    @property
    def first_ms(self) -> float: ...
    @property
    def golden(self) -> str: ...
    @property
    def steady(self) -> bool: ...
    @property
    def steady_ms(self) -> float: ...

class LoadReport:
    """
    The choices of a load, and the time of each stage in milliseconds.
    """
    @property
    def artifact(self) -> str: ...
    @property
    def chosen(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def engine(self) -> str: ...
    @property
    def load_ms(self) -> float: ...
    @property
    def notes(self) -> list[str]: ...
    @property
    def op_libraries(self) -> list[pathlib.Path]: ...
    @property
    def proof(self) -> str: ...
    @property
    def read_ms(self) -> float: ...
    @property
    def runtime(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def total_ms(self) -> float: ...
    @property
    def warmup(self) -> list[WarmupReport]: ...
    @property
    def warmup_ms(self) -> float: ...

class Session:
    """
    The state of one caller.
    """
    def _call(
        self, arg0: typing.Any, arg1: str, arg2: tuple[typing.Any, ...], arg3: dict[str, typing.Any]
    ) -> typing.Any: ...

class Model:
    """
    A loaded model; see isthmus.runtime.Model.
    """
    def __call__(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any: ...
    def __init__(self, path: os.PathLike[str] | str | bytes, options: LoadOptions) -> None: ...
    def _call(
        self, arg0: str, arg1: tuple[typing.Any, ...], arg2: dict[str, typing.Any]
    ) -> typing.Any: ...
    def _session(self) -> Session: ...
    def ready(self) -> bool:
        """
        Returns True when the warm-up is over; raises ExecutionError when it failed.
        """
    def wait_until_ready(self) -> None:
        """
        Waits until the warm-up is over; raises ExecutionError when it failed.
        """
    @property
    def device(self) -> str: ...
    @property
    def load_report(self) -> LoadReport: ...
    @property
    def methods(self) -> list[str]: ...
    @property
    def stateful(self) -> bool: ...
    @property
    def timeout(self) -> float:
        """
        Seconds after which a call is stopped; 0: no limit. Engines that cannot raise InvalidInput.
        """
    @timeout.setter
    def timeout(self, arg1: typing.SupportsFloat | typing.SupportsIndex) -> None: ...

class BatcherStats:
    """
    The counters of a Batcher.
    """
    @property
    def calls(self) -> int: ...
    @property
    def cancelled(self) -> int: ...
    @property
    def elements(self) -> int: ...
    @property
    def longest_call_ms(self) -> float: ...
    @property
    def longest_wait_ms(self) -> float: ...
    @property
    def most_waiting(self) -> int: ...
    @property
    def padding(self) -> int: ...
    @property
    def requests(self) -> int: ...

class Ticket:
    """
    A queued request.
    """
    def cancel(self) -> bool: ...

class Batcher:
    """
    A queue of requests; see isthmus.Batcher.
    """
    def __init__(
        self,
        model: typing.Any,
        *,
        method: str,
        workers: typing.SupportsInt | typing.SupportsIndex,
        max_requests: typing.SupportsInt | typing.SupportsIndex,
        max_elements: typing.SupportsInt | typing.SupportsIndex,
        max_padding: typing.SupportsFloat | typing.SupportsIndex,
        max_wait: typing.SupportsFloat | typing.SupportsIndex,
        max_queue: typing.SupportsInt | typing.SupportsIndex,
        when_full: str,
        padding: collections.abc.Mapping[str, typing.SupportsFloat | typing.SupportsIndex],
    ) -> None: ...
    def close(self, cancel: bool) -> None: ...
    def submit(
        self, done: typing.Any, args: tuple[typing.Any, ...], kwargs: dict[str, typing.Any]
    ) -> Ticket: ...
    @property
    def notes(self) -> list[str]: ...
    @property
    def stats(self) -> BatcherStats: ...

class OutputParity:
    """
    The comparison of an output with its reference.
    """
    def __bool__(self) -> bool: ...
    @property
    def allowed(self) -> dict[str, float]: ...
    @property
    def argmax_agreement(self) -> float: ...
    @property
    def cosine(self) -> float: ...
    @property
    def elements(self) -> int: ...
    @property
    def errors(self) -> dict[str, float]: ...
    @property
    def inf_mismatches(self) -> int: ...
    @property
    def infs(self) -> int: ...
    @property
    def max_abs(self) -> float: ...
    @property
    def max_rel(self) -> float: ...
    @property
    def multiple(self) -> float: ...
    @property
    def nan_mismatches(self) -> int: ...
    @property
    def nans(self) -> int: ...
    @property
    def noise_units(self) -> float: ...
    @property
    def output(self) -> str: ...
    @property
    def own(self) -> dict[str, float]: ...
    @property
    def passed(self) -> bool: ...
    @property
    def passing_atol(self) -> float: ...
    @property
    def reason(self) -> str: ...
    @property
    def statistic(self) -> str: ...
    @property
    def strain(self) -> float: ...
    @property
    def to_truth(self) -> bool: ...
    @property
    def topk_agreement(self) -> float: ...

class EngineInfo:
    """
    The description of an engine and its runtime.
    """
    @property
    def details(self) -> list[str]: ...
    @property
    def devices(self) -> list[str]: ...
    @property
    def name(self) -> str: ...
    @property
    def runtime(self) -> str: ...
    @property
    def runtime_files(self) -> list[pathlib.Path]: ...
    @property
    def runtime_path(self) -> str: ...
    @property
    def unavailable(self) -> str: ...

class Machine:
    """
    The machine this process runs on.
    """
    @property
    def cores(self) -> int: ...
    @property
    def cpu(self) -> str: ...
    @property
    def gpu_driver(self) -> str: ...
    @property
    def gpus(self) -> list[str]: ...
    @property
    def isa(self) -> list[str]: ...
    @property
    def openmp(self) -> list[str]: ...
    @property
    def system(self) -> str: ...

def build_info() -> str:
    """
    Describes how libisthmus was built.
    """

def compare(
    output: str,
    reference: typing.Any,
    actual: typing.Any,
    *,
    atol: typing.SupportsFloat | typing.SupportsIndex,
    rtol: typing.SupportsFloat | typing.SupportsIndex,
    noise: typing.SupportsFloat | typing.SupportsIndex | None = None,
    own_error: typing.Any = None,
    multiples: collections.abc.Mapping[str, typing.SupportsFloat | typing.SupportsIndex] = {},
    allowance: collections.abc.Mapping[str, typing.SupportsFloat | typing.SupportsIndex] = {},
    own: collections.abc.Mapping[str, typing.SupportsFloat | typing.SupportsIndex] = {},
) -> OutputParity:
    """
    Compares an output with its reference, as `isthmus-run verify` does.
    """

def engine_formats(name: str) -> list[str]:
    """
    Returns the artifact formats that an engine runs. Opens no runtime.
    """

def engine_info(name: str) -> EngineInfo:
    """
    Opens an engine's runtime and describes it.
    """

def engine_names() -> list[str]:
    """
    Returns the names of the installed engines.
    """

def identify_file(path: os.PathLike[str] | str | bytes) -> IdentifiedFile:
    """
    Identifies a file or folder by its content. Executes nothing.
    """

def machine_key() -> str:
    """
    Returns a key of the machine, which is the same on machines with the same fastest engine.
    """

def scan_exported_program(
    archive: bytes, allowed_namespaces: collections.abc.Set[str] = set()
) -> ExportedScan:
    """
    Scans the bytes of a program that torch.export.save wrote. Executes nothing.
    """

def scan_onnx(
    file: bytes,
    allowed_files: collections.abc.Set[str] = set(),
    allowed_domains: collections.abc.Set[str] = set(),
) -> OnnxScan:
    """
    Scans the bytes of an ONNX file. Executes nothing.
    """

def scan_torchscript(
    archive: bytes, allowed_namespaces: collections.abc.Set[str] = set()
) -> ArchiveScan:
    """
    Scans the bytes of a TorchScript archive. Executes nothing.
    """

def this_machine() -> Machine:
    """
    Describes the machine.
    """

__version__: str = "0.2.0"
