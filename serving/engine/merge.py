"""One stream of outputs out of several: a request whose choices several policies answer."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput

    Outputs = AsyncGenerator[RequestOutput, None]


async def merged(streams: "Sequence[tuple[Outputs, tuple[int, ...]]]", *, whole: bool) -> "Outputs":
    """Merge the outputs of several engine requests into those of one.

    Only the last output is marked as finished. If one stream fails, or the consumer stops, all
    are closed, which makes vLLM abort them.

    Args:
        streams: The outputs of each request, and which choices of the one its own are.
        whole: Each stream gives one output with all of its choices (vLLM's FINAL_ONLY), and so
            does the merged one; else outputs pass as they come.

    """
    coming = {asyncio.ensure_future(anext(s)): (s, choices) for s, choices in streams}
    unfinished = len(streams)
    kept: list[RequestOutput] = []
    try:
        while coming:
            done, _ = await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                stream, choices = coming.pop(task)
                try:
                    output = task.result()
                except StopAsyncIteration:
                    continue
                unfinished -= output.finished
                coming[asyncio.ensure_future(anext(stream))] = (stream, choices)
                for part in output.outputs:
                    part.index = choices[part.index]
                output.finished = unfinished == 0
                kept.append(output)
                if not whole:
                    yield kept.pop()
                elif output.finished:
                    yield _combine_outputs(kept)
    finally:
        for task in coming:
            task.cancel()
        await asyncio.gather(*coming, return_exceptions=True)
        for stream, _ in streams:
            await stream.aclose()


def _combine_outputs(outputs: "list[RequestOutput]") -> "RequestOutput":
    last = outputs[-1]
    parts = [part for output in outputs for part in output.outputs]
    last.outputs = sorted(parts, key=lambda part: part.index)
    return last
