"""The log-probability of a label under a sequence-classification model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from klvi.config import schema
from klvi.contexts import Context
from klvi.errors import UserError

VERY_LONG = 10**9  # transformers writes 10**30 for a tokenizer without a limit


@dataclass(frozen=True)
class Classifier:
    """log p(label | text), in nats, by a classifier with its own tokenizer.

    The labels exclude each other (softmax), unless the model says that it is multi-label or has a
    single logit: then a label's probability is the sigmoid of its logit. A single logit is that of
    label 1 (or of its name); label 0 is the complement.
    """

    model: Any
    tokenizer: Any
    label: int
    batch_size: int
    with_prompt: bool
    name: str = "classifier"

    @staticmethod
    def from_config(config: schema.ClassifierReward, device: str) -> Classifier:
        """Load a model and its tokenizer from a local folder or the Hugging Face hub.

        Raises `UserError` where they do not exist, have no trained classification head, or do not
        know the label.
        """
        if config.path is None:
            raise UserError("reward.path is missing: give a sequence-classification model's path")
        model, tokenizer = _load(config.path)
        _ensure_pad(model, tokenizer, config.path)
        # The end of a text is its completion, which is what must not be cut off.
        tokenizer.truncation_side = "left" if config.with_prompt else tokenizer.truncation_side
        label = _label_index(model.config, config.label)
        model.to(device).eval().requires_grad_(False)
        return Classifier(model, tokenizer, label, config.batch_size, config.with_prompt)

    def __call__(self, texts: Sequence[str], contexts: Sequence[Context]) -> Tensor:
        """Score N completions, with their prompts before them if asked: `(N,)`, at most 0."""
        if self.with_prompt:
            texts = [c.prompt + text for c, text in zip(contexts, texts, strict=True)]
        encoded = self._encode(texts)
        # Texts of similar length share a batch, so that little is spent on padding.
        order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
        scores = torch.empty(len(encoded))
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            scores[chosen] = self._log_probability([encoded[index] for index in chosen])
        return scores

    def _encode(self, texts: Sequence[str]) -> list[Tensor]:
        limit = _length_limit(self.model.config, self.tokenizer)
        encoded = self.tokenizer(
            list(texts), truncation=limit is not None, max_length=limit, padding=False
        )["input_ids"]
        # Some tokenizers make nothing of an empty text, but a model needs a token.
        return [torch.tensor(ids or [self.model.config.pad_token_id]) for ids in encoded]

    @torch.no_grad()
    def _log_probability(self, encoded: list[Tensor]) -> Tensor:
        pad = self.model.config.pad_token_id
        tokens = pad_sequence(encoded, batch_first=True, padding_value=pad)
        lengths = torch.tensor([len(ids) for ids in encoded])
        mask = (torch.arange(tokens.shape[1]) < lengths[:, None]).long()
        device = self.model.device
        output = self.model(input_ids=tokens.to(device), attention_mask=mask.to(device))
        return _label_log_probability(output.logits.float(), self.label, self.model.config).cpu()


def _label_log_probability(logits: Tensor, label: int, config: Any) -> Tensor:
    if config.num_labels == 1:
        return logsigmoid(logits[:, 0] if label else -logits[:, 0])
    if config.problem_type == "multi_label_classification":
        return logsigmoid(logits[:, label])
    return logits.log_softmax(-1)[:, label]


def _load(path: str) -> tuple[Any, Any]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            path, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"reward.path={path}: cannot load a classifier: {reason}") from error
    if loading["missing_keys"]:
        raise UserError(
            f"reward.path={path} is not a trained sequence classifier: it has no weights for "
            + ", ".join(sorted(loading["missing_keys"]))
        )
    return model, tokenizer


def _ensure_pad(model: Any, tokenizer: Any, path: str) -> None:
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise UserError(f"reward.path={path}: its tokenizer has no pad, end or unknown token")
    model.config.pad_token_id = tokenizer.pad_token_id


def _label_index(config: Any, label: str | int) -> int:
    count = max(config.num_labels, 2)  # a single logit tells two labels apart
    names = {str(name): int(index) for index, name in config.id2label.items()}
    if config.num_labels == 1:
        names = dict.fromkeys(names, 1)
    if isinstance(label, int) and 0 <= label < count:
        return label
    if isinstance(label, str) and label in names:
        return names[label]
    known = ", ".join(names)
    raise UserError(f"reward.label={label}: give one of {known}, or an index below {count}")


def _length_limit(config: Any, tokenizer: Any) -> int | None:
    limits = [tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)]
    known = [limit for limit in limits if limit is not None and limit < VERY_LONG]
    return min(known, default=None)
