#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""usage: summary.py TESTLOG.JSON STATUS [LEFT-OUT...]

Sum up a run of "meson test" that ended with STATUS: what was skipped and why,
what failed, and how many passed, failed and were skipped.  The subtests of a
test that speaks TAP count one each, and so does each case that an iotest skips,
and each test LEFT-OUT, which takes too long to be run unless it is asked for.
"""

import json
import re
import sys

SKIPPED, FAILED, PASSED = 'skipped', 'failed', 'passed'
TAP = re.compile(r'^(ok|not ok)\b(?: +\d+)?(?: +-)? *([^#]*?) *'
                 r'(?:# *(skip|todo)\S* *(.*))?$', re.I)
# As QEMU's check tells of a case that an iotest has skipped
CASE = re.compile(r'^ *\[case not run\] (.*)$', re.M)


def subtests(stdout):
    """Yield the verdict, name and reason of each TAP line of @stdout.

    For a failed one the reason is what the comments below it say."""
    lines = stdout.splitlines()
    for number, line in enumerate(lines):
        match = TAP.match(line)
        if not match:
            continue
        verdict, name, directive, reason = match.groups()
        directive = (directive or '').lower()
        if directive == 'skip':
            yield SKIPPED, name, reason
        elif verdict == 'ok' or directive == 'todo':
            yield PASSED, name, ''
        else:
            comments = []
            for comment in lines[number + 1:]:
                if not comment.startswith('# '):
                    break
                comments.append('    ' + comment[2:])
            yield FAILED, name, '\n'.join(comments[:30])


def skipped_cases(stdout):
    """The reasons of an iotest to skip some of its cases."""
    return CASE.findall(stdout)


def exit_reason(stdout):
    lines = [line for line in stdout.splitlines() if line.startswith('SKIP ')]
    return lines[-1][5:] if lines else ''


def last_words(test):
    """What a test that failed as a whole had to say."""
    lines = (test.get('stdout', '') + test.get('stderr', '')).splitlines()
    return '\n'.join('    ' + line for line in [test['result']] + lines[-15:])


def verdicts(test):
    """The verdicts on one test of the log, at least one."""
    stdout = test.get('stdout', '')
    result = test['result']
    found = list(subtests(stdout))
    if not found or (result == 'SKIP' and
                     not any(verdict == SKIPPED for verdict, _, _ in found)):
        if result == 'SKIP':
            plan = re.search(r'^1\.\.0 *# *skip\S* *(.*)$', stdout, re.I | re.M)
            reason = plan.group(1) if plan else exit_reason(stdout)
            return [(SKIPPED, '', reason)]
        if result in ('OK', 'EXPECTEDFAIL'):
            found = [(PASSED, '', '')]
        else:
            found = [(FAILED, '', last_words(test))]
        return found + [(SKIPPED, 'a case', words)
                        for words in skipped_cases(stdout)]
    # Crashed, timed out or broke its plan: no subtest says so.
    if (result not in ('OK', 'SKIP', 'EXPECTEDFAIL')
            and not any(verdict == FAILED for verdict, _, _ in found)):
        found.append((FAILED, '', last_words(test)))
    return found


def main():
    path, status = sys.argv[1], int(sys.argv[2])
    count = {PASSED: 0, FAILED: 0, SKIPPED: 0}
    lines = {FAILED: [], SKIPPED: []}
    try:
        with open(path, encoding='utf-8') as log:
            tests = [json.loads(line) for line in log]
    except OSError:
        tests = []
    for test in tests:
        # "project:suite / name" in some versions, "name" in others.
        title = test['name'].split(' / ')[-1]
        for verdict, name, reason in verdicts(test):
            count[verdict] += 1
            words = f'{verdict}: {title} {name}'.rstrip()
            if verdict == SKIPPED:
                lines[SKIPPED].append(
                    f'{words} ({reason or "no reason given"})')
            elif verdict == FAILED:
                lines[FAILED].append(f'{words}\n{reason}'.rstrip())
    for name in sys.argv[3:]:
        count[SKIPPED] += 1
        lines[SKIPPED].append(f'skipped: {name} (only with --soak, or when its '
                              'suite is named)')
    # Meson itself failing, or no test at all, must not look like success.
    if not tests or (status and not count[FAILED]):
        count[FAILED] += 1
        lines[FAILED].append('failed: meson test ended with status '
                             f'{status} after {len(tests)} tests')
    for line in lines[SKIPPED] + lines[FAILED]:
        print(line)
    print(', '.join(f'{count[verdict]} {verdict}'
                    for verdict in (PASSED, FAILED, SKIPPED)))
    return 1 if count[FAILED] else 0


if __name__ == '__main__':
    sys.exit(main())
