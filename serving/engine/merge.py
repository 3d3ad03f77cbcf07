"""Merging the output streams of a request whose choices several policies answer."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput

    Outputs = AsyncGenerator[RequestOutput, None]
    Streams = Sequence[tuple[Outputs, tuple[int, ...]]]


async def merge_streams(streams: "Streams", *, whole: bool) -> "Outputs":
    """Merge the outputs of several engine requests into those of one.

    Only the last output is marked as finished. If one stream fails, or the consumer stops, all
    are closed, which makes vLLM abort them.

    Args:
        streams: The outputs of each request, with the numbers that its choices have in the
            merged request.
        whole: Whether each stream yields one output with all of its choices (vLLM's FINAL_ONLY);
            the merged stream then does so too. Otherwise outputs are passed on as they arrive.

    """
    unfinished = len(streams)
    complete: list[RequestOutput] = []
    async with aclosing(_interleave(streams)) as outputs:
        async for output, choices in outputs:
            unfinished -= output.finished
            output.finished = unfinished == 0
            for part in output.outputs:
                part.index = choices[part.index]
            if not whole:
                yield output
                continue
            complete.append(output)
            if output.finished:
                yield _combine_outputs(complete)


async def _interleave(
    streams: "Streams",
) -> "AsyncGenerator[tuple[RequestOutput, tuple[int, ...]], None]":
    """Yield outputs as they arrive, each with its stream's choices; close the streams at the end.

    The next output of a stream is requested before its last one is yielded.
    """
    pending = {asyncio.ensure_future(anext(s)): (s, choices) for s, choices in streams}
    try:
        while pending:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                stream, choices = pending.pop(task)
                try:
                    output = task.result()
                except StopAsyncIteration:
                    continue
                pending[asyncio.ensure_future(anext(stream))] = (stream, choices)
                yield output, choices
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for stream, _ in streams:
            await stream.aclose()


def _combine_outputs(outputs: "list[RequestOutput]") -> "RequestOutput":
    last = outputs[-1]
    parts = [part for output in outputs for part in output.outputs]
    last.outputs = sorted(parts, key=lambda part: part.index)
    return last
