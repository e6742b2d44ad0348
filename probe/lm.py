"""The frozen language model: load it, find its blocks, generate, measure surprise."""

import hashlib
import json
import math
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from huggingface_hub.constants import ENDPOINT
from peft import PeftModel
from peft.helpers import rescale_adapter_scale
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from probe.errors import ProbeError
from probe.rows import Passage
from probe.sampling import Follower, KeyedNoise
from probe.spec import LMSpec
from probe.tokens import Encoded, PassageEncoder, TokenBatch, plan_batches


@dataclass
class FrozenLM(PassageEncoder):
    """A causal language model that is read and steered but never trained; not part of any module tree."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    spec: LMSpec = field(default_factory=LMSpec)
    adapter: PeftModel | None = None
    """LoRA inside the model, where somebody has put one in; `adapted` says how much of it is used."""

    def __post_init__(self) -> None:
        self.model.train(False)
        self.model.requires_grad_(False)
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    @classmethod
    def load(cls, spec: LMSpec) -> "FrozenLM":
        """Loads config and tokenizer, refuses what cannot work, and only then reads the weights.

        Raises:
            ProbeError: for an unknown or unreachable model, an encoder-decoder, or a missing tokenizer.
        """
        options = {"trust_remote_code": spec.trust_remote_code, "local_files_only": not _hub_answers(spec.model)}
        try:
            config = AutoConfig.from_pretrained(spec.model, **options)
            if getattr(config, "is_encoder_decoder", False):
                raise ProbeError(
                    f"--lm.model {spec.model}: expected a decoder-only model, found the encoder-decoder "
                    f"{config.model_type}; choose a causal LM."
                )
            tokenizer = AutoTokenizer.from_pretrained(spec.model, **options)
            model = AutoModelForCausalLM.from_pretrained(spec.model, dtype=spec.dtype, use_safetensors=True, **options)
        except ProbeError:
            raise
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            reason = next(line for line in f"{error}\n{type(error).__name__}".splitlines() if line.strip())
            raise ProbeError(
                f"--lm.model {spec.model}: expected a model folder or a reachable Hugging Face id, but loading failed "
                f"({reason.strip()[:160]}); the embedded model needs no network: --lm.model data/storyteller/lm0."
            ) from error
        nn.Module.to(model, _device(spec.device))
        lm = cls(model, tokenizer, spec)
        if not lm._is_causal():
            raise ProbeError(
                f"--lm.model {spec.model}: expected a decoder-only model, but in {type(model).__name__} a token sees "
                "what follows it; choose a causal LM."
            )
        return lm

    @torch.inference_mode()
    def _is_causal(self) -> bool:
        """Whether a token's state is the same whatever follows it; BERT and its kin call themselves decoders too."""
        ids = torch.tensor([[1, 2], [1, 3]], device=self.device)
        one, other = self.decoder(input_ids=ids, use_cache=False)[0][:, 0]
        return torch.allclose(one, other, rtol=1e-2, atol=1e-3, equal_nan=True)

    @property
    def device(self) -> torch.device:
        """Where the inputs go."""
        return self.model.device

    @cached_property
    def decoder(self) -> nn.Module:
        """The language model without its head."""
        get_decoder = getattr(self.model, "get_decoder", None)
        found = get_decoder() if get_decoder else None
        return self.model.base_model if found is None or found is self.model else found

    @cached_property
    def blocks(self) -> nn.ModuleList:
        """The decoder blocks: the shallowest module list as long as the config's number of layers."""
        n_layers = self.model.config.get_text_config(decoder=True).num_hidden_layers
        lists = [
            (name.count("."), name, module)
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

    @property
    def template_hash(self) -> str:
        """sha256 of the chat template; of the empty text where there is none."""
        return hashlib.sha256(str(self.tokenizer.chat_template or "").encode()).hexdigest()

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
            with rescale_adapter_scale(self.adapter, scale):
                yield

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        temperature: float,
        seed: int | Sequence[int],
        follow: Callable[[list[str]], None] | None = None,
    ) -> list[str]:
        """Answers prompts in one left-padded batch; temperature 0 is greedy.

        A row's noise depends on its own seed and prompt alone; the global random state is untouched. `follow` is told the
        texts so far after each token.
        """
        rendered = [self.render(prompt) for prompt in prompts]
        inputs = self._ids(
            rendered, return_tensors="pt", padding=True, padding_side="left", return_token_type_ids=False
        )
        longest = inputs["input_ids"].shape[1]
        if longest + max_new_tokens > self.max_tokens:
            raise ProbeError(
                f"a prompt of {longest} tokens leaves no room for {max_new_tokens} new ones within the {self.max_tokens} of "
                f"{self.spec.model}; shorten it, or lower --max_new_tokens."
            )
        noise = LogitsProcessorList()
        if temperature > 0:
            seeds = [seed] * len(prompts) if isinstance(seed, int) else seed
            noise.append(KeyedNoise(prompts, seeds, temperature, self.device))
        generate: Any = self.model.generate
        out = generate(
            **inputs.to(self.device),
            max_new_tokens=max_new_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
            do_sample=False,  # what a model's own generation config says of sampling does not hold here
            temperature=None,
            top_p=None,
            top_k=None,
            logits_processor=noise,
            streamer=Follower(lambda new: follow(self._texts(new))) if follow else None,
        )
        return self._texts(out[:, longest:])

    def _texts(self, new: Tensor) -> list[str]:
        return [str(text).strip() for text in self.tokenizer.batch_decode(new, skip_special_tokens=True)]

    @torch.inference_mode()
    def nll(
        self, passages: Sequence[Passage], within: Callable[[TokenBatch], AbstractContextManager[None]] | None = None
    ) -> Tensor:
        """Mean negative log-likelihood `[N]`, in nats per token, of each pooled span; nan for an empty response.

        Args:
            passages: What is read.
            within: Steering for the forward pass of each batch, whose `example` are the rows of `passages`.
        """
        values = torch.full((len(passages),), math.nan)
        told = [row for row, passage in enumerate(passages) if passage.pooled.strip()]
        for batch, logits in self._logits(self.encode([passages[row] for row in told]), told, within):
            values[batch.example.cpu()] = _mean_surprise(batch, logits).cpu()
        return values

    def loss(self, encoded: Sequence[Encoded]) -> Tensor:
        """Mean negative log-likelihood `[N]` as `nll` gives it, with gradient where it is on."""
        parts = [
            (batch.example, _mean_surprise(batch, logits))
            for batch, logits in self._logits(encoded, range(len(encoded)))
        ]
        return torch.cat([values for _, values in parts])[torch.cat([rows for rows, _ in parts]).argsort()]

    @torch.inference_mode()
    def reply_logprobs(self, questions: Sequence[Encoded], starts: Sequence[Sequence[int]]) -> Tensor:
        """Log-probability `[N, K]` that the reply to each question begins with one of the K sets of tokens.

        `encode_question` makes the questions, `reply_starts` the sets.
        """
        values = torch.empty(len(questions), len(starts))
        for batch, logits in self._logits(questions, range(len(questions))):
            reply = logits[batch.pool_mask.bool()].float().log_softmax(-1)  # [B, V]
            values[batch.example.cpu()] = torch.stack([reply[:, list(s)].logsumexp(-1) for s in starts], 1).cpu()
        return values

    def _logits(
        self,
        encoded: Sequence[Encoded],
        example: Sequence[int],
        within: Callable[[TokenBatch], AbstractContextManager[None]] | None = None,
    ) -> Iterator[tuple[TokenBatch, Tensor]]:
        """Batches of similar length and their logits `[B, T, V]`, in whatever order is cheapest."""
        for rows in plan_batches([len(e.ids) for e in encoded]):
            batch = self.collate([encoded[i] for i in rows], [example[i] for i in rows])
            with within(batch) if within else nullcontext():
                # No mask: padding is on the right, where causal attention never looks.
                logits = self.model(input_ids=batch.input_ids, use_cache=False).logits
            yield batch, logits


def _mean_surprise(batch: TokenBatch, logits: Tensor) -> Tensor:
    """Mean negative log-likelihood `[B]` of each row's pooled span."""
    found = []  # row by row, since float32 over a whole vocabulary is large
    for row_logits, ids, inside in zip(logits, batch.input_ids, batch.pool_mask.bool(), strict=True):
        found.append(nn.functional.cross_entropy(row_logits[:-1][inside[1:]].float(), ids[1:][inside[1:]]))
    return torch.stack(found)


def _hub_answers(model: str) -> bool:
    """Whether asking the hub makes sense: without a network its client would retry for half a minute."""
    host = urlsplit(ENDPOINT)
    if Path(model).exists():
        return False
    if getproxies():
        return True
    try:
        socket.create_connection((host.hostname or "", host.port or 443), timeout=3).close()
    except OSError:
        return False
    return True


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
