"""The log-probability of a label, or the score, of a sequence-classification model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from klvi.contexts import Context
from klvi.errors import UserError
from klvi.rewards.classifier_loading import Source
from klvi.rewards.head import Head
from klvi.rewards.scoring import RewardError
from klvi.rewards.user_file import Warn, warn_once

VERY_LONG = 10**9  # transformers writes 10**30 for a tokenizer without a limit
POSITIONS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "max_seq_length",
    "max_sequence_length",
    "seq_length",
)
# What the self-check scores: of several lengths, two of them equal, and one beyond most limits.
PROBES = ("a good day", "It was not bad at all, they said.", "why", "no", "and then " * 400)
MAX_PROBE = 512
Encoded = Mapping[str, list[int]]


@dataclass(frozen=True)
class Classifier:
    """A reward read off a classifier with its own tokenizer; see `Head` for what is read.

    Texts of equal length in tokens are scored together and no others, so that there is no padding,
    and the head reads each where it would read it alone.
    """

    model: Any
    tokenizer: Any
    head: Head
    batch_size: int
    with_prompt: bool
    chat: bool = False
    name: str = "classifier"
    warn: Warn = field(default_factory=lambda: warn_once("reward classifier"), repr=False)

    @staticmethod
    def load(
        path: str,
        *,
        label: str | int | None = None,
        transform: Literal["logit", "log_sigmoid", "log_softmax"] | None = None,
        batch_size: int = 64,
        with_prompt: bool = False,
        chat: bool = False,
        device: str | None = None,
        dtype: str | None = None,
        trust_remote_code: bool = False,
        run_device: str = "cpu",
    ) -> Classifier:
        """Load a model and its tokenizer from a local folder or the Hugging Face hub.

        Raises `UserError` where they do not exist, are not what was trained and saved, do not know
        the label, or score a text in company otherwise than alone.
        """
        source = Source.of(path, device, dtype, trust_remote_code, run_device)
        model, tokenizer = source.load()
        head = Head.of(model.config, label, transform)
        if chat and not getattr(tokenizer, "chat_template", None):
            raise UserError(
                f"reward.chat=true: the tokenizer of {path} has no chat template; "
                "use reward.with_prompt=true"
            )
        # The end of a text is its completion, which is what must not be cut off.
        if with_prompt or chat:
            tokenizer.truncation_side = "left"
        reward = Classifier(model, tokenizer, head, batch_size, with_prompt, chat)
        reward.check(source.path)
        return reward

    def __call__(self, texts: Sequence[str], contexts: Sequence[Context]) -> Tensor:
        """Score N completions, with their prompts before them if asked: `(N,)`, float64."""
        return self.head.score(self.logits(self.encode(texts, contexts)))

    def encode(self, texts: Sequence[str], contexts: Sequence[Context]) -> list[Encoded]:
        """The tokens of N completions, with their prompts before them if asked."""
        return self._encode([self._whole(t, c) for t, c in zip(texts, contexts, strict=True)])

    def _whole(self, text: str, context: Context) -> str:
        """A completion as the classifier reads it."""
        if not self.chat:
            return context.prompt + text if self.with_prompt else text
        user = [{"role": "user", "content": context.prompt}] if context.prompt else []
        turns = user if context.messages is None else [dict(turn) for turn in context.messages]
        answer = {"role": "assistant", "content": text}
        rendered: str = self.tokenizer.apply_chat_template([*turns, answer], tokenize=False)
        return rendered

    def _encode(self, texts: Sequence[str]) -> list[Encoded]:
        limit = usable_length(self.model, self.tokenizer)
        encoded = self._tokenize(texts)
        long = [i for i, row in enumerate(encoded) if limit and len(row["input_ids"]) > limit]
        if long:
            cut = self._tokenize([texts[i] for i in long], truncation=True, max_length=limit)
            encoded = [dict(row) for row in encoded]
            for index, row in zip(long, cut, strict=True):
                encoded[index] = row
            end = "beginning" if self.tokenizer.truncation_side == "left" else "end"
            self.warn(
                f"takes {limit} tokens: {len(long)} of {len(texts)} texts are longer and lose "
                f"their {end}",
                "length",
            )
        rows = self.model.get_input_embeddings().weight.shape[0]
        for index, row in enumerate(encoded):
            if max(row["input_ids"]) >= rows:
                raise RewardError(
                    f"reward {self.name}: its tokenizer makes token {max(row['input_ids'])} of "
                    f"{texts[index][:40]!r}, and its model has {rows}: reward.path has the "
                    "tokenizer of another model"
                )
        return encoded

    def _tokenize(self, texts: Sequence[str], **options: Any) -> list[Encoded]:
        # A chat template has written the special tokens already.
        found = self.tokenizer(
            list(texts), add_special_tokens=not self.chat, padding=False, verbose=False, **options
        )
        # Some tokenizers make nothing of an empty text, but a model needs a token.
        rows: list[dict[str, list[int]]] = [
            {"input_ids": ids or [self._token_of_nothing()]} for ids in found["input_ids"]
        ]
        for row, types in zip(rows, found.get("token_type_ids", []), strict=False):
            # All zero is the default; models that know no types would take them for something else.
            if any(types):
                row["token_type_ids"] = types
        return list(rows)

    def _token_of_nothing(self) -> int:
        tokenizer = self.tokenizer
        for token in ("pad_token_id", "eos_token_id", "bos_token_id", "unk_token_id"):
            index = getattr(tokenizer, token, None)
            if index is not None:
                return int(index)
        raise RewardError(f"reward {self.name}: its tokenizer makes no token of an empty text")

    def logits(self, encoded: Sequence[Encoded]) -> Tensor:
        """The head's logits `(N, labels)`, float64 on the CPU, of N texts."""
        logits = torch.empty(len(encoded), self.head.count, dtype=torch.float64)
        for batch in self._batches(encoded):
            found = self._forward([encoded[index] for index in batch])
            if found.shape != (len(batch), self.head.count):
                raise RewardError(
                    f"reward {self.name}: {type(self.model).__name__} gives logits of shape "
                    f"{tuple(found.shape)}, not ({len(batch)}, {self.head.count})"
                )
            logits[batch] = found
        return logits

    def _batches(self, encoded: Sequence[Encoded]) -> Iterator[list[int]]:
        """Indices of texts of one length, and with as many end tokens, at which some heads read."""
        end = self.model.config.get_text_config().eos_token_id
        alike: dict[object, list[int]] = {}
        for index, row in enumerate(encoded):
            ids = row["input_ids"]
            ends = ids.count(end) if isinstance(end, int) else 0
            alike.setdefault((len(ids), ends, "token_type_ids" in row), []).append(index)
        for _, indices in sorted(alike.items(), key=lambda item: str(item[0])):
            yield from (
                indices[start : start + self.batch_size]
                for start in range(0, len(indices), self.batch_size)
            )

    @torch.no_grad()
    def _forward(self, rows: Sequence[Encoded]) -> Tensor:
        present = {token for row in rows for token in row["input_ids"]}
        count = self.model.get_input_embeddings().weight.shape[0]
        absent = next((token for token in range(count) if token not in present), None)
        if absent is None and len(rows) > 1:
            return torch.cat([self._forward([row]) for row in rows])
        # Heads of decoders read the last token that is not this one: here the last of all.
        for config in (self.model.config, self.model.config.get_text_config()):
            config.pad_token_id = absent
        device = self.model.device
        inputs = {
            name: torch.tensor([row[name] for row in rows], device=device) for name in rows[0]
        }
        mask = torch.ones_like(inputs["input_ids"])
        logits: Tensor = self.model(**inputs, attention_mask=mask).logits
        return logits.double().cpu()

    def _encode_probes(self, texts: list[str]) -> list[Encoded]:
        """Tokens of texts, or of as many words of a tokenizer that knows only its own."""
        try:
            return self._encode(texts)
        except Exception as error:  # the library raises nothing more special
            if "Missing [UNK]" not in str(error):
                raise
        tokenizer = self.tokenizer
        words = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
        limit = usable_length(self.model, tokenizer) or VERY_LONG
        counts = [min(len(text.split()), limit) for text in texts]
        return [{"input_ids": [words[i % len(words)] for i in range(n)]} for n in counts]

    def check(self, path: str) -> None:
        """Raises `UserError` where texts scored together and alone differ by more than rounding."""
        kind = type(self.model).__name__
        limit = usable_length(self.model, self.tokenizer)
        probes = [*PROBES[:-1], *(PROBES[-1:] if limit and limit <= MAX_PROBE else ())]
        quiet = replace(self, warn=lambda message, kind=None: None)
        try:
            encoded = quiet._encode_probes([self._whole(t, Context(0, "So?")) for t in probes])
            rows = [*encoded, *map(_turned, encoded)]
            together = self.logits(rows)
            alone = torch.cat([self.logits([row]) for row in rows])
        except RewardError as error:
            raise UserError(f"reward.path={path}: {error}") from error
        except Exception as error:  # a model may raise anything at an input
            problem = " ".join(str(error).split())[:200]
            raise UserError(
                f"reward.path={path}: {kind} fails on plain texts: "
                f"{type(error).__name__}: {problem}"
            ) from error
        if not bool(together.isfinite().all()):
            raise UserError(
                f"reward.path={path}: {kind} in {self.model.dtype} gives scores that are not "
                "finite; set reward.dtype=float32"
            )
        rounding = 1e-3 if self.model.dtype in (torch.float32, torch.float64) else 0.1
        difference = ((together - alone).abs() / (1 + alone.abs())).max()
        if difference > rounding:
            raise UserError(
                f"reward.path={path}: {kind} scores a text otherwise in company than alone (by "
                f"{difference:.2g}): klvi cannot use this class"
            )


def _turned(row: Encoded) -> Encoded:
    """As many tokens in another order, the special ones at the ends in their places."""
    ids = row["input_ids"]
    return {**row, "input_ids": [*ids[:1], *reversed(ids[1:-1]), *ids[1:][-1:]]}


def usable_length(model: Any, tokenizer: Any) -> int | None:
    """How many tokens, special ones included, a text may have; None without a limit."""
    configs = (model.config, model.config.get_text_config())
    stated: Iterable[Any] = [getattr(c, name, None) for c in configs for name in POSITIONS]
    limits = [tokenizer.model_max_length, *stated, *_embedded_positions(model)]
    known = [n for n in limits if isinstance(n, int) and 0 < n < VERY_LONG]
    return min(known, default=None)


def _embedded_positions(model: Any) -> Iterator[int]:
    """Of tables of positions whose first rows belong to padding, as RoBERTa's, what is left."""
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, torch.nn.Embedding) and "position" in last and module.padding_idx:
            yield module.num_embeddings - module.padding_idx - 1
