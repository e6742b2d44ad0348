"""The frozen language model: load it, find its blocks, generate, measure surprise."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from probe.data.reading import Passage
from probe.errors import ProbeError
from probe.lm.checks import examine, reads_trees
from probe.lm.likelihood import logits_at, surprise
from probe.lm.loading import load, settle_padding
from probe.lm.sampling import framing_tokens
from probe.lm.spec import LMSpec
from probe.lm.tokens import BATCH_TOKENS, BUSY_TOKENS, Encoded, PassageEncoder, TokenBatch
from probe.lm.trees import TreeBatch, collate, plan_rows
from probe.lm.writer import Writer
from probe.progress import Advance, silent

if TYPE_CHECKING:  # it takes a second to import, and most runs adapt nothing
    from peft import PeftModel


WINDOWS = ("sliding_window", "window_size", "local_attention", "attention_window_size", "attention_chunk_size")
"""What configs call the number of tokens that a token attends to."""


@dataclass
class FrozenLM(Writer):
    """A causal language model that is read and steered but never trained; not part of any module tree."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    spec: LMSpec = field(default_factory=LMSpec)
    adapter: "PeftModel | None" = None
    """LoRA inside the model, where somebody has put one in; `adapted` says how much of it is used."""
    writes_in_batches: bool = True
    """Whether prompts of unlike length may be answered together."""

    def __post_init__(self) -> None:
        self.model.train(False)
        self.model.requires_grad_(False)
        embeddings: Any = self.model.get_input_embeddings()
        settle_padding(self.spec.model, self.tokenizer, len(embeddings.weight))
        # What a call to `generate` leaves open is filled in from here, penalties, beams and stop strings too.
        self.model.generation_config = framing_tokens(self.model.generation_config, self.tokenizer)

    @classmethod
    def load(cls, spec: LMSpec) -> "FrozenLM":
        """Loads what `spec.model` names: a folder, a GGUF file, a file of an installed package, or a Hugging Face id.

        Raises:
            ProbeError: for anything that is not a whole decoder-only model with its tokenizer.
        """
        model, tokenizer = load(spec)
        lm = cls(model, tokenizer, spec)
        examine(lm)
        return lm

    @property
    def device(self) -> torch.device:
        """Where the inputs go."""
        return self.model.device

    @cached_property
    def decoder(self) -> nn.Module:
        """The language model without its head."""
        get_decoder = getattr(self.model, "get_decoder", None)
        inner = get_decoder() if get_decoder else None
        # ModernBERT's is a layer of its head.
        return self.model.base_model if inner is self.model or not isinstance(inner, PreTrainedModel) else inner

    @cached_property
    def blocks(self) -> nn.ModuleList:
        """The decoder blocks: the shallowest module list as long as the config's number of layers, of such the heaviest."""
        n_layers = self.model.config.get_text_config(decoder=True).num_hidden_layers
        lists = [
            (name.count("."), -sum(parameter.numel() for parameter in module.parameters()), module)
            for name, module in self.decoder.named_modules()
            if isinstance(module, nn.ModuleList) and len(module) == n_layers
        ]
        if not lists:
            raise ProbeError(
                f"{self.spec.model}: expected one list of {n_layers} decoder blocks in {type(self.model).__name__}, "
                "found none; this architecture is not supported."
            )
        return min(lists, key=lambda found: found[:2])[2]

    @property
    def n_layers(self) -> int:
        """Number of decoder blocks."""
        return len(self.blocks)

    @property
    def hidden_size(self) -> int:
        """Width D of the residual stream."""
        return int(self.model.config.get_text_config(decoder=True).hidden_size)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over every weight (name, type, bytes) and the config: another fine-tune is another model."""
        config = self.model.config.to_diff_dict()
        for noted in ("architectures", "dtype", "transformers_version", "_name_or_path"):  # what saving writes in
            config.pop(noted, None)
        digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
        for name, tensor in self.model.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    @cached_property
    def encoder(self) -> PassageEncoder:
        """Texts to token ids, as this model reads them."""
        return PassageEncoder(self.tokenizer, self.spec, self.max_tokens)

    @property
    def max_tokens(self) -> int:
        """Longest sequence that is read."""
        config = self.model.config.get_text_config(decoder=True)
        limits = [
            self.spec.max_tokens,
            getattr(config, "max_position_embeddings", None),
            getattr(config, "n_positions", None),
        ]
        return min((limit for limit in limits if limit), default=4096)

    @cached_property
    def batch_tokens(self) -> int:
        """Padded tokens of one forward pass without the head: on a GPU what half of its free memory holds."""
        if self.device.type != "cuda":
            return BATCH_TOKENS
        config = self.model.config.get_text_config(decoder=True)
        widest = getattr(config, "intermediate_size", None) or 4 * self.hidden_size
        of_token = (8 * self.hidden_size + 3 * widest) * self.model.dtype.itemsize  # a block's, at its widest moment
        free, _ = torch.cuda.mem_get_info(self.device)
        return max(BATCH_TOKENS, min(BUSY_TOKENS, free // (2 * of_token)))

    @cached_property
    def longest_in_tree(self) -> int:
        """The longest text that may share a row with those that begin like it; 0 where the model cannot read a tree.

        A window of attention is not in the mask of a tree, so a text has to fit into it.
        """
        if not reads_trees(self):
            return 0
        config = self.model.config.get_text_config(decoder=True)
        windows = [getattr(config, name, None) for name in WINDOWS]
        return int(min([self.max_tokens, *(window for window in windows if window)]))

    @contextmanager
    def adapted(self, scale: float) -> Iterator[None]:
        """Runs the model with its adapter's output times `scale`; at 0 it is bit by bit the model without one."""
        if self.adapter is None:
            assert scale == 0, "there is no adapter"
            yield
        elif scale == 0:
            with self.adapter.disable_adapter():
                yield
        else:
            from peft.helpers import rescale_adapter_scale

            with rescale_adapter_scale(self.adapter, scale):
                yield

    @torch.inference_mode()
    def nll(
        self,
        passages: Sequence[Passage],
        within: Callable[[TokenBatch], AbstractContextManager[None]] | None = None,
        advance: Advance = silent,
        beside: Callable[[TreeBatch], AbstractContextManager[None]] | None = None,
    ) -> Tensor:
        """Mean negative log-likelihood `[N]`, in nats per token, of each pooled span; nan for an empty response.

        Args:
            passages: What is read.
            within: Steering for the forward pass of each batch, whose `example` are the rows of `passages`.
            advance: Is told how many texts have been read since it was told last.
            beside: What else reads a forward pass, in place of `within`; texts that begin alike then share a row.
        """
        values = torch.full((len(passages),), math.nan)
        told = [row for row, passage in enumerate(passages) if passage.pooled.strip()]
        for batch in self._batches(self.encoder.encode([passages[row] for row in told]), told, trees=not within):
            with within(batch.plain) if within else beside(batch) if beside else nullcontext():
                values[batch.example.cpu()] = surprise(self.model, batch).cpu()
            advance(len(batch.example))
        return values

    @torch.inference_mode()
    def logprobs(
        self, passages: Sequence[Passage], within: Callable[[TokenBatch], AbstractContextManager[None]] | None = None
    ) -> list[Tensor]:
        """Log-probabilities `[n, V]` of the whole vocabulary before each of the n tokens of each pooled span."""
        values = [torch.empty(0)] * len(passages)
        for batch in self._batches(self.encoder.encode(passages), range(len(passages))):
            before = batch.pool_mask[:, 0].bool().roll(-1, 1)
            before[:, -1] = False
            with within(batch.plain) if within else nullcontext():
                of_row = torch.split(logits_at(self.model, batch, before), before.sum(1).tolist())
            for row, logits in zip(batch.example.tolist(), of_row, strict=True):
                values[row] = logits.float().log_softmax(-1)
        return values

    def loss(self, encoded: Sequence[Encoded]) -> Tensor:
        """Mean negative log-likelihood `[N]` as `nll` gives it, with gradient where it is on."""
        parts = [(batch.example, surprise(self.model, batch)) for batch in self._batches(encoded, range(len(encoded)))]
        return torch.cat([values for _, values in parts])[torch.cat([rows for rows, _ in parts]).argsort()]

    @torch.inference_mode()
    def reply_logprobs(
        self, questions: Sequence[Encoded], starts: Sequence[Sequence[int]], advance: Advance = silent
    ) -> Tensor:
        """Log-probability `[N, K]` that the reply to each question begins with one of the K sets of tokens.

        `encode_question` makes the questions, `reply_starts` the sets.
        """
        values = torch.empty(len(questions), len(starts))
        for batch in self._batches(questions, range(len(questions)), trees=True):
            rows, _, at = batch.pool_mask.nonzero(as_tuple=True)  # one token a question
            asked = torch.zeros_like(batch.input_ids, dtype=torch.bool)
            asked[rows, at] = True
            of_question = (asked.flatten().cumsum(0) - 1).view_as(asked)[rows, at]
            reply = logits_at(self.model, batch, asked).float().log_softmax(-1)[of_question]  # [B, V]
            values[batch.example.cpu()] = torch.stack([reply[:, list(s)].logsumexp(-1) for s in starts], 1).cpu()
            advance(len(batch.example))
        return values

    def _batches(self, encoded: Sequence[Encoded], example: Sequence[int], trees: bool = False) -> Iterator[TreeBatch]:
        """Batches of similar length, in whatever order is cheapest."""
        for rows in plan_rows(encoded, self.longest_in_tree if trees else 0):
            of_batch = [[encoded[i] for i in row] for row in rows]
            examples = [example[i] for row in rows for i in row]
            yield collate(of_batch, examples, self.encoder.pad_id, self.model.dtype, self.device)
