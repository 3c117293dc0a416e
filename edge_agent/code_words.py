"""What each code means to the person at the device, and what to do about it.

The device says codes, because the server's gate counts them; ``edge-agent status`` adds words.
"""

from collections.abc import Mapping

from edge_agent.contract.codes import Code

CODE_WORDS: Mapping[Code, str] = {
    Code.ASSIGN_SIZE: "the assignment is larger than any this agent takes; look at the server",
    Code.ASSIGN_FORMAT: "the assignment is no assignment; is the server newer than this agent?",
    Code.ASSIGN_TYPE: "something else was sent as an assignment; tell whoever runs the server",
    Code.ASSIGN_SIGNATURE: "the director did not sign it; tell whoever runs the server",
    Code.ASSIGN_REPLAY: "an older assignment than the newest came again; it changes nothing",
    Code.ASSIGN_FORK: "two assignments carry one number; tell whoever runs the server",
    Code.ASSIGN_EXPIRED: "it is past its date: is the server's controller up, is the clock right?",
    Code.WRONG_FLEET: "it is for another fleet; join again if this device moved",
    Code.WRONG_DEVICE: "it is for another device; was this directory copied? join anew",
    Code.WRONG_PROFILE: "it is for devices of another profile; look at the device's profile",
    Code.WRONG_SLOT: "it names a slot the package was not signed for, or too many slots",
    Code.NOT_APPROVED: "no approver signed it; sign it with `edgefleet model approve`",
    Code.WITHDRAWN: "the approvers took their signature back; assign an approved version",
    Code.WRONG_AUTHORITY: "another authority than this fleet's was offered; tell the operator",
    Code.TUF_EXPIRED: "signed metadata is past its date: is the server up, is the clock right?",
    Code.TUF_ROLLBACK: "older metadata than was seen before; tell whoever runs the server",
    Code.TUF_SIGNATURE: "metadata is not signed by its keys; tell whoever runs the server",
    Code.TUF_HASH: "metadata is not what was signed; it is asked for again",
    Code.TUF_SIZE: "metadata is larger than signed or allowed; tell whoever runs the server",
    Code.TUF_MISSING: "part of the signed metadata has not arrived yet; it is waited for",
    Code.TUF_FORMAT: "metadata cannot be read; is the server newer than this agent?",
    Code.MISFIT: "the package does not fit this device; the detail names field, need and have",
    Code.KNOWN_BAD: "it failed here before; on the server plan with --again, or another version",
    Code.FETCH_TIMEOUT: "nothing arrived for long; look at the connection and the server's load",
    Code.FETCH_BUDGET: "fetching took more tries or bytes than allowed; look at the connection",
    Code.DISK_FULL: "the disk has no room; free some, the agent goes on by itself",
    Code.DISK_ERROR: "the disk cannot be read or written; look at `dmesg`, a card may be dying",
    Code.BLOB_HASH: "the bytes are not those that were signed; disk or sender damaged them",
    Code.BLOB_SIZE: "the package has another size than was signed; disk or sender damaged it",
    Code.PACKAGE_FORMAT: "the bytes are no package this agent knows; build it anew",
    Code.SELFTEST_LOAD: "the runtime of this device does not load the model; see its version",
    Code.SELFTEST_GOLDEN: "the model answers otherwise here than where it was built",
    Code.SELFTEST_LATENCY: "the model is slower here than the profile allows",
    Code.SELFTEST_MEMORY: "the model needs more memory than the profile allows",
    Code.SELFTEST_CRASH: "the self-test's process ended: illegal instruction, memory or a bug",
    Code.SELFTEST_TIMEOUT: "the self-test did not end in time; is the device busy?",
    Code.SHADOW_CRASH: "the process that ran the candidate beside the answers died",
    Code.SHADOW_HANG: "the candidate did not end a request it was given beside the answers",
    Code.SHADOW_MEMORY: "the candidate took more memory than the profile allows",
    Code.SHADOW_UNDECIDED: "the server never decided on what was compared beside the answers",
    Code.PROBATION_ERRORS: "too many requests failed while the model was on probation",
    Code.PROBATION_LATENCY: "the model was too slow on real requests",
    Code.PROBATION_OUTPUT: "the answers on real requests made no sense",
    Code.PROBATION_BOOTS: "the agent stopped again and again while the model was on probation",
    Code.PROBATION_CRASH: "the process that serves died while the model was on probation",
    Code.PROBATION_HANG: "the process that serves hung while the model was on probation",
    Code.PROBATION_MEMORY: "the process that serves took too much memory while the model was on"
    " probation",
    Code.OPERATOR_ROLLBACK: "a person went back; another version, or a plan with --again ends that",
}


def explain_code(code: str) -> str:
    """Return what a code means; empty for one this agent does not know.

    >>> explain_code("disk-full")
    'the disk has no room; free some, the agent goes on by itself'
    """
    try:
        return CODE_WORDS.get(Code(code), "")
    except ValueError:
        return ""
