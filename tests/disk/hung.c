/* Loaded into a program, it stands for a disk that hangs: while the file of the variable HUNG exists, fsync does not return. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

int fsync(int file) {
    const char *gate = getenv("HUNG");
    while (gate && access(gate, F_OK) == 0) usleep(10000);
    return syscall(SYS_fsync, file);
}
