"""The log-probability of a label under small, randomly initialised classifiers saved to disk."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from klvi.contexts import contexts_of, unprompted
from klvi.errors import UserError
from klvi.rewards import schema
from klvi.rewards.build import build_reward

WORDS = ["[UNK]", "[PAD]", "[CLS]", "<end>", "good", "bad", "day", "night", "a"]
TEXTS = ["a good day", "bad", "night night night", ""]


def tokenizer(**special):
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if "cls_token" in special:
        inner.post_processor = processors.TemplateProcessing(
            single="[CLS] $A", special_tokens=[("[CLS]", WORDS.index("[CLS]"))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", **special)


def save_gpt2(path, cls=GPT2ForSequenceClassification, **config):
    """A model with neither a pad token nor, in its config, a pad id."""
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 8, "vocab_size": len(WORDS)}
    model = cls(
        GPT2Config(**sizes, initializer_range=0.5, eos_token_id=3, bos_token_id=3, **config)
    )
    model.save_pretrained(path)
    tokenizer(eos_token="<end>").save_pretrained(path)
    return model.eval()


def save_bert(path, **config):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 16, "vocab_size": len(WORDS), "max_position_embeddings": 8}
    model = BertForSequenceClassification(
        BertConfig(**sizes, initializer_range=0.5, pad_token_id=1, **config)
    )
    model.save_pretrained(path)
    tokenizer(pad_token="[PAD]", cls_token="[CLS]").save_pretrained(path)
    return model.eval()


def build(path, **options):
    return build_reward(
        schema.ClassifierReward(name="classifier", path=str(path), **options), "cpu"
    )


def logits(model, ids):
    """What transformers gives the text alone."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].double()


def close(found, expected):
    torch.testing.assert_close(found, expected.double(), rtol=1e-5, atol=1e-5)


def ids(text):
    return [WORDS.index(word) for word in text.split()]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_equals_each_text_alone_whatever_the_padding(tmp_path, batch_size):
    model = save_gpt2(tmp_path, num_labels=3)
    reward = build(tmp_path, label=2, batch_size=batch_size)
    expected = [logits(model, ids(text) or [3]).log_softmax(-1)[2] for text in TEXTS]
    close(reward(TEXTS, unprompted(4)), torch.stack(expected))


def test_an_encoder_with_special_tokens(tmp_path):
    model = save_bert(tmp_path)
    expected = [logits(model, [2, *ids(text)]).log_softmax(-1)[1] for text in TEXTS]
    close(build(tmp_path)(TEXTS, unprompted(4)), torch.stack(expected))


def test_a_label_by_name(tmp_path):
    save_bert(tmp_path, id2label={0: "sad", 1: "glad"}, label2id={"sad": 0, "glad": 1})
    named = {name: build(tmp_path, label=name)(TEXTS, unprompted(4)) for name in ("sad", "glad")}
    close(named["glad"], build(tmp_path, label=1)(TEXTS, unprompted(4)))
    close(named["sad"].exp() + named["glad"].exp(), torch.ones(4))


def test_a_single_logit_is_a_score_unless_a_probability_is_asked_for(tmp_path):
    model = save_gpt2(tmp_path, num_labels=1)
    logit = torch.stack([logits(model, ids(text))[0] for text in TEXTS[:3]])

    def scores(**options):
        return build(tmp_path, **options)(TEXTS[:3], unprompted(3))

    close(scores(), logit)
    for label, sign in ((None, 1), (1, 1), (0, -1), ("LABEL_0", 1)):
        sigmoid = scores(transform="log_sigmoid", label=label)
        close(sigmoid, (sign * logit).sigmoid().log())
    with pytest.raises(UserError, match=r"reward\.label=1: .* reward\.transform=log_sigmoid"):
        build(tmp_path, label=1)
    with pytest.raises(UserError, match=r"reward\.transform=log_softmax"):
        build(tmp_path, transform="log_softmax")


def test_a_regression_has_scores_and_labels_have_logits_if_asked(tmp_path):
    model = save_gpt2(tmp_path / "regression", num_labels=3, problem_type="regression")
    expected = logits(model, ids("bad"))
    found = build(tmp_path / "regression", label=2)(["bad"], unprompted(1))
    close(found[0], expected[2])
    save_gpt2(tmp_path / "labels", num_labels=3)
    found = build(tmp_path / "labels", label=0, transform="logit")(["bad"], unprompted(1))
    close(found[0], expected[0])


def test_labels_that_do_not_exclude_each_other(tmp_path):
    model = save_gpt2(tmp_path, num_labels=3, problem_type="multi_label_classification")
    expected = logits(model, ids("bad"))[2].sigmoid().log()
    close(build(tmp_path, label=2)(["bad"], unprompted(1))[0], expected)


def test_texts_beyond_the_context_are_cut_and_the_completion_kept(tmp_path):
    model = save_gpt2(tmp_path)
    long = "bad " * 6 + "a good "
    expected = logits(model, ids(long)[:8]).log_softmax(-1)[1]
    close(build(tmp_path)([long + "day"], unprompted(1))[0], expected)
    expected = logits(model, ids(long + "day")[-8:]).log_softmax(-1)[1]
    close(build(tmp_path, with_prompt=True)(["day"], contexts_of([long]))[0], expected)


def test_the_prompt_counts_only_if_asked(tmp_path):
    save_gpt2(tmp_path)
    with_prompt = build(tmp_path, with_prompt=True)
    without = build(tmp_path)
    assert without(["day"], contexts_of(["good "])).equal(without(["day"], contexts_of(["bad "])))
    close(with_prompt(["day"], contexts_of(["good "])), without(["good day"], unprompted(1)))


@pytest.mark.parametrize(("label", "shown"), [("glad", "glad"), (2, "2"), (-1, "-1")])
def test_an_unknown_label_is_refused_with_the_known_ones(tmp_path, label, shown):
    save_gpt2(tmp_path)
    with pytest.raises(UserError, match=rf"reward.label={shown}: give one of LABEL_0, LABEL_1, or"):
        build(tmp_path, label=label)


def test_a_language_model_is_no_classifier(tmp_path):
    save_gpt2(tmp_path, GPT2LMHeadModel)
    with pytest.raises(UserError, match=r"not a trained sequence classifier: .* score\.weight"):
        build(tmp_path)


def test_a_missing_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"reward\.path=.*nowhere: cannot load a classifier"):
        build(tmp_path / "nowhere")
