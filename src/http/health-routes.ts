import { z } from 'zod';

import { anySignal } from '../any-signal.js';
import type { EngineInfo } from '../index.js';
import { DISK_MODES } from '../isolation.js';
import { operation, type Call, type Operation } from './operation.js';
import { shuttingDown } from './calls.js';
import { toSandyardError } from './problem.js';

/** An engine that answers later than this is of no use to a probe. */
const PROBE_TIMEOUT_MS = 5000;

const aliveAnswer = z.object({ status: z.literal('ok') }).describe('The service is alive.');

const readyAnswer = z
  .object({
    status: z.enum(['ready', 'not_ready']),
    engine: z
      .object({
        address: z.string(),
        version: z.string(),
        api_version: z.string(),
        operating_system: z.string(),
        architecture: z.string(),
        cpus: z.number(),
        memory_bytes: z.int(),
        storage_driver: z.string(),
        cgroup_version: z.string(),
        runtimes: z.array(z.string()),
        default_runtime: z.string(),
        security_options: z.array(z.string()),
        live_restore: z.boolean(),
      })
      .nullable()
      .describe('Null when it can not be reached.'),
    image: z.object({ name: z.string(), present: z.boolean().nullable().describe('Null when that is not known.') }),
    disk: z
      .enum(DISK_MODES)
      .nullable()
      .describe('How what sandboxes write is bounded there; null when that is not known.'),
    problems: z
      .array(z.object({ code: z.string(), message: z.string(), hint: z.string().nullable() }))
      .describe('What is in the way; empty when ready.'),
  })
  .describe('Whether sandboxes can be created.');

type Ready = z.output<typeof readyAnswer>;

const ALIVE = { description: 'Alive.', content: { 'application/json': aliveAnswer } };

function aliveOperation(path: string, operationId: string): Operation {
  return operation({
    method: 'get',
    path,
    operationId,
    tag: 'Service',
    open: true,
    summary: 'Whether the service is alive; asks no engine',
    answers: { 200: ALIVE },
    errors: [],
    handle({ response }) {
      response.json({ status: 'ok' });
    },
  });
}

/** Open to all, token or not: probes carry none. */
export const healthOperations: readonly Operation[] = [
  aliveOperation('/healthz', 'healthz'),
  aliveOperation('/health', 'health'),
  operation({
    method: 'get',
    path: '/readyz',
    operationId: 'readyz',
    tag: 'Service',
    open: true,
    summary: 'Whether the engine can be reached and has the image',
    answers: {
      200: { description: 'Ready.', content: { 'application/json': readyAnswer } },
      503: { description: 'Not ready, and why.', content: { 'application/json': readyAnswer } },
    },
    errors: [],
    async handle(call) {
      const ready = await probe(call);
      if (ready.status === 'not_ready') call.response.status(503).set('Retry-After', '5');
      call.response.json(ready);
    },
  }),
];

async function probe({ manager, calls, signal }: Call<unknown, unknown>): Promise<Ready> {
  const deadline = { signal: anySignal([signal, AbortSignal.timeout(PROBE_TIMEOUT_MS)]) };
  const problems: Ready['problems'] = [];
  const noteProblem = (error: unknown) => {
    const { code, message, hint = null } = toSandyardError(error);
    problems.push({ code, message, hint });
    return null;
  };
  if (calls.draining) noteProblem(shuttingDown());
  const engine = await manager.engineInfo(deadline).then(presentEngine, noteProblem);
  const present = engine === null ? null : await manager.hasImage(deadline).catch(noteProblem);
  if (present === false) {
    problems.push({
      code: 'image_not_found',
      message: `The engine does not have the image ${manager.image}.`,
      hint: 'Build it with "npm run setup", or name one that it has in SANDBOX_IMAGE.',
    });
  }
  const disk = present === true ? await manager.diskMode(deadline).catch(noteProblem) : null;
  const status = problems.length === 0 ? 'ready' : 'not_ready';
  return { status, engine, image: { name: manager.image, present }, disk, problems };
}

function presentEngine(info: EngineInfo): NonNullable<Ready['engine']> {
  return {
    address: info.address,
    version: info.version,
    api_version: info.apiVersion,
    operating_system: info.operatingSystem,
    architecture: info.architecture,
    cpus: info.cpus,
    memory_bytes: info.memoryBytes,
    storage_driver: info.storageDriver,
    cgroup_version: info.cgroupVersion,
    runtimes: [...info.runtimes],
    default_runtime: info.defaultRuntime,
    security_options: [...info.securityOptions],
    live_restore: info.liveRestore,
  };
}
