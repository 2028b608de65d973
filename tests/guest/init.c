/*
 * The test guest: an init that owns nearly all of the guest's memory
 *
 * Started by the kernel as process 1 of an initramfs.  It takes and locks
 * nearly all free memory, then obeys commands, one a line, that come in on the
 * first serial port.  Kernel messages go to the second one, so that an answer
 * is never torn apart.  Between commands the program sleeps in read(): the CPU
 * time of the QEMU process is then QEMU's own.
 *
 * Each command ends in one line that begins with "ok" or "error"; lines that
 * begin with "progress" may come before it.  README.rst lists the commands.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define MiB                 (1024ULL * 1024)
#define PORT                "/dev/ttyS0"
#define MODULE_LIST         "/modules.list"

/* Large steps keep /proc/meminfo reads few, small ones land near the limit */
#define MAX_STEP            (64 * MiB)
#define MIN_STEP            (1 * MiB)
/* mmap() does not align to huge pages by itself on all kernels */
#define HUGE_PAGE           (2 * MiB)

/* Work between two looks at the clock */
#define SLICE               (16 * MiB)
/* An altered word in every unit that storage could lose or mix up */
#define DIRTY_STRIDE        512
#define DISK_CHUNK          (1 * MiB)

/* What QEMU looks at when it leaves out zeroes */
#define PAGE_WORDS          (4096 / sizeof(uint64_t))

typedef struct Mismatch {
    uint64_t first;             /* byte offset of the first wrong word */
    uint64_t wanted;
    uint64_t found;
    uint64_t words;             /* how many words are wrong */
} Mismatch;

typedef struct Command {
    const char *name;
    int min_args;
    int max_args;               /* those left out are 0 */
    void (*run)(const uint64_t *args);
} Command;

/* The memory under test, whole and locked from start-up on */
static uint64_t *memory;
static uint64_t memory_size;

static int port = -1;
static time_t progress_at;

static __attribute__((format(printf, 1, 2))) void say(const char *fmt, ...)
{
    char line[512];
    va_list ap;
    int len;

    va_start(ap, fmt);
    len = vsnprintf(line, sizeof(line) - 1, fmt, ap);
    va_end(ap);
    if (len > (int)sizeof(line) - 2) {
        len = sizeof(line) - 2;
    }
    line[len++] = '\n';

    for (char *p = line; len > 0; ) {
        ssize_t n = write(port, p, len);

        if (n < 0 && errno != EINTR) {
            return;
        }
        if (n > 0) {
            p += n;
            len -= n;
        }
    }
}

static time_t now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec;
}

static void say_progress(uint64_t done, uint64_t total)
{
    if (now() != progress_at && done < total) {
        progress_at = now();
        say("progress %" PRIu64, done * 100 / total);
    }
}

/*
 * The pattern: word number @pos of the data that belongs to @seed
 *
 * Every word depends on its position, so that data which is right but in the
 * wrong place is found; one multiplication a word keeps it fast under TCG.
 */
static inline uint64_t pattern(uint64_t seed, uint64_t pos)
{
    uint64_t x = seed + pos * 0x9e3779b97f4a7c15ULL;

    x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93ULL;
    return x ^ (x >> 32);
}

/*
 * Whether the page that @pos is in has to be zero, as @percent of all have
 *
 * They are strewn about, so that no part of memory is all of one kind.
 */
static bool is_zero_page(uint64_t seed, uint64_t percent, uint64_t pos)
{
    return pattern(~seed, pos / PAGE_WORDS) % 100 < percent;
}

/* Seeds 1, 2, 3 must not give the same sequence at shifted positions */
static uint64_t scramble(uint64_t seed)
{
    return pattern(pattern(seed, 1), 2);
}

static void fill_words(uint64_t *buf, uint64_t seed, uint64_t pos,
                       uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        buf[i] = pattern(seed, pos + i);
    }
}

static void note_mismatch(Mismatch *bad, uint64_t pos, uint64_t wanted,
                          uint64_t found)
{
    if (bad->words++ == 0) {
        bad->first = pos * sizeof(uint64_t);
        bad->wanted = wanted;
        bad->found = found;
    }
}

static void check_words(const uint64_t *buf, uint64_t seed, uint64_t pos,
                        uint64_t count, Mismatch *bad)
{
    for (uint64_t i = 0; i < count; i++) {
        uint64_t wanted = pattern(seed, pos + i);

        if (__builtin_expect(buf[i] != wanted, 0)) {
            note_mismatch(bad, pos + i, wanted, buf[i]);
        }
    }
}

static void say_verdict(const char *what, uint64_t size, const Mismatch *bad)
{
    if (bad->words == 0) {
        say("ok %s %" PRIu64, what, size);
        return;
    }
    say("error %s: %" PRIu64 " of %" PRIu64 " words differ, the first at "
        "offset 0x%" PRIx64 ": 0x%016" PRIx64 " instead of 0x%016" PRIx64,
        what, bad->words, size / sizeof(uint64_t), bad->first, bad->found,
        bad->wanted);
}

/* Memory commands */

static uint64_t slice_at(uint64_t offset, uint64_t size, uint64_t slice)
{
    return size - offset < slice ? size - offset : slice;
}

/* A slice begins and ends at a page, because memory does */
static void fill_slice(uint64_t seed, uint64_t percent, uint64_t pos,
                       uint64_t count)
{
    for (uint64_t end = pos + count; pos < end; pos += PAGE_WORDS) {
        if (is_zero_page(seed, percent, pos)) {
            memset(memory + pos, 0, PAGE_WORDS * sizeof(uint64_t));
        } else {
            fill_words(memory + pos, seed, pos, PAGE_WORDS);
        }
    }
}

static void cmd_fill(const uint64_t *args)
{
    uint64_t seed = scramble(args[0]);

    for (uint64_t off = 0; off < memory_size; off += SLICE) {
        fill_slice(seed, args[1], off / sizeof(uint64_t),
                   slice_at(off, memory_size, SLICE) / sizeof(uint64_t));
        say_progress(off, memory_size);
    }
    say("ok fill %" PRIu64, memory_size);
}

static void check_zeroes(uint64_t pos, Mismatch *bad)
{
    for (uint64_t i = pos; i < pos + PAGE_WORDS; i++) {
        if (memory[i]) {
            note_mismatch(bad, i, 0, memory[i]);
        }
    }
}

static void check_slice(uint64_t seed, uint64_t percent, uint64_t pos,
                        uint64_t count, Mismatch *bad)
{
    for (uint64_t end = pos + count; pos < end; pos += PAGE_WORDS) {
        if (is_zero_page(seed, percent, pos)) {
            check_zeroes(pos, bad);
        } else {
            check_words(memory + pos, seed, pos, PAGE_WORDS, bad);
        }
    }
}

static void cmd_verify(const uint64_t *args)
{
    uint64_t seed = scramble(args[0]);
    Mismatch bad = { 0 };

    for (uint64_t off = 0; off < memory_size; off += SLICE) {
        check_slice(seed, args[1], off / sizeof(uint64_t),
                    slice_at(off, memory_size, SLICE) / sizeof(uint64_t),
                    &bad);
        say_progress(off, memory_size);
    }
    say_verdict("verify", memory_size, &bad);
}

/*
 * Which word is altered moves with the seed; adding an odd number to it makes
 * sure that it differs from what was there before.
 */
static void cmd_dirty(const uint64_t *args)
{
    const uint64_t stride = DIRTY_STRIDE / sizeof(uint64_t);
    uint64_t words = memory_size / sizeof(uint64_t);
    uint64_t seed = scramble(args[0]);

    for (uint64_t pos = seed % stride; pos < words; pos += stride) {
        memory[pos] += seed | 1;
        if (pos % (SLICE / sizeof(uint64_t)) < stride) {
            say_progress(pos, words);
        }
    }
    say("ok dirty %" PRIu64, memory_size);
}

/* For tests of the tests: one wrong byte, which verify must find */
static void cmd_poke(const uint64_t *args)
{
    if (args[0] >= memory_size) {
        say("error poke: offset beyond the memory's end");
        return;
    }
    ((uint8_t *)memory)[args[0]] ^= 1;
    say("ok poke %" PRIu64, args[0]);
}

static void cmd_size(const uint64_t *args)
{
    say("ok size %" PRIu64, memory_size);
}

/* The guest's clock stands still with the guest and goes back with a revert */
static void cmd_count(const uint64_t *args)
{
    struct timespec ts;
    uint64_t ns;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    ns = ts.tv_sec * UINT64_C(1000000000) + ts.tv_nsec;
    say("ok count %" PRIu64, ns);
}

/* Disk commands */

static int open_disk(void)
{
    static const char *const names[] = {
        "/dev/vda", "/dev/sda", "/dev/nvme0n1"
    };

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        /* Direct: the page cache is memory, and would be reverted with it */
        int fd = open(names[i], O_RDWR | O_DIRECT);

        if (fd >= 0 || errno != ENOENT) {
            return fd;
        }
    }
    return -1;
}

static uint64_t *disk_buffer(void)
{
    static uint64_t buf[DISK_CHUNK / sizeof(uint64_t)]
        __attribute__((aligned(4096)));

    return buf;
}

static bool disk_write(int fd, uint64_t seed, uint64_t size)
{
    for (uint64_t off = 0; off < size; off += DISK_CHUNK) {
        uint64_t len = slice_at(off, size, DISK_CHUNK);

        fill_words(disk_buffer(), seed, off / sizeof(uint64_t),
                   len / sizeof(uint64_t));
        if (pwrite(fd, disk_buffer(), len, off) != (ssize_t)len) {
            return false;
        }
        say_progress(off, size);
    }
    return fsync(fd) == 0;
}

static bool disk_check(int fd, uint64_t seed, uint64_t size, Mismatch *bad)
{
    for (uint64_t off = 0; off < size; off += DISK_CHUNK) {
        uint64_t len = slice_at(off, size, DISK_CHUNK);

        if (pread(fd, disk_buffer(), len, off) != (ssize_t)len) {
            return false;
        }
        check_words(disk_buffer(), seed, off / sizeof(uint64_t),
                    len / sizeof(uint64_t), bad);
        say_progress(off, size);
    }
    return true;
}

static void run_disk(const char *what, const uint64_t *args, bool writes)
{
    uint64_t seed = scramble(args[0]);
    uint64_t size = args[1];
    Mismatch bad = { 0 };
    int fd;
    bool ok;

    if (size == 0 || size % 4096) {
        say("error %s: the size must be a multiple of 4096", what);
        return;
    }
    fd = open_disk();
    if (fd < 0) {
        say("error %s: cannot open a disk: %s", what, strerror(errno));
        return;
    }
    ok = writes ? disk_write(fd, seed, size)
                : disk_check(fd, seed, size, &bad);
    if (ok) {
        say_verdict(what, size, &bad);
    } else {
        say("error %s: %s", what, strerror(errno));
    }
    close(fd);
}

static void cmd_disk_fill(const uint64_t *args)
{
    run_disk("disk-fill", args, true);
}

static void cmd_disk_verify(const uint64_t *args)
{
    run_disk("disk-verify", args, false);
}

static void cmd_poweroff(const uint64_t *args)
{
    say("ok poweroff");
    tcdrain(port);
    reboot(RB_POWER_OFF);
}

/* Start-up */

static uint64_t meminfo(const char *key)
{
    FILE *f = fopen("/proc/meminfo", "re");
    char line[128];
    uint64_t kib = 0;

    while (f && fgets(line, sizeof(line), f)) {
        if (!strncmp(line, key, strlen(key))) {
            sscanf(line + strlen(key), "%" SCNu64, &kib);
            break;
        }
    }
    if (f) {
        fclose(f);
    }
    return kib * 1024;
}

/* What stays with the kernel: it needs more to run a larger machine */
static uint64_t memory_margin(void)
{
    return 8 * MiB + meminfo("MemTotal:") / 256;
}

static uint64_t next_step(uint64_t margin)
{
    uint64_t available = meminfo("MemAvailable:");
    uint64_t step;

    if (available < margin + MIN_STEP) {
        return 0;
    }
    step = (available - margin) / 2 / MIN_STEP * MIN_STEP;
    if (step < MIN_STEP) {
        return MIN_STEP;
    }
    return step < MAX_STEP ? step : MAX_STEP;
}

/*
 * In steps, looking again before each: there is no telling how much of
 * MemAvailable page tables and the kernel itself take on the way, and running
 * out of memory in process 1 is a panic.
 */
static void take_memory(void)
{
    uint64_t limit = meminfo("MemTotal:");
    uint64_t margin = memory_margin();
    uint64_t step;
    char *area;

    area = mmap(NULL, limit + HUGE_PAGE, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area == MAP_FAILED) {
        say("error cannot reserve memory: %s", strerror(errno));
        return;
    }
    area += -(uintptr_t)area % HUGE_PAGE;

    while ((step = next_step(margin)) && memory_size + step <= limit) {
        if (mlock(area + memory_size, step) < 0) {
            break;
        }
        memory_size += step;
        say_progress(memory_size, limit);
    }
    memory = (uint64_t *)area;
}

static void load_module(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || syscall(SYS_finit_module, fd, "", 0) < 0) {
        fprintf(stderr, "init: cannot load %s: %s\n", path, strerror(errno));
    }
    if (fd >= 0) {
        close(fd);
    }
}

static void load_modules(void)
{
    FILE *f = fopen(MODULE_LIST, "re");
    char path[256];

    while (f && fgets(path, sizeof(path), f)) {
        path[strcspn(path, "\n")] = '\0';
        load_module(path);
    }
    if (f) {
        fclose(f);
    }
}

static void mount_filesystems(void)
{
    mkdir("/proc", 0755);
    mkdir("/sys", 0755);
    mkdir("/dev", 0755);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("sysfs", "/sys", "sysfs", 0, NULL);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
}

static bool open_port(void)
{
    struct termios tio;

    port = open(PORT, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (port < 0 || tcgetattr(port, &tio) < 0) {
        return false;
    }
    cfmakeraw(&tio);
    cfsetspeed(&tio, B115200);
    return tcsetattr(port, TCSANOW, &tio) == 0;
}

/* The main loop */

static const Command commands[] = {
    { "fill", 1, 2, cmd_fill },
    { "verify", 1, 2, cmd_verify },
    { "dirty", 1, 1, cmd_dirty },
    { "poke", 1, 1, cmd_poke },
    { "size", 0, 0, cmd_size },
    { "count", 0, 0, cmd_count },
    { "disk-fill", 2, 2, cmd_disk_fill },
    { "disk-verify", 2, 2, cmd_disk_verify },
    { "poweroff", 0, 0, cmd_poweroff },
};

static const Command *find_command(const char *name)
{
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (!strcmp(commands[i].name, name)) {
            return &commands[i];
        }
    }
    return NULL;
}

/* How many numbers there are on the rest of the line; -1 if not that many */
static int parse_args(uint64_t *args, int max_args)
{
    char *word;
    int count = 0;

    while ((word = strtok(NULL, " "))) {
        int len;

        if (count == max_args ||
            sscanf(word, "%" SCNu64 "%n", &args[count], &len) != 1 ||
            word[len]) {
            return -1;
        }
        count++;
    }
    return count;
}

static void obey(char *line)
{
    char *name = strtok(line, " ");
    const Command *cmd = name ? find_command(name) : NULL;
    uint64_t args[2] = { 0 };

    if (!cmd) {
        say("error no such command: %s", name ? name : "");
    } else if (parse_args(args, cmd->max_args) < cmd->min_args) {
        say("error %s takes %d to %d numbers", cmd->name, cmd->min_args,
            cmd->max_args);
    } else {
        progress_at = now();
        cmd->run(args);
    }
}

static void serve(void)
{
    FILE *in = fdopen(port, "r");
    char line[256];

    while (in && fgets(line, sizeof(line), in)) {
        line[strcspn(line, "\r\n")] = '\0';
        obey(line);
    }
}

int main(void)
{
    mount_filesystems();
    load_modules();
    if (!open_port()) {
        fprintf(stderr, "init: cannot open " PORT ": %s\n", strerror(errno));
    } else {
        take_memory();
        say("ready %" PRIu64, memory_size);
        serve();
    }

    /* Returning from process 1 would panic and fill the log with a trace */
    reboot(RB_POWER_OFF);
    return 1;
}
