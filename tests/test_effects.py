"""What a call does besides answering: it writes inputs as eager does, alike on every engine."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import isthmus
from isthmus.bundle.bundle import Bundle
from isthmus.capture.capture import capture
from isthmus.errors import ExecutionError, InvalidInput
from isthmus.exporters.torchscript.trace import as_tensors, flat_holder
from isthmus.exporters.torchscript.unseen_writes import unseen_writes
from isthmus.goldens.make import make_goldens
from isthmus.runtime import install_paths

ENGINES = ("torchscript", "exported", "onnxruntime", "openvino", "aoti")


class Writes(nn.Module):
    """Writes an input that it also returns, one through views, one of a list, and one of integers.

    Its outputs share memory with its inputs, with a parameter, and with each other.
    """

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.positions = nn.Parameter(torch.randn(20, 4))

    def forward(
        self, x: Tensor, ring: Tensor, caches: list[Tensor], count: Tensor, same: Tensor
    ) -> tuple[Tensor, ...]:
        x += 1
        x[:, 2:] = 0
        column = ring[:, -1]
        ring[:, :-1] = ring[:, 1:].clone()
        column.copy_(x[:, 0])
        caches[1].mul_(2)
        count += 1
        y = self.linear(x) + ring.sum() + caches[0] + caches[1] * count
        return y, x, ring[:, :2], y[:, 1:], self.positions[: x.shape[0]], same, y


def inputs_of(batch: int, seed: int = 1) -> tuple[Any, ...]:
    torch.manual_seed(seed)
    return (
        torch.randn(batch, 4),
        torch.randn(batch, 8),
        [torch.randn(batch, 4), torch.randn(batch, 4)],
        torch.tensor(3),
        torch.randn(batch, 4),
    )


def flat(inputs: tuple[Any, ...]) -> list[Tensor]:
    x, ring, caches, count, same = inputs
    return [x, ring, *caches, count, same]


def cloned(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple([t.clone() for t in v] if isinstance(v, list) else v.clone() for v in inputs)


def assert_equal(actual: list[Tensor], expected: list[Tensor]) -> None:
    for ours, eager in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, eager, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def module() -> Writes:
    torch.manual_seed(0)
    return Writes().eval()


@pytest.fixture(scope="module")
def writing(module: Writes, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The module in every format."""
    batch = {0: "batch"}
    return isthmus.export(
        module,
        inputs_of(3),
        path=tmp_path_factory.mktemp("effects") / "writes",
        formats=("torchscript", "exported", "onnx", "aoti"),
        dynamic=dict.fromkeys(("x", "ring", "caches.0", "caches.1", "same"), batch),
        dims={"batch": (1, 16)},
    )


@pytest.fixture(scope="module")
def models(writing: Bundle) -> dict[str, isthmus.Model]:
    return {engine: isthmus.load(writing.path, engine=engine, trust="native") for engine in ENGINES}


def test_the_signature_says_which_inputs_a_call_writes(writing: Bundle) -> None:
    assert writing.manifest.methods[0].writes == ("x", "ring", "caches.1", "count")
    for artifact in writing.manifest.artifacts:
        written = [h.message for h in artifact.hazards if h.kind == "writes_input"]
        assert len(written) == 4, artifact.name
        assert {h.severity for h in artifact.hazards if h.kind == "writes_input"} == {"info"}


@pytest.mark.parametrize("engine", ENGINES)
def test_answers_and_buffers_are_eagers_call_after_call(
    models: dict[str, isthmus.Model], module: Writes, engine: str
) -> None:
    mine, theirs = inputs_of(5), inputs_of(5)
    for _ in range(3):
        with torch.no_grad():
            expected = module(*theirs)
        assert_equal(list(models[engine](*mine)), list(expected))
        assert_equal(flat(mine), flat(theirs))


@pytest.mark.parametrize("engine", ENGINES)
def test_outputs_share_no_memory_with_anything(
    models: dict[str, isthmus.Model], engine: str
) -> None:
    model = models[engine]
    inputs = inputs_of(4)
    outputs = list(model(*cloned(inputs)))
    given = cloned(inputs)
    changed = list(model(*given))
    for at, output in enumerate(changed):
        before = [value.clone() for value in (*changed, *flat(given))]
        output.fill_(-77)
        after = [*changed, *flat(given)]
        others = [i for i in range(len(after)) if i != at]
        assert all(torch.equal(before[i], after[i]) for i in others), (engine, at)
    assert_equal(list(model(*cloned(inputs))), outputs)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_elements_of_a_view_are_written_and_nothing_else(
    models: dict[str, isthmus.Model], module: Writes, engine: str
) -> None:
    x, ring, caches, count, same = inputs_of(2)
    memory = torch.full((2, 16), 9.0)
    memory[:, ::2] = ring
    for _ in range(2):
        with torch.no_grad():
            module(x.clone(), ring, [cache.clone() for cache in caches], count.clone(), same)
        models[engine](x.clone(), memory[:, ::2], [c.clone() for c in caches], count.clone(), same)
        assert torch.equal(memory[:, ::2], ring)
        assert (memory[:, 1::2] == 9).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_numpy_arrays_are_written_too(
    models: dict[str, isthmus.Model], module: Writes, engine: str
) -> None:
    x, ring, caches, count, same = inputs_of(2)
    arrays = [value.numpy().copy() for value in (x, ring, *caches, count, same)]
    models[engine](arrays[0], arrays[1], [arrays[2], arrays[3]], arrays[4], arrays[5])
    with torch.no_grad():
        module(x, ring, caches, count, same)
    for array, value in zip(arrays, (x, ring, *caches, count, same), strict=True):
        np.testing.assert_array_equal(array, value.numpy())


@pytest.mark.parametrize("engine", ENGINES)
def test_a_buffer_that_cannot_be_written_is_refused(
    models: dict[str, isthmus.Model], engine: str
) -> None:
    model = models[engine]

    def refused(reason: str, **changed: Any) -> None:
        names = ("x", "ring", "caches", "count", "same")
        values = {**dict(zip(names, inputs_of(4), strict=True)), **changed}
        before = {name: value.clone() for name, value in values.items() if name in ("x", "same")}
        with pytest.raises(InvalidInput, match=reason):
            model(**values)
        assert all(torch.equal(values[name], value) for name, value in before.items())

    constant = np.zeros((4, 8), dtype=np.float32)
    constant.setflags(write=False)
    refused('"ring".*read-only', ring=constant)
    refused('"ring".*same memory', ring=torch.zeros(1, 8).expand(4, 8))
    shared = torch.zeros(4, 4)
    refused(
        '"caches.1".*shares memory with the input "same"',
        caches=[torch.zeros(4, 4), shared],
        same=shared,
    )
    refused('"count".*int64', count=torch.tensor(3, dtype=torch.int32))


def test_torch_counts_the_write_of_a_tensor_that_needs_a_gradient(
    models: dict[str, isthmus.Model],
) -> None:
    x, ring, caches, count, same = inputs_of(2)
    leaf = torch.ones(2, 8, requires_grad=True)
    product = (leaf * ring).sum()
    models["torchscript"](x, ring, caches, count, same)
    assert x._version == ring._version == count._version == 1
    assert same._version == caches[0]._version == 0
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_process_without_python_proves_the_inputs_after_the_call(
    writing: Bundle, engine: str
) -> None:
    command = [str(install_paths.binary()), "verify", str(writing.path), "--engine", engine]
    result = subprocess.run(
        [*command, "--allow-native", "--json"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    outputs = {row["output"] for row in json.loads(result.stdout)["rows"]}
    assert {"written/x", "written/ring", "written/caches.1", "written/count"} <= outputs


def test_verify_compares_the_inputs_after_the_call_with_the_module(
    writing: Bundle, module: Writes
) -> None:
    report = isthmus.verify(writing.path, model=module, engines=["onnxruntime", "torchscript"])
    assert report, report
    assert {"written/x", "written/count"} <= set(report.rows[0].outputs)


def test_a_wrong_value_of_a_written_input_fails_the_check(module: Writes, tmp_path: Path) -> None:
    class Forgets(Writes):
        def forward(self, *inputs: Any) -> Any:
            ring = inputs[1].clone()
            return super().forward(inputs[0], ring, *inputs[2:])

    forgets = Forgets().eval()
    forgets.load_state_dict(module.state_dict())
    captured = capture(module, inputs_of(3))
    goldens, _, complete = make_goldens(captured)[:3]
    from isthmus.bundle.manifest import Tolerance
    from isthmus.exporters.check import GoldenCheck

    loose = {spec.name: Tolerance(1e-4, 0.0) for spec in complete.methods[0].results}
    check = GoldenCheck(methods=complete.methods, goldens=goldens, tolerances=loose)
    inputs = as_tensors(complete.methods[0], complete.example, "cpu")

    def verdict(candidate: nn.Module) -> Any:
        import io

        traced = torch.jit.trace(flat_holder(candidate, complete.methods), inputs)
        buffer = io.BytesIO()
        torch.jit.save(traced, buffer)
        return check.check_torchscript(buffer.getvalue(), "flat")

    assert verdict(module)
    assert "written/ring" in str(verdict(forgets).failures[0])


def test_requests_of_such_a_model_cannot_be_batched(models: dict[str, isthmus.Model]) -> None:
    with pytest.raises(InvalidInput, match=r'writes its input "x" in place'):
        models["torchscript"].batcher()


def test_recorded_calls_are_replayed_with_the_inputs_before_and_after(
    writing: Bundle, module: Writes, tmp_path: Path
) -> None:
    model = isthmus.load(writing.path, engine="onnxruntime", record=tmp_path / "records")
    inputs = inputs_of(2)
    for _ in range(2):
        model(*inputs)
    report = isthmus.replay(tmp_path / "records", model=module, engines=["onnxruntime"])
    assert report, report


# --- scripted code --------------------------------------------------------------------------------


class Branches(nn.Module):
    """Writes on one branch only, and an item of a list."""

    def forward(self, x: Tensor, buffer: Tensor, parts: list[Tensor], flag: bool) -> Tensor:
        if flag:
            buffer[0] = x.sum()
            parts[0] += 1
        return x + buffer


@pytest.mark.parametrize("scripted", [False, True])
def test_an_input_that_only_some_calls_write(tmp_path: Path, scripted: bool) -> None:
    module: nn.Module = Branches().eval()
    if scripted:
        module = torch.jit.script(module)
    example = (torch.randn(3), torch.zeros(3), [torch.zeros(2), torch.zeros(2)], True)
    bundle = isthmus.export(module, example, path=tmp_path / "branches", strategy="script")
    assert bundle.manifest.artifacts[0].convention == "structured"
    assert bundle.manifest.methods[0].writes == ("buffer", "parts.0")
    model = isthmus.load(bundle.path)
    for flag in (False, True, True):
        x, buffer, parts = torch.randn(3), torch.randn(3), [torch.zeros(2), torch.zeros(2)]
        mine, my_parts = buffer.clone(), [part.clone() for part in parts]
        expected = module(x, buffer, parts, flag)
        assert torch.equal(model(x, mine, my_parts, flag), expected)
        assert torch.equal(mine, buffer)
        assert torch.equal(my_parts[0], parts[0])


def test_a_write_on_a_path_that_no_example_takes_is_said() -> None:
    def written(flag: bool) -> list[str]:
        module = torch.jit.script(Branches())
        inputs = (torch.randn(3), torch.zeros(3), [torch.zeros(2), torch.zeros(2)], flag)
        found = unseen_writes(module, capture(module, inputs).methods)
        assert all("test_effects.py:" in hazard.where for hazard in found)
        return [hazard.message.split('"')[1] for hazard in found]

    assert written(False) == ["buffer"]
    assert written(True) == []


def test_a_failed_call_leaves_the_buffer_alone(tmp_path: Path) -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor, buffer: Tensor) -> Tensor:
            buffer += 1
            if bool(x.sum() > 100):
                raise RuntimeError("too much")
            return x + buffer

    example = (torch.randn(3), torch.zeros(3))
    bundle = isthmus.export(torch.jit.script(Fails()), example, path=tmp_path / "fails")
    model = isthmus.load(bundle.path)
    buffer = torch.zeros(3)
    with pytest.raises(ExecutionError, match="too much"):
        model(torch.full((3,), 99.0), buffer)
    assert torch.equal(buffer, torch.zeros(3))
    model(torch.zeros(3), buffer)
    assert torch.equal(buffer, torch.ones(3))


class Keeps(nn.Module):
    """Keeps its last input, as a frame of a stream."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.last
        self.last = x
        return y


def test_the_state_never_refers_to_the_callers_memory(tmp_path: Path) -> None:
    bundle = isthmus.export(Keeps(), (torch.randn(2),), path=tmp_path / "keeps")
    session = isthmus.load(bundle.path).session()
    x = torch.ones(2)
    session(x)
    x.fill_(100)  # the caller uses its buffer again
    assert torch.equal(session(torch.zeros(2)), torch.ones(2))


# --- capture --------------------------------------------------------------------------------------


def captured_writes(forward: Callable[..., Any], *args: Any) -> Any:
    return capture(type("Module", (nn.Module,), {"forward": forward})(), args)


def test_a_write_is_found_though_it_leaves_every_value_as_it_was() -> None:
    def clamps(self: nn.Module, x: Tensor) -> Tensor:
        return x.clamp_(min=0) * 2

    captured = captured_writes(clamps, torch.ones(2))
    assert captured.methods[0].writes == ("x",)
    assert [note.severity for note in captured.notes if note.kind == "writes_input"] == ["info"]


def test_a_write_past_the_version_counter_is_found() -> None:
    def writes(self: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x.data.add_(1)
        y.numpy()[:] = 5
        return x + y

    assert captured_writes(writes, torch.ones(2), torch.ones(2)).methods[0].writes == ("x", "y")


def test_an_input_whose_shape_changes_in_place_is_refused() -> None:
    def reshapes(self: nn.Module, x: Tensor) -> Tensor:
        return x.unsqueeze_(0) * 2

    with pytest.raises(InvalidInput, match=r'input "x" in place from float32\[2\] to float32\[1'):
        captured_writes(reshapes, torch.ones(2))


def test_an_argument_whose_nesting_changes_is_noted() -> None:
    def pops(self: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return batch.pop("x") * 2

    captured = captured_writes(pops, {"x": torch.ones(2), "y": torch.ones(2)})
    assert [n.severity for n in captured.notes if n.kind == "changes_argument"] == ["warning"]
    assert captured.methods[0].writes == ()


def test_a_replaced_item_of_a_list_counts_as_written(tmp_path: Path) -> None:
    class Replaces(nn.Module):
        def forward(self, x: Tensor, cache: list[Tensor]) -> Tensor:
            cache[0] = cache[0] + x
            return cache[0] * 2

    module = Replaces()
    bundle = isthmus.export(
        module, (torch.ones(2), [torch.zeros(2)]), path=tmp_path / "replaces", strategy="trace"
    )
    assert bundle.manifest.methods[0].writes == ("cache.0",)
    cache, mine = [torch.zeros(2)], [torch.zeros(2)]
    model = isthmus.load(bundle.path)
    for _ in range(2):
        assert torch.equal(model(torch.ones(2), mine), module(torch.ones(2), cache))
        assert torch.equal(mine[0], cache[0])


def test_a_probe_that_writes_another_input_extends_the_signature() -> None:
    def sometimes(self: nn.Module, x: Tensor, buffer: Tensor) -> Tensor:
        if bool((x > 50).any()):
            buffer += 1
        return x + buffer

    captured = captured_writes(sometimes, torch.ones(2), torch.zeros(2))
    assert captured.methods[0].writes == ()
    probes = [{"x": torch.full((2,), 99.0), "buffer": torch.zeros(2)}]
    goldens, _, complete = make_goldens(captured, probes=probes)[:3]
    assert complete.methods[0].writes == ("buffer",)
    assert all("written/buffer" in step.outputs for golden in goldens for step in golden.steps)
    assert any(note.kind == "writes_input" for note in complete.notes)


def test_the_flat_form_does_not_write_its_inputs(module: Writes) -> None:
    captured = capture(module, inputs_of(3))
    method = captured.methods[0]
    inputs = as_tensors(method, captured.example, "cpu")
    before = [value.clone() for value in inputs]
    results = flat_holder(module, [method])(*inputs)
    assert len(results) == len(method.outputs) + 4
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))
    assert not replace(method, writes=()).results[len(method.outputs) :]
