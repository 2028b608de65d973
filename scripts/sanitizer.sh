# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What with-asan and with-tsan share; sourced by them.  Each of the two prints in
# settings the variables of the environment that its sanitizer takes, one a line,
# and fails in show_reports when what the programs left counts.

# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# How long programs may go on after the test, in tenths of a second.
patience=200

# Sanitizers need certain ranges of addresses, which more random bits than their
# compiler knew of may give to something else.  Sets unrandomized to a command
# that others are run by.
plain_addresses()
{
    local bits

    unrandomized=(setarch "$(uname -m)" --addr-no-randomize)
    ! "${unrandomized[@]}" true 2>/dev/null || return 0
    # Containers may forbid it.
    unrandomized=()
    bits=$(cat /proc/sys/vm/mmap_rnd_bits 2>/dev/null) || bits=0
    [ "$bits" -le 28 ] ||
        die "sanitizers do not work with addresses as random as here," \
            "and setarch -R is not allowed: run where it is, or run" \
            "sysctl vm.mmap_rnd_bits=28 as root"
}

# Prints OPTIONs the way sanitizers take them.
join_options()
{
    printf '%s:' "log_path='$folder/report'" "$@"
}

# Prints the processes that were started with these options and still run.
left_running()
{
    grep -lsF "log_path='$folder/report'" /proc/[0-9]*/environ |
        tr -dc '0-9\n'
}

# Whoever waits for a program to end may have given up.
await_all()
{
    local try pid pids

    for ((try = 0; try < patience; try++)); do
        pids=$(left_running)
        [ -n "$pids" ] || return 0
        sleep 0.1
    done
    for pid in $pids; do
        say "process $pid goes on after the test:" \
            "$(tr '\0' ' ' <"/proc/$pid/cmdline")"
    done
    # shellcheck disable=SC2086 # one word each
    kill -KILL $pids 2>/dev/null || :
    return 1
}

# run_watched FOLDER COMMAND [ARGUMENT...]: ends with the verdict on the test.
# Only the test sees the settings: left_running looks for them.
run_watched()
{
    local status=0 environment

    [ $# -ge 2 ] || die "${0##*/} needs a folder and a command:" \
                        "scripts/${0##*/} --help tells more"
    folder=$1
    shift
    plain_addresses
    rm -rf "$folder"
    mkdir -p "$folder"
    mapfile -t environment < <(settings)
    env "${environment[@]}" "${unrandomized[@]}" "$@" || status=1
    await_all || status=1
    show_reports || status=1
    [ "$status" -ne 0 ] || rm -rf "$folder"
    exit $status
}
