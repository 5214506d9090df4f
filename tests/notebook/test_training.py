"""`klvi.train` is `klvi train` without a folder: the same weights, and the same refusals."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import LENGTH, LETTERS, LetterReward, train_config

import klvi
from klvi.errors import UserError
from klvi.policy.policy import Policy
from klvi.policy.prior import Prior
from klvi.runs.assembly import assemble_run

GDC = {"objective": {"name": "gdc"}, "proposal": {"name": "mixture"}}
LETTER = klvi.rewards.Contains("a")
TARGET = klvi.targets.Posterior(LETTER, beta=0.2)
SETTINGS: dict[str, Any] = {"updates": 2, "batch_size": 64, "lora": {"r": 8}}
SMALL = {"samples": 8, "prior_samples": 8, "every": 99, "ess_floor": 2}


@pytest.fixture(scope="module")
def prior() -> Prior:
    return klvi.load_prior(
        "enumerable", letters=LETTERS, length=LENGTH, device="cpu", kernels="none"
    )


def of_a_run(folder: Path, **changes: Any) -> dict[str, torch.Tensor]:
    config = train_config(evaluation=SMALL, **changes)
    config = config.model_copy(update={"engine": config.engine.model_copy(update={"name": "auto"})})
    folder.mkdir()
    assemble_run(config, folder).train()
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def weights(policy: Policy, folder: Path) -> dict[str, torch.Tensor]:
    folder.mkdir()
    policy.save_adapter(folder)
    return load_file(folder / "adapter_model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_ppo_has_the_weights_of_a_run(prior: Prior, tmp_path: Path) -> None:
    objective = klvi.objectives.KL()
    mine = weights(klvi.train(prior, TARGET, objective, **SETTINGS), tmp_path / "a")
    run = of_a_run(tmp_path / "run")
    assert same(mine, run)
    assert any(bool(value.any()) for name, value in run.items() if "lora_B" in name)
    # Neither the objective nor the prior remembers.
    again = klvi.train(prior, TARGET, objective, **SETTINGS)
    assert same(weights(again, tmp_path / "b"), run)


@pytest.mark.slow
def test_gdc_with_prompts_has_the_weights_of_a_run(prior: Prior, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a\nb\na b\n")
    prompts = {"name": "file", "path": str(tmp_path / "prompts.txt")}
    run = of_a_run(tmp_path / "run", prompts=prompts, seed=3, optim={"lr": 0.01}, **GDC)
    policy = klvi.train(
        prior, TARGET, klvi.objectives.GDC(), prompts=["a", "b", "a b"], seed=3, lr=0.01, **SETTINGS
    )
    assert same(weights(policy, tmp_path / "a"), run)


def test_a_proposal_of_ones_own(prior: Prior, tmp_path: Path) -> None:
    proposal = {"name": "mixture", "prior_share": 0.25}
    run = of_a_run(tmp_path / "run", objective={"name": "gdc"}, proposal=proposal)
    own = klvi.samplers.Mixture(prior_share=0.25)
    policy = klvi.train(prior, TARGET, klvi.objectives.GDC(), proposal=own, **SETTINGS)
    assert same(weights(policy, tmp_path / "a"), run)


def test_a_subclass_is_what_it_descends_from(prior: Prior, tmp_path: Path) -> None:
    class Mine(klvi.objectives.GDC):
        """Someone's own objective."""

    mine = klvi.train(prior, TARGET, Mine(), **SETTINGS)
    theirs = klvi.train(prior, TARGET, klvi.objectives.GDC(), **SETTINGS)
    assert same(weights(mine, tmp_path / "a"), weights(theirs, tmp_path / "b"))


def test_ctrl_c_ends_it_as_it_ends_any_cell(prior: Prior) -> None:
    def interrupt(record: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        klvi.train(prior, TARGET, klvi.objectives.KL(), on_update=interrupt, **SETTINGS)


def test_an_update_is_told(prior: Prior, capfd: pytest.CaptureFixture[str]) -> None:
    records: list[dict[str, Any]] = []
    klvi.train(prior, TARGET, klvi.objectives.RL(), on_update=records.append, **SETTINGS)
    assert [record["update"] for record in records] == [1, 2]
    assert "objective/scores" in records[0]
    assert capfd.readouterr() == ("", "")


def test_a_function_is_a_reward_and_reads_columns(prior: Prior) -> None:
    seen: list[str] = []

    def score(texts: list[str], answer: list[str]) -> list[float]:
        seen.extend(answer)
        return [float(a in text) for text, a in zip(texts, answer, strict=True)]

    prompts = [{"prompt": "a", "answer": "b"}, {"prompt": "b", "answer": "c"}]
    target = klvi.targets.Posterior(score, beta=0.2)  # type: ignore[arg-type]
    klvi.train(prior, target, klvi.objectives.KL(), prompts=prompts, **SETTINGS)
    assert set(seen) == {"b", "c"}
    with pytest.raises(UserError, match="takes answer, which is no column"):
        klvi.train(prior, target, klvi.objectives.KL(), **SETTINGS)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"updates": 0}, "updates=0: must be a whole number, at least 1"),
        ({"batch_size": 1}, "batch_size=1: must be a whole number, at least 2"),
        ({"lr": -1.0}, "optim.lr=-1.0: must be a number, at least 0"),
        ({"lora": {"rank": 3}}, "lora.rank: unknown key"),
        ({"engine": {"name": "fast"}}, "engine.name=fast: must be one of auto, torch, graph, vllm"),
        ({"prompts": "Once"}, "prompts: is 'Once'; give a list of texts"),
        ({"prompts": []}, "prompts: is empty"),
        ({"prompts": ["a", 3]}, r"prompts\[1\]: is 3; give a text, or a dict"),
        ({"prompts": ["z"]}, "prompt 0 .'z'.: model=enumerable reads letters a to d"),
        ({"proposal": "mixture"}, "proposal: is str; give a sampler"),
        ({"proposal": klvi.samplers.Mixture()}, "use proposal=policy"),
        ({"optim": 3}, "optim=3: must be a section"),
        ({"optim": {"lr": 0.1}, "lr": 0.1}, "lr: is in optim, too; give it once"),
        ({"on_update": 3}, "on_update: is int; give a function"),
        ({"samples_per_prompt": 65}, "samples_per_prompt=65: must be at most batch_size=64"),
    ],
)
def test_a_wrong_argument_is_named(prior: Prior, wrong: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        klvi.train(prior, TARGET, klvi.objectives.KL(), **SETTINGS | wrong)


def test_what_is_mistaken_is_named(prior: Prior) -> None:
    kl: Any = klvi.objectives.KL()
    anything: Any = LetterReward()
    with pytest.raises(UserError, match=r"prior: is str; give what klvi\.load_prior returns"):
        klvi.train("gpt2", TARGET, kl)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="prior: is Policy; give what"):
        klvi.train(Policy(prior), TARGET, kl)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="target: is LetterReward; give a target, such as"):
        klvi.train(prior, anything, kl)
    with pytest.raises(UserError, match="objective: is the class KL; give an objective"):
        klvi.train(prior, TARGET, klvi.objectives.KL)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="reverse KL to a hard constraint is infinite"):
        klvi.train(prior, klvi.targets.Constraint(LETTER), kl)
    with pytest.raises(UserError, match="clip=-1: input should be greater than 0"):
        klvi.objectives.KL(clip=-1)
    with pytest.raises(UserError, match=r"clop=1: is no setting of gdc, which has baseline"):
        klvi.objectives.GDC(clop=1)
    with pytest.raises(UserError, match="minibatches=99"):
        klvi.train(prior, TARGET, klvi.objectives.KL(minibatches=99), **SETTINGS)


@pytest.mark.parametrize("beta", [0, -1.0, float("nan"), "0.1", True])
def test_beta_is_a_positive_number(beta: Any) -> None:
    with pytest.raises(UserError, match="must be a number, greater than 0"):
        klvi.targets.Posterior(LETTER, beta)


@pytest.mark.parametrize("reward", ["Paris", klvi.rewards.Contains, None])
def test_a_reward_is_one(reward: Any) -> None:
    with pytest.raises(UserError, match=r"^reward: is .*; give a reward, such as"):
        klvi.targets.Constraint(reward)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # their filters are the process's, not a thread's
def test_policies_on_one_prior_train_in_threads_as_alone(prior: Prior) -> None:
    objectives = (klvi.objectives.KL(), klvi.objectives.GDC(), klvi.objectives.RL())

    def trained(objective: Any) -> list[torch.Tensor]:
        torch.set_num_threads(1)  # a thread's own; the sums of two would be rounded otherwise
        policy = klvi.train(prior, TARGET, objective, updates=4, batch_size=16, seed=1)
        return list(policy.adapter_parameters())

    alone = [trained(objective) for objective in objectives]
    with ThreadPoolExecutor(len(objectives)) as threads:
        together = list(threads.map(trained, objectives))
    for one, other in zip(alone, together, strict=True):
        assert all(map(torch.equal, one, other))


def test_numbers_of_numpy_and_torch_are_numbers(prior: Prior) -> None:
    target = klvi.targets.Constraint(LETTER, np.float64(0.5), beta=torch.tensor(0.25))  # type: ignore[arg-type]
    assert target == klvi.targets.Constraint(LETTER, 0.5, 0.25)
    assert klvi.targets.Posterior(LETTER, np.float32(0.5)) == klvi.targets.Posterior(LETTER, 0.5)  # type: ignore[arg-type]
    objective = klvi.objectives.GDC(epochs=np.int64(1))
    proposal = klvi.samplers.Mixture(prior_share=np.float64(0.25))
    sizes: dict[str, Any] = {"updates": np.int64(1), "batch_size": torch.tensor(8)}
    klvi.train(prior, target, objective, proposal=proposal, lora={"r": np.int32(4)}, **sizes)


@pytest.mark.slow
def test_prompts_are_whatever_can_be_gone_through(prior: Prior) -> None:
    class Frame(list[str]):
        def iterrows(self) -> None: ...

    given: Any
    for given in (np.array(["a", "b"]), (text for text in "ab"), {"x": "a", "y": "b"}.values()):
        klvi.train(prior, TARGET, klvi.objectives.KL(), prompts=given, updates=1, batch_size=4)
    for given in ({"a", "b"}, {"prompt": "a"}, Frame(["prompt"]), b"a", 5):
        with pytest.raises(UserError, match=r"prompts: is .*; give a list of texts"):
            klvi.train(prior, TARGET, klvi.objectives.KL(), prompts=given)


@pytest.mark.parametrize(
    ("make", "wrong", "line"),
    [
        (klvi.samplers.Mixture, {"prior_share": 1}, "prior_share=1: "),
        (klvi.samplers.Mixture, {"prior_share": "half"}, "prior_share='half': "),
        (klvi.samplers.Adaptive, {"divergence": "js"}, "divergence='js': "),
        (klvi.rewards.Contains, {"text": None}, "text=None: "),
        (klvi.rewards.Length, {"scale": 0}, "scale=0: "),
        (klvi.targets.Constraint, {"reward": LETTER, "threshold": "x"}, "threshold='x': "),
        (klvi.targets.Constraint, {"reward": LETTER, "threshold": float("nan")}, "threshold=nan: "),
    ],
)
def test_what_is_made_with_a_wrong_value_names_it(make: Any, wrong: Any, line: str) -> None:
    with pytest.raises(UserError, match=line):
        make(**wrong)
