import { z } from 'zod';

import { isSandyardError, SandyardError } from '../errors.js';
import type { Sandbox, SandboxProcess } from '../index.js';
import { fields } from '../schemas.js';
import { time } from '../wire/answers.js';
import { startDetached } from './calls.js';
import { answerProblem, PROBLEM_TYPE, problemAnswer } from './problem.js';
import { operation, type Call, type Operation } from './operation.js';
import { notATerminal } from './process-io-routes.js';
import { findProcess } from './process-routes.js';
import { defined, queryFlag, queryInteger } from './request-fields.js';
import { serveTerminal } from './terminal.js';

const TERMINAL = '/api/sandboxes/{id}/terminal';

const side = queryInteger({ min: 1, max: 65_535 });

const terminalQuery = z
  .strictObject({
    process: fields.processId
      .describe('Joins this process, which must have a terminal; starts one unless given.')
      .optional(),
    command: z
      .union([z.string(), z.array(z.string())])
      .pipe(fields.command)
      .describe(
        'What to start: once for a /bin/sh -c, several times for a program and its arguments; a shell unless given.',
      )
      .optional(),
    rows: side,
    columns: side,
    workdir: fields.path.optional(),
    user: fields.user.optional(),
    after: queryInteger(
      { min: 0 },
      'With "process": goes on after the piece of output of this number; with all that is kept unless given.',
    ),
    kill_on_close: queryFlag('Whether the process ends with the connection; false unless given.'),
    ticket: z.string().max(64).describe('Admission in place of the Authorization header.').optional(),
  })
  .refine((query) => query.process === undefined || (query.command ?? query.workdir ?? query.user) === undefined, {
    path: ['process'],
    message: 'can not be combined with what a new process is started by',
  })
  .refine((query) => query.after === undefined || query.process !== undefined, {
    path: ['after'],
    message: 'needs "process": a new one has no output yet',
  });

export const ticketAnswer = z
  .object({
    ticket: z.string(),
    expires_at: time,
    url: z.string().describe('The path to connect to, with the ticket; more parameters may be added.'),
  })
  .describe('Admission to the terminal of one sandbox, once.');

type TerminalQuery = z.output<typeof terminalQuery>;
type TerminalCall = Call<TerminalQuery, unknown>;

export const terminalOperations: readonly Operation[] = [
  operation({
    method: 'get',
    path: TERMINAL,
    operationId: 'openTerminal',
    tag: 'Commands',
    summary: 'A terminal, as a WebSocket',
    description: [
      'Binary messages are what the process prints and reads. Text messages are JSON: from the service `ready`',
      '(process_id, seq), `seq` (the number of the last piece of output, for "after"), `lost` (first_seq) and `exit`; from',
      'the client `{"type":"resize","rows","columns"}`, `{"type":"signal","signal"}` and `{"type":"eof"}`. When the',
      'connection ends, the process runs on, and can be joined again. Close codes: 1000 it has exited, 1001 the service',
      'ends, 1009 a message of over 64 KiB, 1011 a fault of ours, 4400 a malformed message, 4404 no such sandbox or process',
      'any more, 4409 the sandbox does not run any more, 4410 the output wanted is lost.',
    ].join(' '),
    query: terminalQuery,
    answers: {
      101: { description: 'It is a WebSocket from now on.' },
      426: { description: 'The request does not ask for a WebSocket.', content: { [PROBLEM_TYPE]: problemAnswer } },
    },
    errors: ['wrong_state', 'process_not_found', 'invalid_request', 'command_not_found', 'command_not_executable'],
    handle: openTerminal,
  }),
  operation({
    method: 'post',
    path: `${TERMINAL}/ticket`,
    operationId: 'issueTerminalTicket',
    tag: 'Commands',
    summary: 'Admit a browser to the terminal',
    description:
      'A browser can not send a token with a WebSocket. A ticket is good for one connection within 30 seconds.',
    answers: { 201: { description: 'The ticket.', content: { 'application/json': ticketAnswer } } },
    errors: [],
    async handle({ manager, tickets, caller, id, response, signal }) {
      await manager.get(id, { signal });
      const { ticket, expiresAt } = tickets.issue(id, caller);
      const url = `${TERMINAL.replace('{id}', id)}?ticket=${ticket}`;
      response.status(201).json({ ticket, expires_at: expiresAt.toISOString(), url });
    },
  }),
];

async function openTerminal(call: TerminalCall): Promise<void> {
  const { manager, calls, sockets, inputs, id, query, request, response, running, signal } = call;
  if (!sockets.isUpgrade(request)) {
    response.set({ Upgrade: 'websocket', Connection: 'Upgrade' });
    answerProblem(notAWebSocket(), { request, response, status: 426 });
    return;
  }
  sockets.check(request);
  const sandbox = await manager.get(id, { signal });
  const process = await findOrStart(sandbox, call);
  const input = inputs.acquire(sandbox, process.id);
  let isAccepted = false;
  try {
    if (query.process !== undefined && (query.rows ?? query.columns) !== undefined) await input.resize(sizeOf(query));
    const webSocket = sockets.accept(request);
    // From here on nothing may be thrown: what is wrong is said by how the WebSocket closes. Nor may anything be waited for
    // before somebody listens to it.
    isAccepted = true;
    response.statusCode = 101;
    running.streams = true;
    await serveTerminal(webSocket, { process, input, after: query.after, signal });
  } finally {
    input.release();
    // A service that ends will be back, and so will its clients; who was never let in knows of nothing to come back to.
    const isOver = isAccepted ? query.kill_on_close === true && !calls.draining : query.process === undefined;
    // As a real line does when it is cut: a shell takes no notice of SIGTERM.
    if (isOver) await process.kill('SIGHUP').catch(() => {});
    process.detach();
  }
}

async function findOrStart(sandbox: Sandbox, { query, signal }: TerminalCall): Promise<SandboxProcess> {
  if (query.process !== undefined) {
    const { pty } = await findProcess(sandbox, query.process);
    if (!pty) throw notATerminal(query.process);
    return sandbox.processes.get(query.process);
  }
  const start = (command: string | readonly string[]) =>
    startDetached(signal, (signal) =>
      sandbox.spawn(command, {
        ...defined({ cwd: query.workdir, user: query.user }),
        env: { TERM: 'xterm-256color' },
        pty: sizeOf(query),
        whenUnread: 'run',
        signal,
      }),
    );
  if (query.command !== undefined) return start(query.command);
  try {
    return await start(['/bin/bash', '-l']);
  } catch (error) {
    if (!isSandyardError(error, 'command_not_found')) throw error;
    return start(['/bin/sh']);
  }
}

function sizeOf({ rows = 24, columns = 80 }: TerminalQuery) {
  return { rows, columns };
}

function notAWebSocket(): SandyardError {
  return new SandyardError('invalid_request', 'This is a WebSocket, and the request does not ask for one.', {
    hint: 'Connect to it with a WebSocket client.',
  });
}
