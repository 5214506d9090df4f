"""Classifiers of many families, as saved: what they score, or why they are refused."""

import json
import re
import warnings

import pytest
import torch
import transformers
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from klvi.contexts import Context, unprompted
from klvi.errors import UserError
from klvi.rewards import schema
from klvi.rewards.build import build_reward
from klvi.rewards.classifier import usable_length
from klvi.rewards.scoring import score

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
LETTERS = [*SPECIAL, *"abcdefghijklmnopqrstuvwxyz,.?!I "]
# Without spaces, which the tokenizer classes of some families treat in their own ways.
TEXTS = ["agoodday", "bad", "nightnight", "", "bad</s>day", "day</s>", "dab"]
DECODER = {
    "vocab_size": len(LETTERS),
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ENCODER = {
    "vocab_size": len(LETTERS),
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 66,
    "pad_token_id": 0,
}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": len(LETTERS)}
DISTIL = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "vocab_size": len(LETTERS)}
BART = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16}
BART |= {"decoder_ffn_dim": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
FAMILIES = {
    "GPT2": {**GPT2, "bos_token_id": 1, "eos_token_id": 2},
    "Llama": DECODER,
    "Qwen2": DECODER,
    "Qwen3": DECODER | {"head_dim": 8},
    "Mistral": DECODER,
    "GPTNeoX": DECODER,
    "OPT": {
        **{k: v for k, v in DECODER.items() if k != "intermediate_size"},
        "ffn_dim": 16,
        "word_embed_proj_dim": 16,
    },
    "Bert": ENCODER,
    "Roberta": ENCODER | {"pad_token_id": 1},
    "DebertaV2": ENCODER,
    "DistilBert": DISTIL | {"max_position_embeddings": 64, "pad_token_id": 0},
    "Longformer": ENCODER | {"pad_token_id": 1, "attention_window": [4]},
    "Bart": BART
    | {
        "vocab_size": len(LETTERS),
        "max_position_embeddings": 64,
        "eos_token_id": 2,
        "pad_token_id": 0,
    },
}


def tokenizer(*, template, limit=None, **special):
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(LETTERS)}, unk_token="<unk>"))
    inner.add_special_tokens(SPECIAL)
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    pairs = [(token, SPECIAL.index(token)) for token in template.split() if token != "$A"]
    if pairs:
        inner.post_processor = processors.TemplateProcessing(single=template, special_tokens=pairs)
    limits = {} if limit is None else {"model_max_length": limit}
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", **special, **limits)


def save(path, family="Llama", template="<s> $A </s>", special=None, cls=None, **config):
    torch.manual_seed(0)
    kind = getattr(transformers, f"{family}Config")
    settings = kind(**FAMILIES[family] | {"num_labels": 1} | config)
    for name in ("initializer_range", "init_std"):
        if hasattr(settings, name):
            setattr(settings, name, 0.5)
    model = (cls or getattr(transformers, f"{family}ForSequenceClassification"))(settings)
    model.save_pretrained(path)
    tokenizer(template=template, **(special or {"eos_token": "</s>"})).save_pretrained(path)
    return model.eval()


def build(path, **options):
    config = schema.ClassifierReward(name="classifier", path=str(path), **options)
    return build_reward(config, "cpu")


def alone(path, ids):
    """What a fresh, plain transformers gives one text, without any notion of padding."""
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    if not model.config.is_encoder_decoder:
        model.config.pad_token_id = None
    with torch.no_grad():
        return torch.stack([model(input_ids=torch.tensor([row])).logits[0, 0] for row in ids])


def ids(text):
    return [1, *[LETTERS.index(c) for c in re.findall(r"</s>|.", text)], 2]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_in_company_is_scored_as_transformers_scores_it_alone(tmp_path, family):
    """End tokens in the middle and at the end, no pad token: the last token is what is read."""
    save(tmp_path, family)
    found = build(tmp_path)(TEXTS, unprompted(len(TEXTS)))
    expected = alone(tmp_path, list(map(ids, TEXTS)))
    torch.testing.assert_close(found, expected.double(), rtol=1e-4, atol=1e-4)
    assert found.std() > 1e-3


@pytest.mark.parametrize("family", ["GPT2", "Llama", "Qwen2"])
def test_padding_that_is_the_end_token_hides_nothing(tmp_path, family):
    save(tmp_path, family, special={"eos_token": "</s>", "pad_token": "</s>"}, pad_token_id=2)
    found = build(tmp_path)(TEXTS, unprompted(len(TEXTS)))
    expected = alone(tmp_path, list(map(ids, TEXTS)))
    torch.testing.assert_close(found, expected.double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "usable"),
    [("Roberta", 64), ("Bert", 66), ("GPT2", 64), ("Llama", 64), ("Bart", 64), ("DistilBert", 64)],
)
def test_long_texts_are_cut_at_the_usable_length(tmp_path, family, usable, capsys):
    save(tmp_path, family)
    right, left = build(tmp_path), build(tmp_path, with_prompt=True)
    assert usable_length(right.model, right.tokenizer) == usable
    long = "ab" * 50 + "z"
    for _ in range(2):
        found = torch.cat([r([long, "a"], unprompted(2))[:1] for r in (right, left)])
    kept = ids(long)[1:-1]
    expected = [[1, *kept[: usable - 2], 2], [1, *kept[2 - usable :], 2]]
    torch.testing.assert_close(found, alone(tmp_path, expected).double(), rtol=1e-4, atol=1e-4)
    lines = capsys.readouterr().err.split("\n")
    assert sum("1 of 2 texts are longer" in line for line in lines) == 2


def test_weights_that_would_be_random_are_refused(tmp_path):
    model = save(tmp_path, "Bert", num_labels=2)
    weights = model.state_dict()
    for name, kept in {
        "classifier.bias": {k: v for k, v in weights.items() if k != "classifier.bias"},
        "pooler.dense.weight": {k: v for k, v in weights.items() if "pooler" not in k},
        "classifier.weight": {k.replace("classifier", "head"): v for k, v in weights.items()},
    }.items():
        model.save_pretrained(tmp_path, state_dict=kept)
        with pytest.raises(UserError, match=rf"reward\.path=.* no weights for .*{name}"):
            build(tmp_path)
    model.save_pretrained(tmp_path, state_dict=weights | {"surplus": torch.ones(1)})
    build(tmp_path)


def adapter(base, path, task=TaskType.SEQ_CLS, **options):
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=3, ignore_mismatched_sizes=True
    )
    config = LoraConfig(task_type=task, r=2, target_modules=["q_proj"], init_lora_weights=False)
    adapted = get_peft_model(model, config).eval()
    adapted.save_pretrained(path)
    return adapted


def test_an_adapter_is_loaded_on_its_base_with_its_own_head(tmp_path):
    base, path = tmp_path / "base", tmp_path / "adapter"
    save(base, cls=transformers.LlamaForCausalLM)
    adapted = adapter(base, path)
    adapted.config.pad_token_id = None
    reward = build(path, label=2)
    with torch.no_grad():
        expected = adapted(input_ids=torch.tensor([ids("bad")])).logits[0].log_softmax(-1)[2]
    torch.testing.assert_close(
        reward(["bad"], unprompted(1))[0], expected.double(), rtol=1e-4, atol=1e-4
    )


def test_an_adapter_that_is_no_classifiers_or_not_whole_is_refused(tmp_path):
    base, path = tmp_path / "base", tmp_path / "adapter"
    save(base)
    adapter(base, path)
    file = path / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"task_type": "CAUSAL_LM"}))
    with pytest.raises(UserError, match=r"reward\.path=.*adapter of task_type CAUSAL_LM"):
        build(path)
    file.write_text(json.dumps(config | {"base_model_name_or_path": str(tmp_path / "none")}))
    with pytest.raises(UserError, match=r"reward\.path=.*its base model is .*none"):
        build(path)
    file.write_text(json.dumps(config))
    weights = load_file(path / "adapter_model.safetensors")
    for lost in ("score", "lora_B"):
        kept = {k: v for k, v in weights.items() if lost not in k}
        save_file(kept, path / "adapter_model.safetensors")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft's, of the same
            with pytest.raises(UserError, match=rf"no weights for .*{lost}"):
                build(path)


def test_damaged_files_are_named_with_the_remedy(tmp_path):
    model = save(tmp_path)
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    for content, message in {
        whole[:-100]: "model.safetensors is cut off.*: download it again",
        whole[:4]: "model.safetensors is cut off.*: download it again",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n": "git lfs pull",
    }.items():
        file.write_bytes(content)
        with pytest.raises(UserError, match=rf"^reward\.path=[^\n]*{message}[^\n]*$"):
            build(tmp_path)
    with torch.no_grad():
        model.score.weight[0, 0] = torch.nan
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"reward\.path=.*score\.weight are not all finite"):
        build(tmp_path)


def test_code_of_its_own_is_not_asked_for_but_named(tmp_path, monkeypatch):
    save(tmp_path)
    file = tmp_path / "config.json"
    code = {"AutoConfig": "own.OwnConfig", "AutoModelForSequenceClassification": "own.Own"}
    config = json.loads(file.read_text()) | {"model_type": "own", "auto_map": code}
    file.write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    with pytest.raises(UserError, match=r"reward\.path=.*reward\.trust_remote_code=true"):
        build(tmp_path)


def test_a_quantised_model_without_its_package_is_refused(tmp_path):
    save(tmp_path)
    file = tmp_path / "config.json"
    quantised = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    file.write_text(json.dumps(json.loads(file.read_text()) | quantised))
    with pytest.raises(UserError, match=r"^reward\.path=[^\n]*package[^\n]*$"):
        build(tmp_path)


def test_tokens_beyond_the_embedding_are_refused(tmp_path):
    save(tmp_path)
    other = tokenizer(template="<s> $A </s>", eos_token="</s>")
    other.add_tokens(["good"])
    other.save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match=r"token 36 of 'a good day'.*reward\.path has the tokenizer"
    ):
        build(tmp_path)


def test_a_class_that_mixes_its_rows_is_refused(tmp_path, monkeypatch):
    save(tmp_path)
    cls = transformers.LlamaForSequenceClassification
    plain = cls.forward

    def mixing(self, *args, **kwargs):
        output = plain(self, *args, **kwargs)
        output.logits = output.logits + output.logits.mean(0)
        return output

    monkeypatch.setattr(cls, "forward", mixing)
    with pytest.raises(UserError, match=r"LlamaForSequenceClassification scores a text otherwise"):
        build(tmp_path)


def test_a_fault_of_half_precision_names_the_dtype(tmp_path):
    model = save(tmp_path)
    with torch.no_grad():
        model.score.weight.fill_(1e5)
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"reward\.dtype=float32"):
        build(tmp_path, dtype="float16")


def test_dtype_and_device(tmp_path):
    save(tmp_path).bfloat16().save_pretrained(tmp_path)
    assert build(tmp_path).model.dtype == torch.float32
    assert build(tmp_path, dtype="auto").model.dtype == torch.bfloat16
    assert build(tmp_path, device="cpu").model.device.type == "cpu"
    with pytest.raises(UserError, match=r"reward\.device=cuda:77: .*reward\.device=cpu"):
        build(tmp_path, device="cuda:77")


def test_a_chat_goes_through_the_classifiers_template(tmp_path):
    save(tmp_path, template="<s> $A </s>")
    with pytest.raises(UserError, match=r"reward\.chat=true.*no chat template"):
        build(tmp_path, chat=True)
    chatty = tokenizer(template="<s> $A </s>", eos_token="</s>")
    chatty.chat_template = (
        "<s>{% for m in messages %}{{ m['role'][0] }}{{ m['content'] }}!{% endfor %}</s>"
    )
    chatty.save_pretrained(tmp_path)
    contexts = [
        Context(0, "hi"),
        Context(
            1, "x", messages=[{"role": "system", "content": "b"}, {"role": "user", "content": "c"}]
        ),
        Context(2),
    ]
    found = score(build(tmp_path, chat=True), ["ok", "no", "so"], contexts, update=0)
    expected = alone(tmp_path, [ids("uhi!aok!"), ids("sb!uc!ano!"), ids("aso!")])
    torch.testing.assert_close(found, expected.double(), rtol=1e-4, atol=1e-4)
