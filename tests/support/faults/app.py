"""The feedback routes in an app of their own, without vLLM: what the faults are done to.

`POST /answers` stands for a chat: it records an answer the way serving does, outbox included, and
gives its id. The process' clock is off by the seconds in the file HOME/clock.
"""

import faulthandler
import signal
import sys
import time
from pathlib import Path

HOME = Path(sys.argv[1])
_TRUE_TIME = time.time


def _time() -> float:
    try:
        return _TRUE_TIME() + float((HOME / "clock").read_text())
    except (OSError, ValueError):
        return _TRUE_TIME()


time.time = _time  # before whatever keeps a reference to it is imported

import uvicorn  # noqa: E402
from fastapi import FastAPI, Response  # noqa: E402

from feedback.api.routes import feedback_router  # noqa: E402
from feedback.log.event_log import LogError  # noqa: E402
from feedback.log.opening import open_log  # noqa: E402
from feedback.log.records import completion_record  # noqa: E402
from feedback.privacy.identity import create_completion_id, load_or_create_secret  # noqa: E402
from feedback.view.feedback_view import View  # noqa: E402
from tests.support.feedback_api import with_caller  # noqa: E402
from tests.support.feedback_samples import completion  # noqa: E402

app = FastAPI()
faulthandler.register(signal.SIGUSR1)  # every thread's stack, where a test hangs
secret = load_or_create_secret(HOME / "secret.json")
log = open_log(HOME, outbox="outbox")
app.include_router(feedback_router(log, View(HOME / "view.db"), secret))


@app.post("/answers")
def answer(response: Response) -> str:
    made = create_completion_id(secret, "local", choices=2, policy_version=1)
    try:
        log.append("completions", [completion_record(completion(made, question=made))])
    except LogError:
        response.status_code = 503
    return made


if __name__ == "__main__":
    uvicorn.run(
        with_caller(app, secret), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning"
    )
