"""Figures for TensorBoard and reports: named axes, intervals, colours that colour-blind readers can tell apart."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from probe.bootstrap import Estimate
from probe.evaluation import Evaluation
from probe.metrics import Floats

# Okabe and Ito's palette.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#777777"
LABELS = {
    "spearman": "Spearman(score, truth)",
    "spearman_low": "Spearman, lower half of the truth",
    "spearman_high": "Spearman, upper half of the truth",
    "kendall_tau_b": "Kendall's tau-b with the truth",
    "order_accuracy": "pairs of stories in the right order",
    "auroc": "AUROC, upper v. lower half",
    "pair_accuracy": "pair accuracy",
    "preference_accuracy": "people's preferences shared",
    "length": "Spearman(score, length)",
}
STEERED_LABELS = {
    "score": "clean re-score (mean cosine)",
    "extra_nll": "extra NLL, clean model (nats per token)",
    "kl": "KL from clean model (nats per token)",
    "repetition": "share of 4-grams that repeat",
    "inventive_share": "inventive sentences (share)",
    "well_formed_share": "well-formed sentences (share)",
    "named_share": "people and things named (share)",
    "moved_wrong": "prompts moved the wrong way (share)",
    "self_bleu": "self-BLEU",
}
CHANCE = dict.fromkeys(("order_accuracy", "auroc", "pair_accuracy", "preference_accuracy"), 0.5)


def layer_curve(
    result: Evaluation, metric: str, layers: Sequence[int], chosen: str, band: tuple[float, float]
) -> Figure:
    """One metric against the layer with 95 % intervals; controls as lines, random directions as a band."""
    figure = Figure(figsize=(5, 4.4), layout="constrained")
    axis = figure.subplots()
    columns = result.estimates[metric]
    ours = [columns[f"layer_{k}"] for k in layers]
    axis.plot(list(layers), [e.value for e in ours], marker="o", color=BLUE, label="score, 95 % interval")
    axis.fill_between(list(layers), [e.lower for e in ours], [e.upper for e in ours], color=BLUE, alpha=0.2)
    for name, colour, style in (("length", PURPLE, ":"), ("bag_of_words", ORANGE, "--")):
        if name != metric:
            axis.axhline(columns[name].value, color=colour, linestyle=style, label=name.replace("_", " "))
    if metric == "spearman":
        axis.axhspan(*band, color=GREY, alpha=0.2, label="random directions, 5-95 %")
    axis.axhline(CHANCE.get(metric, 0.0), color=GREY, linewidth=0.8)
    layer = int(chosen.removeprefix("layer_"))
    axis.axvline(layer, color=GREEN, linewidth=0.8, label=f"chosen layer {layer}")
    axis.set(ylabel=LABELS[metric], xlabel="layer (block, 0-based)", xticks=list(layers))
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def score_histogram(scores: Floats, truth: Floats, middle: float, column: str) -> Figure:
    """Scores of one column for the upper and the lower half of the truth."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axis = figure.subplots()
    bins = np.histogram_bin_edges(scores, 30).tolist()
    for half, colour, name in ((truth < middle, ORANGE, "lower half"), (truth > middle, BLUE, "upper half")):
        axis.hist(
            scores[half], bins=bins, color=colour, alpha=0.6, label=f"{name} of the truth (n = {int(half.sum())})"
        )
    axis.set(xlabel=f"score ({column.replace('_', ' ')})", ylabel="texts")
    figure.legend(loc="outside lower center", frameon=False)
    return figure


def steering_curve(
    measure: str, curve: Mapping[float, Estimate], unit: str, band: Mapping[float, tuple[float, float]]
) -> Figure:
    """One measure of the steered texts against the strength, with 95 % intervals and what random directions of equal norm do."""
    figure = Figure(figsize=(4.8, 4), layout="constrained")
    axis = figure.subplots()
    strengths, estimates = list(curve), list(curve.values())
    told = any(np.isfinite(e.lower) for e in estimates)
    label = "steered, 95 % interval" if told else "steered"
    axis.plot(strengths, [e.value for e in estimates], marker="o", color=BLUE, label=label)
    axis.fill_between(strengths, [e.lower for e in estimates], [e.upper for e in estimates], color=BLUE, alpha=0.2)
    if band:
        low, high = zip(*band.values(), strict=True)
        axis.fill_between(list(band), low, high, color=GREY, alpha=0.3, label="random directions of equal norm, 5-95 %")
    if measure.endswith("_share"):
        axis.set_ylim(0, 1)
    axis.set(xlabel=f"strength ({unit})", ylabel=STEERED_LABELS.get(measure, measure.replace("_", " ")))
    figure.legend(loc="outside lower center", frameon=False)
    return figure
