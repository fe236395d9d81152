"""Extractors of the test catalogue for yt-dlp: a video, a list, and a search (``catsearch5:key``).

The search has no address to go by, so it takes the site's from the environment, CATALOGUE_URL.
"""

import itertools
import os
import re
import urllib.parse

from yt_dlp.extractor.common import InfoExtractor, SearchInfoExtractor
from yt_dlp.utils import ExtractorError, extract_attributes, float_or_none, int_or_none, unescapeHTML

_SITE = r"http://127\.0\.0\.\d+:\d+"


class CatalogueIE(InfoExtractor):
    """A video's page."""

    _VALID_URL = _SITE + r"/watch/(?P<id>[\w-]+)"
    _TESTS = [{"url": "http://127.0.0.1:80/watch/a1", "only_matching": True}]  # noqa: RUF012  as yt-dlp has them
    _RETURN_TYPE = "video"

    def _real_extract(self, url):
        video_id = self._match_id(url)
        webpage = self._download_webpage(url, video_id)
        reason = self._html_search_meta("playability", webpage, default=None)
        if reason and "in your country" in reason:
            self.raise_geo_restricted(reason)
        if reason:
            raise ExtractorError(reason, expected=True)
        formats = []
        for tag in re.findall(r"<source[^>]+>", webpage):
            source = extract_attributes(tag)
            address = urllib.parse.urljoin(url, source["src"])
            if address.endswith(".m3u8"):
                formats += self._extract_m3u8_formats(address, video_id, "mp4", "m3u8_native", m3u8_id="hls")
            else:
                formats.append({"url": address, "ext": "mp4", "height": int_or_none(source.get("res"))})
        if link := self._search_regex(r'<a class="download" href="([^"]+)"', webpage, "link", default=None):
            formats.append({"url": urllib.parse.urljoin(url, link), "ext": "mp4"})
        linked = self._search_json_ld(webpage, video_id, default={})
        return {
            "id": video_id,
            "title": self._html_search_meta("og:title", webpage, fatal=True),
            "uploader": self._html_search_meta("author", webpage, default=None),
            "upload_date": self._search_regex(r'"uploadDate": "([\d-]+)"', webpage, "date").replace("-", ""),
            "license": self._html_search_meta("license", webpage, default=None),
            "duration": float_or_none(linked.get("duration")),
            "description": self._html_search_meta("og:description", webpage, default=None),
            "categories": (self._html_search_meta("categories", webpage, default=None) or "").split("|"),
            "formats": formats,
        }


class CatalogueListIE(InfoExtractor):
    """A playlist or a channel: a page that lists videos."""

    _VALID_URL = _SITE + r"/(?:playlist|channel)/(?P<id>[^/?#]+)"
    _TESTS = [{"url": "http://127.0.0.1:80/playlist/a", "only_matching": True}]  # noqa: RUF012
    _RETURN_TYPE = "playlist"

    def _real_extract(self, url):
        list_id = urllib.parse.unquote(self._match_id(url))
        webpage = self._download_webpage(url, list_id)
        entries = []
        for tag, title in re.findall(r'(<a class="video"[^>]+>)([^<]*)</a>', webpage):
            link = extract_attributes(tag)
            entries.append(
                _entry(
                    urllib.parse.urljoin(url, link["href"]),
                    link["href"].rpartition("/")[2],
                    unescapeHTML(title),
                    float_or_none(link.get("data-duration")),
                )
            )
        return self.playlist_result(entries, list_id, list_id)


class CatalogueSearchIE(SearchInfoExtractor):
    """The site's search."""

    _SEARCH_KEY = "catsearch"
    _TESTS = [{"url": "catsearch5:key", "only_matching": True}]  # noqa: RUF012

    def _search_results(self, query):
        site = os.environ["CATALOGUE_URL"]
        for page in itertools.count(1):
            found = self._download_json(
                f"{site}/search", query, note=f"Downloading page {page}", query={"q": query, "page": page}
            )
            for result in found["results"]:
                yield _entry(f"{site}/watch/{result['id']}", result["id"], result["title"], result.get("duration"))
            if not found["more"]:
                return


def _entry(url, video_id, title, duration):
    entry = InfoExtractor.url_result(url, CatalogueIE, video_id, title)
    return entry if duration is None else {**entry, "duration": duration}
