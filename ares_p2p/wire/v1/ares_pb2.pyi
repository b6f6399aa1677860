from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EntryStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENTRY_STATUS_UNSPECIFIED: _ClassVar[EntryStatus]
    ENTRY_STATUS_ACCEPTED: _ClassVar[EntryStatus]
    ENTRY_STATUS_CLIPPED: _ClassVar[EntryStatus]
    ENTRY_STATUS_REFUSED: _ClassVar[EntryStatus]

class AuditOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AUDIT_OUTCOME_UNSPECIFIED: _ClassVar[AuditOutcome]
    AUDIT_OUTCOME_PASS: _ClassVar[AuditOutcome]
    AUDIT_OUTCOME_VOID: _ClassVar[AuditOutcome]
    AUDIT_OUTCOME_FAIL: _ClassVar[AuditOutcome]
    AUDIT_OUTCOME_NOT_DRAWN: _ClassVar[AuditOutcome]
ENTRY_STATUS_UNSPECIFIED: EntryStatus
ENTRY_STATUS_ACCEPTED: EntryStatus
ENTRY_STATUS_CLIPPED: EntryStatus
ENTRY_STATUS_REFUSED: EntryStatus
AUDIT_OUTCOME_UNSPECIFIED: AuditOutcome
AUDIT_OUTCOME_PASS: AuditOutcome
AUDIT_OUTCOME_VOID: AuditOutcome
AUDIT_OUTCOME_FAIL: AuditOutcome
AUDIT_OUTCOME_NOT_DRAWN: AuditOutcome

class Envelope(_message.Message):
    __slots__ = ("payload_type", "payload", "public_key", "signature")
    PAYLOAD_TYPE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    payload_type: str
    payload: bytes
    public_key: bytes
    signature: bytes
    def __init__(self, payload_type: _Optional[str] = ..., payload: _Optional[bytes] = ..., public_key: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Header(_message.Message):
    __slots__ = ("network_id", "cycle", "round", "seq", "issued_ms")
    NETWORK_ID_FIELD_NUMBER: _ClassVar[int]
    CYCLE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    ISSUED_MS_FIELD_NUMBER: _ClassVar[int]
    network_id: str
    cycle: int
    round: int
    seq: int
    issued_ms: int
    def __init__(self, network_id: _Optional[str] = ..., cycle: _Optional[int] = ..., round: _Optional[int] = ..., seq: _Optional[int] = ..., issued_ms: _Optional[int] = ...) -> None: ...

class NetworkDescriptor(_message.Message):
    __slots__ = ("header", "name", "coordinator", "bootstrap_addresses", "protocol_min", "protocol_max", "api_url")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_FIELD_NUMBER: _ClassVar[int]
    BOOTSTRAP_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_MIN_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_MAX_FIELD_NUMBER: _ClassVar[int]
    API_URL_FIELD_NUMBER: _ClassVar[int]
    header: Header
    name: str
    coordinator: str
    bootstrap_addresses: _containers.RepeatedScalarFieldContainer[str]
    protocol_min: int
    protocol_max: int
    api_url: str
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., name: _Optional[str] = ..., coordinator: _Optional[str] = ..., bootstrap_addresses: _Optional[_Iterable[str]] = ..., protocol_min: _Optional[int] = ..., protocol_max: _Optional[int] = ..., api_url: _Optional[str] = ...) -> None: ...

class File(_message.Message):
    __slots__ = ("name", "size_bytes", "sha256", "blob_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    BLOB_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    size_bytes: int
    sha256: bytes
    blob_id: bytes
    def __init__(self, name: _Optional[str] = ..., size_bytes: _Optional[int] = ..., sha256: _Optional[bytes] = ..., blob_id: _Optional[bytes] = ...) -> None: ...

class BaseRef(_message.Message):
    __slots__ = ("name", "sha256", "files", "hub_id", "revision", "parent_sha256", "merged")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    HUB_ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    PARENT_SHA256_FIELD_NUMBER: _ClassVar[int]
    MERGED_FIELD_NUMBER: _ClassVar[int]
    name: str
    sha256: bytes
    files: _containers.RepeatedCompositeFieldContainer[File]
    hub_id: str
    revision: str
    parent_sha256: bytes
    merged: _containers.RepeatedCompositeFieldContainer[AdapterRef]
    def __init__(self, name: _Optional[str] = ..., sha256: _Optional[bytes] = ..., files: _Optional[_Iterable[_Union[File, _Mapping]]] = ..., hub_id: _Optional[str] = ..., revision: _Optional[str] = ..., parent_sha256: _Optional[bytes] = ..., merged: _Optional[_Iterable[_Union[AdapterRef, _Mapping]]] = ...) -> None: ...

class AdapterRef(_message.Message):
    __slots__ = ("cycle", "sha256", "files")
    CYCLE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    cycle: int
    sha256: bytes
    files: _containers.RepeatedCompositeFieldContainer[File]
    def __init__(self, cycle: _Optional[int] = ..., sha256: _Optional[bytes] = ..., files: _Optional[_Iterable[_Union[File, _Mapping]]] = ...) -> None: ...

class TrainingConfig(_message.Message):
    __slots__ = ("rank", "alpha", "targets", "quantization", "compute_dtype", "gradient_checkpointing", "sequence_length", "sequences_per_step", "min_steps", "max_steps", "inner_lr", "beta2", "eps", "max_grad_norm", "outer_lr", "outer_momentum", "codec_bits", "codec_block", "down_bits")
    RANK_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    QUANTIZATION_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_DTYPE_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_CHECKPOINTING_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCES_PER_STEP_FIELD_NUMBER: _ClassVar[int]
    MIN_STEPS_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    INNER_LR_FIELD_NUMBER: _ClassVar[int]
    BETA2_FIELD_NUMBER: _ClassVar[int]
    EPS_FIELD_NUMBER: _ClassVar[int]
    MAX_GRAD_NORM_FIELD_NUMBER: _ClassVar[int]
    OUTER_LR_FIELD_NUMBER: _ClassVar[int]
    OUTER_MOMENTUM_FIELD_NUMBER: _ClassVar[int]
    CODEC_BITS_FIELD_NUMBER: _ClassVar[int]
    CODEC_BLOCK_FIELD_NUMBER: _ClassVar[int]
    DOWN_BITS_FIELD_NUMBER: _ClassVar[int]
    rank: int
    alpha: int
    targets: _containers.RepeatedScalarFieldContainer[str]
    quantization: str
    compute_dtype: str
    gradient_checkpointing: bool
    sequence_length: int
    sequences_per_step: int
    min_steps: int
    max_steps: int
    inner_lr: float
    beta2: float
    eps: float
    max_grad_norm: float
    outer_lr: float
    outer_momentum: float
    codec_bits: int
    codec_block: int
    down_bits: int
    def __init__(self, rank: _Optional[int] = ..., alpha: _Optional[int] = ..., targets: _Optional[_Iterable[str]] = ..., quantization: _Optional[str] = ..., compute_dtype: _Optional[str] = ..., gradient_checkpointing: _Optional[bool] = ..., sequence_length: _Optional[int] = ..., sequences_per_step: _Optional[int] = ..., min_steps: _Optional[int] = ..., max_steps: _Optional[int] = ..., inner_lr: _Optional[float] = ..., beta2: _Optional[float] = ..., eps: _Optional[float] = ..., max_grad_norm: _Optional[float] = ..., outer_lr: _Optional[float] = ..., outer_momentum: _Optional[float] = ..., codec_bits: _Optional[int] = ..., codec_block: _Optional[int] = ..., down_bits: _Optional[int] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_peers_per_round", "max_blob_bytes", "max_dataset_bytes")
    MAX_PEERS_PER_ROUND_FIELD_NUMBER: _ClassVar[int]
    MAX_BLOB_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_DATASET_BYTES_FIELD_NUMBER: _ClassVar[int]
    max_peers_per_round: int
    max_blob_bytes: int
    max_dataset_bytes: int
    def __init__(self, max_peers_per_round: _Optional[int] = ..., max_blob_bytes: _Optional[int] = ..., max_dataset_bytes: _Optional[int] = ...) -> None: ...

class CycleConfig(_message.Message):
    __slots__ = ("header", "base", "stack", "training", "limits", "rounds", "layout_sha256", "parameters", "init_seed", "initial_state", "assignment_key", "seed_anchor", "dataset_sha256", "reference_tokens_per_hour", "averaging")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    STACK_FIELD_NUMBER: _ClassVar[int]
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_SHA256_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    INIT_SEED_FIELD_NUMBER: _ClassVar[int]
    INITIAL_STATE_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENT_KEY_FIELD_NUMBER: _ClassVar[int]
    SEED_ANCHOR_FIELD_NUMBER: _ClassVar[int]
    DATASET_SHA256_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_TOKENS_PER_HOUR_FIELD_NUMBER: _ClassVar[int]
    AVERAGING_FIELD_NUMBER: _ClassVar[int]
    header: Header
    base: BaseRef
    stack: _containers.RepeatedCompositeFieldContainer[AdapterRef]
    training: TrainingConfig
    limits: Limits
    rounds: int
    layout_sha256: bytes
    parameters: int
    init_seed: bytes
    initial_state: bytes
    assignment_key: bytes
    seed_anchor: bytes
    dataset_sha256: bytes
    reference_tokens_per_hour: int
    averaging: str
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., base: _Optional[_Union[BaseRef, _Mapping]] = ..., stack: _Optional[_Iterable[_Union[AdapterRef, _Mapping]]] = ..., training: _Optional[_Union[TrainingConfig, _Mapping]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., rounds: _Optional[int] = ..., layout_sha256: _Optional[bytes] = ..., parameters: _Optional[int] = ..., init_seed: _Optional[bytes] = ..., initial_state: _Optional[bytes] = ..., assignment_key: _Optional[bytes] = ..., seed_anchor: _Optional[bytes] = ..., dataset_sha256: _Optional[bytes] = ..., reference_tokens_per_hour: _Optional[int] = ..., averaging: _Optional[str] = ...) -> None: ...

class ShardRef(_message.Message):
    __slots__ = ("content_sha256", "compressed_size_bytes", "examples", "chunk_sha256")
    CONTENT_SHA256_FIELD_NUMBER: _ClassVar[int]
    COMPRESSED_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    CHUNK_SHA256_FIELD_NUMBER: _ClassVar[int]
    content_sha256: bytes
    compressed_size_bytes: int
    examples: int
    chunk_sha256: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, content_sha256: _Optional[bytes] = ..., compressed_size_bytes: _Optional[int] = ..., examples: _Optional[int] = ..., chunk_sha256: _Optional[_Iterable[bytes]] = ...) -> None: ...

class CategoryCount(_message.Message):
    __slots__ = ("category", "examples")
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    category: str
    examples: int
    def __init__(self, category: _Optional[str] = ..., examples: _Optional[int] = ...) -> None: ...

class DatasetContent(_message.Message):
    __slots__ = ("shards", "category_examples", "examples", "assistant_chars")
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    ASSISTANT_CHARS_FIELD_NUMBER: _ClassVar[int]
    shards: _containers.RepeatedCompositeFieldContainer[ShardRef]
    category_examples: _containers.RepeatedCompositeFieldContainer[CategoryCount]
    examples: int
    assistant_chars: int
    def __init__(self, shards: _Optional[_Iterable[_Union[ShardRef, _Mapping]]] = ..., category_examples: _Optional[_Iterable[_Union[CategoryCount, _Mapping]]] = ..., examples: _Optional[int] = ..., assistant_chars: _Optional[int] = ...) -> None: ...

class DatasetManifest(_message.Message):
    __slots__ = ("header", "content", "held_out_sha256")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_SHA256_FIELD_NUMBER: _ClassVar[int]
    header: Header
    content: DatasetContent
    held_out_sha256: bytes
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., content: _Optional[_Union[DatasetContent, _Mapping]] = ..., held_out_sha256: _Optional[bytes] = ...) -> None: ...

class RoundPlan(_message.Message):
    __slots__ = ("header", "cycle_config_sha256", "previous_manifest_sha256", "state", "state_size_bytes", "opens_ms", "commit_deadline_ms", "serve_deadline_ms", "min_steps", "max_steps", "inner_lr", "parts")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CYCLE_CONFIG_SHA256_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    OPENS_MS_FIELD_NUMBER: _ClassVar[int]
    COMMIT_DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    SERVE_DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    MIN_STEPS_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    INNER_LR_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    header: Header
    cycle_config_sha256: bytes
    previous_manifest_sha256: bytes
    state: bytes
    state_size_bytes: int
    opens_ms: int
    commit_deadline_ms: int
    serve_deadline_ms: int
    min_steps: int
    max_steps: int
    inner_lr: float
    parts: int
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., cycle_config_sha256: _Optional[bytes] = ..., previous_manifest_sha256: _Optional[bytes] = ..., state: _Optional[bytes] = ..., state_size_bytes: _Optional[int] = ..., opens_ms: _Optional[int] = ..., commit_deadline_ms: _Optional[int] = ..., serve_deadline_ms: _Optional[int] = ..., min_steps: _Optional[int] = ..., max_steps: _Optional[int] = ..., inner_lr: _Optional[float] = ..., parts: _Optional[int] = ...) -> None: ...

class Commit(_message.Message):
    __slots__ = ("header", "plan_sha256", "state", "blob_id", "blob_size_bytes", "steps", "tokens", "first_example", "previous_commit_sha256", "mean_loss", "device", "profile")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PLAN_SHA256_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    BLOB_ID_FIELD_NUMBER: _ClassVar[int]
    BLOB_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    FIRST_EXAMPLE_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_COMMIT_SHA256_FIELD_NUMBER: _ClassVar[int]
    MEAN_LOSS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    header: Header
    plan_sha256: bytes
    state: bytes
    blob_id: bytes
    blob_size_bytes: int
    steps: int
    tokens: int
    first_example: int
    previous_commit_sha256: bytes
    mean_loss: float
    device: str
    profile: str
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., plan_sha256: _Optional[bytes] = ..., state: _Optional[bytes] = ..., blob_id: _Optional[bytes] = ..., blob_size_bytes: _Optional[int] = ..., steps: _Optional[int] = ..., tokens: _Optional[int] = ..., first_example: _Optional[int] = ..., previous_commit_sha256: _Optional[bytes] = ..., mean_loss: _Optional[float] = ..., device: _Optional[str] = ..., profile: _Optional[str] = ...) -> None: ...

class CommitAck(_message.Message):
    __slots__ = ("header", "commit_sha256", "peer")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    COMMIT_SHA256_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    header: Header
    commit_sha256: bytes
    peer: str
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., commit_sha256: _Optional[bytes] = ..., peer: _Optional[str] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("peer", "code", "message")
    PEER_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    peer: str
    code: str
    message: str
    def __init__(self, peer: _Optional[str] = ..., code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class CommitSet(_message.Message):
    __slots__ = ("header", "plan_sha256", "root", "revealed_seed", "commits", "refusals")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PLAN_SHA256_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    REVEALED_SEED_FIELD_NUMBER: _ClassVar[int]
    COMMITS_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    header: Header
    plan_sha256: bytes
    root: bytes
    revealed_seed: bytes
    commits: _containers.RepeatedScalarFieldContainer[bytes]
    refusals: _containers.RepeatedCompositeFieldContainer[Refusal]
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., plan_sha256: _Optional[bytes] = ..., root: _Optional[bytes] = ..., revealed_seed: _Optional[bytes] = ..., commits: _Optional[_Iterable[bytes]] = ..., refusals: _Optional[_Iterable[_Union[Refusal, _Mapping]]] = ...) -> None: ...

class ManifestEntry(_message.Message):
    __slots__ = ("commit_sha256", "peer", "coefficient", "status", "code", "message")
    COMMIT_SHA256_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    COEFFICIENT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    commit_sha256: bytes
    peer: str
    coefficient: float
    status: EntryStatus
    code: str
    message: str
    def __init__(self, commit_sha256: _Optional[bytes] = ..., peer: _Optional[str] = ..., coefficient: _Optional[float] = ..., status: _Optional[_Union[EntryStatus, str]] = ..., code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class RoundCorrection(_message.Message):
    __slots__ = ("round", "manifest_sha256", "entries", "held_out_before", "held_out_bad", "held_out_after")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_BEFORE_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_BAD_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_AFTER_FIELD_NUMBER: _ClassVar[int]
    round: int
    manifest_sha256: bytes
    entries: _containers.RepeatedCompositeFieldContainer[ManifestEntry]
    held_out_before: float
    held_out_bad: float
    held_out_after: float
    def __init__(self, round: _Optional[int] = ..., manifest_sha256: _Optional[bytes] = ..., entries: _Optional[_Iterable[_Union[ManifestEntry, _Mapping]]] = ..., held_out_before: _Optional[float] = ..., held_out_bad: _Optional[float] = ..., held_out_after: _Optional[float] = ...) -> None: ...

class PartRef(_message.Message):
    __slots__ = ("blob_id", "size_bytes")
    BLOB_ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    blob_id: bytes
    size_bytes: int
    def __init__(self, blob_id: _Optional[bytes] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class RoundManifest(_message.Message):
    __slots__ = ("header", "plan_sha256", "commit_set_sha256", "entries", "next_state", "next_state_size_bytes", "final", "corrections", "parts")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PLAN_SHA256_FIELD_NUMBER: _ClassVar[int]
    COMMIT_SET_SHA256_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_STATE_FIELD_NUMBER: _ClassVar[int]
    NEXT_STATE_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    CORRECTIONS_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    header: Header
    plan_sha256: bytes
    commit_set_sha256: bytes
    entries: _containers.RepeatedCompositeFieldContainer[ManifestEntry]
    next_state: bytes
    next_state_size_bytes: int
    final: bool
    corrections: _containers.RepeatedCompositeFieldContainer[RoundCorrection]
    parts: _containers.RepeatedCompositeFieldContainer[PartRef]
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., plan_sha256: _Optional[bytes] = ..., commit_set_sha256: _Optional[bytes] = ..., entries: _Optional[_Iterable[_Union[ManifestEntry, _Mapping]]] = ..., next_state: _Optional[bytes] = ..., next_state_size_bytes: _Optional[int] = ..., final: _Optional[bool] = ..., corrections: _Optional[_Iterable[_Union[RoundCorrection, _Mapping]]] = ..., parts: _Optional[_Iterable[_Union[PartRef, _Mapping]]] = ...) -> None: ...

class SettlementEntry(_message.Message):
    __slots__ = ("commit_sha256", "peer", "outcome", "code", "message", "reward_ucredits", "balance_ucredits", "streak", "shadow")
    COMMIT_SHA256_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REWARD_UCREDITS_FIELD_NUMBER: _ClassVar[int]
    BALANCE_UCREDITS_FIELD_NUMBER: _ClassVar[int]
    STREAK_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    commit_sha256: bytes
    peer: str
    outcome: AuditOutcome
    code: str
    message: str
    reward_ucredits: int
    balance_ucredits: int
    streak: int
    shadow: bool
    def __init__(self, commit_sha256: _Optional[bytes] = ..., peer: _Optional[str] = ..., outcome: _Optional[_Union[AuditOutcome, str]] = ..., code: _Optional[str] = ..., message: _Optional[str] = ..., reward_ucredits: _Optional[int] = ..., balance_ucredits: _Optional[int] = ..., streak: _Optional[int] = ..., shadow: _Optional[bool] = ...) -> None: ...

class AuditPay(_message.Message):
    __slots__ = ("commit_sha256", "auditor", "code", "message", "reward_ucredits", "balance_ucredits")
    COMMIT_SHA256_FIELD_NUMBER: _ClassVar[int]
    AUDITOR_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REWARD_UCREDITS_FIELD_NUMBER: _ClassVar[int]
    BALANCE_UCREDITS_FIELD_NUMBER: _ClassVar[int]
    commit_sha256: bytes
    auditor: str
    code: str
    message: str
    reward_ucredits: int
    balance_ucredits: int
    def __init__(self, commit_sha256: _Optional[bytes] = ..., auditor: _Optional[str] = ..., code: _Optional[str] = ..., message: _Optional[str] = ..., reward_ucredits: _Optional[int] = ..., balance_ucredits: _Optional[int] = ...) -> None: ...

class RoundSettlement(_message.Message):
    __slots__ = ("header", "manifest_sha256", "entries", "audits", "page", "page_size_bytes")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    AUDITS_FIELD_NUMBER: _ClassVar[int]
    PAGE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    header: Header
    manifest_sha256: bytes
    entries: _containers.RepeatedCompositeFieldContainer[SettlementEntry]
    audits: _containers.RepeatedCompositeFieldContainer[AuditPay]
    page: bytes
    page_size_bytes: int
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., manifest_sha256: _Optional[bytes] = ..., entries: _Optional[_Iterable[_Union[SettlementEntry, _Mapping]]] = ..., audits: _Optional[_Iterable[_Union[AuditPay, _Mapping]]] = ..., page: _Optional[bytes] = ..., page_size_bytes: _Optional[int] = ...) -> None: ...

class AuditAssignment(_message.Message):
    __slots__ = ("commit_sha256", "auditor")
    COMMIT_SHA256_FIELD_NUMBER: _ClassVar[int]
    AUDITOR_FIELD_NUMBER: _ClassVar[int]
    commit_sha256: bytes
    auditor: str
    def __init__(self, commit_sha256: _Optional[bytes] = ..., auditor: _Optional[str] = ...) -> None: ...

class AuditPlan(_message.Message):
    __slots__ = ("header", "commit_set_sha256", "assignments", "deadline_ms")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    COMMIT_SET_SHA256_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    header: Header
    commit_set_sha256: bytes
    assignments: _containers.RepeatedCompositeFieldContainer[AuditAssignment]
    deadline_ms: int
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., commit_set_sha256: _Optional[bytes] = ..., assignments: _Optional[_Iterable[_Union[AuditAssignment, _Mapping]]] = ..., deadline_ms: _Optional[int] = ...) -> None: ...

class AuditReport(_message.Message):
    __slots__ = ("header", "audit_plan_sha256", "commit_sha256", "tokens", "rho", "norm_ratio", "cosine_drop", "replay_sha256", "profile", "code", "message", "quiet_drop")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    AUDIT_PLAN_SHA256_FIELD_NUMBER: _ClassVar[int]
    COMMIT_SHA256_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    RHO_FIELD_NUMBER: _ClassVar[int]
    NORM_RATIO_FIELD_NUMBER: _ClassVar[int]
    COSINE_DROP_FIELD_NUMBER: _ClassVar[int]
    REPLAY_SHA256_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    QUIET_DROP_FIELD_NUMBER: _ClassVar[int]
    header: Header
    audit_plan_sha256: bytes
    commit_sha256: bytes
    tokens: int
    rho: float
    norm_ratio: float
    cosine_drop: float
    replay_sha256: bytes
    profile: str
    code: str
    message: str
    quiet_drop: float
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., audit_plan_sha256: _Optional[bytes] = ..., commit_sha256: _Optional[bytes] = ..., tokens: _Optional[int] = ..., rho: _Optional[float] = ..., norm_ratio: _Optional[float] = ..., cosine_drop: _Optional[float] = ..., replay_sha256: _Optional[bytes] = ..., profile: _Optional[str] = ..., code: _Optional[str] = ..., message: _Optional[str] = ..., quiet_drop: _Optional[float] = ...) -> None: ...

class LedgerHead(_message.Message):
    __slots__ = ("header", "size", "root")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    header: Header
    size: int
    root: bytes
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., size: _Optional[int] = ..., root: _Optional[bytes] = ...) -> None: ...

class PeerStatus(_message.Message):
    __slots__ = ("header", "software", "protocol", "device", "profile", "tokens_per_s", "state", "held_blobs", "role", "upload_bytes_per_s", "way")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    HELD_BLOBS_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    WAY_FIELD_NUMBER: _ClassVar[int]
    header: Header
    software: str
    protocol: int
    device: str
    profile: str
    tokens_per_s: float
    state: bytes
    held_blobs: _containers.RepeatedScalarFieldContainer[bytes]
    role: str
    upload_bytes_per_s: float
    way: str
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., software: _Optional[str] = ..., protocol: _Optional[int] = ..., device: _Optional[str] = ..., profile: _Optional[str] = ..., tokens_per_s: _Optional[float] = ..., state: _Optional[bytes] = ..., held_blobs: _Optional[_Iterable[bytes]] = ..., role: _Optional[str] = ..., upload_bytes_per_s: _Optional[float] = ..., way: _Optional[str] = ...) -> None: ...

class SubmitReply(_message.Message):
    __slots__ = ("ack", "code", "message")
    ACK_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ack: bytes
    code: str
    message: str
    def __init__(self, ack: _Optional[bytes] = ..., code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class ChunkListRequest(_message.Message):
    __slots__ = ("blob_id",)
    BLOB_ID_FIELD_NUMBER: _ClassVar[int]
    blob_id: bytes
    def __init__(self, blob_id: _Optional[bytes] = ...) -> None: ...

class ChunkRequest(_message.Message):
    __slots__ = ("blob_id", "first_chunk", "chunks")
    BLOB_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_CHUNK_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    blob_id: bytes
    first_chunk: int
    chunks: int
    def __init__(self, blob_id: _Optional[bytes] = ..., first_chunk: _Optional[int] = ..., chunks: _Optional[int] = ...) -> None: ...

class Piece(_message.Message):
    __slots__ = ("data", "code")
    DATA_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    code: str
    def __init__(self, data: _Optional[bytes] = ..., code: _Optional[str] = ...) -> None: ...

class TimeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TimeReply(_message.Message):
    __slots__ = ("now_ms",)
    NOW_MS_FIELD_NUMBER: _ClassVar[int]
    now_ms: int
    def __init__(self, now_ms: _Optional[int] = ...) -> None: ...

class RecordWish(_message.Message):
    __slots__ = ("key", "known_sha256")
    KEY_FIELD_NUMBER: _ClassVar[int]
    KNOWN_SHA256_FIELD_NUMBER: _ClassVar[int]
    key: str
    known_sha256: bytes
    def __init__(self, key: _Optional[str] = ..., known_sha256: _Optional[bytes] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("wishes", "wait_ms")
    WISHES_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    wishes: _containers.RepeatedCompositeFieldContainer[RecordWish]
    wait_ms: int
    def __init__(self, wishes: _Optional[_Iterable[_Union[RecordWish, _Mapping]]] = ..., wait_ms: _Optional[int] = ...) -> None: ...

class RecordNews(_message.Message):
    __slots__ = ("key", "payload_sha256", "value", "expiration_s")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_SHA256_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    EXPIRATION_S_FIELD_NUMBER: _ClassVar[int]
    key: str
    payload_sha256: bytes
    value: bytes
    expiration_s: float
    def __init__(self, key: _Optional[str] = ..., payload_sha256: _Optional[bytes] = ..., value: _Optional[bytes] = ..., expiration_s: _Optional[float] = ...) -> None: ...

class WatchReply(_message.Message):
    __slots__ = ("news", "code", "message")
    NEWS_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    news: _containers.RepeatedCompositeFieldContainer[RecordNews]
    code: str
    message: str
    def __init__(self, news: _Optional[_Iterable[_Union[RecordNews, _Mapping]]] = ..., code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class StoredEnvelope(_message.Message):
    __slots__ = ("envelope", "publisher", "lease")
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    PUBLISHER_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    envelope: bytes
    publisher: bytes
    lease: bytes
    def __init__(self, envelope: _Optional[bytes] = ..., publisher: _Optional[bytes] = ..., lease: _Optional[bytes] = ...) -> None: ...

class LedgerPage(_message.Message):
    __slots__ = ("head", "first", "frontier", "leaves")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    FRONTIER_FIELD_NUMBER: _ClassVar[int]
    LEAVES_FIELD_NUMBER: _ClassVar[int]
    head: bytes
    first: int
    frontier: _containers.RepeatedScalarFieldContainer[bytes]
    leaves: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, head: _Optional[bytes] = ..., first: _Optional[int] = ..., frontier: _Optional[_Iterable[bytes]] = ..., leaves: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Invite(_message.Message):
    __slots__ = ("name", "coordinator", "addresses", "api_url")
    NAME_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    API_URL_FIELD_NUMBER: _ClassVar[int]
    name: str
    coordinator: bytes
    addresses: _containers.RepeatedScalarFieldContainer[str]
    api_url: str
    def __init__(self, name: _Optional[str] = ..., coordinator: _Optional[bytes] = ..., addresses: _Optional[_Iterable[str]] = ..., api_url: _Optional[str] = ...) -> None: ...
