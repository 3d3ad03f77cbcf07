from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Published(_message.Message):
    __slots__ = ("version", "parent", "leader", "trial")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    version: int
    parent: int
    leader: str
    trial: bool
    def __init__(self, version: _Optional[int] = ..., parent: _Optional[int] = ..., leader: _Optional[str] = ..., trial: _Optional[bool] = ...) -> None: ...

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
    __slots__ = ("version", "by")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    version: int
    by: str
    def __init__(self, version: _Optional[int] = ..., by: _Optional[str] = ...) -> None: ...

class Hold(_message.Message):
    __slots__ = ("held", "by")
    HELD_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    held: bool
    by: str
    def __init__(self, held: _Optional[bool] = ..., by: _Optional[str] = ...) -> None: ...

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

class PolicyEvent(_message.Message):
    __slots__ = ("event_id", "created_ms", "published", "refused", "activated", "hold", "swapped", "swap_failed", "leads", "duel_ended")
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
    def __init__(self, event_id: _Optional[str] = ..., created_ms: _Optional[int] = ..., published: _Optional[_Union[Published, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ..., activated: _Optional[_Union[Activated, _Mapping]] = ..., hold: _Optional[_Union[Hold, _Mapping]] = ..., swapped: _Optional[_Union[Swapped, _Mapping]] = ..., swap_failed: _Optional[_Union[SwapFailed, _Mapping]] = ..., leads: _Optional[_Union[Leads, _Mapping]] = ..., duel_ended: _Optional[_Union[DuelEnded, _Mapping]] = ...) -> None: ...
