"""Linear self-interaction."""

import torch
from torch import nn

from equivariant_attention.fibers import Features, Fiber, check_features


class G1x1SE3(nn.Module):
    r"""Mix the channels of each degree: :math:`f^l \leftarrow W^l f^l` (section 3.3 of arXiv 2006.10503).

    Args:
        f_in: fiber of the input.
        f_out: fiber of the output; its degrees are among those of ``f_in``.
        learnable: whether the matrices are trained.

    Raises:
        ValueError: ``f_out`` has a degree that ``f_in`` lacks.
    """

    def __init__(self, f_in: Fiber, f_out: Fiber, learnable: bool = True) -> None:
        super().__init__()
        missing = sorted({*f_out.degrees} - {*f_in.degrees})
        if missing:
            raise ValueError(f"f_out must have degrees that f_in has: f_in is {f_in}, f_out also has degrees {missing}")
        self.f_in, self.f_out = f_in, f_out
        self.transform = nn.ParameterDict()
        for m_out, degree in f_out.structure:
            m_in = f_in.dict[degree]
            self.transform[str(degree)] = nn.Parameter(torch.randn(m_out, m_in) / m_in**0.5, requires_grad=learnable)

    def forward(self, features: Features, **kwargs) -> Features:
        """``{degree: [nodes, m_in, 2 degree + 1]}`` to ``{degree: [nodes, m_out, 2 degree + 1]}``."""
        check_features(features, self.f_in, next(iter(features.values())).shape[0])
        return {degree: W @ features[degree] for degree, W in self.transform.items()}

    def extra_repr(self) -> str:
        return f"f_in={self.f_in}, f_out={self.f_out}"
