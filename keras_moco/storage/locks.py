"""A lock that one process at a time holds. The operating system releases it when the process ends, even if killed."""

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

PATIENCE = 5  # seconds after which a waiting process says which one it waits for

# Errors of file systems without locks.
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


class LockedError(UserError):
    """Another process holds the lock.

    Attributes:
        holder: str, that process, such as `"process 4711 on node7"`.
    """

    def __init__(self, path, holder):
        super().__init__(f"A lock may be held by one process at a time. Received: {path}, which {holder} holds. Wait.")
        self.holder = holder


@contextlib.contextmanager
def locked(path, wait=True):
    """Holds the lock of a path during a `with` block.

    The lock is a file `.NAME.lock` beside the path (`flock`). It also works between machines if their file system
    supports that, as NFS does. The file is deleted after the block; one left by a killed process blocks nobody.

    Args:
        path: path to lock. It need not exist, but its folder must.
        wait: bool. Wait for a process that holds the lock. Defaults to `True`.

    Yields:
        `Lock`, which is false on Windows and on a file system without locks.

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
            with contextlib.suppress(OSError):  # a full disk, or another user's file: the lock holds without its note
                os.truncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield Lock(lock, descriptor, held)
    finally:
        # Deleted while it is held: a process that opened it meanwhile notices, and opens the next one. Not deleted if
        # it was moved away, and the name is another process's lock.
        with contextlib.suppress(OSError):
            if _is_still_there(descriptor, lock):
                os.unlink(lock)
        os.close(descriptor)


class Lock:
    """A lock that is held.

    Args:
        path: `pathlib.Path` of its file.
        descriptor: int, the open descriptor of that file.
        held: bool, whether the file system has locks.
    """

    def __init__(self, path, descriptor, held):
        self.path = path
        self._descriptor = descriptor
        self._held = held

    def __bool__(self):
        return self._held

    def is_in_place(self):
        """Whether its file is still at its path: not after its folder was moved or deleted."""
        return _is_still_there(self._descriptor, self.path)


def _acquire(lock, wait):
    """Opens a lock file and locks it: `(descriptor, whether it is locked)`."""
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
        os.close(descriptor)  # the process that held it has deleted it


def _open(lock):
    """A descriptor of a lock file, which is created if it is missing, and must not be a link."""
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # `O_NONBLOCK`: to open a pipe waits
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | flags, 0o666)
    except PermissionError:
        if not os.path.lexists(lock):
            raise
        descriptor = os.open(lock, os.O_RDONLY | flags)  # left by another user; enough to lock it
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
