"""The prior: a pretrained causal LM, its tokenizer, and where its sequences start and end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from klvi.config.defaults import with_dtype
from klvi.config.schema import EnumerableModelConfig, ModelConfig
from klvi.contexts import Context
from klvi.errors import UserError
from klvi.models.activations import fuse_activations
from klvi.models.embedded import enumerable_lm, tiny_path
from klvi.models.embedded.tokenizer import unknown_characters
from klvi.models.loading import check_vocabulary, load_pretrained
from klvi.models.products import fuse_linear
from klvi.models.views import view_of
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
        start_token_id: prepended to every prompt; None where the model has none.
        stop_token_ids: a completion ends with the first of these.
    """

    name: str
    model: PreTrainedModel
    plain: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    start_token_id: int | None
    stop_token_ids: tuple[int, ...]

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        device: torch.device = self.model.device
        return device

    @cached_property
    def most_tokens(self) -> int | None:
        """The longest sequence that the model takes, prompt included; None without a limit."""
        return most_tokens(self.plain)

    def encode(self, contexts: Sequence[Context]) -> tuple[Tensor, Tensor]:
        """Prompt tokens `(N, P)`, padded on the left, and their lengths `(N,)`.

        Raises UserError where a prompt is empty and no token can start a sequence, and where the
        tokenizer has no tokens for some of its characters.
        """
        start = [] if self.start_token_id is None else [self.start_token_id]
        unique = {context.row: context for context in contexts}
        encoded = {c.row: start + self._encode_one(c.prompt) for c in unique.values()}
        if not all(encoded.values()):
            raise UserError(
                f"model {self.name} has no beginning-of-sequence token, so a sequence cannot start "
                "from nothing: set model.start_token=TOKEN, or give prompts=file prompts.path=FILE"
            )
        width = max(map(len, encoded.values()))
        padding = [self.stop_token_ids[0]] * width
        padded = [(padding + row)[-width:] for row in encoded.values()]
        place = {row: number for number, row in enumerate(encoded)}
        rows = torch.tensor([place[context.row] for context in contexts], device=self.device)
        lengths = torch.tensor(list(map(len, encoded.values())), device=self.device)
        return torch.tensor(padded, device=self.device)[rows], lengths[rows]

    def _encode_one(self, prompt: str) -> list[int]:
        if not prompt:
            return []
        tokens = list(self.tokenizer.encode(prompt, add_special_tokens=False))
        whole = self.tokenizer.decode(tokens) == prompt
        lost = "" if whole else unknown_characters(self.tokenizer, prompt)
        if lost:
            raise UserError(f"prompt {prompt!r}: model {self.name} has no tokens for {lost!r}")
        return tokens

    def decode(self, tokens: Tensor, lengths: Tensor) -> list[str]:
        """The texts of completions `(N, T)` of `lengths` `(N,)`, without special tokens."""
        real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        first, place = distinct_rows(torch.cat([lengths[:, None], tokens * real], 1))
        pairs = zip(tokens[first].tolist(), lengths[first].tolist(), strict=True)
        texts = self.tokenizer.batch_decode(
            [row[:length] for row, length in pairs],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        return [texts[number] for number in place.tolist()]

    def check_length(self, prompt_tokens: int, new_tokens: int) -> None:
        """Raises UserError where prompt and completion do not fit the model's context."""
        context = self.most_tokens
        if context is not None and prompt_tokens + new_tokens > context:
            raise UserError(
                f"rollout.max_new_tokens={new_tokens}: with a prompt of {prompt_tokens} tokens it "
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


def load_prior(config: ModelConfig | EnumerableModelConfig, device: str = "cpu") -> Prior:
    """Load the configured prior onto `device`.

    Raises UserError where it cannot be found, has no end-of-sequence token, or where
    `model.start_token` is not in its vocabulary.
    """
    config = with_dtype(config, device)
    if isinstance(config, EnumerableModelConfig):
        model, tokenizer = enumerable_lm(config.letters, config.length, config.seed)
        start: str | None = None
    else:
        model, tokenizer = _load_pretrained(config)
        start = config.start_token
    plain = model.to(device).eval().requires_grad_(False)
    check_vocabulary(config.name, plain, tokenizer)
    model = view_of(plain)
    fuse_activations(model)
    fuse_linear(model)
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
    )


def _load_pretrained(config: ModelConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    path = config.path or (str(tiny_path()) if config.name == "tiny" else None)
    if path is None:
        raise UserError(f"model={config.name} has no path: set model.path=HUB_ID_OR_FOLDER")
    return load_pretrained(
        path,
        dtype=config.dtype,
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
