from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor
GRANT_DETAIL_NONE: GrantDetail
GRANT_DETAIL_PAGES: GrantDetail
GRANT_DETAIL_SUMMARY: GrantDetail
GRANT_DETAIL_UNSPECIFIED: GrantDetail
MAPPING_KIND_ANONYMOUS: MappingKind
MAPPING_KIND_PRIVATE_FILE: MappingKind
MAPPING_KIND_SHARED_FILE: MappingKind
MAPPING_KIND_SPECIAL: MappingKind
MAPPING_KIND_UNSPECIFIED: MappingKind
PAGE_ATTRIBUTE_EXCLUSIVE: PageAttribute
PAGE_ATTRIBUTE_LAZYFREE: PageAttribute
PAGE_ATTRIBUTE_SOFT_DIRTY: PageAttribute
PAGE_ATTRIBUTE_UFFD_WP: PageAttribute
PAGE_ATTRIBUTE_UNSPECIFIED: PageAttribute
PAGE_ATTRIBUTE_UNSTABLE: PageAttribute
PAGE_COMPARISON_DIFFERENT: PageComparison
PAGE_COMPARISON_NEITHER: PageComparison
PAGE_COMPARISON_ONLY_FIRST: PageComparison
PAGE_COMPARISON_ONLY_SECOND: PageComparison
PAGE_COMPARISON_SAME: PageComparison
PAGE_COMPARISON_UNKNOWN: PageComparison
PAGE_COMPARISON_UNSPECIFIED: PageComparison
PAGE_COPIER_BOTH: PageCopier
PAGE_COPIER_FIRST: PageCopier
PAGE_COPIER_SECOND: PageCopier
PAGE_COPIER_UNSPECIFIED: PageCopier
PAGE_STATE_ABSENT: PageState
PAGE_STATE_ANON: PageState
PAGE_STATE_ANON_SWAPPED: PageState
PAGE_STATE_FILE: PageState
PAGE_STATE_GUARD: PageState
PAGE_STATE_UNKNOWN: PageState
PAGE_STATE_UNSPECIFIED: PageState
PAGE_STATE_ZERO: PageState

class CallCount(_message.Message):
    __slots__ = ["code", "count", "method"]
    CODE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    code: int
    count: int
    method: str
    def __init__(self, method: _Optional[str] = ..., code: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class CallDurations(_message.Message):
    __slots__ = ["bucket_count", "method", "total_seconds"]
    BUCKET_COUNT_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    bucket_count: _containers.RepeatedScalarFieldContainer[int]
    method: str
    total_seconds: float
    def __init__(self, method: _Optional[str] = ..., bucket_count: _Optional[_Iterable[int]] = ..., total_seconds: _Optional[float] = ...) -> None: ...

class CallerCredential(_message.Message):
    __slots__ = ["gid", "groups", "uid"]
    GID_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    gid: int
    groups: _containers.RepeatedScalarFieldContainer[int]
    uid: int
    def __init__(self, uid: _Optional[int] = ..., gid: _Optional[int] = ..., groups: _Optional[_Iterable[int]] = ...) -> None: ...

class ComparePagesRequest(_message.Message):
    __slots__ = ["expected_start_time_ticks", "other_expected_start_time_ticks", "other_pid", "pid", "ranges", "totals_only", "without_copiers"]
    EXPECTED_START_TIME_TICKS_FIELD_NUMBER: _ClassVar[int]
    OTHER_EXPECTED_START_TIME_TICKS_FIELD_NUMBER: _ClassVar[int]
    OTHER_PID_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    RANGES_FIELD_NUMBER: _ClassVar[int]
    TOTALS_ONLY_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_COPIERS_FIELD_NUMBER: _ClassVar[int]
    expected_start_time_ticks: int
    other_expected_start_time_ticks: int
    other_pid: int
    pid: int
    ranges: _containers.RepeatedCompositeFieldContainer[PageRange]
    totals_only: bool
    without_copiers: bool
    def __init__(self, pid: _Optional[int] = ..., other_pid: _Optional[int] = ..., ranges: _Optional[_Iterable[_Union[PageRange, _Mapping]]] = ..., expected_start_time_ticks: _Optional[int] = ..., other_expected_start_time_ticks: _Optional[int] = ..., totals_only: bool = ..., without_copiers: bool = ...) -> None: ...

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
    comparison: _containers.RepeatedScalarFieldContainer[PageComparison]
    copied_by: _containers.RepeatedScalarFieldContainer[PageCopier]
    count: int
    other_start_time_ticks: int
    other_state: _containers.RepeatedScalarFieldContainer[PageState]
    page_size_bytes: int
    start_time_ticks: int
    state: _containers.RepeatedScalarFieldContainer[PageState]
    stretch_address: _containers.RepeatedScalarFieldContainer[int]
    stretch_page_count: _containers.RepeatedScalarFieldContainer[int]
    totals: _containers.RepeatedCompositeFieldContainer[ComparedPages]
    def __init__(self, page_size_bytes: _Optional[int] = ..., address: _Optional[int] = ..., count: _Optional[int] = ..., start_time_ticks: _Optional[int] = ..., other_start_time_ticks: _Optional[int] = ..., totals: _Optional[_Iterable[_Union[ComparedPages, _Mapping]]] = ..., stretch_address: _Optional[_Iterable[int]] = ..., stretch_page_count: _Optional[_Iterable[int]] = ..., comparison: _Optional[_Iterable[_Union[PageComparison, str]]] = ..., state: _Optional[_Iterable[_Union[PageState, str]]] = ..., other_state: _Optional[_Iterable[_Union[PageState, str]]] = ..., copied_by: _Optional[_Iterable[_Union[PageCopier, str]]] = ...) -> None: ...

class ComparedPages(_message.Message):
    __slots__ = ["comparison", "copied_by", "other_state", "page_count", "state"]
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    COPIED_BY_FIELD_NUMBER: _ClassVar[int]
    OTHER_STATE_FIELD_NUMBER: _ClassVar[int]
    PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    comparison: PageComparison
    copied_by: PageCopier
    other_state: PageState
    page_count: int
    state: PageState
    def __init__(self, comparison: _Optional[_Union[PageComparison, str]] = ..., state: _Optional[_Union[PageState, str]] = ..., other_state: _Optional[_Union[PageState, str]] = ..., copied_by: _Optional[_Union[PageCopier, str]] = ..., page_count: _Optional[int] = ...) -> None: ...

class Confinement(_message.Message):
    __slots__ = ["landlock_abi", "seccomp"]
    LANDLOCK_ABI_FIELD_NUMBER: _ClassVar[int]
    SECCOMP_FIELD_NUMBER: _ClassVar[int]
    landlock_abi: int
    seccomp: bool
    def __init__(self, seccomp: bool = ..., landlock_abi: _Optional[int] = ...) -> None: ...

class DisclosureMasks(_message.Message):
    __slots__ = ["private_flags_mask", "shared_flags_mask"]
    PRIVATE_FLAGS_MASK_FIELD_NUMBER: _ClassVar[int]
    SHARED_FLAGS_MASK_FIELD_NUMBER: _ClassVar[int]
    private_flags_mask: int
    shared_flags_mask: int
    def __init__(self, private_flags_mask: _Optional[int] = ..., shared_flags_mask: _Optional[int] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ["code", "message", "reason"]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    reason: str
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class GetPageFlagsRequest(_message.Message):
    __slots__ = ["address", "count", "expected_start_time_ticks", "pid"]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_START_TIME_TICKS_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    address: int
    count: int
    expected_start_time_ticks: int
    pid: int
    def __init__(self, pid: _Optional[int] = ..., address: _Optional[int] = ..., count: _Optional[int] = ..., expected_start_time_ticks: _Optional[int] = ...) -> None: ...

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
    attributes: _containers.RepeatedScalarFieldContainer[int]
    kpageflags: _containers.RepeatedScalarFieldContainer[int]
    masks: DisclosureMasks
    page_size_bytes: int
    start_time_ticks: int
    state: _containers.RepeatedScalarFieldContainer[PageState]
    def __init__(self, page_size_bytes: _Optional[int] = ..., address: _Optional[int] = ..., start_time_ticks: _Optional[int] = ..., masks: _Optional[_Union[DisclosureMasks, _Mapping]] = ..., kpageflags: _Optional[_Iterable[int]] = ..., state: _Optional[_Iterable[_Union[PageState, str]]] = ..., attributes: _Optional[_Iterable[int]] = ...) -> None: ...

class GetServerInfoRequest(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ["caller", "confinement", "granted", "kernel_features", "masks", "maximum_concurrent_call_count", "maximum_mapping_count", "maximum_page_count", "maximum_pid_count", "maximum_range_count", "page_size_bytes", "version"]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    CONFINEMENT_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    KERNEL_FEATURES_FIELD_NUMBER: _ClassVar[int]
    MASKS_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_CONCURRENT_CALL_COUNT_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_MAPPING_COUNT_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_PID_COUNT_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_RANGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    caller: CallerCredential
    confinement: Confinement
    granted: GrantDetail
    kernel_features: KernelFeatures
    masks: DisclosureMasks
    maximum_concurrent_call_count: int
    maximum_mapping_count: int
    maximum_page_count: int
    maximum_pid_count: int
    maximum_range_count: int
    page_size_bytes: int
    version: str
    def __init__(self, version: _Optional[str] = ..., page_size_bytes: _Optional[int] = ..., caller: _Optional[_Union[CallerCredential, _Mapping]] = ..., maximum_page_count: _Optional[int] = ..., maximum_mapping_count: _Optional[int] = ..., masks: _Optional[_Union[DisclosureMasks, _Mapping]] = ..., kernel_features: _Optional[_Union[KernelFeatures, _Mapping]] = ..., maximum_concurrent_call_count: _Optional[int] = ..., confinement: _Optional[_Union[Confinement, _Mapping]] = ..., granted: _Optional[_Union[GrantDetail, str]] = ..., maximum_pid_count: _Optional[int] = ..., maximum_range_count: _Optional[int] = ...) -> None: ...

class GetStatisticsRequest(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class GetStatisticsResponse(_message.Message):
    __slots__ = ["calls", "connection_count", "duration_bound_seconds", "durations", "read_page_count", "refusals", "start_time_nanoseconds", "version", "worker_count"]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_COUNT_FIELD_NUMBER: _ClassVar[int]
    DURATIONS_FIELD_NUMBER: _ClassVar[int]
    DURATION_BOUND_SECONDS_FIELD_NUMBER: _ClassVar[int]
    READ_PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    START_TIME_NANOSECONDS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WORKER_COUNT_FIELD_NUMBER: _ClassVar[int]
    calls: _containers.RepeatedCompositeFieldContainer[CallCount]
    connection_count: int
    duration_bound_seconds: _containers.RepeatedScalarFieldContainer[float]
    durations: _containers.RepeatedCompositeFieldContainer[CallDurations]
    read_page_count: int
    refusals: _containers.RepeatedCompositeFieldContainer[RefusalCount]
    start_time_nanoseconds: int
    version: str
    worker_count: int
    def __init__(self, version: _Optional[str] = ..., start_time_nanoseconds: _Optional[int] = ..., connection_count: _Optional[int] = ..., worker_count: _Optional[int] = ..., read_page_count: _Optional[int] = ..., calls: _Optional[_Iterable[_Union[CallCount, _Mapping]]] = ..., duration_bound_seconds: _Optional[_Iterable[float]] = ..., durations: _Optional[_Iterable[_Union[CallDurations, _Mapping]]] = ..., refusals: _Optional[_Iterable[_Union[RefusalCount, _Mapping]]] = ...) -> None: ...

class KernelFeatures(_message.Message):
    __slots__ = ["guard_regions", "markers", "page_copiers", "pagemap_scan", "soft_dirty"]
    GUARD_REGIONS_FIELD_NUMBER: _ClassVar[int]
    MARKERS_FIELD_NUMBER: _ClassVar[int]
    PAGEMAP_SCAN_FIELD_NUMBER: _ClassVar[int]
    PAGE_COPIERS_FIELD_NUMBER: _ClassVar[int]
    SOFT_DIRTY_FIELD_NUMBER: _ClassVar[int]
    guard_regions: bool
    markers: bool
    page_copiers: bool
    pagemap_scan: bool
    soft_dirty: bool
    def __init__(self, soft_dirty: bool = ..., guard_regions: bool = ..., markers: bool = ..., pagemap_scan: bool = ..., page_copiers: bool = ...) -> None: ...

class ListMappingsRequest(_message.Message):
    __slots__ = ["expected_start_time_ticks", "pid", "start_address", "with_page_counts"]
    EXPECTED_START_TIME_TICKS_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    START_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    WITH_PAGE_COUNTS_FIELD_NUMBER: _ClassVar[int]
    expected_start_time_ticks: int
    pid: int
    start_address: int
    with_page_counts: bool
    def __init__(self, pid: _Optional[int] = ..., start_address: _Optional[int] = ..., expected_start_time_ticks: _Optional[int] = ..., with_page_counts: bool = ...) -> None: ...

class ListMappingsResponse(_message.Message):
    __slots__ = ["mappings", "next_start_address", "start_time_ticks"]
    MAPPINGS_FIELD_NUMBER: _ClassVar[int]
    NEXT_START_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    START_TIME_TICKS_FIELD_NUMBER: _ClassVar[int]
    mappings: _containers.RepeatedCompositeFieldContainer[Mapping]
    next_start_address: int
    start_time_ticks: int
    def __init__(self, start_time_ticks: _Optional[int] = ..., mappings: _Optional[_Iterable[_Union[Mapping, _Mapping]]] = ..., next_start_address: _Optional[int] = ...) -> None: ...

class Mapping(_message.Message):
    __slots__ = ["end_address", "file_offset_bytes", "kind", "page_counts", "path", "permissions", "start_address"]
    END_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    FILE_OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PAGE_COUNTS_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    PERMISSIONS_FIELD_NUMBER: _ClassVar[int]
    START_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    end_address: int
    file_offset_bytes: int
    kind: MappingKind
    page_counts: PageCounts
    path: bytes
    permissions: str
    start_address: int
    def __init__(self, start_address: _Optional[int] = ..., end_address: _Optional[int] = ..., permissions: _Optional[str] = ..., file_offset_bytes: _Optional[int] = ..., path: _Optional[bytes] = ..., kind: _Optional[_Union[MappingKind, str]] = ..., page_counts: _Optional[_Union[PageCounts, _Mapping]] = ...) -> None: ...

class PageCounts(_message.Message):
    __slots__ = ["absent_page_count", "anon_page_count", "anon_swapped_page_count", "file_page_count", "guard_page_count", "unknown_page_count", "zero_page_count"]
    ABSENT_PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    ANON_PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    ANON_SWAPPED_PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    FILE_PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    GUARD_PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    ZERO_PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    absent_page_count: int
    anon_page_count: int
    anon_swapped_page_count: int
    file_page_count: int
    guard_page_count: int
    unknown_page_count: int
    zero_page_count: int
    def __init__(self, absent_page_count: _Optional[int] = ..., file_page_count: _Optional[int] = ..., anon_page_count: _Optional[int] = ..., anon_swapped_page_count: _Optional[int] = ..., zero_page_count: _Optional[int] = ..., guard_page_count: _Optional[int] = ..., unknown_page_count: _Optional[int] = ...) -> None: ...

class PageRange(_message.Message):
    __slots__ = ["address", "count"]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    address: int
    count: int
    def __init__(self, address: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class PageTotals(_message.Message):
    __slots__ = ["absent_page_count", "anon_page_count", "anon_swapped_page_count", "file_page_count", "guard_page_count", "kind", "mapping_count", "unknown_page_count", "zero_page_count"]
    ABSENT_PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    ANON_PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    ANON_SWAPPED_PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    FILE_PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    GUARD_PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MAPPING_COUNT_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    ZERO_PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    absent_page_count: int
    anon_page_count: int
    anon_swapped_page_count: int
    file_page_count: int
    guard_page_count: int
    kind: MappingKind
    mapping_count: int
    unknown_page_count: int
    zero_page_count: int
    def __init__(self, kind: _Optional[_Union[MappingKind, str]] = ..., mapping_count: _Optional[int] = ..., absent_page_count: _Optional[int] = ..., file_page_count: _Optional[int] = ..., anon_page_count: _Optional[int] = ..., anon_swapped_page_count: _Optional[int] = ..., zero_page_count: _Optional[int] = ..., guard_page_count: _Optional[int] = ..., unknown_page_count: _Optional[int] = ...) -> None: ...

class RefusalCount(_message.Message):
    __slots__ = ["count", "reason"]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    count: int
    reason: str
    def __init__(self, reason: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class StreamPageFlagsRequest(_message.Message):
    __slots__ = ["expected_start_time_ticks", "pid", "ranges"]
    EXPECTED_START_TIME_TICKS_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    RANGES_FIELD_NUMBER: _ClassVar[int]
    expected_start_time_ticks: int
    pid: int
    ranges: _containers.RepeatedCompositeFieldContainer[PageRange]
    def __init__(self, pid: _Optional[int] = ..., ranges: _Optional[_Iterable[_Union[PageRange, _Mapping]]] = ..., expected_start_time_ticks: _Optional[int] = ...) -> None: ...

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
    attributes: _containers.RepeatedScalarFieldContainer[int]
    count: int
    kpageflags: _containers.RepeatedScalarFieldContainer[int]
    masks: DisclosureMasks
    page_size_bytes: int
    start_time_ticks: int
    state: _containers.RepeatedScalarFieldContainer[PageState]
    stretch_address: _containers.RepeatedScalarFieldContainer[int]
    stretch_page_count: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, page_size_bytes: _Optional[int] = ..., address: _Optional[int] = ..., count: _Optional[int] = ..., start_time_ticks: _Optional[int] = ..., masks: _Optional[_Union[DisclosureMasks, _Mapping]] = ..., stretch_address: _Optional[_Iterable[int]] = ..., stretch_page_count: _Optional[_Iterable[int]] = ..., kpageflags: _Optional[_Iterable[int]] = ..., state: _Optional[_Iterable[_Union[PageState, str]]] = ..., attributes: _Optional[_Iterable[int]] = ...) -> None: ...

class SummarizeProcessesRequest(_message.Message):
    __slots__ = ["pids"]
    PIDS_FIELD_NUMBER: _ClassVar[int]
    pids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, pids: _Optional[_Iterable[int]] = ...) -> None: ...

class SummarizeProcessesResponse(_message.Message):
    __slots__ = ["failure", "page_size_bytes", "pid", "start_time_ticks", "totals"]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    START_TIME_TICKS_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    failure: Failure
    page_size_bytes: int
    pid: int
    start_time_ticks: int
    totals: _containers.RepeatedCompositeFieldContainer[PageTotals]
    def __init__(self, pid: _Optional[int] = ..., start_time_ticks: _Optional[int] = ..., page_size_bytes: _Optional[int] = ..., totals: _Optional[_Iterable[_Union[PageTotals, _Mapping]]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class PageState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class PageAttribute(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class MappingKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class PageComparison(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class PageCopier(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class GrantDetail(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
