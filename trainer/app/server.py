"""What is answered to whom: pages, uploads, results.

A visitor is whoever shows the cookie that the first page gave. Every id is a secret as well: one without the other gets
404. What changes anything must come from a page of this server (``Origin``), and all must be asked of it by a name that
it has (``Host``): a page elsewhere, or a name that somebody points at this address, gets nothing.
"""

import asyncio
import errno
import re
import secrets
import shutil
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trainer.app.children import Child, DiedError, NotStartedError, RefusedError
from trainer.app.jobs import FullError, Job, Jobs
from trainer.app.rooms import FULL
from trainer.app.uploads import TooLargeError, drain, receive, title_of
from trainer.errors import one_line
from trainer.page import html
from trainer.runtime import say, warn

LOOK_S = 30.0  # for which a file may be opened
SPARE_BYTES = 1_000_000_000  # of the disk, left free beside an upload and a player made of it

DOWNLOADS = {
    "curve.csv": "text/csv",
    "curve.json": "application/json",
    "curve.srt": "application/x-subrip",
    "curve.png": "image/png",
}
PLAYER = "player.html"
PLAYED = {
    "mp4": "video/mp4",
    "webm": "video/webm",
    "ogg": "audio/ogg",
    "mp3": "audio/mpeg",
    "flac": "audio/flac",
    "wav": "audio/wav",
}
"""``player.<ending>``, what the player plays: those of ``trainer.videos``, which only the children need to import."""

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
PLAYER_POLICY = "frame-ancestors 'self'; object-src 'none'; base-uri 'none'; form-action 'none'"  # its own says more
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",  # with no-referrer, a form's Origin would be "null"
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a visitor may ask for."""

    max_bytes: int
    max_s: float
    timeout_s: float
    """For which one video may be judged."""
    keep_s: float


class App:
    """The routes, and what they share.

    Parameters
    ----------
    names
        Hosts that the server may be asked by.
    cookie
        The cookie's name; cookies of a host are shared by its ports.
    """

    def __init__(self, jobs: Jobs, *, look: Child, judge: Child, limits: Limits, names: list[str], cookie: str) -> None:
        self._jobs, self._look, self._judge, self._limits, self._cookie = jobs, look, judge, limits, cookie
        self._own = {
            "style.css": ("text/css", _own("report.css") + _own("app.css")),
            "script.js": ("text/javascript", _own("app.js")),
        }
        self.asgi = Starlette(
            routes=[
                Route("/", self.start),
                Route("/{name:str}", self.own),
                Route("/jobs", self.upload, methods=["POST"]),
                Route("/jobs/{id}/", self.job),
                Route("/jobs/{id}/status", self.status),
                Route("/jobs/{id}/delete", self.delete, methods=["POST"]),
                Route("/jobs/{id}/{name}", self.result),
            ],
            middleware=[
                Middleware(_Headers),
                Middleware(TrustedHostMiddleware, allowed_hosts=names, www_redirect=False),
            ],
            exception_handlers={HTTPException: _tell, Exception: _tell_nothing},
        )

    # --- pages ---

    async def start(self, request: Request) -> Response:
        """Show where a video goes, and those that this visitor has here."""
        visitor = self._visitor(request)
        page = html.render(
            "app.html.j2", limits=self._limits, jobs=[(job, self._says(job)) for job in self._jobs.of(visitor)]
        )
        response = HTMLResponse(page)
        if visitor is None:
            response.set_cookie(self._cookie, secrets.token_urlsafe(32), httponly=True, samesite="strict")
        return response

    async def job(self, request: Request) -> Response:
        """Show how far a video is, or what was found."""
        job = self._find(request)
        page = html.render(
            "app-job.html.j2",
            job=job,
            says=self._says(job),
            names=list(DOWNLOADS),
            player=PLAYER,
            keep_minutes=self._limits.keep_s / 60,
        )
        return HTMLResponse(page)

    async def own(self, request: Request) -> Response:
        """Send style or script."""
        if (found := self._own.get(request.path_params["name"])) is None:
            raise HTTPException(404, "There is nothing here.")
        return Response(found[1], media_type=found[0], headers={"Cache-Control": "no-cache"})

    # --- a video's way ---

    async def upload(self, request: Request) -> Response:
        """Take a video in: the body is the file, and ``?name=`` what it is called."""
        self._require_own_page(request)
        if (visitor := self._visitor(request)) is None:
            raise HTTPException(403, "Open the first page before you upload: it brings a cookie, which is needed.")
        if request.headers.get("content-type") != "application/octet-stream":
            raise HTTPException(415, "The body must be the file itself, of type application/octet-stream.")
        too_large = f"The file is larger than the {self._limits.max_bytes / 1e6:g} MB that are taken here."
        if int(request.headers.get("content-length", "0")) > self._limits.max_bytes:
            await drain(request)
            raise HTTPException(413, too_large)
        try:
            job = self._jobs.admit(visitor, title_of(request.query_params.get("name", "")))
        except FullError:
            await drain(request)
            raise HTTPException(
                503, "Too many videos are waiting already; try again in some minutes.", {"Retry-After": "120"}
            ) from None
        except OSError as error:
            await drain(request)
            raise _no_room("an upload", error) from None
        try:
            if shutil.disk_usage(job.folder).free < 2 * self._limits.max_bytes + SPARE_BYTES:
                raise OSError(errno.ENOSPC, "too little is free for an upload and a player")
            length = await receive(request, job.upload, max_bytes=self._limits.max_bytes)
            if length == 0:
                raise HTTPException(400, "The file is empty.")
            await request.is_disconnected()  # has uvicorn read on, as it does not behind the last large piece
            await self._require_media(job)
            if await request.is_disconnected():
                raise ClientDisconnect
            self._jobs.queue(job)
        except TooLargeError:
            await drain(request)
            raise HTTPException(413, too_large) from None
        except TimeoutError:
            raise HTTPException(408, "The upload stood still for too long; try again.") from None
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except OSError as error:
            await drain(request)
            raise _no_room(f"upload {job.number}", error) from None
        finally:
            if job.state == "coming":
                await asyncio.shield(self._jobs.delete(job))
                say(f"upload {job.number}: not taken")
        say(f"video {job.number}: {length / 1e6:.1f} MB, {self._jobs.before(job)} before it")
        return JSONResponse({"address": f"/jobs/{job.id}/"}, status_code=201)

    async def _require_media(self, job: Job) -> None:
        """Refuse what is no media, or too long."""
        try:
            found = await self._look.ask({"folder": str(job.folder)}, timeout_s=LOOK_S)
        except RefusedError as error:
            raise HTTPException(415, _sentence(str(error))) from None
        except NotStartedError as error:
            warn(f"upload {job.number}: the process that opens files does not start: {error}")
            raise HTTPException(503, "The server cannot look into files now; try again later.") from None
        except (TimeoutError, DiedError):
            raise HTTPException(
                415, "The file could not be opened: reading its head took too long, or broke off."
            ) from None
        if found["too_long"]:
            most = f"{self._limits.max_s / 60:g} minutes that are taken here"
            raise HTTPException(422, f"The file is longer than the {most}.")

    async def judge(self, job: Job) -> None:
        """Have a video judged, and note what became of it."""

        def heard(line: dict[str, Any]) -> None:
            job.windows, job.expected = line.get("seen", job.windows), line.get("of", job.expected)
            job.drawing = line.get("drawing", False)

        question = {"folder": str(job.folder), "title": job.title}
        try:
            found = await self._judge.ask(question, timeout_s=self._limits.timeout_s, heard=heard)
            job.end("done", f"{found['verdict']}, {found['share']:.0%}")
        except RefusedError as error:
            job.end("failed", _sentence(str(error)))
        except TimeoutError:
            job.end("failed", f"Judging it took more than {self._limits.timeout_s / 60:g} minutes, and was stopped.")
        except NotStartedError as error:
            warn(f"video {job.number}: the judging process does not start: {error}")
            job.end("failed", "The server cannot judge videos now; try again later.")
        except DiedError:
            warn(f"video {job.number}: the judging process ended unexpectedly; it is started anew")
            job.end("failed", "Judging it broke off, which should not happen; try it once more.")
        job.upload.unlink(missing_ok=True)  # what is played is among the results
        say(f"video {job.number}: {job.state}")

    async def status(self, request: Request) -> Response:
        """Tell how far a video is."""
        job = self._find(request)
        return JSONResponse({"state": job.state, "percent": job.percent, "says": self._says(job)})

    async def delete(self, request: Request) -> Response:
        """Delete a video and all that was made of it."""
        self._require_own_page(request)
        job = self._find(request)
        await self._jobs.delete(job)
        say(f"video {job.number}: deleted")
        return RedirectResponse("/", status_code=303)

    async def result(self, request: Request) -> Response:
        """Send a file that was made, by one of the names that there are."""
        job, name = self._find(request), request.path_params["name"]
        path = job.results / name
        known = DOWNLOADS | {PLAYER: "text/html"} | {f"player.{ending}": mime for ending, mime in PLAYED.items()}
        if name not in known or job.state != "done" or not path.is_file():
            raise HTTPException(404, "There is no such file.")
        headers = {"Content-Security-Policy": PLAYER_POLICY} if name == PLAYER else {}
        return FileResponse(path, media_type=known[name], headers=headers)

    # --- who asks ---

    def _visitor(self, request: Request) -> str | None:
        told = request.cookies.get(self._cookie, "")
        return told if re.fullmatch(r"[\w-]{43}", told, re.ASCII) else None

    def _find(self, request: Request) -> Job:
        name = request.path_params["id"]
        if job := self._jobs.find(name, self._visitor(request)):
            return job
        if re.fullmatch(r"[0-9a-f]{8}-[\w-]{32}", name, re.ASCII) and not name.startswith(self._jobs.server):
            raise HTTPException(404, "The server was restarted, and has nothing from before; upload the video again.")
        raise HTTPException(404, "There is no such video here, or it has been deleted.")

    def _require_own_page(self, request: Request) -> None:
        """Refuse what another page makes a visitor's browser send."""
        host = request.headers["host"].lower()
        if request.headers.get("origin", "").lower() not in (f"http://{host}", f"https://{host}"):
            raise HTTPException(403, "Only this server's own page may ask that.")

    def _says(self, job: Job) -> str:
        """How far a video is, in words."""
        if job.state == "waiting":
            before = self._jobs.before(job)
            return f"Waiting: {before} {'video' if before == 1 else 'videos'} before this one." if before else "Next."
        if job.state == "judging":
            if job.drawing:
                return "Drawing the curve, and making the player."
            return f"Judging: {job.windows} of about {job.expected} windows." if job.expected else "Judging."
        return job.line


class _Headers:
    """Gives every answer the headers that it does not have."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_more)


async def _tell(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _line(request, error.status_code, error.detail, error.headers)


async def _tell_nothing(request: Request, error: Exception) -> Response:
    return _line(request, 500, "Something went wrong in the server; what, stands in its log.")


def _line(request: Request, status: int, line: str, headers: Any = None) -> Response:
    if "text/html" in Headers(scope=request.scope).get("accept", ""):
        return HTMLResponse(html.render("app-line.html.j2", line=line), status_code=status, headers=headers)
    return JSONResponse({"line": line}, status_code=status, headers=headers)


def _no_room(what: str, error: OSError) -> HTTPException:
    """Tell the log why something cannot be kept; return what the visitor reads."""
    full = error.errno in FULL
    warn(f"{what}: {'the disk is full' if full else 'nothing can be written'}: {one_line(error)}")
    return HTTPException(507, f"The server {'has no room' if full else 'cannot keep files'} now; try again later.")


def _sentence(text: str) -> str:
    """Make a line for a page of a line for a terminal."""
    shown = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return f"{shown[:1].upper()}{shown[1:]}."


def _own(name: str) -> str:
    return (html.TEMPLATES / name).read_text(encoding="utf-8")
