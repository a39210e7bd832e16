"""Tests that a trace and an export follow the forward of a `torch.autograd.Function`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isthmus
from isthmus.exporters.torchscript.autograd_functions import traced_through

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporters warn about themselves


class Gelu(torch.autograd.Function):
    """An activation with a backward pass of its own, as Bloom has."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.factor = 0.5
        return x * ctx.factor * (1.0 + torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x)))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (x,) = ctx.saved_tensors
        return gradients[0] * x


class Clip(torch.autograd.Function):
    """Has its context apart, and two results."""

    @staticmethod
    def forward(x: Tensor, limit: float = 1.0) -> tuple[Tensor, Tensor]:
        return x.clamp(-limit, limit), x.abs() > limit

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.limit = inputs[1]
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None


taken_earlier = Gelu.apply


class Net(nn.Module):
    """Calls functions by their class, and by an `apply` that was taken from it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.activation = Gelu.apply

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = taken_earlier(self.activation(Gelu.apply(self.linear(x))))
        clipped, outside = Clip.apply(y, 0.25)
        return clipped, outside


@pytest.mark.parametrize("form", ["torchscript", "exported", "onnx", "aoti"])
def test_functions_are_exported(form: str, tmp_path: Path) -> None:
    """The trace has no node that calls Python, and the user's classes work as before."""
    torch.manual_seed(0)
    module = Net().eval()
    bundle = isthmus.export(
        module,
        (torch.randn(2, 4),),
        path=tmp_path / "net",
        formats=(form,),
        dynamic={"x": {0: "n"}},
        dims={"n": (1, 8)},
    )
    (artifact,) = bundle.manifest.artifacts
    if form == "torchscript":
        assert artifact.strategy == "trace"
        assert [decision.strategy for decision in artifact.decisions] == ["trace"]
    model = isthmus.load(tmp_path / "net", trust="native")
    x = torch.randn(5, 4)
    with torch.no_grad():
        torch.testing.assert_close(model(x), module(x), atol=1e-6, rtol=1e-6)


def test_the_users_classes_are_left_as_they_were() -> None:
    """Inside of the context and after it; also when the forward fails."""
    before = {name: Gelu.__dict__[name] for name in ("forward", "backward")}
    x = torch.randn(3, requires_grad=True)
    with traced_through():
        assert not Gelu.apply(x).requires_grad
        with pytest.raises(TypeError):
            Gelu.apply()
    assert {name: Gelu.__dict__[name] for name in before} == before
    y = Gelu.apply(x)
    assert type(y.grad_fn).__name__ == "GeluBackward"
    y.sum().backward()
    assert torch.equal(x.grad, x.detach())
