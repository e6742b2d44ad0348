"""The notebook runs from its first cell to its last, and shows what it says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks/first_look.ipynb"


def test_the_notebook_runs_and_its_direction_ranks_and_steers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells)  # outputs of another machine would prove nothing
    shown: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), NOTEBOOK.name, "exec"), shown)
    assert shown["rho"].max() > np.percentile(shown["by_chance"], 95)
    assert shown["inventive"](shown["steered"]) > shown["inventive"](shown["plain"]) + 0.3
