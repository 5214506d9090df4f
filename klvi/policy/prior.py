"""The prior: a pretrained causal LM, its tokenizer, and where its sequences start and end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from klvi.contexts import Context
from klvi.engine.kernels.install import Kernels, install
from klvi.engine.views import view_of
from klvi.errors import UserError
from klvi.policy.enumerable import enumerable_lm
from klvi.policy.loading import check_vocabulary, load_pretrained
from klvi.policy.schema import EnumerableModelConfig, ModelConfig, with_dtype
from klvi.policy.text import TAIL, encode_text, texts_after
from klvi.policy.tiny import tiny_path
from klvi.samples import distinct_rows

# What configurations call the longest sequence.
LENGTH_NAMES = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "max_sequence_length",
    "max_target_positions",
    "seq_length",
    "seq_len",
)


@dataclass(frozen=True)
class Prior:
    """A causal LM π0 with everything that defines its space of sequences.

    Attributes:
        name: what the user calls it.
        model: in eval mode (no dropout), its parameters frozen, with klvi's kernels.
        plain: a view of the same weights as transformers has them.
        tokenizer: without a need for a pad token.
        start_token_id: begins every prompt, but a chat's; None where the model has none.
        stop_token_ids: a completion ends with the first of these.
        max_prompt_tokens: of a longer prompt, the beginning is cut off; None for no limit.
        kernels: whether `model`, and any policy on it, computes with klvi's kernels.
        max_new_tokens: longest completion, in whoever's hands the prior is; None where each says.
    """

    name: str
    model: PreTrainedModel
    plain: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    start_token_id: int | None
    stop_token_ids: tuple[int, ...]
    max_prompt_tokens: int | None = None
    kernels: Kernels = "auto"
    max_new_tokens: int | None = None
    _encoded: dict[tuple[str, bool], list[int]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        device: torch.device = self.model.device
        return device

    @property
    def support(self) -> int:
        """The tokens of its longest completion.

        Raises UserError where it was loaded without saying.
        """
        if self.max_new_tokens is None:
            raise UserError(
                f"prior {self.name}: its longest completion is not known, which is part of the "
                "problem; load it by klvi.load_prior(..., max_new_tokens=N)"
            )
        return self.max_new_tokens

    @property
    def commit(self) -> str | None:
        """Of a hub's model, the commit that was loaded."""
        return getattr(self.plain.config, "_commit_hash", None)

    @cached_property
    def most_tokens(self) -> int | None:
        """The longest sequence that the model takes, prompt included; None without a limit."""
        return most_tokens(self.plain)

    def encode(self, contexts: Sequence[Context]) -> tuple[Tensor, Tensor]:
        """Prompt tokens `(N, P)`, padded on the left, and their lengths `(N,)`.

        Raises UserError where a prompt is empty and no token can start a sequence, and where the
        tokenizer has no tokens for some of its characters.
        """
        unique = {context.row: context for context in contexts}
        encoded = {row: self._cut(self._encode_one(c)) for row, c in unique.items()}
        empty = [row + 1 for row, tokens in encoded.items() if not tokens]
        if empty:
            which = f" (prompt {empty[0]} is empty)" if len(encoded) > 1 else ""
            raise UserError(
                "set model.start_token=TOKEN, or give prompts=file prompts.path=FILE without empty "
                f"prompts{which}: model {self.name} has no beginning-of-sequence token, so a "
                "sequence cannot start from nothing"
            )
        width = max(map(len, encoded.values()))
        padding = [self.stop_token_ids[0]] * width
        padded = [(padding + row)[-width:] for row in encoded.values()]
        place = {row: number for number, row in enumerate(encoded)}
        rows = torch.tensor([place[context.row] for context in contexts], device=self.device)
        lengths = torch.tensor(list(map(len, encoded.values())), device=self.device)
        return torch.tensor(padded, device=self.device)[rows], lengths[rows]

    def _encode_one(self, context: Context) -> list[int]:
        """All tokens of a prompt: the start token, once, but what a chat template writes as is."""
        chat = context.messages is not None
        known = self._encoded.get((context.prompt, chat))
        if known is not None:
            return known
        tokens = encode_text(self.tokenizer, self.name, context.prompt)
        start = self.start_token_id
        if start is not None and not chat and tokens[:1] != [start]:
            tokens = [start, *tokens]
        rows = int(self.plain.get_input_embeddings().weight.shape[0])
        if max(tokens, default=0) >= rows:
            raise UserError(
                f"prompt {context.prompt!r:.80}: it has the token id {max(tokens)}, but model "
                f"{self.name} embeds {rows:,} tokens: take a prompt without it, or resize the "
                "model's embeddings"
            )
        self._encoded[context.prompt, chat] = tokens
        return tokens

    def _cut(self, tokens: list[int]) -> list[int]:
        """At most `max_prompt_tokens`: the start token, and the last of the others."""
        most = self.max_prompt_tokens
        if most is None or len(tokens) <= most:
            return tokens
        kept = tokens[:1] if tokens[0] == self.start_token_id else []
        return kept + tokens[len(tokens) - most + len(kept) :]

    def count_cut(self, contexts: Sequence[Context]) -> int:
        """How many of the contexts have more than `max_prompt_tokens` tokens."""
        most = self.max_prompt_tokens
        return sum(most is not None and len(self._encode_one(c)) > most for c in contexts)

    def decode(
        self, prompt_tokens: Tensor, prompt_lengths: Tensor, tokens: Tensor, lengths: Tensor
    ) -> list[str]:
        """The texts of N completions as they read after their prompts, without special tokens.

        Args:
            prompt_tokens: `(N, P)`, padded on the left; `prompt_lengths` `(N,)`.
            tokens: `(N, T)`, of `lengths` `(N,)`.
        """
        width = min(TAIL, prompt_tokens.shape[1])
        places = torch.arange(width + tokens.shape[1], device=tokens.device)
        start = (width - prompt_lengths.clamp_max(width))[:, None]
        end = (width + lengths)[:, None]
        real = (places >= start) & (places < end)
        table = torch.cat([prompt_tokens[:, prompt_tokens.shape[1] - width :], tokens], 1) * real
        first, place = distinct_rows(torch.cat([start, end, table], 1))
        rows = table[first].tolist()
        bounds = zip(start[first, 0].tolist(), end[first, 0].tolist(), strict=True)
        pairs = [(row[i:width], row[width:j]) for row, (i, j) in zip(rows, bounds, strict=True)]
        texts = texts_after(
            self.tokenizer,
            [self._readable(prompt) for prompt, _ in pairs],
            [completion for _, completion in pairs],
        )
        return [texts[number] for number in place.tolist()]

    def _readable(self, prompt: list[int]) -> list[int]:
        """Without the start token, which is no text even where it is an ordinary token."""
        return prompt[1:] if prompt[:1] == [self.start_token_id] else prompt

    def check_length(self, prompt_tokens: int, new_tokens: int) -> None:
        """Raises UserError where prompt and completion do not fit the model's context."""
        context = self.most_tokens
        if context is not None and prompt_tokens + new_tokens > context:
            room = context - new_tokens
            if room >= 1 and prompt_tokens > new_tokens:
                raise UserError(
                    f"prompts.max_tokens: a prompt of {prompt_tokens} tokens with "
                    f"max_new_tokens={new_tokens} exceeds the {context} positions of model "
                    f"{self.name}; set prompts.max_tokens={room}, or fewer new tokens"
                )
            raise UserError(
                f"max_new_tokens={new_tokens}: with a prompt of {prompt_tokens} tokens it "
                f"exceeds the {context} positions of model {self.name}; "
                f"at most {max(context - prompt_tokens, 0)} are left"
            )


def most_tokens(model: PreTrainedModel) -> int | None:
    """The longest sequence that `model` states, or has positions for; None without a limit."""
    config = model.config.get_text_config()
    values = [getattr(config, name, None) for name in LENGTH_NAMES]
    stated = [v for v in values if isinstance(v, int) and not isinstance(v, bool) and v > 0]
    if not stated:
        return None
    limit = min(stated)
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and "pos" in name and module.num_embeddings >= limit:
            # Some count positions from the one after padding's.
            first = 0 if module.padding_idx is None else module.padding_idx + 1
            limit = min(limit, module.num_embeddings - getattr(module, "offset", first))
    return limit


def load_prior(
    config: ModelConfig | EnumerableModelConfig,
    device: str = "cpu",
    kernels: Kernels = "auto",
    key: str = "model.path",
) -> Prior:
    """Load the configured prior onto `device`; `kernels=none` computes as transformers and peft do.

    `key` is the configuration's of its path, for messages.

    Raises UserError where it cannot be found, has no end-of-sequence token, or where
    `model.start_token` is not in its vocabulary.
    """
    config = with_dtype(config, device)
    if isinstance(config, EnumerableModelConfig):
        model, tokenizer = enumerable_lm(config.letters, config.length, config.seed)
        start: str | None = None
    else:
        model, tokenizer = _load_pretrained(config, key)
        start = config.start_token
    plain = model.to(device).eval().requires_grad_(False)
    check_vocabulary(config.name, plain, tokenizer)
    model = with_kernels(plain, kernels)
    start_token_id = _start_token_id(config.name, tokenizer, start)
    stop_token_ids = _stop_token_ids(config.name, model, tokenizer)
    _check_ids(config.name, plain, start_token_id, stop_token_ids)
    return Prior(
        name=config.name,
        model=model,
        plain=plain,
        tokenizer=tokenizer,
        start_token_id=start_token_id,
        stop_token_ids=stop_token_ids,
        kernels=kernels,
    )


def with_kernels(plain: PreTrainedModel, kernels: Kernels = "auto") -> PreTrainedModel:
    """A view of a model with klvi's kernels in it."""
    model = view_of(plain)
    install(model, kernels)
    return model


def _load_pretrained(
    config: ModelConfig, key: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    path = config.path or (str(tiny_path()) if config.name == "tiny" else None)
    if path is None:
        raise UserError(f"model={config.name} has no path: set model.path=HUB_ID_OR_FOLDER")
    return load_pretrained(
        path,
        dtype=config.dtype,
        key=key,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
    )


def _start_token_id(name: str, tokenizer: PreTrainedTokenizerBase, token: str | None) -> int | None:
    if token is None:
        start: int | None = tokenizer.bos_token_id
        return start
    index = tokenizer.get_vocab().get(token)
    if index is None:
        raise UserError(f"model.start_token={token}: not a token of model {name}'s vocabulary")
    return int(index)


def _check_ids(
    name: str, model: PreTrainedModel, start: int | None, stops: tuple[int, ...]
) -> None:
    rows = int(model.get_input_embeddings().weight.shape[0])
    for what, ids in (("start", [] if start is None else [start]), ("end", stops)):
        for index in ids:
            if not 0 <= index < rows:
                raise UserError(
                    f"model {name}: its {what} token has the id {index}, but the model embeds "
                    f"{rows:,} tokens: correct its tokenizer or generation_config.json"
                )


def _stop_token_ids(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[int, ...]:
    """The tokenizer's end-of-sequence token first, then those of the model's generation config."""
    declared = getattr(model.generation_config, "eos_token_id", None)
    others = declared if isinstance(declared, list) else [declared]
    ids = [i for i in (tokenizer.eos_token_id, *others) if i is not None]
    if not ids:
        raise UserError(
            f"model {name} has no end-of-sequence token: klvi needs one to tell complete sequences"
        )
    return tuple(dict.fromkeys(ids))
