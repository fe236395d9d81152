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
from collections.abc import Iterator

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

_NO_SPACES = (  # scripts that set none between words: Thai to Khmer, kana, Han, Hangul (whose words take endings)
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3005\u3040-\u30ff\u3130-\u318f\u31f0-\u31ff\u3400-\u9fff"
    "\uac00-\ud7ff\uf900-\ufaff"
)
_INDIC = "\u0900-\u0963\u0966-\u0dff"  # its vowel signs are letters to us, if not to `re`
_LETTER, _SIGN = rf"[^\W\d_{_NO_SPACES}{_INDIC}]", f"[{_INDIC}]"
_BEGIN = f"(?:(?<!{_LETTER})(?<!{_SIGN})|(?!{_LETTER}|{_SIGN}))"
_END = f"(?:(?!{_LETTER}|{_SIGN})|(?<!{_LETTER})(?<!{_SIGN}))"

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
            warnings.simplefilter("error")  # of what later versions of Python may read in another way
            re.compile(pattern)
            found = re.compile(f"{_BEGIN}(?:{''.join(map(_folded_token, tokens))}){_END}")
    except (re.error, OverflowError, RecursionError, Warning) as error:
        raise ValueError(f"{_shown(pattern)} is no regular expression that can be used ({error}); mend it") from error
    if _ways(iter(tokens)) > MAX_WAYS:
        mend = "write {0,20} in place of * or +, and repeat no group that repeats something itself"
        raise ValueError(f"{_shown(pattern)} could take too long on an unlucky text; {mend}")
    return found


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
