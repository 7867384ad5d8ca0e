/* Who reads a process: from which piece on, and how far they have come. */
#include <signal.h>

#include "process.h"
#include "tunnel.h"

/* How long a built-in operation goes on for nobody: the manager of an upload may come back, but not the one that
 * was killed. */
#define ORPHAN_MS 60000

static void on_orphan(struct timer *timer)
{
	struct process *process = CONTAINER_OF(timer, struct process, orphan);

	process_kill(process, SIGTERM, process->grace_ms, KILLED);
}

static bool is_orphan(const struct process *process)
{
	return !process->readers && !process->reaped && (process->flags & SPAWN_BUILTIN) && (process->flags & SPAWN_FORGET);
}

void process_attach(struct process *process, struct reader *reader, uint64_t after)
{
	struct ring *ring = &process->ring;

	if (after > ring->last_seq)
		after = ring->last_seq;
	if (after + 1 < ring_first_seq(ring)) {
		reader->lost_first = after + 1;
		reader->lost_last = ring_first_seq(ring) - 1;
		after = reader->lost_last;
	}
	reader->process = process;
	reader->sent_seq = reader->acked_seq = after;
	reader->to_send = reader->to_ack = ring_after(ring, after);
	reader->next = process->readers;
	process->readers = reader;
	/* It has all that comes before, and this may be the only acknowledgement of it. */
	if (after > process->acked_seq)
		process->acked_seq = after;
	timer_stop(&process->orphan);
	output_resume(process);
}

void process_detach(struct reader *reader)
{
	struct process *process = reader->process;
	struct reader **link = &process->readers;

	while (*link != reader)
		link = &(*link)->next;
	*link = reader->next;
	output_resume(process);
	process->orphan.fire = on_orphan;
	if (is_orphan(process))
		timer_set(&process->orphan, ORPHAN_MS);
	if ((process->flags & SPAWN_FORGET) && reader->exit_sent)
		process_forget_unused(process);
}

bool process_acknowledge(struct reader *reader, uint64_t seq)
{
	struct process *process = reader->process;

	if (seq > reader->sent_seq)
		return false;
	if (seq <= reader->acked_seq)
		return true;
	while (reader->to_ack && reader->to_ack->seq <= seq) {
		reader->unacked -= reader->to_ack->length;
		reader->to_ack = reader->to_ack->next;
	}
	reader->acked_seq = seq;
	if (seq > process->acked_seq)
		process->acked_seq = seq;
	output_resume(process);
	tunnel_queue(reader);
	return true;
}
