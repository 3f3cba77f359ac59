"""The random numbers that a test draws are its own, whatever ran before it and on which worker."""

import random

import numpy as np
import pytest
import torch


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (peers draw from it)
    torch.manual_seed(0)
