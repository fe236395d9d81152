"""The site's pages, as HTML."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence

from tests.catalogue.videos import Video


def listing(video: Video) -> dict[str, object]:
    entry: dict[str, object] = {"id": video.id, "title": video.title}
    if video.listed_duration and video.told_duration_s is not None:
        entry["duration"] = video.told_duration_s
    return entry


def list_html(name: str, videos: Sequence[Video]) -> str:
    items = []
    for video in videos:
        seconds = listing(video).get("duration")
        told = "" if seconds is None else f' data-duration="{seconds}"'
        items.append(f'<li><a class="video" href="/watch/{video.id}"{told}>{html.escape(video.title)}</a></li>')
    return f"<!doctype html>\n<html><head><title>{html.escape(name)}</title></head>\n<body><ul>\n" + "\n".join(
        [*items, "</ul></body></html>\n"]
    )


def watch_html(video: Video, words: str | None) -> str:
    """The page: metadata twice, as such pages have it, and the media; or only the words why there is none."""
    day = f"{video.upload_date[:4]}-{video.upload_date[4:6]}-{video.upload_date[6:]}"
    linked: dict[str, object] = {
        "@context": "https://schema.org",
        "@type": "VideoObject",
        "name": video.title,
        "uploadDate": day,
        "author": {"@type": "Person", "name": video.uploader},
    }
    seconds = video.told_duration_s
    if seconds is not None:
        linked["duration"] = f"PT{seconds:.3f}S"
    if video.licence:
        linked["license"] = video.licence
    metas = {"og:title": video.title, "author": video.uploader, "license": video.licence, "playability": words}
    metas |= {"og:description": video.description, "categories": "|".join(video.categories)}
    if seconds is not None:
        metas["duration"] = f"{seconds:.3f}"
    heights = sorted(video.recording.files) if video.recording else [360]
    if words:
        media = f"<p>{html.escape(words)}</p>"
    elif video.kind == "link":
        media = f'<a class="download" href="/media/{video.id}-{heights[0]}.mp4">Download</a>'
    else:
        sources = [(f"/media/{video.id}-{h}.mp4", f'type="video/mp4" label="{h}p" res="{h}"') for h in heights]
        if video.kind == "hls":
            sources = [(f"/media/{video.id}.m3u8", 'type="application/x-mpegURL"')]
        tags = "".join(f'<source src="{src}" {attributes}>' for src, attributes in sources)
        media = f'<video controls width="640" height="360">{tags}</video>'
    lines = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f"<title>{html.escape(video.title)}</title>",
        *(f'<meta name="{name}" content="{html.escape(text)}">' for name, text in metas.items() if text),
        f'<script type="application/ld+json">{json.dumps(linked)}</script>',
        f"</head><body><h1>{html.escape(video.title)}</h1>",
        media,
        "</body></html>",
    ]
    return "\n".join(lines) + "\n"
