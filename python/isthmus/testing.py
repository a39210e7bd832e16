"""Assertions for users' own test suites.

from isthmus.testing import assert_parity

def test_the_bundle_still_gives_the_model_s_answers():
    assert_parity("models/minilm", reference=my_module)
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isthmus.bundle.manifest import Tolerance
from isthmus.errors import InvalidInput
from isthmus.proof.verify_report import ParityError, VerifyReport, VerifyRow
from isthmus.timing.bench_report import BenchReport, Comparison

if TYPE_CHECKING:
    import torch

    from isthmus.bundle.bundle import Bundle
    from isthmus.runtime.model import Model

__all__ = ["ParityError", "assert_not_slower", "assert_parity"]


def assert_parity(
    bundle_or_model: str | Path | Bundle | Model | torch.nn.Module,
    /,
    *args: Any,
    reference: Callable[..., Any] | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    engines: Sequence[str] | None = None,
    devices: Sequence[str] | None = ("cpu",),
    export_options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> VerifyReport:
    """Asserts that C++ gives the model's answers.

    - A bundle alone is verified on all its goldens, by every engine (`isthmus.verify`); with
      `reference`, an eager module, against that module.
    - A bundle, or a model from `isthmus.load`, with `args` or `kwargs` is called once and compared
      with the same call of `reference`.
    - An eager module with example `args` or `kwargs` is exported to a temporary bundle, which is
      verified against it.

    Args:
        bundle_or_model: The bundle, loaded model or eager module to test.
        *args: Positional arguments of the call, or of the export.
        reference: A callable that takes the same arguments and gives the right answers.
        atol: The absolute tolerance instead of the bundle's; for a call only.
        rtol: The relative tolerance instead of the bundle's; for a call only.
        engines: The engines to run, as in `isthmus.verify`.
        devices: The devices to run on, as in `isthmus.verify`.
        export_options: Further options of `isthmus.export`, such as `dynamic` and `dims`.
        **kwargs: Keyword arguments of the call, or of the export.

    Returns:
        The report with every number.

    Raises:
        ParityError: The answers differ; an AssertionError whose `report` has every number.
        InvalidInput: There is no reference for a call, or an option fits no case.
    """
    import torch

    from isthmus.bundle.bundle import Bundle
    from isthmus.proof.verify import verify

    called = bool(args or kwargs)
    if isinstance(bundle_or_model, torch.nn.Module):
        if reference is not None:
            raise InvalidInput("an eager module is its own reference; leave reference= out")
        from isthmus.exporters.export import export

        with tempfile.TemporaryDirectory(prefix="isthmus-parity-") as folder:
            options = dict(export_options or {})
            bundle = export(bundle_or_model, args, kwargs, path=Path(folder) / "bundle", **options)
            report = verify(bundle, bundle_or_model, engines, devices)
    elif export_options is not None:
        raise InvalidInput("export_options= is for an eager module; leave it out")
    elif not called and isinstance(bundle_or_model, (str, Path, Bundle)):
        if atol is not None or rtol is not None:
            raise InvalidInput(
                "atol= and rtol= are for one call; goldens are judged by the bundle's tolerances"
            )
        if reference is not None and not isinstance(reference, torch.nn.Module):
            raise InvalidInput(
                f"reference is {type(reference).__name__}, expected the eager torch.nn.Module"
            )
        report = verify(bundle_or_model, reference, engines, devices)
    else:
        report = _compare_call(
            bundle_or_model,
            args,
            kwargs,
            reference,
            Tolerance(atol or 0.0, rtol or 0.0) if atol is not None or rtol is not None else None,
        )
    report.raise_for_failure()
    return report


def assert_not_slower(
    report: BenchReport, bound: float = 1.25, *, form: str = "TorchScript", device: str = "cpu"
) -> Comparison:
    """Asserts that C++ takes at most `bound` times as long as Python on the same artifact.

    The assertion fails only when the lower end of the confidence interval is above the bound.

    Args:
        report: The result of `isthmus.bench`.
        bound: The largest allowed ratio of medians, C++ over Python.
        form: The title of the comparison: "TorchScript" or "TorchScript optimised".
        device: The device of the comparison.

    Raises:
        AssertionError: C++ is slower, or one side has no numbers.
    """
    comparison = report.comparison(form, device)
    interval = comparison.interval
    if interval is None:
        raise AssertionError(f"{form} on {device} cannot be compared: {comparison.reason}")
    if interval.low > bound:
        raise AssertionError(
            f"{form} on {device}: C++ takes {interval.ratio:.3f} times as long as Python"
            f" ({interval.confidence:.0%} interval {interval.low:.3f} to {interval.high:.3f}),"
            f" expected at most {bound:g} times; medians {comparison.cpp_ms:.4g} ms and"
            f" {comparison.python_ms:.4g} ms\n{report}"
        )
    return comparison


def _compare_call(
    bundle_or_model: str | Path | Bundle | Model,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    reference: Callable[..., Any] | None,
    tolerance: Tolerance | None,
) -> VerifyReport:
    """Compares one call of the model with the same call of the reference."""
    import torch

    from isthmus.bundle.bundle import Bundle
    from isthmus.capture.values import flat_outputs
    from isthmus.goldens.compare import compare
    from isthmus.runtime.model import load

    if reference is None:
        raise InvalidInput("a call needs something to compare with; pass reference=")
    if isinstance(bundle_or_model, Bundle):
        bundle_or_model = bundle_or_model.path
    model = load(bundle_or_model) if isinstance(bundle_or_model, (str, Path)) else bundle_or_model
    with torch.no_grad():
        right = reference(*args, **kwargs)
    manifest, report, signature = model.manifest, model.load_report, model.signature()
    expected = flat_outputs(signature, right)
    actual = flat_outputs(signature, model(*args, **kwargs))
    tolerances = next(
        artifact.tolerances for artifact in manifest.artifacts if artifact.name == report.artifact
    )
    results = tuple(
        compare(
            output,
            expected.get(output),
            actual.get(output),
            tolerance or tolerances.get(output, Tolerance(0.0, 0.0)),
            manifest.noise_floor.get(output),
            golden="this call",
        )
        for output in {**expected, **actual}
    )
    failed = next((result for result in results if not result), None)
    row = VerifyRow(
        engine=report.engine,
        language="C++",
        device=report.device,
        status="passed" if failed is None else "failed",
        reason="" if failed is None else f"{failed.output}: {failed.reason}",
        artifact=report.artifact,
        runtime=report.runtime,
        reference="model",
        results=results,
    )
    return VerifyReport(bundle=manifest.name, rows=(row,))
