"""What is no model, given to export, is named for what it is, with a remedy that works."""

from __future__ import annotations

import contextlib
import importlib
import json
import pickle
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import isthmus
from isthmus.capture.load_model import load_model
from isthmus.errors import InvalidInput
from models import SumBranch, tiny_bert
from tiny_onnx import write_linear

CHECKPOINT = {"epoch": 3, "model": nn.Linear(2, 2).state_dict(), "lr": torch.float32}


def write_flat(path: Path, value: Any) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "state dict": (lambda f: torch.save(nn.Linear(2, 2).state_dict(), f), "state dict.*load_state"),
    "checkpoint": (lambda f: torch.save(CHECKPOINT, f), "state dict.*weights_only=True"),
    "old state dict": (lambda f: write_flat(f, CHECKPOINT), "state dict.*weights_only=True"),
    "with numpy": (lambda f: torch.save({"mean": np.ones(3)}, f), "state dict.*weights_only=False"),
    "pickled arrays": (lambda f: f.write_bytes(pickle.dumps({"w": np.ones(3)})), r"pickle\.load"),
    "module": (
        lambda f: torch.save(SumBranch(), f),
        r"pickled models\.SumBranch.*runs code.*weights_only=False",
    ),
    "old module": (lambda f: write_flat(f, SumBranch()), r"pickled models\.SumBranch.*runs code"),
    "pickle": (lambda f: f.write_bytes(pickle.dumps(SumBranch())), r"pickled models\.SumBranch"),
    "safetensors": (lambda f: save_file({"w": torch.ones(2)}, f), "safetensors.*load_file"),
    "TorchScript": (lambda f: torch.jit.script(SumBranch()).save(f), "TorchScript.*isthmus adopt"),
    "ONNX": (write_linear, "ONNX file.*isthmus adopt"),
    "text": (lambda f: f.write_text("hello"), "no kind that isthmus knows.*Hugging Face folder"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_named_for_what_it_is(name: str, tmp_path: Path) -> None:
    write, words = FILES[name]
    file = tmp_path / "file"
    write(file)
    with pytest.raises(InvalidInput, match=words) as refused:
        load_model(str(file))
    assert str(file) in str(refused.value)
    assert "isthmus adopt" in str(refused.value) or name not in ("TorchScript", "ONNX")


def test_naming_a_pickle_runs_nothing_of_it(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    torch.save({"x": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(InvalidInput, match=r"pickled __builtin__\.exec"):
        load_model(str(tmp_path / "evil.pt"))
    assert not (tmp_path / "ran").exists()


def test_weights_in_a_model_folder_lead_to_the_folder(tmp_path: Path) -> None:
    tiny_bert().save_pretrained(tmp_path / "bert")
    with pytest.raises(InvalidInput, match=r"isthmus export \S+/bert -o BUNDLE"):
        load_model(str(tmp_path / "bert" / "model.safetensors"))


def test_a_bundle_and_a_python_file_are_told_too(tmp_path: Path) -> None:
    isthmus.export(nn.ReLU(), (torch.ones(2),), path=tmp_path / "bundle")
    with pytest.raises(InvalidInput, match="a bundle already"):
        load_model(str(tmp_path / "bundle"))
    (tmp_path / "net.py").write_text("")
    with pytest.raises(InvalidInput, match="isthmus export net:FUNCTION"):
        load_model(str(tmp_path / "net.py"))
    with pytest.raises(InvalidInput, match="isthmus export NAME"):
        isthmus.export("net.py", (), path=tmp_path / "b")  # type: ignore[arg-type]


def test_the_remedies_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(SumBranch(), tmp_path / "module.pt")
    torch.save(nn.Linear(4, 2).state_dict(), tmp_path / "weights.pt")
    (tmp_path / "remedies.py").write_text(
        "import torch\n"
        "def module():\n"
        f"    return torch.load({str(tmp_path / 'module.pt')!r}, weights_only=False),"
        " (torch.ones(1, 4),)\n"
        "def weights():\n"
        "    linear = torch.nn.Linear(4, 2)\n"
        "    linear.load_state_dict("
        f"torch.load({str(tmp_path / 'weights.pt')!r}, weights_only=True))\n"
        "    return linear, (torch.ones(1, 4),)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    for name in ("module", "weights"):
        loaded = load_model(f"remedies:{name}")
        assert isthmus.export(loaded.module, loaded.args, path=tmp_path / name).manifest.artifacts


# --- the hub --------------------------------------------------------------------------------------


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return cache


@pytest.fixture
def silent_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A hub that takes connections and never answers."""
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        yield server


def connections_to(server: socket.socket) -> int:
    """Returns how often a hub was asked since the last time."""
    server.setblocking(False)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            server.accept()[0].close()
            count += 1
    return count


@pytest.mark.usefixtures("empty_cache", "silent_hub")
def test_a_hub_that_does_not_answer_is_given_up_within_five_seconds() -> None:
    start = time.monotonic()
    with pytest.raises(InvalidInput, match=r'"someone/model" is no folder.*http://127\.0\.0\.1'):
        load_model("someone/model")
    assert time.monotonic() - start < 5


@pytest.mark.usefixtures("empty_cache")
def test_without_a_route_or_offline_it_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(InvalidInput, match=r"does not answer.*refused.*save_pretrained"):
        load_model("someone/model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InvalidInput, match="HF_HUB_OFFLINE is set"):
        load_model("someone/model")


def put_into_cache(cache: Path) -> None:
    """Puts a model into the cache under the id "someone/model"."""
    repository = cache / "models--someone--model"
    torch.manual_seed(0)
    tiny_bert().save_pretrained(repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")


def test_a_cached_model_is_loaded_while_the_hub_is_away(
    empty_cache: Path, silent_hub: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is asked once: each further question would wait for it again."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _detect_agent

    monkeypatch.setattr(_detect_agent, "_registry", None)
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(empty_cache / "agents.json"))
    put_into_cache(empty_cache)
    loaded = load_model("someone/model")
    assert type(loaded.module).__name__ == "BertModel"
    assert loaded.source["id"] == "someone/model"
    assert connections_to(silent_hub) == 1
    assert not constants.HF_HUB_OFFLINE


def test_the_base_of_an_adapter_comes_from_the_cache_too(
    empty_cache: Path, silent_hub: socket.socket, tmp_path: Path
) -> None:
    """The hub is asked about the base, which the folder of the adapter names by its id."""
    put_into_cache(empty_cache)
    folder = tmp_path / "adapter"
    folder.mkdir()
    facts = {
        "peft_type": "LORA", "base_model_name_or_path": "someone/model", "r": 2, "lora_alpha": 2,
        "target_modules": ["query"],
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(facts))
    prefix = "base_model.model.encoder.layer.0.attention.self.query"
    width = tiny_bert().config.hidden_size
    save_file(
        {
            f"{prefix}.lora_A.weight": torch.rand(2, width),
            f"{prefix}.lora_B.weight": torch.rand(width, 2),
        },
        folder / "adapter_model.safetensors",
    )
    loaded = load_model(str(folder))
    assert loaded.source["adapter_of"] == "someone/model"
    assert connections_to(silent_hub) == 1
