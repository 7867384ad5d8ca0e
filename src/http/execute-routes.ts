import type { z } from 'zod';

import { SandyardError } from '../errors.js';
import { execAnswer } from '../wire/answers.js';
import { presentExec } from '../wire/presenters.js';
import { abortable } from './calls.js';
import { EVENT_STREAM, NDJSON, sendEvents, streamTypeOf, type StreamType } from './event-stream.js';
import { processIdOf } from './idempotency.js';
import { operation, type Call, type Operation } from './operation.js';
import { eventsOfNew, processEvent } from './process-events.js';
import { executeBody, toExecOptions } from './process-requests.js';

type ExecuteCall = Call<unknown, z.output<typeof executeBody>>;

export const executeOperations: readonly Operation[] = [
  operation({
    method: 'post',
    path: '/api/sandboxes/{id}/execute',
    operationId: 'execute',
    tag: 'Commands',
    summary: 'Run a command and wait for it',
    description:
      'A command that fails or times out is still a 200: see "outcome". With "Accept: application/x-ndjson" or ' +
      '"text/event-stream" the output is sent while it runs, as numbered events of which the last is "exit" or "error". ' +
      'When the client hangs up, the command is ended, unless it has an "exec_id" or an Idempotency-Key, by which it can be ' +
      'asked for again: the sandbox remembers the last thousand or so that have ended.',
    durable: true,
    body: executeBody,
    answers: {
      200: {
        description: 'How it ended, and what it printed.',
        content: { 'application/json': execAnswer, [NDJSON]: processEvent, [EVENT_STREAM]: processEvent },
      },
    },
    errors: ['wrong_state', 'command_not_found', 'command_not_executable', 'workdir_not_found', 'sandbox_died'],
    async handle(call) {
      const type = streamTypeOf(call.request);
      if (type !== undefined) return streamOutput(call, type);
      const { manager, id, body, response, signal } = call;
      const execId = await execIdOf(call);
      // A command with an id is there to be asked for again when the connection is lost: it isn't ended then.
      const ending = execId === undefined ? { signal } : { execId };
      const result = manager.exec(id, body.command, { ...toExecOptions(body), ...ending });
      response.json(presentExec(await abortable(result, signal)));
    },
  }),
];

/** The client's own, or one that is made of its key. */
async function execIdOf({ manager, id, body, repeat, response, signal }: ExecuteCall): Promise<string | undefined> {
  if (body.exec_id !== undefined || repeat === undefined) return body.exec_id;
  return processIdOf(repeat, { sandbox: await manager.get(id, { signal }), response });
}

async function streamOutput(call: ExecuteCall, type: StreamType): Promise<void> {
  const { manager, config, id, body, request, response, running, signal } = call;
  const { maxOutputBytes, execId: _, timeoutMs = config.limits.execTimeoutMs, ...options } = toExecOptions(body);
  if (maxOutputBytes !== undefined) {
    throw new SandyardError('validation_failed', 'max_output_bytes has no meaning for a stream, which drops nothing.', {
      hint: 'Leave it out, or ask for application/json.',
      issues: [{ path: ['max_output_bytes'], message: 'can not be combined with a stream' }],
    });
  }
  running.streams = true;
  const execId = await execIdOf(call);
  const sandbox = await manager.get(id, { signal });
  const named = execId === undefined ? { signal } : { id: execId };
  const process = await sandbox.spawn(body.command, { ...options, ...named, timeoutMs, text: true });
  try {
    await sendEvents(eventsOfNew(process, { signal }), { request, response, type, signal });
  } finally {
    if (execId === undefined) await process[Symbol.asyncDispose]();
    else process.detach();
  }
}
