"""A server of many tunes over one base: requests that arrive together run as one batch, each under its own tune.

    pip install "d90[serve]"
    python examples/serve.py tunes --port 8000
    curl localhost:8000/predict -H 'content-type: application/json' -d '{"tune": "anna", "text": "a fine film"}'

`tunes` holds NAME.d90 and NAME.json of classifiers or regressions over one base, trained with one seed. A request without a tune
gets the base; POST /refresh looks at the folder again. This is a picture of how a bank is used, not a server for the open internet.
"""

from __future__ import annotations

import argparse
import queue
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import Body, FastAPI, HTTPException

import d90
from d90.errors import InputError
from d90.training.base import open_base
from d90.training.batches import Batches, outputs_of
from d90.training.record import read_record

MOST = 32  # rows of one batch


def make_app(folder: Path) -> FastAPI:
    record = read_record(min(folder.glob("*.d90")))  # the first tells the base, the labels and the kind of task
    model, kind = open_base(record), record.kind
    model.module.eval()
    bank, waiting = d90.Bank(model.module, folder), queue.Queue[tuple[str | None, str, Future[Any]]]()
    app = FastAPI()

    def answer(rows: list[tuple[str | None, str, Future[Any]]]) -> None:
        texts = [(text,) for _, text, _ in rows]
        inputs = Batches(model, kind.examples(texts), kind).inputs(torch.arange(len(rows)))
        with bank.batch([tune for tune, _, _ in rows]), torch.inference_mode():
            outputs = outputs_of(model.module, inputs, kind)
        for (_, _, future), output, text in zip(rows, outputs, texts, strict=True):
            future.set_result(kind.describe(output, text))

    def work() -> None:
        while True:
            rows = [waiting.get()]
            while len(rows) < MOST and not waiting.empty():
                rows.append(waiting.get())
            for some in (rows, *([row] for row in rows)):  # where one row is at fault, the others are answered alone
                try:
                    if not some[0][2].done():
                        answer(some)
                except Exception as error:
                    if len(some) == 1:
                        some[0][2].set_exception(error)

    @app.post("/predict")
    def predict(text: str = Body(), tune: str | None = Body(None)) -> Any:
        future: Future[Any] = Future()
        waiting.put((tune, text, future))
        try:
            return future.result()
        except InputError as error:
            raise HTTPException(422, str(error)) from None

    @app.post("/refresh")
    def refresh() -> list[str]:
        return bank.refresh()

    threading.Thread(target=work, daemon=True).start()
    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("tunes", type=Path)
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    uvicorn.run(make_app(given.tunes), host="127.0.0.1", port=given.port)
