"""The command line: where rooms are wired together. Lightning is imported only when a run starts."""

import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.errors import ProbeError
from probe.plugins import admit_classes
from probe.preflight import check
from probe.verbs import run_command

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningCLI

VERBS = {
    "fit": "find a direction, judge it on unseen texts, steer with it",
    "validate": "judge a checkpoint on validation: --ckpt_path",
    "test": "judge a checkpoint on test: --ckpt_path",
    "predict": "write a checkpoint's scores of the test texts: --ckpt_path",
}
COMMANDS = {
    "compare": "which way of reading is best, by how much, and whether that is real: --config configs/compare.yaml",
    "sweep": "at which layer and how strongly to steer: --config configs/sweep.yaml",
    "stories": "the paper's experiment: sets of stories, with controls and judges: --config configs/stories.yaml",
    "votes": "ballots that people filled in, read back as preferences: FILE ... --key FILE",
    "audit": "check a contrast set for what would make its direction worthless: --data.pairs FILE",
    "generate": "write steered texts beside plain ones, with a direction that `fit` found: PROMPT --strength 2",
    "pairs": "make a contrast set from creative prompts, by asking a language model: --input FILE --output FILE",
}


def main(argv: Sequence[str]) -> int:
    """Runs one verb and returns the exit code; every foreseen error is one line."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: python -m probe VERB --config FILE [options]\n")
        print("\n".join(f"  {verb:10}{text}" for verb, text in (VERBS | COMMANDS).items()))
        print(
            "\nStart with: python -m probe fit --config configs/quickstart.yaml\nOptions of a verb: python -m probe VERB --help\n"
            "With any verb: --plugin PACKAGE admits scorers from a package of your own"
        )
        return 0
    try:
        argv = admit_classes(argv)
        if argv[0] in COMMANDS:
            _quiet()
            return run_command(argv[0], argv[1:])
        if argv[0] not in VERBS:
            raise ProbeError(_unknown_verb(argv[0]))
        if not {"-h", "--help"} & set(argv):
            check(argv)
        return _run(argv)
    except SystemExit as stop:
        # The parser's own errors are printed already; Lightning leaves by SystemExit after a signal, with code 1 or none.
        if isinstance(stop.__context__, KeyboardInterrupt):
            return 128 + signal.SIGINT
        if type(stop).__name__ == "SIGTERMException":
            return 128 + signal.SIGTERM
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:
        known = _probe_error(error)
        if isinstance(error, OSError) and error.filename:
            known = ProbeError(f"{error.filename}: {error.strerror}; free it, or name another file or folder.")
        if known is None or os.environ.get("PROBE_DEBUG"):
            raise
        print(f"error: {known}", file=sys.stderr)
        return 2


def _unknown_verb(word: str) -> str:
    import difflib

    close = difflib.get_close_matches(word, [*VERBS, *COMMANDS], 1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"expected a verb ({', '.join([*VERBS, *COMMANDS])}), found {word!r}{hint}"


def _probe_error(error: BaseException | None) -> ProbeError | None:
    """The ProbeError behind an exception: jsonargparse and Lightning wrap what a class raises."""
    while error is not None and not isinstance(error, ProbeError):
        error = error.__cause__ or error.__context__
    return error


def _run(argv: Sequence[str]) -> int:
    _quiet()
    _make_cli(["--lm.strict=true" if word == "--strict" else word for word in argv])
    return 0


def _quiet() -> None:
    """Silences tips and a deprecation inside Lightning; nothing that a user could act on."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    # Every process logs the same values: they are computed from the rows of all.
    warnings.filterwarnings("ignore", message=".*recommended to use .*sync_dist=True.*")
    warnings.filterwarnings("ignore", message=".*dirpath has changed.*")
    warnings.filterwarnings("ignore", message=".*args parameter is intended.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*`lr_scheduler.step.*")
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(name).addFilter(
            lambda record: not any(s in record.getMessage() for s in ("💡", "TPU", "GPU", "`Trainer.fit` stopped"))
        )


def _make_cli(argv: Sequence[str]) -> "LightningCLI":
    """Builds LightningCLI, which runs the verb."""
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
    from rich.console import Console

    from probe.data import ContrastData
    from probe.reporting import RunReport, ScoreWriter, print_report, print_table, write_report
    from probe.scorers import Scorer
    from probe.spec import LMSpec
    from probe.steering_callback import SteeringCallback

    width = None if sys.stdout.isatty() else 120

    class Parser(LightningArgumentParser):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # An abbreviated option would be taken for the one it begins; a misspelt one must not pass.
            super().__init__(*args, allow_abbrev=False, **kwargs)

        def print_usage(self, file: Any = None) -> None:
            print("python -m probe VERB --help shows every option.", file=file or sys.stderr)

    class ProbeCLI(LightningCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_class_arguments(LMSpec, "lm")
            parser.link_arguments("lm", "model.init_args.lm")
            parser.add_lightning_class_args(SteeringCallback, "steering")

        def _parse_ckpt_path(self) -> None:
            # Lightning would merge the checkpoint's hyper-parameters over YAML and command line; the config decides here,
            # and Scorer.on_load_checkpoint refuses what does not fit.
            config = self.config[self.config.subcommand]
            path = config.get("ckpt_path")
            if path is None and self.config.subcommand != "fit":
                raise ProbeError(
                    f"{self.config.subcommand} needs --ckpt_path FILE, found none; `last` takes the newest."
                )
            if path == "last":
                config["ckpt_path"] = str(_newest_checkpoint(Path("lightning_logs")))
            elif path and not Path(path).is_file():
                raise ProbeError(f"--ckpt_path {path}: no such file; `last` takes the newest under lightning_logs.")

        def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
            kwargs = super()._prepare_subcommand_kwargs(subcommand)
            return kwargs | ({"verbose": False} if "verbose" in kwargs else {})  # our own table says more in less

        def after_validate(self) -> None:
            folder = Path(self.trainer.log_dir or ".")
            if self.trainer.is_global_zero:
                write_report(folder, self.model, report.judge, None)
                print_table(Console(width=width), self.model, report.judge, "validation")

        def after_fit(self) -> None:
            self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)
            self.after_test()

        def after_test(self) -> None:
            callbacks: list[Any] = vars(self.trainer)["callbacks"]
            steering = next((c for c in callbacks if isinstance(c, SteeringCallback)), None)
            folder = Path(self.trainer.log_dir or ".")
            if self.trainer.is_global_zero:
                write_report(folder, self.model, report.judge, steering)
                print_report(Console(width=width), folder, self.model, report.judge, steering)

    last, report = ModelCheckpoint(filename="last", enable_version_counter=False), RunReport()
    return ProbeCLI(
        Scorer,
        ContrastData,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},
        parser_class=Parser,
        parser_kwargs={"prog": "python -m probe"},
        trainer_defaults={
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "use_distributed_sampler": False,
            "enable_model_summary": False,
            "logger": {
                "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
                "init_args": {"save_dir": "lightning_logs", "name": "probe", "default_hp_metric": False},
            },
            "callbacks": [last, report, ScoreWriter("epoch")],
        },
        args=list(argv),
    )


def _newest_checkpoint(folder: Path) -> Path:
    found = sorted(folder.rglob("last.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ProbeError(f"--ckpt_path last: expected a checkpoint under {folder}, found none; run `fit` first.")
    return found[-1]
