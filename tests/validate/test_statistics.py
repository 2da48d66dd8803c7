"""Statistics against values worked by hand."""

from __future__ import annotations

from math import e, exp, log

import numpy as np
import pytest

from mtia.validate.statistics import errors_of, spearman


def test_by_hand():
    found = errors_of([1.1, 1.8, 4.0, 5.0], [1.0, 2.0, 4.0, 10.0])  # off by 10, 10, 0, 50 %
    assert found.n == 4
    assert found.median_frac == pytest.approx(0.10)
    assert found.mean_frac == pytest.approx(0.175)
    assert found.p90_frac == pytest.approx(0.10 + 0.7 * 0.40)  # between the third and fourth of 0, 10, 10, 50
    assert found.bias_frac == pytest.approx((1.1 * 0.9 * 1.0 * 0.5) ** 0.25 - 1)
    assert found.mean_abs_ln == pytest.approx((log(1.1) - log(0.9) + log(2)) / 4)
    assert found.spearman == pytest.approx(1.0)


def test_bias_is_symmetric_in_ratio():
    assert errors_of([2.0, 0.5], [1.0, 1.0]).bias_frac == pytest.approx(0.0)
    assert errors_of([e, e, e], [1.0, 1.0, 1.0]).bias_frac == pytest.approx(exp(1) - 1)


def test_ranks_share_ties():
    assert spearman(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == pytest.approx(-1)
    # ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5)
    assert spearman(np.array([1.0, 2, 2, 5]), np.array([1.0, 2, 3, 4])) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)


def test_no_rank_without_spread():
    assert spearman(np.array([1.0, 1, 1]), np.array([1.0, 2, 3])) is None
    assert spearman(np.array([1.0, 2]), np.array([1.0, 2])) is None
