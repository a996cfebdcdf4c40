"""Combining two features: sum and concatenation."""

from torch import Tensor, nn
from torch.nn.functional import pad

from equivariant_attention.fibers import Features, Fiber, check_features


class GSum(nn.Module):
    """Sum of two features; the shorter list of channels is padded with zeros, a degree of one alone is passed on.

    Args:
        f_x: fiber of the first.
        f_y: fiber of the second.

    Attributes:
        f_out: fiber of the output, ``Fiber.combine_max(f_x, f_y)``.
    """

    def __init__(self, f_x: Fiber, f_y: Fiber) -> None:
        super().__init__()
        self.f_x, self.f_y = f_x, f_y
        self.f_out = Fiber.combine_max(f_x, f_y)

    def forward(self, x: Features, y: Features, **kwargs) -> Features:
        """``{degree: [nodes, m, 2 degree + 1]}`` of fibers ``f_x`` and ``f_y`` to the same of fiber ``f_out``."""
        _check_pair(x, self.f_x, y, self.f_y)
        output = {}
        for m, d in self.f_out.structure:
            parts = [_padded(value[str(d)], m) for value in (x, y) if str(d) in value]
            output[str(d)] = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        return output

    def extra_repr(self) -> str:
        return f"f_x={self.f_x}, f_y={self.f_y}"


class GCat(nn.Module):
    """Concatenation of the channels of two features, for the degrees of the first.

    Args:
        f_x: fiber of the first.
        f_y: fiber of the second.

    Attributes:
        f_out: fiber of the output, ``Fiber.combine_selectively(f_x, f_y)``.
    """

    def __init__(self, f_x: Fiber, f_y: Fiber) -> None:
        super().__init__()
        self.f_x, self.f_y = f_x, f_y
        self.f_out = Fiber.combine_selectively(f_x, f_y)

    def forward(self, x: Features, y: Features, **kwargs) -> Features:
        """``{degree: [nodes, m, 2 degree + 1]}`` of fibers ``f_x`` and ``f_y`` to the same of fiber ``f_out``."""
        _check_pair(x, self.f_x, y, self.f_y)
        combined = Fiber.combine_fibers(x, self.f_x, y, self.f_y)
        return {str(d): combined[str(d)] for d in self.f_out.degrees}

    def extra_repr(self) -> str:
        return f"f_x={self.f_x}, f_y={self.f_y}"


def _check_pair(x: Features, f_x: Fiber, y: Features, f_y: Fiber) -> None:
    rows = next(iter(x.values())).shape[0]
    check_features(x, f_x, rows, "x")
    check_features(y, f_y, rows, "y")


def _padded(value: Tensor, channels: int) -> Tensor:
    return pad(value, (0, 0, 0, channels - value.shape[1]))
