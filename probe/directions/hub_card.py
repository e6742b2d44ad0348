"""A direction to hand on: its tensors, and a card that says what it is, what it was measured to do, and how to use it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from probe.directions.direction import Direction
from probe.files import atomic_write, from_json
from probe.shown.escapes import markdown

USE = """import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

name = "{model}"{note}
tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModelForCausalLM.from_pretrained(name)
for layer, vector in load_file("steering.safetensors").items():  # block, 0-based -> what is added to its output
    block = model.get_submodule("{blocks}")[int(layer)]
    block.register_forward_hook(
        lambda _, __, out, v=vector: (out[0] + v.to(out[0]), *out[1:]) if isinstance(out, tuple) else out + v.to(out)
    )
"""


def write_for_hub(direction: Direction, vectors: Mapping[int, Tensor], blocks: str, run: Path, folder: Path) -> None:
    """Writes the direction, what is added at scale 1 (`steering.safetensors`) and `README.md`, a Hub-style card.

    `blocks` is the name of the list of decoder blocks in the model.
    """
    direction.save(folder)
    tensors = {str(k): vector.float().cpu().contiguous() for k, vector in vectors.items()}
    atomic_write(folder / "steering.safetensors", lambda path: save_file(tensors, path))
    made = direction.provenance
    told = {
        name: made[name]
        for name in ("method", "span", "pooling", "concept", "n_pairs", "n_texts", "n_groups")
        if name in made
    }
    norms = ", ".join(f"block {k}: length {float(torch.linalg.vector_norm(v)):.1f}" for k, v in vectors.items())
    model = str(made.get("lm", ""))
    lines = [
        "---",
        f"base_model: {json.dumps(model)}",
        "tags: [steering-vector, interpretability]",
        "---",
        f"# A direction for {markdown(str(made.get('concept', 'a concept')))} in {markdown(model)}",
        "",
        f"Found by `probe`: {markdown(json.dumps(told))}. It is added to the output of {norms}.",
        "",
        *_figures(run, direction),
        "",
        "It shows that the scores above follow the judged texts, not that the direction causes creativity; on other models it "
        "means nothing. The base model's licence applies to what is written with it.",
        "",
        "```python",
        USE.format(model=model.replace('"', ""), note=_note(model), blocks=blocks).rstrip(),
        "```",
        "",
    ]
    atomic_write(folder / "README.md", lambda path: path.write_text("\n".join(lines), encoding="utf-8"))


def _note(model: str) -> str:
    """What a reader of the code has to put in for a model that transformers does not find by this name."""
    known = not model.startswith("package:") and not model.endswith(".gguf")
    return "" if known else "  # <- put in its folder or hub id, as transformers loads it"


def _figures(run: Path, direction: Direction) -> list[str]:
    """What the run measured on test, with intervals; a direction without a run has been judged by nobody."""
    file = run / "metrics.json"
    if not file.is_file() or direction.chosen is None:
        return ["Nothing has been measured with it."]
    results: list[dict[str, Any]] = from_json(file.read_text(encoding="utf-8"))["results"].get("test", [])
    columns = [
        f"layer_{direction.chosen}",
        *dict.fromkeys(r["column"] for r in results if not r["column"].startswith("layer_")),
    ]
    lines = [
        "| on test | " + " | ".join(column.replace("_", " ") for column in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for metric in dict.fromkeys(r["metric"] for r in results if r["value"] is not None):
        cells = {r["column"]: r for r in results if r["metric"] == metric}
        shown = (
            f"{c['value']:.2f} [{c['lower']:.2f}, {c['upper']:.2f}]"
            if (c := cells.get(column, {})).get("value") is not None and c.get("lower") is not None
            else "-"
            for column in columns
        )
        lines.append(f"| {metric.replace('_', ' ')} | " + " | ".join(shown) + " |")
    return lines
