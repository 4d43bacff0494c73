from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Any(_message.Message):
    __slots__ = ["type_url", "value"]
    TYPE_URL_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    type_url: str
    value: bytes
    def __init__(self, type_url: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...

class ComparePagesResponse(_message.Message):
    __slots__ = ["address", "comparison", "copied_by", "count", "other_start_time_ticks", "other_state", "page_size_bytes", "start_time_ticks", "state", "stretch_address", "stretch_page_count", "totals"]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    COPIED_BY_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    OTHER_START_TIME_TICKS_FIELD_NUMBER: _ClassVar[int]
    OTHER_STATE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    START_TIME_TICKS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STRETCH_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    STRETCH_PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    address: int
    comparison: bytes
    copied_by: bytes
    count: int
    other_start_time_ticks: int
    other_state: bytes
    page_size_bytes: int
    start_time_ticks: int
    state: bytes
    stretch_address: bytes
    stretch_page_count: bytes
    totals: _containers.RepeatedCompositeFieldContainer[ComparedPages]
    def __init__(self, page_size_bytes: _Optional[int] = ..., address: _Optional[int] = ..., count: _Optional[int] = ..., start_time_ticks: _Optional[int] = ..., other_start_time_ticks: _Optional[int] = ..., totals: _Optional[_Iterable[_Union[ComparedPages, _Mapping]]] = ..., stretch_address: _Optional[bytes] = ..., stretch_page_count: _Optional[bytes] = ..., comparison: _Optional[bytes] = ..., state: _Optional[bytes] = ..., other_state: _Optional[bytes] = ..., copied_by: _Optional[bytes] = ...) -> None: ...

class ComparedPages(_message.Message):
    __slots__ = ["comparison", "copied_by", "other_state", "page_count", "state"]
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    COPIED_BY_FIELD_NUMBER: _ClassVar[int]
    OTHER_STATE_FIELD_NUMBER: _ClassVar[int]
    PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    comparison: int
    copied_by: int
    other_state: int
    page_count: int
    state: int
    def __init__(self, comparison: _Optional[int] = ..., state: _Optional[int] = ..., other_state: _Optional[int] = ..., copied_by: _Optional[int] = ..., page_count: _Optional[int] = ...) -> None: ...

class DisclosureMasks(_message.Message):
    __slots__ = ["private_flags_mask", "shared_flags_mask"]
    PRIVATE_FLAGS_MASK_FIELD_NUMBER: _ClassVar[int]
    SHARED_FLAGS_MASK_FIELD_NUMBER: _ClassVar[int]
    private_flags_mask: int
    shared_flags_mask: int
    def __init__(self, private_flags_mask: _Optional[int] = ..., shared_flags_mask: _Optional[int] = ...) -> None: ...

class Duration(_message.Message):
    __slots__ = ["nanos", "seconds"]
    NANOS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    nanos: int
    seconds: int
    def __init__(self, seconds: _Optional[int] = ..., nanos: _Optional[int] = ...) -> None: ...

class ErrorInfo(_message.Message):
    __slots__ = ["domain", "reason"]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    domain: str
    reason: str
    def __init__(self, reason: _Optional[str] = ..., domain: _Optional[str] = ...) -> None: ...

class GetPageFlagsResponse(_message.Message):
    __slots__ = ["address", "attributes", "kpageflags", "masks", "page_size_bytes", "start_time_ticks", "state"]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    KPAGEFLAGS_FIELD_NUMBER: _ClassVar[int]
    MASKS_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    START_TIME_TICKS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    address: int
    attributes: bytes
    kpageflags: bytes
    masks: DisclosureMasks
    page_size_bytes: int
    start_time_ticks: int
    state: bytes
    def __init__(self, page_size_bytes: _Optional[int] = ..., address: _Optional[int] = ..., start_time_ticks: _Optional[int] = ..., masks: _Optional[_Union[DisclosureMasks, _Mapping]] = ..., kpageflags: _Optional[bytes] = ..., state: _Optional[bytes] = ..., attributes: _Optional[bytes] = ...) -> None: ...

class HealthCheckRequest(_message.Message):
    __slots__ = ["service"]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    service: str
    def __init__(self, service: _Optional[str] = ...) -> None: ...

class HealthCheckResponse(_message.Message):
    __slots__ = ["status"]
    class ServingStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = []
    SERVING_STATUS_NOT_SERVING: HealthCheckResponse.ServingStatus
    SERVING_STATUS_SERVING: HealthCheckResponse.ServingStatus
    SERVING_STATUS_UNSPECIFIED: HealthCheckResponse.ServingStatus
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: HealthCheckResponse.ServingStatus
    def __init__(self, status: _Optional[_Union[HealthCheckResponse.ServingStatus, str]] = ...) -> None: ...

class RetryInfo(_message.Message):
    __slots__ = ["retry_delay"]
    RETRY_DELAY_FIELD_NUMBER: _ClassVar[int]
    retry_delay: Duration
    def __init__(self, retry_delay: _Optional[_Union[Duration, _Mapping]] = ...) -> None: ...

class Status(_message.Message):
    __slots__ = ["code", "details", "message"]
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: int
    details: _containers.RepeatedCompositeFieldContainer[Any]
    message: str
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., details: _Optional[_Iterable[_Union[Any, _Mapping]]] = ...) -> None: ...

class StreamPageFlagsResponse(_message.Message):
    __slots__ = ["address", "attributes", "count", "kpageflags", "masks", "page_size_bytes", "start_time_ticks", "state", "stretch_address", "stretch_page_count"]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    KPAGEFLAGS_FIELD_NUMBER: _ClassVar[int]
    MASKS_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    START_TIME_TICKS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STRETCH_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    STRETCH_PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    address: int
    attributes: bytes
    count: int
    kpageflags: bytes
    masks: DisclosureMasks
    page_size_bytes: int
    start_time_ticks: int
    state: bytes
    stretch_address: bytes
    stretch_page_count: bytes
    def __init__(self, page_size_bytes: _Optional[int] = ..., address: _Optional[int] = ..., count: _Optional[int] = ..., start_time_ticks: _Optional[int] = ..., masks: _Optional[_Union[DisclosureMasks, _Mapping]] = ..., stretch_address: _Optional[bytes] = ..., stretch_page_count: _Optional[bytes] = ..., kpageflags: _Optional[bytes] = ..., state: _Optional[bytes] = ..., attributes: _Optional[bytes] = ...) -> None: ...
