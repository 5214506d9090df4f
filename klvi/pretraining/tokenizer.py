"""Byte-level byte-pair encoding in which every token occurs in the corpus."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from klvi.policy.text import REPLACEMENT

END_OF_TEXT = "<|endoftext|>"

Merge = tuple[str, str]


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer (Sennrich et al. 2016, arXiv 1508.07909) of at most `vocabulary`.

    The alphabet holds the bytes of `texts` only, and a token that does not occur in the encoded
    texts is removed: the language model would never learn it, and it would be garbage in samples.
    Words that are one token are looked up before merging, so that the merges that only lead to
    them can go. `<|endoftext|>` starts and ends a text; there is no padding and no unknown token.
    """
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in splitter.pre_tokenize_str(text))
    tokenizer = Tokenizer(_prune(words, _merges(words, vocabulary)))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def unknown_characters(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """The distinct characters of `text`, in order, that the tokenizer drops or cannot give back."""
    lost = []
    for character in dict.fromkeys(text):
        tokens = tokenizer.encode(character, add_special_tokens=False)
        if not tokens or (REPLACEMENT in tokenizer.decode(tokens) and character != REPLACEMENT):
            lost.append(character)
    return "".join(lost)


def _merges(words: Counter[str], vocabulary: int) -> list[Merge]:
    """The merges of ordinary BPE, most frequent pair first."""
    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=vocabulary - 1, show_progress=False)
    tokenizer.train_from_iterator(_repeated(words), trainer)
    state = json.loads(tokenizer.to_str())
    return [(left, right) for left, right in state["model"]["merges"]]


def _repeated(words: Counter[str]) -> Iterable[str]:
    return (word for word, count in sorted(words.items()) for _ in range(count))


def _prune(words: Counter[str], merges: list[Merge]) -> models.BPE:
    """The model without the tokens that do not occur in the encoded `words`."""
    model = _model(words, merges, set())
    whole = {word for word in words if len(model.tokenize(word)) == 1}
    while True:
        model = _model(words, merges, whole)
        used = {token.value for word in words for token in model.tokenize(word)}
        unused = [token for token in _vocabulary(words, merges, whole) if token not in used]
        if not unused:
            return model
        merges, whole = _without(unused, words, merges, whole)


def _without(
    unused: list[str], words: Counter[str], merges: list[Merge], whole: set[str]
) -> tuple[list[Merge], set[str]]:
    """Fewer merges or fewer whole words: a step towards using every token of `unused`."""
    parts = {part for merge in merges for part in merge}
    leaves = [token for token in unused if token not in parts and len(token) > 1]
    if leaves:
        return [merge for merge in merges if "".join(merge) not in leaves], whole
    consumer = next((merge for merge in reversed(merges) if set(merge) & set(unused)), None)
    if consumer is not None:
        return _drop(consumer, merges), whole
    holders = [word for word in whole if len(word) > 1 and unused[0] in word]
    return merges, whole - {min(holders, key=lambda word: (words[word], word))}


def _drop(merge: Merge, merges: list[Merge]) -> list[Merge]:
    """The merges without `merge` and without those that need its product."""
    lost = {"".join(merge)}
    kept = []
    for other in merges:
        if other == merge or set(other) & lost:
            lost.add("".join(other))
        else:
            kept.append(other)
    return kept


def _vocabulary(words: Counter[str], merges: list[Merge], whole: set[str]) -> list[str]:
    """Bytes, products of merges, and whole words, each once, in a fixed order."""
    alphabet = sorted({character for word in words for character in word})
    products = ["".join(merge) for merge in merges]
    return list(dict.fromkeys([*alphabet, *products, *sorted(whole)]))


def _model(words: Counter[str], merges: list[Merge], whole: set[str]) -> models.BPE:
    tokens = [END_OF_TEXT, *_vocabulary(words, merges, whole)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True)
