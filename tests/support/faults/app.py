"""An app with the feedback routes and without vLLM, which the fault tests disturb.

`POST /answers` stands for a chat: it records an answer the way serving does, outbox included, and
returns its id. The clock of the process is offset by the seconds in the file HOME/clock.
"""

import faulthandler
import signal
import sys
import time
from pathlib import Path

HOME = Path(sys.argv[1])
_REAL_TIME = time.time


def _offset_time() -> float:
    try:
        return _REAL_TIME() + float((HOME / "clock").read_text())
    except (OSError, ValueError):
        return _REAL_TIME()


time.time = _offset_time  # before the import of modules that keep a reference to it

import uvicorn  # noqa: E402
from fastapi import FastAPI, Response  # noqa: E402

from feedback.api.routes import feedback_router  # noqa: E402
from feedback.log.event_log import LogError  # noqa: E402
from feedback.log.records import completion_record  # noqa: E402
from feedback.opening import open_log  # noqa: E402
from feedback.privacy.identity import create_completion_id, load_or_create_secret  # noqa: E402
from feedback.view.feedback_view import View  # noqa: E402
from tests.support.feedback_api import with_caller  # noqa: E402
from tests.support.feedback_samples import completion  # noqa: E402

app = FastAPI()
faulthandler.register(signal.SIGUSR1)  # dumps the stack of every thread if a test hangs
secret = load_or_create_secret(HOME / "secret.json")
log = open_log(HOME, outbox="outbox")
app.include_router(feedback_router(log, View(HOME / "view.db"), secret))


@app.post("/answers")
def answer(response: Response) -> str:
    completion_id = create_completion_id(secret, "local", choices=2, policy_version=1)
    try:
        log.append(
            "completions", [completion_record(completion(completion_id, question=completion_id))]
        )
    except LogError:
        response.status_code = 503
    return completion_id


if __name__ == "__main__":
    uvicorn.run(
        with_caller(app, secret), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning"
    )
