/* Loaded before the C library by benchmarks and tests: a disk that is slower, and is counted.
 *
 * SYNC_DELAY_US  microseconds that each sync of a file takes longer
 * SYNC_COUNTS    a file that gets one byte for each sync
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static void before_sync(void) {
    const char *delay = getenv("SYNC_DELAY_US");
    const char *counts = getenv("SYNC_COUNTS");
    if (delay) usleep((useconds_t)strtoul(delay, NULL, 10));
    if (counts) {
        int file = open(counts, O_WRONLY | O_APPEND | O_CREAT, 0600);
        if (file < 0 || write(file, ".", 1) != 1) abort();
        close(file);
    }
}

int fsync(int file) {
    int (*own)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    before_sync();
    return own(file);
}

int fdatasync(int file) {
    int (*own)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    before_sync();
    return own(file);
}
