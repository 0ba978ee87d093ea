"""Files that are complete or not there: written beside their place, then moved to it."""

import contextlib
import errno
import os
import pathlib

__all__ = ["check_path", "replacing", "write"]


def check_path(path, suffixes=()):
    """Refuses, before any work, a path that no file can be written to.

    Args:
        path: Where a file is to go; `~` is the home folder.
        suffixes: What the path has to end in, any of them; nothing by default.

    Returns:
        The path, a `pathlib.Path`. A link is followed to the file that it stands for.

    Raises:
        ValueError: If the folder is missing, the path is that of a folder or a device, or it ends
            in something else.
        OSError: If nothing can be written there.

    Example:

    >>> check_path("model.tflite", [".tflite"]).name
    'model.tflite'
    """
    given = pathlib.Path(path)
    if suffixes and given.suffix.lower() not in suffixes:
        raise ValueError(f"`path` should end in {' or '.join(suffixes)}, got {str(path)!r}.")
    path = pathlib.Path(os.path.realpath(given.expanduser()))
    if not path.parent.is_dir():
        raise ValueError(f"There is no folder {str(path.parent)!r} to write {path.name!r} to.")
    if path.exists() and not path.is_file():
        raise ValueError(f"{str(path)!r} is not a file: nothing can be written in its place.")
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    part = _part(path)
    try:
        part.touch()
    finally:
        part.unlink(missing_ok=True)
    return path


@contextlib.contextmanager
def replacing(*paths):
    """Files to write in the place of others, which are replaced once all are complete.

    If anything fails within the block, a full disk say, the files that were there stay as they
    are. What a process that was killed has left beside a path goes too.

    Args:
        *paths: Where files are to go, see `check_path`.

    Yields:
        The list of paths to write to, each beside its place and with its suffix.

    Raises:
        ValueError: If two paths are the same; and see `check_path`.
        OSError: If a file can't be written.

    Example:

    ```python
    with replacing("model.keras") as (part,):
        model.save(part)
    ```
    """
    paths = [check_path(path) for path in paths]
    if len(set(paths)) < len(paths):
        raise ValueError(f"Two files can't have one path, got {[str(path) for path in paths]}.")
    for path in paths:
        _remove_leftovers(path)
    parts = [_part(path) for path in paths]
    try:
        yield parts
        for part in parts:
            with open(part, "rb+") as file:
                os.fsync(file.fileno())  # a full disk may show only here
        for part, path in zip(parts, paths):
            os.replace(part, path)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def write(path, content):
    """Writes a whole file, or leaves the one that is there.

    Args:
        path: Where the file goes, see `check_path`.
        content: Text or bytes.

    Raises:
        ValueError: See `check_path`.
        OSError: If the file can't be written.
    """
    with replacing(path) as (part,):
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def _part(path, process=None):
    """Where a process writes the file of `path` to."""
    return path.with_name(f".{path.stem}.{process or os.getpid()}{path.suffix}")


def _remove_leftovers(path):
    """Removes the parts that dead processes have left beside a path."""
    prefix = f".{path.stem}."
    for other in path.parent.iterdir():
        process = other.name.removeprefix(prefix).removesuffix(path.suffix)
        if process.isdecimal() and other == _part(path, process) and not _is_alive(int(process)):
            other.unlink(missing_ok=True)


def _is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True
