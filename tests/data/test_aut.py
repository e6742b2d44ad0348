import json
import subprocess
import sys
from pathlib import Path

from probe.data.rated import RatedData

SCRIPT = Path(__file__).parents[2] / "data/human/aut.py"


def test_the_public_download_becomes_rated_texts_with_its_own_split(tmp_path: Path) -> None:
    for split, ratings in {"train": (10, 23, 50), "val": (18, 30), "test": (15, 44)}.items():
        records = [
            {"prompt": f"AUT Prompt:lamp\nResponse: {split} {i},\nthen more \nScore:\n", "completion": str(rating)}
            for i, rating in enumerate(ratings)
        ]
        records.append({"prompt": "AUT Prompt:lamp\nResponse: \nScore:\n", "completion": "10"})
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (tmp_path / f"finetune-gt_main2_prepared_{split}.jsonl").write_text(lines)
    output = tmp_path / "aut.jsonl"
    subprocess.run([sys.executable, str(SCRIPT), str(tmp_path), str(output)], check=True)
    data = RatedData(str(output))
    data.setup("fit")
    assert {split: [row.truth for row in rows] for split, rows in data.rows.items()} == {
        "train": [1.0, 2.3, 5.0], "validation": [1.8, 3.0], "test": [1.5, 4.4]
    }  # fmt: skip
    assert data.rows["test"][0].response == "test 0,\nthen more"
    assert data.rows["test"][0].prompt == "What is a surprising use for a lamp?"
