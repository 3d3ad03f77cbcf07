from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CheckpointKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CHECKPOINT_KIND_UNSPECIFIED: _ClassVar[CheckpointKind]
    CHECKPOINT_KIND_FULL: _ClassVar[CheckpointKind]
    CHECKPOINT_KIND_LORA: _ClassVar[CheckpointKind]
CHECKPOINT_KIND_UNSPECIFIED: CheckpointKind
CHECKPOINT_KIND_FULL: CheckpointKind
CHECKPOINT_KIND_LORA: CheckpointKind

class FileDigest(_message.Message):
    __slots__ = ("path", "sha256", "size")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    path: str
    sha256: str
    size: int
    def __init__(self, path: _Optional[str] = ..., sha256: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class LedgerRange(_message.Message):
    __slots__ = ("from_seq", "to_seq", "events", "forgettings")
    FROM_SEQ_FIELD_NUMBER: _ClassVar[int]
    TO_SEQ_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    FORGETTINGS_FIELD_NUMBER: _ClassVar[int]
    from_seq: int
    to_seq: int
    events: int
    forgettings: int
    def __init__(self, from_seq: _Optional[int] = ..., to_seq: _Optional[int] = ..., events: _Optional[int] = ..., forgettings: _Optional[int] = ...) -> None: ...

class Manifest(_message.Message):
    __slots__ = ("version", "parent", "base", "kind", "files", "learned_from", "gate", "created_ms", "adapter_base", "keyed_split", "signature")
    class GateEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    LEARNED_FROM_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_BASE_FIELD_NUMBER: _ClassVar[int]
    KEYED_SPLIT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    version: int
    parent: int
    base: str
    kind: CheckpointKind
    files: _containers.RepeatedCompositeFieldContainer[FileDigest]
    learned_from: LedgerRange
    gate: _containers.ScalarMap[str, float]
    created_ms: int
    adapter_base: int
    keyed_split: bool
    signature: bytes
    def __init__(self, version: _Optional[int] = ..., parent: _Optional[int] = ..., base: _Optional[str] = ..., kind: _Optional[_Union[CheckpointKind, str]] = ..., files: _Optional[_Iterable[_Union[FileDigest, _Mapping]]] = ..., learned_from: _Optional[_Union[LedgerRange, _Mapping]] = ..., gate: _Optional[_Mapping[str, float]] = ..., created_ms: _Optional[int] = ..., adapter_base: _Optional[int] = ..., keyed_split: _Optional[bool] = ..., signature: _Optional[bytes] = ...) -> None: ...
