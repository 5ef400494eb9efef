"""What an exception in a step says: about the device, or about the requests of that step."""

from __future__ import annotations

import logging

import torch

from helexa.errors import DeviceError, HelexaError

log = logging.getLogger(__name__)


def ran_out(error: BaseException) -> bool:
    """Whether there was no memory left for a step."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError)


def device_failed(error: BaseException, device: str) -> bool:
    """Whether the accelerator is the one that failed, so that its state cannot be trusted.

    Torch has a class for most of its errors. Those without it, and those that are still to come
    from work under way, show when the device is waited for: a context that is broken stays so. Host
    memory has no such state.
    """
    if isinstance(error, DeviceError | torch.AcceleratorError):
        return True
    if not device.startswith("cuda"):
        return False
    try:
        torch.cuda.synchronize(device)
    except Exception:  # whatever waiting for it raises, it is not well
        return True
    return False


def own_error(error: BaseException) -> HelexaError:
    """What befell a request alone, as an error of the tree; what ends a program is raised on.

    It may be no Exception: libraries in Rust raise their panics as something else.
    """
    if isinstance(error, HelexaError):
        return error
    if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
        raise error
    log.error("a step failed over a request", exc_info=error)
    told = HelexaError(f"the model failed over this request ({type(error).__name__}: {error})")
    told.__cause__ = error
    return told
