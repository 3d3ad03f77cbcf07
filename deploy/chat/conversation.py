"""A conversation in the terminal: messages, answers and votes, until the person ends it."""

import time
from typing import Any

from openai.types.chat import ChatCompletionMessageParam

from deploy.chat.client import Answers, Client
from deploy.chat.keys import LABELS, menu, parse_key, parse_label
from deploy.chat.terminal import Terminal
from deploy.chat.votes import RequestError, Vote, VoteQueue, feedback_of


class Conversation:
    """One conversation with a server."""

    def __init__(self, client: Client, terminal: Terminal, answers: int) -> None:
        """Start an empty conversation, in which every message gets `answers` answers."""
        self._client = client
        self._terminal = terminal
        self._answers = answers
        self._messages: list[ChatCompletionMessageParam] = []
        self._unanswered = ""
        self._version: int | None = None
        self._votes = VoteQueue(client.send)

    def run(self) -> None:
        """Talk until Ctrl-C or Ctrl-D at a prompt, or the key that quits."""
        try:
            self._version = self._client.live_version()
            live = "" if self._version is None else f"Version {self._version} is live. "
            self._terminal.echo(f"{live}Ctrl-C stops an answer, Ctrl-D ends the chat.")
            while self._turn():
                pass
        except (EOFError, KeyboardInterrupt):
            self._terminal.echo("")
        self._end()

    def _turn(self) -> bool:
        """Ask for a message, answer it and take a vote; return whether to continue."""
        message = self._terminal.line("You: ").strip() or self._unanswered
        if not message:
            return True
        asked: ChatCompletionMessageParam = {"role": "user", "content": message}
        self._report_new_version()
        answers = Answers([""] * self._answers, version=self._version or 0)
        try:
            self._terminal.show(answers, self._client.stream([*self._messages, asked], answers))
        except RequestError as error:
            self._unanswered = message
            self._terminal.problem(error)
            self._terminal.echo("Press Enter to send your message again.")
            return True
        self._unanswered = ""
        if not answers.shown():
            self._terminal.echo("There is no answer.")
            return True
        text = self._decide(answers)
        if text is None:
            return False
        self._messages += [asked, {"role": "assistant", "content": text}]
        return True

    def _report_new_version(self) -> None:
        version = self._client.live_version()
        if None not in (version, self._version) and version != self._version:
            self._terminal.echo(f"Version {version} is live now, after version {self._version}.")
        self._version = self._version if version is None else version

    def _decide(self, answers: Answers) -> str | None:
        """Take a vote; return the answer that the conversation continues with, None to quit."""
        shown = answers.shown()
        started = time.monotonic()
        while True:
            action = parse_key(self._terminal.key(f"[{menu(shown)}] "), shown)
            if action is None:
                self._terminal.echo("This key has no meaning here.")
                continue
            if action.kind == "quit":
                return None
            text = answers.texts[action.choice]
            if action.kind == "skip":
                return text
            if action.kind != "correct":
                self._vote(answers, feedback_of(action, shown), started)
                return text
            correction = self._correction(shown)
            if correction is not None:
                self._vote(answers, correction, started)
                return str(correction["text"])

    def _correction(self, shown: list[int]) -> dict[str, Any] | None:
        """Ask for a better text; return it as feedback, or None if there is none."""
        choice: int | None = shown[0]
        if len(shown) > 1:
            labels = "/".join(LABELS[each].lower() for each in shown)
            choice = parse_label(self._terminal.key(f"Which answer? [{labels}] "), shown)
        if choice is None:
            return None
        text = self._terminal.line("Better: ").strip()
        return {"kind": "demonstration", "choice": choice, "text": text} if text else None

    def _vote(self, answers: Answers, feedback: dict[str, Any], started: float) -> None:
        body = {
            "completion_id": answers.completion_id,
            "shown": answers.shown(),
            "decision_ms": int(1000 * (time.monotonic() - started)),
            "feedback": feedback,
        }
        self._votes.add(Vote(body))
        try:
            self._votes.flush()
        except RequestError as error:
            self._terminal.problem(error)
            if self._votes:
                self._terminal.echo("Your vote is kept, and sent with the next one.")
            return
        version = answers.version
        subject = f"Version {version} answered; your vote" if version else "Your vote"
        self._terminal.echo(f"Thank you. {subject} counts for the next.")

    def _end(self) -> None:
        """Send the votes that are kept, and say goodbye."""
        try:
            self._votes.flush()
        except RequestError as error:
            self._terminal.problem(error)
            if self._votes:
                self._terminal.echo(f"Votes that could not be sent: {len(self._votes)}.")
        self._terminal.echo("Goodbye.")
