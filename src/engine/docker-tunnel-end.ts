import type Docker from 'dockerode';
import { setTimeout as sleep } from 'node:timers/promises';

import { SandyardError, unlessGone } from '../errors.js';
import { QUICK_MS, type EngineConnection } from './connection.js';
import { engineUnavailable, translateEngineError, WARDEN_HINT } from './engine-errors.js';

/** What is killed shows as running for a moment yet, a command as well as a container. */
const SETTLE_MS = 1000;

/** What an engine says when it is the container that isn't there any more; some of it is about files, too. */
const CONTAINER_GONE = /namespace path|executing setns|stopped (container|state)|in state stopped/;

/** What the command ends with when nobody takes the tunnel in the sandbox (sysexits.h). */
const EX_UNAVAILABLE = 69;

export interface TunnelEnd {
  readonly container: string;
  readonly exec: Docker.Exec;
  readonly program: string;
}

/** Why a command ended that printed nothing; `undefined` when it simply had nothing to print. */
export async function explainEnd(
  connection: EngineConnection,
  end: TunnelEnd,
  said: string,
): Promise<SandyardError | undefined> {
  const about = { doing: 'open a tunnel', container: end.container };
  const until = Date.now() + SETTLE_MS;
  for (let waitMs = 10; ; waitMs = Math.min(waitMs * 2, 200)) {
    // The engine forgets the execs of a container that was removed, and of all when it was restarted.
    const [exec, container] = await Promise.all([
      unlessGone(inspectExec(connection, end)),
      unlessGone(inspectContainer(connection, end)),
    ]);
    if (container === undefined) return translateEngineError({ statusCode: 404, message: 'No such container' }, about);
    if (!container.State.Running) {
      return translateEngineError({ statusCode: 409, message: 'Container is not running' }, about);
    }
    const exitCode = exec?.Running === false ? exec.ExitCode : null;
    if (exitCode === 0 && said === '') return undefined;
    if (exitCode === EX_UNAVAILABLE) return notYet(end.container, said);
    // The engine says why it couldn't start one. One that ended without a word was cut off, or killed.
    const couldNotStart = (exitCode === 126 || exitCode === 127) && said !== '' && !CONTAINER_GONE.test(said);
    const wasCut = exitCode !== null && exitCode > 125 && said === '';
    const isLate = Date.now() > until;
    if (exitCode !== null && !wasCut && (couldNotStart || isLate))
      return failedProgram(end.program, { exitCode, said });
    if (isLate) return engineUnavailable(`the connection to ${end.program} broke`);
    await sleep(waitMs);
  }
}

/** Between the start of a container and the moment in which its PID 1 listens. */
function notYet(container: string, said: string): SandyardError {
  return new SandyardError('channel_failed', `The warden of ${container} takes no tunnel: ${said}`, {
    hint: 'It may not have begun to listen yet: try again.',
  });
}

function failedProgram(program: string, { exitCode, said }: { exitCode: number; said: string }): SandyardError {
  const why = said === '' ? `it ended with exit code ${exitCode}` : said;
  return new SandyardError('engine_error', `${program} could not be run in the sandbox: ${why}`, {
    hint: WARDEN_HINT,
  });
}

function inspectExec(connection: EngineConnection, { container, exec }: TunnelEnd): Promise<Docker.ExecInspectInfo> {
  return connection.call(
    { operation: 'inspect_exec', doing: 'inspect an exec', container, deadlineMs: QUICK_MS, idempotent: true },
    (_docker, abortSignal) => exec.inspect({ abortSignal }),
  );
}

function inspectContainer(
  connection: EngineConnection,
  { container }: TunnelEnd,
): Promise<Docker.ContainerInspectInfo> {
  return connection.call(
    { operation: 'inspect_container', doing: 'inspect', container, deadlineMs: QUICK_MS, idempotent: true },
    (docker, abortSignal) => docker.getContainer(container).inspect({ abortSignal }),
  );
}

/** Runtimes under which the streams of a command end with its container. */
const ENDS_STREAMS = /^(runc|crun|io\.containerd\.runc\.v\d)$/;

/**
 * Waits until the container has stopped, and gives `true`; or gives `false` at once where that shows by itself. Under gVisor
 * it doesn't: the streams of a command stay open when its container ends. Rejects when the engine can't tell any more.
 */
export async function hasStopped(
  connection: EngineConnection,
  end: TunnelEnd,
  abortSignal: AbortSignal,
): Promise<boolean> {
  const found = await unlessGone(inspectContainer(connection, end));
  if (found?.State.Running !== true) return true;
  if (ENDS_STREAMS.test(found.HostConfig.Runtime ?? 'runc')) return false;
  const { docker } = await connection.connected();
  await docker.getContainer(end.container).wait({ condition: 'not-running', abortSignal });
  return true;
}
