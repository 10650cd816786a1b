"""Runs inside every new process, between fork and the program: the promises a parent can't make from outside.

Started as a plain script (`python -I -S child.py ...`), because the supervisor may have threads and must
not run Python between fork and exec. It imports nothing of ours and costs about ten milliseconds. In order:

1. the working folder is entered while we still may, so that a server can live below a folder that its user
   can't search (it then calls its data `/proc/self/cwd`);
2. the user changes, to one with no capability at all, or with the single one to reach its programs;
3. the kernel is told to send `death_signal` when the supervisor dies. This must come after 2, because a
   change of credentials clears it;
4. the parent is compared with the one expected. If the supervisor died before 3, nobody will send the signal,
   so we leave by ourselves: there is no moment at which an orphan can slip through;
5. it is scheduled as a batch: waking up takes the processor from nobody who is at work. Ten processes that speak to each other on a few
   cores otherwise interrupt each other at each message: a quarter of the processor time of a call was that;
6. the process becomes the program.
"""

import ctypes
import os
import resource
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_SECUREBITS = 28
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_SECBIT_NO_SETUID_FIXUP = 4
_CAPABILITY_VERSION_3 = 0x20080522

CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2

_libc = ctypes.CDLL(None, use_errno=True)


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    # One set of three words for capabilities 0 to 31, a second for the rest.
    _fields_ = (("words", ctypes.c_uint32 * 6),)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _prctl(option: int, first: int, second: int = 0) -> None:
    _check(_libc.prctl(option, *(ctypes.c_ulong(value) for value in (first, second, 0, 0))), f"prctl {option}")


def _search_capability() -> int:
    """The weakest capability at hand that lets a process pass folders it may not search.

    Containers often lack CAP_DAC_READ_SEARCH and keep the stronger CAP_DAC_OVERRIDE.
    """
    header, data = _CapHeader(_CAPABILITY_VERSION_3, 0), _CapData()
    _check(_libc.capget(ctypes.byref(header), ctypes.byref(data)), "capget")
    permitted = data.words[1]
    return CAP_DAC_READ_SEARCH if permitted & (1 << CAP_DAC_READ_SEARCH) else CAP_DAC_OVERRIDE


def _become(uid: int, *, keep_search: bool) -> None:
    capability = _search_capability() if keep_search else None
    if keep_search:
        # Keeps capabilities over the change of user, and lets access(2), which initdb asks before it believes
        # that its programs are there, count them for a user that isn't root.
        _prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if capability is None:
        return
    bit = 1 << capability
    header, data = _CapHeader(_CAPABILITY_VERSION_3, 0), _CapData((bit, bit, bit, 0, 0, 0))
    _check(_libc.capset(ctypes.byref(header), ctypes.byref(data)), "capset")
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)


def _yield_to_who_works() -> None:
    try:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError:
        sys.stderr.write("not scheduled as a batch: this place forbids it, and nothing is lost but time\n")


def main(arguments: list[str]) -> None:
    """Keep the promises above, then become the program; leave with 127 when that is impossible."""
    parent, death_signal, uid, keep_search, folder, *program = arguments
    os.umask(0o077)
    # No core files: they would hold keys.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        os.chdir(folder)
        if uid != "-":
            _become(int(uid), keep_search=keep_search == "1")
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _prctl(_PR_SET_PDEATHSIG, int(death_signal))
        if os.getppid() != int(parent):
            os._exit(0)
        _yield_to_who_works()
        os.execv(program[0], program)  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.stderr.write(f"could not start {program[0]}: {error}\n")
        sys.stderr.flush()
        os._exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])
