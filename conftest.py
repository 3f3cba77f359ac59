"""Every test draws random numbers of its own, whatever ran before it, and a worker computes with one thread."""

import os
import random

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is loaded: two threads of each worker on two cores only wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (peers draw from it)
    torch.manual_seed(0)
