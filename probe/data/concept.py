"""What the concept is called, wherever words are shown or asked: said once, by `--concept`, and kept with the direction."""

CREATIVE = "creative"
"""An adjective: what the data of this project are about, and so the default."""


def less(concept: str) -> str:
    """What the texts on the other side are called."""
    return "uncreative" if concept == CREATIVE else f"less {concept}"


def side(name: str, concept: str) -> str:
    """A set of texts as it is shown: `creative` and `uncreative` are what the two sides are called in code and files."""
    return {"creative": concept, "uncreative": less(concept)}.get(name, name)
