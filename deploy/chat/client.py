"""The requests of a chat: streamed answers, votes and the live version."""

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import httpx
import openai
from openai.types.chat import ChatCompletionMessageParam

from deploy.chat.votes import RequestError, Vote
from deploy.errors import DeployError

MODEL: Final = "plaudit"
_SECONDS: Final = 120.0
_CONNECT_SECONDS: Final = 5.0
_FINGERPRINT: Final = "policy-v"


@dataclass
class Answers:
    """The answers to one message, complete or still streaming.

    Attributes:
        texts: Text of each choice so far.
        completion_id: Id that votes refer to; empty before the first chunk.
        version: Version that answers; 0 if it is unknown.

    """

    texts: list[str]
    completion_id: str = ""
    version: int = 0

    def shown(self) -> list[int]:
        """Return the indices of the choices that have begun."""
        return [choice for choice, text in enumerate(self.texts) if text]


class Client:
    """A client of one Plaudit server."""

    def __init__(self, url: str, api_key: str, user: str | None) -> None:
        """Connect lazily: no request is sent yet.

        Args:
            url: URL of the server, without /v1.
            api_key: API key of the requests.
            user: Name of the person who chats, or None.

        Raises:
            DeployError: The URL is malformed.

        """
        self._url = url.rstrip("/")
        self._user = user
        headers = {"Authorization": f"Bearer {api_key}"}
        try:
            self._http = httpx.Client(
                base_url=self._url,
                headers=headers,
                timeout=httpx.Timeout(_SECONDS, connect=_CONNECT_SECONDS),
            )
        except httpx.InvalidURL as error:
            raise DeployError(
                f"'{url}' is not a URL ({error}): give one such as http://127.0.0.1:8000"
            ) from error
        self._openai = openai.OpenAI(
            base_url=f"{self._url}/v1",
            api_key=api_key,
            timeout=openai.Timeout(_SECONDS, connect=_CONNECT_SECONDS),
            max_retries=0,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
        self._openai.close()

    def live_version(self) -> int | None:
        """Return the version that serves, or None if the server does not say."""
        try:
            response = self._http.get("/readyz", timeout=_CONNECT_SECONDS)
            return int(response.json()["policy_version"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return None

    def stream(
        self, messages: list[ChatCompletionMessageParam], answers: Answers
    ) -> Generator[Answers]:
        """Request as many answers as `answers` has texts; yield it whenever it has grown.

        Raises:
            RequestError: The server does not answer, or refuses the request.

        """
        with (
            self._explained_errors(),
            self._openai.chat.completions.create(
                model=MODEL,
                messages=messages,
                n=len(answers.texts),
                stream=True,
                user=openai.omit if self._user is None else self._user,
            ) as chunks,
        ):
            for chunk in chunks:
                answers.completion_id = chunk.id
                answers.version = _version(chunk.system_fingerprint) or answers.version
                for choice in chunk.choices:
                    answers.texts[choice.index] += choice.delta.content or ""
                yield answers

    def send(self, vote: Vote) -> None:
        """Send a vote.

        Raises:
            RequestError: The server does not answer, or refuses the vote.

        """
        person = {} if self._user is None else {"user": self._user}
        with self._explained_errors():
            response = self._http.post(
                "/v1/feedback", json=vote.body | person, headers={"Idempotency-Key": vote.key}
            )
        if not response.is_success:
            raise _refusal(response.status_code, response.headers, response.text)

    @contextmanager
    def _explained_errors(self) -> Iterator[None]:
        try:
            yield
        except openai.APIStatusError as error:
            raise _refusal(
                error.status_code, error.response.headers, error.response.text
            ) from error
        except (openai.APITimeoutError, httpx.TimeoutException) as error:
            message = f"{self._url} did not answer in time: 'plaudit status' shows its state"
            raise RequestError(message, temporary=True) from error
        except (openai.APIConnectionError, httpx.ConnectError, httpx.UnsupportedProtocol) as error:
            message = (
                f"no answer from {self._url}: start it with 'plaudit up', or give its address "
                "with --url"
            )
            raise RequestError(message, temporary=True) from error
        except (openai.APIError, httpx.HTTPError) as error:
            message = f"the connection to {self._url} broke off ({error}): try again"
            raise RequestError(message, temporary=True) from error


def _version(fingerprint: str | None) -> int:
    number = (fingerprint or "").removeprefix(_FINGERPRINT)
    return int(number) if number.isdecimal() else 0


def _refusal(status: int, headers: Mapping[str, str], body: str) -> RequestError:
    """Return the error of a response, in one sentence that says what to do."""
    seconds = headers.get("Retry-After")
    if status == 401:
        message = "the server requires a valid API key: give one with --api-key or PLAUDIT_API_KEY"
    elif status == 429 and seconds is None:
        message = "the API key has used its completions of today: try again tomorrow (UTC)"
    elif status == 429:
        message = f"the API key has reached its requests per minute: try again in {seconds} s"
    elif status == 503:
        wait = "soon" if seconds is None else f"in {seconds} s"
        message = (
            f"the server is not ready: try again {wait}, or see 'plaudit status' for the reason"
        )
    else:
        message = f"the server refused the request ({status}): {_reason(body)}"
    return RequestError(message, temporary=status == 429 or status >= 500)


def _reason(body: str) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return "check the address that --url gives"
