"""Tests of objects of registered classes and of transformers' caches, as inputs and outputs."""

from __future__ import annotations

import inspect
import json
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.utils import _pytree

import isthmus
from isthmus.bundle.manifest import Tree
from isthmus.capture.capture import capture
from isthmus.capture.tree import Record, build_tree, flatten, refuse_other_constants, unflatten
from isthmus.errors import InvalidInput

ENGINES = {
    "torchscript": "torchscript",
    "exported": "exported",
    "onnx": "onnxruntime",
    "aoti": "aoti",
}


class Box:
    """A plain class with two tensors, a name that may be None, and settings."""

    def __init__(self, low: Tensor, high: Tensor, settings: Any) -> None:
        self.low, self.high, self.settings = low, high, settings


def _register(keys: bool = True) -> None:
    named = {
        "flatten_with_keys_fn": lambda box: (
            [(_pytree.GetAttrKey("low"), box.low), (_pytree.GetAttrKey("high"), box.high)],
            box.settings,
        )
    }
    _pytree.register_pytree_node(
        Box,
        lambda box: ([box.low, box.high], box.settings),
        lambda values, settings: Box(*values, settings),
        **(named if keys else {}),
    )


@pytest.fixture
def registered() -> Iterator[None]:
    _register()
    yield
    if Box in _pytree.SUPPORTED_NODES:
        _pytree._deregister_pytree_node(Box)


class Grow(nn.Module):
    """Takes and gives a box."""

    def forward(self, box: Box, by: Tensor) -> dict[str, Any]:
        unit, scale = box.settings
        return {"box": Box(box.low - by * scale, box.high + by * scale, (unit, scale)), "n": by}


def box(settings: Any = ("m", 2)) -> Box:
    return Box(torch.rand(3, 4), torch.rand(3, 4), settings)


@pytest.mark.usefixtures("registered")
def test_a_registered_class_is_an_input_and_an_output(tmp_path: Path) -> None:
    given, by = box(), torch.rand(3, 4)
    bundle = isthmus.export(
        Grow(), (given, by), path=tmp_path / "b", dynamic={"box": {0: "n"}, "by": {0: "n"}}
    )
    method = bundle.manifest.methods[0]
    assert [spec.name for spec in method.inputs] == ["box.low", "box.high", "by"]
    assert [spec.name for spec in method.outputs] == ["box.low", "box.high", "n"]
    model = isthmus.load(bundle.path)
    answer = model(box=given, by=by)["box"]
    assert type(answer) is Box and answer.settings == ("m", 2)
    torch.testing.assert_close(answer.low, given.low - by * 2)
    torch.testing.assert_close(answer.high, given.high + by * 2)
    with pytest.raises(InvalidInput, match=r"made with \('cm', 2\), and was exported as"):
        model(box=box(("cm", 2)), by=by)
    with pytest.raises(InvalidInput, match="expected a Box, got a Tensor"):
        model(box=torch.rand(3, 4), by=by)
    # NumPy arrays give NumPy arrays, of which torch's classes are not made.
    arrays = model(**{"box.low": given.low.numpy(), "box.high": given.high.numpy()}, by=by.numpy())
    assert isinstance(arrays["box"], Record)
    # A process that has not registered the class gets the parts by name, and may hand them in.
    _pytree._deregister_pytree_node(Box)
    parts = model(box={"low": given.low, "high": given.high}, by=by)["box"]
    assert type(parts) is Record
    torch.testing.assert_close(parts.low, answer.low)
    torch.testing.assert_close(model(box=parts, by=by)["box"].low, answer.low - by * 2)


def test_without_keys_the_parts_are_numbered_and_a_deque_is_an_object() -> None:
    _register(keys=False)
    try:
        tree, leaves = build_tree([box(None), deque([torch.ones(1)], maxlen=3)], "x")
    finally:
        _pytree._deregister_pytree_node(Box)
    assert list(leaves) == ["x.0.0", "x.0.1", "x.1.0"]
    first, second = unflatten(tree, leaves)
    assert type(first) is Record
    assert second == deque(leaves.values(), maxlen=3) or list(second) == [leaves["x.1.0"]]
    assert second.maxlen == 3


CONTEXTS = (None, ("a", [1, 2.5], {"k": (True, None)}), torch.float16, {1: torch.device("cpu")})


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("settings", CONTEXTS, ids=str)
def test_what_a_class_keeps_beside_its_parts_goes_through_json(settings: Any) -> None:
    tree, leaves = build_tree(box(settings), "box")
    read = Tree(**{**vars(tree), "value": json.loads(json.dumps(tree.value))})
    assert unflatten(read, leaves).settings == settings


@pytest.mark.usefixtures("registered")
def test_what_a_manifest_cannot_hold_is_refused_by_type() -> None:
    with pytest.raises(InvalidInput, match=r'"box" is a .*Box.* keeps a set beside the parts'):
        capture(Grow(), (box({1}), torch.rand(3, 4)))


@pytest.mark.usefixtures("registered")
def test_an_output_made_with_another_setting_at_another_size_is_refused(tmp_path: Path) -> None:
    class Sized(nn.Module):
        def forward(self, x: Tensor) -> Box:
            return Box(x, x + 1, int(x.shape[0]))

    with pytest.raises(InvalidInput, match="changes the structure of its result"):
        isthmus.export(Sized(), (torch.rand(3, 2),), path=tmp_path / "b", dynamic={"x": {0: "n"}})


def test_a_dataclass_stays_one_when_it_is_registered() -> None:
    @dataclass
    class Pair:
        a: Tensor
        b: Tensor

    torch.export.register_dataclass(Pair, serialized_type_name="test_objects.Pair")
    try:
        tree, _ = build_tree(Pair(torch.ones(1), torch.ones(1)), "p")
    finally:
        _pytree._deregister_pytree_node(Pair)
    assert (tree.node, tree.keys) == ("dataclass", ("a", "b"))
    _pytree.register_pytree_node(
        Pair, lambda pair: ([pair.a], object()), lambda values, _: Pair(values[0], values[0])
    )
    try:
        tree, _ = build_tree(Pair(torch.ones(1), torch.ones(1)), "p")
    finally:
        _pytree._deregister_pytree_node(Pair)
    assert (tree.node, tree.keys) == ("dataclass", ("a", "b"))


@pytest.mark.parametrize(
    "name",
    ["os:system", "subprocess:Popen", "not_imported_yet:Thing", "collections:defaultdict",
     "builtins:dict", "torch._higher_order_ops.flat_apply:_ConstantFunction",
     "transformers.cache_utils:QuantoQuantizedLayer", "torch.nn:Linear"],
)  # fmt: skip
def test_a_manifest_has_nothing_imported_or_called(name: str) -> None:
    part = Tree("leaf", name="x")
    tree = Tree("pytree", value={"tuple": ["os", "system"]}, type=name, keys=("x",), items=(part,))
    assert type(unflatten(tree, {"x": torch.ones(1)})) is Record
    assert "not_imported_yet" not in sys.modules


@pytest.mark.usefixtures("registered")
def test_a_class_that_does_not_take_its_parts_is_named() -> None:
    tree = Tree("pytree", type=f"{__name__}:Box", keys=("low",), items=(Tree("leaf", name="x"),))
    with pytest.raises(InvalidInput, match=r"Box cannot be made from low and the context None"):
        unflatten(tree, {"x": torch.ones(1)})


# --- caches ---------------------------------------------------------------------------------------


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=4, vocab_size=99, n_positions=64, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(config).eval()


def cache_parameter(module: nn.Module) -> str:
    """Returns the parameter of the cache, which newer transformers call otherwise."""
    return "cache" if "cache" in inspect.signature(module.forward).parameters else "past_key_values"


def ids(batch: int, length: int) -> Tensor:
    return torch.randint(0, 99, (batch, length))


def assert_caches_equal(actual: Any, expected: Any) -> None:
    assert type(actual) is type(expected)
    assert len(actual.layers) == len(expected.layers)
    for one, other in zip(actual.layers, expected.layers, strict=True):
        assert type(one) is type(other)
        torch.testing.assert_close(one.keys, other.keys, rtol=0, atol=1e-5)
        torch.testing.assert_close(one.values, other.values, rtol=0, atol=1e-5)
        assert int(one.get_seq_length()) == int(other.get_seq_length())


@pytest.mark.parametrize("form", ENGINES)
def test_a_causal_model_takes_and_gives_its_cache(form: str, tmp_path: Path) -> None:
    module = gpt2()
    key = cache_parameter(module)

    def call(batch: int, past: int, new: int) -> dict[str, Any]:
        with torch.no_grad():
            before = module(input_ids=ids(batch, past))[key]
        mask = torch.ones(batch, past + new, dtype=torch.long)
        return {"input_ids": ids(batch, new), "attention_mask": mask, key: before}

    bundle = isthmus.export(
        module,
        kwargs=call(2, 5, 3),
        path=tmp_path / "b",
        formats=(form,),
        dynamic={
            "input_ids": {0: "b", 1: "t"},
            "attention_mask": {0: "b", 1: "past + t"},
            key: {0: "b", 2: "past"},
        },
        dims={"b": (1, 4), "t": (1, 8), "past": (1, 24)},
    )
    outputs = {spec.name: spec.shape for spec in bundle.manifest.methods[0].outputs}
    assert outputs[f"{key}.1.values"] == ("b", 4, "past + t", 8)
    kinds = {hazard.kind for hazard in bundle.manifest.artifacts[0].hazards}
    assert "changes_argument" in kinds
    model = isthmus.load(bundle.path, engine=ENGINES[form], trust="native")
    given = call(3, 7, 2)
    actual = model(**given)
    assert int(given[key].get_seq_length()) == 7, "the caller's cache stays as it is"
    with torch.no_grad():
        expected = module(**given)
    torch.testing.assert_close(actual.logits, expected.logits, rtol=0, atol=1e-4)
    assert_caches_equal(actual[key], expected[key])
    # The next token continues from the cache that the model gave.
    following = {"input_ids": ids(3, 1), "attention_mask": torch.ones(3, 10, dtype=torch.long)}
    again = model(**following, **{key: actual[key]})
    with torch.no_grad():
        expected = module(**following, **{key: expected[key]})
    torch.testing.assert_close(again.logits, expected.logits, rtol=0, atol=1e-4)
    with pytest.raises(InvalidInput, match="has the key 2"):
        more = transformers.DynamicCache()
        for layer in range(3):
            more.update(torch.rand(3, 4, 7, 8), torch.rand(3, 4, 7, 8), layer)
        model(**{**given, key: more})


@pytest.mark.parametrize("form", ENGINES)
def test_a_causal_model_gives_its_cache_and_says_how_to_leave_it_out(
    form: str, tmp_path: Path
) -> None:
    module = gpt2()
    key = cache_parameter(module)
    options: dict[str, Any] = {
        "kwargs": {"input_ids": ids(2, 8)},
        "formats": (form,),
        "dynamic": {"input_ids": {0: "b", 1: "t"}},
        "dims": {"b": (1, 4), "t": (1, 64)},
    }
    notes = capture(module, kwargs=options["kwargs"]).notes
    assert any("model.config.use_cache = False" in note.message for note in notes)
    bundle = isthmus.export(module, path=tmp_path / "b", **options)
    model = isthmus.load(bundle.path, engine=ENGINES[form], trust="native")
    unseen = ids(3, 33)
    actual = model(input_ids=unseen)
    with torch.no_grad():
        expected = module(input_ids=unseen)
    torch.testing.assert_close(actual.logits, expected.logits, rtol=0, atol=1e-4)
    assert_caches_equal(actual[key], expected[key])
    module.config.use_cache = False
    bundle = isthmus.export(module, path=tmp_path / "without", **options)
    assert [spec.name for spec in bundle.manifest.methods[0].outputs] == ["logits"]


@pytest.mark.parametrize("form", ENGINES)
def test_a_static_cache_is_written_in_place(form: str, tmp_path: Path) -> None:
    module = gpt2()
    key = cache_parameter(module)

    def cache() -> Any:
        made = transformers.StaticCache(config=module.config, max_cache_len=12)
        with torch.no_grad():
            module(input_ids=torch.arange(10).reshape(2, 5), **{key: made})
        return made

    bundle = isthmus.export(
        module, kwargs={"input_ids": ids(2, 1), key: cache()}, path=tmp_path / "b", formats=(form,)
    )
    assert bundle.manifest.methods[0].writes[:3] == (
        f"{key}.0.keys", f"{key}.0.values", f"{key}.0.cumulative_length",
    )  # fmt: skip
    model = isthmus.load(bundle.path, engine=ENGINES[form], trust="native")
    own, eager = cache(), cache()
    for _ in range(3):
        new = ids(2, 1)
        actual = model(input_ids=new, **{key: own})
        with torch.no_grad():
            expected = module(input_ids=new, **{key: eager})
        torch.testing.assert_close(actual.logits, expected.logits, rtol=0, atol=1e-4)
    assert_caches_equal(own, eager)
    assert int(own.get_seq_length()) == 8
    with pytest.raises(InvalidInput, match="made with 13, and was exported as one made with 12"):
        other = transformers.StaticCache(config=module.config, max_cache_len=13)
        model(input_ids=new, **{key: other})


@pytest.mark.parametrize("form", ENGINES)
def test_an_encoder_decoder_gives_its_pair_of_caches(form: str, tmp_path: Path) -> None:
    config = transformers.T5Config(
        d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, vocab_size=99,
        decoder_start_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    module = transformers.T5ForConditionalGeneration(config).eval()
    key = cache_parameter(module)

    def call(batch: int, length: int, past: int) -> dict[str, Any]:
        source = ids(batch, length)
        with torch.no_grad():
            before = module(input_ids=source, decoder_input_ids=ids(batch, past))
        hidden = (before.encoder_last_hidden_state,)
        return {"encoder_outputs": hidden, "decoder_input_ids": ids(batch, 1), key: before[key]}

    own, cross = f"{key}.self_attention_cache", f"{key}.cross_attention_cache"
    bundle = isthmus.export(
        module,
        kwargs=call(2, 9, 4),
        path=tmp_path / "b",
        formats=(form,),
        dynamic={
            "encoder_outputs.0": {0: "b", 1: "s"},
            "decoder_input_ids": {0: "b"},
            own: {0: "b", 2: "past"},
            cross: {0: "b", 2: "s"},
        },
        dims={"b": (1, 4), "s": (2, 16), "past": (1, 12)},
    )
    model = isthmus.load(bundle.path, engine=ENGINES[form], trust="native")
    given = call(3, 7, 6)
    actual = model(**given)
    with torch.no_grad():
        expected = module(**given)
    torch.testing.assert_close(actual.logits, expected.logits, rtol=0, atol=1e-4)
    assert type(actual[key]) is transformers.EncoderDecoderCache
    assert actual[key].is_updated == expected[key].is_updated
    for part in ("self_attention_cache", "cross_attention_cache"):
        assert_caches_equal(getattr(actual[key], part), getattr(expected[key], part))


def test_a_sliding_layer_below_its_window_is_taken_apart_and_beyond_it_refused() -> None:
    config = transformers.MistralConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4,
        intermediate_size=64, vocab_size=99, sliding_window=8,
    )  # fmt: skip
    cache = transformers.DynamicCache(config=config)
    cache.update(torch.rand(1, 4, 5, 8), torch.rand(1, 4, 5, 8), 0)
    tree, leaves = build_tree(cache, "cache")
    assert tree.items[0].value == 8
    assert_caches_equal(unflatten(tree, leaves), cache)
    assert list(flatten(tree, cache)) == ["cache.0.keys", "cache.0.values"]
    cache.update(torch.rand(1, 4, 5, 8), torch.rand(1, 4, 5, 8), 0)
    with pytest.raises(InvalidInput, match=r'"cache.0" is a layer with a window of 8 tokens that '
                       r"has seen 10 and holds 7.*use_cache = False"):  # fmt: skip
        refuse_other_constants(tree, cache, "cache")
        build_tree(cache, "cache")


def test_a_cache_of_another_class_names_use_cache() -> None:
    class Own(transformers.DynamicCache):
        pass

    with pytest.raises(InvalidInput, match=r'"cache" is a .*Own.*model.config.use_cache = False'):
        build_tree(Own(), "cache")
