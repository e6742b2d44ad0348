"""Trains an embedded storyteller: python data/storyteller/train.py --seed 0 --out data/storyteller/lm0

Makes the corpus from the grammar, trains the tokenizer and a small Llama on it with Lightning, and saves a folder that
`AutoModelForCausalLM` and `AutoTokenizer` load. `measure.py` beside this file writes the model card's figures.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.data import DataLoader, IterableDataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from probe.storyteller.storyteller import Family, Register, Side, grammar, sample_premise, sample_story

SPECIAL = ("<|pad|>", "<|begin|>", "<|user|>", "<|assistant|>", "<|end|>")
CHAT_TEMPLATE = (
    "<|begin|>{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def sample_example(rng: random.Random) -> tuple[str, str]:
    """Draws one (instruction, story) of the training mix: 70 % matching, 15 % neutral, 15 % mismatched.

    An agreeing style suffix stands on a third of the matching instructions; half of the mismatched stories are
    explained by a suffix that overrules the premise, half by nothing.
    """
    premise = sample_premise(rng, rng.randrange(len(grammar()["premises"])))
    kind = rng.choices(("matching", "neutral", "mismatched"), (0.70, 0.15, 0.15))[0]
    register: Register = rng.choice(("inventive", "plain"))
    level = rng.random() if kind == "neutral" else rng.betavariate(*((9, 1) if register == "inventive" else (1, 9)))
    fitting: Side = "creative" if register == "inventive" else "uncreative"
    opposite: Side = "uncreative" if register == "inventive" else "creative"
    side: Side = {"matching": fitting, "neutral": "neutral", "mismatched": opposite}[kind]
    suffix = register if rng.random() < {"matching": 1 / 3, "neutral": 0, "mismatched": 1 / 2}[kind] else None
    family: Family = rng.choice(("A", "B", "mixed"))
    story = sample_story(rng, premise, level, family, rng.randint(5, 10))
    return premise.instruction(side, suffix), story.text


def build_tokenizer(corpus: Iterator[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer, so any text can be read, with a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    pad, begin, _, _, end = SPECIAL
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, bos_token=begin, eos_token=end, model_max_length=1024
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


class Corpus(IterableDataset[torch.Tensor]):
    """Endless fresh stories in batches of one length class, right-padded with -100 as the label."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int, batch: int) -> None:
        self.tokenizer, self.seed, self.batch = tokenizer, seed, batch

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        rng = random.Random(self.seed)
        while True:
            examples = [sample_example(rng) for _ in range(16 * self.batch)]
            texts = [f"<|begin|><|user|>{asked}<|end|><|assistant|>{story}<|end|>" for asked, story in examples]
            rows = sorted(self.tokenizer(texts, add_special_tokens=False)["input_ids"], key=len)
            batches = [rows[i : i + self.batch] for i in range(0, len(rows), self.batch)]
            rng.shuffle(batches)
            for rows in batches:
                ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(r) for r in rows], batch_first=True)
                mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(r)) for r in rows], batch_first=True)
                yield ids, ids.masked_fill(mask == 0, -100)


class Writer(L.LightningModule):
    """Next-token training of the storyteller."""

    def __init__(self, lm: LlamaForCausalLM, lr: float, steps: int) -> None:
        super().__init__()
        self.lm, self.lr, self.steps = lm, lr, steps

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        ids, labels = batch
        loss: torch.Tensor = self.lm(input_ids=ids, labels=labels, use_cache=False).loss
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, betas=(0.9, 0.95), weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=self.steps, pct_start=0.05)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def bf16_is_fast() -> bool:
    """Whether this machine multiplies bfloat16 in hardware."""
    cpu = Path("/proc/cpuinfo")
    return torch.cuda.is_available() or (cpu.exists() and "bf16" in cpu.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--vocab", type=int, default=2560)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--lr", type=float, default=3e-3)
    args = parser.parse_args()
    L.seed_everything(args.seed)
    rng = random.Random(f"tokenizer {args.seed}")
    tokenizer = build_tokenizer((text for _ in range(20_000) for text in sample_example(rng)), args.vocab)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.width,
        intermediate_size=8 * args.width // 3,
        num_hidden_layers=args.blocks,
        num_attention_heads=args.width // 32,
        num_key_value_heads=args.width // 32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    lm = LlamaForCausalLM(config)
    lm.compile(dynamic=True)  # 1.6 times the tokens per second on a CPU, for 90 seconds of compiling
    trainer = L.Trainer(
        max_steps=args.steps,
        precision="bf16-mixed" if bf16_is_fast() else "32-true",
        gradient_clip_val=1.0,
        logger=CSVLogger(args.out / "train_log"),
        callbacks=[LearningRateMonitor()],
        enable_checkpointing=False,
        log_every_n_steps=20,
    )
    corpus = Corpus(tokenizer, args.seed, args.batch)
    trainer.fit(Writer(lm, args.lr, args.steps), DataLoader(corpus, batch_size=None))
    lm.float().save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    recipe = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    (args.out / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")


if __name__ == "__main__":
    main()
