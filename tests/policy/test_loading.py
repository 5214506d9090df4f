"""What is loaded is what was saved; what cannot be is refused in one line that names it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from zoo import PROMPTS

from klvi.contexts import Context
from klvi.errors import UserError
from klvi.policy.policy import Policy
from klvi.policy.prior import Prior, load_prior
from klvi.policy.schema import ModelConfig
from klvi.policy.self_check import check_policy
from scripts.small_models import save, save_adapter, small_model, small_tokenizer

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123\n"


def load(folder: Path, **changes: object) -> Prior:
    return load_prior(ModelConfig(name="mine", path=str(folder), dtype="float32", **changes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(small_model("llama", num_hidden_layers=1), tmp_path / "model")


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, {"format": "pt"})


def edit_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def missing(folder: Path) -> None:
    edit_weights(folder, lambda w: w.pop("model.layers.0.mlp.down_proj.weight"))


def mismatched(folder: Path) -> None:
    edit_json(folder / "config.json", intermediate_size=48)


def not_a_number(folder: Path) -> None:
    edit_weights(folder, lambda w: w["model.norm.weight"].fill_(torch.nan))


def infinite(folder: Path) -> None:
    edit_weights(folder, lambda w: w["lm_head.weight"][3].fill_(torch.inf))


def truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def only_a_header(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5])


def pointer_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_text(POINTER)


def pointer_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text(POINTER)


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def other_tokenizer(folder: Path) -> None:
    small_tokenizer(120).save_pretrained(folder)


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def unknown_kind(folder: Path) -> None:
    edit_json(folder / "config.json", model_type="nothing_known", architectures=["Nothing"])


def quantised(folder: Path) -> None:
    edit_json(
        folder / "config.json",
        quantization_config={"quant_method": "awq", "bits": 4, "group_size": 128},
    )


def end_token_beyond(folder: Path) -> None:
    edit_json(folder / "generation_config.json", eos_token_id=[2, 500])


def remote_code(folder: Path) -> None:
    edit_json(
        folder / "config.json",
        model_type="its_own",
        auto_map={"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"},
    )
    (folder / "code.py").write_text("raise SystemExit('run')\n")


FAULTS: dict[Callable[[Path], None], str] = {
    missing: "down_proj.weight.*incomplete checkpoint",
    mismatched: "another shape than config.json",
    not_a_number: "model.norm.weight is not finite",
    infinite: "lm_head.weight is not finite",
    truncated: r"model\.safetensors is cut off, 100 bytes",
    only_a_header: r"model\.safetensors is cut off",
    pointer_weights: r"model\.safetensors is a Git LFS pointer.*git lfs pull",
    pointer_tokenizer: r"tokenizer\.json is a Git LFS pointer.*git lfs pull",
    no_tokenizer: "tokenizer",
    other_tokenizer: "24 tokens.*beyond the 96",
    empty: "model",
    no_config: "config.json",
    broken_config: "config.json",
    unknown_kind: "nothing_known",
    quantised: "package|install",
    end_token_beyond: "end token has the id 500.*generation_config.json",
    remote_code: r"model\.trust_remote_code=true",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_faulty_folder_is_refused(
    fault: Callable[[Path], None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: object) -> str:
        raise AssertionError("asked on the terminal")

    monkeypatch.setattr("builtins.input", asked)
    fault(folder)
    with pytest.raises(UserError, match=FAULTS[fault]) as caught:
        load(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert f"model.path={folder}" in message or message.startswith("model mine: ")


def test_a_file_is_no_folder(folder: Path) -> None:
    with pytest.raises(UserError, match=r"model\.path=.*config\.json"):
        load(folder / "config.json")


def test_added_tokens_that_nothing_uses_may_lie_beyond_the_embedding(folder: Path) -> None:
    tokenizer = small_tokenizer()
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(folder)
    prior = load(folder)
    check_policy(Policy(prior), PROMPTS, 4)
    with pytest.raises(UserError, match=r"<extra>.*token id 96.*embeds 96"):
        prior.encode([Context(0, "w5 <extra>")])


def test_an_adapters_folder_is_its_base_with_the_adapter(folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(folder, tmp_path / "adapter")
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), adapter)
    tokens = torch.arange(3, 20)[None]
    with torch.no_grad():
        expected = plain(input_ids=tokens).logits
        base = load(folder).model(input_ids=tokens).logits
        found = load(adapter).model(input_ids=tokens).logits
    assert_close(found, expected, atol=1e-4, rtol=0)
    assert not torch.allclose(base, expected, atol=0.1)


@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings=True")
@pytest.mark.parametrize("targets", [["lm_head", "q_proj"], ["embed_tokens"]])
def test_an_adapter_of_a_tied_embedding_changes_one_place(
    targets: list[str], tmp_path: Path
) -> None:
    model = small_model("llama", num_hidden_layers=1, tie_word_embeddings=True)
    folder = save(model, tmp_path / "model")
    adapter = save_adapter(folder, tmp_path / "adapter", targets)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), adapter)
    tokens = torch.arange(3, 20)[None]
    with torch.no_grad():
        expected = plain(input_ids=tokens).logits
        assert not torch.allclose(model(input_ids=tokens).logits, expected, atol=0.1)
        assert_close(load(adapter).model(input_ids=tokens).logits, expected, atol=1e-4, rtol=0)


def test_an_adapter_of_a_classifier_is_refused(folder: Path, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    config = LoraConfig(task_type=TaskType.SEQ_CLS, target_modules=["q_proj"])
    get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match=r"model\.path=.*SEQ_CLS"):
        load(tmp_path / "adapter")


def test_an_adapter_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"^model\.path=.*recursion"):
        load(tmp_path)


def test_an_adapter_without_its_base_is_refused(folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(folder, tmp_path / "adapter")
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"model\.path=.*base_model_name_or_path") as caught:
        load(adapter)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("model_type", "changes", "usable"),
    [
        ("mpt", {"max_seq_len": 20}, 20),
        ("gpt2", {"n_positions": 20}, 20),
        ("opt", {"max_position_embeddings": 20}, 20),
        ("roberta", {"max_position_embeddings": 22, "pad_token_id": 1, "is_decoder": True}, 20),
        ("bart", {"max_position_embeddings": 20}, 20),
        ("xglm", {"max_position_embeddings": 20}, 20),
        ("ctrl", {"n_positions": 20}, 20),
        ("codegen", {"n_positions": 20}, 20),
        ("mamba", {}, None),
        ("bloom", {}, None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_usable_length_is_exact(
    model_type: str, changes: dict[str, object], usable: int | None, tmp_path: Path
) -> None:
    model = small_model(model_type, **changes)
    prior = load(save(model, tmp_path / "model"))
    assert prior.most_tokens == usable
    if usable is None:
        return
    tokens = torch.arange(3, 3 + usable)[None]
    with torch.no_grad():
        assert prior.model(input_ids=tokens).logits.isfinite().all()
    prior.check_length(6, usable - 6)
    with pytest.raises(UserError, match=r"max_new_tokens.*20 positions"):
        prior.check_length(6, usable - 5)


@pytest.mark.slow
def test_the_command_refuses_in_one_line_and_leaves_no_folder(
    folder: Path, tmp_path: Path, installed_klvi: Path
) -> None:
    missing(folder)
    work = tmp_path / "work"
    work.mkdir()
    result = subprocess.run(
        [str(installed_klvi), "train", f"model.path={folder}", "device=cpu"],
        cwd=work,
        env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert f"model.path={folder}" in result.stderr
    assert not list(work.rglob("config.yaml"))
