# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the scripts share; sourced, never run.
#
# Every script ends either well or in one sentence that starts with "error: ".
# What commands print goes into a log under build/log, so that the sentence is
# the last thing on the screen and the log has the rest.

# Most of the variables set here are read by those who source this.
# shellcheck disable=SC2034

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
scripts=$root/scripts
build=${QFS_BUILD_DIR:-$root/build}
base_lock=${QFS_BASE_LOCK:-$root/base.lock}

# A python or perl that comes first in PATH may lack the system's modules, and
# messages are parsed below.
PATH=/usr/bin:/bin:/usr/sbin:/sbin:${PATH:-/usr/local/bin}
LC_ALL=C.UTF-8
export PATH LC_ALL
unset CDPATH

die()
{
    echo "error: $*" >&2
    exit 1
}

say()
{
    echo "$*" >&2
}

# Prints the comment at the head of the script that runs, and ends.
show_help()
{
    sed -n '1,3d; /^#/!q; s/^# \{0,1\}//p' "$0"
    exit 0
}

# Sourced without arguments, this sees those of the script.
case ${1:-} in
-h | --help) show_help ;;
esac

# What a person started, which may start other scripts that inherit the name.
self="scripts/${0##*/} (process $$)"
export QFS_RUN=${QFS_RUN:-$self}

# Ctrl-C reaches all scripts of a run at once.  One of them says so, and none
# blames the command that it ended.
interrupted()
{
    if [ "$QFS_RUN" = "$self" ]; then
        # Not behind the progress and the terminal's ^C.
        [ ! -t 2 ] || say
        say "error: interrupted: run again to go on"
    fi
    exit 130
}
trap interrupted INT

no_option()
{
    die "there is no option $1: scripts/${0##*/} --help lists them"
}

# Since its version 18 the thread-safety analysis understands a lock that the
# end of a block releases, and QEMU does not turn it on for less.  Debian 12 and
# 13 have this one.
clang='clang-19'

# A build changes its folder.
[[ $build == /* ]] || die "QFS_BUILD_DIR: $build is no absolute path"
[ -r "$base_lock" ] || die "QFS_BASE_LOCK: there is no file $base_lock"
# shellcheck source=base.lock
. "$base_lock"

# Sets cache, the folder for what is fetched; it is made when missing.
need_cache()
{
    cache=${XDG_CACHE_HOME:-${HOME:-}/.cache}/qemu-fast-snapshot

    mkdir -p "$cache" 2>/dev/null && [ -w "$cache" ] && return
    disk_full "$cache" && die "$(disk_full_text "$cache")"
    die "the cache folder $cache cannot be written:" \
        "set XDG_CACHE_HOME to a folder of yours and run again"
}

# Makes build/ and its log folder, or says why not.
make_build_dir()
{
    mkdir -p "$build/log" 2>/dev/null && [ -w "$build/log" ] && return
    disk_full "$root" && die "$(disk_full_text "$build")"
    die "the folder $build cannot be written:" \
        "run as the user who owns it, or remove it and run again"
}

# A few MiB are left on purpose: a build that just failed for lack of space has
# removed the file it was writing.
disk_full()
{
    local dir=$1 free

    while [ ! -d "$dir" ] && [ -n "${dir#/}" ]; do
        dir=$(dirname "$dir")
    done
    free=$(df -Pk "$dir" 2>/dev/null | awk 'NR == 2 && $2 { print $4 }')
    [ "${free:-999999}" -lt 20000 ]
}

disk_full_text()
{
    echo "the disk that holds $1 is full: free some space" \
         "(a first build of both trees takes about 3 GiB) and run again," \
         "it goes on where it stopped"
}

# die_log LOG WORDS: ends with WORDS, or with the disk being full when LOG says
# that this was the reason.
die_log()
{
    local log=$1 dir
    shift

    for dir in "$build" "$(dirname "$log")" "${cache:-$build}" "${TMPDIR:-/tmp}"
    do
        if disk_full "$dir"; then
            die "$(disk_full_text "$dir")"
        fi
    done
    if grep -qiE 'no space left|disk quota|write error|\(28:' "$log" 2>/dev/null
    then
        die "$(disk_full_text "$build")"
    fi
    die "$*"
}

# take_lock FILE: one run at a time works on what FILE stands for; the lock goes
# with the process.
take_lock()
{
    local holder

    # Not emptied: it names the holder.
    exec {lock_fd}>>"$1" || die "$1 cannot be written"
    if ! flock -n "$lock_fd"; then
        holder=$(cat "$1")
        say "waiting for ${holder:-another run} to finish"
        flock "$lock_fd"
    fi
    # A full disk is told of elsewhere.
    { echo "$QFS_RUN" >"$1"; } 2>/dev/null || :
}

sha256_is()
{
    [ -f "$1" ] && [ "$(sha256sum <"$1")" = "$2  -" ]
}

# version_at_least HAVE WANTED
version_at_least()
{
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# Sets meson to the command of a meson that can build this QEMU: the system's
# when new enough, else the private copy that scripts/fetch unpacked.  Its
# python modules are in meson_path (empty: the system's).
find_meson()
{
    local have

    meson_path=
    have=$(/usr/bin/meson --version 2>/dev/null) || have=0
    if version_at_least "$have" "$MESON_MIN"; then
        meson=(/usr/bin/meson)
        return
    fi
    need_cache
    meson_path=$cache/meson/usr/lib/python3/dist-packages
    meson=(/usr/bin/python3 "$meson_path/meson.py")
    [ -f "$meson_path/meson.py" ]
}
