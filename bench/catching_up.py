"""Measure how fast the ledger ingests events from Kafka, compared with a bare consumer.

    uv run python -m bench.catching_up [--events 100000] [--rounds 3]

The topics hold one completion for every ten votes. Ledger and consumer take turns, each from the
start; the consumer reads only the votes, with kafka-python's defaults. The ledger's memory is
printed as well: it should not grow with the number of events.
"""

import argparse
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

from kafka import KafkaConsumer, TopicPartition

from bench.servers import free_port, machine
from deploy.local.broker import Broker
from feedback.api.schema import FeedbackRequest
from feedback.api.translate import event_from_request
from feedback.ledger.store import Ledger
from feedback.log.kafka_log import KafkaLog
from feedback.log.kafka_settings import KafkaSettings
from feedback.log.records import completion_record, feedback_record
from feedback.privacy.identity import Secret, create_completion_id, event_id
from protos.plaudit.v1.completion_pb2 import Choice, CompletionRecord, Message, VersionSpan
from protos.plaudit.v1.feedback_pb2 import FeedbackEvent

SECRET = Secret("00000001", {"00000001": b"k" * 32}, b"i" * 32)
VOTES_PER_COMPLETION = 10
_BATCH = 500


def completion(rng: random.Random) -> CompletionRecord:
    tokens = [rng.randrange(4096) for _ in range(40)]
    choices = [
        Choice(
            index=i,
            text="an answer of some length, as people get them " * 3,
            token_ids=tokens,
            log_probs=[-1.5] * len(tokens),
            versions=[VersionSpan(policy_version=1, start=0, end=len(tokens))],
            finish_reason="stop",
        )
        for i in range(2)
    ]
    messages = [Message(role="user", content=f"What is {rng.random()}?")]
    return CompletionRecord(
        completion_id=create_completion_id(SECRET, "local", 2, 1),
        owner="local",
        messages=messages,
        choices=choices,
    )


def vote(completion_id: str, number: int) -> FeedbackEvent:
    comparison = {"kind": "comparison", "left": 0, "right": 1, "verdict": "left"}
    request = FeedbackRequest.model_validate(
        {"completion_id": completion_id, "feedback": comparison}
    )
    return event_from_request(
        request,
        event_id=event_id(SECRET, "local", None),
        owner="local",
        subject=f"subject-{number % VOTES_PER_COMPLETION}",
        created_ms=1,
        repeatable=False,
    )


def fill(log: KafkaLog, events: int) -> None:
    rng = random.Random(0)
    records = [completion(rng) for _ in range(events // VOTES_PER_COMPLETION)]
    for start in range(0, len(records), _BATCH):
        log.append("completions", [completion_record(r) for r in records[start : start + _BATCH]])
    for start in range(0, events, _BATCH):
        numbers = range(start, min(events, start + _BATCH))
        votes = [vote(records[n // VOTES_PER_COMPLETION].completion_id, n) for n in numbers]
        log.append("feedback", [feedback_record(v) for v in votes])


def bare_consumer(address: str, topic: str, events: int) -> float:
    consumer = KafkaConsumer(
        bootstrap_servers=address, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    consumer.assign([TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic)])
    seen, start = 0, time.perf_counter()
    while seen < events:
        seen += sum(map(len, consumer.poll(timeout_ms=1000).values()))
    seconds = time.perf_counter() - start
    consumer.close()
    return events / seconds


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def ledger(log: KafkaLog, events: int) -> tuple[float, list[float]]:
    """Return events per second, and the memory in MB after every 20 batches."""
    with tempfile.TemporaryDirectory() as folder:
        store = Ledger(Path(folder) / "ledger.db")
        memory, seen, start = [], 0, time.perf_counter()
        while store.follow(log):
            seen += 1
            if seen % 20 == 0:
                memory.append(resident_mb())
        seconds = time.perf_counter() - start
        counts = store.counts()
        assert (counts.events, counts.waiting, counts.dead_letters) == (events, 0, 0), counts
        store.close()
    return events / seconds, memory


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(Path(folder), free_port(), free_port())
        broker.start(print)
        log = KafkaLog(KafkaSettings(servers=broker.address))
        try:
            fill(log, options.events)
            rates: dict[str, list[float]] = {"bare consumer": [], "ledger": []}
            for _ in range(options.rounds):
                rates["bare consumer"].append(
                    bare_consumer(broker.address, "plaudit.feedback", options.events)
                )
                rate, memory = ledger(log, options.events)
                rates["ledger"].append(rate)
            for name, found in rates.items():
                print(f"{name:14} {statistics.median(found):8.0f} events/s (min {min(found):.0f})")
            quarters = [memory[len(memory) * q // 4] for q in range(4)] + [memory[-1]]
            print("memory of the last run, MB:", ", ".join(f"{mb:.0f}" for mb in quarters))
        finally:
            log.close()
            broker.stop()


if __name__ == "__main__":
    main()
