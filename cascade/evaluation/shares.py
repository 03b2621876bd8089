"""The interval of a share; without numpy, for plans and demos need none."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson(share: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's (1927) score interval of a share that was seen on n examples.

    With z the normal quantile: (p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n).

    Args:
        share: p, in [0, 1].
        n: above 0; may be an effective number.
        level: chance that the interval holds the share.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # Rounding may carry the ends past the share itself where it is 0 or 1.
    return min(share, max(0.0, (middle - spread) / scale)), max(
        share, min(1.0, (middle + spread) / scale)
    )
