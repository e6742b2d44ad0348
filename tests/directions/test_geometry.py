"""Geometry: planted differences are steady, noise is not, and whole groups are the unit."""

import numpy as np
import pytest
import torch
from torch import Tensor

from probe.directions.geometry import d_prime, pair_cosines, permutation_p, split_half_cosine


def planted(
    strength: float, n_groups: int = 40, per_group: int = 3, width: int = 16, seed: int = 0
) -> tuple[Tensor, Tensor, list[str]]:
    """Two sides `[N, 2, D]` of unit noise; on layer 0 the creative one is moved along axis 0, on layer 1 it is not."""
    generator = torch.Generator().manual_seed(seed)
    creative, uncreative = torch.randn(2, n_groups * per_group, 2, width, generator=generator)
    creative[:, 0, 0] += strength
    return creative, uncreative, [f"g{i // per_group}" for i in range(n_groups * per_group)]


def test_a_planted_difference_is_found_on_its_layer_and_nowhere_else() -> None:
    creative, uncreative, groups = planted(3.0)
    difference = creative - uncreative
    cosine, half, p = (
        pair_cosines(difference, groups).mean(0),
        split_half_cosine(difference, groups),
        permutation_p(difference, groups),
    )
    apart = d_prime(creative, uncreative, groups)
    assert p[0] == pytest.approx(1 / 1000)
    assert p[1] > 0.05
    assert half[0] > 0.9
    assert abs(half[1]) < 0.3
    assert cosine[0] > 0.3
    assert abs(cosine[1]) < 0.1
    assert apart[0] == pytest.approx(3.0, abs=0.4)
    assert abs(apart[1]) < 0.5


@pytest.mark.simulation
def test_p_is_uniform_where_there_is_nothing() -> None:
    p = [float(permutation_p((a := planted(0.0, 20, 2, 8, seed))[0] - a[1], a[2], 199)[0]) for seed in range(200)]
    # 200 draws of a uniform p: the share below 0.05 has standard error 0.015, the one below 0.5 0.035.
    assert np.mean(np.array(p) <= 0.05) < 0.05 + 4 * 0.0155
    assert abs(np.mean(np.array(p) <= 0.5) - 0.5) < 4 * 0.036


def test_many_rows_of_few_groups_are_no_evidence() -> None:
    # All rows of a group share one random difference: four groups cannot give a p below 1/8.
    torch.manual_seed(0)
    difference = torch.randn(4, 1, 8).repeat_interleave(50, 0)
    groups = [str(i // 50) for i in range(200)]
    assert permutation_p(difference, groups)[0] > 0.05
    rowwise = permutation_p(difference, [str(i) for i in range(200)])
    assert rowwise[0] < 0.01


def test_a_pair_is_compared_with_other_groups_only() -> None:
    difference = torch.eye(3).reshape(3, 1, 3).repeat_interleave(5, 0)  # each group has an axis of its own
    groups = [str(i // 5) for i in range(15)]
    np.testing.assert_allclose(pair_cosines(difference, groups), 0, atol=1e-12)


def test_numbers_do_not_depend_on_the_order_of_the_pairs() -> None:
    creative, uncreative, groups = planted(0.5)
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(1))
    shuffled = [groups[i] for i in order]
    for function in (split_half_cosine, permutation_p):
        one, other = function(creative - uncreative, groups), function((creative - uncreative)[order], shuffled)
        np.testing.assert_allclose(one, other)
    np.testing.assert_allclose(
        d_prime(creative, uncreative, groups), d_prime(creative[order], uncreative[order], shuffled)
    )
