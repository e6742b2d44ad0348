"""LoRA: the LM's own blocks learn, up to the probed layer, to show a linear head what it looks for."""

import json
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from probe.activations import POOLINGS, ActivationExtractor
from probe.directions import ClassSums, cosine_scores, mean_difference
from probe.errors import ProbeError
from probe.evaluation import EvaluationSet, choose_layer
from probe.files import atomic_write
from probe.lm import FrozenLM
from probe.metrics import to_numpy
from probe.rows import Passage, Pooling, Span
from probe.scorers.base import Scorer
from probe.spec import LMSpec

QUERY_AND_VALUE = {"q_proj", "v_proj", "c_attn", "query_key_value", "qkv_proj", "Wqkv"}
"""What the families call the projections to queries and values, alone or in one with the keys."""


class LoRAProbe(Scorer):
    """Low-rank adapters in blocks 0 to `layer`, and a linear head on the pooled states there, trained end to end.

    The score is the head's logit. From `build` to `release` the LM is the adapted one. The run's seed draws the adapters'
    first weights; of the epochs, the one that ranks validation best is kept. It trains where the trainer does: on a GPU
    with `--trainer.accelerator gpu`.

    Source: Hu et al. 2021, arXiv 2106.09685; queries and values are adapted, as in its sections 4.2 and 7.1.

    Args:
        lm: The language model to read; given once, in the `lm` section of a config.
        span: Where pairs are read: over the instruction (prompt) or the text that answers it (response).
        pooling: How a text's states become one vector to learn from.
        cache_dir: Where activations of the frozen LM are remembered between runs; null remembers nothing.
        layer: The probed block, 0-based; null takes the one at which the mean difference ranks validation best.
        rank: Rank of the adapters.
        alpha: An adapter's output is scaled by alpha / rank.
        lr: Learning rate of AdamW, for adapters and head.
    """

    layer: int
    peft: PeftModel
    reader: ActivationExtractor
    centre: Tensor
    """`[D]` mean of the frozen LM's pooled training states."""
    scale: Tensor
    """`[D]` their standard deviation."""

    def __init__(
        self,
        lm: LMSpec,
        span: Span = "response",
        pooling: Pooling = "mean",
        cache_dir: str | None = ".cache/activations",
        layer: int | None = None,
        rank: int = 8,
        alpha: int = 16,
        lr: float = 1e-3,
    ) -> None:
        super().__init__(lm, span, cache_dir)
        self.pooling, self.rank, self.alpha, self.lr = pooling, rank, alpha, lr
        self.wanted_layers = None if layer is None else [layer]
        self.automatic_optimization = True
        self.best: dict[str, Any] = {}

    def build(self) -> None:
        """Chooses the layer, puts the adapters in and makes the head."""
        self.layer = self._layer_of_the_mean_difference()
        x = self.features["train"].pooled(self.pooling)[:, self.extractor.layers.index(self.layer)]
        self.register_buffer("centre", x.mean(0))
        self.register_buffer("scale", x.std(0, correction=0).clamp_min(1e-12))
        self.head = nn.Linear(x.shape[1], 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        nn.Module.to(self.lm.model, self.trainer.strategy.root_device)
        peft = adapt(self.lm, self.layer, self.rank, self.alpha)
        # Past nn.Module's own __setattr__: of the LM only the adapters enter the module tree, so no frozen weight can
        # enter a checkpoint, an optimizer or a broadcast.
        object.__setattr__(self, "peft", peft)
        adapters = {name.replace(".", "/"): p for name, p in peft.named_parameters() if p.requires_grad}
        self.adapters = nn.ParameterDict(adapters)
        # The LM is no longer the one that the store remembers: what is read from here on is neither taken nor put there.
        reads = self.extractor.reads
        self.extractor = ActivationExtractor(self.lm, self.extractor.layers)
        self.reader = ActivationExtractor(self.lm, [self.layer])
        self.extractor.reads = self.reader.reads = reads
        self._encoded = self.lm.encode([row.passage(self.span) for row in self.data.rows["train"]])

    def _layer_of_the_mean_difference(self) -> int:
        """The layer that MeanDifference would choose; the only one there is, where one was asked for."""
        train, validation = self.features["train"], self.features["validation"]
        sums = ClassSums(len(train.layers), self.lm.hidden_size)
        sums.update(train.pooled(self.pooling), torch.tensor([row.truth for row in self.data.rows["train"]]))
        means, norms = sums.compute()
        vectors, gaps = mean_difference(means)
        scores = to_numpy(cosine_scores(validation.unit_mean, vectors))
        rho = EvaluationSet(self.data.rows["validation"]).spearman_of(dict(zip(train.layers, scores.T, strict=True)))
        return choose_layer(rho, dict(zip(train.layers, (gaps / norms).tolist(), strict=True)))

    # -- learning -----------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW on adapters and head."""
        return torch.optim.AdamW(self.parameters(), lr=self.lr)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """The mean log loss of the rows that have a class."""
        states = self.reader.states(self._encoded, batch["row"].tolist())[:, POOLINGS.index(self.pooling), 0]
        weight = (batch["label"] >= 0).float()
        loss = nn.functional.binary_cross_entropy_with_logits(
            self.logits(states), batch["label"].clamp_min(0).float(), weight, reduction="sum"
        ) / weight.sum().clamp_min(1)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def logits(self, states: Tensor) -> Tensor:
        """The head's logit `[N]` of pooled states `[N, D]` at the layer."""
        logits: Tensor = self.head((states - self.centre) / self.scale)[:, 0]
        return logits

    def choose(self, judge: EvaluationSet) -> str:
        """Keeps the epoch that ranks validation best: its scores are judged, its weights come back at the end."""
        if self.trainer.state.fn == "fit":
            rho = float(np.nan_to_num(judge.spearman(self.scored["validation"][:, 0])))
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

    # -- scoring ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def score(self, passages: Sequence[Passage]) -> Tensor:
        """The logit `[N, 1]`, read from the adapted LM."""
        return self.logits(self._pooled(passages).to(self.centre)).cpu()[:, None]

    @torch.no_grad()
    def shift(self, passages: Sequence[Passage]) -> Tensor:
        """Mean change `[D]` of the pooled state at the layer that the adapters make."""
        adapted = self._pooled(passages)
        with self.peft.disable_adapter():
            return (adapted - self._pooled(passages)).mean(0)

    def _pooled(self, passages: Sequence[Passage]) -> Tensor:
        self.to(self.lm.device)  # Lightning leaves its modules on the CPU when a run ends
        return self.reader(passages).pooled(self.pooling)[:, 0]

    def release(self) -> None:
        """Takes the adapters out: the LM is bit by bit what it was."""
        if "peft" in vars(self):
            self.peft.unload()
            vars(self.lm.model).pop("peft_config", None)  # older versions of PEFT leave it
            del self.peft, self.reader

    # -- remembering --------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the best epoch beside the last one, from which a run continues."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["best"] = self.best

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continues from the last epoch; whatever else is done is done with the best one."""
        super().on_load_checkpoint(checkpoint)
        self.best = checkpoint["best"]
        if self.best and self.trainer.state.fn != "fit":
            checkpoint["state_dict"] = self.best["state"]

    def identity(self) -> dict[str, Any]:
        """What has to agree before weights may be loaded."""
        ours = {"pooling": self.pooling, "layer": self.layer, "rank": self.rank, "alpha": self.alpha}
        return super().identity() | ours

    def save_pretrained(self, folder: Path) -> Path:
        """Writes the adapters as PEFT reads them, and beside them `head.safetensors` and `head.json`; before `release`."""
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as temporary:
            self.peft.save_pretrained(temporary, save_embedding_layers=False)
            for file in Path(temporary).glob("adapter_*"):
                atomic_write(folder / file.name, partial(shutil.copyfile, file))
        head = {"weight": self.head.weight[0], "bias": self.head.bias, "centre": self.centre, "scale": self.scale}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in head.items()}
        card = {name: getattr(self, name) for name in ("layer", "pooling", "span")}
        card |= {"epoch": self.best.get("epoch"), "provenance": self.provenance()}
        atomic_write(folder / "head.safetensors", lambda path: save_file(tensors, path))
        atomic_write(folder / "head.json", lambda path: path.write_text(json.dumps(card, indent=2) + "\n"))
        return folder


def adapt(lm: FrozenLM, layer: int, rank: int, alpha: int) -> PeftModel:
    """Puts adapters into the blocks up to `layer`, all that is run; the LM is changed in place.

    In a family whose names for queries and values are not known, every linear layer of these blocks is adapted.
    """
    inside = {module for block in lm.blocks[: layer + 1] for module in block.modules()}
    named = {name: module for name, module in lm.model.named_modules() if module in inside}
    linear = [name for name, module in named.items() if isinstance(module, nn.Linear | Conv1D)]
    usual = [name for name in linear if name.rpartition(".")[2] in QUERY_AND_VALUE]
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        target_modules=usual or linear,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in named.values()),
    )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # between PEFT and transformers
            return get_peft_model(lm.model, config)
    except ValueError as error:
        raise ProbeError(
            f"LoRAProbe: PEFT cannot adapt {lm.spec.model} ({error}); correct the rank, or use LinearProbe for this model."
        ) from error
