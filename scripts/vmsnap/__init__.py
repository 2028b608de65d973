# SPDX-License-Identifier: GPL-2.0-or-later

"""
Virtual machines that are saved, reverted and verified.

machine    a VM with the test guest in it, on top of QEMU's own Python modules
storage    disk images, and what the storage can do without QEMU
trace      what the patched QEMU's trace events tell
report     medians of paired runs, as a table and for JSON
command    options, set-up and end of the demo and the benchmark
preflight  the host: what would fail after a long set-up, what figures are of
status     one line that tells what is going on

The demo, the benchmarks and the longer tests share these modules.  They need
nothing but the standard library and the Python modules in QEMU's source tree.
"""
