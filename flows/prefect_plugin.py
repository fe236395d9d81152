"""What makes `prefect deployment run build-shards` work as it stands in the project's root.

Prefect loads this where `[tool.prefect.plugins]` of the working folder's pyproject.toml enables it. For the command
`prefect`, and nothing else, it names the server of `make serve` unless the user has set PREFECT_API_URL, and gives
`deployment run NAME` the flow's name before the slash where one deployment alone is called NAME.
"""

from __future__ import annotations

import os
import sys
from itertools import pairwise
from pathlib import Path

from prefect.plugins import HookContext, register_hook

from flows.served import served_url, use


@register_hook
async def setup_environment(*, ctx: HookContext) -> None:
    """Name the server to Prefect's command, and make a bare deployment name whole.

    Raises
    ------
    SystemExit
        With a line for the user: no server answers, or no or several deployments have the name.
    """
    if not _is_prefect_command():
        return
    if ctx.api_url is None and (served := served_url()):
        use(served)  # a SetupResult would do the same, but is logged at every command
    if _is_deployment_run(sys.argv):
        url = os.environ.get("PREFECT_API_URL") or ctx.api_url
        if url is None:
            raise SystemExit("no server answers; run `make serve` in another terminal")
        await make_name_whole(url, sys.argv)


def bare_name(words: list[str]) -> int | None:
    """Place of the deployment's name among the words of `deployment run`, if it has no flow's name before it."""
    for place in range(words.index("run") + 1, len(words)):
        before, word = words[place - 1], words[place]
        is_value = before.startswith("-") and before != "--watch" and "=" not in before
        if not word.startswith("-") and not is_value:
            return None if "/" in word else place
    return None


async def make_name_whole(url: str, words: list[str]) -> None:
    """Turn NAME among the words into FLOW/NAME, where one deployment alone is called NAME."""
    from prefect import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: url}):
        async with get_client() as client:
            if await client.api_healthcheck() is not None:
                raise SystemExit(f"no server answers at {url}, which is Prefect's PREFECT_API_URL here")
            if (place := bare_name(words)) is None:
                return
            called = DeploymentFilter(name=DeploymentFilterName(any_=[words[place]]))
            names = sorted(f"{flow.name}/{words[place]}" for flow in await client.read_flows(deployment_filter=called))
    if not names:
        raise SystemExit(f"no deployment is called {words[place]}; `prefect deployment ls` lists them")
    if len(names) > 1:
        raise SystemExit(f"{len(names)} deployments are called {words[place]}; name one whole: {', '.join(names)}")
    words[place] = names[0]


def _is_prefect_command() -> bool:
    as_module = sys.argv[0] == "-m" and sys.orig_argv[1:3] == ["-m", "prefect"]
    return as_module or Path(sys.argv[0]).name == "prefect"


def _is_deployment_run(words: list[str]) -> bool:
    named = any(pair in (("deployment", "run"), ("deployments", "run")) for pair in pairwise(words))
    return named and "--help" not in words
