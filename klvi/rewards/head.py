"""What of a classifier's logits is the reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from klvi.errors import UserError

Transform = Literal["logit", "log_sigmoid", "log_softmax"]
# Labels of which the second is meant where none is named.
BINARY = 2


@dataclass(frozen=True)
class Head:
    """The score of a text from its logits.

    A single logit is a score, as of a reward model, and so are those of a regression. Labels that
    exclude each other have the log-softmax, labels that do not the log-sigmoid, in nats.

    Attributes:
        count: of logits.
        label: the logit's index.
        sign: −1 for label 0 of a single logit, which is the complement of label 1.
    """

    count: int
    label: int
    transform: Transform
    sign: int = 1

    @staticmethod
    def of(config: Any, label: str | int | None, transform: Transform | None) -> Head:
        """What a model's configuration and the user's choice say; label null is 1 of two.

        Raises `UserError` where the model does not have the label.
        """
        count = int(config.num_labels)
        chosen = transform or _transform(config)
        if count > BINARY and label is None:
            raise UserError(
                f"reward.label: the model has {count} labels; choose one of "
                f"{', '.join(map(str, config.id2label.values()))}"
            )
        if count > 1:
            return Head(count, _index(config, 1 if label is None else label, count), chosen)
        if chosen == "log_softmax":
            raise UserError(
                "reward.transform=log_softmax: the model has a single logit; leave it out for the "
                "score itself, or use reward.transform=log_sigmoid"
            )
        if chosen == "logit":
            if label is not None:
                raise UserError(
                    f"reward.label={label}: the model has a single logit, which is a score and of "
                    "no label; leave it out, or use reward.transform=log_sigmoid for a probability"
                )
            return Head(1, 0, chosen)
        positive = _index(config, 1 if label is None else label, 2)
        return Head(1, 0, chosen, sign=1 if positive else -1)

    def score(self, logits: Tensor) -> Tensor:
        """`(N,)` scores from `(N, count)` logits."""
        if self.transform == "log_softmax":
            return logits.log_softmax(-1)[:, self.label]
        chosen = self.sign * logits[:, self.label]
        return logsigmoid(chosen) if self.transform == "log_sigmoid" else chosen


def _transform(config: Any) -> Transform:
    if config.num_labels == 1 or config.problem_type == "regression":
        return "logit"
    return "log_sigmoid" if config.problem_type == "multi_label_classification" else "log_softmax"


def _index(config: Any, label: str | int, count: int) -> int:
    names = {str(name): int(index) for index, name in config.id2label.items()}
    if config.num_labels == 1:
        names = dict.fromkeys(names, 1)
    if isinstance(label, int) and 0 <= label < count:
        return label
    if isinstance(label, str) and label in names:
        return names[label]
    known = ", ".join(names)
    raise UserError(f"reward.label={label}: give one of {known}, or an index below {count}")
