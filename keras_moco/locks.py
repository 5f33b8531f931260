"""A lock that one process at a time holds, and that the system releases when that process ends, however it ends."""

import contextlib
import errno
import os
import socket

from keras_moco.errors import UserError
from keras_moco.paths import user_path

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

# What file systems answer that know no locks.
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


class LockedError(UserError):
    """Another process holds the lock.

    Attributes:
        holder: str, which one, such as `"process 4711 on node7"`.
    """

    def __init__(self, path, holder):
        super().__init__(f"A lock may be held by one process at a time. Received: {path}, which {holder} holds. Wait.")
        self.holder = holder


@contextlib.contextmanager
def locked(path, wait=True):
    """Holds the lock of a name for the time of a block.

    It is a file `.NAME.lock` beside the named one (`flock`), which holds between machines as well where their file
    system does, as NFS. It is gone after the block; one that a killed process has left holds nobody up.

    Args:
        path: path whose name is locked; need not exist, its folder must.
        wait: bool, whether to wait for a process that holds it. Defaults to `True`.

    Yields:
        bool, whether the lock is held: not on a file system without locks, nor on Windows.

    Raises:
        LockedError: if another process holds it, without `wait`.
        OSError: if the folder cannot be written to.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "results.json")
    >>> with locked(path) as held:
    ...     [each.name for each in path.parent.iterdir()]
    ['.results.json.lock']
    >>> list(path.parent.iterdir())
    []
    """
    path = user_path(path)
    lock = path.with_name(f".{path.name}.lock")
    descriptor, held = _acquire(lock, wait)
    try:
        if held:
            with contextlib.suppress(OSError):  # a full disk: it is a lock without a name on it
                os.truncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield held
    finally:
        # While it is held: whoever opened it in between notices, and opens the next one.
        with contextlib.suppress(OSError):
            os.unlink(lock)
        os.close(descriptor)


def _acquire(lock, wait):
    """Opens a lock file and locks it: its descriptor, and whether it is locked."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _lock(descriptor, wait):
                return descriptor, False
            if _is_still_there(descriptor, lock):
                return descriptor, True
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode("utf-8", "replace").strip() or "another process"
            os.close(descriptor)
            raise LockedError(lock, holder) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # released, and unlinked, by the one that held it


def _lock(descriptor, wait):
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return False
    return True


def _is_still_there(descriptor, lock):
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(lock))
    except FileNotFoundError:
        return False
