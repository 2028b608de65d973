# SPDX-License-Identifier: GPL-2.0-or-later

"""What the patched QEMU's own trace events tell."""

from pathlib import Path
import re
import subprocess


def event_names(binary):
    """All trace events that a QEMU knows."""
    done = subprocess.run([binary, '-trace', 'help'], check=False, text=True,
                          stdin=subprocess.DEVNULL, capture_output=True)
    return set(done.stdout.split())


def write_event_list(path, stock, patched):
    """
    List the events of the streams in a file for -trace events=, return it.

    They are told from QEMU's other vmstate_* events, of which there are many
    for each device, by stock not having them.  None when there are none.
    """
    names = sorted(name for name in event_names(patched) - event_names(stock)
                   if name.startswith('vmstate_'))
    if not names:
        return None
    Path(path).write_text('\n'.join(names) + '\n', encoding='utf-8')
    return path


def buffer_peaks(log):
    """
    The most bytes of buffers that a stream's engine had, from a trace log.

    Both engines say it when they close.  What is not in the log is None.
    """
    try:
        text = Path(log).read_text(encoding='utf-8', errors='replace')
    except OSError:
        text = ''
    peaks = {}
    for what, engine in (('saving', 'writer'), ('reverting', 'reader')):
        found = re.findall(
            rf'\bvmstate_{engine}_close\b.*?\bbuffers?(?:_bytes)?[ =:]+(\d+)',
            text)
        peaks[what] = max(map(int, found), default=None)
    return peaks
