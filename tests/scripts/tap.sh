# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Enough of TAP for the tests of this folder; sourced by them.

# The variables set here are used by those who source this.
# shellcheck disable=SC2034
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
build=${QFS_BUILD_DIR:-$root/build}
PATH=/usr/bin:/bin:/usr/sbin:/sbin:$PATH
tap_count=0

# check NAME COMMAND...: one subtest; what the command prints is shown when it
# fails.  Status 77 is a skip, whose reason is the last line printed.
check()
{
    local name=$1 output status=0
    shift

    tap_count=$((tap_count + 1))
    output=$("$@" 2>&1) || status=$?
    case $status in
    0)
        echo "ok $tap_count - $name"
        ;;
    77)
        echo "ok $tap_count - $name # SKIP ${output##*$'\n'}"
        ;;
    *)
        echo "not ok $tap_count - $name"
        # So marked that nothing of it looks like a verdict.
        echo "# ${output//$'\n'/$'\n'# }"
        ;;
    esac
}

tap_done()
{
    echo "1..$tap_count"
}

# Prints the repository's files that match the patterns, one a line.
files_of_ours()
{
    if [ -e "$root/.git" ]; then
        git -c safe.directory='*' -C "$root" ls-files --cached --others \
            --exclude-standard -- "$@"
    else
        (cd "$root" && for pattern in "$@"; do
            find . -path ./build -prune -o -type f -path "./$pattern" -print
        done | sed 's,^\./,,')
    fi | sort -u | while read -r name; do
        [ ! -f "$root/$name" ] || echo "$name"
    done
}

# The same for scripts that NAME (sh or python) runs.
scripts_in()
{
    files_of_ours '*' | while read -r name; do
        if head -n 1 "$root/$name" | tr -d '\0' | grep -qE "^#!.*$1"; then
            echo "$name"
        fi
    done
}
