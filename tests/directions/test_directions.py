"""Directions: a planted one comes back, sums stream and add up, and what is saved is what is read."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from probe.directions.direction import (
    ClassSums,
    Direction,
    cosine_scores,
    mean_difference,
    mean_difference_of,
    random_directions,
)
from probe.errors import ProbeError

N_LAYERS, WIDTH, SHIFT = 3, 32, 4.0


def planted(n: int = 400, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Activations `[N, L, D]` of two classes a known step `[L, D]` apart, their labels, and the unit direction."""
    generator = torch.Generator().manual_seed(seed)
    a = normalize(torch.randn(N_LAYERS, WIDTH, generator=generator), dim=-1)
    label = torch.arange(n) % 2
    noise = torch.randn(n, N_LAYERS, WIDTH, generator=generator)
    return 10 + noise + SHIFT * label[:, None, None] * a, label, a


def sums_of(h: Tensor, label: Tensor) -> ClassSums:
    sums = ClassSums(N_LAYERS, WIDTH)
    sums.update(h, label)
    return sums


def saved_direction(**provenance: object) -> Direction:
    generator = torch.Generator().manual_seed(1)
    numbers = [torch.rand(2, generator=generator) for _ in range(4)]
    return Direction(random_directions(1, [1, 4], WIDTH, seed=1)[0], (1, 4), *numbers, chosen=4, provenance=provenance)


def test_a_planted_direction_and_its_gap_are_recovered() -> None:
    h, label, a = planted(2000)
    vectors, gap = mean_difference(sums_of(h, label).compute()[0])
    # The noise of the mean difference has norm sqrt(4 D / N) = 0.25 against a step of 4, so cos is about 0.998.
    assert (cosine_similarity(vectors, a) > 0.99).all()
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(N_LAYERS))
    # Along the direction the noise is sqrt(4 / N) = 0.045; across it adds 0.25^2 / 8.
    torch.testing.assert_close(gap, torch.full_like(gap, SHIFT), atol=0.2, rtol=0)


def test_swapping_the_classes_turns_the_direction_around() -> None:
    h, label, _ = planted()
    ours, theirs = (mean_difference(sums_of(h, y).compute()[0])[0] for y in (label, 1 - label))
    assert torch.allclose(ours, -theirs)


@pytest.mark.parametrize("batch", [1, 7, 64, 400])
def test_a_stream_in_any_batches_and_any_order_equals_one_batch(batch: int) -> None:
    h, label, _ = planted()
    order = torch.randperm(len(h), generator=torch.Generator().manual_seed(batch))
    stream = ClassSums(N_LAYERS, WIDTH)
    for rows in order.split(batch):
        stream.update(h[rows], label[rows])
    (means, norm), (all_means, all_norm) = stream.compute(), sums_of(h, label).compute()
    torch.testing.assert_close(mean_difference(means)[0], mean_difference(all_means)[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(norm, all_norm, atol=1e-6, rtol=0)


def test_class_sums_equal_the_plain_means() -> None:
    h, label, _ = planted()
    means, norm = sums_of(h, label).compute()
    torch.testing.assert_close(means, torch.stack([h[label == y].double().mean(0) for y in (0, 1)]))
    torch.testing.assert_close(norm, h.double().norm(dim=-1).mean(0))


def test_rows_labelled_minus_one_count_nothing() -> None:
    h, label, _ = planted()
    padded = sums_of(torch.cat([h, 1e3 * torch.ones(9, N_LAYERS, WIDTH)]), torch.cat([label, -torch.ones(9).long()]))
    for with_padding, without in zip(padded.compute(), sums_of(h, label).compute(), strict=True):
        torch.testing.assert_close(with_padding, without, atol=1e-9, rtol=0)
    assert padded.count.tolist() == [200, 200]


def test_two_processes_reduced_equal_one() -> None:
    h, label, _ = planted()
    ours, theirs, one = sums_of(h[:150], label[:150]), sums_of(h[150:], label[150:]), sums_of(h, label)
    # What torchmetrics does between processes: stack the states of all, then apply each state's declared reduction.
    for name, reduce in one._reductions.items():
        setattr(ours, name, reduce(torch.stack([getattr(ours, name), getattr(theirs, name)])))
    for both, single in zip(ours.compute(), one.compute(), strict=True):
        torch.testing.assert_close(both, single, atol=1e-9, rtol=0)


def test_a_reset_forgets_the_last_epoch() -> None:
    h, label, _ = planted()
    sums = sums_of(h, 1 - label)
    sums.reset()
    sums.update(h, label)
    assert torch.equal(sums.compute()[0], sums_of(h, label).compute()[0])


def test_the_score_is_the_mean_over_tokens_of_the_cosine() -> None:
    generator = torch.Generator().manual_seed(2)
    lengths = (1, 5, 12)
    tokens = [torch.randn(n, N_LAYERS, WIDTH, generator=generator) * 7 for n in lengths]  # [T, L, D] of each text
    vectors = random_directions(1, range(N_LAYERS), WIDTH, seed=3)[0]
    by_token = torch.stack([cosine_similarity(h, vectors[None], dim=-1).mean(0) for h in tokens])
    unit_mean = torch.stack([normalize(h, dim=-1).mean(0) for h in tokens])
    torch.testing.assert_close(cosine_scores(unit_mean, vectors), by_token, atol=1e-6, rtol=0)


def test_a_saved_direction_is_read_back_bit_by_bit_with_its_provenance(tmp_path: Path) -> None:
    direction = saved_direction(method="mean_difference", lm="storyteller", n_pairs=500, versions={"torch": "2"})
    read = Direction.load(direction.save(tmp_path / "new" / "folder"))
    for name in ("vectors", "residual_gap", "residual_norm", "score_midpoint", "score_gap"):
        assert torch.equal(getattr(read, name), getattr(direction, name)), name
    assert (read.layers, read.chosen, read.provenance) == (direction.layers, direction.chosen, direction.provenance)
    assert {p.name for p in (tmp_path / "new" / "folder").iterdir()} == {"direction.safetensors", "direction.json"}


@pytest.mark.parametrize("name", ["direction.safetensors", "direction.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "torn", "noise"])
def test_a_missing_or_damaged_file_is_refused(tmp_path: Path, name: str, damage: str) -> None:
    path = saved_direction().save(tmp_path) / name
    whole = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "torn": whole[: len(whole) // 2], "noise": b"\xff\x00\xfe" * 40}[damage])
    with pytest.raises(ProbeError, match="expected a saved direction"):
        Direction.load(tmp_path)


@pytest.mark.parametrize("card", ["[]", "{}", '{"layers": [1], "chosen": null, "provenance": {}}'])
def test_a_card_that_does_not_belong_to_the_vectors_is_refused(tmp_path: Path, card: str) -> None:
    (saved_direction().save(tmp_path) / "direction.json").write_text(card)
    with pytest.raises(ProbeError, match="expected a saved direction"):
        Direction.load(tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("layers", [1, "4"], "`layers`"),
        ("layers", [1, 1], "`layers`"),
        ("layers", {"1": 4}, "`layers`"),
        ("layers", [-1, 4], "`layers`"),
        ("layers", [], "`layers`"),
        ("chosen", "4", "`chosen`"),
        ("chosen", 2, "`chosen`"),
        ("chosen", True, "`chosen`"),
        ("provenance", ["method"], "`provenance`"),
        ("provenance.lm", 3, "`lm`"),
        ("provenance.lm", None, "`lm`"),
        ("provenance.lm_dtype", ["float32"], "`lm_dtype`"),
        ("provenance.lm_system", 7, "`lm_system`"),
        ("provenance.span", "everywhere", "`span`"),
        ("provenance.pooling", {}, "`pooling`"),
        ("provenance.recommended", [1], "recommends"),
        ("provenance.recommended", {"layer": "4"}, "recommended layer"),
        ("provenance.recommended", {"layer": [1, 9]}, "recommended layer"),
        ("provenance.recommended", {"strength": "2"}, "must be real number"),
        ("provenance.recommended", {"strength": float("nan")}, "recommended strength"),
        ("provenance.recommended", {"strength_unit": "metres"}, "`strength_unit`"),
        ("provenance.recommended", {"tokens": 5}, "`tokens`"),
    ],
)
def test_a_card_with_a_field_of_the_wrong_type_is_refused_by_name(
    tmp_path: Path, path: str, value: Any, says: str
) -> None:
    file = saved_direction(method="x", lm="y").save(tmp_path) / "direction.json"
    card = section = json.loads(file.read_text())
    *sections, name = path.split(".")
    for key in sections:
        section = section[key]
    section[name] = value
    file.write_text(json.dumps(card))
    with pytest.raises(ProbeError, match="expected a saved direction") as refusal:
        Direction.load(tmp_path)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["vectors", "residual_gap", "residual_norm", "score_midpoint", "score_gap"])
@pytest.mark.parametrize("damage", ["nan", "inf", "whole", "shorter", "missing"])
def test_numbers_that_are_not_finite_or_of_another_shape_are_refused(tmp_path: Path, name: str, damage: str) -> None:
    file = saved_direction().save(tmp_path) / "direction.safetensors"
    tensors = load_file(file)
    tensor = tensors.pop(name)
    if damage in ("nan", "inf"):
        tensor.view(-1)[0] = float(damage)
    if damage != "missing":
        tensors[name] = {"whole": tensor.long(), "shorter": tensor[:1].clone()}.get(damage, tensor)
    save_file(tensors, file)
    with pytest.raises(ProbeError, match=f"expected a saved direction.*{name}"):
        Direction.load(tmp_path)


def test_a_vector_that_is_no_unit_vector_is_refused_and_one_of_no_difference_is_not(tmp_path: Path) -> None:
    direction = saved_direction()
    with pytest.raises(ProbeError, match="of length 1"):
        Direction.load(replace(direction, vectors=3 * direction.vectors).save(tmp_path))
    nothing = direction.vectors * torch.tensor([[1.0], [0.0]])
    assert torch.equal(Direction.load(replace(direction, vectors=nothing).save(tmp_path)).vectors, nothing)


def test_only_a_model_of_the_same_shape_and_weights_fits() -> None:
    direction = saved_direction(lm_fingerprint="abc", lm="base")
    direction.check_fits(WIDTH, 5, "abc")
    direction.check_fits(WIDTH, 9, "abc")
    for width, n_layers in ((WIDTH + 1, 5), (WIDTH, 4)):
        for other_model in (False, True):
            with pytest.raises(ProbeError, match=f"{n_layers} layers of width {width}"):
                direction.check_fits(width, n_layers, "abc", other_model)
    with pytest.raises(ProbeError, match="--other_model"):
        direction.check_fits(WIDTH, 5, "a fine-tune")
    direction.check_fits(WIDTH, 5, "a fine-tune", other_model=True)


def test_a_layer_it_does_not_hold_is_refused_by_name() -> None:
    direction = saved_direction()
    assert torch.equal(direction.at(4), direction.vectors[1])
    with pytest.raises(ProbeError, match=r"\[1, 4\], found 2"):
        direction.at(2)


def test_strength_units_convert_to_absolute_lambda() -> None:
    direction = saved_direction()
    for row, layer in enumerate(direction.layers):
        assert direction.strength(-1.5, "absolute", layer) == -1.5
        assert direction.strength(2, "gap", layer) == pytest.approx(2 * float(direction.residual_gap[row]))
        assert direction.strength(0.1, "norm", layer) == pytest.approx(0.1 * float(direction.residual_norm[row]))
        assert all(direction.strength(0.0, unit, layer) == 0 for unit in ("absolute", "gap", "norm"))
    with pytest.raises(ProbeError, match="found 'sigma'"):
        direction.strength(1, "sigma", 1)


def test_one_gap_carries_the_mean_of_one_class_onto_the_other() -> None:
    h, label, _ = planted()
    means, _ = sums_of(h, label).compute()
    vectors, gap = mean_difference(means)
    torch.testing.assert_close(means[0].float() + gap[:, None] * vectors, means[1].float())


def test_the_mean_difference_of_labelled_states_is_that_of_their_means_and_heeds_no_others() -> None:
    h, label = torch.randn(20, N_LAYERS, WIDTH), [1, 0, -1, 1, 0] * 4
    ours, theirs = (h[[i for i, of in enumerate(label) if of == side]].mean(0) for side in (1, 0))
    expected = torch.nn.functional.normalize(ours - theirs, dim=-1)
    torch.testing.assert_close(mean_difference_of(h, label), expected, atol=1e-6, rtol=1e-5)


def test_random_directions_are_unit_seeded_and_point_nowhere_in_particular() -> None:
    vectors = random_directions(500, range(N_LAYERS), WIDTH, seed=5)
    assert vectors.shape == (500, N_LAYERS, WIDTH)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(500, N_LAYERS))
    assert torch.equal(vectors, random_directions(500, range(N_LAYERS), WIDTH, seed=5))
    assert not torch.equal(vectors, random_directions(500, range(N_LAYERS), WIDTH, seed=6))
    # Each coordinate has mean 0 and variance 1/D; 4.5 standard errors over 96 coordinates.
    assert vectors.mean(0).abs().max() < 4.5 / (500 * WIDTH) ** 0.5


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ({"dose": {"kl": 0.25, "of_layer": {"1": float("nan")}}}, "a positive number each, found '1': nan"),
        ({"dose": {"kl": 0.25, "of_layer": {"1": "much"}}}, "a positive number each, found '1': 'much'"),
        ({"dose": {"kl": 0.25, "of_layer": {"x": 1.0}}}, "one of its layers a positive number each, found 'x'"),
        ({"dose": "large"}, "found none that can be read"),
        ({"lm_dtype": "load"}, "`lm_dtype` has to be one of float32, bfloat16, float16, found 'load'"),
        ({"lm": "\ud800"}, "`lm` holds half of a surrogate pair"),
        ({"lm_system": "\ud800"}, "`lm_system` holds half of a surrogate pair"),
        ({"lm_chat_template_kwargs": "thinking"}, "`lm_chat_template_kwargs` has to hold"),
    ],
)
def test_a_card_says_nothing_that_could_not_be_used(tmp_path: Path, made: dict, says: str) -> None:
    Direction(torch.eye(1, 4), (1,), *(torch.ones(1) for _ in range(4)), 1, {}).save(tmp_path)
    card = json.loads((tmp_path / "direction.json").read_text())
    (tmp_path / "direction.json").write_text(json.dumps(card | {"provenance": made}))
    with pytest.raises(ProbeError, match=re.escape(says)):
        Direction.load(tmp_path)
    sound = {"dose": {"kl": 0.25, "of_layer": {"1": 2.0}}, "recommended": {"strength_unit": "dose"}}
    (tmp_path / "direction.json").write_text(json.dumps(card | {"provenance": sound}))
    assert Direction.load(tmp_path).strength(0.5, "dose", 1) == 1.0
    del sound["recommended"]
    for made, default in ((sound, (1.0, "dose")), ({}, (1.0, "dose"))):
        (tmp_path / "direction.json").write_text(json.dumps(card | {"provenance": made}))
        recommended = Direction.load(tmp_path).recommended
        assert (recommended.strength, recommended.unit) == default
    with pytest.raises(ProbeError, match="a length that float32 can hold"):
        Direction.load(tmp_path).strength(1e300, "absolute", 1)
