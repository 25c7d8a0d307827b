"""Conditions and reasons: the closed lists that every status speaks in.

Used by the operator to write status and by the CLI, docs and alerts to explain it. Each reason is paired with
what it means and what to do next; a reason outside the list cannot be written. Pure data.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from ratchet_api.base import StatusModel, Timestamp


class ConditionType(StrEnum):
    """Condition types. `Reconciling` and `Stalled` carry kstatus meaning: present and True, or absent/False."""

    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    READY = "Ready"
    COMPLETE = "Complete"
    FAILED = "Failed"
    SUSPENDED = "Suspended"
    DATA_READY = "DataReady"
    ADMITTED = "Admitted"
    RUNNING = "Running"
    GATE_PASSED = "GatePassed"
    PUBLISHED = "Published"
    ROLLED_OUT = "RolledOut"
    STICKY = "Sticky"


CONDITIONS: dict[ConditionType, str] = {
    ConditionType.RECONCILING: "The operator has work to do or waits for something; absent when it has not (kstatus).",
    ConditionType.STALLED: "Nothing moves until somebody mends what the message names; absent otherwise (kstatus).",
    ConditionType.READY: "Datasets: a snapshot of the present spec exists. Policies: versions and champion are as asked for.",
    ConditionType.COMPLETE: "Every stage is committed and, where asked for, published or held back by a gate. Final.",
    ConditionType.FAILED: "A stage failed and will not be tried again. Final.",
    ConditionType.SUSPENDED: "spec.suspend holds: no pod runs and no deadline counts.",
    ConditionType.DATA_READY: "The run's dataset has a snapshot, and the run pinned its digest.",
    ConditionType.ADMITTED: "The cluster or its queue let the present Job start.",
    ConditionType.RUNNING: "A pod of the present stage runs.",
    ConditionType.GATE_PASSED: "Every gate holds and RL, where asked for, made nothing worse. False with GateFailed: nothing is published; with RLFailed or CandidateWorse: not what RL made.",
    ConditionType.PUBLISHED: "The policy lists the run's artifact as a version.",
    ConditionType.ROLLED_OUT: "Everybody gets the champion and no version is on trial; False says what is waited for.",
    ConditionType.STICKY: "A subject keeps its version for as long as a trial lasts; False where Gateways deal (serving.httpRoute), absent where they never did.",
}


class Reason(StrEnum):
    """Every reason a condition or an event may carry."""

    # progress
    ACCEPTED = "Accepted"
    WAITING_FOR_DATASET = "WaitingForDataset"
    WAITING_FOR_QUEUE = "WaitingForQueue"
    WAITING_FOR_POD = "WaitingForPod"
    WAITING_FOR_RETRY = "WaitingForRetry"
    STAGE_RUNNING = "StageRunning"
    STAGE_SUCCEEDED = "StageSucceeded"
    STAGE_CACHED = "StageCached"
    PREEMPTED = "Preempted"
    SUSPENDED_BY_USER = "SuspendedByUser"
    RESUMED = "Resumed"
    DRY_RUN = "DryRun"
    SUCCEEDED = "Succeeded"
    SNAPSHOT_READY = "SnapshotReady"
    WAITING_FOR_SCHEDULE = "WaitingForSchedule"
    WAITING_FOR_EVENTS = "WaitingForEvents"
    REFRESH_DUE = "RefreshDue"
    GATE_PASSED = "GatePassed"
    NO_GATES = "NoGates"
    GATE_FAILED = "GateFailed"
    RL_FAILED = "RLFailed"
    CANDIDATE_WORSE = "CandidateWorse"
    VERSION_REGISTERED = "VersionRegistered"
    WAITING_FOR_POLICY = "WaitingForPolicy"
    CHAMPION_SET = "ChampionSet"
    NO_VERSION = "NoVersion"
    RUN_STAMPED = "RunStamped"
    TTL_EXPIRED = "TTLExpired"
    # a rollout
    PREPARING = "Preparing"
    APPLYING = "Applying"
    SHADOWING = "Shadowing"
    RAMPING = "Ramping"
    HOLDING = "Holding"
    PAUSED = "Paused"
    WAITING_FOR_PROMOTION = "WaitingForPromotion"
    CANDIDATE_CHOSEN = "CandidateChosen"
    OTHER_LABELS = "OtherLabels"
    CANDIDATE_SHADOWED = "CandidateShadowed"
    CANDIDATE_EXPOSED = "CandidateExposed"
    SHARE_RAISED = "ShareRaised"
    PROMOTED = "Promoted"
    ROLLED_BACK = "RolledBack"
    ABORTED = "Aborted"
    TEST_ENDED = "TestEnded"
    UNDONE = "Undone"
    ROLLOUT_PAUSED = "RolloutPaused"
    ROLLOUT_RESUMED = "RolloutResumed"
    SERVING_CHANGED = "ServingChanged"
    TABLE_APPLIED = "TableApplied"
    COMMAND_NOT_OBEYED = "CommandNotObeyed"
    SERVING_STOPPED = "ServingStopped"
    DEALT_BY_GATEWAYS = "DealtByGateways"
    DEALT_BY_ROUTERS = "DealtByRouters"
    # what the user can mend
    INVALID_SPEC = "InvalidSpec"
    SPEC_CHANGED = "SpecChanged"
    DATASET_NOT_FOUND = "DatasetNotFound"
    DATASET_FAILED = "DatasetFailed"
    DATASET_TYPE_MISMATCH = "DatasetTypeMismatch"
    POLICY_NOT_FOUND = "PolicyNotFound"
    POLICY_TYPE_MISMATCH = "PolicyTypeMismatch"
    VERSION_NOT_FOUND = "VersionNotFound"
    START_NOT_FOUND = "StartNotFound"
    LOG_NOT_COUNTED = "LogNotCounted"
    SERVING_NOT_CONFIGURED = "ServingNotConfigured"
    GATEWAY_API_MISSING = "GatewayAPIMissing"
    STORE_NOT_CONFIGURED = "StoreNotConfigured"
    IMAGE_NOT_ALLOWED = "ImageNotAllowed"
    PRIORITY_CLASS_NOT_ALLOWED = "PriorityClassNotAllowed"
    CHILD_CONFLICT = "ChildConflict"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    UNSCHEDULABLE = "Unschedulable"
    QUOTA_EXCEEDED = "QuotaExceeded"
    ADMISSION_DENIED = "AdmissionDenied"
    FORBIDDEN = "Forbidden"
    POD_CONFIG_ERROR = "PodConfigError"
    # what a stage says (exit codes of `ratchet_api.stage`)
    BAD_DATA = "BadData"
    BAD_CONFIG = "BadConfig"
    BAD_LABELS = "BadLabels"
    BAD_MODEL = "BadModel"
    STORE_UNAVAILABLE = "StoreUnavailable"
    STORE_ACCESS_DENIED = "StoreAccessDenied"
    STORE_NOT_FOUND = "StoreNotFound"
    STORE_CORRUPT = "StoreCorrupt"
    NOT_A_NUMBER = "NotANumber"
    DIVERGED = "Diverged"
    NO_SUPPORT = "NoSupport"
    ACCELERATOR_FAULT = "AcceleratorFault"
    JUDGE_UNAVAILABLE = "JudgeUnavailable"
    OUT_OF_MEMORY = "OutOfMemory"
    KILLED = "Killed"
    STAGE_CRASHED = "StageCrashed"
    USAGE_ERROR = "UsageError"
    UNKNOWN_EXIT = "UnknownExit"
    POD_LOST = "PodLost"
    RETRIES_EXHAUSTED = "RetriesExhausted"


class ReasonInfo(NamedTuple):
    """Meaning of a reason and the next step for whoever reads it."""

    meaning: str
    remedy: str


_OF_ROLLOUTS: dict[Reason, ReasonInfo] = {
    Reason.PREPARING: ReasonInfo(
        "Servers are started, or do not answer every router yet.",
        "Wait, or see why with `kubectl describe deployment`; a candidate that is not ready in time is rolled back.",
    ),
    Reason.APPLYING: ReasonInfo(
        "The routers were told who gets which version, and not all have said that they do so.",
        "Wait; if it lasts for minutes, see the routers' pods.",
    ),
    Reason.SHADOWING: ReasonInfo(
        "A version on trial is asked what the champion is asked; nobody gets its answers yet.",
        "Wait for the texts and the time of rollout.shadow; status.rollout.shadow has what was found.",
    ),
    Reason.RAMPING: ReasonInfo("A version is on trial and gets its share of the people.", "Nothing to do."),
    Reason.HOLDING: ReasonInfo(
        "The share of the version on trial is not raised: what is known of it cannot be trusted, or is nothing.",
        "Mend what the message names; it goes on by itself. `ratchet abort` ends the trial.",
    ),
    Reason.PAUSED: ReasonInfo(
        "Somebody paused the rollout; a bad candidate is still rolled back.", "`ratchet resume`."
    ),
    Reason.WAITING_FOR_PROMOTION: ReasonInfo(
        "The version on trial passed, and spec.rollout.promotion is manual.", "`ratchet promote` or `ratchet abort`."
    ),
    Reason.CANDIDATE_CHOSEN: ReasonInfo("A new version goes on trial.", "Nothing to do."),
    Reason.OTHER_LABELS: ReasonInfo(
        "A version has other labels than the champion, so that it is not tried; everybody gets the champion.",
        "Publish a version with the champion's labels, set spec.rollout.allowOtherLabels: true, or promote it by hand.",
    ),
    Reason.CANDIDATE_SHADOWED: ReasonInfo(
        "The version on trial is asked what the champion is asked, and what both answer is compared.", "Nothing to do."
    ),
    Reason.CANDIDATE_EXPOSED: ReasonInfo("The version on trial gets its first share of the people.", "Nothing to do."),
    Reason.SHARE_RAISED: ReasonInfo("The version on trial gets a larger share.", "Nothing to do."),
    Reason.PROMOTED: ReasonInfo("The version on trial is champion.", "Nothing to do."),
    Reason.ROLLED_BACK: ReasonInfo(
        "The version on trial was taken out; the champion stays.",
        "See the message; publish a better version. This one is not tried again by itself.",
    ),
    Reason.ABORTED: ReasonInfo("The trial was ended by somebody's wish.", "Nothing to do."),
    Reason.TEST_ENDED: ReasonInfo(
        "A test with fixed shares is over; everybody gets the champion.",
        "See status.rollout.abTest for what is known of each version; `ratchet promote POLICY VERSION` makes one champion.",
    ),
    Reason.UNDONE: ReasonInfo("An earlier version is champion again by somebody's wish.", "Nothing to do."),
    Reason.ROLLOUT_PAUSED: ReasonInfo("The share stays as it is by somebody's wish.", "`ratchet resume`."),
    Reason.ROLLOUT_RESUMED: ReasonInfo("The rollout goes on by somebody's wish.", "Nothing to do."),
    Reason.SERVING_CHANGED: ReasonInfo("Everybody outside a trial gets another version.", "Nothing to do."),
    Reason.TABLE_APPLIED: ReasonInfo(
        "Every router does as it was told; servers that nobody needs are ended.", "Nothing to do."
    ),
    Reason.COMMAND_NOT_OBEYED: ReasonInfo(
        "The annotation ratchet.dev/rollout asks for something that cannot be done now.",
        "See the message, and give the annotation another value.",
    ),
    Reason.SERVING_STOPPED: ReasonInfo("spec.serving was removed: servers and routers are ended.", "Nothing to do."),
    Reason.DEALT_BY_GATEWAYS: ReasonInfo(
        "Gateways deal requests by an HTTPRoute, each by itself: a subject does not keep its version.",
        "Name a subject for one request only, or remove serving.httpRoute: routers deal by subject.",
    ),
    Reason.DEALT_BY_ROUTERS: ReasonInfo("No Gateway deals any more; routers deal by subject.", "Nothing to do."),
}

REASONS: dict[Reason, ReasonInfo] = {
    Reason.ACCEPTED: ReasonInfo("The object was read and found valid.", "Nothing to do."),
    Reason.WAITING_FOR_DATASET: ReasonInfo(
        "The dataset exists but has no snapshot yet.",
        "Wait, or see the dataset's conditions with `kubectl describe fbd`.",
    ),
    Reason.WAITING_FOR_QUEUE: ReasonInfo(
        "The Job is suspended until its queue admits it.", "See the queue's quota and the Workload that Kueue made."
    ),
    Reason.WAITING_FOR_POD: ReasonInfo(
        "The Job exists; its pod does not run yet.", "If it stays, see the pod's events with `kubectl describe pod`."
    ),
    Reason.WAITING_FOR_RETRY: ReasonInfo(
        "The last attempt failed in a way that a new attempt may heal; the next one starts after a pause.",
        "Nothing, unless the message names something to mend.",
    ),
    Reason.STAGE_RUNNING: ReasonInfo("A pod of the stage is running.", "Nothing to do."),
    Reason.STAGE_SUCCEEDED: ReasonInfo("The stage committed its artifact.", "Nothing to do."),
    Reason.STAGE_CACHED: ReasonInfo(
        "The same inputs were committed before, so the stage was skipped.",
        "Nothing to do. Change an input to train again.",
    ),
    Reason.PREEMPTED: ReasonInfo(
        "The pod was asked to leave; a replacement goes on from the last checkpoint.", "Nothing to do."
    ),
    Reason.SUSPENDED_BY_USER: ReasonInfo(
        "spec.suspend is true: no pod runs and no deadline counts.", "Set spec.suspend to false to go on."
    ),
    Reason.RESUMED: ReasonInfo("spec.suspend was set back to false.", "Nothing to do."),
    Reason.DRY_RUN: ReasonInfo(
        "spec.dryRun is true: status shows what would run; nothing was started.",
        "Set spec.dryRun to false in a new run to train.",
    ),
    Reason.SUCCEEDED: ReasonInfo("Every stage is committed.", "Nothing to do."),
    Reason.SNAPSHOT_READY: ReasonInfo("An immutable snapshot of the dataset is in the store.", "Nothing to do."),
    Reason.WAITING_FOR_SCHEDULE: ReasonInfo(
        "The next snapshot is due at the time in status.refresh.nextRefresh.", "Nothing to do."
    ),
    Reason.WAITING_FOR_EVENTS: ReasonInfo(
        "The next snapshot is due when spec.refresh.everyEvents new events are in the log.", "Nothing to do."
    ),
    Reason.REFRESH_DUE: ReasonInfo("spec.refresh asks for a new snapshot, which is being made.", "Nothing to do."),
    Reason.GATE_PASSED: ReasonInfo("Every gate of spec.evaluation.gates holds.", "Nothing to do."),
    Reason.NO_GATES: ReasonInfo(
        "The run names no gate, so none can fail.", "Add spec.evaluation.gates to protect the policy."
    ),
    Reason.GATE_FAILED: ReasonInfo(
        "At least one gate does not hold; the version was not published.",
        "Read the numbers in the message, then better the data or the training, or lower the gate.",
    ),
    Reason.RL_FAILED: ReasonInfo(
        "The rl stage's numbers went wrong, so the run goes on with the supervised policy alone.",
        "Lower stages.rl.learningRate, of a generator stages.rlhf.learningRate, or mend the rewards as the message says, then make a new run; the supervised stage is not trained again.",
    ),
    Reason.CANDIDATE_WORSE: ReasonInfo(
        "The policy that RL trained is not shown to be as good as the one it started from, which is kept.",
        "Read the numbers in the message and in comparison.json; give RL more interactions or the test split more rows, or raise spec.evaluation.comparison.margin.",
    ),
    Reason.VERSION_REGISTERED: ReasonInfo(
        "The policy lists the run's artifact as a version.", "Promote it with `ratchet promote POLICY VERSION`."
    ),
    Reason.WAITING_FOR_POLICY: ReasonInfo(
        "The run waits for the policy to register its version.", "See the policy's conditions."
    ),
    Reason.CHAMPION_SET: ReasonInfo("The champion is the version that was asked for.", "Nothing to do."),
    Reason.NO_VERSION: ReasonInfo("The policy has no champion yet.", "Publish a run to it and promote the version."),
    Reason.RUN_STAMPED: ReasonInfo("A run was created from the policy's template.", "Nothing to do."),
    Reason.TTL_EXPIRED: ReasonInfo(
        "The run finished longer ago than spec.ttlSecondsAfterFinished and is deleted.",
        "Nothing to do; artifacts stay in the store.",
    ),
    **_OF_ROLLOUTS,
    Reason.INVALID_SPEC: ReasonInfo(
        "The spec cannot be run as it stands.", "Correct the field that the message names."
    ),
    Reason.SPEC_CHANGED: ReasonInfo(
        "The spec of a started run was changed.", "Revert the change; make a new run for new settings."
    ),
    Reason.DATASET_NOT_FOUND: ReasonInfo(
        "No FeedbackDataset of that name is in the run's namespace.",
        "Create it there, or correct spec.datasetRef.name; references never cross namespaces.",
    ),
    Reason.DATASET_FAILED: ReasonInfo(
        "The dataset's snapshot failed.", "Mend the dataset as its own condition says; the run goes on by itself."
    ),
    Reason.DATASET_TYPE_MISMATCH: ReasonInfo(
        "The dataset is of another type than the field that names it needs.",
        "Name a dataset of the type needed: classification in spec.datasetRef, of a generator demonstrations; ratings in spec.stages.rl.datasetRef; preferences or ratings in spec.stages.rewardModel.datasetRef.",
    ),
    Reason.POLICY_NOT_FOUND: ReasonInfo(
        "No RLPolicy of that name is in the run's namespace.",
        "Create it, or correct spec.publishTo.name; the run registers its version as soon as it exists.",
    ),
    Reason.POLICY_TYPE_MISMATCH: ReasonInfo(
        "The run trains another type of policy than the one it publishes to.",
        "Publish to a policy of the same spec.type.",
    ),
    Reason.VERSION_NOT_FOUND: ReasonInfo(
        "The version that was asked for is not among the policy's versions.",
        "List them with `kubectl get rlp NAME -o yaml` and promote one of those.",
    ),
    Reason.START_NOT_FOUND: ReasonInfo(
        "The version that spec.startFrom.policy names does not exist.",
        "Correct the name or number (`kubectl get rlp NAME -o yaml` lists the versions) in a new run, or publish it; the run goes on by itself as soon as it exists.",
    ),
    Reason.LOG_NOT_COUNTED: ReasonInfo(
        "Nobody could say how many new events are in the log; the last snapshot stays, and the question is repeated.",
        "Run the feedback gateway in this namespace with `kubernetes` among gateway.auth, or set spec.refresh.schedule.",
    ),
    Reason.SERVING_NOT_CONFIGURED: ReasonInfo(
        "spec.serving is set, and the operator that works here serves no policies.",
        "Set serving.enabled in the chart's values, or remove spec.serving; `ratchet serve` serves on one machine.",
    ),
    Reason.GATEWAY_API_MISSING: ReasonInfo(
        "spec.serving.httpRoute is set, and the cluster knows no HTTPRoute of gateway.networking.k8s.io/v1.",
        "Install the Gateway API's CustomResourceDefinitions and a controller for them, or remove spec.serving.httpRoute.",
    ),
    Reason.STORE_NOT_CONFIGURED: ReasonInfo(
        "Neither the chart nor the namespace names a store.",
        "Set store.uri in the chart's values, or create the ConfigMap ratchet-store in the namespace.",
    ),
    Reason.IMAGE_NOT_ALLOWED: ReasonInfo(
        "spec.image is not on the operator's allow-list.",
        "Use an allowed image or ask the administrator to add it to images.allowed.",
    ),
    Reason.PRIORITY_CLASS_NOT_ALLOWED: ReasonInfo(
        "spec.placement.priorityClassName is not on the operator's allow-list.",
        "Use an allowed class or ask the administrator to add it to priorityClasses.allowed.",
    ),
    Reason.CHILD_CONFLICT: ReasonInfo(
        "An object with the child's name exists and belongs to somebody else.",
        "Delete or rename that object, or give the run another name.",
    ),
    Reason.DEADLINE_EXCEEDED: ReasonInfo(
        "The run used up spec.activeDeadlineSeconds.",
        "Raise the deadline in a new run; it goes on from what is committed.",
    ),
    Reason.IMAGE_PULL_FAILED: ReasonInfo(
        "The node cannot get the image.", "Correct the image's name or the pull secret."
    ),
    Reason.UNSCHEDULABLE: ReasonInfo(
        "No node has room for the pod.", "Lower the stage's resources, loosen placement, or add a node."
    ),
    Reason.QUOTA_EXCEEDED: ReasonInfo(
        "The namespace's quota refuses the pod.", "Free quota or raise it; the Job goes on by itself."
    ),
    Reason.ADMISSION_DENIED: ReasonInfo(
        "An admission policy of the cluster refuses the object.",
        "Read the policy's message; the operator tries again with growing pauses.",
    ),
    Reason.FORBIDDEN: ReasonInfo(
        "The operator lacks a permission.", "Grant the verb that the message names; the chart's role has it."
    ),
    Reason.POD_CONFIG_ERROR: ReasonInfo(
        "The node cannot start the container as configured.",
        "Most often the store's Secret or a judge's is missing: create the one the message names.",
    ),
    Reason.BAD_DATA: ReasonInfo("The data cannot be used.", "Mend the rows that the message names."),
    Reason.BAD_CONFIG: ReasonInfo(
        "The stage's settings do not fit the data or the model.", "Correct the field that the message names."
    ),
    Reason.BAD_LABELS: ReasonInfo("The labels do not allow training.", "Mend the labels that the message names."),
    Reason.BAD_MODEL: ReasonInfo(
        "The base model cannot be used.", "Give a safetensors model whose sha256 is the one in the spec."
    ),
    Reason.STORE_UNAVAILABLE: ReasonInfo(
        "The store did not answer.",
        "Nothing at first: the stage is tried again. If it stays, see the store's endpoint and network.",
    ),
    Reason.STORE_ACCESS_DENIED: ReasonInfo(
        "The store refuses the credentials.", "Correct the Secret that the store's settings name."
    ),
    Reason.STORE_NOT_FOUND: ReasonInfo(
        "The bucket or object does not exist.", "Create it or correct the URI in the message."
    ),
    Reason.STORE_CORRUPT: ReasonInfo(
        "An object's bytes do not have the recorded checksum.",
        "Restore the object; it was written or changed by something else.",
    ),
    Reason.NOT_A_NUMBER: ReasonInfo(
        "The loss became NaN or infinite.", "Lower the learning rate; the last good checkpoint is kept."
    ),
    Reason.DIVERGED: ReasonInfo(
        "Training left the bounds that its circuit breakers set.",
        "Lower the learning rate; the last good checkpoint is kept.",
    ),
    Reason.NO_SUPPORT: ReasonInfo(
        "The log of answers says too little about the policy that learns from it.",
        "Log more answers, by a policy that explores and is nearer to the one that learns; the policy it started from is unchanged.",
    ),
    Reason.ACCELERATOR_FAULT: ReasonInfo(
        "The accelerator failed.", "Nothing at first: the stage is tried on another node."
    ),
    Reason.JUDGE_UNAVAILABLE: ReasonInfo(
        "The judge of a reward did not answer.",
        "Nothing at first: the stage is tried again and pays for no answer twice. If it stays, see the judge's endpoint, its limits and the network policy.",
    ),
    Reason.OUT_OF_MEMORY: ReasonInfo(
        "The container was killed for memory twice.", "Raise the stage's memory or lower its batchSize or maxTokens."
    ),
    Reason.KILLED: ReasonInfo(
        "The container was killed (137), most often for memory; it is tried once more.",
        "If it happens again, raise the stage's memory.",
    ),
    Reason.STAGE_CRASHED: ReasonInfo(
        "The stage ended with a Python traceback.",
        "See the pod's log; this is most likely a defect of Ratchet or of the custom image.",
    ),
    Reason.USAGE_ERROR: ReasonInfo(
        "The container was started wrongly.", "See the pod's log; check a custom image's entry point."
    ),
    Reason.UNKNOWN_EXIT: ReasonInfo(
        "The container ended with a code outside the stage contract.", "See the pod's log."
    ),
    Reason.POD_LOST: ReasonInfo(
        "The pod vanished before it could report.", "Nothing: the stage is tried again from its last checkpoint."
    ),
    Reason.RETRIES_EXHAUSTED: ReasonInfo(
        "The stage failed more often than spec.backoffLimit allows.",
        "Mend the cause that the message names, then make a new run; it goes on from what is committed.",
    ),
}


class Condition(StatusModel):
    """One condition of an object, as in metav1.Condition."""

    type: Annotated[str, Field(max_length=64, description="type: which aspect of the object the condition is about.")]
    status: Annotated[Literal["True", "False", "Unknown"], Field(description="status: True, False or Unknown.")]
    reason: Annotated[
        str, Field(max_length=64, description="reason: one word from the closed list in docs/reference/reasons.md.")
    ]
    message: Annotated[
        str, Field(default="", max_length=1024, description="message: what was seen and what to do, for people.")
    ]
    last_transition_time: Annotated[Timestamp, Field(description="lastTransitionTime: when status last changed, UTC.")]
    observed_generation: Annotated[
        int, Field(ge=0, le=2**53, description="observedGeneration: the spec generation this condition speaks of.")
    ]


MESSAGE_LIMIT = 1024


def set_condition(
    conditions: Sequence[Condition],
    kind: ConditionType,
    status: bool | None,
    reason: Reason,
    message: str = "",
    *,
    generation: int,
    now: datetime,
) -> tuple[Condition, ...]:
    """Return the conditions with one of them set; `lastTransitionTime` moves only when its status changes.

    `status=None` means Unknown. The order of the list is kept and a new type goes last, so that an unchanged
    world gives an equal tuple.
    """
    wire: Literal["True", "False", "Unknown"] = "Unknown" if status is None else "True" if status else "False"
    text = message if len(message) <= MESSAGE_LIMIT else message[: MESSAGE_LIMIT - 1] + "…"
    old = find_condition(conditions, kind)
    since = old.last_transition_time if old is not None and old.status == wire else now.replace(microsecond=0)
    new = Condition(
        type=kind.value,
        status=wire,
        reason=reason.value,
        message=text,
        last_transition_time=since,
        observed_generation=generation,
    )
    if old is None:
        return (*conditions, new)
    return tuple(new if c.type == kind else c for c in conditions)


def find_condition(conditions: Iterable[Condition], kind: ConditionType) -> Condition | None:
    """Return the condition of that type, or None."""
    return next((c for c in conditions if c.type == kind), None)


def is_true(conditions: Iterable[Condition], kind: ConditionType) -> bool:
    """Tell whether the condition is present and True."""
    found = find_condition(conditions, kind)
    return found is not None and found.status == "True"
