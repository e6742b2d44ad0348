"""report: a run on one page, which opens from the disk, on a phone and on paper, and needs nothing else."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment

from probe.errors import ProbeError
from probe.files import atomic_write, from_json, try_file
from probe.logs import find_run
from probe.options.types import FilePath

METRICS = "metrics.json"
FIRST = ("result-idea_or_style", "test-layers-idea_accuracy", "test-layers-spearman", "test-scores", "result-steering")
"""The figures that are shown open, in this order; the others are folded away."""
MOST_TEXTS = 40
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ name }}</title><style>
:root { color-scheme: light dark; --line: #8886; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.verdict { border-left: .3rem solid #0072B2; padding: .2rem 1rem; font-size: 1.05rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td.figure { white-space: nowrap; font-variant-numeric: tabular-nums; }
img { max-width: 100%; height: auto; background: #fff; border-radius: .3rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); gap: 1rem; }
.text { border: 1px solid var(--line); border-radius: .3rem; padding: .5rem .8rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.note { opacity: .75; font-size: .85rem; } dt { font-weight: 600; } dd { margin: 0 0 .4rem; overflow-wrap: anywhere; }
@media print { details { display: none; } .pair, figure { break-inside: avoid; } }
</style></head><body>
<h1>{{ name }}</h1>
{% if verdict %}<p class="verdict">{{ verdict }}</p>{% endif %}
{% for line in figures_say %}<p class="note">{{ line }}</p>{% endfor %}
<h2>On texts that it never saw</h2>
<div class="wide"><table><tr><th></th>{% for c in columns %}<th>{{ c }}</th>{% endfor %}</tr>
{% for row in rows %}<tr><td>{{ row.metric }}</td>{% for cell in row.cells %}<td class="figure">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
<p class="note">With 95 % intervals, bootstrapped over topics; the layer was chosen on other texts.</p>
{% for figure in shown %}<figure><figcaption>{{ figure.name }}</figcaption>
<img src="data:image/png;base64,{{ figure.data }}" alt="{{ figure.name }}"></figure>{% endfor %}
{% if folded %}<details><summary>{{ folded|length }} further figures</summary>
{% for figure in folded %}<figure><figcaption>{{ figure.name }}</figcaption>
<img loading="lazy" src="data:image/png;base64,{{ figure.data }}" alt="{{ figure.name }}"></figure>{% endfor %}
</details>{% endif %}
{% if prompts %}<h2>Plain and steered</h2>
<p class="note">Scored on a clean pass, along a direction from other topics. A demonstration: few texts, no proof.</p>
{% for prompt in prompts %}<h3>{{ prompt.prompt }}</h3><div class="pair">{% for text in prompt.texts %}
<div class="text"><div class="note">{{ text.head }}</div>{{ text.text }}</div>{% endfor %}</div>{% endfor %}{% endif %}
<h2>Where it comes from</h2><dl>{% for key, value in made %}<dt>{{ key }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
{% if config %}<details><summary>config.yaml</summary><pre class="wide">{{ config }}</pre></details>{% endif %}
</body></html>
"""


def run(run: str = "newest", output: FilePath | None = None) -> int:
    """Writes a run of `fit` as one HTML page with all that it holds: verdict, table, figures, texts, settings.

    Args:
        run: Which run: newest, its folder, or a name such as probe/version_3.
        output: The file; by default report.html in the run's folder.
    """
    from probe.logs import CHECKPOINT
    from probe.shown.terminal import Terminal

    folder = find_run(run, CHECKPOINT)
    path = try_file(output or folder / "report.html", "--output")
    atomic_write(path, lambda partial: partial.write_text(page(folder), encoding="utf-8"))
    Terminal().print(
        f"{path}: one page, {path.stat().st_size / 1e6:.1f} MB, which opens in any browser without a network."
    )
    return 0


def page(folder: Path) -> str:
    """The page of a run's folder; what models and files say is escaped, and the same run gives the same bytes.

    Raises:
        ProbeError: where the folder holds no result that can be read.
    """
    try:
        metrics = from_json((folder / METRICS).read_text(encoding="utf-8"))
        results, made = metrics["results"].get("test") or metrics["results"]["validation"], dict(metrics["provenance"])
        prompts = _prompts(folder / "steering.jsonl")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProbeError(
            f"{folder}: expected a run of `fit` with its {METRICS}, found none that can be read ({error})."
        ) from error
    layers = {r["column"] for r in results if str(r["column"]).startswith("layer_")}
    columns = [
        metrics["chosen"],
        *dict.fromkeys(r["column"] for r in results if r["column"] not in layers | {metrics["chosen"]}),
    ]
    pictures = sorted((folder / "figures").glob("*.png"), key=lambda p: (_place(p.stem), p.stem))
    drawn = [(p.stem, {"name": _said(p.stem), "data": base64.b64encode(p.read_bytes()).decode()}) for p in pictures]
    config = folder / "config.yaml"
    return (
        Environment(autoescape=True)
        .from_string(PAGE)
        .render(
            name=f"{made.get('method', 'A run')} on {made.get('lm', 'a model')}: {made.get('concept', '')}",
            verdict=metrics.get("verdict", ""),
            figures_say=metrics.get("figures_say", []),
            columns=[_said(str(column)) for column in columns],
            rows=_rows(results, columns),
            shown=[picture for stem, picture in drawn if stem in FIRST],
            folded=[picture for stem, picture in drawn if stem not in FIRST],
            prompts=prompts,
            made=sorted((key.replace("_", " "), value) for key, value in made.items()),
            config=config.read_text(encoding="utf-8") if config.is_file() else "",
        )
    )


def _place(stem: str) -> int:
    return FIRST.index(stem) if stem in FIRST else len(FIRST)


def _said(name: str) -> str:
    return name.replace("-", ", ").replace("_", " ")


def _rows(results: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each metric that anything can be said of."""
    cells = {(r["metric"], r["column"]): r for r in results}
    metrics = dict.fromkeys(r["metric"] for r in results if r["value"] is not None)
    return [{"metric": _said(m), "cells": [_figure(cells.get((m, column))) for column in columns]} for m in metrics]


def _figure(record: Mapping[str, Any] | None) -> str:
    if record is None or record["value"] is None:
        return "-"
    interval = [record.get("lower"), record.get("upper")]
    return f"{record['value']:.2f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if None not in interval else "")


def _prompts(file: Path) -> list[dict[str, Any]]:
    """The texts of each prompt, the plain one first, without those along random directions."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    texts = [text for text in map(from_json, lines) if not str(text["arm"]).startswith("random")][:MOST_TEXTS]
    return [
        {"prompt": prompt, "texts": [{"head": _head(t), "text": t["text"]} for t in texts if t["prompt"] == prompt]}
        for prompt in dict.fromkeys(text["prompt"] for text in texts)
    ]


def _head(text: Mapping[str, Any]) -> str:
    told = [
        f"{name.replace('_', ' ')} {text[name]:.2f}" for name in ("score", "extra_nll") if text.get(name) is not None
    ]
    return ", ".join([f"{text['arm']}, strength {text['strength']:g}", *told])
