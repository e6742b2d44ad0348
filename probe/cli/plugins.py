"""A config file is data: which classes it may name, and which only the person who types the command admits.

A config that could name any class could name subprocess.Popen, and many a class of torch or Lightning starts processes,
unpickles or sends things away. So it may name exactly these; `--plugin` admits what somebody trusts.
"""

import importlib
from collections.abc import Sequence

import jsonargparse

from probe.errors import ProbeError
from probe.options.named import PLUGINS

SCORERS = (
    "BagOfWords", "JoinedRidge", "LDA", "Length", "LinearProbe", "LoRAProbe", "LoRAWriter", "MeanDifference", "PCA",
    "Perplexity", "RandomDirections", "RidgeProbe", "SelfJudgement", "SurfaceFeatures", "TypeTokenRatio",
)  # fmt: skip
DATA = {"ContrastData": "probe.data.splits", "RatedData": "probe.data.rated"}
"""What a config may name as `data` -> its room."""
OF_LIGHTNING = {
    "callbacks": {
        "device_stats_monitor": "DeviceStatsMonitor",
        "early_stopping": "EarlyStopping",
        "gradient_accumulation_scheduler": "GradientAccumulationScheduler",
        "lr_monitor": "LearningRateMonitor",
        "model_checkpoint": "ModelCheckpoint",
        "model_summary": "ModelSummary",
        "rich_model_summary": "RichModelSummary",
    },
    "loggers": {"tensorboard": "TensorBoardLogger"},
    "profilers": {"advanced": "AdvancedProfiler", "simple": "SimpleProfiler"},
}
"""None of these takes a callable or an object of any kind, or speaks to a network; strategies have names, such as `ddp`.

Left out for other reasons: CSVLogger, whose metrics.csv would stand where ours does, and Timer, which `max_time` is.
"""
ADMITTED = (
    "probe.scorers", *(f"probe.{name}" for name in SCORERS),
    *(f"{room}.{name}" for name, home in DATA.items() for room in ("probe", "probe.data", home)),
    "probe.LMSpec", "probe.lm.spec", "probe.lm.chat.Endpoint", "probe.data.reading.Reading",  # not named, but filled in
    *(
        f"lightning.pytorch.{package}.{place}{name}"
        for package, modules in OF_LIGHTNING.items()
        for module, name in modules.items()
        for place in ("", f"{module}.")
    ),
)  # fmt: skip


def admit_classes(argv: Sequence[str]) -> list[str]:
    """Takes `--plugin PACKAGE` out of the command line and admits classes from there, beside our own.

    Raises:
        ProbeError: for a package that cannot be imported, or where no verb is left.
    """
    words: list[str] = []
    plugins: list[str] = []
    for word in argv:
        name, equals, value = word.partition("=")
        if words and words[-1] == "--plugin":
            words.pop()
            plugins.append(word)
        elif name == "--plugin" and equals:
            plugins.append(value)
        else:
            words.append(word)
    if "--plugin" in words:
        raise ProbeError("--plugin: expected the name of a package behind it, found none; add it.")
    if not words:
        raise ProbeError("expected a verb beside --plugin, found none; `probe` lists them.")
    for plugin in plugins:
        if not all(part.isidentifier() for part in plugin.split(".")):
            raise ProbeError(f"--plugin {plugin}: expected the name of a package, such as my_scorers; correct it.")
        try:
            importlib.import_module(plugin)
        except ImportError as error:
            raise ProbeError(
                f"--plugin {plugin}: expected a package that can be imported, but {error}; run from its folder, or install it."
            ) from error
        except (Exception, SystemExit) as error:  # it is another's code, which may raise anything
            raise ProbeError(
                f"--plugin {plugin}: expected a package that can be imported, but it raised {error!r}; correct it "
                "(PROBE_DEBUG=1 shows where)."
            ) from error
    PLUGINS.clear()
    PLUGINS.update(plugins)
    jsonargparse.set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=[*ADMITTED, *plugins],
        # Where any value will do, a class that is named is not made: it would be made whatever it is.
        instantiate_subclass_spec_in_any=False,
        validate_subclass_spec_in_any=True,
    )
    return words
