"""Rules of titles, descriptions, categories and lengths, on titles that people wrote by hand (``titles.csv``).

The default rules were made with sight of the titles whose column ``seen`` says so. The others were written once the
rules were done, and no rule was changed for them.
"""

# ruff: noqa: RUF001  letters that look alike are what is tested
from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.filters.patterns import MAX_CHARS, compiled, fold
from pipeline.filters.text import DEFAULT_RULES, Hit, Rule, hits, problem, read_rules, scores, verdicts
from pipeline.filters.thresholds import Thresholds
from pipeline.sources import Source, list_sources

RULES = read_rules(DEFAULT_RULES)
LANGUAGES = {"en", "es", "pt", "fr", "de", "it", "ru", "ko", "ja", "zh", "hi", "ar", "tr", "id"}

with Path(__file__).with_name("titles.csv").open(encoding="utf-8", newline="") as table:
    TITLES = list(csv.DictReader(table))

EXCEPTIONS: set[str] = set()
"""Music videos that the rules hit all the same."""


def candidate(title: str, **known: Any) -> Source:
    return Source(source_id="a", video_id="a", link="https://a.org/a", groups=(), title=title, **known)


def source_of(row: dict[str, str]) -> Source:
    return candidate(
        row["title"],
        description=row["description"] or None,
        categories=(row["category"],) if row["category"] else (),
        duration_s=float(row["duration_s"]) if row["duration_s"] else None,
    )


def rules_of(tmp_path: Path, text: str, **how: Any) -> tuple[Rule, ...]:
    (tmp_path / "mine.csv").write_text(text, encoding=how.get("encoding", "utf-8"))
    return read_rules(tmp_path / "mine.csv")


def one(pattern: str, **limits: Any) -> list[Rule]:
    return [Rule(name="x", field="title", pattern=pattern, **limits)]


# --- the default rules -------------------------------------------------------------------------------------------


def test_the_titles_are_many_of_every_language_and_kind():
    assert len({row["title"] for row in TITLES}) == len(TITLES) >= 400
    for music in ("yes", "no"):
        chosen = [row for row in TITLES if row["music"] == music]
        assert len(chosen) >= 200
        assert {row["language"] for row in chosen} == LANGUAGES
    wanted = "reaction review interview tutorial album trailer podcast making-of karaoke unboxing gameplay news asmr"
    assert {kind.replace(" ", "-") for row in TITLES for kind in [row["kind"]]} >= set(wanted.split())


def test_no_music_video_is_hit_but_the_exceptions_that_are_named():
    told = {row["title"]: hits(RULES, source_of(row)) for row in TITLES if row["music"] == "yes"}
    assert {title: found for title, found in told.items() if found and title not in EXCEPTIONS} == {}
    assert all(told[title] for title in EXCEPTIONS)


@pytest.mark.parametrize(("seen", "at_least"), [("yes", 0.95), ("no", 0.9)])
def test_most_of_what_is_no_music_video_is_hit(seen, at_least):
    others = [row for row in TITLES if (row["music"], row["seen"]) == ("no", seen)]
    missed = [row["title"] for row in others if not hits(RULES, source_of(row))]
    assert len(missed) <= (1 - at_least) * len(others), missed


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_every_language_has_rules_for_every_kind(language):
    kinds = ("music", "reaction", "review", "interview", "tutorial", "album", "trailer", "podcast", "making-of")
    with DEFAULT_RULES.open(encoding="utf-8", newline="") as rules:
        named = {(row["name"], row["language"]) for row in csv.DictReader(rules)}
    assert {f"{kind}-{language}" for kind in (*kinds, "description")} <= {name for name, tongue in named}
    assert {(f"{kind}-{language}", language) for kind in kinds} <= named


@pytest.mark.parametrize("row", [row for row in TITLES if row["music"] == "no" and row["seen"] == "yes"][::9])
def test_a_hit_title_is_hit_however_it_is_written(row):
    """Upper case, fullwidth letters, and accents as signs of their own change nothing."""
    import unicodedata

    want = scores(RULES, source_of(row))["text_rules"]
    wide = "".join(chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else char for char in row["title"])
    for title in (row["title"].upper(), unicodedata.normalize("NFD", row["title"]), wide):
        assert scores(RULES, source_of(row | {"title": title}))["text_rules"] == want, title


def test_files_of_a_folder_are_judged_by_their_names_and_never_by_a_length(tmp_path):
    for name in ("Interview with the band.mp4", "song_(official_video)_reaction.mp4", "14.mp4"):
        (tmp_path / name).touch()
    told = {source.title: scores(RULES, source)["text_rules"] for source in list_sources(str(tmp_path))}
    assert {title: bool(found) for title, found in told.items()} == {
        "Interview with the band": True,
        "song_(official_video)_reaction": True,
        "14": False,
    }


def test_a_long_video_is_hit_unless_it_says_what_it_is():
    names = [rule.name for rule in RULES if rule.over_s]
    assert "too-long" in names
    for title, duration_s, hit in (
        ("Rumours", 901.0, True),
        ("Rumours", 899.0, False),
        ("Rumours", None, False),
        ("Runaway (Official Video)", 2077.0, False),
    ):
        assert ("too-long" in scores(RULES, candidate(title, duration_s=duration_s))["text_rules"]) == hit


# --- what a hit says ---------------------------------------------------------------------------------------------


def test_a_hit_names_its_rule_and_what_it_found(tmp_path):
    rules = rules_of(
        tmp_path,
        "name,field,pattern,over_s,under_s,unless\n"
        "reaction-en,title,reacts? to,,,\nwords-de,description,in diesem video,,,\nplay,category,gaming,,,\n"
        "long,duration,,900,,\nsnippet,duration,,,40,\nmix,title,mix,600,1000,\n",
    )
    source = candidate("He REACTS   to a mix", description="In diesem Video...", categories=("Music", "Gaming"))
    assert hits(rules, source) == [
        Hit("reaction-en", 'title has "reacts to"'),
        Hit("words-de", 'description has "in diesem video"'),
        Hit("play", 'category has "gaming"'),
    ]
    long, short = candidate("a mix", duration_s=950.4), candidate("a mix", duration_s=30.0)
    assert problem(rules, long) == (
        "text",
        "rule long: it takes 950 s, more than 900; "
        'rule mix: title has "mix", and it takes 950 s, more than 600 and less than 1000',
    )
    assert problem(rules, short) == ("text", "rule snippet: it takes 30 s, less than 40")
    assert problem(rules, candidate("a song")) is None
    told = list(verdicts(scores(rules, long), Thresholds()))
    assert told == [("text", "rule long"), ("text", "rule mix")]
    assert list(verdicts({"text_rules": None}, Thresholds())) == []


def test_what_was_found_is_shown_in_part():
    (hit,) = hits(one("a.{0,900}z"), candidate("a" + "b" * 400 + "z"))
    assert len(hit.found) < 80


# --- patterns ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "words", "found"),
    [
        ("reaction", "my REACTION!", True),
        ("reaction", "reactions", False),
        ("reaction", "chainreaction", False),
        ("reaction", "reaction2", True),
        ("reaction", "𝐑𝐞𝐚𝐜𝐭𝐢𝐨𝐧 Ｖｉｄｅｏ", True),
        ("reaction", "re\u00adac\u200btion", True),
        ("full album", "the FULL-ALBUM", True),
        ("full album", "the_full_album", True),
        ("full album", "a full. album", False),
        ("reseña", "Resena del disco", True),
        ("resena", "RESEÑA del disco", True),
        ("röportajı", "RÖPORTAJI", True),
        ("inceleme", "İNCELEME", True),
        ("обзор", "ОБЗОР!", True),
        ("еще", "ЕЩЁ", True),
        ("spaß", "SPASS", True),
        ("リアクション", "海外のﾘｱｸｼｮﾝ動画", True),
        ("리뷰", "앨범리뷰입니다", True),
        ("教程", "吉他教程视频", True),
        ("रिएक्शन", "मेरा रिएक्शन वीडियो", True),
        ("रिएक्श", "रिएक्शन", False),
        ("مقابلة", "مُقابَلَة مع", True),
        ("قابلة", "مقابلة", False),
        ("it's", "It’s here", True),
        ("[A-C]x", "bX", True),
        (r"(?<!- )tutorial", "Artist – Tutorial", False),
        (r"(?<!- )tutorial", "piano tutorial", True),
        ("^reaction[:|]", "Reaction: a song", True),
        (r"\d{2} ?hours", "10hours of rain", True),
        ("trailer$", "the trailer", True),
    ],
)
def test_words_are_found_whole_in_every_script(pattern, words, found):
    assert (compiled(pattern).search(fold(words)) is not None) == found


HANGS = ["(a+)+b", "(a|a)*b", "(a|aa)+$", ".*.*.*b", "(a?){20}a{20}b", r"(\w+\s?)*!", "((a{1,50}){1,50}){1,50}b"]


@pytest.mark.parametrize("pattern", HANGS)
def test_a_pattern_that_could_hang_is_refused(pattern):
    re.compile(pattern)
    with pytest.raises(ValueError, match=r"could take too long on an unlucky text; write \{0,20\} in"):
        compiled(pattern)


PARTS = st.recursive(
    st.sampled_from(["a", "b", ".", "[ab]", r"\w", " ", "aa", "ab|a", "a|b"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2,9}", "{3}", "*?", "{1,}"])).map(
            lambda p: f"(?:{p[0]}){p[1]}"
        ),
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda p: f"({p[0]}|{p[1]})"),
    ),
    max_leaves=8,
)


@settings(max_examples=100)
@given(PARTS, st.sampled_from(["a", "ab", "a b ", "aab"]))
@example("(?:a|ab)(?:c|bcd)(?:d*)", "abcd")
def test_a_pattern_that_is_taken_comes_to_an_end_on_every_text(pattern, words):
    try:
        found = compiled(f"(?:{pattern})!")
    except ValueError:
        return
    assert found.search(fold(words * MAX_CHARS)) is None


def test_the_beginning_of_a_long_text_is_looked_at():
    assert len(fold("x" * 10 * MAX_CHARS)) == MAX_CHARS
    assert hits(one("end"), candidate("x " * MAX_CHARS + "end")) == []


@given(st.text())
def test_folding_twice_is_folding_once(words):
    assert fold(fold(words)) == fold(words)


# --- a user's table ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_may_be_saved_by_any_spreadsheet(tmp_path, delimiter):
    text = 'name,field,pattern,over_s,note\r\n\r\nmine,title,"a|b",,"two\r\nlines"\r\nlong,duration,,"900",\r\n,,,,\r\n'
    rules = rules_of(tmp_path, text.replace(",", delimiter), encoding="utf-8-sig")
    assert rules == (
        Rule(name="mine", field="title", pattern="a|b"),
        Rule(name="long", field="duration", over_s=900.0),
    )


def test_a_row_of_words_stands_for_its_pattern_in_the_rows_below(tmp_path):
    text = (
        "name,field,pattern,unless\nofficial,words,official video|mv,\nmusic,words,{official}|clip,\n"
        "talk,title,talk|{music} talk,{music}\n"
    )
    (rule,) = rules_of(tmp_path, text)
    assert hits([rule], candidate("A talk"))
    assert not hits([rule], candidate("A talk (Official Video)"))
    assert not hits([rule], candidate("A talk (clip)"))


def test_a_table_without_a_rule_asks_nothing(tmp_path):
    assert rules_of(tmp_path, "name,field,pattern\n") == ()


def test_a_note_or_a_language_is_no_change_of_the_rules(tmp_path):
    one_table = rules_of(tmp_path, "name,language,field,pattern,note\nx,de,title,y,why\n")
    assert repr(one_table) == repr(rules_of(tmp_path, "name,field,pattern\nx,title,y\n"))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", " has no column name; give it one, in the first row"),
        ("name,pattern\nx,y\n", " has no column field; give it one, in the first row"),
        ("name,field,patern\nx,title,y\n", " has a column 'patern'; known are name, language, field, pattern,"),
        ("name,field,pattern\nx,title,(a\n", ", row 2 (x): '(a' is no regular expression that can be used (missing )"),
        ("name,field,pattern\nx,title,a)(b\n", ", row 2 (x): 'a)(b' is no regular expression that can be used (unbal"),
        ("name,field,pattern\n\nx,title,(a+)+b\n", ", row 3 (x): '(a+)+b' could take too long on an unlucky text;"),
        ("name,field,pattern\nx,title,a*\n", ", row 2 (x): 'a*' is found in every text; write what is to be found"),
        ("name,field,pattern\nx,title,[[a]\n", ", row 2 (x): '[[a]' is no regular expression that can be used (Poss"),
        ("name,field,pattern\nx,title,b(?i)a\n", ", row 2 (x): 'b(?i)a' is no regular expression that can be used"),
        ("name,field,pattern\nx,tags,a\n", ", row 2 (x): field 'tags' is none of title, description, category, dur"),
        ("name,field,pattern\nx,title,a\nx,title,b\n", ", row 3 (x): another row has this name; give it one of its"),
        ("name,field,pattern\n,title,a\n", ", row 2 (no name): give it a name of small letters, digits and hyphens"),
        ("name,field,pattern\nX y,title,a\n", ", row 2 (X y): give it a name of small letters, digits and hyphens"),
        ("name,field,pattern\nx,title,\n", ", row 2 (x): it has no pattern; write what is to be found"),
        ("name,field,pattern\nx\n", ", row 2 (x): field '' is none of"),
        ("name,field,pattern\nx,title,a{1,2}\n", ", row 2 (x): it has more cells than the first row; put quotes"),
        ("name,field,pattern\nx,title,{y} a\n", ", row 2 (x): no row of words above it is called y; there are none"),
        ("name,field,pattern\ny,words,b\nx,title,{z}\n", ", row 3 (x): no row of words above it is called z; known "),
        ("name,field,pattern\ny,words,(b\n", ", row 2 (y): '(b' is no regular expression"),
        ("name,field,pattern,over_s\ny,words,b,3\n", ", row 2 (y): words have a pattern alone; empty its other cells"),
        ("name,field,pattern,over_s\nx,duration,,long\n", ", row 2 (x): over_s 'long': give seconds above 0"),
        ("name,field,pattern,over_s\nx,duration,,nan\n", ", row 2 (x): over_s 'nan': give seconds above 0"),
        ("name,field,pattern,over_s\nx,duration,,-3\n", ", row 2 (x): over_s '-3': give seconds above 0"),
        ("name,field,pattern\nx,duration,\n", ", row 2 (x): a rule on the duration has no pattern, but over_s, under"),
        ("name,field,pattern,over_s\nx,duration,a,3\n", ", row 2 (x): a rule on the duration has no pattern, but"),
        ("name,field,pattern,over_s,under_s\nx,duration,,9,3\n", ", row 2 (x): over_s is not less than under_s, so"),
        ('name,field,pattern\nx,title,"a\n', " cannot be read as a table (unexpected end of data); save it as CSV"),
        (b"name,field,pattern\nx,title,\xe9\n", " is no UTF-8 text; save it as CSV in UTF-8"),
        (None, ": no such file"),
        ("folder", " cannot be read: Is a directory"),
    ],
)
def test_a_table_that_cannot_be_used_is_told_in_one_line_with_file_row_and_mend(tmp_path, text, line):
    file = tmp_path / "mine.csv"
    if text == "folder":
        file.mkdir()
    elif text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        read_rules(file)
    assert str(caught.value).startswith(f"--rules {file}{line}")
    assert "\n" not in str(caught.value)
