from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Encoding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RAW: _ClassVar[Encoding]
RAW: Encoding

class Tensor(_message.Message):
    __slots__ = ("name", "dtype", "shape", "offset")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    offset: int
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., offset: _Optional[int] = ...) -> None: ...

class Part(_message.Message):
    __slots__ = ("offset", "size", "publisher", "checksum")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    PUBLISHER_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    offset: int
    size: int
    publisher: str
    checksum: int
    def __init__(self, offset: _Optional[int] = ..., size: _Optional[int] = ..., publisher: _Optional[str] = ..., checksum: _Optional[int] = ...) -> None: ...

class Manifest(_message.Message):
    __slots__ = ("policy", "attempt", "version", "tensors", "parts", "size", "encoding")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    policy: str
    attempt: int
    version: int
    tensors: _containers.RepeatedCompositeFieldContainer[Tensor]
    parts: _containers.RepeatedCompositeFieldContainer[Part]
    size: int
    encoding: Encoding
    def __init__(self, policy: _Optional[str] = ..., attempt: _Optional[int] = ..., version: _Optional[int] = ..., tensors: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., parts: _Optional[_Iterable[_Union[Part, _Mapping]]] = ..., size: _Optional[int] = ..., encoding: _Optional[_Union[Encoding, str]] = ...) -> None: ...

class Piece(_message.Message):
    __slots__ = ("manifest", "offset", "data")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    manifest: Manifest
    offset: int
    data: bytes
    def __init__(self, manifest: _Optional[_Union[Manifest, _Mapping]] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Whole(_message.Message):
    __slots__ = ("manifest", "payload")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    manifest: Manifest
    payload: bytes
    def __init__(self, manifest: _Optional[_Union[Manifest, _Mapping]] = ..., payload: _Optional[bytes] = ...) -> None: ...

class PublishReply(_message.Message):
    __slots__ = ("already",)
    ALREADY_FIELD_NUMBER: _ClassVar[int]
    already: bool
    def __init__(self, already: _Optional[bool] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("policy", "version", "have_version", "encodings")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HAVE_VERSION_FIELD_NUMBER: _ClassVar[int]
    ENCODINGS_FIELD_NUMBER: _ClassVar[int]
    policy: str
    version: int
    have_version: int
    encodings: _containers.RepeatedScalarFieldContainer[Encoding]
    def __init__(self, policy: _Optional[str] = ..., version: _Optional[int] = ..., have_version: _Optional[int] = ..., encodings: _Optional[_Iterable[_Union[Encoding, str]]] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("policies", "carry")
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    CARRY_FIELD_NUMBER: _ClassVar[int]
    policies: _containers.RepeatedScalarFieldContainer[str]
    carry: int
    def __init__(self, policies: _Optional[_Iterable[str]] = ..., carry: _Optional[int] = ...) -> None: ...

class Notice(_message.Message):
    __slots__ = ("policy", "attempt", "version", "whole")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    policy: str
    attempt: int
    version: int
    whole: Whole
    def __init__(self, policy: _Optional[str] = ..., attempt: _Optional[int] = ..., version: _Optional[int] = ..., whole: _Optional[_Union[Whole, _Mapping]] = ...) -> None: ...

class Notices(_message.Message):
    __slots__ = ("newest",)
    NEWEST_FIELD_NUMBER: _ClassVar[int]
    newest: _containers.RepeatedCompositeFieldContainer[Notice]
    def __init__(self, newest: _Optional[_Iterable[_Union[Notice, _Mapping]]] = ...) -> None: ...

class PinRequest(_message.Message):
    __slots__ = ("policy", "version")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    policy: str
    version: int
    def __init__(self, policy: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class PinReply(_message.Message):
    __slots__ = ("attempt",)
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    def __init__(self, attempt: _Optional[int] = ...) -> None: ...
