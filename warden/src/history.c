#include "history.h"

#include "loop.h"
#include "usage.h"

/* How long the loop waits at the most, anyhow: so sampling wakes nothing that sleeps. */
#define INTERVAL_MS 10000
#define FIRST_MS 1000
#define KEPT 360
#define PER_FRAME 120

struct sample {
	int64_t at;
	struct usage usage;
};

static struct sample samples[KEPT];
static uint32_t taken;
static struct timer timer;

static void on_sample(struct timer *due)
{
	samples[taken++ % KEPT] = (struct sample){ wall_ms(), usage_now() };
	/* So that the two parts of the ring stay what they are. */
	if (taken == 2 * KEPT)
		taken = KEPT;
	timer_set(due, INTERVAL_MS);
}

void history_begin(void)
{
	timer.fire = on_sample;
	timer_set(&timer, FIRST_MS);
}

static void put_sample(struct out *out, const struct sample *sample)
{
	out_u64(out, (uint64_t)sample->at);
	out_u64(out, sample->usage.memory);
	out_u64(out, sample->usage.cpu_ns);
	out_u64(out, sample->usage.processes);
	out_u64(out, sample->usage.received);
	out_u64(out, sample->usage.sent);
}

void history_put(struct tunnel *tunnel, uint32_t stream)
{
	uint32_t left = taken < KEPT ? taken : KEPT, at = taken - left;

	while (left > 0) {
		struct out *out = tunnel_answer(tunnel);
		size_t frame = frame_begin(out, F_USAGE_SAMPLES, stream);
		uint32_t count = left < PER_FRAME ? left : PER_FRAME;

		out_u32(out, count);
		for (uint32_t i = 0; i < count; i++)
			put_sample(out, &samples[at++ % KEPT]);
		frame_end(out, frame);
		left -= count;
	}
	tunnel_put_done(tunnel, stream);
}
