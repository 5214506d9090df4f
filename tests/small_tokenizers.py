"""Small tokenizers of every usual kind, with the normalizers and decoders that models have."""

from __future__ import annotations

import string
from collections.abc import Callable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = ("the", "cat", "sat", "hello", "world")
LETTERS = tuple(string.ascii_lowercase + ".,'!é")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
SPECIAL = ("<unk>", "<s>", "</s>")


def wrapped(backend: Tokenizer, unknown: str | None = "<unk>") -> PreTrainedTokenizerFast:
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    if unknown is not None:
        special["unk_token"] = unknown
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def _unigram(fallback: bool) -> models.Unigram:
    pieces = [*SPECIAL, *(BYTES if fallback else ()), "▁", *LETTERS, *(f"▁{w}" for w in WORDS)]
    scores = [(piece, -float(len(piece) == 1) - 1) for piece in pieces]
    return models.Unigram(scores, unk_id=0, byte_fallback=fallback)


def llama() -> PreTrainedTokenizerFast:
    """SentencePiece with bytes; a space is put before a text, and taken away again."""
    backend = Tokenizer(_unigram(fallback=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return wrapped(backend)


def gemma() -> PreTrainedTokenizerFast:
    """SentencePiece with bytes and without a space before a text."""
    backend = Tokenizer(_unigram(fallback=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return wrapped(backend)


def t5() -> PreTrainedTokenizerFast:
    """SentencePiece without bytes; spaces are made single, and none is kept at the ends."""
    backend = Tokenizer(_unigram(fallback=False))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return wrapped(backend)


def bert() -> PreTrainedTokenizerFast:
    """WordPiece of lower case."""
    pieces = [*SPECIAL, "[UNK]", *LETTERS, *(f"##{c}" for c in string.ascii_lowercase), *WORDS]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return wrapped(backend, "[UNK]")


def byte_level() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = ["<s>", "</s>", *alphabet, "th", "the", "Ġt"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocabulary, [("t", "h"), ("th", "e"), ("Ġ", "t")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return wrapped(backend, None)


def word_level() -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS, "café", ","])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return wrapped(backend)


def gpt1() -> PreTrainedTokenizerFast:
    """Byte-pair encoding that marks the ends of words."""
    pieces = [*SPECIAL, *LETTERS, *(f"{c}</w>" for c in LETTERS)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", end_of_word_suffix="</w>"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.BPEDecoder()
    return wrapped(backend)


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    make.__name__: make for make in (llama, gemma, t5, bert, byte_level, word_level, gpt1)
}
