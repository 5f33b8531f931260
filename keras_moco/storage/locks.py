"""A lock that one process at a time holds, and that the system releases when that process ends, however it ends."""

import contextlib
import errno
import os
import socket
import stat
import time

from keras_moco.errors import UserError, one_line
from keras_moco.storage.paths import user_path

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

PATIENCE = 5  # seconds after which a process that waits says for whom

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
        `Lock`, which is false on a file system without locks, and on Windows.

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
        if held and os.fstat(descriptor).st_nlink == 1:
            with contextlib.suppress(OSError):  # a full disk, or another user's: it is a lock without a name on it
                os.truncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield Lock(lock, descriptor, held)
    finally:
        # While it is held: whoever opened it in between notices, and opens the next one. Not where somebody has moved
        # it away, and there is another one of that name.
        with contextlib.suppress(OSError):
            if _is_still_there(descriptor, lock):
                os.unlink(lock)
        os.close(descriptor)


class Lock:
    """A lock in its block.

    Args:
        path: `pathlib.Path` of its file.
        descriptor: int, of that file.
        held: bool, whether there are locks at all.
    """

    def __init__(self, path, descriptor, held):
        self.path = path
        self._descriptor = descriptor
        self._held = held

    def __bool__(self):
        return self._held

    def is_in_place(self):
        """Whether its file still lies where it was made: not once its folder is moved or deleted."""
        return _is_still_there(self._descriptor, self.path)


def _acquire(lock, wait):
    """Opens a lock file and locks it: its descriptor, and whether it is locked."""
    patience = time.monotonic() + PATIENCE
    while True:
        descriptor = _open(lock)
        try:
            if not _lock(descriptor):
                return descriptor, False
            if _is_still_there(descriptor, lock):
                return descriptor, True
        except BlockingIOError:
            holder = one_line(os.read(descriptor, 200).decode("utf-8", "replace").strip()) or "another process"
            if not wait:
                os.close(descriptor)
                raise LockedError(lock, holder) from None
            if patience and time.monotonic() > patience:
                print(f"note: waiting for {holder}, which holds {lock}", flush=True)
                patience = 0
            time.sleep(0.02)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # released, and unlinked, by the one that held it


def _open(lock):
    """A descriptor of a lock file, which is made if it is missing, and is no link to anything else."""
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # nor a pipe that would be waited for
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | flags, 0o666)
    except PermissionError:
        if not os.path.lexists(lock):
            raise
        descriptor = os.open(lock, os.O_RDONLY | flags)  # left by another user, which does for a lock
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "a lock must be a regular file", os.fspath(lock))
    return descriptor


def _lock(descriptor):
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
