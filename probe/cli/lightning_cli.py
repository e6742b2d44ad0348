"""LightningCLI as `fit`, `validate`, `test` and `predict` run it; Lightning is imported only when it is made."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.cli.faults import probe_error
from probe.errors import ProbeError
from probe.options.parsing import OneSentence, check_settings

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningCLI

OF_TRAINER = {
    "accelerator": "cpu",
    "devices": 1,
    "max_epochs": 1,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,
    "use_distributed_sampler": False,
    "enable_model_summary": False,
    "enable_progress_bar": False,  # ours says more: it counts texts
    "logger": {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": {"save_dir": "lightning_logs", "name": "probe", "default_hp_metric": False},
    },
}
"""Defaults that differ from Lightning's."""


def make_cli(argv: Sequence[str], resume: bool = False) -> "LightningCLI":
    """Builds LightningCLI, which runs the verb; `resume` goes on from this run's newest checkpoint, if there is one."""
    import jsonargparse
    from lightning import seed_everything
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
    from lightning.pytorch.utilities import rank_zero_info

    from probe.cli.stages import WholeStages
    from probe.data import ContrastData, RatedData  # noqa: F401  # both may be named
    from probe.data.concept import CREATIVE
    from probe.data.splits import SplitRows
    from probe.lm.spec import LMSpec
    from probe.scorers import Scorer
    from probe.scorers.checkpoints import NothingToResumeError, newest_checkpoint, read_checkpoint
    from probe.shown.terminal import Terminal
    from probe.steering.callback import SteeringCallback
    from probe.verbs.fit.epochs import EpochProgress
    from probe.verbs.fit.report import RunReport, ScoreWriter
    from probe.verbs.fit.screens import print_end, print_table

    class Parser(OneSentence, LightningArgumentParser):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # An abbreviated option would be taken for the one it begins; a misspelt one must not pass.
            super().__init__(*args, allow_abbrev=False, **kwargs)

    class ProbeCLI(LightningCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_class_arguments(LMSpec, "lm")
            parser.link_arguments("lm", "model.init_args.lm")
            parser.add_lightning_class_args(SteeringCallback, "steering")
            parser.add_argument("--concept", type=str, default=CREATIVE, help="what the texts differ in, an adjective")
            parser.link_arguments("concept", "data.init_args.concept")
            # Configs that older versions saved hold it, as null.
            parser.add_argument("--weights_only", type=type(None), default=None, help=argparse.SUPPRESS)

        def instantiate_classes(self) -> None:
            # Lightning says well what it cannot do here, such as run on no device.
            try:
                super().instantiate_classes()
            except (ValueError, TypeError, ImportError) as error:
                raise probe_error(error) or ProbeError(f"trainer: {' '.join(str(error).split())}") from error

        def _set_seed(self) -> None:
            seed = self._get(self.config, "seed_everything")
            if isinstance(seed, int) and not isinstance(seed, bool) and not 0 <= seed < 2**32:
                raise ProbeError(f"--seed_everything: expected 0 to {2**32 - 1}, found {seed}; correct it.")
            if seed is not False:
                seed = seed_everything(None if seed is True else seed, workers=True, verbose=False)
                self.config[self.config.subcommand]["seed_everything"] = seed

        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            # Without weights_only: there is no unpickling, whoever asks for it.
            return {verb: {*skipped, "weights_only"} for verb, skipped in LightningCLI.subcommands().items()}

        def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
            super().parse_arguments(parser, args)
            check_settings(self.config[self.config.subcommand], args)

        def _parse_ckpt_path(self) -> None:
            # Lightning would merge the checkpoint's hyper-parameters over YAML and command line; the config decides here,
            # and Scorer.on_load_checkpoint refuses what does not fit.
            config = self.config[self.config.subcommand]
            path = config.get("ckpt_path")
            if path is None and self.config.subcommand != "fit":
                raise ProbeError(
                    f"{self.config.subcommand} needs --ckpt_path FILE, found none; `last` takes the newest of this run."
                )
            if path and path != "last":
                read_checkpoint(Path(path))

        def _newest_of_this_run(self) -> str:
            """Which run this is depends on how the data are split and on the LM's weights: both are opened first."""
            self.trainer.datamodule = self.datamodule  # type: ignore[attr-defined]
            self.model.trainer = self.trainer

            def identity() -> dict[str, Any]:
                self.datamodule.setup("fit")
                self.model.open()
                return dict(self.model.identity())

            logger = self.trainer.logger
            checkpoint = newest_checkpoint(
                Path((logger and logger.save_dir) or self.trainer.default_root_dir), identity
            )
            rank_zero_info(f"Going on from {checkpoint}.")
            return str(checkpoint)

        def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
            kwargs = super()._prepare_subcommand_kwargs(subcommand) | {"weights_only": True}
            if kwargs["ckpt_path"] == "last" or (resume and not kwargs["ckpt_path"]):
                try:
                    kwargs["ckpt_path"] = self._newest_of_this_run()
                except NothingToResumeError as nothing:
                    if kwargs["ckpt_path"]:
                        raise ProbeError(f"--ckpt_path last: {nothing}") from nothing
                    rank_zero_info(f"--resume starts anew: {nothing}")
            return kwargs | ({"verbose": False} if "verbose" in kwargs else {})  # our own table says more in less

        def before_fit(self) -> None:
            for steering in (c for c in vars(self.trainer)["callbacks"] if isinstance(c, SteeringCallback)):
                steering.after_test = True

        def after_validate(self) -> None:
            if self.trainer.is_global_zero:
                print_table(Terminal(), self.model, report.judge, "validation")

        def after_fit(self) -> None:
            if not self.model.chosen:  # a time limit, say, ended it before an epoch had
                cut = ProbeError("trainer: expected a whole epoch that was validated, found none; give it more time.")
                report.on_exception(self.trainer, self.model, cut)
                raise cut
            if "validation" not in report.judge.judgements:  # resumed after its last epoch: nothing was left to fit
                self.trainer.validate(self.model, datamodule=self.datamodule, verbose=False)
            self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)
            self.after_test()

        def after_test(self) -> None:
            callbacks: list[Any] = vars(self.trainer)["callbacks"]
            steering = next((c for c in callbacks if isinstance(c, SteeringCallback)), None)
            folder = Path(self.trainer.log_dir or ".")
            if self.trainer.is_global_zero:
                print_end(Terminal(), folder, self.model, steering)

    # Lightning lets a config name others at URLs.
    jsonargparse.set_parsing_settings(config_read_mode_fsspec_enabled=False)
    last, report = ModelCheckpoint(filename="last", enable_version_counter=False), RunReport()
    return ProbeCLI(
        Scorer,
        SplitRows,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},
        parser_class=Parser,
        parser_kwargs={"prog": "probe"},
        trainer_defaults=OF_TRAINER
        | {"callbacks": [WholeStages(), last, report, ScoreWriter("epoch"), EpochProgress()]},
        args=list(argv),
    )
