# SPDX-License-Identifier: GPL-2.0-or-later

"""What is going on: a line that moves on a terminal, plain lines elsewhere."""

import contextlib
import shutil
import sys
import threading
import time


# A log should show that it goes on, not every second of it
PLAIN_INTERVAL = 30.0


class Status:
    """
    Announces steps.

    A terminal shows the running step with its elapsed time in one line that is
    overwritten; when it ends, note() or the caller leaves a lasting line.
    """

    def __init__(self, stream=sys.stderr):
        self._stream = stream
        self._terminal = stream.isatty()
        self._lock = threading.Lock()
        self._title = None
        self._detail = ''
        self._started = 0.0
        self._wake = threading.Event()

    def note(self, text):
        """Print a line that stays."""
        with self._lock:
            self._clear()
            print(text, file=self._stream, flush=True)

    def detail(self, text):
        """How far the running step is."""
        self._detail = text

    @contextlib.contextmanager
    def step(self, title):
        """Show @title for as long as the block runs."""
        self._title, self._detail = title, ''
        self._started = time.monotonic()
        self._wake.clear()
        ticker = threading.Thread(target=self._tick, daemon=True)
        ticker.start()
        try:
            yield
        finally:
            self._wake.set()
            ticker.join()
            with self._lock:
                self._clear()
                self._title = None

    def _tick(self):
        interval = 0.25 if self._terminal else PLAIN_INTERVAL
        if self._terminal:
            self._draw()
        while not self._wake.wait(interval):
            self._draw()

    def _draw(self):
        elapsed = time.monotonic() - self._started
        text = f'{self._title} … {elapsed:.0f} s {self._detail}'.rstrip()
        with self._lock:
            if self._terminal:
                width = shutil.get_terminal_size().columns - 1
                self._stream.write('\r\x1b[K' + text[:width])
            else:
                self._stream.write(text + '\n')
            self._stream.flush()

    def _clear(self):
        if self._terminal and self._title is not None:
            self._stream.write('\r\x1b[K')
            self._stream.flush()
