"""Which language a text seems to be in: by its letters, and for Latin ones by its commonest words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

_MOST = 2000
"""Characters that are looked at."""
_WORD = re.compile(r"[^\W\d_]+")
_WORDS: Mapping[str, frozenset[str]] = {
    language: frozenset(words.split())
    for language, words in {
        "en": "the and of to is in that it for you with on are as this be at have not or from was can your will",
        "de": "der die das und ist nicht ein eine zu den mit von für auf sie ich es im dem wird auch sich als bei",
        "fr": "le la les et est des un une du que pour dans qui pas vous sur avec au ne plus ce sont par nous",
        "es": "el la los las y es que un una del por para con no se su al lo como más pero está son sus",
        "it": "il la di che è un una per non sono con del della le gli si da nel anche più come ma questo alla",
        "pt": "o a os as e é que um uma do da em para com não se por mais como dos das ao na no você são",
        "nl": "de het een en van is dat niet op te voor met zijn er aan ook je als bij naar maar wordt deze kan",
    }.items()
}
_SCRIPTS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("ja", re.compile("[\u3040-\u30ff]")),
    ("ko", re.compile("[\uac00-\ud7af]")),
    ("zh", re.compile("[\u4e00-\u9fff]")),
    ("cyrillic", re.compile("[\u0400-\u04ff]")),
    ("arabic", re.compile("[\u0600-\u06ff]")),
    ("hebrew", re.compile("[\u0590-\u05ff]")),
    ("devanagari", re.compile("[\u0900-\u097f]")),
    ("thai", re.compile("[\u0e00-\u0e7f]")),
    ("greek", re.compile("[\u0370-\u03ff]")),
)
_SHARE = 0.2
"""Of the characters, from which on a script decides: the others of a Chinese text are often Latin names."""


def guess(text: str) -> str:
    """Return a language of those above, a script where that is all that is known, or ``unknown``."""
    start = text[:_MOST]
    if not start.isascii():
        for name, letters in _SCRIPTS:
            if len(letters.findall(start)) > _SHARE * len(start):
                return name
    words = Counter(_WORD.findall(start.casefold()))
    scores = {
        language: sum(count for word, count in words.items() if word in common) for language, common in _WORDS.items()
    }
    best = max(scores.values())
    winners = [language for language, score in scores.items() if score == best]
    return winners[0] if best and len(winners) == 1 else "unknown"
