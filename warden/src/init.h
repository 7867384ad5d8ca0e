/* PID 1: starts, runs the loop, and ends the sandbox. */
#ifndef INIT_H
#define INIT_H

#include <stdbool.h>

int init_main(int argc, char **argv);
/* Has everything in the sandbox end, and then the sandbox, with this exit code. */
void init_end(int code);
/* Whether that is so. */
bool init_is_ending(void);

/* hosts.c: has "localhost" known, where the engine has left that to the sandbox. */
void hosts_write(void);

/* connect.c: hands its standard input and output to PID 1, and waits for the end of the tunnel. */
int connect_main(void);

#define SOCKET_PATH "/var/lib/sandyard/socket"
#define BOOT_ID_BYTES 16

extern unsigned char boot_id[BOOT_ID_BYTES];

#endif
