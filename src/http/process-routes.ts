import type { z } from 'zod';

import { anySignal } from '../any-signal.js';
import { isSandyardError, SandyardError } from '../errors.js';
import type { ProcessInfo, Sandbox, SandboxProcess } from '../index.js';
import { exitAnswer, processAnswer, processListAnswer } from '../wire/answers.js';
import { presentExit, presentProcess } from '../wire/presenters.js';
import { abortable, startDetached } from './calls.js';
import { processIdOf } from './idempotency.js';
import { operation, type Call, type Operation } from './operation.js';
import type { ProcessInput } from './process-inputs.js';
import { processBody, toSpawnOptions, type ProcessBody } from './process-requests.js';
import { waitQuery } from './request-fields.js';

const PROCESSES = '/api/sandboxes/{id}/processes';
export const PROCESS = `${PROCESSES}/{pid}`;

const ONE = { description: 'The process.', content: { 'application/json': processAnswer } };

/** Processes as such; what goes in and out of them is in `process-io-routes.ts`. */
export const processOperations: readonly Operation[] = [
  operation({
    method: 'post',
    path: PROCESSES,
    operationId: 'startProcess',
    tag: 'Commands',
    summary: 'Start a process in the background',
    description:
      'It outlives the request and the service; what it prints is kept, up to 1 MiB, and can be read at any time. Under ' +
      'an "id" of yours it starts at most once; under an Idempotency-Key, too, for as long as the sandbox remembers it: the ' +
      'id is then made of the key.',
    durable: true,
    body: processBody,
    answers: {
      201: { ...ONE, headers: { Location: 'The path of the process.' } },
      200: { ...ONE, description: 'The process that had the id already; nothing was started.' },
    },
    errors: ['wrong_state', 'limit_exceeded', 'command_not_found', 'command_not_executable', 'workdir_not_found'],
    handle: startProcess,
  }),
  operation({
    method: 'get',
    path: PROCESSES,
    operationId: 'listProcesses',
    tag: 'Commands',
    summary: 'List the processes of a sandbox',
    answers: { 200: { description: 'All of them.', content: { 'application/json': processListAnswer } } },
    errors: ['wrong_state'],
    async handle({ manager, id, response, signal }) {
      const { processes } = await manager.get(id, { signal });
      response.json({ processes: (await processes.list()).map(presentProcess) });
    },
  }),
  operation({
    method: 'get',
    path: PROCESS,
    operationId: 'inspectProcess',
    tag: 'Commands',
    summary: 'Inspect a process',
    answers: { 200: ONE },
    errors: ['wrong_state'],
    async handle({ manager, id, pid, response, signal }) {
      response.json(presentProcess(await findProcess(await manager.get(id, { signal }), pid)));
    },
  }),
  operation({
    method: 'get',
    path: `${PROCESS}/wait`,
    operationId: 'waitForProcess',
    tag: 'Commands',
    summary: 'Wait until a process has ended',
    query: waitQuery,
    answers: {
      200: { description: 'How it ended.', content: { 'application/json': exitAnswer } },
      204: { description: 'It still runs after that time.' },
    },
    errors: ['wrong_state', 'sandbox_died'],
    handle: waitForProcess,
  }),
  operation({
    method: 'delete',
    path: PROCESS,
    operationId: 'removeProcess',
    tag: 'Commands',
    summary: 'End a process, and forget it with its output',
    answers: { 204: { description: 'It is gone, and its id is free.' } },
    errors: ['wrong_state'],
    async handle({ manager, id, pid, response, signal }) {
      const { processes } = await manager.get(id, { signal });
      const process = await processes.get(pid);
      try {
        await process.kill();
      } finally {
        process.detach();
      }
      await processes.forget(pid);
      response.status(204).end();
    },
  }),
];

/** What is known of a process. Throws `process_not_found`. */
export async function findProcess(sandbox: Sandbox, pid: string): Promise<ProcessInfo> {
  const found = (await sandbox.processes.list()).find(({ id }) => id === pid);
  if (found !== undefined) return found;
  throw new SandyardError('process_not_found', `The sandbox ${sandbox.id} has no process ${pid}.`, {
    hint: 'GET …/processes lists those there are.',
  });
}

async function startProcess(call: Call<unknown, ProcessBody>): Promise<void> {
  const { manager, inputs, id, body, repeat, response, signal } = call;
  const sandbox = await manager.get(id, { signal });
  const isNamed = body.id !== undefined || repeat === undefined;
  const options = isNamed ? {} : { id: await processIdOf(repeat, { sandbox, response }) };
  const process = await startDetached(signal, (signal) =>
    sandbox.spawn(body.command, { ...toSpawnOptions(body), ...options, signal }),
  );
  const input = inputs.acquire(sandbox, process.id);
  try {
    if (!process.existing) await abortable(sendFirstInput(input, body), signal);
  } catch (error) {
    // The client never learns of it, so nobody else would end it.
    await process.kill('SIGKILL').catch(() => {});
    throw error;
  } finally {
    input.release();
    process.detach();
  }
  const info = process.existing ? await findProcess(sandbox, process.id) : describeNew(process, body);
  // A repeated request is answered as the first was.
  response.status(process.existing && isNamed ? 200 : 201);
  response.location(`/api/sandboxes/${id}/processes/${process.id}`).json(presentProcess(info));
}

async function sendFirstInput(input: ProcessInput, { stdin, stdin_open: stdinOpen, pty }: ProcessBody): Promise<void> {
  if (stdin === undefined) return;
  try {
    await input.write(Buffer.from(stdin));
    if (stdinOpen !== true && (pty === undefined || pty === false)) await input.end();
  } catch (error) {
    // A process need not read what it is given.
    if (!isSandyardError(error, 'wrong_state')) throw error;
  }
}

function describeNew(process: SandboxProcess, { command, pty }: ProcessBody): ProcessInfo {
  return {
    id: process.id,
    pid: process.pid,
    command: typeof command === 'string' ? ['/bin/sh', '-c', command] : command,
    state: 'running',
    outcome: null,
    exitCode: null,
    signal: null,
    startedAt: process.startedAt,
    pty: pty !== undefined && pty !== false,
    firstSeq: 1,
    lastSeq: 0,
    readers: 0,
  };
}

async function waitForProcess(call: Call<z.output<typeof waitQuery>, unknown>): Promise<void> {
  const { manager, id, pid, query, response, running, signal } = call;
  const { processes } = await manager.get(id, { signal });
  const process = await processes.get(pid);
  const timeUp = query.timeout === undefined ? undefined : AbortSignal.timeout(query.timeout);
  running.streams = true;
  try {
    const exit = await process.wait({ signal: timeUp === undefined ? signal : anySignal([signal, timeUp]) });
    response.json(presentExit(exit));
  } catch (error) {
    if (timeUp?.aborted !== true || signal.aborted) throw error;
    response.status(204).end();
  } finally {
    process.detach();
  }
}
