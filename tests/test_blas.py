"""Large products through numpy and LAPACK are those of torch."""

import pytest
import torch
from torch.testing import assert_close

from firstcue._blas import congruence, eigh, product


def covariance(d, dtype, seed=0):
    rows = torch.randn(2 * d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (rows.mT @ rows / d).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("flaw", ["none", "singular", "negative", "transposed factor"])
def test_a_congruence_is_the_product_of_three(dtype, flaw):
    matrix, factor = covariance(40, dtype), torch.randn(40, 40, generator=torch.Generator().manual_seed(1)).to(dtype)
    if flaw == "singular":
        matrix[3], matrix[:, 3] = 0.0, 0.0
    if flaw == "negative":
        matrix = matrix - 2 * torch.eye(40, dtype=dtype)
    if flaw == "transposed factor":
        factor = factor.mT
    before = matrix.clone(), factor.clone()

    found = congruence(matrix, factor)

    assert_close(found, factor.mT @ matrix @ factor, rtol=1e-4, atol=1e-4)
    assert found.dtype == dtype
    assert torch.equal(matrix, before[0]) and torch.equal(factor, before[1])
    if flaw == "none":
        assert torch.equal(found, found.mT)


def test_eigenvectors_rebuild_the_matrix_and_spare_it_unless_told():
    matrix = covariance(30, torch.float64)
    before = matrix.clone()

    values, vectors = eigh(matrix)
    again, _ = eigh(matrix.clone(), overwrite=True)

    assert_close(product(vectors * values, vectors.mT), matrix)
    assert_close(again, values)
    assert torch.equal(matrix, before)
