"""Config, tokenizer and weights of a language model: complete, as the files hold them, or refused in one sentence."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR
from pathlib import Path
from typing import Any

from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from probe.errors import ProbeError
from probe.lm.conversion import converted
from probe.lm.devices import device_of, dtype_of, say
from probe.lm.sources import OFFLINE, adapter_base, from_hub, locate
from probe.lm.spec import LMSpec
from probe.lm.weights import merged, refuse_made_up


def load(spec: LMSpec) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads config and tokenizer, refuses what cannot work, and only then reads the weights.

    Raises:
        ProbeError: for a device that is not there, an unknown or unreachable model, an encoder-decoder, a tokenizer that
            cannot be used, and weights that are not those of the config.
    """
    device = device_of(spec.device)
    dtype = dtype_of(spec.dtype, device)
    with _one_sentence(
        f"--lm.model {spec.model}: expected a language model that can be loaded", "mend it, or take another."
    ):
        folder = _folder(spec.model)
        base = adapter_base(folder)
        weights = _folder(base) if base else folder
        if base and adapter_base(weights):
            raise ProbeError(
                f"--lm.model {spec.model}: expected a model as this adapter's base, found another adapter ({base}); "
                "merge that one first."
            )
        trust = {"trust_remote_code": spec.trust_remote_code, "local_files_only": not spec.trust_remote_code}
        config = _config(spec.model, weights, trust)
        own_tokenizer = base and (folder / "tokenizer_config.json").is_file()
        tokenizer = _tokenizer(spec.model, folder if own_tokenizer else weights, trust)
        read: Any = AutoModelForCausalLM.from_pretrained
        model, report = read(
            weights,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are refused below, in our own words
            output_loading_info=True,
            **trust,
        )
        refuse_made_up(spec.model, model, report)
        if base:
            model = merged(spec.model, model, folder)
            say(f"The adapter {spec.model} is merged into its base {base}.")
        nn.Module.to(model, device)
    return model, tokenizer


def settle_padding(name: str, tokenizer: PreTrainedTokenizerBase, n_embeddings: int) -> None:
    """Lets another special token pad where there is no pad token, or one that the model has no embedding for.

    Which one does not matter, since padding is masked; but it must be special, or it would be lost from answers.

    Raises:
        ProbeError: where no special token has an embedding, and where the tokenizer belongs to a larger model.
    """
    if tokenizer.vocab_size > n_embeddings:
        raise ProbeError(
            f"--lm.model {name}: expected a tokenizer of at most {n_embeddings} tokens, as the model has embeddings, "
            f"found one of {tokenizer.vocab_size}; it belongs to another model."
        )
    ids: Any = tokenizer.convert_tokens_to_ids
    for token in (tokenizer.pad_token, tokenizer.eos_token, tokenizer.bos_token, tokenizer.unk_token):
        if token is not None and ids(token) < n_embeddings:
            tokenizer.pad_token = token
            return
    raise ProbeError(
        f"--lm.model {name}: expected a pad, end, begin or unknown token in the tokenizer, found none; "
        "name one in its tokenizer_config.json."
    )


def _folder(model: str) -> Path:
    folder = locate(model)
    if folder is None:
        with _one_sentence(f"--lm.model {model}: expected a path or a Hugging Face id within reach", OFFLINE):
            return from_hub(model)
    return converted(folder) if folder.is_file() else folder


def _config(name: str, folder: Path, trust: dict[str, bool]) -> PretrainedConfig:
    config: PretrainedConfig = AutoConfig.from_pretrained(folder, **trust)
    if getattr(config, "is_encoder_decoder", False):
        raise ProbeError(
            f"--lm.model {name}: expected a decoder-only model, found the encoder-decoder {config.model_type}; "
            "choose a causal LM."
        )
    text = config.get_text_config(decoder=True)
    if (getattr(text, "pad_token_id", None) or 0) >= getattr(text, "vocab_size", math.inf):
        text.pad_token_id = None  # a pad token that was added without an embedding; `settle_padding` finds another
    # What a config may ask for by itself: our passes ask for what they need, by name.
    config.return_dict, config.output_hidden_states, config.output_attentions = True, False, False
    return config


def _tokenizer(name: str, folder: Path, trust: dict[str, bool]) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(folder, **trust)
    if not getattr(tokenizer, "is_fast", False):
        raise ProbeError(
            f"--lm.model {name}: expected a fast tokenizer, which knows where in the text each token lies, found "
            f"{type(tokenizer).__name__}; choose a model that has a tokenizer.json."
        )
    return tokenizer


@contextmanager
def _one_sentence(expected: str, advice: str) -> Iterator[None]:
    """Turns whatever goes wrong inside into one sentence, and keeps transformers' own tables away."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(ERROR)
    try:
        yield
    except ProbeError:
        raise
    except Exception as error:  # a hub, a config, a quantiser or the code of a model may raise anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ProbeError(f"{expected}, but that failed ({reason}); {advice}") from error
    finally:
        logging.set_verbosity(verbosity)
