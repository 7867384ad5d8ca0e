/* The mark that every process of one tree bears and can't shed: a supplementary group of its own, which children
 * inherit and which nobody without CAP_SETGID can give up. */
#ifndef MARK_H
#define MARK_H

#include <stdbool.h>
#include <sys/types.h>

void mark_open(void);
/* One that no process bears. */
gid_t mark_new(void);
/* Sends the signal, if it isn't 0, to every process that bears the mark. Returns how many there are that still
 * run. */
int mark_signal(gid_t mark, int signal);
/* The same for a tree of root's, which can shed its mark: also for what is in the session of its first. */
int mark_signal_session(gid_t mark, pid_t session, int signal);
/* Whether a process with the mark has lost its parent, as what outlives the first of its tree has. `is_main` tells
 * the processes that PID 1 has started itself. */
bool mark_left(gid_t mark, bool (*is_main)(pid_t pid));
/* Sends the signal to whatever runs but PID 1, what the engine has brought in, and what is spared. Returns how many there
 * are. */
int mark_signal_all(int signal, bool (*is_spared)(pid_t pid));
/* Stops the same, all at once: those others stand still for a moment, too. All goes on by kill(-1, SIGCONT). */
void mark_stop_all(bool (*is_spared)(pid_t pid));

#endif
