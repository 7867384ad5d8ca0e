import { anySignal } from '../any-signal.js';
import { Channel } from '../channel/channel.js';
import { planSandbox, toSpec } from '../create/plan.js';
import type { Limits } from '../config.js';
import type { CallOptions, ContainerSpec, Engine, ImageInfo, VolumeMount } from '../engine/engine.js';
import { TEMPORARY_LABEL } from '../engine/temporary.js';
import { isSandyardError, SandyardError } from '../errors.js';
import { runBuiltin } from '../files/builtin.js';
import { giveUpOn } from '../process/giving-up.js';
import { PendingCalls, type ProcessTarget } from '../process/remote-run.js';
import { newSandboxId } from '../schemas.js';
import { silentTelemetry } from '../telemetry.js';
import { WARDEN_PATH } from '../warden.js';

/*
 * A runtime is tried by having it run a sandbox: an engine offers all that it was told of, and one that hangs at its start
 * is worse than none.
 */

/** Each step's. */
const STEP_MS = 10_000;
const TRIAL_MEMORY = 128 * 1024 * 1024;
const TRIAL_TTL_MS = 60_000;
/** gVisor counts its own threads. */
const TRIAL_PIDS = 2048;

interface TrialParts {
  readonly engine: Engine;
  readonly image: string;
  readonly limits: Limits;
  readonly found: ImageInfo;
  readonly volume: VolumeMount | undefined;
}

export interface RuntimeTrial {
  readonly runtime: string;
  readonly seconds: number;
  /** Why it can't be used; `undefined` when it can. */
  readonly fault: string | undefined;
}

/** Creates a sandbox on the runtime, starts it, runs something in it, and removes it. Throws `aborted`. */
export async function tryRuntime(parts: TrialParts, runtime: string, { signal }: CallOptions): Promise<RuntimeTrial> {
  const spec = toTrialSpec(parts, runtime);
  const { engine } = parts;
  const began = performance.now();
  const faults: string[] = [];
  const attempt = async (doing: string, act: (signal: AbortSignal) => Promise<unknown>): Promise<void> => {
    if (faults.length === 0)
      await inTime(doing, { act, signal }).catch((error: unknown) => faults.push(explain(error)));
  };
  try {
    await attempt('be created', (step) => engine.createContainer(spec, { signal: step }));
    await attempt('start', (step) => engine.startContainer(spec.name, { signal: step }));
    await attempt('be as it was asked for', (step) => engine.verifyContainer(spec.name, spec, { signal: step }));
    await attempt('run anything', (step) => runSomething(engine, spec.name, step));
  } finally {
    // Also when nobody waits for it any more.
    await inTime('be removed', { act: (step) => engine.removeContainer(spec.name, { signal: step }) }).catch(
      (error: unknown) => faults.push(explain(error)),
    );
  }
  if (signal?.aborted === true) throw new SandyardError('aborted', 'The caller gave up.', { cause: signal.reason });
  return { runtime, seconds: (performance.now() - began) / 1000, fault: faults[0] };
}

function toTrialSpec({ image, limits, found, volume }: TrialParts, runtime: string): ContainerSpec {
  const asked = {
    memoryLimit: Math.min(TRIAL_MEMORY, limits.maxMemoryBytes),
    pidsLimit: Math.min(TRIAL_PIDS, limits.maxPids),
    ttlMs: Math.min(TRIAL_TTL_MS, limits.maxLifetimeMs),
    runtime,
    bounding: { quota: false, watched: false }, // the disk is tried by itself
  };
  const plan = planSandbox(asked, { id: newSandboxId(), owner: 'trial', image, limits });
  return { ...toSpec(plan, found, { volume }), name: `sandyard-trial-${plan.id}`, labels: { [TEMPORARY_LABEL]: '1' } };
}

/** One of the warden's own operations, as the image may have no program. */
async function runSomething(engine: Engine, name: string, signal: AbortSignal): Promise<void> {
  const channel = new Channel({ connect: (options) => engine.openTunnel(name, [WARDEN_PATH, 'connect'], options) });
  const target: ProcessTarget = {
    hold: () => ({ channel, release() {} }),
    user: { uid: 1000, gid: 1000 },
    rootAllowed: false,
    workdir: '/',
    env: {},
    telemetry: silentTelemetry,
    disk: { diskBytes: null, inodes: null },
    execTimeoutMs: STEP_MS,
    calls: new PendingCalls(),
    whyDied: () => Promise.resolve(null),
  };
  try {
    await runBuiltin(target, { argv: ['stat', '/', '0'], path: '/', signal });
  } finally {
    channel.close();
  }
}

async function inTime(
  doing: string,
  { act, signal }: { act: (signal: AbortSignal) => Promise<unknown>; signal?: AbortSignal | undefined },
): Promise<void> {
  const deadline = AbortSignal.timeout(STEP_MS);
  try {
    const step = signal === undefined ? deadline : anySignal([signal, deadline]);
    await giveUpOn(act(step), step);
  } catch (error) {
    if (!deadline.aborted) throw error;
    throw new SandyardError('engine_timeout', `It took longer than ${STEP_MS / 1000} s to ${doing}.`, { cause: error });
  }
}

function explain(error: unknown): string {
  if (isSandyardError(error)) return error.message;
  return error instanceof Error ? error.message : 'an unknown fault';
}
