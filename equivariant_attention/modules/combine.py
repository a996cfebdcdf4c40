"""Two features combined: their sum, :class:`GSum`, and their concatenation, :class:`GCat`."""

from torch import Tensor, nn
from torch.nn.functional import pad

from ..checks import check_alike, check_features
from ..fibers import Features, Fiber, by_degree, check_fiber
from ..plain_modules import check_hooks


class GSum(nn.Module):
    r"""Sum of two features, :math:`f^l \leftarrow x^l + y^l`.

    Where one feature has fewer channels, it is padded with zeros; a degree that only one of them has is passed on.

    Args:
        f_x: fiber of the first feature.
        f_y: fiber of the second feature.

    Attributes:
        f_out: fiber of the output, ``Fiber.combine_max(f_x, f_y)``.
    """

    def __init__(self, f_x: Fiber, f_y: Fiber) -> None:
        super().__init__()
        check_fiber(f_x, "f_x")
        check_fiber(f_y, "f_y")
        self.f_x, self.f_y = f_x, f_y
        self.f_out = Fiber.combine_max(f_x, f_y)

    def forward(self, x: Features, y: Features, **kwargs) -> Features:
        """Combine the two features.

        Args:
            x: feature of fiber ``f_x``, ``{degree: [nodes, m, 2 degree + 1]}``.
            y: feature of fiber ``f_y``, likewise.

        Returns:
            the feature of fiber ``f_out``, likewise.

        Raises:
            TypeError, ValueError: ``x`` or ``y`` is not of its fiber, or they differ in dtype, device or nodes.
        """
        check_hooks(self)
        x, y = by_degree(x, "x"), by_degree(y, "y")
        _check_pair(x, self.f_x, y, self.f_y)
        output = {}
        for m, d in self.f_out.structure:
            parts = [_padded(value[str(d)], m) for value in (x, y) if str(d) in value]
            output[str(d)] = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        return output

    def extra_repr(self) -> str:
        return f"f_x={self.f_x}, f_y={self.f_y}"


class GCat(nn.Module):
    r"""Concatenation of channels, :math:`f^l \leftarrow x^l \Vert y^l`, for the degrees of the first feature.

    Args:
        f_x: fiber of the first feature.
        f_y: fiber of the second feature.

    Attributes:
        f_out: fiber of the output, ``Fiber.combine_selectively(f_x, f_y)``.
    """

    def __init__(self, f_x: Fiber, f_y: Fiber) -> None:
        super().__init__()
        check_fiber(f_x, "f_x")
        check_fiber(f_y, "f_y")
        self.f_x, self.f_y = f_x, f_y
        self.f_out = Fiber.combine_selectively(f_x, f_y)

    def forward(self, x: Features, y: Features, **kwargs) -> Features:
        """Combine the two features.

        Args:
            x: feature of fiber ``f_x``, ``{degree: [nodes, m, 2 degree + 1]}``.
            y: feature of fiber ``f_y``, likewise.

        Returns:
            the feature of fiber ``f_out``, likewise.

        Raises:
            TypeError, ValueError: ``x`` or ``y`` is not of its fiber, or they differ in dtype, device or nodes.
        """
        check_hooks(self)
        x, y = by_degree(x, "x"), by_degree(y, "y")
        _check_pair(x, self.f_x, y, self.f_y)
        combined = Fiber.combine_fibers(x, self.f_x, y, self.f_y)
        return {str(d): combined[str(d)] for d in self.f_out.degrees}

    def extra_repr(self) -> str:
        return f"f_x={self.f_x}, f_y={self.f_y}"


def _check_pair(x: Features, f_x: Fiber, y: Features, f_y: Fiber) -> None:
    check_features(x, f_x, name="x")
    of_x, first = x[str(f_x.min_degree)], str(f_y.min_degree)
    check_features(y, f_y, rows=of_x.shape[0], name="y")
    check_alike(y[first], f"y['{first}']", of_x, "x")


def _padded(value: Tensor, channels: int) -> Tensor:
    return pad(value, (0, 0, 0, channels - value.shape[1]))
