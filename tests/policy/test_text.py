"""Texts and tokens of small tokenizers of every usual kind."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_tokenizers import TOKENIZERS
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from klvi.contexts import Context, contexts_of
from klvi.errors import UserError
from klvi.policy.prior import Prior
from klvi.policy.text import TAIL, encode_text, lay_out, texts_after

BYTE_KINDS = {"llama", "gemma", "byte_level"}
CHAT = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% if quiet %} shh{% endif %}{% endif %}"
)


def text_of(tokenizer: PreTrainedTokenizerFast, tokens: Sequence[int]) -> str:
    text: str = tokenizer.decode(
        list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return text


def prior_of(tokenizer: PreTrainedTokenizerFast, **options: Any) -> Prior:
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=1, n_positions=64)
    model = GPT2LMHeadModel(config).eval()
    return Prior(
        name="small",
        model=model,
        plain=model,
        tokenizer=tokenizer,
        start_token_id=options.pop("start_token_id", tokenizer.bos_token_id),
        stop_token_ids=(tokenizer.eos_token_id,),
        **options,
    )


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_prompt_and_completion_join_to_what_the_whole_reads_as(kind: str) -> None:
    """Of any tokens that are no bytes; of bytes, those of texts, parted anywhere."""
    tokenizer, numbers = TOKENIZERS[kind](), random.Random(0)
    characters = [tokenizer.encode(c) for c in ("the", "cat", " ", "é", "日", "😀", "\n", "a")]
    for _ in range(300):
        if kind in BYTE_KINDS:
            tokens = [t for c in numbers.choices(characters, k=20) for t in c]
        else:
            tokens = numbers.choices(range(len(tokenizer)), k=numbers.randint(2, 40))
        cut = numbers.randint(1, len(tokens) - 1)
        before, whole = text_of(tokenizer, tokens[:cut]), text_of(tokenizer, tokens)
        (text,) = texts_after(tokenizer, [tokens[:cut][-TAIL:]], [tokens[cut:]])
        assert before.rstrip("\ufffd") + text == whole


@pytest.mark.parametrize(
    ("kind", "prompt", "completion", "text"),
    [
        ("llama", "the", "▁cat", " cat"),
        ("t5", "the", "▁cat", " cat"),
        ("gemma", "the", "▁cat", " cat"),
        ("bert", "the", "cat", " cat"),
        ("bert", "the", "##s", "s"),
        ("word_level", "the", "cat", " cat"),
        ("gpt1", "the", "a</w>", " a"),
        ("byte_level", "the", "Ġt", " t"),
        ("llama", "", "▁cat", "cat"),
    ],
)
def test_a_completion_has_the_space_that_parts_it_from_its_prompt(
    kind: str, prompt: str, completion: str, text: str
) -> None:
    prior = prior_of(TOKENIZERS[kind]())
    tokens = torch.tensor([[prior.tokenizer.convert_tokens_to_ids(completion)]] * 2)
    prompts = prior.encode([Context(0, prompt), Context(1, f"the the {prompt}".strip())])
    found = prior.decode(*prompts, tokens, torch.tensor([1, 1]))
    assert found[0] == text
    assert prompt == "" or found[1] == text


@pytest.mark.parametrize("kind", sorted(BYTE_KINDS))
def test_a_character_begun_in_the_prompt_belongs_to_the_completion(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    (start, end), rest = tokenizer.encode("日")[-3:][:2], tokenizer.encode("日")[-1]
    prompt = [*tokenizer.encode("the"), start, end]
    assert text_of(tokenizer, prompt).rstrip("\ufffd") == "the"
    assert texts_after(tokenizer, [prompt], [[rest]]) == ["日"]


def test_broken_bytes_after_whole_ones_show_once() -> None:
    """The bytes of the prompt's last character are shown as broken with those that follow."""
    tokenizer = TOKENIZERS["llama"]()
    broken = tokenizer.convert_tokens_to_ids("<0xFF>")
    assert texts_after(tokenizer, [tokenizer.encode("the 日")], [[broken]]) == ["\ufffd"]


@pytest.mark.parametrize(
    ("kind", "prompt"),
    [
        ("bert", "The  CAT sat"),
        ("bert", " hello\nworld "),
        ("bert", "Hélló"),
        ("bert", "[UNK] cat"),
        ("t5", "  hello   world "),
        ("word_level", "the\ncat  sat"),
        ("word_level", "café"),
        ("gpt1", "The cat, sat!"),
        ("llama", "日本 \t ⚠️"),
    ],
)
def test_what_a_tokenizer_normalises_is_no_error(kind: str, prompt: str) -> None:
    assert encode_text(TOKENIZERS[kind](), kind, prompt)


@pytest.mark.parametrize(
    ("kind", "prompt", "lost"),
    [
        ("bert", "the cat 日", "'日'"),
        ("t5", "the 5  cats", "'5'"),
        ("word_level", "the dog sat", "'dog'"),
        ("gpt1", "the € cat", "'€'"),
    ],
)
def test_what_becomes_the_unknown_token_is_named(kind: str, prompt: str, lost: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    with pytest.raises(UserError, match=f"no tokens for {lost}"):
        encode_text(tokenizer, kind, prompt)
    tokenizer.unk_token = None
    if kind == "t5":
        with pytest.raises(UserError, match=f"no tokens for {lost}"):
            encode_text(tokenizer, kind, prompt)


def test_a_prompt_that_has_its_start_token_gets_no_second() -> None:
    prior = prior_of(TOKENIZERS["byte_level"]())
    tokens, lengths = prior.encode(contexts_of(["<s>the", "the", "<s>", ""]))
    assert lengths.tolist() == [2, 2, 1, 1]
    assert tokens[0].tolist() == tokens[1].tolist()


def test_long_prompts_lose_their_beginning_but_not_the_start_token() -> None:
    contexts = [Context(0, "abcdef"), Context(1, "ab")]
    prior = prior_of(TOKENIZERS["byte_level"](), max_prompt_tokens=4)
    whole = replace(prior, max_prompt_tokens=None).encode(contexts)[0][0].tolist()
    tokens, lengths = prior.encode(contexts)
    assert tokens[0].tolist() == [whole[0], *whole[-3:]]
    assert lengths.tolist() == [4, 3]
    assert prior.count_cut(contexts) == 1
    startless = replace(prior, start_token_id=None)
    assert startless.encode(contexts)[0][0].tolist() == whole[-4:]


def chat(*messages: tuple[str, str], row: int = 0) -> Context:
    return Context(row, messages=[{"role": role, "content": text} for role, text in messages])


def test_a_chat_is_laid_out_up_to_the_turn_of_the_assistant() -> None:
    prior = prior_of(TOKENIZERS["byte_level"]())
    prior.tokenizer.chat_template = CHAT
    contexts = [chat(("user", "the")), Context(1, "plain")]
    laid_out = lay_out(prior.tokenizer, "small", contexts, {"quiet": True})
    assert [c.prompt for c in laid_out] == ["<s>[user] the\n[assistant] shh", "plain"]
    tokens = prior.encode(laid_out)[0]
    assert tokens[0].tolist().count(prior.start_token_id) == 1
    # A template without the start token does without it.
    prior.tokenizer.chat_template = CHAT.removeprefix("{{ bos_token }}")
    bare = prior.encode(lay_out(prior.tokenizer, "small", contexts[:1], {}))
    assert prior.start_token_id not in bare[0][0].tolist()


def test_a_reply_is_continued_where_asked() -> None:
    tokenizer = TOKENIZERS["byte_level"]()
    tokenizer.chat_template = CHAT
    begun = chat(("user", "the"), ("assistant", "a cat"))
    arguments = {"continue_final_message": True}
    texts = [c.prompt for c in lay_out(tokenizer, "m", [begun, chat(("user", "a"))], arguments)]
    assert texts == ["<s>[user] the\n[assistant] a cat", "<s>[user] a\n[assistant]"]


@pytest.mark.parametrize(
    ("template", "arguments", "message"),
    [
        (None, {}, r"no chat template; take an instruction-tuned model"),
        (CHAT, {"quite": True}, r"prompts\.chat\.quite: .* does not use it"),
        ("{{ raise_exception('no system') }}", {}, r"row 3: .* refuses its messages: no system"),
    ],
)
def test_chats_that_cannot_be_laid_out_are_refused(
    template: str | None, arguments: dict[str, bool], message: str
) -> None:
    tokenizer = TOKENIZERS["byte_level"]()
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=message):
        lay_out(tokenizer, "m", [chat(("user", "a"), row=2)], arguments)


def test_a_saved_tokenizer_reads_as_it_did(tmp_path: Path) -> None:
    TOKENIZERS["llama"]().save_pretrained(tmp_path)
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert texts_after(loaded, [loaded.encode("the")], [loaded.encode("cat")]) == [" cat"]
