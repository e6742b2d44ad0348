"""What steering costs while a model writes: steered against plain, and several strengths in one batch, interleaved.

    python tests/benchmarks/writing.py                                  # SmolLM2-135M-Instruct, CPU time
    python tests/benchmarks/writing.py --shape 1b --device cuda         # a Llama of that shape with random weights, seconds

Every ratio is of the same prompts in the same run: all ways write equally many tokens, greedily, and no text ends early.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from reading import SHAPES, make, rows, seconds
from rich.table import Table

from probe.lm.frozen import FrozenLM
from probe.progress import working
from probe.shown.terminal import Terminal
from probe.steering.arms import Arm, write
from probe.steering.settings import Sampling


def arms(lm: FrozenLM, strengths: int) -> list[Arm]:
    """The middle block, steered by a random direction at as many strengths, none of them large enough to matter."""
    layer = lm.n_layers // 2
    unit = torch.nn.functional.normalize(torch.randn(lm.hidden_size, generator=torch.Generator().manual_seed(0)), dim=0)
    return [Arm(f"{i}", {layer: 1e-3 * (i + 1) * unit}, i + 1.0) for i in range(strengths)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--strengths", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="JSON")
    args = parser.parse_args()
    lm, cuda = make(args.shape, args.device), args.device == "cuda"
    lm.model.generation_config.eos_token_id = None  # nothing ends early
    prompts = [row["creative"] for row in rows("creativity/pairs.jsonl")[:: 500 // args.prompts]][: args.prompts]
    how, steered = Sampling(args.tokens, 0.0, rows=args.prompts * args.strengths), arms(lm, args.strengths)

    def writing(*of_prompt: Arm) -> Callable[[], object]:
        asked = [(prompt, arm) for prompt in prompts for arm in of_prompt]
        return lambda: write(lm, asked, how)

    def one_after_another() -> None:
        for arm in steered:
            writing(arm)()

    ways = {
        "plain": writing(Arm("plain")),
        "steered": writing(steered[0]),
        "strengths in one batch": writing(*steered),
        "one after another": one_after_another,
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    with working("writing", (args.repeats + 1) * len(ways), "ways") as advance:
        for turn in range(args.repeats + 1):
            for way, work in ways.items():
                taken = seconds(work, cuda)
                times[way] += [taken] if turn else []  # the first turn warms up
                advance(1)
    ratio = lambda way, to: statistics.median(a / b for a, b in zip(times[way], times[to], strict=True))  # noqa: E731
    n = args.prompts * args.tokens
    found = {
        "prompts": args.prompts,
        "tokens": args.tokens,
        "strengths": args.strengths,
        "tokens_per_s_plain": n / statistics.median(times["plain"]),
        "tokens_per_s_in_one_batch": n * args.strengths / statistics.median(times["strengths in one batch"]),
        "steered / plain": ratio("steered", "plain"),
        "one batch / one after another": ratio("strengths in one batch", "one after another"),
    }
    table = Table(title=f"{lm.spec.model}, {lm.model.dtype}, {torch.cuda.get_device_name() if cuda else 'CPU'}")
    for column in found:
        table.add_column(column)
    table.add_row(*(f"{value:,.3f}" if isinstance(value, float) else f"{value}" for value in found.values()))
    Terminal().print(table)
    if args.output:
        args.output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
