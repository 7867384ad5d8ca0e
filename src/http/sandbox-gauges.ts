import { Gauge, type Registry } from 'prom-client';

import type { ManagerGauges, UsageReading } from '../telemetry.js';
import { abortable } from './calls.js';

/** Less than the two seconds that a scrape may take: the text is still to be made. */
const READ_MS = 1800;
/** Scrapes that come closer together share a reading: several that look must not make more work. */
const FRESH_MS = 1000;

const STATES = ['created', 'running', 'paused', 'restarting', 'removing', 'exited', 'dead'];

type ReadGauges = () => Promise<ManagerGauges>;

/** What a manager has now, read when it is asked for. What can't be had is left out: an old number would pass for new. */
export class SandboxGauges {
  readonly #gauges: ReturnType<typeof defineGauges>;
  readonly #cpu = new CpuMeter();
  #reading: Promise<void> | undefined;
  #freshUntil = 0;

  constructor(registry: Registry) {
    this.#gauges = defineGauges(registry);
  }

  /** Doesn't reject. */
  async refresh(readGauges: ReadGauges): Promise<void> {
    if (performance.now() < this.#freshUntil) return;
    this.#reading ??= this.#read(readGauges).finally(() => {
      this.#reading = undefined;
      this.#freshUntil = performance.now() + FRESH_MS;
    });
    await this.#reading;
  }

  async #read(readGauges: ReadGauges): Promise<void> {
    const { sandboxes, pool, sessions, queue, memory, cpu } = this.#gauges;
    sandboxes.reset();
    pool.reset();
    for (const gauge of [sessions, queue, memory, cpu]) gauge.remove();
    const signal = AbortSignal.timeout(READ_MS);
    const found = await inTime(signal, readGauges);
    if (found === undefined) return;
    for (const state of STATES) sandboxes.set({ state }, found.sandboxes[state] ?? 0);
    sessions.set(found.sandboxes['running'] ?? 0);
    pool.set({ state: 'ready' }, found.pool.ready);
    pool.set({ state: 'filling' }, found.pool.filling);
    queue.set(found.queueLength);
    const usage = await inTime(signal, () => found.usage({ signal }));
    if (usage === undefined) return;
    memory.set(usage.reduce((sum, { memoryBytes }) => sum + memoryBytes, 0));
    cpu.set(this.#cpu.percent(usage));
  }
}

/** Makes a rate of what was used in all. */
class CpuMeter {
  #before = new Map<string, number>();
  #at = performance.now();

  /** Of those that were there the last time; what was used before the first look has no time to go with it. */
  percent(usage: readonly UsageReading[]): number {
    const now = performance.now();
    const seconds = (now - this.#at) / 1000;
    const used = usage.reduce((sum, { id, cpuSeconds }) => {
      const before = this.#before.get(id) ?? cpuSeconds;
      // One that was started again begins at nothing.
      return sum + (cpuSeconds < before ? cpuSeconds : cpuSeconds - before);
    }, 0);
    this.#before = new Map(usage.map(({ id, cpuSeconds }) => [id, cpuSeconds]));
    this.#at = now;
    return seconds > 0 ? (used / seconds) * 100 : 0;
  }
}

/** Nothing where it failed or takes longer than the signal lasts. */
async function inTime<T>(signal: AbortSignal, read: (signal: AbortSignal) => Promise<T>): Promise<T | undefined> {
  try {
    return await abortable(read(signal), signal);
  } catch {
    // Why is in the log of whoever failed; here it shows by what is missing.
    return undefined;
  }
}

function defineGauges(registry: Registry) {
  const gauge = (name: string, help: string, labelNames: string[] = []) =>
    new Gauge({ name, help, labelNames, registers: [registry] });
  return {
    sandboxes: gauge('sandbox_sandboxes', 'Sandboxes of this owner that were handed out.', ['state']),
    sessions: gauge('sandbox_active_sessions', 'Sandboxes of this owner that run.'),
    pool: gauge('sandbox_pool_sandboxes', 'Warm sandboxes that nobody has claimed.', ['state']),
    queue: gauge('sandbox_create_queue_length', 'Creates that wait for their turn.'),
    memory: gauge('sandbox_memory_usage_bytes', 'Memory in use in the running sandboxes in use, all together.'),
    cpu: gauge(
      'sandbox_cpu_usage_percent',
      'CPU in use by the running sandboxes in use, all together, since the scrape before; 100 is one CPU.',
    ),
  };
}
