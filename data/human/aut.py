"""Makes `aut.jsonl`, rated alternative uses with the paper's own split, from the public download.

    python data/human/aut.py FOLDER data/human/aut.jsonl

FOLDER holds `finetune-gt_main2_prepared_train.jsonl`, `..._val.jsonl` and `..._test.jsonl` of the repository
massivetexts/ocsai (folder data/ocsai1, MIT licence): prompts as a GPT-3 was fine-tuned on them, ratings times ten.

Source: Organisciak et al. 2023, "Beyond Semantic Distance", doi 10.1016/j.tsc.2023.101356.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

SPLITS = ("train", "val", "test")
ASKED = re.compile(r"AUT Prompt:(?P<object>.*?)\nResponse:(?P<text>.*)\nScore:\n", re.DOTALL)


def converted(folder: Path) -> Iterator[dict[str, str | float]]:
    """Every rated use; answers of nothing but spaces are left out."""
    for split in SPLITS:
        for line in (folder / f"finetune-gt_main2_prepared_{split}.jsonl").read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            found = ASKED.fullmatch(record["prompt"])
            assert found, f"expected 'AUT Prompt:OBJECT, Response:TEXT, Score:', found {record['prompt'][:80]!r}"
            thing, text = found["object"].strip(), found["text"].strip()
            if text:
                prompt = f"What is a surprising use for a {thing}?"
                rating = int(record["completion"]) / 10
                yield {"text": text, "rating": rating, "group": thing, "prompt": prompt, "split": split}


if __name__ == "__main__":
    folder, output = map(Path, sys.argv[1:])
    output.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in converted(folder)), encoding="utf-8"
    )
