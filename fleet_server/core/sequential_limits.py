"""Between which evidence a sequential test goes on: Wald's bounds from the two error rates. Pure.

Source: A. Wald, Sequential Analysis (1947): stop at ln((1 - beta) / alpha), pass at
ln(beta / (1 - alpha)).
"""

import math

SHARE_ERROR_MIN = 1e-6
SHARE_ERROR_MAX = 0.5
WATCH_ALPHA_SHARE = 0.2
"""Part of alpha that each watching test may spend: it starts anew again and again."""


class WaldBounds:
    """Bounds on the log likelihood ratio of a test with two error rates.

    Attributes:
        alpha: Chance of stopping what is good.
        beta: Chance of passing what must be stopped.
    """

    __slots__ = ()

    alpha: float
    beta: float

    @property
    def halt_at(self) -> float:
        """Evidence at which what is tested is stopped."""
        return math.log((1 - self.beta) / self.alpha)

    @property
    def watch_halt_at(self) -> float:
        """Evidence at which what has passed is stopped after all."""
        return math.log((1 - self.beta) / (self.alpha * WATCH_ALPHA_SHARE))

    @property
    def advance_at(self) -> float:
        """Evidence, negative, at which it is found good."""
        return math.log(self.beta / (1 - self.alpha))

    def check_error_shares(self) -> None:
        """Raise ValueError unless both are SHARE_ERROR_MIN to below SHARE_ERROR_MAX."""
        for name in ("alpha", "beta"):
            value = getattr(self, name)
            if not SHARE_ERROR_MIN <= value < SHARE_ERROR_MAX:  # so written, NaN is refused too
                raise ValueError(
                    f"{name} must be {SHARE_ERROR_MIN:g} to below {SHARE_ERROR_MAX:g}, got {value}"
                )
