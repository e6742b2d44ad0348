"""What the LoRA scorers share: adapters put into the LM and taken out again, the best epoch, checkpoints of what was learned."""

import json
import os
import shutil
import tempfile
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from probe.activations.extractor import ActivationExtractor
from probe.data.reading import Passage, Pooling, Span, labels
from probe.data.splits import Split
from probe.directions.direction import mean_difference_of
from probe.files import atomic_write
from probe.lm.adapters import adapt, places, take_out
from probe.lm.spec import LMSpec
from probe.metrics.evaluation import EvaluationSet, nearest_to, tied_layers
from probe.metrics.ranks import to_numpy
from probe.options.types import FilePath, NonNegativeInt, PositiveFloat, PositiveInt
from probe.scorers.base import Scorer
from probe.scorers.checkpoints import Checkpoint


class LoRAScorer(Scorer):
    """A scorer for which the LM's own blocks learn, through low-rank adapters.

    From `build` to `release` the LM is the adapted one. The run's seed draws the adapters' first weights; of the epochs,
    the one that ranks validation best is kept. It trains where the trainer does: on a GPU with `--trainer.accelerator gpu`.

    Source: Hu et al. 2021, arXiv 2106.09685; queries and values are adapted, as in its sections 4.2 and 7.1, and in a block
    without attention what goes into its mixer.

    Args:
        lm: The language model to read; given once, in the `lm` section of a config.
        span: Where pairs are read: over the instruction (prompt), where the reply to it begins (reply), or over the text
            that answers it (response).
        pooling: How a text's states become one vector, for the directions that are compared with the adapters.
        cache_dir: Where activations of the frozen LM are remembered between runs; `auto` is the user's cache folder, null
            remembers nothing.
        layer: The block that is read, 0-based; null takes the one at which the mean difference ranks validation best.
        rank: Rank of the adapters.
        alpha: An adapter's output is scaled by alpha / rank.
        lr: Learning rate of AdamW.
    """

    mixes = True
    chosen_layer: int
    reader: ActivationExtractor
    """Reads the adapted LM at the layer."""
    places: dict[int, list[str]]
    """Block -> what is adapted in it."""

    def __init__(
        self,
        lm: LMSpec,
        span: Span = "response",
        pooling: Pooling = "mean",
        cache_dir: FilePath | None = "auto",
        layer: NonNegativeInt | None = None,
        rank: PositiveInt = 8,
        alpha: PositiveInt = 16,
        lr: PositiveFloat = 1e-3,
    ) -> None:
        super().__init__(lm, span, cache_dir)
        self.pooling, self.rank, self.alpha, self.lr = pooling, rank, alpha, lr
        self.wanted_layers = None if layer is None else [layer]
        self.automatic_optimization = True
        self.best: dict[str, Any] = {}

    @property
    @abstractmethod
    def deepest(self) -> int:
        """The last block that is adapted."""

    @abstractmethod
    def prepare(self) -> None:
        """Makes what a method needs beside the adapters, once the layer is chosen and while the LM is the frozen one."""

    def build(self) -> None:
        """Chooses the layer and puts the adapters in."""
        self.chosen_layer = self._layer_of_the_mean_difference()
        self.prepare()
        nn.Module.to(self.lm.model, self.trainer.strategy.root_device)
        # FrozenLM is no module: of the LM only the adapters enter the module tree, so no frozen weight can enter a
        # checkpoint, an optimizer or a broadcast.
        self.lm.adapter = adapt(self.lm, self.deepest, self.rank, self.alpha)
        self.places = places(self.lm)
        rank_zero_info("LoRA adapts " + "; ".join(f"block {k}: {', '.join(names)}" for k, names in self.places.items()))
        adapters = {name.replace(".", "/"): p for name, p in self.lm.adapter.named_parameters() if p.requires_grad}
        self.adapters = nn.ParameterDict(adapters)
        # The LM is no longer the one that the store remembers: what is read from here on is neither taken nor put there.
        reads = self.extractor.reads
        self.extractor = ActivationExtractor(self.lm, self.extractor.layers)
        self.reader = ActivationExtractor(self.lm, [self.chosen_layer])
        self.extractor.reads = self.reader.reads = reads

    def _layer_of_the_mean_difference(self) -> int:
        """The layer that MeanDifference would choose; the only one there is, where one was asked for."""
        train, validation = self.features["train"], self.features["validation"]
        label = labels(self.data.rows["train"])
        vectors = torch.cat([mean_difference_of(h[:, None], label) for h in train.by_layer(self.pooling)])
        scores = to_numpy(validation.cosines(vectors[None])[..., 0])
        rho = EvaluationSet(self.data.rows["validation"]).spearman_of(dict(zip(train.layers, scores.T, strict=True)))
        return nearest_to((self.lm.n_layers - 1) / 2, tied_layers(rho))[0]

    # -- learning -----------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW on all that learns."""
        return torch.optim.AdamW(self.parameters(), lr=self.lr)

    def choose(self, truth: EvaluationSet) -> str:
        """Keeps the epoch that ranks validation best: its scores are judged, its weights come back at the end."""
        if self.trainer.state.fn == "fit":
            rho = float(np.nan_to_num(truth.spearman(self.scored["validation"][:, 0])))
            if not self.best or rho > self.best["spearman"]:
                state = {name: tensor.detach().cpu().clone() for name, tensor in self.state_dict().items()}
                scores = torch.from_numpy(self.scored["validation"])
                self.best = {"epoch": self.current_epoch, "spearman": rho, "scores": scores, "state": state}
            self.scored["validation"] = self.best["scores"].numpy()
            self.log_dict({"val/spearman_of_epoch": rho, "val/best_epoch": float(self.best["epoch"])})
        return self.columns[0]

    def on_fit_end(self) -> None:
        """Takes the best epoch back."""
        if self.best:
            self.load_state_dict(self.best["state"])

    # -- reading ------------------------------------------------------------------------------------------------

    def score_rows(self, split: Split, rows: Tensor) -> Tensor:
        """As every scorer's, and never in mixed precision: rounded scores tie."""
        with torch.autocast(self.lm.device.type, enabled=False):
            return super().score_rows(split, rows)

    @torch.no_grad()
    def shift(self, passages: Sequence[Passage]) -> Tensor:
        """Mean change `[D]` of the pooled state at the layer that the adapters make."""
        adapted = self.pooled(passages)
        with self.lm.adapted(0):
            return (adapted - self.pooled(passages)).mean(0)

    def pooled(self, passages: Sequence[Passage]) -> Tensor:
        """Pooled states `[N, D]` at the layer."""
        self.to(self.lm.device)  # Lightning leaves its modules on the CPU when a run ends
        return self.reader(passages, progress=True).pooled(self.pooling)[:, 0]

    def release(self) -> None:
        """Takes the adapters out: the LM is bit by bit what it was."""
        take_out(self.lm)

    # -- remembering --------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the best epoch beside the last one, from which a run continues."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["best"] = self.best

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continues from the last epoch; whatever else is done is done with the best one."""
        super().on_load_checkpoint(checkpoint)
        self.best = checkpoint["best"]
        if self.trainer.state.fn != "fit":
            checkpoint["state_dict"] = self.learned(checkpoint)

    def learned(self, checkpoint: Checkpoint) -> dict[str, Tensor]:
        """Those of the best epoch."""
        return checkpoint["best"]["state"] if checkpoint["best"] else super().learned(checkpoint)

    def identity(self) -> dict[str, Any]:
        """As every scorer's, and what else decides what gradients teach."""
        trainer = self.trainer
        return super().identity() | {
            "seed_everything": os.environ.get("PL_GLOBAL_SEED"),
            "batch_size": self.data.batch_size,
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "gradient_clip_val": trainer.gradient_clip_val,
            "precision": trainer.strategy.precision_plugin.precision,
            **({"processes": trainer.world_size} if trainer.world_size > 1 else {}),  # as many batches make one step
        }

    def save_pretrained(self, folder: Path) -> Path:
        """Writes the adapters as PEFT reads them, and `adapter.json`, which says where they come from; before `release`."""
        assert self.lm.adapter is not None
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as temporary:
            self.lm.adapter.save_pretrained(temporary, save_embedding_layers=False)
            for file in Path(temporary).glob("adapter_*"):
                atomic_write(folder / file.name, partial(shutil.copyfile, file))
        card: dict[str, Any] = {
            "adapted": self.places,
            "layer": self.chosen_layer,
            "pooling": self.pooling,
            "span": self.span,
        }
        card |= {"epoch": self.best.get("epoch"), "provenance": self.provenance()}
        atomic_write(folder / "adapter.json", lambda path: path.write_text(json.dumps(card, indent=2) + "\n"))
        return folder
