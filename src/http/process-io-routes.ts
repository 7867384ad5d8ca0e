import { z } from 'zod';

import { SandyardError } from '../errors.js';
import type { SandboxProcess } from '../index.js';
import { readUpload } from './body.js';
import { abortable } from './calls.js';
import { EVENT_STREAM, NDJSON, sendEvents, streamTypeOf } from './event-stream.js';
import { BYTES, DONE, operation, type Call, type Operation } from './operation.js';
import type { ProcessInput } from './process-inputs.js';
import { eventsAfter, eventsBetween, processEvent } from './process-events.js';
import { findProcess, PROCESS } from './process-routes.js';
import { killBody, signalBody, sizeBody } from './process-requests.js';
import { defined, queryFlag, queryInteger } from './request-fields.js';

const BASE = { tag: 'Commands' } as const;
/** That what was asked for is lost is known as soon as the sandbox answers; then it is still a proper answer. */
const PEEK_MS = 250;
/** Whoever types may think for a while. */
const INPUT_IDLE_MS = 600_000;

const outputQuery = z.strictObject({
  after: queryInteger({ min: 0 }, 'Goes on after the piece of this number; 0 is the beginning.'),
  follow: queryFlag('Whether to wait for what it will print; true unless given.'),
});

const stdinQuery = z.strictObject({
  close: queryFlag('Whether the process then reads an end of file; false unless given.'),
});

export const processIoOperations: readonly Operation[] = [
  operation({
    ...BASE,
    method: 'get',
    path: `${PROCESS}/output`,
    operationId: 'readOutput',
    summary: 'Read what a process prints',
    description:
      'As NDJSON, or as server-sent events with "Accept: text/event-stream"; the header "Last-Event-ID" works as "after". ' +
      'The sandbox keeps 1 MiB of the output of a process: when what was asked for is gone, the answer is 410 with the ' +
      'oldest that there is as "first_seq". A reader that hangs up does not end the process; one that reads slowly slows ' +
      'it down.',
    query: outputQuery,
    answers: {
      200: {
        description: 'Events; the last is "exit", "end" or "error".',
        content: { [NDJSON]: processEvent, [EVENT_STREAM]: processEvent },
      },
    },
    errors: ['wrong_state', 'output_lost', 'invalid_request'],
    handle: readOutput,
  }),
  operation({
    ...BASE,
    method: 'post',
    path: `${PROCESS}/stdin`,
    operationId: 'writeInput',
    summary: 'Send a process what it reads',
    description: 'The body is passed on while it arrives, no faster than the process reads.',
    query: stdinQuery,
    upload: [BYTES],
    answers: { 204: DONE },
    errors: ['wrong_state'],
    handle: writeInput,
  }),
  operation({
    ...BASE,
    method: 'post',
    path: `${PROCESS}/signal`,
    operationId: 'signalProcess',
    summary: 'Send a signal to a process and all that it started',
    body: signalBody,
    answers: { 204: DONE },
    errors: ['wrong_state'],
    async handle(call) {
      await withProcess(call, (process) => process.signal(call.body.signal));
    },
  }),
  operation({
    ...BASE,
    method: 'post',
    path: `${PROCESS}/kill`,
    operationId: 'killProcess',
    summary: 'End a process and all that it started',
    description: 'Answers when nothing of it is left: SIGKILL follows when the signal did not do in time.',
    body: killBody,
    answers: { 204: { description: 'Nothing of it is left.' } },
    errors: ['wrong_state'],
    async handle(call) {
      const { signal, grace } = call.body;
      await withProcess(call, (process) => process.kill(signal, defined({ graceMs: grace })));
    },
  }),
  operation({
    ...BASE,
    method: 'post',
    path: `${PROCESS}/resize`,
    operationId: 'resizeTerminal',
    summary: 'Set the size of the terminal of a process',
    body: sizeBody,
    answers: { 204: DONE },
    errors: ['wrong_state'],
    async handle(call) {
      const { pty } = await findProcess(await call.manager.get(call.id), call.pid);
      if (!pty) throw notATerminal(call.pid);
      await withInput(call, (input) => input.resize(call.body));
    },
  }),
];

export function notATerminal(pid: string): SandyardError {
  return new SandyardError('wrong_state', `The process ${pid} has no terminal.`, {
    hint: 'Start it with "pty": true, or use …/output and …/stdin.',
  });
}

async function withProcess(call: Call<unknown, unknown>, act: (process: SandboxProcess) => Promise<void> | void) {
  const { manager, id, pid, response, signal } = call;
  const { processes } = await manager.get(id, { signal });
  const process = await processes.get(pid);
  try {
    await act(process);
  } finally {
    process.detach();
  }
  response.status(204).end();
}

async function readOutput(call: Call<z.output<typeof outputQuery>, unknown>): Promise<void> {
  const { manager, id, pid, query, request, response, running, signal } = call;
  // A browser that connects again repeats the query of its first request, and adds how far it came.
  const after = lastEventId(request.get('last-event-id')) ?? query.after ?? 0;
  const sandbox = await manager.get(id, { signal });
  const info = query.follow === false ? await findProcess(sandbox, pid) : undefined;
  const process = await sandbox.processes.get(pid);
  const events =
    info?.state === 'running'
      ? eventsBetween(process, { after, last: info.lastSeq })
      : eventsAfter(process, { after, signal });
  running.streams = true;
  try {
    const type = streamTypeOf(request) ?? NDJSON;
    await sendEvents(events, { request, response, type, signal, peekMs: PEEK_MS });
  } finally {
    process.detach();
  }
}

function lastEventId(given: string | undefined): number | undefined {
  if (given === undefined || given === '') return undefined;
  if (/^\d{1,15}$/.test(given)) return Number(given);
  throw new SandyardError('invalid_request', 'Last-Event-ID is not the number of an event.', {
    hint: 'Send the "id" of the last event that you have, or leave it out.',
  });
}

async function writeInput(call: Call<z.output<typeof stdinQuery>, unknown>): Promise<void> {
  const { config, query, request, running, signal } = call;
  const upload = readUpload(request, { maxBytes: config.maxUploadBytes, idleMs: INPUT_IDLE_MS });
  running.streams = true;
  const { state } = await findProcess(await call.manager.get(call.id, { signal }), call.pid);
  if (state === 'exited') throw new SandyardError('wrong_state', `The process ${call.pid} has ended.`);
  await withInput(call, async (input) => {
    for await (const chunk of upload.chunks) await abortable(input.write(chunk), signal);
    if (query.close === true) await abortable(input.end(), signal);
  });
}

async function withInput(call: Call<unknown, unknown>, act: (input: ProcessInput) => Promise<void>): Promise<void> {
  const { manager, id, pid, inputs, response, signal } = call;
  const input = inputs.acquire(await manager.get(id, { signal }), pid);
  try {
    await act(input);
  } finally {
    input.release();
  }
  response.status(204).end();
}
