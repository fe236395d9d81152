"""Regular expressions that users write in a table, made safe and fit for titles of all languages.

Words and pattern are folded alike: case, accents, styled and fullwidth letters, dashes and quotes make no difference.
A match is of whole words, where a script has spaces between them: ``reaction`` is not found in "reactions", but
``リアクション`` is found in "海外のリアクション動画". A space in a pattern stands for a space, a dot or a hyphen.
"""

from __future__ import annotations

import functools
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence

MAX_CHARS = 1000  # of a text that are looked at
MAX_WAYS = 20_000  # in which a pattern may match at one place: a second on the unluckiest text; without it, years
_SHOWN_CHARS = 60  # of a pattern that cannot be used

_FOLDED = str.maketrans(
    {
        "\u0131": "i",  # the Turkish i without a dot
        "_": " ",
        **dict.fromkeys("\u2018\u2019`\u00b4", "'"),
        **dict.fromkeys("\u201c\u201d", '"'),
        **dict.fromkeys("\u2013\u2014\u2212", "-"),
    }
)
# Accents, Arabic vowels, and characters that are not seen: soft hyphens, joiners, marks of direction.
_DROPPED = re.compile(
    "[\u0300-\u036f\u0640\u064b-\u065f\u0670\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe0f\ufeff]"
)

# Letters, and vowel signs, of scripts that set spaces between words: Latin to Sinhala, Georgian, Ethiopic, Cherokee.
# Thai, kana, Han are not among them, nor Hangul, whose words take endings.
_LETTER = (
    "[a-z\u00df-\u00f6\u00f8-\u02af\u0370-\u0481\u048a-\u0588\u05d0-\u05ea\u0620-\u065f\u066e-\u06ef\u06fa-\u06ff"
    "\u0710-\u0963\u0971-\u0dff\u10a0-\u10ff\u1200-\u1360\u13a0-\u16ea\u1e00-\u1fff]"
)
_BEGIN = f"(?:(?<!{_LETTER})|(?!{_LETTER}))"
_END = f"(?:(?!{_LETTER})|(?<!{_LETTER}))"

_QUANTIFIER = re.compile(r"([*+?]|\{(?:\d+(?:,\d*)?|,\d+)\})[?+]?")
_TOKEN = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\((?:\?(?:[:=!]|<[=!]))?|(?:[*+?]|\{(?:\d+(?:,\d*)?|,\d+)\})[?+]?|.", re.DOTALL
)


def fold(words: str) -> str:
    """Words in the form in which they are compared: their first 1000 characters."""
    return re.sub(r"\s+", " ", _folded(words[:MAX_CHARS])).strip()


def _folded(words: str) -> str:
    decomposed = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", words).casefold())
    return unicodedata.normalize("NFC", _DROPPED.sub("", decomposed)).translate(_FOLDED)


@functools.cache
def compiled(pattern: str) -> re.Pattern[str]:
    """Compile a user's pattern, to be searched for in folded words.

    Raises
    ------
    ValueError
        If it is no regular expression, is found in every text, or may take too long; in words for the user.
    """
    found = parsed(pattern)
    if any(found.search(words) for words in ("", "\0", "\0 \0")):
        raise ValueError(f"{_shown(pattern)} is found in every text; write what is to be found")
    return found


def parsed(pattern: str) -> re.Pattern[str]:
    """Compile a part of a pattern, which by itself may match nothing.

    Raises
    ------
    ValueError
        If it is no regular expression or may take too long; in words for the user.
    """
    tokens = _TOKEN.findall(unicodedata.normalize("NFC", pattern))
    try:
        with warnings.catch_warnings():
            for category in (FutureWarning, DeprecationWarning):  # of what later Pythons may read in another way;
                warnings.simplefilter("error", category)  # others' warnings (a socket left open) are none of ours
            if not _is_balanced(tokens):  # a)(b would be sound in the brackets that we put around it
                re.compile(pattern)
            found = re.compile(f"{_BEGIN}(?:{''.join(map(_folded_token, tokens))}){_END}")
    except (re.error, OverflowError, RecursionError, FutureWarning, DeprecationWarning) as error:
        reason = str(error).split(" at position")[0]  # which counts what we put around it
        raise ValueError(f"{_shown(pattern)} is no regular expression that can be used ({reason}); mend it") from error
    if _ways(iter(tokens)) > MAX_WAYS:
        mend = "write {0,20} in place of * or +, and repeat no group that repeats something itself"
        raise ValueError(f"{_shown(pattern)} could take too long on an unlucky text; {mend}")
    return found


def _is_balanced(tokens: Sequence[str]) -> bool:
    depth = 0
    for token in tokens:
        depth += (token[0] == "(") - (token == ")")
        if depth < 0:
            return False
    return depth == 0


def _shown(pattern: str) -> str:
    return repr(pattern if len(pattern) <= _SHOWN_CHARS else f"{pattern[:_SHOWN_CHARS]}...")


def _folded_token(token: str) -> str:
    if token == " ":
        return "[ .-]"
    if token[0] == "[" and len(token) > 1:
        return "".join(part if part[0] == "\\" else _folded(part) for part in re.findall(r"\\.|.", token, re.DOTALL))
    if len(token) > 1:
        return token
    return _folded(token) if token.isascii() else re.escape(_folded(token))


def _ways(tokens: Iterator[str]) -> int:
    """Bound on the ways in which a (part of a) pattern can match at one place: what backtracking may have to try."""
    in_all, so_far, last = 0, 1, 1
    for token in tokens:
        if token == ")":
            break
        if token == "|":
            in_all, so_far, last = in_all + so_far * last, 1, 1
        elif _QUANTIFIER.fullmatch(token):
            last = _repeated(last, *_times(token))
        else:
            so_far, last = so_far * last, _ways(tokens) if token[0] == "(" else 1
    return min(in_all + so_far * last, MAX_WAYS + 1)


def _times(quantifier: str) -> tuple[int, int]:
    """Fewest and most repetitions; what has no end ends with the text."""
    if quantifier[0] in "*+?":
        return (1 if quantifier[0] == "+" else 0), (1 if quantifier[0] == "?" else MAX_CHARS)
    low, comma, high = quantifier[1 : quantifier.index("}")].partition(",")
    return int(low or 0), int(high or MAX_CHARS) if comma else int(low)


def _repeated(ways: int, low: int, high: int) -> int:
    if ways == 1:
        return max(1, high - low + 1)
    bound: int = (ways + 1) ** min(high, 64)
    return min(MAX_WAYS + 1, bound)
