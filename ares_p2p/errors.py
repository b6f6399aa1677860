"""The error tree: every fault that a person or a peer can cause, each with a stable code.

A code never changes its meaning and is never reused; `docs/errors.md` lists all of them and a
test compares. Verification raises one of these, it never returns False. The message says what
was expected and what came; `hint` names the next command to try or the mend.

The four branches decide who is to blame and the exit code of a command that ends with one:
`ConfigFault` (78: restarting does not help), `NetworkFault` (75: try again later),
`PeerFault` (76: somebody sent something wrong), `InternalFault` (70: our own bug or disk).
"""

from __future__ import annotations

from typing import ClassVar


class AresError(Exception):
    """Base of the tree. `code` is stable; `hint` is the next step for whoever reads it."""

    code: ClassVar[str] = "ARES-E000"
    exit_code: ClassVar[int] = 70
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint

    def __str__(self) -> str:
        return f"[{self.code}] {self.message}"


# --- ConfigFault: the person's own machine or settings -----------------------------------------


class ConfigFault(AresError):
    """Settings, files or the machine are not as needed; a restart alone will not help."""

    code = "ARES-E010"
    exit_code = 78


class InviteMalformed(ConfigFault):
    """The invite is not an `ares://` or `https://` invite, or its checksum does not fit."""

    code = "ARES-E011"
    default_hint = "Copy the whole invite again; `ares-bootstrap invite` prints it."


class InviteWrongNetwork(ConfigFault):
    """The invite names another network than the one this data directory belongs to."""

    code = "ARES-E012"
    default_hint = "Use another --data-dir for another network."


class PortTaken(ConfigFault):
    """A TCP or UDP port that was asked for is in use."""

    code = "ARES-E013"
    default_hint = "Choose another with --port, or 0 for any free one."


class KeyFileTooOpen(ConfigFault):
    """The identity file is readable by others."""

    code = "ARES-E014"


class KeyFileMalformed(ConfigFault):
    """The identity file is not an Ed25519 key in libp2p's format."""

    code = "ARES-E015"


class BaseDigestMismatch(ConfigFault):
    """The base model's files are not those the cycle was signed for."""

    code = "ARES-E016"
    default_hint = "Remove the folder and join again without --base to fetch the right files."


class BaseUnsupported(ConfigFault):
    """The base cannot be loaded: no safetensors, unknown architecture, no such folder."""

    code = "ARES-E017"


class DiskFull(ConfigFault):
    """Not enough free space for what has to be stored."""

    code = "ARES-E018"
    default_hint = "Free some space or point --data-dir to another disk."


class DataDirLocked(ConfigFault):
    """Another process already runs on this data directory."""

    code = "ARES-E019"


class NotInitialised(ConfigFault):
    """The data directory holds no configuration yet."""

    code = "ARES-E020"


class VersionRefused(ConfigFault):
    """The network does not accept this protocol version."""

    code = "ARES-E021"
    default_hint = "pip install --upgrade ares-p2p"


class TeacherFault(ConfigFault):
    """The teacher cannot answer as configured."""

    code = "ARES-E022"


class DatabaseRefused(ConfigFault):
    """The database cannot be used as configured: password, name, rights, encoding or driver."""

    code = "ARES-E023"


class DatabaseInUse(ConfigFault):
    """Another coordinator works on this database."""

    code = "ARES-E024"


class TeacherNotPermitted(TeacherFault):
    """The settings name no permission to train on the teacher's words, so nothing is asked."""

    code = "ARES-E025"


class TeacherRefused(TeacherFault):
    """The teacher refuses by policy that its words train a model; the run stops."""

    code = "ARES-E026"
    default_hint = (
        "Settle it with the provider, or set teacher.kind to procedural; asking in other words, "
        "of another model or with another key is no way round."
    )


class TeacherKeyRefused(TeacherFault):
    """There is no key for the teacher, or the provider does not accept it."""

    code = "ARES-E027"


class TeacherUnpaid(TeacherFault):
    """The account with the teacher's provider has no credit."""

    code = "ARES-E028"
    default_hint = (
        "Add credit at the provider, then start again: what is answered is not asked twice."
    )


class TeacherBudgetSpent(TeacherFault):
    """A cap of the settings leaves too little for the next request."""

    code = "ARES-E029"


class TeacherModelUnknown(TeacherFault):
    """The teacher's model does not exist, is retired, or has no price in the settings."""

    code = "ARES-E040"


class MergeRefused(ConfigFault):
    """The stack cannot be merged into this base: quantized, other modules or shapes."""

    code = "ARES-E043"


# --- NetworkFault: nobody's fault, try again ---------------------------------------------------


class NetworkFault(AresError):
    """Something out there did not answer; waiting may help."""

    code = "ARES-E030"
    exit_code = 75


class BootstrapAway(NetworkFault):
    """None of the addresses of the invite answers."""

    code = "ARES-E031"
    default_hint = "Check your connection; ask for a fresh invite if it goes on."


class CoordinatorAway(NetworkFault):
    """The coordinator does not answer, or has published nothing."""

    code = "ARES-E032"
    default_hint = "Nothing is lost: leave the peer running, it goes on when it is back."


class ClockSkewed(NetworkFault):
    """This machine's clock differs too much from the network's."""

    code = "ARES-E033"
    default_hint = "Set the clock: `sudo timedatectl set-ntp true`."


class BlobUnavailable(NetworkFault):
    """No source serves the wanted blob."""

    code = "ARES-E034"


class RecordUnavailable(NetworkFault):
    """A needed record is not in the DHT."""

    code = "ARES-E035"


class NodeDied(NetworkFault):
    """The DHT process or its p2pd ended."""

    code = "ARES-E036"


class RpcTimeout(NetworkFault):
    """A remote call did not answer in time."""

    code = "ARES-E037"


class DatabaseAway(NetworkFault):
    """The database's server does not answer, or is still starting."""

    code = "ARES-E038"
    default_hint = "Start the server, or check host and port in database.url."


class TeacherAway(NetworkFault):
    """The teacher does not answer, or is overloaded for too long."""

    code = "ARES-E039"
    default_hint = "Nothing is lost: start again later, what is answered is not asked twice."


class GroupMissed(NetworkFault):
    """A peer did not meet the group that averages a round, or there was no group."""

    code = "ARES-E041"
    default_hint = "Nothing is lost but this round; open a port (`--port`) if it goes on."


class AverageFailed(NetworkFault):
    """The group that averages a round fell apart before there was a sum."""

    code = "ARES-E042"


# --- PeerFault: bytes from somebody else that are refused --------------------------------------


class PeerFault(AresError):
    """A remote sent something that is refused. The code is the reason its sender can read."""

    code = "ARES-E050"
    exit_code = 76


class EnvelopeMalformed(PeerFault):
    """The bytes are no envelope."""

    code = "ARES-E051"


class BadSignature(PeerFault):
    """The signature does not fit payload and key."""

    code = "ARES-E052"


class WrongSigner(PeerFault):
    """A valid signature, by somebody who may not write this."""

    code = "ARES-E053"


class WeakKey(PeerFault):
    """A small-order or malformed public key, under which one signature fits many messages."""

    code = "ARES-E054"


class WrongNetwork(PeerFault):
    """The payload belongs to another network."""

    code = "ARES-E055"


class StaleSequence(PeerFault):
    """An older (cycle, seq) than one already seen: a replay or a rollback."""

    code = "ARES-E056"


class Oversize(PeerFault):
    """More bytes, items or characters than the bound allows."""

    code = "ARES-E057"


class PayloadMalformed(PeerFault):
    """The payload does not decode, or a field is out of its range."""

    code = "ARES-E058"


class HashMismatch(PeerFault):
    """Bytes do not hash to their name."""

    code = "ARES-E059"


class CommitReplayed(PeerFault):
    """A commit of another round, cycle or peer."""

    code = "ARES-E060"


class Equivocation(PeerFault):
    """Two different commits of one peer for one round, or two reports of one audit."""

    code = "ARES-E061"


class CommitLate(PeerFault):
    """A commit after the deadline."""

    code = "ARES-E062"


class WrongState(PeerFault):
    """The work started from another state than the round's."""

    code = "ARES-E063"


class StepsOutOfRange(PeerFault):
    """Declared steps, tokens or first example contradict the plan or the assignment."""

    code = "ARES-E064"


class NonFinite(PeerFault):
    """A contribution with NaN or infinite numbers."""

    code = "ARES-E065"


class ShapeMismatch(PeerFault):
    """A contribution, state or tensor of the wrong shape, name or layout."""

    code = "ARES-E066"


class CommitWithoutBlob(PeerFault):
    """The committed blob was not served before the deadline."""

    code = "ARES-E067"


class UnknownRound(PeerFault):
    """No such open round."""

    code = "ARES-E068"


class RateLimited(PeerFault):
    """Too many messages in too short a time, or the round is full."""

    code = "ARES-E069"


class OpposesOthers(PeerFault):
    """A contribution that points against the rest of the round."""

    code = "ARES-E070"


class AuditFailed(PeerFault):
    """Replay of the assigned work gives another result."""

    code = "ARES-E071"


class AuditVoid(PeerFault):
    """Replay is neither close enough to pay nor far enough to punish, or there was none."""

    code = "ARES-E072"


class NormClipped(PeerFault):
    """A contribution far longer than the median; it was scaled down."""

    code = "ARES-E073"


class PoisonFound(PeerFault):
    """A contribution without which the round makes the model better; it was taken out again."""

    code = "ARES-E074"


class RoundSetAside(PeerFault):
    """The round before was corrected: this one's work is audited and paid, but not used."""

    code = "ARES-E075"


class AuditForfeit(PeerFault):
    """Credit that was pending, or paid on trust, and is lost because another audit failed."""

    code = "ARES-E076"


class NotAnAuditor(PeerFault):
    """A report from a peer that was not asked, or may not audit."""

    code = "ARES-E077"


class AuditReportWrong(PeerFault):
    """An auditor's report that does not hold: a forged contribution passed, or another replay."""

    code = "ARES-E078"


class EvidenceBroken(PeerFault):
    """The chain from a commit to the ledger's log does not hold together."""

    code = "ARES-E079"


class RequestRefused(PeerFault):
    """A request to the API that its server's own checks refuse: too large, or not HTTP."""

    code = "ARES-E080"


class BadParameter(RequestRefused):
    """A parameter of a request is missing, unreadable, or out of its range."""

    code = "ARES-E081"


class UnknownPath(RequestRefused):
    """There is nothing at this address of the API."""

    code = "ARES-E082"
    default_hint = "Check the path; `/api/ares/status` is a good start."


class MethodRefused(RequestRefused):
    """The address exists, but not with this method."""

    code = "ARES-E083"


class UnknownWorker(RequestRefused):
    """Nobody with this id ever took part."""

    code = "ARES-E084"
    default_hint = "A worker appears with its first commit; `ares-peer status` prints its id."


class NotYetReleased(RequestRefused):
    """An adapter or export that only higher tiers may fetch yet; it becomes public later."""

    code = "ARES-E085"


class OperatorRefused(RequestRefused):
    """Only the operator may do this, and the token is missing or wrong."""

    code = "ARES-E095"
    default_hint = (
        "Send `Authorization: Bearer TOKEN`; the token is in operator.json of the data directory."
    )


class WrongMoment(RequestRefused):
    """What was asked for makes no sense in the state that the coordinator is in."""

    code = "ARES-E096"


class ScheduleRefused(RequestRefused):
    """A schedule that cannot be understood, or that names no moment that ever comes."""

    code = "ARES-E097"
    default_hint = 'Write "daily", "weekly", hours ("6"), cron ("0 3 * * 1-5") or null for none.'


class ReportLate(PeerFault):
    """An audit report after its deadline, or one that never came."""

    code = "ARES-E086"


class BeyondReach(PeerFault):
    """A contribution with elements larger than the round's local steps can make them."""

    code = "ARES-E087"


class ApartFromOthers(PeerFault):
    """A contribution that has far less in common with the others than they with each other."""

    code = "ARES-E088"


# --- InternalFault: ours ----------------------------------------------------------------------


class InternalFault(AresError):
    """A bug or a broken disk on our side."""

    code = "ARES-E090"
    default_hint = "Please report this with the log of the run."


class StateMismatch(InternalFault):
    """Our own aggregate differs from the signed manifest."""

    code = "ARES-E091"


class StoreFault(InternalFault):
    """The database cannot be read or written."""

    code = "ARES-E092"


class LedgerTampered(InternalFault):
    """A row of the ledger is not what was sealed; the message names the row."""

    code = "ARES-E093"
    default_hint = "Stop the coordinator, keep a copy of the database, restore the last backup."


def all_errors() -> list[type[AresError]]:
    """Return every class of the tree that has a code of its own, by code."""
    found: dict[str, type[AresError]] = {}
    pending: list[type[AresError]] = [AresError]
    while pending:
        cls = pending.pop()
        if "code" in vars(cls):  # a module may refine a fault privately, without a new code
            found[cls.__name__] = cls
        pending.extend(cls.__subclasses__())
    return sorted(found.values(), key=lambda cls: cls.code)
