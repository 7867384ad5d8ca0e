import type Docker from 'dockerode';
import { setTimeout as sleep } from 'node:timers/promises';

import { isSandyardError, SandyardError } from '../errors.js';
import { QUICK_MS, type CallSettings, type EngineConnection } from './connection.js';
import { verifyApplied } from './applied-settings.js';
import { toCreateOptions } from './container-spec.js';
import { toCreationDate, toDate } from './docker-dates.js';
import { WARDEN_HINT, saysThat } from './engine-errors.js';
import type { CallOptions, ContainerDetails, ContainerSpec, ContainerState, ContainerSummary } from './engine.js';

/* Containers from create to remove, and what they are; what is changed of one in between is in container-changes.ts. */

/** How long the engine may take where it works. It is given more than it needs under load. */
const WORK_MS = 60_000;
const LOOK_EVERY_MS = 50;

export async function createContainer(
  connection: EngineConnection,
  spec: ContainerSpec,
  options: CallOptions,
): Promise<string> {
  const about = { doing: 'create a container', container: spec.name, image: spec.image };
  const { id } = await connection.call(
    { operation: 'create_container', ...about, deadlineMs: WORK_MS, ...options },
    (docker, abortSignal) => docker.createContainer({ ...toCreateOptions(spec), abortSignal }),
  );
  return id;
}

/** What the engine says of a container, in its own words. */
export function inspect(
  connection: EngineConnection,
  reference: string,
  options: CallOptions,
): Promise<Docker.ContainerInspectInfo> {
  const about = { doing: 'inspect', container: reference };
  return connection.call(
    { operation: 'inspect_container', ...about, deadlineMs: QUICK_MS, idempotent: true, ...options },
    (docker, abortSignal) => docker.getContainer(reference).inspect({ abortSignal }),
  );
}

export async function inspectContainer(
  connection: EngineConnection,
  reference: string,
  options: CallOptions,
): Promise<ContainerDetails> {
  const found = await inspect(connection, reference, options);
  return {
    id: found.Id,
    name: found.Name.replace(/^\//, ''),
    image: found.Config.Image,
    state: toState(found.State.Status),
    createdAt: toCreationDate(found.Created),
    labels: found.Config.Labels ?? {},
    startedAt: toDate(found.State.StartedAt),
    finishedAt: found.State.Running ? undefined : toDate(found.State.FinishedAt),
    exitCode: found.State.ExitCode,
    oomKilled: found.State.OOMKilled,
  };
}

export async function listContainers(
  connection: EngineConnection,
  labels: readonly string[],
  options: CallOptions,
): Promise<ContainerSummary[]> {
  const found = await connection.call(
    { operation: 'list_containers', doing: 'list containers', deadlineMs: QUICK_MS, idempotent: true, ...options },
    (docker, abortSignal) => docker.listContainers({ all: true, filters: { label: [...labels] }, abortSignal }),
  );
  return found.map((container) => ({
    id: container.Id,
    name: (container.Names[0] ?? '').replace(/^\//, ''),
    image: container.Image,
    state: toState(container.State),
    createdAt: toCreationDate(container.Created * 1000),
    labels: container.Labels,
  }));
}

export async function verifyContainer(
  connection: EngineConnection,
  reference: string,
  { spec, ...options }: CallOptions & { spec: ContainerSpec },
): Promise<void> {
  const found = await inspect(connection, reference, options);
  if (found.State.Running) return verifyApplied(spec, found);
  throw endedAtOnce(spec, found.State);
}

export async function startContainer(
  connection: EngineConnection,
  reference: string,
  options: CallOptions,
): Promise<void> {
  const about = { doing: 'start', container: reference };
  await changeState(
    connection,
    { operation: 'start_container', ...about, deadlineMs: WORK_MS, ...options },
    (container, abortSignal) => container.start({ abortSignal }),
  );
}

export async function stopContainer(
  connection: EngineConnection,
  reference: string,
  { graceSeconds = 10, ...options }: CallOptions & { graceSeconds?: number },
): Promise<void> {
  const about = { doing: 'stop', container: reference };
  await changeState(
    connection,
    { operation: 'stop_container', ...about, deadlineMs: WORK_MS + graceSeconds * 1000, ...options },
    (container, abortSignal) => container.stop({ t: graceSeconds, abortSignal }),
  );
}

export async function removeContainer(
  connection: EngineConnection,
  reference: string,
  { unlessRunning = false, ...options }: CallOptions & { readonly unlessRunning?: boolean },
): Promise<void> {
  const about = { doing: 'remove', container: reference };
  const remove = () =>
    changeState(
      connection,
      { operation: 'remove_container', ...about, deadlineMs: WORK_MS, ...options },
      (container, abortSignal) => container.remove({ force: !unlessRunning, v: true, abortSignal }),
    );
  try {
    await remove().catch(async (error: unknown) => {
      if (!saysThat.wasBusyWithIt((error as Error).cause)) throw error;
      await sleep(LOOK_EVERY_MS);
      await remove(); // nothing runs in it any more
    });
  } catch (error) {
    if (isSandyardError(error, 'sandbox_not_found')) return;
    if (saysThat.mustNotBeRemoved((error as Error).cause)) throw error;
    // Somebody else is removing it: wait with them, so that it is gone when we answer.
    if (isSandyardError(error, 'wrong_state')) return waitUntilRemoved(connection, reference, options);
    throw error;
  }
}

/** A change that is done when it was done before: 304 is the engine's word for that. */
async function changeState(
  connection: EngineConnection,
  settings: CallSettings & { container: string },
  run: (container: Docker.Container, signal: AbortSignal) => Promise<unknown>,
): Promise<void> {
  await connection.call({ ...settings, idempotent: true }, (docker, abortSignal) =>
    run(docker.getContainer(settings.container), abortSignal).catch((error: unknown) => {
      if ((error as { statusCode?: number }).statusCode !== 304) throw error;
    }),
  );
}

async function waitUntilRemoved(connection: EngineConnection, reference: string, options: CallOptions): Promise<void> {
  const until = Date.now() + WORK_MS;
  while (Date.now() < until) {
    try {
      await inspect(connection, reference, options);
    } catch (error) {
      if (isSandyardError(error, 'sandbox_not_found')) return;
      throw error;
    }
    await sleep(LOOK_EVERY_MS);
  }
  throw new SandyardError('engine_timeout', `The container ${reference} is being removed but does not go away.`);
}

function endedAtOnce({ entrypoint }: ContainerSpec, state: { ExitCode: number; Error: string }): SandyardError {
  const [program = 'its program'] = entrypoint;
  const meaning: Readonly<Record<number, string>> = {
    90: 'its lease had run out',
    91: 'its idle timeout had passed',
    92: 'the warden could not get what it needs, such as /var/lib/sandyard',
    93: 'the warden does not know an argument that it was given',
    126: `${program} can't be executed there`,
    127: `there is no ${program} in it`,
    137: 'it was killed, as for too little memory',
  };
  const why = state.Error === '' ? meaning[state.ExitCode] : state.Error.replaceAll(/\s+/g, ' ').slice(0, 500);
  const told = why === undefined ? `exit code ${state.ExitCode}` : `exit code ${state.ExitCode}: ${why}`;
  return new SandyardError('engine_error', `The sandbox ended as soon as it was started (${told}).`, {
    hint: WARDEN_HINT,
  });
}

export function toState(status: string): ContainerState {
  if (status === 'created' || status === 'running' || status === 'paused') return status;
  return status === 'restarting' ? 'running' : 'exited';
}
