"""Tests of what an export prepares in a copy: settled modules, wrappers, computed weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import isthmus
from isthmus.capture.capture import capture
from isthmus.capture.module_state import ModuleState
from isthmus.errors import InvalidInput

ENGINES = {
    "torchscript": "torchscript",
    "exported": "exported",
    "onnx": "onnxruntime",
    "aoti": "aoti",
}


def exported(module: nn.Module, form: str, path: Path, x: Tensor, **options: Any) -> isthmus.Model:
    bundle = isthmus.export(module, (x,), path=path, formats=(form,), **options)
    return isthmus.load(bundle.path, engine=ENGINES[form], trust="native")


def kinds(module: nn.Module, *args: Tensor, **options: Any) -> set[str]:
    return {note.kind for note in capture(module, args, **options).notes}


# --- modules that settle --------------------------------------------------------------------------


class Chooses(nn.Module):
    """Replaces its layer in the first call, and keeps a note of that."""

    def __init__(self) -> None:
        super().__init__()
        self.layer: nn.Module = nn.Linear(4, 4)
        self.chosen = ""
        self.table: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.chosen:
            layer = nn.Linear(4, 4)
            layer.weight, layer.bias = self.layer.weight, self.layer.bias
            self.layer, self.chosen = layer, "short"
        if self.table is None:
            self.table = torch.arange(4.0)
        return self.layer(x) + self.table


@pytest.mark.parametrize("form", ENGINES)
def test_a_module_that_settles_has_no_state(form: str, tmp_path: Path) -> None:
    module = Chooses()
    before = dict(vars(module)), module.layer
    dims = {"dynamic": {"x": {0: "n"}}, "dims": {"n": (1, 16)}}
    model = exported(module, form, tmp_path / "b", torch.rand(3, 4), **dims)
    assert module.layer is before[1] and module.chosen == "" and module.table is None
    assert not model.manifest.stateful
    assert "settles" in kinds(module, torch.rand(3, 4))
    x = torch.rand(11, 4)
    torch.testing.assert_close(model(x), module(x), rtol=0, atol=1e-6)


class Counts(nn.Module):
    """Answers otherwise after the second call."""

    def __init__(self, threshold: int) -> None:
        super().__init__()
        self.calls, self.threshold = 0, threshold

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * 2 if self.calls <= self.threshold else x


class Shrinks(nn.Module):
    """Limits its window to the shortest input that it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.window = 8

    def forward(self, x: Tensor) -> Tensor:
        self.window = min(self.window, x.shape[0])
        return x * self.window


@pytest.mark.parametrize("module", [Counts(1), Counts(10**6), Shrinks()], ids=lambda m: str(m))
def test_what_changes_a_later_answer_is_state(module: nn.Module) -> None:
    captured = capture(module, (torch.rand(6, 2),), dynamic={"x": {0: "n"}}, dims={"n": (2, 16)})
    assert captured.stateful


def test_one_size_settles_where_several_do_not() -> None:
    assert not capture(Shrinks(), (torch.rand(6, 2),)).stateful


def test_a_submodule_that_a_call_replaces_is_found_and_put_back() -> None:
    module = Chooses()
    state, layer = ModuleState(module), module.layer
    module(torch.rand(2, 4))
    assert set(state.changed()) == {"chosen", "table", "layer"}
    state.restore()
    assert module.layer is layer and not state.changed()


@pytest.mark.parametrize("form", ENGINES)
def test_big_bird_on_short_inputs(form: str, tmp_path: Path) -> None:
    config = transformers.BigBirdConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64,
        vocab_size=99, use_cache=False, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    module = transformers.BigBirdModel(config).eval()

    def call(batch: int, length: int) -> dict[str, Tensor]:
        ids = torch.randint(5, 99, (batch, length))
        return {"input_ids": ids, "attention_mask": torch.ones(batch, length, dtype=torch.long)}

    bundle = isthmus.export(
        module, kwargs=call(2, 16), path=tmp_path / "b", formats=(form,),
        dynamic={"input_ids": {0: "b", 1: "s"}, "attention_mask": {0: "b", 1: "s"}},
        dims={"b": (1, 16), "s": (1, 64)},
    )  # fmt: skip
    assert module.attention_type == "block_sparse"
    assert type(module.encoder.layer[0].attention.self).__name__ == "BigBirdBlockSparseAttention"
    model = isthmus.load(bundle.path, engine=ENGINES[form], trust="native")
    inputs = call(3, 9)
    with torch.no_grad():
        expected = module(**inputs).last_hidden_state
    torch.testing.assert_close(
        model(**inputs)["last_hidden_state"], expected, rtol=0, atol=1e-4
    )  # fmt: skip


@pytest.mark.parametrize("form", ENGINES)
def test_swin(form: str, tmp_path: Path) -> None:
    config = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4
    )
    torch.manual_seed(0)
    module = transformers.SwinModel(config).eval()
    x = torch.rand(2, 3, 32, 32)
    dims = {"dynamic": {"pixel_values": {0: "b"}}, "dims": {"b": (1, 8)}}
    model = exported(module, form, tmp_path / "b", x, **dims)
    x = torch.rand(5, 3, 32, 32)
    with torch.no_grad():
        expected = module(x).last_hidden_state
    torch.testing.assert_close(model(x)["last_hidden_state"], expected, rtol=0, atol=1e-4)


# --- wrappers and computed weights ----------------------------------------------------------------


@pytest.mark.parametrize("form", ENGINES)
def test_a_compiled_submodule_is_unwrapped(form: str, tmp_path: Path) -> None:
    class Compiled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder: Any = torch.compile(nn.Sequential(nn.Linear(4, 8), nn.ReLU()))
            self.layers = nn.ModuleList([torch.compile(nn.Linear(8, 8)), nn.Identity()])

        def forward(self, x: Tensor) -> Tensor:
            x = self.encoder(x)
            for layer in self.layers:
                x = layer(x)
            return x

    module = Compiled()
    encoder, names = module.encoder, [name for name, _ in module.named_parameters()]
    dims = {"dynamic": {"x": {0: "n"}}, "dims": {"n": (1, 16)}}
    model = exported(module, form, tmp_path / "b", torch.rand(3, 4), **dims)
    assert module.encoder is encoder and hasattr(encoder, "_orig_mod")
    assert [name for name, _ in module.named_parameters()] == names
    assert any("_orig_mod" in name for name in names)
    captured = capture(module, (torch.rand(3, 4),))
    assert [note.kind for note in captured.notes].count("unwrapped") == 2
    assert not any("_orig_mod" in name for name, _ in captured.module.named_parameters())
    x = torch.rand(7, 4)
    with torch.no_grad():
        expected = module.layers[0]._orig_mod(encoder._orig_mod(x))
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-6)


def old_weight_norm() -> nn.Module:
    return nn.utils.weight_norm(nn.Linear(4, 4))


def old_spectral_norm() -> nn.Module:
    return nn.utils.spectral_norm(nn.Linear(4, 4))


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).transpose(-1, -2)


def symmetric() -> nn.Module:
    layer = nn.Linear(4, 4)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


COMPUTED: dict[str, Callable[[], nn.Module]] = {
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(4, 4)),
    "cayley": lambda: parametrizations.orthogonal(nn.Linear(4, 4), orthogonal_map="cayley"),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(4, 4)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(4, 4)),
    "own": symmetric,
    "old weight norm": old_weight_norm,
    "old spectral norm": old_spectral_norm,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("name", COMPUTED)
def test_computed_weights_are_folded_and_left_as_they_came(name: str) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(COMPUTED[name](), nn.ReLU())
    names = [key for key, _ in module.named_parameters()]
    values = {key: value.clone() for key, value in module.state_dict().items()}
    captured = capture(module, (torch.rand(3, 4),))
    assert {"0.weight", "0.bias"} == {key for key, _ in captured.module.named_parameters()}
    assert "folded_weights" in {note.kind for note in captured.notes}
    assert not captured.stateful
    assert [key for key, _ in module.named_parameters()] == names
    for key, value in module.state_dict().items():
        assert torch.equal(value, values[key]), key
    x = torch.rand(5, 4)
    with torch.no_grad():
        torch.testing.assert_close(
            captured.module.eval()(x), module.eval()(x), rtol=0, atol=1e-6
        )  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("form", ENGINES)
def test_folded_weights_give_the_modules_answers(form: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(*(make() for make in COMPUTED.values()))
    dims = {"dynamic": {"input": {0: "n"}}, "dims": {"n": (1, 16)}}
    model = exported(module, form, tmp_path / "b", torch.rand(3, 4), **dims)
    x = torch.rand(7, 4)
    with torch.no_grad():
        torch.testing.assert_close(model(x), module.eval()(x), rtol=1e-5, atol=1e-5)


class Drifting(nn.Module):
    """A parametrization whose weight depends on more than parameters."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        Drifting.calls += 1
        return x * Drifting.calls


def test_weights_that_cannot_be_computed_once_are_refused() -> None:
    layer = nn.Linear(4, 4)
    parametrize.register_parametrization(layer, "weight", Drifting())
    with pytest.raises(InvalidInput, match="answers otherwise once the weights"):
        capture(layer, (torch.rand(3, 4),))
