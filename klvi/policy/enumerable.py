"""A seeded language model over a few letters, all of whose sequences can be listed."""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from klvi.contexts import Context
from klvi.errors import UserError
from klvi.randomness import torch_seeded

END_OF_TEXT = "<|endoftext|>"
WIDTH, LAYERS, HEADS = 64, 2, 8
ENTROPY_SHARE = 0.5
MAX_PREFIXES = 700
# Positions for a prompt and its completion.
POSITIONS = 128


def enumerable_lm(
    letters: int, length: int, seed: int
) -> tuple[GPT2LMHeadModel, PreTrainedTokenizerFast]:
    """A GPT-2 over `letters` letters whose entropy is half the maximum at `length` tokens.

    The start token is the end-of-sequence token, as in GPT-2, and there is no other special token:
    the model can emit neither a start nor a pad token. Texts are letters separated by spaces.
    """
    tokenizer = _tokenizer(letters)
    with torch_seeded(seed):
        model = GPT2LMHeadModel(_config(letters, length)).eval()
    _set_entropy(model, letters, length)
    _lengthen(model, seed)
    return model, tokenizer


def check_letters(contexts: Sequence[Context], letters: int) -> None:
    """Raises UserError for a prompt that is no sequence of the first `letters` letters."""
    alphabet = string.ascii_lowercase[:letters]
    for context in contexts:
        if any(word not in alphabet or len(word) != 1 for word in context.prompt.split()):
            raise UserError(
                f"prompts.path: {context.title}: model=enumerable reads letters "
                f"a to {alphabet[-1]} parted by spaces, such as 'a b'; raise model.letters, or "
                "use another model"
            )


def _tokenizer(letters: int) -> PreTrainedTokenizerFast:
    vocabulary = {letter: i for i, letter in enumerate(string.ascii_lowercase[:letters])}
    vocabulary[END_OF_TEXT] = letters
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=None))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT
    )


def _config(letters: int, length: int) -> GPT2Config:
    """Random weights that an adapter can move anywhere.

    Tied embeddings would make every token prefer itself, the end token after the start first of
    all. Smaller weights give features in which neighbouring sequences hardly differ, so that a
    jagged reward takes several times the updates; larger ones make attention so peaked that it
    never looks at some letters.
    """
    return GPT2Config(
        vocab_size=letters + 1,
        n_positions=max(2 * length, 8),
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        initializer_range=0.2,
        tie_word_embeddings=False,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=letters,
        eos_token_id=letters,
    )


@torch.no_grad()
def _lengthen(model: GPT2LMHeadModel, seed: int) -> None:
    """More positions, for prompts, with random numbers of their own.

    The entropy of texts that follow a prompt is what it happens to be.
    """
    embedding, config = model.transformer.wpe, model.config
    generator = torch.Generator().manual_seed(seed)
    more = torch.randn(POSITIONS - config.n_positions, WIDTH, generator=generator)
    weight = torch.cat([embedding.weight, config.initializer_range * more])
    model.transformer.wpe = torch.nn.Embedding.from_pretrained(weight)
    config.n_positions = POSITIONS


@torch.no_grad()
def _set_entropy(model: GPT2LMHeadModel, letters: int, length: int) -> None:
    """Scale the final layer norm, a temperature, until the entropy is the wanted share.

    Entropy need not fall monotonically with the scale, but it is the maximum's at 0 and far below
    half of it at the upper end, so bisection ends at a crossing.
    """
    # The temperature found on shorter sequences is near, where all prefixes would be too many.
    depth = min(length, max(1, int(math.log(MAX_PREFIXES, letters))))
    hidden = _prefix_states(model, letters, depth)
    maximum = torch.log(torch.tensor(float(sum(letters**k for k in range(depth)) + letters**depth)))
    low, high = 0.0, 64.0
    for _ in range(40):
        scale = (low + high) / 2
        entropy = _entropy([state * scale for state in hidden], model, letters)
        low, high = (scale, high) if entropy > ENTROPY_SHARE * maximum else (low, scale)
    model.transformer.ln_f.weight.mul_(scale)
    model.transformer.ln_f.bias.mul_(scale)


def _prefix_states(model: GPT2LMHeadModel, letters: int, depth: int) -> list[Tensor]:
    """For k < depth the final hidden states `(letters^k, W)` of all prefixes of k letters."""
    states = []
    for k in range(depth):
        rows = [[letters, *prefix] for prefix in itertools.product(range(letters), repeat=k)]
        states.append(model.transformer(torch.tensor(rows)).last_hidden_state[:, -1])
    return states


def _entropy(hidden: list[Tensor], model: GPT2LMHeadModel, letters: int) -> float:
    """Nats per sequence, by the chain rule over all prefixes."""
    reach, total = torch.ones(1), 0.0
    for state in hidden:
        log_next = model.lm_head(state).log_softmax(-1)
        total += float(reach @ -(log_next.exp() * log_next).sum(-1))
        reach = (reach[:, None] * log_next[:, :letters].exp()).flatten()
    return total
