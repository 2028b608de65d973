# SPDX-License-Identifier: GPL-2.0-or-later

"""Medians of paired runs, as a table for people."""

import statistics


MIB = 1 << 20

STOCK, PATCHED = 'stock', 'patched'

NOT_MEASURED = 'not measured'


class Step:
    """One line of the table."""

    def __init__(self, key, title, ceiling=None):
        self.key = key
        self.title = title
        # 'write' or 'read': what of fio's figures bounds it
        self.ceiling = ceiling


STEPS = [
    Step('qmp-save', 'snapshot-save, first', 'write'),
    Step('qmp-load', 'snapshot-load', 'read'),
    Step('qmp-save-again', 'snapshot-save, second', 'write'),
    Step('qmp-load-again', 'snapshot-load', 'read'),
    Step('hmp-save', 'savevm (HMP), third', 'write'),
    Step('hmp-load', 'loadvm (HMP)', 'read'),
    Step('qmp-delete', 'snapshot-delete, two'),
]


def spread(values):
    """The median and the extremes of some figures."""
    return {'median': statistics.median(values),
            'min': min(values), 'max': max(values)}


def pairs(runs, key, field):
    """(stock, patched) of each round in which both did the step."""
    by_round = {}
    for run in runs:
        if run['step'] == key and run.get(field) is not None:
            by_round.setdefault(run['round'], {})[run['qemu']] = run[field]
    return [(found[STOCK], found[PATCHED])
            for _, found in sorted(by_round.items()) if len(found) == 2]


def ratios(paired, tick=0.0):
    """
    How many times less the second of each pair is.

    @tick: the resolution of the figures; what is below it counts as that
    """
    return [max(stock, tick) / max(patched, tick) for stock, patched in paired
            if max(patched, tick) > 0]


def ceilings(fio, round_number):
    """MiB/s that fio reached in one round, by direction."""
    found = [entry for entry in fio if entry['round'] == round_number]
    if not found:
        return {}
    return {'write': found[0]['write_depth8'],
            'read': max(found[0]['read_depth1'], found[0]['read_depth8'])}


def shares(runs, fio, step, qemu):
    """A step's speed as a part of fio's in the same round."""
    result = []
    for run in runs:
        limit = ceilings(fio, run['round']).get(step.ceiling)
        if (run['step'], run['qemu']) == (step.key, qemu) and limit:
            result.append(run['mib_per_second'] / limit)
    return result


def summarize_qemu(runs, fio, step, qemu):
    """One QEMU's figures for one step, None when it never did it."""
    mine = [run for run in runs
            if (run['step'], run['qemu']) == (step.key, qemu)]
    if not mine:
        return None
    result = {field: spread([run[field] for run in mine])
              for field in ('seconds', 'cpu_seconds')}
    if step.ceiling:
        result['mib_per_second'] = spread([run['mib_per_second']
                                           for run in mine])
        share = shares(runs, fio, step, qemu)
        result['share_of_fio'] = spread(share) if share else None
    return result


def summarize(runs, fio, cpu_tick=0.01):
    """The figures of all steps and of fio, ready for JSON."""
    steps = {}
    for step in STEPS:
        faster = ratios(pairs(runs, step.key, 'seconds'))
        cheaper = ratios(pairs(runs, step.key, 'cpu_seconds'), cpu_tick)
        steps[step.key] = {
            STOCK: summarize_qemu(runs, fio, step, STOCK),
            PATCHED: summarize_qemu(runs, fio, step, PATCHED),
            'speed_up': spread(faster) if faster else None,
            'cpu_ratio': spread(cheaper) if cheaper else None,
        }
    return {
        'steps': steps,
        'fio': {
            name: spread([entry[name] for entry in fio])
            for name in ('write_depth8', 'read_depth1', 'read_depth8')
        } if fio else None,
    }


# The table

def number(value, digits=None):
    """Three significant figures or so; a dash for nothing."""
    if value is None:
        return '-'
    if digits is None:
        digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f'{value:.{digits}f}'


def with_spread(figures):
    """median (min–max), or the only value."""
    if figures is None:
        return '-'
    if figures['min'] == figures['max']:
        return number(figures['median'])
    return (f"{number(figures['median'])} "
            f"({number(figures['min'])}–{number(figures['max'])})")


def median(figures):
    """The median alone."""
    return number(figures['median']) if figures else '-'


def times(figures):
    """A ratio."""
    return median(figures) + '×' if figures else '-'


def percent(figures):
    """A share."""
    return f"{figures['median'] * 100:.0f} %" if figures else '-'


def align(rows):
    """Rows of cells as lines: the first column to the left, others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ['  '.join([row[0].ljust(widths[0])] +
                      [cell.rjust(width)
                       for cell, width in zip(row[1:], widths[1:])]).rstrip()
            for row in rows]


def ruled(head, rows):
    """A table's lines, with rules around the head and below."""
    lines = align(head + rows)
    rule = '─' * max(len(line) for line in lines)
    return ([rule] + lines[:len(head)] + [rule] + lines[len(head):] + [rule])


def time_table(summary):
    """What users wait for."""
    rows = []
    for step in STEPS:
        figures = summary['steps'][step.key]
        stock, patched = figures[STOCK] or {}, figures[PATCHED] or {}
        rows.append([step.title, with_spread(stock.get('seconds')),
                     with_spread(patched.get('seconds')),
                     times(figures['speed_up'])])
    return ruled([['seconds', 'stock', 'patched', 'speed-up']], rows)


def cost_row(step, figures):
    """The cells of one step in the second table."""
    both = [figures[STOCK] or {}, figures[PATCHED] or {}]
    return ([step.title]
            + [median(qemu.get('mib_per_second')) for qemu in both]
            + [percent(qemu.get('share_of_fio')) for qemu in both]
            + [median(qemu.get('cpu_seconds')) for qemu in both]
            + [times(figures['cpu_ratio'])])


def cost_table(summary):
    """How that compares with the storage, and what it costs."""
    head = [
        ['', 'MiB/s', 'MiB/s', 'of fio', 'of fio', 'CPU s', 'CPU s', 'CPU'],
        ['', 'stock', 'patched', 'stock', 'patched', 'stock', 'patched',
         'ratio'],
    ]
    return ruled(head, [cost_row(step, summary['steps'][step.key])
                        for step in STEPS])


def rounds_line(rounds):
    """What the figures of so many rounds are."""
    if rounds == 1:
        return 'one paired round'
    return f'medians of {rounds} paired rounds; lowest and highest in brackets'


def fio_lines(fio):
    """What the storage can do, in words."""
    if not fio:
        return [f'fio: {NOT_MEASURED}, it is not installed']
    return ['fio on the same storage, 1 MiB requests, a sparse file, MiB/s:',
            f"  write, depth 8: {with_spread(fio['write_depth8'])}",
            f"  read, depth 1:  {with_spread(fio['read_depth1'])}",
            f"  read, depth 8:  {with_spread(fio['read_depth8'])}"]


def buffer_line(peaks):
    """The engines' memory, in words."""
    parts = [f'{what} {number(peaks[what] / MIB)} MiB'
             if peaks.get(what) is not None else f'{what} {NOT_MEASURED}'
             for what in ('saving', 'reverting')]
    return "Peak of the engines' buffers: " + ', '.join(parts)
