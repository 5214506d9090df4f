"""What a user's function takes: texts, prompts, and the prompts' other columns by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter
from typing import Any

from klvi.errors import UserError
from klvi.spelling import suggestion

TEXTS, PROMPTS = ("texts", "completions"), "prompts"
POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Signature:
    """How a function is called.

    The texts go to the parameter `texts` or `completions`, or else to the first one; `prompts` gets
    the prompts; any other gets the column of its name, or keeps its default. `*args` gets the
    prompts where no parameter does, `**columns` all columns that no parameter takes, and in TRL's
    dialect (`completions`, or nothing but `**kwargs`) the prompts and completions, too.

    Attributes:
        shown: the function's name and parameters, for errors.
        parameters: what it takes; None where it does not tell and gets texts and prompts.
        bound: names that a `functools.partial` has given values.
    """

    shown: str
    parameters: tuple[Parameter, ...] | None
    bound: frozenset[str] = frozenset()

    @staticmethod
    def of(function: Callable[..., object], name: str) -> Signature:
        """The signature of `function`; a decorator that takes anything takes what is below it.

        Raises UserError where the function takes no texts.
        """
        try:
            outer = inspect.signature(function, follow_wrapped=False)
            kinds = {p.kind for p in outer.parameters.values()}
            open_ended = kinds & {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD}
            signature = inspect.signature(function) if open_ended else outer
        except (TypeError, ValueError):  # some built-in functions do not tell
            return Signature(name, None)
        bound = frozenset(function.keywords if isinstance(function, functools.partial) else ())
        found = Signature(f"{name}{signature}", tuple(signature.parameters.values()), bound)
        if found._texts is None and not found._has(Parameter.VAR_POSITIONAL):
            if found._has(Parameter.VAR_KEYWORD):
                return found
            raise UserError(
                f"reward.function: {found.shown} takes no texts; give it (texts, prompts)"
            )
        return found

    def check(self, columns: Sequence[str]) -> None:
        """Raises UserError where a parameter without a default is none of `columns`."""
        missing = [
            p.name
            for p in self.parameters or ()
            if p.default is Parameter.empty
            and p.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
            and self._source(p, columns) is None
        ]
        if missing:
            near = suggestion(missing[0], [*columns, *TEXTS, PROMPTS])
            known = f"they have {', '.join(columns)}" if columns else "they have no other columns"
            raise UserError(
                f"reward.function: {self.shown} takes {' and '.join(missing)}, which is no "
                f"column of the prompts ({known}){near}; "
                "name a column, or give it a default"
            )

    def call(
        self,
        function: Callable[..., Any],
        texts: list[str],
        prompts: list[str],
        columns: Mapping[str, list[Any]],
    ) -> Any:
        """`function` of N texts, N prompts and columns of N values each."""
        if self.parameters is None:
            return function(texts, prompts)
        values = {**columns, **dict.fromkeys(TEXTS, texts), PROMPTS: prompts}
        positional: list[Any] = []
        keywords: dict[str, Any] = {}
        taken: set[str] = set()
        by_keyword = self._trl or self._has(Parameter.KEYWORD_ONLY)
        for parameter in self.parameters:
            source = self._source(parameter, list(columns))
            if parameter.kind is Parameter.VAR_POSITIONAL:
                given = [] if TEXTS[0] in taken or TEXTS[1] in taken else [texts]
                positional += [*given, prompts] if PROMPTS not in taken and not keywords else given
            elif parameter.kind is Parameter.VAR_KEYWORD:
                open_to = [*columns, *((PROMPTS, TEXTS[1]) if self._trl else ())]
                keywords |= {n: values[n] for n in open_to if n not in taken}
            elif source is None:
                by_keyword = True  # it keeps its default; what follows needs its name
            else:
                taken |= {source, *(TEXTS if source in TEXTS else ())}
                if parameter.kind is Parameter.POSITIONAL_ONLY or (
                    not by_keyword and parameter.kind in POSITIONAL
                ):
                    positional.append(values[source])
                else:
                    keywords[parameter.name] = values[source]
        return function(*positional, **keywords)

    def _source(self, parameter: Parameter, columns: Sequence[str]) -> str | None:
        """What the parameter is given: texts, prompts or a column; None for its default."""
        name = parameter.name
        if name in self.bound or parameter.kind in (
            Parameter.VAR_POSITIONAL,
            Parameter.VAR_KEYWORD,
        ):
            return None
        if name == self._texts:
            return TEXTS[0]
        if name in (*TEXTS, PROMPTS):
            return name
        if name in columns:
            return name
        # A positional-only name is not part of what a caller sees: the second one is the prompts.
        second = [p.name for p in self.parameters or () if p.kind is Parameter.POSITIONAL_ONLY][1:2]
        return PROMPTS if name in second and parameter.default is Parameter.empty else None

    @property
    def _texts(self) -> str | None:
        names = [p.name for p in self.parameters or () if p.name not in self.bound]
        named = [name for name in names if name in TEXTS]
        first = [
            p.name
            for p in self.parameters or ()
            if p.kind in POSITIONAL and p.name not in self.bound and p.name != PROMPTS
        ]
        return next(iter(named + first), None)

    @property
    def _trl(self) -> bool:
        """Whether the function is written for TRL, which calls it by keywords alone."""
        parameters = self.parameters or ()
        named = any(p.name == TEXTS[1] for p in parameters)
        return named or all(p.kind is Parameter.VAR_KEYWORD for p in parameters)

    def _has(self, kind: Any) -> bool:
        return any(p.kind is kind for p in self.parameters or ())
