"""Every code that can stand beside a round, in plain words, and what a volunteer does about it.

`ares-peer credits` prints these under its table and `docs/credits.md` lists all of them; a test
compares both with the error tree, so that no round can carry a code that nobody explains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Reason:
    """What a code means for the volunteer whose round carries it."""

    meaning: str
    advice: str


_REPORT: Final = "Nothing you did. Update the program; if it comes again, report it with the log."
_WAIT: Final = "Nothing is lost but this round. Leave the peer running."
_VERIFY: Final = "Run `ares-peer credits verify`, and ask the operator what happened."

REASONS: Final[dict[str, Reason]] = {
    "ARES-E018": Reason(
        "The disk was full.", "Free some space, or move the data folder to another disk."
    ),
    "ARES-E030": Reason("Something on the network did not answer.", _WAIT),
    "ARES-E031": Reason(
        "None of the network's known addresses answered.", "Check your connection."
    ),
    "ARES-E032": Reason("The coordinator did not answer.", _WAIT),
    "ARES-E033": Reason(
        "Your clock and the network's differ too much.",
        "Set the clock: `sudo timedatectl set-ntp true`.",
    ),
    "ARES-E034": Reason(
        "A file that the round needs could not be had from anybody, or your own was gone from "
        "your disk.",
        "Often a slow or closed connection. Nobody may delete files in the data folder.",
    ),
    "ARES-E035": Reason("A signed message of the round could not be found.", _WAIT),
    "ARES-E036": Reason(
        "The network part of your peer ended.", "It starts again by itself; report it if it recurs."
    ),
    "ARES-E037": Reason("Somebody did not answer in time.", "Check your connection if it recurs."),
    "ARES-E041": Reason(
        "Your peer did not come to the group that averaged the round, or there was none.",
        "Often a slow or closed connection: open a port (`--port`), or `--announce` the address "
        "that others can reach.",
    ),
    "ARES-E042": Reason(
        "The group fell apart before the round was averaged.",
        "Nothing you did. Leave the peer running.",
    ),
    "ARES-E050": Reason("Something that was sent was refused.", _REPORT),
    "ARES-E051": Reason("A message arrived damaged.", _REPORT),
    "ARES-E052": Reason("A signature did not fit.", _REPORT),
    "ARES-E053": Reason("A message was signed by somebody who may not sign it.", _REPORT),
    "ARES-E054": Reason("A key was refused as unsafe.", _REPORT),
    "ARES-E055": Reason(
        "A message was for another network.", "Use one data folder for each network."
    ),
    "ARES-E056": Reason(
        "A message was older than one that was seen before.",
        "Do not run two peers with one identity, and do not restore an old copy of the data "
        "folder.",
    ),
    "ARES-E057": Reason("Something was larger than allowed.", _REPORT),
    "ARES-E058": Reason(
        "A message or contribution could not be read, or was nothing but zeros.", _REPORT
    ),
    "ARES-E059": Reason(
        "Bytes were not what their name says.", "Check the disk and the memory if it recurs."
    ),
    "ARES-E060": Reason("The commit was for another round or plan.", _REPORT),
    "ARES-E061": Reason(
        "Two different commits of your identity for one round, or two reports of one audit.",
        "Do not run two peers with one identity: join with another --data-dir.",
    ),
    "ARES-E062": Reason(
        "The commit came after the deadline.",
        "Your machine or connection was slow. The peer learns; a GPU or more threads help.",
    ),
    "ARES-E063": Reason("The work began from another state than the round's.", _REPORT),
    "ARES-E064": Reason("The declared steps or examples were not those of the plan.", _REPORT),
    "ARES-E065": Reason(
        "The contribution held numbers that are none.",
        "Often broken memory or an overclocked card. Check the machine.",
    ),
    "ARES-E066": Reason("The contribution had another shape than the model's.", _REPORT),
    "ARES-E067": Reason(
        "Nobody could fetch your contribution before the deadline.",
        "Your connection was closed from outside or too slow: open a port (`--port`), or "
        "`--announce` the address that others can reach.",
    ),
    "ARES-E068": Reason("The round was not open any more, or not yet.", _WAIT),
    "ARES-E069": Reason(
        "The round was full, or too much was sent.", "Come again in the next round."
    ),
    "ARES-E070": Reason(
        "The contribution pointed against those of all others, so it was left out.",
        "Once is chance. Often: check the machine's memory, and the --base folder.",
    ),
    "ARES-E071": Reason(
        "The audit trained the same steps again and came to something else.",
        "If you did not change the program: check memory and overclocking, then report it.",
    ),
    "ARES-E072": Reason(
        "The audit could not tell: too far to pay, too close to punish, or not comparable; "
        "or this network does not audit, and pays nothing.",
        "No harm beyond this round's credit. Often: report your hardware, so that its "
        "differences are measured.",
    ),
    "ARES-E073": Reason(
        "The contribution was far longer than the others'; it was scaled down, and paid in full.",
        "Nothing to do.",
    ),
    "ARES-E074": Reason(
        "The round made the model worse, and better without your contribution; it was taken out "
        "again and audited. It is paid if the audit passes.",
        "Nothing to do. If it recurs, check the --base folder.",
    ),
    "ARES-E075": Reason(
        "The round before was corrected, so this round's work was not used. It is audited and "
        "paid like any other.",
        "Nothing to do.",
    ),
    "ARES-E076": Reason(
        "Another audit of yours failed, and took along what was pending, or paid on trust since "
        "your last audit that passed.",
        "Look at the round with ARES-E071 or ARES-E078: that one is the cause.",
    ),
    "ARES-E077": Reason(
        "The audit was not yours to make.",
        "Auditors need the CORE tier, or the operator names them.",
    ),
    "ARES-E078": Reason(
        "Your audit report did not hold: forged work passed, or honest work failed.",
        "Check the machine; train instead of auditing until you know why.",
    ),
    "ARES-E079": Reason("The chain of evidence does not hold together.", _VERIFY),
    "ARES-E086": Reason(
        "The audit report came too late, or never.",
        "Audit only on a machine that is fast enough and stays on.",
    ),
    "ARES-E087": Reason(
        "The contribution held larger numbers than its steps can make.",
        "Often broken memory or an overclocked card. Check the machine.",
    ),
    "ARES-E088": Reason(
        "The contribution had far less in common with the others than they with each other, so "
        "it was left out.",
        "Once is chance. Often: check the machine's memory, and the --base folder.",
    ),
    "ARES-E090": Reason(
        "A bug, or a broken disk.", "Report it with the log in the data folder, please."
    ),
    "ARES-E091": Reason(
        "Your own sum of the round was not the one that was signed.",
        "Your peer fetched the signed state and goes on. Report it if it recurs.",
    ),
}


def meaning_of(code: str) -> str:
    """Return what a code says in plain words; nothing for one of another version."""
    reason = REASONS.get(code)
    return "" if reason is None else reason.meaning


def advice_on(code: str) -> str:
    """Return what to do about a code."""
    reason = REASONS.get(code)
    return "Update the program to read what this code means." if reason is None else reason.advice
