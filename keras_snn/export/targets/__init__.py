"""What files can be written: one module for each kind.

`NAME.py` has `TARGET`, a `Target`, and the function for users, `to_NAME`, which makes a `Job` and
calls `keras_snn.export.job.run`. It then is `keras_snn.export.to_NAME`.
"""

import dataclasses
import importlib
from typing import Any, ClassVar

__all__ = ["Job", "Target", "check", "load"]


@dataclasses.dataclass
class Job:
    """What is to be exported.

    Attributes:
        format: The module of this package that writes the file.
        mode: `"sequence"` for whole clips, `"step"` for one step with states.
        timesteps: Steps of a clip; `None` to have the model tell it.
        samples: Examples to compare the file with the model on, at most.
        options: What else the target knows; numbers, strings and `None`.
        stem: Name of the file, without its suffix.
        modules: Modules to import before the model is read, where its layers are defined.
    """

    format: str
    mode: str = "sequence"
    timesteps: int | None = None
    samples: int = 32
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    stem: str = "model"
    modules: list[str] = dataclasses.field(default_factory=list)


class Target:
    """A kind of file: how it is written, and what runs it.

    `program` is a `keras_snn.export.worker.Program`, the model as TensorFlow functions; its `job`
    has the options.
    """

    # What files are called.
    suffix: ClassVar[str]

    def convert(self, program, probe: bool = False) -> bytes:
        """The file; with `probe`, one that gives all spikes too."""
        raise NotImplementedError

    def check(self, program, blob: bytes, probe: bytes) -> dict[str, Any]:
        """Refuses a file that can't be run; returns fields of the report."""
        return {}

    def runners(self, program, blob: bytes) -> dict:
        """`keras_snn.export.streaming.Runner`s of a file by the name of what runs it."""
        raise NotImplementedError

    def companions(self, program, blob: bytes, report) -> dict[str, bytes]:
        """Further files by their suffix."""
        return {}


MODES = ("sequence", "step")


def check(name, value, allowed):
    """Raises a `ValueError` unless `value` is one of those allowed for the argument `name`."""
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {allowed}, got {value!r}.")


def load(name: str) -> Target:
    """The `Target` of a module of this package."""
    return importlib.import_module(f"{__name__}.{name}").TARGET
