"""The index of a store and its pages: written, linked, and served while trials run."""

from __future__ import annotations

import re
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from d90.errors import InputError
from d90.report.serve import serving
from d90.report.store import store_pages, write_store
from d90.trials.store import Store
from tests.reference.results import made_comparison

RESULTS = Path(__file__).parents[2] / "docs" / "results"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with a few measurements."""
    return Path(shutil.copy(RESULTS / "mrpc.sqlite", tmp_path / "d90.sqlite"))


@pytest.mark.parametrize("name", ["mrpc", "compare", "family", "lowdata"])
def test_every_study_is_in_the_index_and_links_lead_there_and_back(name: str, tmp_path: Path) -> None:
    store = Store(RESULTS / f"{name}.sqlite", write=False)
    written = write_store(store, tmp_path / "report.html")
    text = written.read_text()
    links = re.findall(r'<li><a href="([^"]+)">', text)
    kinds = ("advise", "measure", "compare", "trajectory", "family", "lowdata")
    assert len(links) == sum(len(store.studies(kind)) for kind in kinds) > 0
    store.close()
    for link in links:
        assert 'href="report.html"' in (tmp_path / link).read_text(), "the way back"
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", *links}
    assert "http:" not in text.replace("http://www.w3.org", "")


def test_the_newest_answer_and_its_line_stand_first(path: Path) -> None:
    store = Store(path)
    index = store_pages(store, "i.html")["i.html"]()
    newest = store.studies("measure")[-1]
    assert index.index('class="answer"') < index.index("<h2>")
    assert f"full fine-tuning {100 * newest['baseline']:.2f} %" in index or f"{newest['baseline']:.4f}" in index
    newest["line"] = "d90 train minilm data/mrpc --d 4600"
    store.put_study("again", "measure", newest)
    assert "<pre>d90 train minilm data/mrpc --d 4600</pre>" in store_pages(store, "i.html")["i.html"]()
    store.close()


def test_an_index_with_the_name_of_a_page_does_not_overwrite_it(path: Path) -> None:
    store = Store(path)
    write_store(store, path.with_suffix(".html"))
    assert 'href="d90.pages.html"' in path.with_suffix(".html").read_text()
    assert path.with_name("d90.pages.html").exists()
    store.close()


def test_an_empty_store_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing is in .*; run 'd90 measure' or 'd90 advise' first"):
        write_store(Store(tmp_path / "s.sqlite"), tmp_path / "r.html")


def test_a_store_of_certificates_alone_is_not_called_empty(tmp_path: Path) -> None:
    store = Store(RESULTS / "certify.sqlite", write=False)
    with pytest.raises(InputError, match="holds certificates alone, which have no page"):
        write_store(store, tmp_path / "r.html")
    store.close()


@pytest.fixture
def address(path: Path) -> Iterator[str]:
    with serving(path) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return str(answer.read().decode())


def test_what_is_served_follows_the_store(path: Path, address: str) -> None:
    index = get(f"{address}/")
    assert '<meta http-equiv="refresh"' in index
    assert "Comparisons" not in index
    assert 'href="index.html"' in get(f"{address}/d90.html")
    store = Store(path)
    store.put_study("c", "compare", made_comparison(full=[0.9], bitfit=[0.7]).to_dict())
    store.close()
    assert "Comparisons" in get(f"{address}/")
    assert "bitfit" in get(f"{address}/d90.compare.html")
    for place in ("nothing.html", "../d90.sqlite", "d90.sqlite", "%2e%2e/etc/passwd"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(f"{address}/{place}")


def test_a_port_that_is_taken_is_an_error(path: Path, address: str) -> None:
    with pytest.raises(InputError, match=r"cannot be used .*Choose another with --port"):
        serving(path, int(address.rpartition(":")[2]))
