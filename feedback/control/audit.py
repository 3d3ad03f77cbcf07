"""Who did what to the policies and keys: one line for each policy event that changed something."""

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
    """One thing done.

    Attributes:
        by: Name of the key or of the account on the machine; "learner"; a replica's name.
        action: For example rolled_back.
        version: That it is about; 0 for none.
        text: What was done, in a line.

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
    """Return what an event has done; None for one that changed nothing, or is about no deed.

    Args:
        before: The state before the event ...
        after: ... and after it.

    """
    kind = event.WhichOneof("kind")
    told = _audit_text(getattr(event, kind), _Change(before, after)) if kind is not None else None
    if told is None:
        return None
    return AuditEntry(event.created_ms, told.by, told.action, told.version, told.text)


def _with_reason(text: str, reason: str) -> str:
    return f"{text}: {reason}" if reason else text


@singledispatch
def _audit_text(_message: object, _change: _Change) -> _AuditText | None:
    """Swapped, Leads and Stage: they happen by themselves."""
    return None


@_audit_text.register
def _(message: Activated, change: _Change) -> _AuditText | None:
    if change.before == change.after:
        return None
    if message.version < change.before.live:
        text = (
            f"went back from version {change.before.live} to {message.version}; publishing is held"
        )
        return _AuditText(
            message.by, "rolled_back", message.version, _with_reason(text, message.reason)
        )
    text = f"made version {message.version} live"
    if change.before.challenger:
        text += f"; the trial of version {change.before.challenger} ends"
    return _AuditText(message.by, "activated", message.version, _with_reason(text, message.reason))


@_audit_text.register
def _(message: Hold, change: _Change) -> _AuditText | None:
    if message.held == change.before.held:
        return None
    if message.held:
        text = _with_reason("holds publishing: nothing new goes live", message.reason)
        return _AuditText(message.by, "held", change.before.live, text)
    text = "lets new versions go live again"
    if change.after.live != change.before.live:
        text += f"; version {change.after.live} goes live"
    return _AuditText(message.by, "resumed", change.after.live, _with_reason(text, message.reason))


@_audit_text.register
def _(message: Published, change: _Change) -> _AuditText | None:
    if change.before.published == change.after.published:
        return None
    text = f"published version {message.version}"
    if message.parent:
        text += f", made from version {message.parent}"
    if change.after.challenger == message.version:
        text += "; it is on trial"
    elif change.after.live != message.version:
        text += "; it waits for an operator"
    return _AuditText(LEARNER if message.parent else "setup", "published", message.version, text)


@_audit_text.register
def _(message: Refused, _: _Change) -> _AuditText:
    text = f"kept a candidate made from version {message.parent} back"
    return _AuditText(LEARNER, "refused", 0, _with_reason(text, "; ".join(message.reasons)))


@_audit_text.register
def _(message: DuelEnded, change: _Change) -> _AuditText | None:
    if change.before == change.after:
        return None
    action, verb = ("promoted", "live") if message.promoted else ("rolled_back", "rolled back")
    votes = f"{message.wins} votes for it, {message.losses} against, {message.ties} for neither"
    text = f"the trial of version {message.version} ends, it is {verb} ({votes})"
    return _AuditText(LEARNER, action, message.version, _with_reason(text, message.reason))


@_audit_text.register
def _(message: SwapFailed, _: _Change) -> _AuditText:
    text = f"could not load version {message.version}, serves {message.serving} still"
    return _AuditText(
        message.replica, "failed", message.version, _with_reason(text, message.reason)
    )


@_audit_text.register
def _(message: KeyMade, _: _Change) -> _AuditText:
    return _AuditText(message.by, "key_made", 0, f"made the key '{message.name}' ({message.role})")


@_audit_text.register
def _(message: KeyRevoked, _: _Change) -> _AuditText:
    return _AuditText(message.by, "key_revoked", 0, f"revoked the key '{message.name}'")
