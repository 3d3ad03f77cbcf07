"""The policy state, for example which version is live: a fold over the events of topic `policies`.

The live version only increases, unless an operator activates a lower one: the versions above it
are then rolled back (never live again by themselves, never a parent), and publishing is on hold
until an operator resumes it.

A version may be published for trial: it is then the challenger and takes part in a share of the
requests until a DuelEnded makes it live or rolls it back. Rolling back a challenger does not put
publishing on hold, since it was never live.
"""

import math
import secrets
import time
from dataclasses import dataclass, field, replace
from functools import singledispatch
from typing import Final

from google.protobuf.message import DecodeError, Message

from feedback.log.event_log import EventLog, NewRecord
from protos.plaudit.v1.policy_pb2 import (
    Activated,
    DuelEnded,
    Hold,
    KeyMade,
    KeyRevoked,
    Leads,
    PolicyEvent,
    Published,
    Refused,
    Stage,
    SwapFailed,
    Swapped,
)

PolicyMessage = (
    Published
    | Refused
    | Activated
    | Hold
    | Swapped
    | SwapFailed
    | Leads
    | DuelEnded
    | Stage
    | KeyMade
    | KeyRevoked
)
# One partition key for all, so that a log with partitions keeps these events in order.
_PARTITION_KEY: Final = "policies"
_FIELDS: Final[dict[type[Message], str]] = {
    Published: "published",
    Refused: "refused",
    Activated: "activated",
    Hold: "hold",
    Swapped: "swapped",
    SwapFailed: "swap_failed",
    Leads: "leads",
    DuelEnded: "duel_ended",
    Stage: "stage",
    KeyMade: "key_made",
    KeyRevoked: "key_revoked",
}


@dataclass(frozen=True, slots=True)
class PolicyState:
    """The policy state as of some policy event.

    Attributes:
        published: Published versions, ascending.
        live: Version that replicas should serve; 0 for none.
        previous: Target of a rollback: the highest version below `live` that has been live and
            was not rolled back; 0 for none.
        rolled_back: Versions rolled back by an operator or after a lost trial.
        held: Whether publishing is on hold, so that new versions wait for an operator.
        replicas: Version served by each running replica, according to its last Swapped.
        served: Versions that have been live, ascending.
        leader: Event id of the last Leads; events of earlier leaders have no effect.
        challenger: Version on trial against the live one; 0 for none.
        trials: Versions published for trial.
        trial_failure: Why a replica could not load the challenger; empty if all could.

    """

    published: tuple[int, ...] = ()
    live: int = 0
    previous: int = 0
    rolled_back: frozenset[int] = frozenset()
    held: bool = False
    replicas: dict[str, int] = field(default_factory=dict)
    served: tuple[int, ...] = ()
    leader: str = ""
    challenger: int = 0
    trials: frozenset[int] = frozenset()
    trial_failure: str = ""


def next_parent(state: PolicyState) -> int:
    """Return the version that the next cycle starts from: the live one; 0 for none."""
    return state.live


def fold(state: PolicyState, event: PolicyEvent) -> PolicyState:
    """Return the state after one more event; events of unknown kinds change nothing."""
    kind = event.WhichOneof("kind")
    if kind is None:
        return state
    if kind == "leads":
        return replace(state, leader=event.event_id)
    return _apply(getattr(event, kind), state)


@singledispatch
def _apply(_: object, state: PolicyState) -> PolicyState:
    """Ignore Refused, Stage and key events, which `feedback.control.history` handles."""
    return state


@_apply.register
def _(message: Published, state: PolicyState) -> PolicyState:
    if state.published and message.version <= state.published[-1]:
        return state  # a repeated event, or from a learner that was too slow
    if message.leader and message.leader != state.leader:
        return state  # from a learner that has lost the lease without noticing
    state = replace(state, published=(*state.published, message.version))
    if message.trial:
        state = replace(state, trials=state.trials | {message.version})
    return state if state.held else _release(state, message.version)


@_apply.register
def _(message: Activated, state: PolicyState) -> PolicyState:
    version = message.version
    if version not in state.published:
        return state
    if version < state.live:
        undone = (v for v in state.published if version < v <= state.live)
        state = replace(state, rolled_back=state.rolled_back.union(undone), held=True)
    return _go_live(state, version)


@_apply.register
def _(message: Hold, state: PolicyState) -> PolicyState:
    state = replace(state, held=message.held)
    waiting = [v for v in state.published if v > state.live and v not in state.rolled_back]
    waiting = [v for v in waiting if v != state.challenger]
    return state if state.held or not waiting else _release(state, waiting[-1])


@_apply.register
def _(message: Swapped, state: PolicyState) -> PolicyState:
    now = {**state.replicas, message.replica: message.version}
    return replace(state, replicas={name: version for name, version in now.items() if version})


@_apply.register
def _(message: SwapFailed, state: PolicyState) -> PolicyState:
    if not state.challenger or message.version != state.challenger or state.trial_failure:
        return state
    return replace(state, trial_failure=f"{message.replica}: {message.reason}")


@_apply.register
def _(message: DuelEnded, state: PolicyState) -> PolicyState:
    if not state.challenger or message.version != state.challenger:
        return state  # an operator was faster, or a repeated event
    if message.leader and message.leader != state.leader:
        return state
    if not message.promoted:
        return _roll_back_challenger(state)
    return state if state.held else _go_live(state, message.version)


def _release(state: PolicyState, version: int) -> PolicyState:
    """Put `version` on trial if it was published for trial, else make it live."""
    if version not in state.trials or not state.live:
        return _go_live(state, version)
    if state.challenger:
        return state  # one trial at a time: the newer version waits for an operator
    return replace(state, challenger=version, trial_failure="")


def _roll_back_challenger(state: PolicyState) -> PolicyState:
    """Roll back the challenger, if there is one."""
    lost = {state.challenger} - {0}
    return replace(state, challenger=0, trial_failure="", rolled_back=state.rolled_back | lost)


def _go_live(state: PolicyState, version: int) -> PolicyState:
    """Make `version` live; roll back another version on trial."""
    state = _roll_back_challenger(state)
    state = replace(state, rolled_back=state.rolled_back - {version})
    served = tuple(sorted({*state.served, version}))
    below = (v for v in served if v < version and v not in state.rolled_back)
    return replace(state, live=version, served=served, previous=max(below, default=0))


class PolicyFollower:
    """Follows topic `policies` from its start. For one thread.

    Attributes:
        state: State after the events ingested so far.
        read_at: Time of the last complete read, on the monotonic clock.

    """

    def __init__(self, log: EventLog) -> None:
        """Follow `log`; nothing is read before the first `poll`."""
        self._log = log
        self._positions: dict[int, int] = {}
        self._seen: set[str] = set()
        self.state = PolicyState()
        self.read_at = -math.inf

    def poll(self) -> PolicyState:
        """Ingest new events and return the state after them.

        Repeated events and records that cannot be decoded are skipped.

        Raises:
            LogUnavailable: The log did not return its records; `state` may have advanced.

        """
        began = time.monotonic()
        while records := self._log.read("policies", self._positions):
            for record in records:
                self._ingest(record.value)
                self._positions[record.partition] = record.offset + 1
        self.read_at = began
        return self.state

    def _ingest(self, value: bytes) -> None:
        try:
            event = PolicyEvent.FromString(value)
        except DecodeError:
            return
        if event.event_id not in self._seen:
            self._seen.add(event.event_id)
            self._fold(event)

    def _fold(self, event: PolicyEvent) -> None:
        self.state = fold(self.state, event)


def current_state(log: EventLog) -> PolicyState:
    """Return the state after every policy event in the log.

    Raises:
        LogUnavailable: The log did not return its records.

    """
    return PolicyFollower(log).poll()


def append_policy_event(log: EventLog, message: PolicyMessage) -> PolicyEvent:
    """Append a policy event with a new id and the current time; return once it is durable.

    Raises:
        LogUnavailable: The event may or may not be in the log.

    """
    event = PolicyEvent(event_id=f"pe-{secrets.token_hex(12)}", created_ms=int(time.time() * 1000))
    kind = getattr(event, _FIELDS[type(message)])
    kind.SetInParent()  # sets the kind even for an empty message such as Hold(held=False)
    kind.CopyFrom(message)
    record = NewRecord(
        event.event_id, PolicyEvent.DESCRIPTOR.full_name, event.SerializeToString(), _PARTITION_KEY
    )
    log.append("policies", [record])
    return event
