from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.queries import Query, by_identity, candidates_of, is_crawl, is_http, link_labels, read_queries
from pipeline.sources import Source
from pipeline.store import Video


def read(*words: object) -> list[Query]:
    return read_queries([str(word) for word in words], search_prefix="ytsearch", per_search=50)


def link(address: str) -> Query:
    return Query(request=address, is_search=False)


def search(key: str) -> Query:
    return Query(request=f"ytsearch50:{key}", is_search=True)


def test_a_folder_alone_is_no_crawl_and_all_else_is(tmp_path):
    (tmp_path / "l.txt").write_text("sad song\n")
    assert not is_crawl([str(tmp_path)])
    for address in (f"file://{tmp_path}", f"FILE://{tmp_path}/", "s3://bucket/videos", "S3://bucket/videos"):
        assert not is_crawl([address])
    for words in (
        ["search:sad"],
        ["https://a.org/1"],
        [str(tmp_path / "l.txt")],
        [str(tmp_path), "search:sad"],
        [f"file://{tmp_path}/l.txt"],
        ["no"],
    ):
        assert is_crawl(words)


def test_words_are_searches_and_links_in_their_order_each_once():
    words = ("search:sad song", "https://a.org/1", "search:  sad \t song ", "https://a.org/1", "search:happy")
    assert read(*words) == [search("sad song"), link("https://a.org/1"), search("happy")]


def test_a_search_is_put_in_the_words_of_the_extractor():
    (query,) = read_queries(["search:sad song"], search_prefix="ytsearchdate", per_search=7)
    assert query == Query(request="ytsearchdate7:sad song", is_search=True)


def test_a_key_may_have_a_colon_and_even_a_link_in_it():
    assert read("search:mood: sad", "search:https://a.org/1") == [search("mood: sad"), search("https://a.org/1")]


def test_a_text_file_has_a_bare_key_a_search_or_a_link_a_line(tmp_path):
    (tmp_path / "keys.TXT").write_text(
        "# mine\n\n  sad   song \nmood: sad\nsearch:happy\nhttps://a.org/1\n  # not this\nsad song\nfile:///etc/passwd\n"
    )
    assert read(tmp_path / "keys.TXT", "search:happy") == [
        search("sad song"),
        search("mood: sad"),
        search("happy"),
        link("https://a.org/1"),
        link("file:///etc/passwd"),  # a candidate that is told of, since nobody fetches it
    ]


def test_lists_of_links_in_three_formats_give_the_same(tmp_path):
    links = ["https://a.org/1.mp4", "http://b.org/watch?v=2", "https://c.org/#part"]
    (tmp_path / "l.txt").write_text("\n".join([*links, links[0]]))
    (tmp_path / "l.csv").write_text("link,year\n" + "".join(f"{x},1999\n" for x in [*links, links[0]]))
    pq.write_table(pa.table({"link": [*links, links[0]]}), tmp_path / "l.parquet")
    for name in ("l.txt", "l.csv", "l.parquet"):
        assert read(tmp_path / name) == [link(x) for x in links]


@pytest.mark.parametrize("name", ["l.txt", "l.csv"])
def test_a_byte_order_mark_is_no_part_of_the_first_word(tmp_path, name):
    words = "link\nhttps://a.org/1\n" if name == "l.csv" else "https://a.org/1\n"
    (tmp_path / name).write_text(words, encoding="utf-8-sig")
    assert read(tmp_path / name) == [link("https://a.org/1")]


def test_line_ends_of_other_systems_are_line_ends(tmp_path):
    (tmp_path / "l.txt").write_bytes("tränen\r\nhttps://a.org/1\r\n".encode())
    assert read(tmp_path / "l.txt") == [search("tränen"), link("https://a.org/1")]


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1), min_size=1))
def test_any_key_is_searched_for_once_and_as_it_is_written(keys):
    queries = read(*(f"search:{key}" for key in keys))
    assert queries == [search(key) for key in dict.fromkeys(keys)]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["gone"], "--source gone: no such folder or list; search:KEY searches, https://... is a link"),
        (["gone.txt"], "--source gone.txt: no such folder or list"),
        (["song.mp4"], r"--source song.mp4 is neither a folder nor a list \(.csv .parquet .txt\)"),
        (["media", "search:sad"], "--source media is a folder; a folder stands alone"),
        (["search:sad", "search:"], "--source search: holds a search without a key; write search:KEY"),
        (["search: \t"], "holds a search without a key"),
        (["nokey.txt"], "--source nokey.txt holds a search without a key"),
        (["empty.txt"], "--source empty.txt lists nothing"),
        (["header.csv"], "--source header.csv lists nothing"),
        (["nolink.csv"], "nolink.csv has no column link; it has file, label"),
        (["hole.csv"], "hole.csv: row 2 has no link"),
        (["bad.parquet"], "bad.parquet cannot be read as a table"),
        (["latin.txt"], "latin.txt is no UTF-8 text"),
        (["s3:/bucket/videos"], "--source s3:/bucket/videos is no address; write s3://bucket/videos, or"),
        (["https://a.org/1", "S3://b/videos"], "--source s3://b/videos is a folder; a folder stands alone"),
        (["file:///no/such/folder"], "--source /no/such/folder: no such folder or list"),
        (["search:sad", "odd.txt"], "--source odd.txt: no such folder or list"),  # a broken symbolic link
    ],
)
def test_a_mistake_is_told_in_one_line(tmp_path, monkeypatch, words, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "media").mkdir()
    (tmp_path / "song.mp4").touch()
    (tmp_path / "nokey.txt").write_text("sad\nsearch:\n")
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    (tmp_path / "header.csv").write_text("link\n")
    (tmp_path / "nolink.csv").write_text("file,label\nb.mp4,Sad\n")
    (tmp_path / "hole.csv").write_text("link,label\nhttps://a.org/1,Sad\n,Fear\n")
    (tmp_path / "bad.parquet").write_text("no parquet")
    (tmp_path / "latin.txt").write_bytes("http://é".encode("latin-1"))
    (tmp_path / "odd.txt").symlink_to(tmp_path / "nowhere.txt")
    with pytest.raises(UserError, match=line) as caught:
        read(*words)
    assert "\n" not in str(caught.value)


# --- labels ----------------------------------------------------------------------------------------------------------


def test_without_a_table_there_are_no_labels():
    assert link_labels(None) is None


def test_mveds_layout_is_for_folders():
    with pytest.raises(UserError, match="--labels mved goes with a folder of MVED's layout; give links a table"):
        link_labels("mved")


@pytest.mark.parametrize(
    ("table", "line"),
    [
        (None, "no such file"),
        ("file,label\na.mp4,Sad\n", "no column link"),
        ("link\nhttps://a.org/1\n", "no column label"),
        ("link,label\n", "has no row"),
        ("link,label\nhttps://a.org/1,Sad\nhttps://a.org/1,Fear\n", "names https://a.org/1 more than once"),
        ("link,label,split\nhttps://a.org/1,Sad,trian\n", "known are train, val and test"),
    ],
)
def test_a_table_of_labels_that_cannot_be_used_is_told_in_one_line(tmp_path, table, line):
    if table is not None:
        (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(UserError, match=line) as caught:
        link_labels(str(tmp_path / "labels.csv"))
    assert "\n" not in str(caught.value)


def labels_of(table):
    rows = link_labels(str(table))
    return by_identity(rows, [row["link"] for row in rows])


def test_two_links_of_one_video_with_a_label_each_are_refused():
    rows = [{"link": "https://youtu.be/x", "label": "Sad"}, {"link": "https://youtube.com/watch?v=x", "label": "Fear"}]
    with pytest.raises(UserError, match="are one video; give it one row"):
        by_identity(rows, ["youtube:x", "youtube:x"])


# --- candidates ------------------------------------------------------------------------------------------------------

PAGE = Video(
    video_id="youtube:aB3_-dEfGh1",
    link="https://www.youtube.com/watch?v=aB3_-dEfGh1",
    request="ytsearch50:sad song",
    title="A Song",
    uploader="Somebody",
    upload_date="20210304",
    licence="Creative Commons Attribution",
    description="The official video.",
    categories=("Music",),
    duration_s=230.0,
    resolved=True,
)
BARE = Video(video_id="https://a.org/v/1.mp4", link="https://a.org/v/1.mp4", request="https://a.org/v/1.mp4")


def test_a_video_becomes_a_candidate_with_all_that_is_known_of_it():
    (source,) = candidates_of([PAGE], None, clips_per_video=1)
    assert source == Source(
        source_id="youtube:aB3_-dEfGh1",
        video_id="youtube:aB3_-dEfGh1",
        link="https://www.youtube.com/watch?v=aB3_-dEfGh1",
        title="A Song",
        groups=("youtube:aB3_-dEfGh1",),
        duration_s=230.0,
        uploader="Somebody",
        upload_date="20210304",
        licence="Creative Commons Attribution",
        description="The official video.",
        categories=("Music",),
        query="ytsearch50:sad song",
    )


@pytest.mark.parametrize(
    ("address", "title"),
    [
        ("https://a.org/v/A Song.mp4", "A Song"),
        ("https://a.org/", "a.org"),
        ("https://a.org", "a.org"),
        ("http://[bad/", "http://[bad/"),
    ],
)
def test_a_video_without_a_title_is_called_by_its_link(address, title):
    (source,) = candidates_of([Video(video_id=address, link=address)], None, clips_per_video=1)
    assert source.title == title


@pytest.mark.parametrize(
    "address", ["file:///etc/passwd", "http://[bad/", "ftp://a.org/1", "https:///nowhere", "rtmp://a.org/live", "a.org"]
)
def test_what_is_no_http_link_is_a_candidate_that_nobody_fetches(address):
    assert not is_http(address)
    (source,) = candidates_of([Video(video_id=address, link=address)], None, clips_per_video=1)
    assert source.problem == ("unsupported-link", "only http and https links are fetched")


@pytest.mark.parametrize(
    "address", ["http://a.org", "HTTPS://A.org/1?v=2#x", "https://[::1]:8080/", "http://u:p@a.org/"]
)
def test_http_and_https_are_fetched_however_they_are_written(address):
    assert is_http(address)


def test_a_table_labels_links(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text(
        f"link,label,split,group\n{BARE.link},Sad,Testing,suite\nhttps://never.listed,Sad,,\n{PAGE.link},,,\n"
    )
    other = Video(video_id="https://a.org/2", link="https://a.org/2")
    one, page, two = candidates_of([BARE, PAGE, other], labels_of(table), clips_per_video=1)
    assert (one.label, one.split, one.groups, one.problem) == ("Sad", "test", ("suite", BARE.link), None)
    assert two.problem == page.problem == ("no-label", "the table of labels does not name it")


def test_a_link_that_nobody_fetches_is_told_as_such_before_its_label_is_asked_for(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("link,label\nhttps://a.org/1,Sad\n")
    (source,) = candidates_of([Video(video_id="ftp://a", link="ftp://a")], labels_of(table), clips_per_video=1)
    assert source.problem is not None
    assert source.problem[0] == "unsupported-link"


def test_several_clips_of_a_video_stand_together_in_the_order_of_their_numbers():
    sources = candidates_of([PAGE, BARE], None, clips_per_video=2)
    assert [(s.source_id, s.video_id, s.number) for s in sources] == [
        ("youtube:aB3_-dEfGh1", "youtube:aB3_-dEfGh1", 0),
        ("youtube:aB3_-dEfGh1 (clip 2)", "youtube:aB3_-dEfGh1", 1),
        (BARE.link, BARE.link, 0),
        (f"{BARE.link} (clip 2)", BARE.link, 1),
    ]
    assert {s.groups for s in sources[:2]} == {("youtube:aB3_-dEfGh1",)}


def test_a_list_that_could_not_be_read_is_one_candidate_however_many_clips_are_wanted():
    unread = Video(video_id="https://a.org/list", link="https://a.org/list", problem=("network", "gone"))
    (source,) = candidates_of([unread], None, clips_per_video=3)
    assert source.problem == ("network", "gone")
