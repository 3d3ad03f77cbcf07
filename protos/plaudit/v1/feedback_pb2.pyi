from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Source(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SOURCE_UNSPECIFIED: _ClassVar[Source]
    SOURCE_PAGE: _ClassVar[Source]
    SOURCE_API: _ClassVar[Source]
    SOURCE_ANNOTATOR: _ClassVar[Source]
    SOURCE_SIMULATED: _ClassVar[Source]
SOURCE_UNSPECIFIED: Source
SOURCE_PAGE: Source
SOURCE_API: Source
SOURCE_ANNOTATOR: Source
SOURCE_SIMULATED: Source

class Candidate(_message.Message):
    __slots__ = ("completion_id", "choice")
    COMPLETION_ID_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    completion_id: str
    choice: int
    def __init__(self, completion_id: _Optional[str] = ..., choice: _Optional[int] = ...) -> None: ...

class Rating(_message.Message):
    __slots__ = ("candidate", "value")
    class Value(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        VALUE_UNSPECIFIED: _ClassVar[Rating.Value]
        VALUE_UP: _ClassVar[Rating.Value]
        VALUE_DOWN: _ClassVar[Rating.Value]
    VALUE_UNSPECIFIED: Rating.Value
    VALUE_UP: Rating.Value
    VALUE_DOWN: Rating.Value
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    candidate: Candidate
    value: Rating.Value
    def __init__(self, candidate: _Optional[_Union[Candidate, _Mapping]] = ..., value: _Optional[_Union[Rating.Value, str]] = ...) -> None: ...

class Score(_message.Message):
    __slots__ = ("candidate", "score")
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    candidate: Candidate
    score: float
    def __init__(self, candidate: _Optional[_Union[Candidate, _Mapping]] = ..., score: _Optional[float] = ...) -> None: ...

class Comparison(_message.Message):
    __slots__ = ("left", "right", "verdict")
    class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        VERDICT_UNSPECIFIED: _ClassVar[Comparison.Verdict]
        VERDICT_LEFT: _ClassVar[Comparison.Verdict]
        VERDICT_RIGHT: _ClassVar[Comparison.Verdict]
        VERDICT_TIE: _ClassVar[Comparison.Verdict]
        VERDICT_BOTH_BAD: _ClassVar[Comparison.Verdict]
    VERDICT_UNSPECIFIED: Comparison.Verdict
    VERDICT_LEFT: Comparison.Verdict
    VERDICT_RIGHT: Comparison.Verdict
    VERDICT_TIE: Comparison.Verdict
    VERDICT_BOTH_BAD: Comparison.Verdict
    LEFT_FIELD_NUMBER: _ClassVar[int]
    RIGHT_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    left: Candidate
    right: Candidate
    verdict: Comparison.Verdict
    def __init__(self, left: _Optional[_Union[Candidate, _Mapping]] = ..., right: _Optional[_Union[Candidate, _Mapping]] = ..., verdict: _Optional[_Union[Comparison.Verdict, str]] = ...) -> None: ...

class RankingGroup(_message.Message):
    __slots__ = ("candidates",)
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    def __init__(self, candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ...) -> None: ...

class Ranking(_message.Message):
    __slots__ = ("groups",)
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    groups: _containers.RepeatedCompositeFieldContainer[RankingGroup]
    def __init__(self, groups: _Optional[_Iterable[_Union[RankingGroup, _Mapping]]] = ...) -> None: ...

class Demonstration(_message.Message):
    __slots__ = ("candidate", "text")
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    candidate: Candidate
    text: str
    def __init__(self, candidate: _Optional[_Union[Candidate, _Mapping]] = ..., text: _Optional[str] = ...) -> None: ...

class Comment(_message.Message):
    __slots__ = ("candidate", "text")
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    candidate: Candidate
    text: str
    def __init__(self, candidate: _Optional[_Union[Candidate, _Mapping]] = ..., text: _Optional[str] = ...) -> None: ...

class Retraction(_message.Message):
    __slots__ = ("event_id",)
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    def __init__(self, event_id: _Optional[str] = ...) -> None: ...

class Forgetting(_message.Message):
    __slots__ = ("subject", "until_ms", "ahead", "unnamed")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    UNTIL_MS_FIELD_NUMBER: _ClassVar[int]
    AHEAD_FIELD_NUMBER: _ClassVar[int]
    UNNAMED_FIELD_NUMBER: _ClassVar[int]
    subject: str
    until_ms: int
    ahead: _containers.RepeatedScalarFieldContainer[str]
    unnamed: bool
    def __init__(self, subject: _Optional[str] = ..., until_ms: _Optional[int] = ..., ahead: _Optional[_Iterable[str]] = ..., unnamed: _Optional[bool] = ...) -> None: ...

class DeadLetter(_message.Message):
    __slots__ = ("topic", "partition", "offset", "key", "type", "value", "reason")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    topic: str
    partition: int
    offset: int
    key: str
    type: str
    value: bytes
    reason: str
    def __init__(self, topic: _Optional[str] = ..., partition: _Optional[int] = ..., offset: _Optional[int] = ..., key: _Optional[str] = ..., type: _Optional[str] = ..., value: _Optional[bytes] = ..., reason: _Optional[str] = ...) -> None: ...

class FeedbackEvent(_message.Message):
    __slots__ = ("event_id", "completion_id", "owner", "subject", "created_ms", "source", "reason", "shown", "decision_ms", "body_digest", "target", "shown_candidates", "rating", "score", "comparison", "ranking", "demonstration", "comment", "retraction", "forgetting")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SHOWN_FIELD_NUMBER: _ClassVar[int]
    DECISION_MS_FIELD_NUMBER: _ClassVar[int]
    BODY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    SHOWN_CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    RATING_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    RANKING_FIELD_NUMBER: _ClassVar[int]
    DEMONSTRATION_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    RETRACTION_FIELD_NUMBER: _ClassVar[int]
    FORGETTING_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    completion_id: str
    owner: str
    subject: str
    created_ms: int
    source: Source
    reason: str
    shown: _containers.RepeatedScalarFieldContainer[int]
    decision_ms: int
    body_digest: bytes
    target: str
    shown_candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    rating: Rating
    score: Score
    comparison: Comparison
    ranking: Ranking
    demonstration: Demonstration
    comment: Comment
    retraction: Retraction
    forgetting: Forgetting
    def __init__(self, event_id: _Optional[str] = ..., completion_id: _Optional[str] = ..., owner: _Optional[str] = ..., subject: _Optional[str] = ..., created_ms: _Optional[int] = ..., source: _Optional[_Union[Source, str]] = ..., reason: _Optional[str] = ..., shown: _Optional[_Iterable[int]] = ..., decision_ms: _Optional[int] = ..., body_digest: _Optional[bytes] = ..., target: _Optional[str] = ..., shown_candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ..., rating: _Optional[_Union[Rating, _Mapping]] = ..., score: _Optional[_Union[Score, _Mapping]] = ..., comparison: _Optional[_Union[Comparison, _Mapping]] = ..., ranking: _Optional[_Union[Ranking, _Mapping]] = ..., demonstration: _Optional[_Union[Demonstration, _Mapping]] = ..., comment: _Optional[_Union[Comment, _Mapping]] = ..., retraction: _Optional[_Union[Retraction, _Mapping]] = ..., forgetting: _Optional[_Union[Forgetting, _Mapping]] = ...) -> None: ...
