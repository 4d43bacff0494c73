# SPDX-License-Identifier: Apache-2.0
"""The process that imports grpc and numpy once and forks a worker for each credential.

Starts as root, to import and to try out what the kernel can tell; then becomes the unprivileged
user, verified and confined, before it takes its first message. It keeps one thread and makes no
gRPC object, because a process that did either must not fork. Ends when the broker does; its workers
end with it.

    python3 -P -m cowdaemon.worker.zygote USER CONTROL WORKER_MEMORY_BYTES
"""

import ctypes
import logging
import os
import signal
import socket
import sys
from typing import Final

import cowdaemon.worker.grpc_settings  # noqa: F401 - before gRPC is

# isort: split
# What gRPC imports when a server is first made: too late, a worker opens no files.
import grpc._interceptor
import grpc._server
import grpc._utilities  # noqa: F401

from cowdaemon import wire
from cowdaemon.errors import Reason
from cowdaemon.system.confinement import PrivilegeError, bind_to_parent, name_process
from cowdaemon.worker.call_counts import Counters
from cowdaemon.worker.disclosure import FULL, SAFE
from cowdaemon.worker.features import probe_features
from cowdaemon.worker.kernel_files import KernelError, open_kpageflags
from cowdaemon.worker.privileges import Confinement, become
from cowdaemon.worker.reader import Reader
from cowdaemon.worker.service import Caller, PageFlagsService, RefusingService
from cowdaemon.worker.statistics_calls import StatisticsCalls
from cowdaemon.worker.targets import Targets
from cowdaemon.worker.worker import Service, run_worker

__all__ = ["main"]

_log: Final = logging.getLogger(__name__)

_M_ARENA_MAX: Final = -8  # malloc.h
_HEAP_KEPT_BYTES: Final = 8 << 20
"""Arrays of 65,536 pages, half a megabyte each, and as many of them as summaries have at once."""


def main(arguments: list[str]) -> None:
    """Serve the broker until it closes its end."""
    user = arguments[0]
    control_number, memory_bytes = map(int, arguments[1:])
    logging.basicConfig(level=logging.INFO, format="cowd: %(message)s")
    name_process("cowd-zygote")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the broker acts on these, and tells us by a socket
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # workers are known by pidfd; none is waited for
    control = socket.socket(fileno=control_number)
    control.set_inheritable(False)
    broker_pid = os.getppid()
    try:
        reader = Reader(open_kpageflags(), probe_features())
        confinement = Confinement()
        become(user, memory_bytes)
        bind_to_parent(broker_pid)
        confinement.confine_zygote()
        _share_heap()
    except (KernelError, PrivilegeError) as error:
        sys.exit(f"cowd: {error}")
    try:
        wire.send(control, wire.READY)
    except BrokenPipeError:
        return  # the broker was stopped meanwhile
    _serve(control, reader, confinement)


def _share_heap() -> None:
    """Have the threads of a worker allocate from one heap, where the C library has one for each.

    What one frees is there for the others then: arrays take half the memory. And have it keep some
    of what is freed: glibc gives memory back above twice the largest piece that it has seen freed,
    and to be given it again, a page at a time, takes longer than what is done with it.
    """
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.free(ctypes.c_void_p(libc.malloc(ctypes.c_size_t(_HEAP_KEPT_BYTES // 2))))
    try:
        libc.mallopt(_M_ARENA_MAX, 1)
    except AttributeError:
        pass  # not glibc


def _serve(control: socket.socket, reader: Reader, confinement: Confinement) -> None:
    workers: dict[int, int] = {}  # worker id -> pidfd
    while True:
        message, descriptors = wire.receive(control, 4, wire.SPAWN_BYTES)
        if not message:
            return
        match wire.unpack_zygote_request(message):
            case wire.KillRequest(worker_id):
                _kill(workers.pop(worker_id, None))
            case wire.SpawnRequest() as request:
                not_for_it = [control.fileno(), *workers.values()]
                pidfd = _spawn(request, descriptors, not_for_it, reader, confinement)
                if pidfd is not None:
                    workers[request.worker_id] = pidfd


def _kill(pidfd: int | None) -> None:
    if pidfd is None:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


def _spawn(
    request: wire.SpawnRequest,
    descriptors: list[int],
    not_for_it: list[int],
    reader: Reader,
    confinement: Confinement,
) -> int | None:
    """Fork a worker; return its pidfd, or None: the broker sees its control socket close."""
    zygote_pid = os.getpid()
    try:
        pid = os.fork()
    except OSError:
        _log.exception("no worker could be forked")
        pid = None
    if pid == 0:
        try:
            for descriptor in not_for_it:
                os.close(descriptor)
            bind_to_parent(zygote_pid)
            name_process("cowd-worker")
            _give_way(request.nice)
            _run(request, descriptors, reader, confinement)
        except BaseException:  # noqa: BLE001 - a worker must end here, and say why
            _log.exception("a worker failed")
        finally:
            os._exit(1)
    for descriptor in descriptors:
        os.close(descriptor)
    try:
        return None if pid is None else os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _give_way(nice: int) -> None:
    """Take on a nice value, before there is a second thread: each has its own."""
    if nice:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, nice)
        except OSError as error:  # a cowd that was started with a higher one, or a stricter unit
            _log.warning("a worker cannot have nice value %d: %s", nice, error.strerror)


def _run(
    request: wire.SpawnRequest, descriptors: list[int], reader: Reader, confinement: Confinement
) -> None:
    control_number, room, counters_file, *opener = descriptors
    control = socket.socket(fileno=control_number)
    counters = Counters(counters_file)
    calls = request.calls_per_worker
    service: Service
    if request.refusal:
        reader.close()  # whoever is refused shares this worker with others: it holds nothing
        service = RefusingService(Reason.from_number(request.refusal), counters)
    else:
        caller = Caller(request.uid, request.gid, request.groups, request.granted)
        targets = Targets(socket.socket(fileno=opener[0]))
        statistics_calls = StatisticsCalls(control, request.sees_statistics)
        masks = FULL if request.sees_all_flags else SAFE
        reader.note_pages = counters.count_pages
        service = PageFlagsService(
            caller, targets, reader, confinement, counters, statistics_calls, masks, calls
        )
    run_worker(control, room, service, confinement, calls)


if __name__ == "__main__":
    main(sys.argv[1:])
