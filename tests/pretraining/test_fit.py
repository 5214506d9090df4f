import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel

from klvi.commands import pretrain as command
from klvi.commands.context import Context
from klvi.errors import UserError
from klvi.pretraining.fit import encode, losses, mean_and_error, pretrain, sample_tokens
from klvi.pretraining.schema import PretrainConfig
from klvi.pretraining.stories import stories
from klvi.pretraining.tokenizer import train_tokenizer, unknown_characters

SMALL: dict[str, object] = {
    "out": "prior",
    "stories": 200,
    "samples": 20,
    "layers": 1,
    "width": 16,
    "heads": 2,
    "steps": 5,
    "batch_size": 16,
    "threads": 1,
}
UNICODE = ["Zoë owes 5 €.", "日本 is far.", "“Far,” said Zoë."] * 40


def config(**changes: object) -> PretrainConfig:
    return PretrainConfig.model_validate(SMALL | changes)


def corpus(n: int = 200, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [stories().sample(rng) for _ in range(n)]


def run(**changes: object) -> int:
    context = Context(None, None, None, ("out=DIR", "seed=0"))
    return command.run(config(**changes), context)


@pytest.mark.parametrize("texts", [corpus(), UNICODE, ["a"] * 100, ["ab", "abc b"] * 50])
def test_every_token_of_the_tokenizer_occurs_in_the_corpus(texts: Sequence[str]) -> None:
    tokenizer = train_tokenizer(texts, 400)
    encoded = tokenizer(list(texts))["input_ids"]
    assert tokenizer.batch_decode(encoded) == list(texts)
    used = {token for tokens in encoded for token in tokens}
    assert used | {tokenizer.eos_token_id} == set(range(len(tokenizer)))
    assert len(tokenizer) <= 400


def test_frequent_words_are_one_token_and_rare_ones_are_spelled() -> None:
    tokenizer = train_tokenizer(["the cat sat on the mat"] * 500 + ["a zebra chased a cat"], 270)
    assert tokenizer.tokenize("the cat") == ["the", "Ġcat"]
    assert len(tokenizer.tokenize(" zebra")) > 1
    assert unknown_characters(tokenizer, "the zebra wept") == "wp"


@pytest.mark.slow
def test_training_is_deterministic_given_the_seed() -> None:
    first, second, other = (pretrain(corpus(), corpus(9, 1), config(seed=s)) for s in (3, 3, 4))
    assert first[1].backend_tokenizer.to_str() == second[1].backend_tokenizer.to_str()
    assert torch.equal(first[2].losses, second[2].losses)
    pairs = zip(first[0].parameters(), second[0].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first[0].lm_head.weight, other[0].lm_head.weight)


def test_training_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    model, tokenizer, _ = pretrain(corpus(), corpus(9, 1), config(steps=1))
    sample_tokens(model, tokenizer, 2, 5, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_training_lowers_the_loss_of_each_step_and_reports_it() -> None:
    seen: list[tuple[int, float]] = []
    texts = ["one two three four"] * 200
    _, _, report = pretrain(
        texts, texts[:5], config(steps=60, lr=1e-2), lambda step, loss: seen.append((step, loss))
    )
    assert [step for step, _ in seen] == list(range(1, 61))
    assert seen[0][1] > 1.0 > seen[-1][1]
    assert report.loss_token[0] == pytest.approx(seen[-1][1], abs=0.1)


def test_losses_are_those_of_each_text_alone_with_its_end() -> None:
    model, tokenizer, report = pretrain(corpus(), corpus(5, 1), config())
    for text, loss, length in zip(report.held_out, report.losses, report.lengths, strict=True):
        tokens = tokenizer(f"<|endoftext|>{text}<|endoftext|>", return_tensors="pt")["input_ids"]
        alone = model(tokens).logits[0, :-1].log_softmax(-1)
        expected = -alone.gather(1, tokens[0, 1:, None]).double().sum()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert length == tokens.shape[1] - 1
    assert report.loss_text == mean_and_error(report.losses)
    assert report.loss_token[0] == pytest.approx(
        (report.losses.sum() / report.lengths.sum()).item()
    )


def test_padding_is_no_part_of_the_loss() -> None:
    model, tokenizer, _ = pretrain(corpus(), corpus(5, 1), config())
    short, long = encode(tokenizer, ["Leo went to Rome.", " ".join(corpus(2))])
    assert losses(model, [short, long])[0].item() == pytest.approx(
        losses(model, [short]).item(), rel=1e-6
    )


def test_texts_longer_than_the_context_are_cut() -> None:
    model, _, report = pretrain(corpus(), corpus(5, 1), config(context=8))
    assert model.config.n_positions == 8
    assert report.truncated == 200
    assert report.lengths.tolist() == [7.0] * 5


def test_held_out_texts_of_unknown_characters_are_left_out() -> None:
    _, _, report = pretrain(["abc"] * 100, ["cab", "bca", "dab"], config())
    assert report.held_out == ["cab", "bca"]
    with pytest.raises(UserError, match="corpus: nearly every text has characters of its own"):
        pretrain(["abc"] * 100, ["cab", "dab"], config())


def test_samples_stop_at_the_end_token_or_the_length() -> None:
    model, tokenizer, _ = pretrain(corpus(), corpus(5, 1), config())
    rows = sample_tokens(model, tokenizer, 300, 20, seed=0)
    assert rows == sample_tokens(model, tokenizer, 300, 20, seed=0)
    assert len(rows) == 300
    for row in rows:
        assert tokenizer.eos_token_id not in row[:-1]
        assert len(row) == 20 or row[-1] == tokenizer.eos_token_id


@pytest.mark.slow
def test_the_command_writes_a_folder_that_transformers_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "prior"
    assert run(out=str(out)) == 0
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(out),
        AutoTokenizer.from_pretrained(out),
    )
    assert isinstance(model, GPT2LMHeadModel)
    assert tokenizer.decode(tokenizer.encode("Leo went to Oslo.")) == "Leo went to Oslo."
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "klvi pretrain out=DIR seed=0" in card
    entropy = f"{stories().entropy():.3f}"
    printed = capsys.readouterr().out
    for shown in ("held-out loss, nats per text", entropy, "samples with Paris", "0.015"):
        assert shown in card
        assert shown in printed
    assert "step     5 of 5" in printed
    assert [path.name for path in out.parent.iterdir()] == ["prior"]


def test_the_command_learns_any_text_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "texts.txt", tmp_path / "prior"
    file.write_text("\n\n".join(UNICODE), encoding="utf-8")
    out.mkdir()
    assert run(out=str(out), corpus=str(file)) == 0
    assert "training on 114 texts; 6 more are held out" in capsys.readouterr().out
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert unknown_characters(tokenizer, "Zoë 日本 €") == ""
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "texts of `texts.txt`" in card
    assert "grammar" not in card


def test_what_is_wrong_is_told_before_anything_is_written(tmp_path: Path) -> None:
    few, latin, marked = tmp_path / "few.txt", tmp_path / "latin.txt", tmp_path / "marked.txt"
    few.write_text("one\n\ntwo\n", encoding="utf-8")
    latin.write_bytes("Zoë\n".encode("latin-1") * 200)
    marked.write_text("the end<|endoftext|>\n" * 200, encoding="utf-8")
    before = sorted(tmp_path.iterdir())
    cases = [
        ({"out": tmp_path}, f"out={tmp_path}: exists and is not empty; choose a new folder"),
        ({"out": few}, f"out={few}: is a file; choose a new folder"),
        ({"out": few / "prior"}, f"out={few}/prior: {few} is not a folder"),
        ({"corpus": tmp_path / "no"}, f"corpus={tmp_path}/no: no such file"),
        ({"corpus": tmp_path}, f"corpus={tmp_path}: is a folder, not a file"),
        ({"corpus": few}, f"corpus={few}: holds 2 texts, one per line; give at least 100"),
        ({"corpus": latin}, f"corpus={latin}: is not UTF-8 text (byte 2)"),
        (
            {"corpus": marked},
            f"corpus={marked}: holds <|endoftext|>, which klvi itself puts after each text",
        ),
        ({"heads": 3}, "heads=3: must divide width=16"),
    ]
    for changes, problem in cases:
        given = {"out": tmp_path / "prior"} if changes and "out" not in changes else {}
        values = {k: str(v) if isinstance(v, Path) else v for k, v in (given | changes).items()}
        with pytest.raises(UserError) as caught:
            run(**values)
        assert caught.value.problems == (problem,)
    assert sorted(tmp_path.iterdir()) == before


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        run(corpus=str(tmp_path / "no"), heads=3)
    assert len(caught.value.problems) == 3


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("klvi.pretraining.fit.pretrain", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(out=str(tmp_path / "prior"))
    assert list(tmp_path.iterdir()) == []
