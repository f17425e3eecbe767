"""What is raised where a trace or an endpoint cannot be used."""


class TraceError(RuntimeError):
    """A trace file or an endpoint that cannot be used; the message names it, what is wrong, and the next step."""


class BusyError(TraceError):
    """No answer, or one that asks to be tried again; `wait` is the seconds it named, else 0."""

    def __init__(self, message: str, wait: float = 0.0, *, answered: bool = False) -> None:
        super().__init__(message)
        self.wait, self.answered = wait, answered


class RefusedError(TraceError):
    """An answer that OTLP forbids to try again; `status` is HTTP's."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
