"""The witness of the embedded model: the grammar that its language was made by reads every sentence back."""

from collections.abc import Mapping, Sequence

from probe.steering.witness import Exhibit
from probe.storyteller.storyteller import Oracle


class Storyteller:
    """Knows what each sentence means, and nothing of any other language."""

    tells = "inventive_share"

    def __call__(self, written: Sequence[Exhibit]) -> Mapping[str, Sequence[float]]:
        """Shares of inventive and of well-formed sentences, and of what the prompt names."""
        oracle = Oracle()
        read = [oracle.read(one.text, one.prompt) for one in written]
        return {
            "inventive_share": [reading.inventive_share for reading in read],
            "well_formed_share": [reading.well_formed_share for reading in read],
            "named_share": [reading.named_share for reading in read],
        }
