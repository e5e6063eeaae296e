/* Loaded into a program, it stands for a disk that hangs: while the file of the variable HUNG exists, fsync does not return, and
   a file with the ending .met says that one was called. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

int fsync(int file) {
    const char *gate = getenv("HUNG");
    if (gate && access(gate, F_OK) == 0) {
        char met[4096];
        snprintf(met, sizeof met, "%s.met", gate);
        close(open(met, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
        while (access(gate, F_OK) == 0) usleep(10000);
    }
    return syscall(SYS_fsync, file);
}
