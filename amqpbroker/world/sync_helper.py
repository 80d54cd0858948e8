"""A process that syncs files for a node and frees large ones; `Syncer` starts it and speaks to it.

It is run as a script, without the node's packages, so that it starts quickly and stays small. Its
standard input is a socket. A request is one octet with a descriptor; the answer to a sync is one
octet too: the errno, 0 when all went well. When the node's end closes, the process ends.

fdatasync gives no promise on macOS, where it leaves the drive's own cache alone; F_FULLFSYNC does.
"""

import errno
import fcntl
import os
import socket
import sys

SYNC_CONTENT = b"c"
SYNC_NAMES = b"n"
HOLD = b"h"
"""Keep the descriptor open; there is no answer."""
DROP = b"d"
"""Close all that is held; it comes without a descriptor, and there is no answer."""


def _sync(request: bytes, descriptor: int) -> int:
    try:
        if sys.platform == "darwin":
            os.fsync(descriptor)
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        elif request == SYNC_CONTENT:
            os.fdatasync(descriptor)
        else:
            os.fsync(descriptor)
    except OSError as error:
        return error.errno or errno.EIO
    finally:
        os.close(descriptor)
    return 0


def serve(node: socket.socket) -> None:
    """Answer until the node's end is closed."""
    held: list[int] = []
    while True:
        request, descriptors, _, _ = socket.recv_fds(node, 1, 1)
        if not request:
            return
        if request == HOLD:
            held += descriptors
        elif request == DROP:
            while held:
                os.close(held.pop())
        else:
            (descriptor,) = descriptors
            node.send(bytes([_sync(request, descriptor)]))


if __name__ == "__main__":
    # Whoever waits for the node's messages to end need not wait for this process.
    os.dup2(1, 2)
    try:
        serve(socket.socket(fileno=0))
    except ConnectionError:
        pass  # The node has ended, and an answer was on its way.
