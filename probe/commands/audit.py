"""audit: what is wrong with a contrast set before anyone trusts a direction from it."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.audit import Finding, audit_pairs
from probe.errors import ProbeError
from probe.files import atomic_write
from probe.rows import Pooling, RatedText, Span, TextPair, read_rows
from probe.spec import LMSpec

if TYPE_CHECKING:
    from rich.console import Console

    from probe.lm import FrozenLM

EXIT = {"ok": 0, "warning": 1, "error": 3}
COLOUR = {"ok": "green", "warning": "yellow", "error": "red"}
MARK = {"ok": "ok", "warning": "WARNING", "error": "ERROR"}


@dataclass
class DataFiles:
    """The files of a contrast set.

    Args:
        pairs: JSONL or CSV of contrastive pairs.
        validation_stories: Rated texts on which a layer is chosen.
        test_stories: Rated texts on which the result is read.
    """

    pairs: str
    validation_stories: str | None = None
    test_stories: str | None = None


def run(
    data: DataFiles,
    lm: LMSpec | None = None,
    span: Span = "prompt",
    pooling: Pooling = "mean",
    tokens: int = 0,
    output: str | None = None,
) -> int:
    """Checks a contrast set; exits with 0 if all is well, 1 after a warning, 3 after an error.

    Args:
        data: The files to check.
        lm: Also read the pairs with this model, and say how steady their direction is in it.
        span: Which texts are compared and read: the instructions (prompt) or what answers them (response).
        pooling: With a model, how a text's states become one vector, as in `fit`.
        tokens: With a model, show which tokens are read in so many texts.
        output: Where to write the findings as JSON.
    """
    from rich.console import Console

    pairs = read_rows(data.pairs, TextPair)
    files = {"validation_stories": data.validation_stories, "test_stories": data.test_stories}
    findings = audit_pairs(pairs, span, {name: read_rows(file, RatedText) for name, file in files.items() if file})
    if tokens and lm is None:
        raise ProbeError("--tokens: expected a model whose tokens to show, found none; add --lm.model NAME.")
    console = Console(width=None if sys.stdout.isatty() else 120)
    report: dict[str, Any] = {"pairs": data.pairs, "span": span, "pooling": pooling, "lm": lm.model if lm else None}
    if lm:
        steadiness, cosines, frozen = _read(pairs, lm, span, pooling)
        findings += _judge(pairs, steadiness, cosines)
        report |= {"layers": steadiness, "pair_cosines": cosines}
        _print_layers(console, steadiness)
        _print_tokens(console, frozen, pairs[: -(-tokens // 2)], span)
    _print_findings(console, findings)
    worst = max((f.severity for f in findings), key=lambda s: EXIT[s])
    count = {severity: sum(f.severity == severity for f in findings) for severity in ("error", "warning")}
    console.print(f"{count['error']} errors, {count['warning']} warnings.", highlight=False)
    report |= {"severity": worst, "findings": [asdict(f) for f in findings]}
    if output:
        text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        atomic_write(Path(output), lambda path: path.write_text(text, encoding="utf-8"))
    return EXIT[worst]


def _read(
    pairs: list[TextPair], spec: LMSpec, span: Span, pooling: Pooling
) -> tuple[list[dict[str, float]], list[float], "FrozenLM"]:
    """Reads both sides over the span's tokens; one record per layer, and each pair's cosine where d' is greatest."""
    from probe.activations import ActivationExtractor
    from probe.data import pair_rows
    from probe.geometry import d_prime, pair_cosines, permutation_p, split_half_cosine
    from probe.lm import FrozenLM

    lm = FrozenLM.load(spec)
    extract = ActivationExtractor(lm)
    h = extract([row.passage(span) for row in pair_rows(pairs)], progress=True).pooled(pooling)
    creative, uncreative = h[::2], h[1::2]
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
    return records, of_pair[:, columns["d_prime"].argmax()].tolist(), lm


def _judge(pairs: list[TextPair], layers: list[dict[str, float]], cosines: list[float]) -> list[Finding]:
    p = min(layer["permutation_p"] for layer in layers) * len(layers)
    steady = max(layer["split_half_cosine"] for layer in layers)
    apart = max(layer["d_prime"] for layer in layers)
    against = sum(cosine < 0 for cosine in cosines) / len(cosines)
    worst = sorted(zip(cosines, (pair.creative for pair in pairs), strict=True))[:3]
    examples = tuple(f"{cosine:.2f}: {text[:200]}" for cosine, text in worst)
    says = "smallest permutation p of the difference's norm, times the number of layers"
    return [
        Finding("direction_exists", "warning" if p > 0.05 else "ok", min(p, 1.0), says),
        Finding(
            "direction_steady", "warning" if steady < 0.5 else "ok", steady, "best cosine of two halves' directions"
        ),
        Finding(
            "classes_apart", "warning" if apart < 0.5 else "ok", apart, "best d' along a direction of other groups"
        ),
        Finding(
            "pairs_against",
            "warning" if against > 0.25 else "ok",
            against,
            "share of pairs that point away from the mean difference of other groups, where d' is greatest",
            examples,
        ),
    ]


def _print_findings(console: "Console", findings: list[Finding]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, title="what the audit found")
    for name in ("", "check", "value", "which is"):
        table.add_column(name, justify="right" if name == "value" else "left")
    for f in findings:
        value = f"{f.value:g}" if float(f.value).is_integer() else f"{f.value:.3f}"
        shown = f.examples if f.severity != "ok" or f.check == "bag_of_words" else ()
        says = "\n".join([escape(f.message), *(f"[dim]{escape(example)}[/dim]" for example in shown)])
        table.add_row(f"[{COLOUR[f.severity]}]{MARK[f.severity]}[/]", f.check.replace("_", " "), value, says)
    console.print(table, highlight=False)


def _print_layers(console: "Console", layers: list[dict[str, float]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, title="the pairs' mean difference in the model, by layer")
    for name in layers[0]:
        table.add_column(name.replace("_", " ").replace("d prime", "d'"))
    for layer in layers:
        table.add_row(*(f"{value:g}" if name == "layer" else f"{value:.3f}" for name, value in layer.items()))
    console.print(table)


def _print_tokens(console: "Console", lm: "FrozenLM", pairs: list[TextPair], span: Span) -> None:
    from rich.text import Text

    from probe.data import pair_rows

    for encoded in lm.encode([row.passage(span) for row in pair_rows(pairs)]):
        shown = Text("read tokens in [ ]: ")
        for token, read in zip(encoded.ids, encoded.pooled, strict=True):
            piece = str(lm.tokenizer.decode([token]))
            shown.append(f"[{piece}]" if read else piece, style="bold" if read else "dim")
        console.print(shown)
