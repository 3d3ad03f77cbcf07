from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Lessons(_message.Message):
    __slots__ = ("partition", "next", "missing")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    partition: int
    next: int
    missing: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, partition: _Optional[int] = ..., next: _Optional[int] = ..., missing: _Optional[_Iterable[int]] = ...) -> None: ...

class Published(_message.Message):
    __slots__ = ("version", "parent", "leader", "trial", "lessons", "votes")
    class VotesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    LESSONS_FIELD_NUMBER: _ClassVar[int]
    VOTES_FIELD_NUMBER: _ClassVar[int]
    version: int
    parent: int
    leader: str
    trial: bool
    lessons: _containers.RepeatedCompositeFieldContainer[Lessons]
    votes: _containers.ScalarMap[str, int]
    def __init__(self, version: _Optional[int] = ..., parent: _Optional[int] = ..., leader: _Optional[str] = ..., trial: _Optional[bool] = ..., lessons: _Optional[_Iterable[_Union[Lessons, _Mapping]]] = ..., votes: _Optional[_Mapping[str, int]] = ...) -> None: ...

class Leads(_message.Message):
    __slots__ = ("learner",)
    LEARNER_FIELD_NUMBER: _ClassVar[int]
    learner: str
    def __init__(self, learner: _Optional[str] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("parent", "reasons", "gate")
    class GateEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    PARENT_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    parent: int
    reasons: _containers.RepeatedScalarFieldContainer[str]
    gate: _containers.ScalarMap[str, float]
    def __init__(self, parent: _Optional[int] = ..., reasons: _Optional[_Iterable[str]] = ..., gate: _Optional[_Mapping[str, float]] = ...) -> None: ...

class Activated(_message.Message):
    __slots__ = ("version", "by", "reason")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    version: int
    by: str
    reason: str
    def __init__(self, version: _Optional[int] = ..., by: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Hold(_message.Message):
    __slots__ = ("held", "by", "reason")
    HELD_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    held: bool
    by: str
    reason: str
    def __init__(self, held: _Optional[bool] = ..., by: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Swapped(_message.Message):
    __slots__ = ("replica", "version", "previous", "pause_seconds")
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    PAUSE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    replica: str
    version: int
    previous: int
    pause_seconds: float
    def __init__(self, replica: _Optional[str] = ..., version: _Optional[int] = ..., previous: _Optional[int] = ..., pause_seconds: _Optional[float] = ...) -> None: ...

class SwapFailed(_message.Message):
    __slots__ = ("replica", "version", "serving", "reason")
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    replica: str
    version: int
    serving: int
    reason: str
    def __init__(self, replica: _Optional[str] = ..., version: _Optional[int] = ..., serving: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class DuelEnded(_message.Message):
    __slots__ = ("version", "against", "promoted", "wins", "losses", "ties", "reason", "leader")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    AGAINST_FIELD_NUMBER: _ClassVar[int]
    PROMOTED_FIELD_NUMBER: _ClassVar[int]
    WINS_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    TIES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    version: int
    against: int
    promoted: bool
    wins: int
    losses: int
    ties: int
    reason: str
    leader: str
    def __init__(self, version: _Optional[int] = ..., against: _Optional[int] = ..., promoted: _Optional[bool] = ..., wins: _Optional[int] = ..., losses: _Optional[int] = ..., ties: _Optional[int] = ..., reason: _Optional[str] = ..., leader: _Optional[str] = ...) -> None: ...

class Stage(_message.Message):
    __slots__ = ("stage", "cycle", "iteration", "iterations", "leader", "votes_needed", "reason")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    CYCLE_FIELD_NUMBER: _ClassVar[int]
    ITERATION_FIELD_NUMBER: _ClassVar[int]
    ITERATIONS_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    VOTES_NEEDED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    stage: str
    cycle: int
    iteration: int
    iterations: int
    leader: str
    votes_needed: int
    reason: str
    def __init__(self, stage: _Optional[str] = ..., cycle: _Optional[int] = ..., iteration: _Optional[int] = ..., iterations: _Optional[int] = ..., leader: _Optional[str] = ..., votes_needed: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class KeyMade(_message.Message):
    __slots__ = ("id", "name", "role", "digest", "rate", "quota", "by", "expires_ms", "owner", "replaces", "grace_ms", "trusted_users", "token_quota", "byte_quota")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    QUOTA_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_MS_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    REPLACES_FIELD_NUMBER: _ClassVar[int]
    GRACE_MS_FIELD_NUMBER: _ClassVar[int]
    TRUSTED_USERS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_QUOTA_FIELD_NUMBER: _ClassVar[int]
    BYTE_QUOTA_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    role: str
    digest: bytes
    rate: float
    quota: int
    by: str
    expires_ms: int
    owner: str
    replaces: str
    grace_ms: int
    trusted_users: bool
    token_quota: int
    byte_quota: int
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., role: _Optional[str] = ..., digest: _Optional[bytes] = ..., rate: _Optional[float] = ..., quota: _Optional[int] = ..., by: _Optional[str] = ..., expires_ms: _Optional[int] = ..., owner: _Optional[str] = ..., replaces: _Optional[str] = ..., grace_ms: _Optional[int] = ..., trusted_users: _Optional[bool] = ..., token_quota: _Optional[int] = ..., byte_quota: _Optional[int] = ...) -> None: ...

class KeyRevoked(_message.Message):
    __slots__ = ("id", "name", "by")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    by: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., by: _Optional[str] = ...) -> None: ...

class PolicyEvent(_message.Message):
    __slots__ = ("event_id", "created_ms", "published", "refused", "activated", "hold", "swapped", "swap_failed", "leads", "duel_ended", "stage", "key_made", "key_revoked", "signature")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    ACTIVATED_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    SWAPPED_FIELD_NUMBER: _ClassVar[int]
    SWAP_FAILED_FIELD_NUMBER: _ClassVar[int]
    LEADS_FIELD_NUMBER: _ClassVar[int]
    DUEL_ENDED_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    KEY_MADE_FIELD_NUMBER: _ClassVar[int]
    KEY_REVOKED_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    created_ms: int
    published: Published
    refused: Refused
    activated: Activated
    hold: Hold
    swapped: Swapped
    swap_failed: SwapFailed
    leads: Leads
    duel_ended: DuelEnded
    stage: Stage
    key_made: KeyMade
    key_revoked: KeyRevoked
    signature: bytes
    def __init__(self, event_id: _Optional[str] = ..., created_ms: _Optional[int] = ..., published: _Optional[_Union[Published, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ..., activated: _Optional[_Union[Activated, _Mapping]] = ..., hold: _Optional[_Union[Hold, _Mapping]] = ..., swapped: _Optional[_Union[Swapped, _Mapping]] = ..., swap_failed: _Optional[_Union[SwapFailed, _Mapping]] = ..., leads: _Optional[_Union[Leads, _Mapping]] = ..., duel_ended: _Optional[_Union[DuelEnded, _Mapping]] = ..., stage: _Optional[_Union[Stage, _Mapping]] = ..., key_made: _Optional[_Union[KeyMade, _Mapping]] = ..., key_revoked: _Optional[_Union[KeyRevoked, _Mapping]] = ..., signature: _Optional[bytes] = ...) -> None: ...
