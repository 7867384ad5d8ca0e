import { setTimeout as sleep } from 'node:timers/promises';

import { anySignal } from '../../src/any-signal.js';
import { isSandyardError, type CreateOptions, type Sandbox } from '../../src/index.js';
import type { Ground } from './ground.js';
import { rest, USES } from './uses.js';

/** What has become of all that was begun; `counts` has how often each thing was done. */
export class Tally {
  readonly counts = new Map<string, number>();
  /** The first of them. */
  readonly faults: string[] = [];

  add(what: string): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + 1);
  }

  fault(what: string, error: unknown): void {
    this.add('faults');
    if (this.faults.length < 20) this.faults.push(`${what}: ${error instanceof Error ? error.stack : String(error)}`);
  }
}

const NAMES = Object.keys(USES);
const TTL_MS = 10 * 60_000;

/** One sandbox after the other, from its creation to its end, until there is no more time. */
export async function live(ground: Ground, tally: Tally, until: number): Promise<void> {
  while (performance.now() < until) {
    try {
      await liveOnce(ground, tally);
    } catch (error) {
      tally.fault('a life', error);
      await sleep(100); // an engine that is gone is no reason to spin
    }
  }
}

async function liveOnce(ground: Ground, tally: Tally): Promise<void> {
  const { random } = ground;
  const expires = random.next() < 0.05;
  const sandbox = await create(ground, tally, { ttlMs: expires ? random.between(1000, 2000) : TTL_MS });
  if (sandbox === undefined) return;
  if (expires) {
    await sandbox.wait({ signal: ground.signal });
    tally.add('expired');
    return;
  }
  try {
    for (let uses = random.between(2, 10); uses > 0; uses -= 1) await use(ground, tally, sandbox);
    if (random.next() < 0.1) await restart(ground, tally, sandbox);
    if (random.next() < 0.05) await pause(ground, tally, sandbox);
  } finally {
    await sandbox.destroy({ signal: ground.signal });
  }
  tally.add('destroyed');
}

/** Every seventh is given up half-way, or after it was made; some are the service's to make, some can't be warm ones. */
async function create(ground: Ground, tally: Tally, options: CreateOptions): Promise<Sandbox | undefined> {
  const { manager, random, signal, url } = ground;
  if (random.next() < 0.2) {
    const body = JSON.stringify({ timeout: (options.ttlMs ?? TTL_MS) / 1000 });
    const { id } = (await rest(url, 'POST', '/api/sandboxes', { body })) as { id: string };
    tally.add('created by REST');
    return manager.get(id, { signal });
  }
  const labels = random.next() < 0.3 ? { 'soak.cold': 'yes' } : undefined;
  const givesUp = random.next() < 0.15;
  const giveUp = givesUp ? anySignal([signal, AbortSignal.timeout(random.between(0, 600))]) : signal;
  try {
    const sandbox = await manager.create({ ...options, labels }, { signal: giveUp });
    tally.add(labels === undefined ? 'created' : 'created cold');
    return sandbox;
  } catch (error) {
    if (!givesUp || !isSandyardError(error, 'aborted')) throw error;
    tally.add('given up');
    return undefined;
  }
}

async function use(ground: Ground, tally: Tally, own: Sandbox): Promise<void> {
  const name = ground.random.pick(NAMES);
  const sandbox = ground.random.next() < 0.3 ? ground.resident : own;
  try {
    await USES[name]?.(ground, sandbox);
    tally.add(name);
  } catch (error) {
    tally.fault(name, error);
  }
}

async function restart({ signal }: Ground, tally: Tally, sandbox: Sandbox): Promise<void> {
  await sandbox.stop({ graceMs: 0, signal });
  await sandbox.start({ signal });
  await sandbox.exec(['true'], { signal });
  tally.add('stopped and started');
}

async function pause({ signal }: Ground, tally: Tally, sandbox: Sandbox): Promise<void> {
  await sandbox.pause({ signal });
  await sandbox.unpause({ signal });
  await sandbox.exec(['true'], { signal });
  tally.add('paused and unpaused');
}
