"""A function takes what it names: texts, prompts, columns."""

import asyncio
import functools

import pytest

from klvi.contexts import Context, contexts_of
from klvi.errors import UserError
from klvi.rewards.base import check_columns
from klvi.rewards.python import PythonFunction
from klvi.rewards.scoring import score
from klvi.rewards.sum import WeightedSum

CONTEXTS = [Context(0, "p", {"answer": "x", "level": 1}), Context(1, "q", {"answer": "y"})]
TEXTS = ["s", "t"]
seen = []


def note(*values):
    seen.append(values)
    return [0.0, 1.0]


def decorated(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


def keywords_only(function):
    @functools.wraps(function)
    def wrapper(**kwargs):
        return function(**kwargs)

    return wrapper


def narrowed(function):
    @functools.wraps(function)
    def wrapper(texts):
        return function(texts, 7)

    return wrapper


class Scorer:
    def __call__(self, texts, prompts, level):
        return note(texts, prompts, level)


async def later(texts, answer):
    await asyncio.sleep(0)
    return note(texts, answer)


P, ANSWER, LEVEL = ["p", "q"], ["x", "y"], [1, None]
COLUMNS = {"answer": ANSWER, "level": LEVEL}
CASES = {
    "texts alone": (lambda texts: note(texts), (TEXTS,)),
    "another name": (lambda samples: note(samples), (TEXTS,)),
    "texts and prompts": (lambda texts, prompts: note(texts, prompts), (TEXTS, P)),
    "the other way round": (lambda prompts, texts: note(texts, prompts), (TEXTS, P)),
    "a column": (lambda texts, prompts, answer: note(texts, prompts, answer), (TEXTS, P, ANSWER)),
    "a column, no prompts": (lambda texts, answer: note(texts, answer), (TEXTS, ANSWER)),
    "a column first": (lambda answer, texts: note(texts, answer), (TEXTS, ANSWER)),
    "columns that rows lack": (lambda texts, level: note(texts, level), (TEXTS, LEVEL)),
    "all columns": (lambda texts, **columns: note(texts, columns), (TEXTS, COLUMNS)),
    "the other columns": (
        lambda texts, level, **more: note(texts, level, more),
        (TEXTS, LEVEL, {"answer": ANSWER}),
    ),
    "TRL": (
        lambda completions, prompts, answer, **kwargs: note(completions, prompts, answer, kwargs),
        (TEXTS, P, ANSWER, {"level": LEVEL}),
    ),
    "TRL, prompts first": (
        lambda prompts, completions, **kwargs: note(completions, prompts, kwargs),
        (TEXTS, P, COLUMNS),
    ),
    "TRL, prompts as keyword": (
        lambda completions, **kwargs: note(completions, kwargs["prompts"], kwargs["level"]),
        (TEXTS, P, LEVEL),
    ),
    "TRL, keywords alone": (
        lambda **kwargs: note(kwargs["completions"], kwargs["prompts"], kwargs["answer"]),
        (TEXTS, P, ANSWER),
    ),
    "by position alone": (lambda a, b, /: note(a, b), (TEXTS, P)),
    "a column by position": (lambda a, answer, /: note(a, answer), (TEXTS, ANSWER)),
    "anything": (lambda *args: note(*args), (TEXTS, P)),
    "texts and anything": (lambda texts, *args: note(texts, *args), (TEXTS, P)),
    "by name alone": (lambda *, texts, answer: note(texts, answer), (TEXTS, ANSWER)),
    "a default": (
        lambda texts, scale=2, answer=None: note(texts, scale, answer),
        (TEXTS, 2, ANSWER),
    ),
    "partial": (
        functools.partial(lambda k, texts, answer: note(k, texts, answer), 3),
        (3, TEXTS, ANSWER),
    ),
    "partial by name": (
        functools.partial(lambda texts, answer: note(texts, answer), answer="mine"),
        (TEXTS, "mine"),
    ),
    "decorated": (decorated(lambda texts, answer: note(texts, answer)), (TEXTS, ANSWER)),
    "decorated for keywords": (
        keywords_only(lambda completions, answer: note(completions, answer)),
        (TEXTS, ANSWER),
    ),
    "decorated to take less": (narrowed(lambda texts, power: note(texts, power)), (TEXTS, 7)),
    "an object": (Scorer(), (TEXTS, P, LEVEL)),
    "a coroutine": (later, (TEXTS, ANSWER)),
    "a coroutine behind a function": (lambda texts, answer: later(texts, answer), (TEXTS, ANSWER)),
}


@pytest.mark.parametrize("case", CASES)
def test_it_gets_what_it_names(case):
    function, expected = CASES[case]
    reward = PythonFunction("mine", function)
    check_columns(reward, CONTEXTS)
    seen.clear()
    assert score(reward, TEXTS, CONTEXTS, update=0).tolist() == [0.0, 1.0]
    assert seen == [expected]


def test_columns_are_those_of_all_prompts_and_not_of_the_batch():
    reward = PythonFunction("mine", lambda texts, level: note(level))
    check_columns(reward, CONTEXTS)
    seen.clear()
    reward(["a", "b"], [CONTEXTS[1]] * 2)
    assert seen == [([None, None],)]


def test_messages_are_a_column():
    chat = [{"role": "user", "content": "hi"}]
    contexts = [Context(0, "hi", messages=chat), Context(1, "q", {"n": 1})]
    reward = PythonFunction("mine", lambda texts, messages, n: note(messages, n))
    check_columns(reward, contexts)
    seen.clear()
    reward(TEXTS, contexts)
    assert seen == [([chat, None], [None, 1])]


def test_a_coroutine_runs_where_a_loop_is_running():
    async def notebook():
        return PythonFunction("mine", later)(TEXTS, CONTEXTS)

    assert asyncio.run(notebook()) == [0.0, 1.0]


@pytest.mark.parametrize(
    ("function", "contexts", "message"),
    [
        (lambda texts, anwser: 0, CONTEXTS, r"takes anwser,.*they have answer, level.*mean answer"),
        (lambda texts, a, b, c=1: 0, CONTEXTS, "takes a and b, which is no column"),
        (lambda texts, answer: 0, contexts_of(["", "p"]), "takes answer,.*no other columns"),
        (lambda *, texts, other: 0, CONTEXTS, "takes other"),
        (lambda a, b, c, /: 0, CONTEXTS, "takes c"),
        (decorated(lambda texts, other: 0), CONTEXTS, "takes other"),
    ],
)
def test_what_no_column_provides_is_refused(function, contexts, message):
    for reward in (
        PythonFunction("mine", function),
        WeightedSum({"a": (1.0, PythonFunction("mine", function))}),
    ):
        with pytest.raises(UserError, match=rf"^reward\.function: mine.*{message}.*default$"):
            check_columns(reward, contexts)


@pytest.mark.parametrize("function", [lambda: 0, lambda prompts: 0, lambda *, answer: 0])
def test_a_function_without_texts_is_refused(function):
    with pytest.raises(UserError, match=r"takes no texts; give it \(texts, prompts\)"):
        PythonFunction("mine", function)
