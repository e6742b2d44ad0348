"""stories: the paper's experiment, with the controls it lacks, and judges that share nothing with the steering."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from probe.data.concept import CREATIVE
from probe.errors import ProbeError
from probe.files import try_folder
from probe.lm.chat import Endpoint
from probe.lm.replies import ReplyLog
from probe.lm.sources import cached
from probe.lm.spec import DataFiles, LMSpec
from probe.logs import adapter_folder, direction_folder
from probe.options.types import FilePath, NonNegativeInt, PositiveInt
from probe.steering.settings import Demonstration

if TYPE_CHECKING:
    from probe.lm.frozen import FrozenLM
    from probe.lm.judges import AskAll


def run(
    data: DataFiles,
    direction: FilePath | None = None,
    run: str | None = None,
    lm: LMSpec | None = None,
    steering: Demonstration = Demonstration(),  # noqa: B008  (read, never changed)
    ask: str = "{prompt} Be {concept}.",
    adapter: FilePath | None = None,
    n_prompts: PositiveInt = 100,
    self_judge: bool = False,
    endpoint: Endpoint | None = None,
    concept: str | None = None,
    n_judged: PositiveInt = 40,
    replies: FilePath = "auto",
    ballot: NonNegativeInt = 0,
    other_model: bool = False,
    output: FilePath = "lightning_logs/stories",
) -> int:
    """Writes stories from creative and uncreative prompts, steered and by the controls, and has them compared.

    Args:
        data: The files that the direction was fitted with.
        direction: Folder of a saved direction, or of its run; the newest under lightning_logs by default.
        run: Which run's direction, in place of its folder: newest, or a name such as probe/version_3.
        lm: The model; by default the one that the direction was made with.
        steering: How the steered stories are made (of several strengths by the last), how all are written, and who reads them.
        ask: The prompt baseline; {prompt} stands for the uncreative prompt, {concept} for the concept.
        adapter: Folder of a LoRA writer that `fit --model LoRAWriter` left, as a further control, at the KL of steering.
        n_prompts: Uncreative prompts, from the test groups alone; all where there are fewer.
        self_judge: Let the model itself compare the stories in words.
        endpoint: An OpenAI-compatible endpoint that compares them; its key comes from the environment.
        concept: What the judges are asked for, an adjective; by default what the direction is one of.
        n_judged: Prompts whose stories judges compare, each pair in both orders.
        replies: Where judges' replies are kept; nothing is asked twice; `auto` is a file in the user's cache folder.
        ballot: How many blinded pairs of the paper's three sets to write out for people; `probe votes` reads the
            votes back.
        other_model: Admit a model with other weights than those that the direction was made with.
        output: Folder of the runs.
    """
    from lightning.pytorch.loggers import TensorBoardLogger

    from probe.lm.adapters import attach
    from probe.metrics.ballot import write_ballot
    from probe.metrics.pairwise import by_judge
    from probe.shown.terminal import Terminal
    from probe.steering.asked import asked_for
    from probe.steering.dose import CALIBRATED_ON, with_dose
    from probe.steering.ground import dull_prompts, open_direction, unseen_ground
    from probe.steering.witnesses import witnesses
    from probe.verbs.stories.report import StoriesReport
    from probe.verbs.stories.sets import OF_THE_PAPER, write_stories

    if "{prompt}" not in ask:
        raise ProbeError("--ask: expected {prompt} where the uncreative prompt is to stand, found none; add it.")
    try_folder(output, "--output")
    readers = witnesses(steering)
    opened, rows_of, frozen = open_direction(direction_folder(direction, run), data, lm, other_model)
    how, _ = asked_for(opened, steering, steering.strengths)
    concept = concept or opened.provenance.get("concept", CREATIVE)
    # Refuses what cannot be before anything is written, which a dose is measured on.
    opened.deltas(how.strength, "norm" if how.unit == "dose" else how.unit, how.layers)
    writing = replace(steering, tokens=how.tokens)
    ground = unseen_ground(frozen, opened, rows_of, writing, readers, n_prompts)
    if adapter:
        frozen.adapter = attach(frozen, adapter_folder(adapter), opened.provenance["data_fingerprint"])
    board = TensorBoardLogger(output, name="", default_hp_metric=False)
    judges = _judges(frozen if self_judge else None, endpoint, cached(replies, "replies.db"))
    if how.unit == "dose":
        dull = dull_prompts(rows_of.rows["validation"])
        with frozen.adapted(0):
            ground = replace(ground, direction=with_dose(frozen, opened, how.layers, dull[:CALIBRATED_ON], writing))
    console = Terminal()
    say = console.print
    sets = write_stories(ground, how, ask.replace("{concept}", concept), steering.seed, say, progress=True)
    Path(board.log_dir).mkdir(parents=True)
    report = StoriesReport(board, sets)
    pairs = sets.comparisons(n_judged)
    for name, ask_all in judges.items():
        say(f"{name} compares {len(pairs)} pairs of stories, in both orders")
        report.add_judge(name, by_judge(pairs, ask_all, concept), n_judged)
    report.write(console)
    left = "stories.json, stories.csv, texts.jsonl"
    if ballot:
        asked = [c for c in sets.comparisons() if {c.set_a, c.set_b} <= OF_THE_PAPER]
        sheet, key = write_ballot(asked, report.folder, ballot, steering.seed)
        left += f", {sheet.name} (give copies of it to people), {key.name} (keep it from them)"
    report.draw()
    say(f"\nEverything is in {report.folder}: {left}.")
    say(f"Next: tensorboard --logdir {output}")
    if ballot:
        say(f"  or: probe votes ann.csv bo.csv --key {key}")
    return 0


def _judges(lm: "FrozenLM | None", endpoint: Endpoint | None, replies: Path) -> dict[str, "AskAll"]:
    """Judge -> how to ask it; one that cannot be asked is found here, before any story is written."""
    if not lm and not endpoint:
        return {}
    from probe.lm.judges import endpoint_judge, own_judge

    log = ReplyLog(replies, "--replies")
    itself = {"the model itself": own_judge(log, lm)} if lm else {}
    return itself | ({endpoint.model: endpoint_judge(log, endpoint)} if endpoint else {})
