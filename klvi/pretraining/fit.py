"""Pretraining of a small language model from scratch: how a prior comes to be."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from klvi.errors import UserError
from klvi.pretraining.schema import PretrainConfig
from klvi.pretraining.tokenizer import train_tokenizer, unknown_characters

IGNORED = -100
EVALUATION_BATCH = 256
ENCODED_AT_ONCE = 10_000
MIN_HELD_OUT = 2


@dataclass(frozen=True)
class PretrainingReport:
    """What came out: losses are held-out means with their standard errors, in nats.

    Attributes:
        parameters: trained numbers, tied ones once.
        tokens: the size of the vocabulary.
        texts: texts trained on.
        truncated: texts longer than the context, of which only the beginning was used.
        held_out: M texts that were not trained on.
        losses: `(M,)` −log p of each of them, its end included, nats per text.
        lengths: `(M,)` predicted tokens of each of them.
        seconds: duration of the training.
        threads: of torch, on which the last digits of the weights depend.
    """

    parameters: int
    tokens: int
    texts: int
    truncated: int
    held_out: list[str]
    losses: Tensor
    lengths: Tensor
    seconds: float
    threads: int

    @property
    def loss_text(self) -> tuple[float, float]:
        """Held-out loss and its standard error, nats per text."""
        return mean_and_error(self.losses)

    @property
    def loss_token(self) -> tuple[float, float]:
        """Held-out loss and its standard error (delta method for a ratio), nats per token."""
        ratio = self.losses.sum() / self.lengths.sum()
        residuals = (self.losses - ratio * self.lengths) / self.lengths.mean()
        return ratio.item(), mean_and_error(residuals)[1]


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean of `values` `(M,)` and its standard error."""
    values = values.double()
    return values.mean().item(), (values.std() / len(values) ** 0.5).item()


def pretrain(
    texts: Sequence[str],
    held_out: Sequence[str],
    config: PretrainConfig,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> tuple[GPT2LMHeadModel, PreTrainedTokenizerFast, PretrainingReport]:
    """A GPT-2 (Radford et al. 2019) with tied embeddings, its tokenizer, and how good it is.

    Deterministic given `config.seed` and the number of threads. `on_step` is told the step, from 1,
    and its loss in nats per token. Held-out texts with characters that `texts` lack are left out.
    Raises UserError where fewer than 2 are left, which have no standard error.
    """
    tokenizer = train_tokenizer(texts, config.vocabulary)
    spelled = [text for text in held_out if not unknown_characters(tokenizer, text)]
    if len(spelled) < MIN_HELD_OUT:
        raise UserError("corpus: nearly every text has characters of its own; give more texts")
    documents = encode(tokenizer, texts)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = build(tokenizer, config)
    begin = time.perf_counter()
    fit(model, [document[: config.context] for document in documents], config, on_step)
    seconds = time.perf_counter() - begin
    ends = [document[: config.context] for document in encode(tokenizer, spelled)]
    tokenizer.model_max_length = config.context
    report = PretrainingReport(
        parameters=model.num_parameters(),
        tokens=len(tokenizer),
        texts=len(texts),
        truncated=sum(len(document) > config.context for document in documents),
        held_out=spelled,
        losses=losses(model, ends),
        lengths=torch.tensor([len(document) - 1.0 for document in ends]),
        seconds=seconds,
        threads=torch.get_num_threads(),
    )
    return model, tokenizer, report


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[Tensor]:
    """Each text as tokens `(L,)` between a start and an end token."""
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    documents: list[Tensor] = []
    # In parts, because the library keeps much more of each text than its tokens.
    for begin in range(0, len(texts), ENCODED_AT_ONCE):
        part = list(texts[begin : begin + ENCODED_AT_ONCE])
        ids = tokenizer(part, add_special_tokens=False)["input_ids"]
        documents += [torch.tensor([start, *tokens, end]) for tokens in ids]
    return documents


def build(tokenizer: PreTrainedTokenizerFast, config: PretrainConfig) -> GPT2LMHeadModel:
    """An untrained model, which samples at temperature 1 from its whole vocabulary."""
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=config.context,
            n_embd=config.width,
            n_layer=config.layers,
            n_head=config.heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
    )
    return model


def fit(
    model: GPT2LMHeadModel,
    documents: Sequence[Tensor],
    config: PretrainConfig,
    on_step: Callable[[int, float], None],
) -> None:
    """Train in place, by AdamW and a one-cycle schedule (Smith, Topin 2017, arXiv 1708.07120)."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.lr, total_steps=config.steps + 1, pct_start=0.1, cycle_momentum=False
    )
    batches = _batches(len(documents), config)
    model.train()
    for step in range(1, config.steps + 1):
        inputs, labels = _collate([documents[i] for i in next(batches)])
        logits = model(inputs).logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        on_step(step, loss.item())
    model.eval()


def _batches(documents: int, config: PretrainConfig) -> Iterator[list[int]]:
    """Batches of indices: one random order of all documents after another."""
    generator = torch.Generator().manual_seed(config.seed)
    pending: list[int] = []
    while True:
        while len(pending) < config.batch_size:
            pending += torch.randperm(documents, generator=generator).tolist()
        yield pending[: config.batch_size]
        pending = pending[config.batch_size :]


def _collate(documents: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Inputs `(N, T)`, padded on the right, and the tokens that follow each of them."""
    inputs = pad_sequence([document[:-1] for document in documents], batch_first=True)
    labels = pad_sequence(
        [document[1:] for document in documents], batch_first=True, padding_value=IGNORED
    )
    return inputs, labels


@torch.no_grad()
def losses(model: GPT2LMHeadModel, documents: Sequence[Tensor]) -> Tensor:
    """`(M,)` −log p of each document given its first token, nats per document."""
    parts = []
    for begin in range(0, len(documents), EVALUATION_BATCH):
        inputs, labels = _collate(documents[begin : begin + EVALUATION_BATCH])
        logits = model(inputs).logits.double()
        loss = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
        )
        parts.append(loss.sum(1))
    return torch.cat(parts)


@torch.no_grad()
def sample_tokens(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, n: int, length: int, seed: int
) -> list[list[int]]:
    """`n` completions of the start token, of at most `length` tokens, the end token included."""
    rows: list[list[int]] = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        while len(rows) < n:
            start = torch.full((min(EVALUATION_BATCH, n - len(rows)), 1), tokenizer.bos_token_id)
            drawn = model.generate(
                start,
                attention_mask=torch.ones_like(start),
                max_new_tokens=length,
                pad_token_id=tokenizer.eos_token_id,
            )
            rows += drawn[:, 1:].tolist()
    end = tokenizer.eos_token_id
    return [row[: row.index(end) + 1] if end in row else row for row in rows]
