/* What holds for PID 1 and for all that it starts. */
#ifndef CONFINE_H
#define CONFINE_H

#include <stdbool.h>

/* Once, before anything is started. With root commands these may have what it takes to install packages. */
int confine(bool root_commands);
/* In what is started for a user other than root, where there may be root commands: takes from it what these may have. */
void confine_user_command(void);
/* In an operation of root's: it has what it takes to see to any file, and nothing else. */
int confine_root_operation(void);
/* In what measures the disk: it can look at any file, and act for any user to see what that one has open, and no more. */
int confine_measuring(void);

#endif
