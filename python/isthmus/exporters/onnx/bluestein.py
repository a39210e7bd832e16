"""Bluestein's algorithm in ONNX: a discrete Fourier transform of any length by powers of two.

It is the chirp z-transform, IEEE Trans. Audio Electroacoust. 18, 1970.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

__all__ = ["Transform", "bluestein_nodes"]

_LARGEST_POWER = 40
"""Lengths are below 2 to this power."""
_PI = 3.141592653589793


@dataclass(frozen=True)
class Transform:
    """What a DFT node computes."""

    node: onnx.NodeProto
    axis: int
    """The axis, counted from the end; the parts of a complex number are the last axis."""
    shape: Sequence[int | str | None]
    """The shape of the input, whose last size is 1 for real numbers and 2 for complex ones."""
    dtype: int
    length: int | None
    """The length of the transform, where it is known."""
    inverse: bool
    onesided: bool

    @property
    def is_power_of_two(self) -> bool:
        """Returns True where the length is known to be a power of two."""
        return self.length is not None and self.length & (self.length - 1) == 0


def bluestein_nodes(transform: Transform, *, axis_is_input: bool) -> list[onnx.NodeProto]:
    """Returns nodes that compute a transform in float64, and give its output in the input's type.

    Args:
        transform: What is to be computed.
        axis_is_input: Whether the operator set has the axis as an input, and not as an attribute.
    """
    return _Builder(transform, axis_is_input).nodes


class _Builder:
    """The nodes that compute a transform by Bluestein's algorithm.

    With the chirp w[j] = exp(-i pi j^2 / n), the transform is w times the convolution of x w with
    the chirp's conjugate, which transforms of a power of two compute. j^2 is reduced modulo 2 n as
    a whole number, so that angles are exact. All of it is in float64: three transforms in float32
    would add up to more than eager's error.
    """

    def __init__(self, transform: Transform, axis_is_input: bool) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._transform = transform
        self._prefix = f"{transform.node.output[0]}/dft"
        self._axis = self._ints([transform.axis])
        self._axis_is_input = axis_is_input
        self._build()

    def _build(self) -> None:
        transform, node = self._transform, self._transform.node
        x = node.input[0]
        length = self._length(x)
        real, imaginary = self._signal(self._as_double(x), length)
        padded = self._padded_length(length)
        cos, sin, spectrum = self._chirp(length, padded)
        zero = self._ints([0])
        own = [self._spread(self._op("Slice", part, zero, length)) for part in (cos, sin)]
        missing = self._op("Concat", zero, self._op("Sub", padded, length), axis=0)
        real, imaginary = (
            self._op("Pad", part, missing, "", self._axis)
            for part in self._times_chirp(real, imaginary, own)
        )
        convolved = self._product(self._dft(real, imaginary), spectrum)
        real, imaginary = (
            self._op("Slice", part, zero, length, self._axis)
            for part in self._dft(*convolved, inverse=True)
        )
        real, imaginary = self._times_chirp(real, imaginary, own)
        if transform.inverse:
            divisor = self._as_double(length)
            real, imaginary = (self._op("Div", part, divisor) for part in (real, imaginary))
        parts = [real]
        if not (transform.inverse and transform.onesided):
            parts.append(imaginary)
        result = self._op("CastLike", self._op("Concat", *parts, axis=-1), x)
        if transform.onesided and not transform.inverse:
            result = self._op("Slice", result, zero, self._half(length), self._axis)
        self._op("Identity", result, output=node.output[0])

    # --- the signal -------------------------------------------------------------------------------

    def _length(self, x: str) -> str:
        """Returns the length of the transform, int64[1]."""
        node = self._transform.node
        if len(node.input) > 1 and node.input[1]:
            return self._op("Reshape", node.input[1], self._ints([1]))
        return self._size(x)

    def _size(self, x: str) -> str:
        return self._op("Gather", self._op("Shape", x), self._axis)

    def _half(self, length: str) -> str:
        """Returns the number of values of half a spectrum."""
        return self._op("Add", self._op("Div", length, self._ints([2])), self._ints([1]))

    def _signal(self, x: str, length: str) -> tuple[str, str]:
        """Returns the real and the imaginary part of the input at the length of the transform.

        The imaginary part of real numbers is empty.
        """
        transform = self._transform
        halved = transform.inverse and transform.onesided
        if len(transform.node.input) > 1 and transform.node.input[1]:
            wanted = self._half(length) if halved else length
            zero = self._ints([0])
            missing = self._op("Max", self._op("Sub", wanted, self._size(x)), zero)
            pads = self._op("Concat", zero, missing, axis=0)
            x = self._op(
                "Slice", self._op("Pad", x, pads, "", self._axis), zero, wanted, self._axis
            )
        if transform.shape[-1] == 1:
            return x, ""
        real, imaginary = (self._op("Gather", x, self._ints([part]), axis=-1) for part in (0, 1))
        if not halved:
            return real, imaginary
        # The other half is the conjugate of this one, in reverse.
        places = self._range(length)
        mirrored = self._op("Sub", length, places)
        source = self._op("Min", places, mirrored)
        sign = self._op("Sign", self._op("Sub", mirrored, places))
        # The middle of an even length is its own conjugate, of which only the real part counts.
        real, imaginary = (
            self._op("Gather", part, source, axis=transform.axis) for part in (real, imaginary)
        )
        sign = self._spread(self._as_double(sign))
        return real, self._op("Mul", imaginary, sign)

    # --- the chirp --------------------------------------------------------------------------------

    def _padded_length(self, length: str) -> str:
        """Returns the smallest power of two that has room for the convolution."""
        powers = self._ints([1 << power for power in range(_LARGEST_POWER)])
        needed = self._op("Sub", self._op("Add", length, length), self._ints([1]))
        enough = self._op("GreaterOrEqual", powers, needed)
        largest = self._ints([1 << _LARGEST_POWER])
        return self._op("ReduceMin", self._op("Where", enough, powers, largest), keepdims=1)

    def _chirp(self, length: str, padded: str) -> tuple[str, str, tuple[str, str]]:
        """Returns cosine and sine of the chirp's angles, and the transform of its conjugate."""
        places = self._range(padded)
        places = self._op("Min", places, self._op("Sub", padded, places))
        period = self._op("Add", length, length)
        phase = self._op("Mod", self._op("Mul", places, places), period)
        # Angles between -pi and pi are the most exact ones.
        beyond = self._op("Greater", phase, length)
        phase = self._op("Where", beyond, self._op("Sub", phase, period), phase)
        turns = self._op("Div", self._as_double(phase), self._as_double(length))
        angle = self._op("Mul", turns, self._constant(np.array(_PI)))
        inside = self._as_double(self._op("Less", places, length))
        cos, sin = (self._op("Mul", self._op(name, angle), inside) for name in ("Cos", "Sin"))
        if self._transform.inverse:
            sin = self._op("Neg", sin)
        column = self._ints([1, -1, 1])
        parts = [self._op("Reshape", part, column) for part in (cos, sin)]
        real, imaginary = self._dft(*parts, axis=1)
        flat = self._ints([-1])
        spread = [self._spread(self._op("Reshape", part, flat)) for part in (real, imaginary)]
        return cos, sin, (spread[0], spread[1])

    def _times_chirp(self, real: str, imaginary: str, chirp: list[str]) -> tuple[str, str]:
        """Returns the product with w, whose imaginary part is the negative sine."""
        cos, sin = chirp
        if not imaginary:
            return self._op("Mul", real, cos), self._op("Mul", real, self._op("Neg", sin))
        return self._product((real, imaginary), (cos, self._op("Neg", sin)))

    # --- nodes ------------------------------------------------------------------------------------

    def _op(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Adds a node, and returns its result."""
        from onnx import helper

        name = output or f"{self._prefix}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def _as_double(self, value: str) -> str:
        import onnx

        return self._op("Cast", value, to=onnx.TensorProto.DOUBLE)

    def _constant(self, value: Any) -> str:
        from onnx import numpy_helper

        return self._op("Constant", value=numpy_helper.from_array(value))

    def _ints(self, values: Iterable[int]) -> str:
        return self._constant(np.array(list(values), dtype=np.int64))

    def _range(self, end: str) -> str:
        """Returns the whole numbers from 0 to one below an int64[1]."""
        scalar = self._op("Squeeze", end, self._ints([0]))
        return self._op("Range", self._constant(np.int64(0)), scalar, self._constant(np.int64(1)))

    def _spread(self, vector: str) -> str:
        """Returns a vector along the axis of the transform, with the axes after it."""
        after = -self._transform.axis - 1
        return self._op("Unsqueeze", vector, self._ints(range(1, after + 1)))

    def _product(self, left: tuple[str, str], right: tuple[str, str]) -> tuple[str, str]:
        """Returns the product of two complex numbers."""

        def mul(one: str, other: str) -> str:
            return self._op("Mul", one, other)

        (a, b), (c, d) = left, right
        return self._op("Sub", mul(a, c), mul(b, d)), self._op("Add", mul(a, d), mul(b, c))

    def _dft(
        self, real: str, imaginary: str, *, axis: int | None = None, inverse: bool = False
    ) -> tuple[str, str]:
        """Returns a complex transform of the length that its input has."""
        axis = self._transform.axis if axis is None else axis
        whole = self._op("Concat", real, imaginary, axis=-1)
        if self._axis_is_input:
            place = self._constant(np.int64(axis))
            result = self._op("DFT", whole, "", place, inverse=int(inverse))
        else:
            result = self._op("DFT", whole, axis=axis, inverse=int(inverse))
        parts = [self._op("Gather", result, self._ints([part]), axis=-1) for part in (0, 1)]
        return parts[0], parts[1]
