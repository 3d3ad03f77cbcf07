"""`plaudit chat`: chat and vote in the terminal."""

import io
import sys
from typing import Annotated

import typer

from deploy.chat.keys import MAX_ANSWERS
from deploy.commands.options import LOCAL_URL, ApiKey, Url, console


def chat(
    url: Url = LOCAL_URL,
    answers: Annotated[
        int, typer.Option(min=1, max=MAX_ANSWERS, help="Number of answers to each message.")
    ] = 2,
    user: Annotated[
        str | None,
        typer.Option(help="Name of the person who chats; the server stores only an HMAC of it."),
    ] = None,
    api_key: ApiKey = "none",
) -> None:
    """Chat in the terminal, and vote for the better answer by key."""
    from deploy.chat.client import Client
    from deploy.chat.conversation import Conversation
    from deploy.chat.terminal import Terminal

    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    client = Client(url, api_key, user)
    try:
        Conversation(client, Terminal(console), answers).run()
    finally:
        client.close()
