"""A reward from its section."""

from __future__ import annotations

from klvi.rewards import schema
from klvi.rewards.base import Reward
from klvi.rewards.contains import Contains
from klvi.rewards.length import Length
from klvi.rewards.letters import Letters
from klvi.rewards.lexicon import Lexicon
from klvi.rewards.python import PythonFunction
from klvi.rewards.sum import WeightedSum


def build_reward(config: schema.Reward, device: str) -> Reward:
    """The reward that `config` describes, with its model, if any, on `device`.

    Raises `UserError` where a file, function, model or label does not exist.
    """
    match config:
        case schema.ContainsReward():
            return Contains(config.text, config.case_sensitive)
        case schema.LexiconReward():
            return Lexicon.from_config(config)
        case schema.LengthReward():
            return Length(config.target, config.scale, config.unit)
        case schema.LettersReward():
            return Letters()
        case schema.PythonReward():
            return PythonFunction.from_config(config)
        case schema.SumReward():
            terms = {
                label: (term.weight, build_reward(term.reward, device))
                for label, term in config.terms.items()
            }
            return WeightedSum(terms)
        case schema.ClassifierReward():
            from klvi.rewards.classifier import Classifier  # transformers takes seconds to import

            return Classifier.from_config(config, device)
