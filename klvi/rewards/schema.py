"""The rewards and their keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from klvi.schema import Choice, Code, Remedy, RemoteCode, Section, Size, Source, Text, section_of

SEVERAL_SCORES = "several named scores"


class RewardSection(Choice):
    """A score of each completion."""

    group_name = "reward"


class ContainsReward(RewardSection):
    """1 where the completion contains the text, else 0, or the number of its mentions."""

    builds = "klvi.rewards.contains:Contains"
    name: Literal["contains"]
    text: Annotated[Text, Field(min_length=1)]
    """what to look for"""
    case_sensitive: bool = True
    """whether capitals matter"""
    count: bool = False
    """whether every mention is rewarded, not the first alone"""


class LexiconReward(RewardSection):
    """Non-offensiveness: 0 without a listed word, `penalty` with one."""

    builds = "klvi.rewards.lexicon:Lexicon.load"
    name: Literal["lexicon"]
    words: list[Text] | None = None
    """null, without a path: mild swearing"""
    path: Source | None = None
    """a file with a word per line"""
    penalty: Annotated[float, Field(lt=0)] = -1.0
    """score of a completion with a listed word"""


class LengthReward(RewardSection):
    """Minus the distance of the completion's length from `target`, divided by `scale`."""

    builds = "klvi.rewards.length:Length"
    name: Literal["length"]
    target: Annotated[int, Field(ge=0)] = 20
    """the length that scores 0"""
    scale: Annotated[float, Field(gt=0)] = 10.0
    """units of length per unit of reward"""
    unit: Literal["words", "characters"] = "words"


class LettersReward(RewardSection):
    """A graded score of texts of a few letters: late in the alphabet, early in the text."""

    builds = "klvi.rewards.letters:Letters"
    name: Literal["letters"]


class ClassifierReward(RewardSection):
    """Log-probability (nats) of a label, or the score of a single logit, by a classifier."""

    builds = "klvi.rewards.classifier:Classifier.load"
    name: Literal["classifier"]
    path: Annotated[
        Source,
        Remedy("a sequence-classification model: {key}=HUB_ID_OR_FOLDER"),
    ]
    """a sequence-classification model: hub id or folder"""
    label: str | int | None = None
    """name or number; null: 1"""
    transform: Literal["logit", "log_sigmoid", "log_softmax"] | None = None
    """null: log_softmax of several labels, the logit itself of a single one"""
    batch_size: Size = 64
    """texts scored at once"""
    with_prompt: bool = False
    """whether the prompt stands before the completion"""
    chat: bool = False
    """whether prompt and completion are laid out by the classifier's chat template"""
    device: Text | None = None
    """null: the run's"""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    """null: float32 on a CPU, the checkpoint's own on a GPU"""
    trust_remote_code: RemoteCode = False
    """whether to run code that comes with the checkpoint"""


class ModelReward(RewardSection):
    """The score of a reward model, or the mean of an ensemble: see klvi reward."""

    builds = "klvi.rewards.model:RewardModel.load"
    provides: ClassVar[frozenset[str]] = frozenset({SEVERAL_SCORES})
    name: Literal["model"]
    path: Annotated[Source, Remedy("a folder that klvi reward has written: {key}=DIR")]
    """a reward model's folder or hub id, or an ensemble's folder"""
    batch_size: Size = 64
    """texts scored at once"""
    device: Text | None = None
    """null: the run's"""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    """null: float32 on a CPU, the checkpoint's own on a GPU"""


class DiversityReward(RewardSection):
    """Minus the similarity to other completions of the same prompt in the rollout, −1 to 0."""

    builds = "klvi.rewards.diversity:Diversity"
    name: Literal["diversity"]
    others: Size = 8
    """completions that each is compared with, at most"""


class PythonReward(RewardSection):
    """A function of the user's, `FILE.py:NAME`: of texts, prompts and columns by their names."""

    builds = "klvi.rewards.python:PythonFunction.load"
    provides: ClassVar[frozenset[str]] = frozenset({SEVERAL_SCORES})
    name: Literal["python"]
    function: Annotated[Code, Remedy("{key}=FILE.py:NAME")]
    """score(texts, prompts) -> list[float]"""


class WeightedReward(Section):
    """One term of a sum."""

    builds: ClassVar[str] = "klvi.rewards.sum:Term"
    weight: float = 1.0
    """by which its reward is multiplied"""
    reward: RewardSection


class SumReward(RewardSection):
    """A weighted sum of rewards; `terms` maps a label to a reward with its `weight`."""

    builds = "klvi.rewards.sum:WeightedSum"
    name: Literal["sum"]
    terms: dict[str, WeightedReward]
    """label: {weight: 1, reward: {name: ...}}"""

    @classmethod
    def capabilities(cls, values: Mapping[str, Any]) -> frozenset[str]:
        """Several scores where there are several terms, or a term's reward gives several."""
        terms = values.get("terms")
        terms = terms if isinstance(terms, Mapping) else {}
        rewards = [term.get("reward") for term in terms.values() if isinstance(term, Mapping)]
        sections = [(section_of(RewardSection, raw), raw) for raw in rewards]
        several = len(terms) > 1 or any(
            SEVERAL_SCORES in section.capabilities(raw)
            for section, raw in sections
            if section is not None and issubclass(section, Choice) and isinstance(raw, Mapping)
        )
        return frozenset({SEVERAL_SCORES} if several else ())
