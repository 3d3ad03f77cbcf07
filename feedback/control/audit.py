"""The audit trail: one line for each policy event that changed something."""

from dataclasses import dataclass
from functools import singledispatch

from feedback.control.policies import PolicyState
from protos.plaudit.v1.policy_pb2 import (
    Activated,
    DuelEnded,
    Hold,
    KeyMade,
    KeyRevoked,
    PolicyEvent,
    Published,
    Refused,
    SwapFailed,
)

LEARNER = "learner"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One entry of the audit trail.

    Attributes:
        created_ms: Time in milliseconds since the epoch.
        by: Name of the API key, of the account on the machine or of the replica, or "learner".
        action: Kind of action, for example "rolled_back".
        version: Version that it concerns; 0 for none.
        text: Description in one line.

    """

    created_ms: int
    by: str
    action: str
    version: int
    text: str


@dataclass(frozen=True, slots=True)
class _Change:
    before: PolicyState
    after: PolicyState


@dataclass(frozen=True, slots=True)
class _AuditText:
    by: str
    action: str
    version: int
    text: str


def audit_entry(event: PolicyEvent, before: PolicyState, after: PolicyState) -> AuditEntry | None:
    """Return the audit entry of an event; None if it changed nothing or is not an action.

    Args:
        event: Policy event.
        before: State before the event.
        after: State after the event.

    """
    kind = event.WhichOneof("kind")
    entry = None if kind is None else _audit_text(getattr(event, kind), _Change(before, after))
    if entry is None:
        return None
    return AuditEntry(event.created_ms, entry.by, entry.action, entry.version, entry.text)


def _with_reason(text: str, reason: str) -> str:
    return f"{text}: {reason}" if reason else text


@singledispatch
def _audit_text(_message: object, _change: _Change) -> _AuditText | None:
    """Return None for Swapped, Leads and Stage, which are not actions."""
    return None


@_audit_text.register
def _(message: Activated, change: _Change) -> _AuditText | None:
    if change.before == change.after:
        return None
    if message.version < change.before.live:
        action = "rolled_back"
        text = (
            f"rolled back from version {change.before.live} to {message.version}; "
            "publishing is on hold"
        )
    else:
        action = "activated"
        text = f"made version {message.version} live"
        if change.before.challenger:
            text += f"; the trial of version {change.before.challenger} ended"
    return _AuditText(message.by, action, message.version, _with_reason(text, message.reason))


@_audit_text.register
def _(message: Hold, change: _Change) -> _AuditText | None:
    if message.held == change.before.held:
        return None
    if message.held:
        text = _with_reason("put publishing on hold", message.reason)
        return _AuditText(message.by, "held", change.before.live, text)
    text = "resumed publishing"
    if change.after.live != change.before.live:
        text += f"; version {change.after.live} went live"
    return _AuditText(message.by, "resumed", change.after.live, _with_reason(text, message.reason))


@_audit_text.register
def _(message: Published, change: _Change) -> _AuditText | None:
    if change.before.published == change.after.published:
        return None
    text = f"published version {message.version}"
    if message.parent:
        text += f", trained from version {message.parent}"
    if change.after.challenger == message.version:
        text += "; it is on trial"
    elif change.after.live != message.version:
        text += "; it waits for an operator"
    return _AuditText(LEARNER if message.parent else "setup", "published", message.version, text)


@_audit_text.register
def _(message: Refused, _: _Change) -> _AuditText:
    text = f"refused a candidate policy trained from version {message.parent}"
    return _AuditText(LEARNER, "refused", 0, _with_reason(text, "; ".join(message.reasons)))


@_audit_text.register
def _(message: DuelEnded, change: _Change) -> _AuditText | None:
    if change.before == change.after:
        return None
    action, outcome = ("promoted", "is live")
    if not message.promoted:
        action, outcome = ("rolled_back", "is rolled back")
    votes = f"{message.wins} votes for it, {message.losses} against, {message.ties} for neither"
    text = f"ended the trial of version {message.version}, which {outcome} ({votes})"
    return _AuditText(LEARNER, action, message.version, _with_reason(text, message.reason))


@_audit_text.register
def _(message: SwapFailed, _: _Change) -> _AuditText:
    text = f"could not load version {message.version}, still serves {message.serving}"
    text = _with_reason(text, message.reason)
    return _AuditText(message.replica, "failed", message.version, text)


@_audit_text.register
def _(message: KeyMade, _: _Change) -> _AuditText:
    action, did = ("key_rotated", "rotated") if message.replaces else ("key_made", "created")
    return _AuditText(message.by, action, 0, f"{did} the key '{message.name}' ({message.role})")


@_audit_text.register
def _(message: KeyRevoked, _: _Change) -> _AuditText:
    return _AuditText(message.by, "key_revoked", 0, f"revoked the key '{message.name}'")
