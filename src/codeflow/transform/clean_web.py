"""The stage `clean_web`: the operators of `clean`, and those for pages of the web between repair and filters."""

from __future__ import annotations

from codeflow.transform.natural_language import IdentifyLanguage
from codeflow.transform.operator import Operator
from codeflow.transform.pipeline import CleanConfig
from codeflow.transform.web_text import WebLines, WebQuality, WebRepetition

_FIRST = ("clean", "secrets")  # never drop, so that dropped documents are clean and hold no secrets


class CleanWebConfig(CleanConfig):
    """The operators for pages and code blocks of the web; pages meet all, code blocks those of `clean`."""

    web_lines: WebLines = WebLines()
    natural_language: IdentifyLanguage = IdentifyLanguage()
    web_repetition: WebRepetition = WebRepetition()
    web_quality: WebQuality = WebQuality()

    def operators(self) -> tuple[Operator, ...]:
        """Return the operators that are switched on, in order."""
        every = super().operators()
        first = tuple(operator for operator in every if operator.name in _FIRST)
        rest = tuple(operator for operator in every if operator.name not in _FIRST)
        web = (self.web_lines, self.natural_language, self.web_repetition, self.web_quality)
        return (*first, *(operator for operator in web if operator.enabled), *rest)
