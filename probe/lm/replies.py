"""What a model was asked and what it said, on the disk: nothing is asked twice, and a kill loses no reply."""

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from probe.errors import ProbeError
from probe.files import try_folder
from probe.lm.chat import Ask, spoken
from probe.progress import working


class ReplyLog:
    """Questions and their replies in an SQLite file; each is on the disk before the next is counted on.

    Args:
        path: The file; it and its folder are made where there are none.
        option: What names the file on the command line.

    Raises:
        ProbeError: where it cannot be written, or is no such file.
    """

    def __init__(self, path: Path, option: str) -> None:
        self.path, self.option = path, option
        try_folder(path.parent, option).mkdir(parents=True, exist_ok=True)
        with self._open():
            pass

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            # Without a transaction around them, each line is committed, and flushed, as it is written.
            with closing(sqlite3.connect(self.path, timeout=60, isolation_level=None)) as log:
                log.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, prompt TEXT, reply TEXT)")
                yield log
        except sqlite3.Error as error:
            raise ProbeError(
                f"{self.path}: cannot keep replies there ({error}); free it, or choose another {self.option}."
            ) from error

    def ask_all(self, prompts: Sequence[str], ask: Ask, settings: str) -> list[str]:
        """Replies in the order of the prompts; only what was never answered under these settings is asked.

        What a model thought before it spoke is left out; a reply that says nothing is returned empty and asked again
        the next time.
        """
        keys = {prompt: hashlib.sha256(f"{settings}\0{prompt}".encode()).hexdigest() for prompt in prompts}
        with self._open() as log:
            kept = "SELECT reply FROM replies WHERE key = ? AND typeof(reply) = 'text'"
            kept_replies = {prompt: spoken(row[0]) for prompt, key in keys.items() for row in log.execute(kept, (key,))}
            missing = [prompt for prompt in keys if not kept_replies.get(prompt, "").strip()]
            with working("asking", len(missing), "questions") as advance:

                def keep(prompt: str, reply: str) -> None:
                    kept_replies[prompt] = spoken(reply)
                    if kept_replies[prompt].strip():
                        log.execute("REPLACE INTO replies VALUES (?, ?, ?)", (keys[prompt], prompt, reply))
                    advance(1)

                if missing:
                    ask(missing, keep)
        return [kept_replies[prompt] for prompt in prompts]
