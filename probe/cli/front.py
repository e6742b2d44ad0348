"""The command line: where rooms are wired together. Lightning is imported only when a run starts."""

import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence

from probe.cli.commands import run_command
from probe.cli.faults import probe_error
from probe.cli.help import print_help
from probe.cli.lightning_cli import OF_TRAINER, make_cli
from probe.cli.plugins import admit_classes
from probe.cli.preflight import check, find_configs
from probe.cli.repeated import said_in_full
from probe.cli.spelling import check_spelling
from probe.cli.stopped import say_how_to_go_on
from probe.data.texts import readable
from probe.errors import ProbeError, last_resort
from probe.options.named import PLUGINS
from probe.shown.escapes import plain
from probe.version import __version__

VERBS = {
    "fit": "find a direction, judge it on unseen texts, steer with it; --resume goes on where the same command was stopped",
    "validate": "judge a checkpoint on validation: --ckpt_path",
    "test": "judge a checkpoint on test: --ckpt_path",
    "predict": "write a checkpoint's scores of the test texts: --ckpt_path",
}
COMMANDS = {
    "try": "any two words, three texts, one minute: --plus formal --minus sloppy",
    "compare": "which way of reading is best, by how much, and whether that is real: --config compare",
    "sweep": "at which layer and how strongly to steer: --config sweep",
    "stories": "the paper's experiment: sets of stories, with controls and judges: --config stories",
    "votes": "ballots that people filled in, read back as preferences: FILE ... --key FILE",
    "audit": "check a contrast set for what would make its direction worthless: --data.pairs FILE",
    "generate": "write steered texts beside plain ones, with a direction that `fit` found: PROMPT --strength 2",
    "score": "how much of the concept is in texts, by the newest run or by --run: FILE ... or -, --output scores.jsonl",
    "serve": "a run behind an OpenAI-compatible address and a page, with the strength in each request: --run NAME --port 8000",
    "export": "a direction for llama.cpp, EasySteer or the hub, or baked into the model: --to TARGET --output FILE",
    "report": "a run on one HTML page, with verdict, table, figures and texts: --run NAME",
    "doctor": "whether a model can be read and steered here, how fast, and what is read of it: --lm.model NAME",
    "runs": "which runs there are, what each read and what it found, the newest first",
    "cache": "what is remembered on this machine, how much room it takes, and how to be rid of it: --clear activations",
    "pairs": "make a contrast set from creative prompts, by asking a language model: --input FILE --output FILE",
}

UNFORESEEN = 70
"""Exit code of an exception that nobody foresaw, as sysexits.h has it."""


def main(words: Sequence[str] | None = None) -> int:
    """Runs one verb, of the command line by default, and returns the exit code; every foreseen error is one line."""
    argv = sys.argv[1:] if words is None else words
    if list(argv) == ["--version"]:
        print(f"probe {__version__}")
        return 0
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: probe VERB --config NAME_OR_FILE [options]\n")
        print("\n".join(f"  {verb:10}{text}" for verb, text in (VERBS | COMMANDS).items()))
        print(
            "\nStart with: probe fit --config quickstart\nOptions of a verb: probe VERB --help\n"
            "With any verb: --plugin PACKAGE admits scorers, operators and witnesses from a package of your own"
        )
        return 0
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a character must not end the run
    typed = argv
    try:
        for word in argv:
            readable(word, f"{word!r}")
        typed, argv = argv, find_configs(said_in_full(admit_classes(argv)))
        if argv[0] in COMMANDS:
            _quiet()
            return run_command(argv[0], argv[1:])
        if argv[0] not in VERBS:
            raise ProbeError(_unknown_verb(argv[0]))
        if not {"-h", "--help"} & set(argv):
            check_spelling(argv, plugins=bool(PLUGINS))
            check(argv)
        elif "all" in argv:
            argv = [argv[0], "--help"]
        else:
            print_help(argv[0], VERBS[argv[0]], OF_TRAINER, argv)
            return 0
        return _run(argv)
    except SystemExit as stop:
        # The parser's own errors are printed already; Lightning leaves by SystemExit after a signal, with code 1 or none.
        if isinstance(stop.__context__, KeyboardInterrupt):
            say_how_to_go_on(typed)
            return 128 + signal.SIGINT
        if type(stop).__name__ == "SIGTERMException":
            say_how_to_go_on(typed)
            return 128 + signal.SIGTERM
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        say_how_to_go_on(typed)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would fail to flush it at the end
        return 128 + signal.SIGPIPE
    except Exception as error:
        if os.environ.get("PROBE_DEBUG"):
            raise
        known = probe_error(error)
        print(f"error: {plain(str(known))}" if known else last_resort(error, argv), file=sys.stderr)
        return 2 if known else UNFORESEEN


def _unknown_verb(word: str) -> str:
    import difflib

    close = difflib.get_close_matches(word, [*VERBS, *COMMANDS], 1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"expected a verb ({', '.join([*VERBS, *COMMANDS])}), found {word!r}{hint}"


def _run(argv: Sequence[str]) -> int:
    _quiet()
    resume = argv[0] == "fit" and "--resume" in argv
    words = [word for word in argv if not (resume and word == "--resume")]
    make_cli(["--lm.strict=true" if word == "--strict" else word for word in words], resume)
    return 0


def _quiet() -> None:
    """Silences tips and a deprecation inside Lightning; nothing that a user could act on."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # TensorBoard's thread that writes raises its fault a second time, where it can be handled.
    threading.excepthook = lambda it: None if isinstance(it.exc_value, OSError) else threading.__excepthook__(it)
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
