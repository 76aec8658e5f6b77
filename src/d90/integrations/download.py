"""Downloads from the hub with limits that hold while they run: in bytes, in time, and in where a redirect may lead."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from d90.errors import InputError

__all__ = ["CAUSES", "download", "file_sizes", "hub_client"]

GRACE = 60.0  # seconds that any answer may take
SLOWEST = 20_000  # bytes a second, on average, after that
STALL = 20.0  # seconds without a byte
MAX_LISTING = 8 << 20  # bytes of the hub's answer about a repository
CHUNK = 1 << 16

_T = TypeVar("_T")

CAUSES = {
    401: "Check the name and the token: 'hf auth login', or HF_TOKEN; a private repository looks like a missing one",
    403: "The token may not do this: make one with write access to that owner",
    404: "No such repository or revision; check the name",
}


def hub_client() -> Any:
    """The hub's own client, at the endpoint that the environment names now: the library reads it once, at import."""
    from huggingface_hub import HfApi

    from d90._version import __version__

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="d90", library_version=__version__)


def file_sizes(repo: str, revision: str | None) -> tuple[str, dict[str, int | None]]:
    """The commit of a repository's revision, and the size in bytes of each of its files.

    Raises:
        InputError: the hub refused, was too slow, or gave no such list.
    """
    at = "" if revision is None else f"/revision/{quote(revision, safe='')}"
    content = bytearray()
    _fetch(repo, f"/api/models/{quote(repo)}{at}?blobs=true", MAX_LISTING, content.extend)
    try:
        body = json.loads(content)
        return str(body["sha"]), {str(file["rfilename"]): file.get("size") for file in body["siblings"]}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(
            f"'{repo}' was not fetched: the hub's answer is no list of files. Check HF_ENDPOINT; try again later"
        ) from None


def download(repo: str, name: str, commit: str, size: int, target: Path) -> None:
    """Fetch one file of exactly `size` bytes into `target`.

    Raises:
        InputError: more or fewer bytes came, it took too long, or the hub refused.
    """
    with target.open("xb") as file:
        got = _fetch(repo, f"/{quote(repo)}/resolve/{quote(commit, safe='')}/{quote(name)}", size, file.write)
    if got != size:
        raise InputError(f"'{repo}': {name} ended after {got:,} of {size:,} bytes; fetch it again")


def _fetch(repo: str, path: str, limit: int, take: Callable[[bytes], Any]) -> int:
    """Give the bytes of one answer to `take` as they come; returns how many."""
    seconds = GRACE + limit / SLOWEST
    stop = threading.Event()

    def late() -> InputError:
        return InputError(
            f"'{repo}' was not fetched: it took longer than {seconds:.0f} s, the time for {limit:,} bytes. Try again later"
        )

    def stream() -> int:
        from huggingface_hub import constants
        from huggingface_hub.errors import OfflineModeIsEnabled

        if constants.HF_HUB_OFFLINE:
            raise OfflineModeIsEnabled(path)
        api, end, got = hub_client(), time.monotonic() + seconds, 0
        headers = {**api._build_hf_headers(), "Accept-Encoding": "identity"}
        with _opened(f"{api.endpoint}{path}", headers) as (response, parts):
            _check(repo, response, api.endpoint)
            for part in parts:
                got += len(part)
                if got > limit:
                    raise InputError(
                        f"'{repo}' was not fetched: more than the {limit:,} bytes that were expected came. Nothing was kept"
                    )
                if stop.is_set() or time.monotonic() > end:
                    raise late()
                take(part)
        return got

    return _within(seconds + STALL, stream, late, stop)


@contextlib.contextmanager
def _opened(url: str, headers: dict[str, str]) -> Iterator[tuple[Any, Iterable[bytes]]]:
    """An answer whose body is not read yet, and its bytes as they come, unpacked by nobody."""
    from huggingface_hub import get_session

    session: Any = get_session()
    if callable(getattr(session, "stream", None)):
        with session.stream("GET", url, headers=headers, timeout=STALL) as response:
            yield response, response.iter_raw(CHUNK)
    else:  # the library before 1.0 speaks through requests
        with session.get(url, headers=headers, timeout=STALL, stream=True) as response:
            yield response, response.iter_content(CHUNK)


def _check(repo: str, response: Any, endpoint: str) -> None:
    """Refuse an answer by its status and headers, before any of its body is read."""
    if response.status_code >= 300:
        cause = CAUSES.get(response.status_code, "The hub refused it; try again later")
        raise InputError(f"'{repo}' was not fetched: the hub answered {response.status_code}. {cause}")
    if not str(response.url).startswith("https:") and endpoint.startswith("https:"):
        raise InputError(f"'{repo}' was not fetched: the hub led to an address that is not https. Check HF_ENDPOINT")
    if response.headers.get("content-encoding", "identity") not in ("identity", ""):
        raise InputError(f"'{repo}' was not fetched: the answer is packed, which was not asked for. Check HF_ENDPOINT")


def _within(seconds: float, call: Callable[[], _T], late: Callable[[], Exception], stop: threading.Event) -> _T:
    """What `call` returns, in a thread of its own: an answer whose headers never end cannot hold this one."""
    found: list[_T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(call())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        thread.join(seconds)
    finally:
        stop.set()
    if failed:
        raise failed[0]
    if not found:
        raise late()
    return found[0]
