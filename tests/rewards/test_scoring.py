"""What a reward returns is checked, and an error names reward, sample and update."""

import asyncio
import math
import os
import re
import signal
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from klvi import interruption
from klvi.contexts import contexts_of
from klvi.errors import RunError, UserError
from klvi.rewards.contains import Contains
from klvi.rewards.python import PythonFunction
from klvi.rewards.scoring import named_scores, score
from klvi.rewards.sum import WeightedSum

TEXTS, PROMPTS = ["first text", "second text"], contexts_of(["", ""])


def returning(values):
    return PythonFunction("mine", lambda texts, prompts: values)


@pytest.mark.parametrize(
    "values",
    [
        [1, 2.5],
        (1, 2.5),
        np.array([1.0, 2.5]),
        [np.float32(1), torch.tensor(2.5)],
        torch.tensor([1.0, 2.5], dtype=torch.bfloat16, requires_grad=True),
        [True, torch.tensor([2.5], requires_grad=True)],
        [Decimal("1"), Fraction(5, 2)],
    ],
)
def test_numbers_of_any_kind_become_float64(values):
    scores = score(returning(values), TEXTS, PROMPTS, update=0)
    assert scores.dtype == torch.float64
    assert not scores.requires_grad
    assert scores.tolist() == [1.0, 2.5]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (None, "reward mine returned nothing, not a list of 2 numbers"),
        (3.0, "reward mine returned a float, not a list of 2 numbers"),
        ({0: 1.0, 1: 2.0}, "reward mine returned a score named 0; name scores by letters, .*"),
        ({"a": [1.0, 2.0]}, r"reward mine returned several scores \(a\) without 'reward', .*"),
        ({"reward": [0, 1], "b": [1]}, r"reward mine\['b'\] returned 1 values for 2 samples"),
        ("12", "reward mine returned a str, not a list of 2 numbers"),
        ([1.0], "reward mine returned 1 values for 2 samples"),
        ([0, "1"], "reward mine returned the non-number '1' for sample 1: 'second text'"),
        ([0, None], "reward mine returned the non-number None for sample 1: 'second text'"),
        ([[0], [1]], r"reward mine returned the non-number \[0\] for sample 0: 'first text'"),
        ([0, math.nan], "reward mine returned nan for sample 1: 'second text'"),
        ([-math.inf, 0], "reward mine returned -inf for sample 0: 'first text'"),
        (np.zeros((2, 1)), r"reward mine returned values of shape \(2, 1\), not \(2,\)"),
        (torch.zeros(1, 2), r"reward mine returned values of shape \(1, 2\), not \(2,\)"),
        (iter([1, 2]), "reward mine returned a list_iterator, not a list of 2 numbers"),
        (b"12", "reward mine returned a bytes, not a list of 2 numbers"),
        ([0, 1j], "reward mine returned the non-number 1j for sample 1: 'second text'"),
    ],
)
def test_anything_else_is_refused(values, problem):
    with pytest.raises(UserError, match=rf"^{problem} \(update 17\)$"):
        score(returning(values), TEXTS, PROMPTS, update=17)


def test_further_scores_stand_beside_the_one_that_is_reported():
    found = named_scores(returning({"fluent": [3, 4], "reward": [1, 2]}), TEXTS, PROMPTS, update=0)
    assert {name: values.tolist() for name, values in found.items()} == {
        "reward": [1, 2],
        "fluent": [3, 4],
    }
    whole = WeightedSum(
        {
            "a": (2.0, returning({"reward": [1, 2], "b": [5, 6]})),
            "c": (-1.0, returning([1, 1])),
        }
    )
    parts = named_scores(whole, TEXTS, PROMPTS, update=0)
    assert {name: values.tolist() for name, values in parts.items()} == {
        "reward": [1, 3],
        "a": [1, 2],
        "a/b": [5, 6],
        "c": [1, 1],
    }


@pytest.mark.parametrize("label", ["reward", "a b", ""])
def test_a_term_whose_label_names_no_score_is_refused(label):
    with pytest.raises(UserError, match=r"^reward\.terms\."):
        WeightedSum({label: (1.0, returning([1, 2]))})


def test_no_digit_is_lost_and_no_finite_number_refused():
    values = [5e6 + 1e-6, -1e300]
    terms = WeightedSum({"all": (1.0, returning(values))})
    for reward in (returning(values), terms):
        assert score(reward, TEXTS, PROMPTS, update=0).tolist() == values


def test_an_exit_of_the_reward_is_a_failure_of_the_run():
    def leave(texts, prompts):
        raise SystemExit(3)

    for reward in (
        PythonFunction("mine", leave),
        WeightedSum({"a": (1, PythonFunction("mine", leave))}),
    ):
        with pytest.raises(RunError, match=r"mine.* exits: SystemExit: 3 .*\(update 3\)"):
            score(reward, TEXTS, PROMPTS, update=3)


def test_a_long_text_is_quoted_in_one_short_line():
    with pytest.raises(UserError) as error:
        score(returning([math.nan]), ["a\nb" * 500], contexts_of([""]), update=1)
    assert len(str(error.value)) < 140
    assert "\n" not in str(error.value)


def test_an_exception_is_named_with_its_place_and_chained():
    def fail(texts, prompts):
        return [1 / 0]

    with pytest.raises(UserError, match="reward mine raised ZeroDivisionError: division") as error:
        score(PythonFunction("mine", fail), TEXTS, PROMPTS, update=3)
    assert f"{__file__}:{fail.__code__.co_firstlineno + 1} (update 3)" in str(error.value)
    assert isinstance(error.value.__cause__, ZeroDivisionError)


class Leaving(BaseException):
    """No Exception."""

    def __str__(self) -> str:
        raise ValueError


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, Leaving]
)
@pytest.mark.parametrize("kind", ["sync", "async", "sum"])
def test_no_exception_of_the_reward_is_taken_for_an_interrupt(error, kind):
    def fail(texts, prompts):
        raise error

    async def wait(texts, prompts):
        await asyncio.sleep(0)
        raise error

    reward = PythonFunction("mine", wait if kind == "async" else fail)
    reward = WeightedSum({"a": (1, reward)}) if kind == "sum" else reward
    with interruption.watched(), pytest.raises(RunError) as raised:
        score(reward, TEXTS, PROMPTS, update=3)
    assert raised.value.exit_code == 1
    assert re.search(rf"mine.* raised {error.__name__} .*\(update 3\)$", str(raised.value))


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("made_of_it", ["nothing", "another", "an exit", "itself"])
@pytest.mark.parametrize("number", interruption.SIGNALS)
def test_a_signal_is_no_error_of_the_reward(number, made_of_it):
    def interrupted(texts, prompts):
        try:
            signal.raise_signal(number)
        except BaseException as error:
            if made_of_it == "another":
                raise ValueError("mine") from error
            if made_of_it == "an exit":
                sys.exit(3)
            if made_of_it == "itself":
                raise
        return [1.0] * len(texts)

    with interruption.watched(), pytest.raises(interruption.Interruption) as raised:
        score(PythonFunction("mine", interrupted), TEXTS, PROMPTS, update=3)
    assert raised.value.signal == number


def test_sum_weighs_its_terms():
    reward = WeightedSum({"a": (2.0, Contains("first")), "b": (-0.5, Contains("text"))})
    assert score(reward, TEXTS, PROMPTS, update=0).tolist() == [1.5, -0.5]


def test_sum_names_the_failing_term_even_where_the_sum_would_hide_it():
    terms = {"good": (1.0, Contains("a")), "bad": (1.0, returning([0.0]))}
    with pytest.raises(UserError, match=r"reward sum.bad \(mine\) returned 1 values"):
        score(WeightedSum(terms), TEXTS, PROMPTS, update=0)


def test_sum_of_nothing_is_refused():
    with pytest.raises(UserError, match=r"reward\.terms is empty"):
        WeightedSum({})


def test_what_raises_while_it_becomes_a_number_is_the_rewards():
    class Leaving(float):
        def __float__(self):
            raise SystemExit(7)

    with pytest.raises(RunError, match=r"reward mine exits: SystemExit: 7 .*\(update 3\)"):
        score(returning([Leaving(1), 1.0]), TEXTS, PROMPTS, update=3)


def test_a_long_message_is_cut():
    def failing(texts, prompts):
        raise ValueError("x" * 100_000)

    with pytest.raises(UserError) as caught:
        score(PythonFunction("mine", failing), TEXTS, PROMPTS, update=0)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("ending", ["return", "raise"])
def test_a_child_that_a_reward_forks_is_not_the_run(ending):
    parent, children = os.getpid(), []

    def forking(texts, prompts):
        children.append(os.fork())
        if children[-1] == 0 and ending == "raise":
            raise ValueError("of the child")
        return [1.0, 2.0]

    scores = score(PythonFunction("mine", forking), TEXTS, PROMPTS, update=0)
    if os.getpid() != parent:
        os._exit(99)
    assert scores.tolist() == [1.0, 2.0]
    _, status = os.waitpid(children[0], 0)
    assert os.waitstatus_to_exitcode(status) == (1 if ending == "raise" else 0)
