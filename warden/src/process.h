/* Processes: what was started, what it prints, and how it ends. */
#ifndef PROCESS_H
#define PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "loop.h"
#include "ring.h"
#include "wire.h"

#define INPUT_MAX (1u << 20)
#define NO_LIMIT UINT64_MAX
/* The real uid of built-in operations, which nobody else has: code of the user can signal only what has its own. */
#define BUILTIN_UID 65532
/* As an offset of input: behind whatever was sent before. */
#define APPENDED UINT64_MAX

enum spawn_flag {
	SPAWN_TTY = 1, SPAWN_STDIN = 2, SPAWN_RUN_UNREAD = 4, SPAWN_TEXT = 8, SPAWN_FORGET = 16, SPAWN_BUILTIN = 32,
	SPAWN_FLAGS = 63,
};

enum outcome { RUNS, EXITED, SIGNALED, TIMED_OUT, OOM_KILLED, KILLED, DISK_FULL };

struct limit {
	uint32_t resource;
	struct rlimit value;
};

#define MAX_LIMITS 16

struct spawn_request {
	uint32_t flags, uid, gid, timeout_ms, grace_ms, window;
	uint64_t limit;
	uint16_t rows, columns;
	char id[MAX_ID + 1];
	/* Of texts that end in NUL, and these lists in NULL; all in `memory`. */
	char *cwd, **argv, **env;
	struct limit limits[MAX_LIMITS];
	uint32_t limit_count;
	char *memory;
};

struct tunnel;
struct process;

/* One stream of a tunnel that is attached to a process. */
struct reader {
	struct process *process;
	struct tunnel *tunnel;
	struct reader *next, *next_of_tunnel;
	/* In the tunnel's queue of those that may have something to send. */
	struct reader *next_queued;
	bool queued;
	uint32_t stream, window;
	uint64_t sent_seq, acked_seq;
	uint32_t unacked;
	/* The pieces after `sent_seq` and after `acked_seq`; NULL when there is none yet. */
	struct piece *to_send, *to_ack;
	uint64_t lost_first, lost_last;
	/* Whether it knows that the process has started; whether that was there before; when it is told at the latest. */
	bool told, existing;
	struct timer tell;
	bool exit_sent;
	/* What it has appended to the input, and how far the input must be read for all of that to be. */
	uint64_t appended, appended_end;
};

/* Somebody who waits for an end: for that of the process, or for the whole tree's. */
struct waiter {
	struct waiter *next;
	struct tunnel *tunnel;
	uint32_t stream;
	bool for_tree;
};

struct output {
	struct watch watch;
	struct process *process;
	uint8_t stream;
	/* Not read at present, for want of room in the ring. */
	bool paused;
	uint64_t total, kept;
	/* The beginning of a character whose rest hasn't come. */
	uint8_t carry[4];
	uint8_t carried;
	struct timer carry_timer;
};

struct input {
	struct watch watch;
	uint8_t *data;
	uint32_t start, length;
	/* Of all input: how much was written to the process, and how much of that the readers were told. */
	uint64_t confirmed, told;
	bool ends, closed;
};

struct process {
	/* In the tables by id, and, while it runs, by pid. */
	struct process *next, *next_of_pid;
	/* In the list of those that have ended, the oldest first. */
	struct process *next_ended;
	char id[MAX_ID + 1];
	uint32_t flags;
	pid_t pid;
	gid_t mark;
	/* Whether it can shed its mark; its session then tells what belongs to it, until its end. */
	bool root;
	/* Whether it may take more of the disk. */
	bool writes;
	struct out argv;
	uint64_t limit;
	int64_t started_us, started_wall_ms;
	uint32_t grace_ms;
	uint64_t oom_kills;
	struct output output[2];
	struct input input;
	struct ring ring;
	uint64_t acked_seq;
	struct reader *readers;
	struct waiter *waiters;
	struct timer timeout, kill, drain, orphan;

	/* What SIGNAL has sent it, one bit for each number. */
	uint64_t sent_signals;
	bool ending;
	int64_t kill_at;
	enum outcome reason;

	bool reaped;
	int64_t reaped_us, drain_until;
	bool left;
	enum outcome outcome;
	/* By a signal, when the sandbox was to end: nobody is told, as the engine tells of that. */
	bool ended_by_end;
	int status;
	struct rusage usage;
	/* Its end is told: nothing more is added to the ring. */
	bool ended;
};

/* Starts one, whose id no other has. Returns 0, or an errno and the stage at which it arose. */
int process_spawn(const struct spawn_request *request, struct process **process, enum stage *stage);
struct process *process_find(struct text id);
void process_each(void (*act)(struct process *process, void *context), void *context);
bool process_is_main(pid_t pid);
/* The one with that main process, or NULL. */
struct process *process_running(pid_t pid);
/* How many run. */
int process_count(void);
/* Sends a signal. Returns an errno. */
int process_signal(struct process *process, int signal, bool tree);
int process_forget(struct process *process);
void process_forget_unused(struct process *process);
/* Its main process has been reaped. */
void process_runs_no_more(struct process *process);
/* It has ended: from now on it is one of those that may be forgotten. */
void process_remember(struct process *process);

/* ending.c */

/* Has its whole tree end: by this signal, and after the grace by SIGKILL. */
void process_kill(struct process *process, int signal, uint32_t grace_ms, enum outcome reason);
/* Collects what has ended. Returns whether PID 1 has children left. */
bool process_reap(void);
/* Outputs were read as far as they go now: it has ended when nothing more is to come. */
void process_drained(struct process *process);
enum outcome process_outcome(const struct process *process);
void process_put_exit(struct process *process, struct out *out, uint32_t stream);
/* Adds a waiter, and answers it when there is nothing to wait for. */
void process_wait(struct process *process, struct tunnel *tunnel, uint32_t stream, bool for_tree);
void process_drop_waiters(struct tunnel *tunnel);

/* reader.c */

void process_attach(struct process *process, struct reader *reader, uint64_t after);
void process_detach(struct reader *reader);
/* Returns whether that was sent to the reader. */
bool process_acknowledge(struct reader *reader, uint64_t seq);

/* input.c. Returns whether the manager may send that. */
bool input_take(struct reader *reader, uint64_t offset, const uint8_t *data, uint32_t length);
bool input_end(struct reader *reader, uint64_t offset);
void input_open(struct process *process, int fd);
void input_close(struct process *process);

/* output.c */
void output_open(struct output *output, int fd);
void output_close(struct output *output);
/* Reads what there is, within bounds. */
void output_read(struct output *output);
void output_resume(struct process *process);
/* Adds what was held back. */
void output_flush(struct output *output);
bool output_is_open(const struct output *output);
/* How much all rings together may keep depends on what the sandbox has, in bytes. */
void output_set_memory(uint64_t memory_limit);

/* spawn.c: makes the process of it. Fills in pid, mark, input and output. */
int spawn_start(struct process *process, const struct spawn_request *request, enum stage *stage);
void spawn_set_nofile(rlim_t nofile);
/* In a child that runs no program: closes all but the standard streams. */
void spawn_close_the_rest(void);
/* There may be root commands from now on. */
void spawn_allow_root(void);
/* For a terminal. */
void spawn_resize(struct process *process, uint16_t rows, uint16_t columns);

#endif
