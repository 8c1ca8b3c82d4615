"""SIGTERM as a question that the loop asks between two steps."""

import signal


class StopRequest:
    """Truthy once the process was asked to end; the signal's old handler comes back at the end of the `with`."""

    def __enter__(self):
        self._asked = False
        self._old = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_):
        signal.signal(signal.SIGTERM, self._old)

    def _ask(self, *_):
        self._asked = True

    def __bool__(self) -> bool:
        return self._asked
