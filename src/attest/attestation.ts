import { toSpec } from '../create/plan.js';
import { toEndpoint } from '../egress/endpoint.js';
import type { CallOptions, ContainerSpec, EgressEndpoint, Engine } from '../engine/engine.js';
import { isSandyardError, SandyardError, type ErrorCode } from '../errors.js';
import { Builtin } from '../files/builtin.js';
import { isGvisor } from '../isolation.js';
import type { ProcessTarget } from '../process/remote-run.js';
import { containerName, type SandboxRecord } from '../record/record.js';
import { judgeContainer, judgeInside, probedPaths, type AttestationCheck } from './judge.js';
import { parseProbe } from './probe-report.js';

/** What is promised is promised of code that isn't root's. */
const ORDINARY = { uid: 1000, gid: 1000 };

const PROBE_TIMEOUT_MS = 15_000;
/** Much more than a probe has to say. */
const MAX_PROBE_BYTES = 1024 * 1024;

/** What goes beyond the sandbox itself: then there is nothing to attest. */
const NOT_ITS_OWN: ReadonlySet<ErrorCode> = new Set([
  'aborted',
  'manager_closed',
  'sandbox_not_found',
  'engine_unavailable',
]);

/** What is enforced of what a sandbox was made with. */
export interface Attestation {
  readonly sandboxId: string;
  readonly at: Date;
  /** The engine's name of the runtime that it runs on. */
  readonly runtime: string;
  /** Whether all that it was made with is in force. */
  readonly ok: boolean;
  /** Whether something is not as it was made. */
  readonly drift: boolean;
  readonly checks: readonly AttestationCheck[];
}

interface AttestParts {
  readonly engine: Engine;
  readonly record: SandboxRecord;
  readonly target: ProcessTarget;
}

/** Throws `wrong_state` for a sandbox that doesn't run. */
export async function attest(parts: AttestParts, { signal }: CallOptions): Promise<Attestation> {
  const { engine, record } = parts;
  const target = parts.target.user.uid === 0 ? { ...parts.target, user: ORDINARY } : parts.target;
  const comparison = await engine.compareContainer(record.containerId, await toExpectedSpec(engine, record, signal), {
    signal,
  });
  if (comparison.state !== 'running') {
    throw new SandyardError(
      'wrong_state',
      `The sandbox ${record.id} is ${comparison.state}, so nothing can be tested in it.`,
      {
        hint: comparison.state === 'paused' ? 'Unpause it first.' : 'Start it first.',
      },
    );
  }
  // What code in it sees is another kernel, which has limits of its own.
  const gvisor = isGvisor(comparison.runtime);
  let inside: AttestationCheck[];
  try {
    const output = await probe(target, { paths: probedPaths(comparison), signal });
    inside = judgeInside(parseProbe(output), { comparison, user: target.user, gvisor });
  } catch (error) {
    if (!isSandyardError(error) || NOT_ITS_OWN.has(error.code)) throw error;
    inside = [noProbe(error)];
  }
  const checks = [...judgeContainer(comparison, record.id), ...inside];
  return {
    sandboxId: record.id,
    at: new Date(),
    runtime: comparison.runtime,
    ok: checks.every(({ status }) => status === 'ok'),
    drift: checks.some(({ status }) => status === 'drift'),
    checks,
  };
}

/** What its container was to be made as. What goes by its image is none of what is compared. */
async function toExpectedSpec(
  engine: Engine,
  record: SandboxRecord,
  signal: AbortSignal | undefined,
): Promise<ContainerSpec> {
  const { id, name, image, projectName, tenant, maxLifetimeMs } = record;
  const plan = {
    id,
    name,
    image,
    traits: record,
    projectName,
    tenant,
    maxLifetimeMs,
    labels: {},
    env: {},
    secrets: [],
    hasOwnLabels: false,
  };
  const egress = typeof record.network === 'object' ? await findEndpoint(engine, id, signal) : undefined;
  const imageBytes = (record.quotaBytes ?? 0) - (record.limits.diskBytes ?? 0);
  return toSpec(plan, { id: '', labels: {}, bytes: imageBytes }, { egress });
}

/** Where its network is gone its addresses are, too: whatever it has is then not what it should have. */
async function findEndpoint(engine: Engine, id: string, signal: AbortSignal | undefined): Promise<EgressEndpoint> {
  const network = containerName(id);
  return toEndpoint(network, (await engine.findSubnet(network, { signal })) ?? '');
}

async function probe(
  target: ProcessTarget,
  { paths, signal }: { paths: readonly string[]; signal: AbortSignal | undefined },
): Promise<Uint8Array> {
  const call = { argv: ['probe', ...paths], path: 'the probe', signal, timeoutMs: PROBE_TIMEOUT_MS };
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of new Builtin(target, call).stdout()) {
    bytes += chunk.length;
    if (bytes > MAX_PROBE_BYTES) {
      throw new SandyardError('channel_failed', 'What the sandbox told of itself is longer than a probe can be.');
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/** Code in the sandbox can end a probe, or leave it no process to run as: that is said, and is not ok. */
function noProbe({ message }: SandyardError): AttestationCheck {
  return {
    check: 'probe',
    source: 'inside',
    expected: 'answers',
    found: message,
    status: 'unknown',
    fix: 'Ask again when the sandbox has processes and memory left; where it stays so, destroy it.',
  };
}
