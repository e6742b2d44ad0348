"""How steady a direction is: functions of pair differences `[N, L, D]` and their groups, giving one number per layer."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity


def group_sums(differences: Tensor, groups: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Sums `[G, L, D]` of differences `[N, L, D]` by group, and each pair's group number `[N]`."""
    member = torch.as_tensor(np.unique(np.asarray(groups), return_inverse=True)[1])
    sums = torch.zeros(int(member.max()) + 1, *differences.shape[1:], dtype=torch.float64)
    return sums.index_add(0, member, differences.double()), member


def pair_cosines(differences: Tensor, groups: Sequence[str]) -> Tensor:
    """Cosine `[N, L]` of each pair's difference with the mean difference of all other groups."""
    sums, member = group_sums(differences, groups)
    return cosine_similarity(differences.double(), sums.sum(0) - sums[member], dim=-1)


def split_half_cosine(differences: Tensor, groups: Sequence[str], n_splits: int = 100, seed: int = 0) -> Tensor:
    """Mean cosine `[L]` of the mean differences of two random halves of the groups."""
    sums, _ = group_sums(differences, groups)
    rng = np.random.default_rng(seed)
    half = np.zeros((n_splits, len(sums)))
    for row in half:
        row[rng.permutation(len(sums))[: len(sums) // 2]] = 1
    one = torch.einsum("sg,gld->sld", torch.as_tensor(half), sums)
    return cosine_similarity(one, sums.sum(0) - one, dim=-1).mean(0)


def permutation_p(differences: Tensor, groups: Sequence[str], n_permutations: int = 999, seed: int = 0) -> Tensor:
    """p `[L]` of the mean difference's norm when whole groups swap their sides at random."""
    sums, _ = group_sums(differences, groups)
    rng = np.random.default_rng(seed)
    signs = torch.as_tensor(rng.choice([-1.0, 1.0], size=(n_permutations, len(sums))))
    norms = torch.einsum("pg,gld->pld", signs, sums).norm(dim=-1)
    # A draw that flips all groups or none is a tie up to rounding.
    at_least = norms >= sums.sum(0).norm(dim=-1) * (1 - 1e-9)
    p: Tensor = (1 + at_least.sum(0)) / (1 + n_permutations)
    return p


def d_prime(creative: Tensor, uncreative: Tensor, groups: Sequence[str], n_folds: int = 5) -> Tensor:
    """Distance `[L]` of the two classes along a direction from other groups, in pooled standard deviations."""
    sums, member = group_sums(creative - uncreative, groups)
    fold = member % n_folds
    along = []
    for k in range(n_folds):
        vector = sums[torch.arange(len(sums)) % n_folds != k].sum(0)
        vector = vector / vector.norm(dim=-1, keepdim=True)
        centre = (creative[fold != k].double().mean(0) + uncreative[fold != k].double().mean(0)) / 2
        along.append(
            torch.stack(
                [
                    torch.einsum("nld,ld->nl", side[fold == k].double() - centre, vector)
                    for side in (creative, uncreative)
                ]
            )
        )
    one, other = torch.cat(along, dim=1)
    pooled: Tensor = ((one.var(0) + other.var(0)) / 2).sqrt()
    distance: Tensor = (one.mean(0) - other.mean(0)) / pooled
    return distance
