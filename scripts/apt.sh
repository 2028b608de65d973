# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# A private apt: the ordinary client with its own sources, lists and caches
# below the cache folder.  It inherits the machine's settings (proxies,
# credentials) and its mirrors, and changes nothing of them.  Sourced after
# lib.sh, whose variables it uses (shellcheck reads one file at a time).
# shellcheck disable=SC2153,SC2154

# Prints "URI SUITE" for each place the system takes packages from.  apt answers
# from its configuration, whatever its format and also when no list was ever
# fetched (indextargets does not).
system_sources()
{
    apt-get update --print-uris 2>/dev/null </dev/null |
        sed -n "s,^'\(.*\)/dists/\(.*\)/InRelease'.*,\1 \2,p"
}

# The suite this machine runs, by its code name.
own_suite()
{
    sed -n 's/^VERSION_CODENAME="\{0,1\}\([^"]*\).*/\1/p' /etc/os-release
}

# Sets mirror and security_mirror (may be empty) from the system's sources.
# Others than Debian name their suites alike, but have no -updates with it.
find_mirrors()
{
    local suite sources uri release

    suite=$(own_suite)
    sources=$(system_sources)
    mirror='' security_mirror=''
    while read -r uri release; do
        case $release in
        *-security | */updates) security_mirror=${security_mirror:-$uri} ;;
        "$suite" | stable | oldstable | testing | unstable | sid)
            if [ -z "$mirror" ] ||
                   { grep -qxF "$uri $release-updates" <<<"$sources" &&
                     ! grep -qE "^$mirror .*-updates$" <<<"$sources"; }; then
                mirror=$uri
            fi
            ;;
        esac
    done <<<"$sources"
    [ -n "$mirror" ] ||
        die "apt on this machine has no Debian mirror configured" \
            "(suite ${suite:-unknown}): add one to its sources, or give your" \
            "own QEMU tree with --qemu-src DIR"
}

# source_stanza TYPE URI SUITE
source_stanza()
{
    local keys=/usr/share/keyrings/debian-archive-keyring

    printf 'Types: %s\nURIs: %s\nSuites: %s\nComponents: main\n' "$@"
    if [ -f "$keys.gpg" ]; then
        echo "Signed-By: $keys.gpg"
    elif [ -f "$keys.pgp" ]; then
        echo "Signed-By: $keys.pgp"
    fi
    echo
}

# What each of the private source lists has in it.
source_list()
{
    local suite

    suite=$(own_suite)
    case $1 in
    release)
        source_stanza deb-src "$mirror" "$SUITE"
        [ -z "$security_mirror" ] ||
            source_stanza deb-src "$security_mirror" "$SUITE-security"
        ;;
    packages)
        source_stanza deb "$mirror" "$suite"
        [ -z "$security_mirror" ] ||
            source_stanza deb "$security_mirror" "$suite-security"
        ;;
    suite-*)
        source_stanza deb "$mirror" "${1#suite-}"
        ;;
    backports)
        source_stanza deb "$mirror" "$suite-backports"
        ;;
    esac
}

# The system's hooks run commands after an update: they are left out, and the
# whole configuration with them is replaced by this copy.
apt_conf()
{
    apt-config dump | grep -vE '^CommandLine|-Invoke'
    cat <<END
Dir::Etc::main "/dev/null";
Dir::Etc::parts "$1/none";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$1/parts";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "$1/none";
Dir::State::lists "$1/lists";
Dir::Cache "$1/cache";
Dir::Cache::archives "archives";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
APT::Get::Only-Source "false";
Acquire::Retries "3";
END
}

# apt_open LIST: makes the private apt for one source list, whose folder is then
# apt_dir, and fetches its indexes.
apt_open()
{
    need_cache
    apt_dir=$cache/apt/$1
    apt_log=$apt_dir/log
    find_mirrors
    if ! { mkdir -p "$apt_dir/parts" "$apt_dir/none" "$apt_dir/lists/partial" \
               "$apt_dir/cache/archives/partial" &&
           chmod 700 "$cache/apt" &&
           source_list "$1" >"$apt_dir/parts/private.sources" &&
           apt_conf "$apt_dir" >"$apt_dir/apt.conf"; } 2>/dev/null; then
        disk_full "$cache" && die "$(disk_full_text "$cache")"
        die "the cache folder $cache/apt cannot be written:" \
            "remove it, or set XDG_CACHE_HOME, and run again"
    fi
    say "reading the index of the machine's mirror ($1)"
    : >"$apt_log"
    apt_run apt-get update
}

# Runs one of apt's commands.
apt_try()
{
    APT_CONFIG=$apt_dir/apt.conf "$@" -q >>"$apt_log" 2>&1 </dev/null
}

# The same; when it fails this is the end.
apt_run()
{
    apt_try "$@" || apt_failed
}

# apt_ask COMMAND...: prints what it answers.
apt_ask()
{
    APT_CONFIG=$apt_dir/apt.conf "$@" 2>>"$apt_log" </dev/null
}

apt_failed()
{
    local reason

    reason=$(grep -m 1 '^E: ' "$apt_log" | cut -c 4-) || reason="see $apt_log"
    if grep -qE 'NO_PUBKEY|EXPKEYSIG' "$apt_log"; then
        die "the keyring of this machine is too old to verify the index" \
            "($reason): upgrade the package debian-archive-keyring and run" \
            "again"
    fi
    if grep -qE '404 +Not Found|does not have a Release file' "$apt_log"; then
        die "the mirror of this machine does not have what is needed" \
            "($reason): use a complete Debian mirror, or give your own QEMU" \
            "tree with --qemu-src DIR"
    fi
    if grep -qE 'Hash Sum mismatch|unexpected size' "$apt_log"; then
        die "the mirror sent something else than its signed index says" \
            "($reason): run again later, or use another mirror"
    fi
    if grep -qE 'resolv|connect|timed out|unreachable|[Tt]imeout' "$apt_log"
    then
        die "no network, or the mirror does not answer ($reason): connect" \
            "this machine and run again, what was fetched is kept"
    fi
    die_log "$apt_log" "fetching failed ($reason; log: $apt_log):" \
        "put right what it says and run again, what was fetched is kept"
}
