"""The rewards and their keys."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from klvi.schema import Section, Size, Source, Text


class ContainsReward(Section):
    """1 where the completion contains the text, else 0."""

    name: Literal["contains"]
    text: Annotated[Text, Field(min_length=1)]
    case_sensitive: bool = True


class LexiconReward(Section):
    """Non-offensiveness: 0 without a listed word, `penalty` with one."""

    name: Literal["lexicon"]
    words: list[Text] | None = None
    path: Source | None = None
    penalty: Annotated[float, Field(lt=0)] = -1.0


class LengthReward(Section):
    """Minus the distance of the completion's length from `target`, divided by `scale`."""

    name: Literal["length"]
    target: Annotated[int, Field(ge=0)] = 20
    scale: Annotated[float, Field(gt=0)] = 10.0
    unit: Literal["words", "characters"] = "words"


class LettersReward(Section):
    """A graded score of texts of a few letters: late in the alphabet, early in the text."""

    name: Literal["letters"]


class ClassifierReward(Section):
    """Log-probability (nats) of a label, or the score of a single logit, by a classifier."""

    name: Literal["classifier"]
    path: Source | None = None
    label: str | int | None = None
    transform: Literal["logit", "log_sigmoid", "log_softmax"] | None = None
    batch_size: Size = 64
    with_prompt: bool = False
    chat: bool = False
    device: Text | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    trust_remote_code: bool = False


class PythonReward(Section):
    """A function of the user's, `FILE.py:NAME`: of texts, prompts and columns by their names."""

    name: Literal["python"]
    function: Source | None = None


class SumReward(Section):
    """A weighted sum of rewards; `terms` maps a label to a reward with its `weight`."""

    name: Literal["sum"]
    terms: dict[str, WeightedReward]


Reward = Annotated[
    ContainsReward
    | LexiconReward
    | LengthReward
    | LettersReward
    | ClassifierReward
    | PythonReward
    | SumReward,
    Field(discriminator="name"),
]


class WeightedReward(Section):
    """One term of a sum."""

    weight: float = 1.0
    reward: Reward


SumReward.model_rebuild()
