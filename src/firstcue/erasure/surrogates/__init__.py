"""Data sets that share some statistics of the real one and nothing else, to ask which statistics a network uses.

A network that is accurate on a surrogate reads the statistics that the surrogate keeps. Made sets keep moments or
marginals of every class; edited sets take real rows and give them the statistics of another class, whose label they bear.
"""

from firstcue.erasure.surrogates.edited import cqn, got, shift
from firstcue.erasure.surrogates.marginals import independent, maxent
from firstcue.erasure.surrogates.matching import Matched, matched
from firstcue.erasure.surrogates.normal import gaussian, truncated_normal
from firstcue.erasure.surrogates.third import third_order

__all__ = [
    "Matched",
    "cqn",
    "gaussian",
    "got",
    "independent",
    "matched",
    "maxent",
    "shift",
    "third_order",
    "truncated_normal",
]
