"""audit: what is wrong with a contrast set before anyone trusts a direction from it."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.data.audit import Finding, audit_pairs
from probe.data.concept import CREATIVE, side
from probe.data.contrast import read_contrast
from probe.data.reading import Pooling, Span
from probe.data.rows import RatedText, TextPair, read_rows
from probe.errors import ProbeError
from probe.files import atomic_write, try_file, without_nan
from probe.lm.spec import ContrastFiles, LMSpec
from probe.options.types import FilePath, NonNegativeInt

if TYPE_CHECKING:
    from probe.lm.frozen import FrozenLM
    from probe.shown.terminal import Terminal

EXIT = {"ok": 0, "warning": 1, "error": 3}
COLOUR = {"ok": "green", "warning": "yellow", "error": "red"}
MARK = {"ok": "ok", "warning": "WARNING", "error": "ERROR"}


def run(
    data: ContrastFiles,
    lm: LMSpec | None = None,
    span: Span = "prompt",
    pooling: Pooling = "mean",
    tokens: NonNegativeInt = 0,
    concept: str = CREATIVE,
    output: FilePath | None = None,
) -> int:
    """Checks a contrast set; exits with 0 if all is well, 1 after a warning, 3 after an error.

    Args:
        data: The files to check.
        lm: Also read the pairs with this model, and say how steady their direction is in it.
        span: Which texts are compared and read: the instructions (prompt) or what answers them (response).
        pooling: With a model, how a text's states become one vector, as in `fit`.
        tokens: With a model, show which tokens are read in so many texts.
        concept: What the two sides differ in, an adjective.
        output: Where to write the findings as JSON.
    """
    from probe.shown.terminal import Terminal

    if output:
        try_file(output, "--output")
    pairs, _ = read_contrast(data.pairs)
    files = {"validation_stories": data.validation_stories, "test_stories": data.test_stories}
    held_out = {name: read_rows(file, RatedText) for name, file in files.items() if file}
    findings = audit_pairs(pairs, span, held_out, concept)
    if tokens and lm is None:
        raise ProbeError("--tokens: expected a model whose tokens to show, found none; add --lm.model NAME.")
    console = Terminal()
    report: dict[str, Any] = {"pairs": data.pairs, "span": span, "pooling": pooling, "lm": lm.model if lm else None}
    if lm:
        steadiness, cosines, frozen = _read(pairs, lm, span, pooling)
        findings += _judge(pairs, steadiness, cosines)
        report |= {"layers": steadiness, "pair_cosines": cosines}
    worst = max((f.severity for f in findings), key=lambda s: EXIT[s])
    report |= {"severity": worst, "findings": [asdict(f) for f in findings]}
    if output:
        text = json.dumps(without_nan(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        atomic_write(Path(output), lambda path: path.write_text(text, encoding="utf-8"))
    if lm:
        _print_layers(console, steadiness)
        _print_tokens(console, frozen, pairs[: -(-tokens // 2)], span)
    _print_findings(console, findings, concept)
    count = {severity: sum(f.severity == severity for f in findings) for severity in ("error", "warning")}
    console.print(f"{count['error']} errors, {count['warning']} warnings.", highlight=False)
    console.print(
        "Next: mend the errors; a direction learned from these pairs would be judged too well, or on nothing."
        if worst == "error"
        else f"Next: probe fit --config configs/my_model.yaml --data.init_args.pairs {data.pairs}; what is warned of "
        "above does not keep you from it, but says what its result can mean.",
    )
    return EXIT[worst]


def _read(
    pairs: list[TextPair], spec: LMSpec, span: Span, pooling: Pooling
) -> tuple[list[dict[str, float]], list[float], "FrozenLM"]:
    """Reads both sides over the span's tokens; one record per layer, and each pair's cosine where d' is greatest."""
    from probe.activations.extractor import ActivationExtractor
    from probe.data.reading import pair_rows
    from probe.data.reading import pairs as pairs_of
    from probe.directions.geometry import d_prime, pair_cosines, permutation_p, split_half_cosine
    from probe.lm.frozen import FrozenLM

    lm = FrozenLM.load(spec)
    extract = ActivationExtractor(lm)
    rows = pair_rows(pairs)
    numbers = pairs_of(rows)
    h = extract([row.passage(span) for row in rows], progress=True).pooled(pooling)
    creative, uncreative = (h[side] for side in numbers.T)
    groups = [pair.group for pair in pairs]
    difference = creative - uncreative
    of_pair = pair_cosines(difference, groups)
    columns = {
        "pair_cosine": of_pair.mean(0),
        "split_half_cosine": split_half_cosine(difference, groups),
        "permutation_p": permutation_p(difference, groups),
        "d_prime": d_prime(creative, uncreative, groups),
    }
    by_layer = zip(extract.layers, *(column.tolist() for column in columns.values()), strict=True)
    records = [{"layer": layer} | dict(zip(columns, values, strict=True)) for layer, *values in by_layer]
    return records, of_pair[:, columns["d_prime"].nan_to_num(-1.0).argmax()].tolist(), lm


def _judge(pairs: list[TextPair], layers: list[dict[str, float]], cosines: list[float]) -> list[Finding]:
    p = min(layer["permutation_p"] for layer in layers) * len(layers)
    steady = max(layer["split_half_cosine"] for layer in layers)
    apart = max((layer["d_prime"] for layer in layers if math.isfinite(layer["d_prime"])), default=math.nan)
    known = [cosine for cosine in cosines if cosine]  # 0 where there is no other group to point away from
    against = sum(cosine < 0 for cosine in known) / len(known) if known else math.nan
    worst = sorted(zip(cosines, (pair.creative for pair in pairs), strict=True))[:3]
    examples = tuple(f"{cosine:.2f}: {text[:200]}" for cosine, text in worst)
    says = "smallest permutation p of the difference's norm, times the number of layers"
    return [
        Finding("direction_exists", "ok" if p <= 0.05 else "warning", min(p, 1.0), says),
        Finding(
            "direction_steady", "ok" if steady >= 0.5 else "warning", steady, "best cosine of two halves' directions"
        ),
        Finding(
            "classes_apart", "ok" if apart >= 0.5 else "warning", apart, "best d' along a direction of other groups"
        ),
        Finding(
            "pairs_against",
            "ok" if against <= 0.25 else "warning",
            against,
            "share of pairs that point away from the mean difference of other groups, where d' is greatest",
            examples,
        ),
    ]


def _print_findings(console: "Terminal", findings: list[Finding], concept: str) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, title="what the audit found")
    for name in ("", "check", "value", "which is"):
        table.add_column(name, justify="right" if name == "value" else "left")
    for f in findings:
        value = f"{f.value:g}" if float(f.value).is_integer() else f"{f.value:.3f}"
        shown = f.examples if f.severity != "ok" or f.check == "bag_of_words" else ()
        says = Text("\n").join([Text(f.message), *(Text(example, "dim") for example in shown)])
        check = " ".join(side(word, concept) for word in f.check.split("_"))
        table.add_row(Text(MARK[f.severity], COLOUR[f.severity]), check, value, says)
    console.print(table)


def _print_layers(console: "Terminal", layers: list[dict[str, float]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, title="the pairs' mean difference in the model, by layer")
    for name in layers[0]:
        table.add_column(name.replace("_", " ").replace("d prime", "d'"))
    for layer in layers:
        table.add_row(*(f"{value:g}" if name == "layer" else f"{value:.3f}" for name, value in layer.items()))
    console.print(table)


def _print_tokens(console: "Terminal", lm: "FrozenLM", pairs: list[TextPair], span: Span) -> None:
    from rich.text import Text

    from probe.data.reading import pair_rows

    for encoded in lm.encoder.encode([row.passage(span) for row in pair_rows(pairs)]):
        shown = Text("read tokens in [ ]: ")
        for token, read in zip(encoded.ids, encoded.pooled, strict=True):
            piece = str(lm.tokenizer.decode([token]))
            shown.append(f"[{piece}]" if read else piece, style="bold" if read else "dim")
        console.print(shown)
