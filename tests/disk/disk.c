/* Loaded before the C library by benchmarks and tests: a disk that is slower, is counted, fails, or is
 * recorded; and a clock that is wrong. Linux only.
 *
 * SYNC_DELAY_US   microseconds that each sync of a file takes longer
 * SYNC_COUNTS     a file that gets one byte for each sync
 *
 * Calls that change the files of a database, or make them last, are numbered from 1:
 *
 * FAULT_FILES     a part of the paths of those files
 * FAULT_AT        the number of the call at which something happens
 * FAULT_FOR       at how many calls from then on (1)
 * FAULT_KIND      `kill` (the process dies before it), `tear` (it dies half through a write), `full`,
 *                 `broken` (an I/O error)
 * FAULT_FIRED     a file that is made when it happens
 *
 * RECORD          a file that gets each such call, and what the process prints, in their order
 *
 * CLOCK_OFFSET    a file of 8 bytes: seconds by which the wall clock is ahead
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { WRITE = 'w', TRUNCATE = 't', CREATE = 'c', REMOVE = 'u', SYNCS = 's', SYNCED = 'S', PRINT = 'p' };

static atomic_long calls;

static long number(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? strtol(text, NULL, 10) : otherwise;
}

/* The path of an open file, or nothing for what is no file of the database. */
static const char *watched(int file, char *path) {
    const char *part = getenv("FAULT_FILES");
    if (!part) return NULL;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return NULL;
    path[length] = 0;
    return strstr(path, part) ? path : NULL;
}

/* Two records of two processes never mix: each is one write to the end of the file. */
static void record(char kind, const char *path, uint64_t place, const void *data, size_t size) {
    const char *name = getenv("RECORD");
    if (!name) return;
    static atomic_int opened = -1;
    int file = atomic_load(&opened);
    if (file < 0) {
        file = (int)syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        if (file < 0) abort();
        atomic_store(&opened, file);
    }
    char head[1 + 4 + 8 + 8];
    uint32_t path_length = (uint32_t)strlen(path);
    uint64_t length = size;
    head[0] = kind;
    memcpy(head + 1, &path_length, 4);
    memcpy(head + 5, &place, 8);
    memcpy(head + 13, &length, 8);
    struct iovec parts[3] = {
        {head, sizeof head}, {(void *)path, path_length}, {(void *)data, size}};
    ssize_t whole = (ssize_t)(sizeof head + path_length + size);
    if (syscall(SYS_writev, file, parts, 3) != whole) abort();
}

static _Noreturn void die(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

enum fate { GOES_ON, FAILS, TEARS };

/* Counts a call and says what becomes of it; `fault` is the error that it fails with. */
static enum fate fate(int *fault) {
    long first = number("FAULT_AT", 0);
    long call = atomic_fetch_add(&calls, 1) + 1;
    if (!first || call < first || call >= first + number("FAULT_FOR", 1)) return GOES_ON;
    const char *fired = getenv("FAULT_FIRED");
    if (fired) {
        int file = (int)syscall(SYS_openat, AT_FDCWD, fired, O_WRONLY | O_CREAT, 0600);
        if (file >= 0) syscall(SYS_close, file);
    }
    const char *kind = getenv("FAULT_KIND");
    if (!kind) abort();
    if (!strcmp(kind, "tear")) return TEARS;
    if (!strcmp(kind, "full")) { *fault = ENOSPC; return FAILS; }
    if (!strcmp(kind, "broken")) { *fault = EIO; return FAILS; }
    die();
}

/* The same for a call that happens as a whole: whether it fails, with its error in place. */
static int fails(void) {
    int fault = 0;
    switch (fate(&fault)) {
    case FAILS: errno = fault; return 1;
    case TEARS: die();
    default: return 0;
    }
}

static ssize_t written(int file, const void *data, size_t size, off_t place, int by_place) {
    char path[PATH_MAX];
    const char *name = watched(file, path);
    if (name) {
        off_t at = by_place ? place : lseek(file, 0, SEEK_CUR);
        int fault = 0;
        switch (fate(&fault)) {
        case FAILS:
            errno = fault;
            return -1;
        case TEARS:
            syscall(SYS_pwrite64, file, data, size / 2, at);
            die();
        default:
            record(WRITE, name, (uint64_t)at, data, size);
        }
    } else if (file == 1) {
        record(PRINT, "", 0, data, size);
    }
    return by_place ? syscall(SYS_pwrite64, file, data, size, place)
                    : syscall(SYS_write, file, data, size);
}

ssize_t write(int file, const void *data, size_t size) { return written(file, data, size, 0, 0); }

ssize_t pwrite(int file, const void *data, size_t size, off_t place) {
    return written(file, data, size, place, 1);
}

ssize_t pwrite64(int file, const void *data, size_t size, off_t place) {
    return written(file, data, size, place, 1);
}

static int truncated(int file, off_t size) {
    char path[PATH_MAX];
    const char *name = watched(file, path);
    if (name) {
        if (fails()) return -1;
        record(TRUNCATE, name, (uint64_t)size, NULL, 0);
    }
    return (int)syscall(SYS_ftruncate, file, size);
}

int ftruncate(int file, off_t size) { return truncated(file, size); }

int ftruncate64(int file, off_t size) { return truncated(file, size); }

static int synced(int file, long call) {
    useconds_t delay = (useconds_t)number("SYNC_DELAY_US", 0);
    const char *counts = getenv("SYNC_COUNTS");
    if (delay) usleep(delay);
    if (counts) {
        int counter = (int)syscall(SYS_openat, AT_FDCWD, counts, O_WRONLY | O_APPEND | O_CREAT, 0600);
        if (counter < 0 || syscall(SYS_write, counter, ".", 1) != 1) abort();
        syscall(SYS_close, counter);
    }
    char path[PATH_MAX];
    const char *name = watched(file, path);
    if (name) {
        if (fails()) return -1;
        record(SYNCS, name, (uint64_t)syscall(SYS_gettid), NULL, 0);
    }
    int result = (int)syscall(call, file);
    if (name && !result) record(SYNCED, name, (uint64_t)syscall(SYS_gettid), NULL, 0);
    return result;
}

int fsync(int file) { return synced(file, SYS_fsync); }

int fdatasync(int file) { return synced(file, SYS_fdatasync); }

int unlink(const char *path) {
    const char *part = getenv("FAULT_FILES");
    if (part && strstr(path, part)) {
        if (fails()) return -1;
        char whole[PATH_MAX];
        record(REMOVE, realpath(path, whole) ? whole : path, 0, NULL, 0);
    }
    return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

static int opened(const char *path, int flags, mode_t mode) {
    const char *part = getenv("FAULT_FILES");
    struct stat before;
    int makes = part && (flags & O_CREAT) && strstr(path, part) && stat(path, &before);
    if (makes && fails()) return -1;
    int file = (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    char whole[PATH_MAX];
    if (makes && file >= 0) record(CREATE, realpath(path, whole) ? whole : path, 0, NULL, 0);
    return file;
}

static int takes_mode(int flags) {
    return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE;
}

int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = takes_mode(flags) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return opened(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = takes_mode(flags) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return opened(path, flags | O_LARGEFILE, mode);
}

/* Seconds by which the wall clock is ahead. */
static int64_t ahead(void) {
    static _Atomic(volatile int64_t *) offset;
    const char *name = getenv("CLOCK_OFFSET");
    if (!name) return 0;
    volatile int64_t *seconds = atomic_load(&offset);
    if (!seconds) {
        int file = (int)syscall(SYS_openat, AT_FDCWD, name, O_RDONLY | O_CLOEXEC);
        if (file < 0) abort();
        seconds = mmap(NULL, sizeof *seconds, PROT_READ, MAP_SHARED, file, 0);
        if (seconds == MAP_FAILED) abort();
        syscall(SYS_close, file);
        atomic_store(&offset, seconds);
    }
    return *seconds;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = (int)syscall(SYS_clock_gettime, clock, time);
    if (!result && clock == CLOCK_REALTIME) time->tv_sec += ahead();
    return result;
}

int gettimeofday(struct timeval *time, void *zone) {
    int result = (int)syscall(SYS_gettimeofday, time, zone);
    if (!result) time->tv_sec += ahead();
    return result;
}
