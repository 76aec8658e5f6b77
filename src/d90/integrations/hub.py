"""A tune on the Hugging Face hub: `push` sends it with its recipe and a card, `pull` brings it back.

Three files travel, under these names: task.d90 (safetensors), task.json (the recipe), README.md (the card). What is read
back are the first two; their sizes are checked before anything is fetched and while it comes (`d90.integrations.download`),
and both are checked as any tune is before they are put in place.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from d90.errors import InputError
from d90.files import write_bytes
from d90.integrations.download import CAUSES, download, file_sizes, hub_client
from d90.integrations.model_card import card, local_name
from d90.subspace import file as tune_file
from d90.subspace.fingerprint import Base
from d90.subspace.relabel import with_recipe
from d90.training.recipe import recipe_key
from d90.training.record import TuneRecord, read_record, sealed

__all__ = ["CARD", "LIMITS", "RECIPE", "TUNE", "pull", "push"]

TUNE, RECIPE, CARD = "task.d90", "task.json", "README.md"
LIMITS = {TUNE: 4 << 30, RECIPE: 1 << 20}  # bytes that are read back at most


def push(path: str | os.PathLike[str], repo: str, private: bool = False) -> str:
    """Send a tune, its recipe and a card to `repo`, which is made if it does not exist.

    Example:
        >>> shelf = d90.push(tune, "./shelf/german")
        >>> import os
        >>> "README.md" in os.listdir("shelf/german")
        True

    Args:
        path: a tune with its recipe beside it, as `Run.save` writes them.
        repo: "owner/name" on the hub, or a local folder ("./shelf/french", an absolute path) that gets the same files.
        private: whether a new repository is private.

    Returns:
        Where it lies now.

    Raises:
        InputError: an unsound tune or recipe, a name the hub cannot have, no token, no network, or what the hub refused.
    """
    source = Path(path)
    record = _without_paths(read_record(source))
    about = tune_file.about(source)
    files = {
        TUNE: with_recipe(source.read_bytes(), record.digest),
        RECIPE: (json.dumps(record.stored, indent=1) + "\n").encode(),
        CARD: card(record, about, repo).encode(),
    }
    if _is_folder(repo):
        folder = Path(repo).expanduser()
        _refuse_taken(folder, "another folder to push to")
        folder.mkdir(parents=True, exist_ok=True)
        for name in (CARD, RECIPE, TUNE):
            write_bytes(folder / name, files[name])
        return str(folder)
    _check_name(repo)
    from huggingface_hub import CommitOperationAdd, get_token

    if get_token() is None:
        raise InputError(
            f"no token for the hub, expected one that may write to '{repo}'. Run 'hf auth login', or set HF_TOKEN; or push to a "
            "local folder, as in ./shelf"
        )
    with _one_line(repo, "sent"):
        api = hub_client()
        url = api.create_repo(repo, private=private or None, exist_ok=True)
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        api.create_commit(repo, operations, commit_message=f"d90 tune: {record.recipe.method}")
    return str(url)


def _without_paths(record: TuneRecord) -> TuneRecord:
    """The record with the machine's paths cut to their last part, under the hash of what it says now."""
    recipe, notes = record.recipe, list(record.task.notes)
    shown = {"model": local_name(recipe.model), "task": local_name(recipe.task)}
    for path, name in ((recipe.model, shown["model"]), (recipe.task, shown["task"])):
        if path != name:
            notes = [note.replace(path, name) for note in notes]
    body = {key: value for key, value in record.stored.items() if key not in ("recipe_hash", "before")}
    body |= {"recipe": {**body["recipe"], **shown}, "task": {**body["task"], "notes": notes}}
    if isinstance(record.base, Base):
        return TuneRecord.from_dict(sealed(body))
    return TuneRecord.from_dict(
        {**body, "recipe_hash": recipe_key(body["recipe"], record.task.fingerprint, record.base)[:16]}
    )


def pull(repo: str, out: str | os.PathLike[str], revision: str | None = None) -> Path:
    """Fetch a tune and its recipe into the folder `out`.

    Example:
        >>> shelf = d90.push(tune, "./shelf/french")
        >>> path = d90.pull("./shelf/french", "here")
        >>> path.exists()
        True

    Args:
        repo: "owner/name" on the hub, or a local folder that `push` wrote.
        out: made if it does not exist; nothing is left in it when something is wrong.
        revision: a branch, tag or commit of the hub's; the newest by default.

    Returns:
        The tune's path, for `d90.training.loading.open_tune`.

    Raises:
        InputError: no such repository or no tune in it, files larger than `LIMITS`, an unsound tune or recipe, no network, or
            a tune in `out` already.
    """
    folder = Path(out)
    _refuse_taken(folder, "another --out")
    parent = folder.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".d90-pull-", dir=parent) as held:
        if _is_folder(repo):
            _copy(Path(repo).expanduser(), Path(held))
        else:
            _check_name(repo)
            _download(repo, Path(held), revision)
        try:
            read_record(Path(held) / TUNE)
        except RecursionError:
            raise InputError(f"'{repo}': {RECIPE} is not the recipe of a tune; expected what 'd90 push' sent") from None
        folder.mkdir(exist_ok=True)
        for name in LIMITS:
            (Path(held) / name).replace(folder / name)
    return folder / TUNE


def _is_folder(repo: str) -> bool:
    return repo.startswith((".", "~")) or os.path.isabs(repo)


def _check_name(repo: str) -> None:
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repo, re.ASCII):
        raise InputError(
            f"got '{repo}', expected OWNER/NAME on the hub, or a local folder that begins with ./ or / as in ./shelf"
        )


def _refuse_taken(folder: Path, other: str) -> None:
    taken = next((name for name in LIMITS if (folder / name).exists()), None)
    if taken is not None:
        raise InputError(f"'{folder / taken}' is there already, expected none: nothing is overwritten. Choose {other}")


def _check_size(where: str, name: str, size: int | None) -> None:
    if not isinstance(size, int) or not 0 <= size <= LIMITS[name]:
        got = f"{size:,} bytes" if isinstance(size, int) else "no size"
        raise InputError(
            f"'{where}': {name} has {got}, expected at most {LIMITS[name]:,} bytes. Likely cause: no tune of d90's; nothing "
            "was fetched"
        )


def _missing(where: str, name: str) -> InputError:
    return InputError(f"'{where}' holds no {name}, expected {' and '.join(LIMITS)} as 'd90 push' sends them")


def _copy(source: Path, held: Path) -> None:
    for name in LIMITS:
        if not (source / name).is_file():
            raise _missing(str(source), name)
        _check_size(str(source), name, (source / name).stat().st_size)
        shutil.copyfile(source / name, held / name)


def _download(repo: str, held: Path, revision: str | None) -> None:
    with _one_line(repo, "fetched"):
        commit, sizes = file_sizes(repo, revision)
        for name in LIMITS:
            if name not in sizes:
                raise _missing(repo, name)
            _check_size(repo, name, sizes[name])
        for name in LIMITS:
            download(repo, name, commit, int(sizes[name] or 0), held / name)


@contextmanager
def _one_line(repo: str, done: str) -> Iterator[None]:
    """Turn what the hub's client raises into an error of ours."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    transport: Any = HfHubHTTPError.__bases__[0]  # of the HTTP library that this version of the client uses
    try:
        yield
    except InputError:
        raise
    except OfflineModeIsEnabled:
        raise InputError(
            f"'{repo}' was not {done}: the hub's client is offline (HF_HUB_OFFLINE). Unset it, or use a local folder, as in ./shelf"
        ) from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        cause = CAUSES.get(status, "The hub refused it; try again later")
        raise InputError(f"'{repo}' was not {done}: the hub answered {status}. {cause}") from None
    except (transport, OSError, ValueError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            f"'{repo}' was not {done}: {first[:200]}. Check the network and HF_ENDPOINT, or use a local folder, as in ./shelf"
        ) from None
