"""Data sets by name: `builtin:fashion-slice`, `builtin:digits`, `builtin:dominoes/0.95`, `builtin:adult` and others."""

from collections.abc import Callable

from firstcue.batch import Batch
from firstcue.data.composed import PARTS, fashion_dominoes, garment_dominoes
from firstcue.data.garments import fashion_mnist
from firstcue.data.images import digits, shipped
from firstcue.data.mnist import mnist
from firstcue.data.people import adult, breast_cancer, census
from firstcue.data.reviews import reviews


def read_builtin(name: str) -> Batch:
    """The data set of a name such as "digits", "fashion-mnist/test" or "dominoes/0.95/held-out".

    Raises:
        ValueError: If there is none of this name, or it is not installed.

    Example:
        >>> read_builtin("digits/3,8").classes
        ('3', '8')
    """
    head, *rest = name.split("/")
    makers: dict[str, tuple[Callable[..., Batch], int]] = {
        "fashion-slice": (shipped, 0),
        "digits": (_digits, 1),
        "dominoes": (_dominoes, 2),
        "fashion-mnist": (fashion_mnist, 1),
        "fashion-dominoes": (_fashion_dominoes, 4),
        "mnist-5k": (_mnist, 1),
        "breast-cancer": (breast_cancer, 0),
        "adult": (adult, 0),
        "census": (census, 0),
        "reviews": (reviews, 0),
    }
    if head not in makers or len(rest) > makers[head][1]:
        raise ValueError(
            f"there is no built-in data set {name!r}; there are fashion-slice, digits or digits/3,8, dominoes/STRENGTH or "
            f"dominoes/STRENGTH/PART with PART one of {', '.join(PARTS)}, fashion-mnist or fashion-mnist/test, fashion-dominoes/"
            f"STRENGTH/PART/pullover,coat/0,1, mnist-5k or mnist-5k/7,9, breast-cancer, adult, census, reviews."
        )
    return makers[head][0](*rest)


def _digits(classes: str = "0,1,2,3,4,5,6,7,8,9") -> Batch:
    return digits(_whole(classes, "digits/3,8"))


def _mnist(classes: str = "0,1,2,3,4,5,6,7,8,9") -> Batch:
    return mnist(_whole(classes, "mnist-5k/7,9"))


def _whole(given: str, example: str) -> list[int]:
    try:
        return [int(digit) for digit in given.split(",")]
    except ValueError:
        raise ValueError(f"digits are named as in builtin:{example}; got {given!r}.") from None


def _dominoes(strength: str = "0.95", part: str = "train") -> Batch:
    return garment_dominoes(_strength(strength), part)


def _fashion_dominoes(
    strength: str = "0.95", part: str = "train", core: str = "pullover,coat", top: str = "0,1"
) -> Batch:
    return fashion_dominoes(
        _strength(strength), part, core.split(","), _whole(top, "fashion-dominoes/0.95/train/coat,dress/0,1")
    )


def _strength(given: str) -> float:
    try:
        return float(given)
    except ValueError:
        raise ValueError(f"a strength is a number, as in builtin:dominoes/0.95; got {given!r}.") from None
