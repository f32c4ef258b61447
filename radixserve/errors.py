"""Every error that radixserve raises on purpose.

    RadixServeError
    ├── ConfigError                a setting is wrong (start-up)
    ├── ModelError                 a checkpoint cannot be served (start-up)
    │   ├── UnsupportedModelError  its architecture, or a feature of its config, is not implemented
    │   └── CheckpointError        its files are missing, torn, left over or misshaped
    ├── InvalidRequestError        a request is wrong; nothing was done (HTTP 400)
    │   ├── ContextLengthError     it is longer than the model, or the pool, can hold
    │   └── UnknownModelError      it names a model that is not served (HTTP 404)
    ├── OutOfPagesError            the page pool has too few free pages (internal: evict or preempt)
    ├── OverloadedError            the queue is full; come back later (HTTP 429)
    ├── DeadlineError              the time that a request was given is up (HTTP 504)
    ├── DeviceLostError            the device has failed, the process must end (internal: restart)
    ├── EngineDeadError            the engine process has ended (HTTP 503)
    └── ShuttingDownError          the server drains and takes no more requests (HTTP 503)

A message says what is wrong, what was given, what the limit is and what to do about it. HTTP
statuses are attached in one place, by the front end.
"""


class RadixServeError(Exception):
    """Base of every error raised on purpose."""


class ConfigError(RadixServeError, ValueError):
    """A setting is wrong, by itself or together with another."""


class ModelError(RadixServeError):
    """A checkpoint cannot be served."""


class UnsupportedModelError(ModelError):
    """The checkpoint's architecture, or a feature of its config, is not implemented."""


class CheckpointError(ModelError):
    """The checkpoint's files are missing, torn, left over or misshaped."""


class InvalidRequestError(RadixServeError, ValueError):
    """A request cannot be served as it stands; nothing was computed for it.

    ``param`` names the field at fault (None: the request as a whole); ``code`` is a short
    machine-readable reason, in OpenAI's manner.
    """

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class ContextLengthError(InvalidRequestError):
    """Prompt and answer together are longer than the model, or the page pool, can hold."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message, param=param, code="context_length_exceeded")


class UnknownModelError(InvalidRequestError):
    """The request names a model that is not served here."""

    def __init__(self, message: str) -> None:
        super().__init__(message, param="model", code="model_not_found")


class OutOfPagesError(RadixServeError):
    """The pool has fewer free pages than asked for. Nothing was allocated."""


class OverloadedError(RadixServeError):
    """More waits already than can be served in reasonable time. Nothing was started.

    ``retry_after_s`` is when another attempt is likely to be taken.
    """

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineError(RadixServeError):
    """The time that a request was given is up; what it was computing is lost."""


class DeviceLostError(RadixServeError):
    """The device has failed for good: this process can compute nothing more."""


class EngineDeadError(RadixServeError):
    """The engine process has ended; what it was computing is lost."""


class ShuttingDownError(RadixServeError):
    """The server is draining and takes no more requests."""
