"""Small modules for all tests, one for each construct that is hard to export.

`CASES` can be exported, and name the strategy; `REFUSED` cannot, and name what the error says.
Every factory sets the seed, so that the weights are the same each time. `annotations` of
`__future__` is not imported, because TorchScript reads the annotations of attributes as objects.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Example = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """A module with an example call and the options of its export."""

    name: str
    make: Callable[[], nn.Module]
    example: Callable[[], Example]
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    dims: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    methods: Mapping[str, Example] = field(default_factory=dict)
    strategy: str = "trace"
    """The strategy that `auto` has to choose: "trace", "script" or "mixed"."""
    stateful: bool = False

    def module(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make().eval()

    def inputs(self) -> Example:
        torch.manual_seed(1)
        return self.example()

    def options(self) -> dict[str, Any]:
        """Returns keyword arguments of `capture` and `export`."""
        return {
            "dynamic": self.dynamic or None,
            "dims": self.dims or None,
            "methods": self.methods or None,
        }


@dataclass(frozen=True)
class Refusal:
    """A module that must not be exported, and the words that the error has to contain."""

    name: str
    make: Callable[[], nn.Module]
    example: Callable[[], Example]
    words: tuple[str, ...]


# --- convolution ----------------------------------------------------------------------------------


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(hidden)) + self.shortcut(x))


class ResNet18(nn.Module):
    """A ResNet-18; the original has width 64 and 1000 classes."""

    def __init__(self, width: int = 64, classes: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, 2, 3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        )
        blocks: list[nn.Module] = []
        inputs = width
        for stage in range(4):
            outputs = width << stage
            blocks.append(BasicBlock(inputs, outputs, 1 if stage == 0 else 2))
            blocks.append(BasicBlock(outputs, outputs, 1))
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):  # as after training, not 0 and 1
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.5, 1.5)

    def forward(self, pixels: Tensor) -> Tensor:
        features = self.blocks(self.stem(pixels))
        return self.head(features.mean(dim=(2, 3)))


# --- control flow ---------------------------------------------------------------------------------


class SumBranch(nn.Module):
    """Branches on the sign of the sum; a trace has only one of the branches."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(4, 3)
        self.down = nn.Linear(4, 3)

    def forward(self, input: Tensor) -> Tensor:
        if input.sum() > 0:
            return self.up(input)
        return self.down(input)


class LengthLoop(nn.Module):
    """Loops over the length of a tensor; a trace unrolls the loop of the example."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(4, 4)

    def forward(self, steps: Tensor) -> Tensor:
        hidden = torch.zeros_like(steps[0])
        for at in range(steps.size(0)):
            hidden = torch.tanh(self.cell(hidden) + steps[at])
        return hidden


def traced_part(x: Tensor) -> Tensor:
    return torch.sin(x) * 2 + x


class ScriptCallsTraced(nn.Module):
    """Has a branch, and calls a traced function."""

    def __init__(self) -> None:
        super().__init__()
        traced = torch.jit.trace(traced_part, (torch.ones(2, 4),))

        def scripted(x: Tensor) -> Tensor:
            if x.sum() > 0:
                return traced(x)
            return traced(-x) - 1

        self.linear = nn.Linear(4, 4)
        self.function = torch.jit.script(scripted)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.linear(x))


class ScriptedLoop(nn.Module):
    """Computes a running sum with decay in a loop, which a trace would unroll."""

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x[0])
        for at in range(x.size(0)):
            total = total * 0.5 + x[at]
        return total


class TraceHoldsScript(nn.Module):
    """Has a scripted submodule with a loop, and can be traced otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.loop = torch.jit.script(ScriptedLoop())

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.loop(self.linear(x)))


class Uncompilable(nn.Module):
    """Calls a submodule that cannot be traced from code that TorchScript cannot compile."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.loop = ScriptedLoop()

    def forward(self, x: Tensor) -> Tensor:
        options = dict.fromkeys(["scale"], 2.0) | {"bias": 1.0}
        return self.loop(self.linear(x)) * options["scale"] + options["bias"]


class MaskBranch(nn.Module):
    """Skips the mask when it masks nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        hidden = self.linear(x)
        if bool(mask.all()):
            return hidden.mean(dim=1)
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(dim=1) / (weights.sum(dim=1) + 1)


# --- structure ------------------------------------------------------------------------------------


class DictOutput(nn.Module):
    """Returns a dictionary whose keys are not in alphabetic order."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        logits = self.linear(x)
        return {"logits": logits, "best": logits.argmax(dim=-1), "average": logits.mean(dim=0)}


class TupleOutput(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return x + 1, (x.sum(dim=-1), x.transpose(0, 1))


class ListOutput(nn.Module):
    def forward(self, parts: list[Tensor]) -> list[Tensor]:
        return [part * 2 for part in parts]


class NoneOutput(nn.Module):
    """Returns None between two tensors."""

    def forward(
        self, x: Tensor, extra: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        return x + 1, extra, x - 1


class OptionalOutput(nn.Module):
    """Returns a second output for some values only."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        result = self.linear(x)
        if x.sum() > 0:
            return result, result * 2
        return result, None


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


@dataclass
class Features:
    """A dataclass with a field that may be None."""

    values: Tensor
    pair: Pair
    weights: Tensor | None = None


class StructuredIO(nn.Module):
    """Takes and returns dataclasses, named tuples, dicts and lists."""

    def forward(self, features: Features, extra: dict[str, list[Tensor]]) -> Features:
        shifted = features.values + sum(extra["shifts"])
        pair = Pair(features.pair.right, features.pair.left)
        return Features(shifted, pair, features.weights)


class ModelOutputIO(nn.Module):
    """Returns a Hugging Face ModelOutput, whose fields that are None are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        hidden = self.linear(x)
        return BaseModelOutput(last_hidden_state=hidden, hidden_states=(x, hidden))


class Scalars(nn.Module):
    """Takes an int, a float and a bool that change the result, and returns scalars."""

    def forward(self, x: Tensor, scale: float, times: int, flip: bool) -> tuple[Tensor, int, float]:
        result = x * scale
        for _ in range(times):
            result = result + 1
        if flip:
            result = -result
        return result, times + 1, scale / 2


class OddShapes(nn.Module):
    """Returns sizes that follow no dimension, never change, or follow two dimensions."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {
            "twice": torch.cat([x, x]),
            "flat": x.flatten(),
            "swapped": x.transpose(0, 1),
            "fixed": x.sum(dim=(0, 1)).expand(5),
        }


class Literals(nn.Module):
    """Creates tensors with a literal device and dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        offsets = torch.arange(x.size(1), device="cpu", dtype=torch.float32)
        return self.linear(x) + offsets


class ReturnsItsInput(nn.Module):
    """Returns outputs that share memory with the input and with each other."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return x, x, x.view(-1)


class WritesItsInput(nn.Module):
    """Writes its input in place."""

    def forward(self, x: Tensor) -> Tensor:
        return x.add_(1) * 2


# --- sequences and state --------------------------------------------------------------------------


class LSTM(nn.Module):
    """Takes and returns its state; the module itself has none."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 5, batch_first=True)

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return self.lstm(x, state)


class Streaming(nn.Module):
    """Writes an attribute, so that each output depends on the earlier calls."""

    h: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(4, 4)
        self.register_buffer("h", torch.zeros(1, 4))

    def forward(self, x: Tensor) -> Tensor:
        self.h = torch.tanh(self.cell(x) + self.h)
        return self.h

    @torch.jit.export
    def reset(self) -> None:
        self.h = torch.zeros(1, 4)


class StreamingInPlace(nn.Module):
    """Writes the state of a submodule in place, and counts calls in a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Ring()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.inner(x) * self.calls


class Ring(nn.Module):
    ring: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ring", torch.zeros(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        self.ring.copy_(self.ring.roll(1, 0))
        self.ring[0] = x.mean(dim=0)
        return self.ring.clone()


class TwoMethods(nn.Module):
    """Has no state, and a second exported method with another input."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 2)
        self.decoder = nn.Linear(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encoder(x))

    @torch.jit.export
    def decode(self, code: Tensor) -> Tensor:
        return self.decoder(code)


def tiny_bert() -> nn.Module:
    """A BERT encoder with random weights; sequences up to 64, vocabulary 100."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    config.return_dict = True
    return BertModel(config)


# --- what must not be exported as it is -----------------------------------------------------------


class FunctionalDropout(nn.Module):
    """Uses F.dropout with its default training=True, which eval() does not switch off."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5)


class HoldsFunctionalDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.blocks = nn.ModuleList([nn.Identity(), FunctionalDropout()])

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        for block in self.blocks:
            x = block(x)
        return x


class DropoutLeftOn(nn.Module):
    """Has a Dropout, which may be in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.linear(x))


class AlwaysTraining(nn.Dropout):
    """Overrides train(), so that eval() has no effect."""

    def train(self, mode: bool = True) -> "AlwaysTraining":
        self.training = True
        return self


class HoldsAlwaysTraining(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.noise = AlwaysTraining(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.noise(x)


class DrawsInForward(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class WritesParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.scale.add_(1)
        return x * self.scale


# --- the registry ---------------------------------------------------------------------------------


def randn(*shape: int) -> Callable[[], Example]:
    return lambda: ((torch.randn(*shape),), {})


def bert_inputs() -> Example:
    ids = torch.randint(1, 100, (1, 14))
    return (), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


BATCH = {"batch": (1, 16)}
BERT_AXES = {0: "batch", 1: "sequence"}

CASES = [
    Case(
        "resnet18",
        lambda: ResNet18(width=8, classes=10),
        randn(1, 3, 64, 64),
        {"pixels": {0: "batch"}},
        {"batch": (1, 8)},
    ),
    Case("sum_branch", SumBranch, randn(2, 4), {"input": {0: "batch"}}, BATCH, strategy="script"),
    Case(
        "length_loop",
        LengthLoop,
        randn(3, 4),
        {"steps": {0: "length"}},
        {"length": (1, 32)},
        strategy="script",
    ),
    Case(
        "script_calls_traced",
        ScriptCallsTraced,
        randn(2, 4),
        {"x": {0: "batch"}},
        BATCH,
    ),
    Case(
        "trace_holds_script",
        TraceHoldsScript,
        randn(3, 4),
        {"x": {0: "length"}},
        {"length": (1, 32)},
    ),
    Case(
        "uncompilable",
        Uncompilable,
        randn(3, 4),
        {"x": {0: "length"}},
        {"length": (1, 32)},
        strategy="mixed",
    ),
    Case(
        "mask_branch",
        MaskBranch,
        lambda: ((torch.randn(2, 5, 3), torch.ones(2, 5, dtype=torch.int64)), {}),
        {"x": {0: "batch", 1: "sequence"}, "mask": {0: "batch", 1: "sequence"}},
        {"batch": (1, 16), "sequence": (1, 32)},
        strategy="script",
    ),
    Case("dict_output", DictOutput, randn(2, 4), {"x": {0: "batch"}}, BATCH),
    Case("tuple_output", TupleOutput, randn(2, 4), {"x": {0: "batch"}}, BATCH),
    Case(
        "list_output",
        ListOutput,
        lambda: (([torch.randn(2, 3), torch.randn(2, 4)],), {}),
        {"parts": {0: "batch"}},
        BATCH,
    ),
    Case("none_output", NoneOutput, randn(2, 4), {"x": {0: "batch"}}, BATCH),
    Case(
        "optional_output",
        OptionalOutput,
        randn(2, 4),
        {"x": {0: "batch"}},
        BATCH,
        strategy="script",
    ),
    Case(
        "structured_io",
        StructuredIO,
        lambda: (
            (
                Features(torch.randn(2, 4), Pair(torch.randn(2), torch.randn(2))),
                {"shifts": [torch.randn(2, 4), torch.randn(2, 4)]},
            ),
            {},
        ),
        {"features": {0: "batch"}, "extra": {0: "batch"}},
        BATCH,
    ),
    Case("model_output", ModelOutputIO, randn(2, 4), {"x": {0: "batch"}}, BATCH),
    Case(
        "scalars",
        Scalars,
        lambda: ((torch.randn(2, 4), 0.5), {"times": 3, "flip": False}),
        {"x": {0: "batch"}},
        BATCH,
        strategy="script",
    ),
    Case(
        "odd_shapes",
        OddShapes,
        randn(2, 3),
        {"x": {0: "rows", 1: "columns"}},
        {"rows": (1, 16), "columns": (1, 16)},
    ),
    Case("literals", Literals, randn(2, 4), {"x": {0: "batch"}}, BATCH),
    Case("returns_its_input", ReturnsItsInput, randn(2, 4), {"x": {0: "batch"}}, BATCH),
    Case("writes_its_input", WritesItsInput, randn(2, 4), {"x": {0: "batch"}}, BATCH),
    Case("no_dynamic", TupleOutput, randn(2, 4)),
    Case(
        "lstm",
        LSTM,
        lambda: ((torch.randn(2, 6, 3), (torch.zeros(1, 2, 5), torch.zeros(1, 2, 5))), {}),
        {"x": {0: "batch", 1: "length"}, "state": {1: "batch"}},
        {"batch": (1, 8), "length": (1, 32)},
    ),
    Case(
        "streaming",
        Streaming,
        randn(1, 4),
        methods={"reset": ((), {})},
        strategy="script",
        stateful=True,
    ),
    Case("streaming_in_place", StreamingInPlace, randn(2, 4), strategy="script", stateful=True),
    Case(
        "two_methods",
        TwoMethods,
        randn(2, 4),
        {"x": {0: "batch"}, "code": {0: "batch"}},
        BATCH,
        methods={"decode": ((torch.ones(2, 2),), {})},
    ),
    Case(
        "bert",
        tiny_bert,
        bert_inputs,
        {"input_ids": BERT_AXES, "attention_mask": BERT_AXES},
        {"batch": (1, 16), "sequence": (1, 64)},
    ),
]

REFUSED = [
    Refusal(
        "functional_dropout", HoldsFunctionalDropout, randn(4, 8), ("blocks.1", "FunctionalDropout")
    ),
    Refusal("always_training", HoldsAlwaysTraining, randn(4, 8), ("noise", "AlwaysTraining")),
    Refusal("draws", DrawsInForward, randn(4, 8), ("DrawsInForward", "random")),
    Refusal("writes_parameter", WritesParameter, randn(4, 8), ("scale", "parameter")),
]


def case(name: str) -> Case:
    """Returns the case of that name."""
    return next(case for case in CASES if case.name == name)
