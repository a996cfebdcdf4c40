"""The project's own weights, which its repository has and an sdist has not."""

from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
needs_weights = pytest.mark.skipif(not any(RESULTS.rglob("*.pt")), reason="an sdist has no weights")
