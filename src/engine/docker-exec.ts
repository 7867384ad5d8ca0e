import type Docker from 'dockerode';
import type { Duplex } from 'node:stream';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';

import { SandyardError } from '../errors.js';
import type { EngineConnection } from './connection.js';
import { translateEngineError } from './engine-errors.js';
import type { CallOptions, EngineExec, ExecEnd, ExecSpec, OutputChunk } from './engine.js';
import { demultiplex } from './demultiplex.js';

const START_DEADLINE_MS = 60_000;
const INSPECT_DEADLINE_MS = 15_000;

/**
 * How often a quiet exec is asked whether its command has exited: the engine ends the output only when nothing holds
 * it open any more, which a background child can do for ever.
 */
const POLL_FIRST_MS = 100;
const POLL_MOST_MS = 1000;
/** How long the output may stay quiet after the command exited before it counts as held open. */
const DRAIN_MS = 250;
/** How long it may go on after that at the most. */
const DRAIN_MOST_MS = 5000;
/** Somewhat less than the two seconds that newer engines wait for output that is held open. */
const ENGINE_WAIT_MS = 1500;
/** The engine reports what killed an exec a moment after the exec's own end. */
const EVENT_WAIT_MS = 300;
const STOP_WAIT_MS = 10_000;
const END_WAIT_MS = 2000;

const SIGKILL_EXIT = 137;

/** How the engine's answer to an exec that couldn't be started begins; it comes as if the command had printed it. */
const START_FAILURE = /^(OCI runtime exec failed|unable to find user|.*runtime exec failed: exec failed)/;

/** What an engine says when it is the container that isn't there any more; some of it is about files, too. */
const CONTAINER_GONE = /namespace path|executing setns|stopped container/;

export async function startExec(
  connection: EngineConnection,
  container: string,
  { spec, signal }: { spec: ExecSpec } & CallOptions,
): Promise<EngineExec> {
  const settings = { doing: `run ${spec.command[0]}`, container, signal, deadlineMs: START_DEADLINE_MS };
  const exec = await connection.call(settings, (docker, abortSignal) =>
    docker.getContainer(container).exec({
      Cmd: [...spec.command],
      Env: [...spec.env],
      User: spec.user,
      WorkingDir: spec.workdir,
      AttachStdin: spec.stdin,
      AttachStdout: true,
      AttachStderr: true,
      Tty: false,
      abortSignal,
    }),
  );
  const stream = await connection.call(settings, (_docker, abortSignal) =>
    exec.start({ hijack: spec.stdin, stdin: spec.stdin, Tty: false, abortSignal }),
  );
  return new DockerExec(connection, { container, exec, stream, spec });
}

class DockerExec implements EngineExec {
  readonly id: string;
  readonly stdin: Duplex | undefined;
  readonly #connection: EngineConnection;
  readonly #container: string;
  readonly #exec: Docker.Exec;
  readonly #stream: Duplex;
  readonly #spec: ExecSpec;
  readonly #end: Promise<ExecEnd>;
  #settle!: { resolve: (end: ExecEnd) => void; reject: (error: unknown) => void };
  #quietSince: number | undefined;
  readonly #startedAt = Date.now();
  #heldOpen = false;

  constructor(
    connection: EngineConnection,
    { container, exec, stream, spec }: { container: string; exec: Docker.Exec; stream: Duplex; spec: ExecSpec },
  ) {
    this.id = exec.id;
    this.stdin = spec.stdin ? stream : undefined;
    this.#connection = connection;
    this.#container = container;
    this.#exec = exec;
    this.#stream = stream;
    this.#spec = spec;
    this.#end = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    // Whoever only wants the output doesn't have to wait for the end; its failure is thrown where it is awaited.
    this.#end.catch(() => {});
    stream.on('error', () => {}); // told through the iteration and through inspect
  }

  end(): Promise<ExecEnd> {
    return this.#end;
  }

  close(): void {
    this.#stream.destroy();
  }

  async *output(): AsyncGenerator<OutputChunk> {
    const poll = this.#watchForExit();
    let suspicious: OutputChunk | undefined;
    try {
      for await (const chunk of demultiplex(this.#reads())) {
        if (suspicious !== undefined) {
          yield suspicious;
          suspicious = undefined;
        }
        if (START_FAILURE.test(Buffer.from(chunk.data).subarray(0, 200).toString())) suspicious = chunk;
        else yield chunk;
      }
      poll.stop();
      const end = await this.#findEnd(suspicious);
      if (suspicious !== undefined) yield suspicious;
      this.#settle.resolve(end);
    } catch (error) {
      this.#settle.reject(error);
      throw error;
    } finally {
      poll.stop();
      this.close();
      this.#settle.reject(new SandyardError('aborted', 'The output was not read to its end.'));
    }
  }

  /** The stream's chunks, noting since when it waits for one. A broken stream ends: inspect tells what became of it. */
  async *#reads(): AsyncGenerator<Uint8Array> {
    try {
      this.#quietSince = Date.now();
      for await (const chunk of this.#stream) {
        this.#quietSince = undefined;
        yield chunk as Uint8Array;
        this.#quietSince = Date.now();
      }
    } catch {
      // The connection broke, or we closed it because the output is held open.
    }
  }

  #watchForExit(): { stop: () => void } {
    let delay = POLL_FIRST_MS;
    let exitedAt: number | undefined;
    let stopped = false;
    const tick = async () => {
      const running = await this.#inspect().then(
        ({ Running }) => Running,
        () => true,
      );
      await nextTurn(); // what has arrived while this was held up is read first
      if (stopped) return;
      const now = Date.now();
      if (!running) exitedAt ??= now;
      // Silence since the exit says that all is read; a child that keeps printing is not waited for either, unless it is
      // the reader that is slow.
      const waiting = this.#quietSince !== undefined && this.#stream.readableLength === 0;
      const quietMs = now - Math.max(exitedAt ?? now, this.#quietSince ?? now);
      if (exitedAt !== undefined && waiting && (quietMs >= DRAIN_MS || now - exitedAt >= DRAIN_MOST_MS)) {
        this.#heldOpen = true;
        this.#stream.destroy();
        return;
      }
      delay = exitedAt === undefined ? Math.min(delay * 2, POLL_MOST_MS) : POLL_FIRST_MS;
      schedule();
    };
    let timer: NodeJS.Timeout | undefined;
    const schedule = () => {
      timer = setTimeout(() => void tick(), delay);
    };
    schedule();
    return {
      stop: () => {
        stopped = true;
        clearTimeout(timer);
      },
    };
  }

  async #findEnd(printed: OutputChunk | undefined): Promise<ExecEnd> {
    let found: Docker.ExecInspectInfo;
    try {
      found = await this.#inspectEnded();
    } catch (error) {
      // The engine forgets the execs of a container that was removed, and of all when it was restarted.
      if (error instanceof SandyardError && error.code === 'sandbox_not_found') return this.#lost();
      throw error;
    }
    const { ExitCode: exitCode, Pid: pid } = found;
    if (found.Running || exitCode === null) return this.#lost();
    if (pid === 0 && (exitCode === 126 || exitCode === 127)) {
      const failure = this.#startFailure(printed);
      if (failure.code !== 'engine_error') throw failure;
      // A container that goes away while a command is started has that fail in many words.
      const container = await this.#waitUntilStopped(END_WAIT_MS);
      if (container?.State.Running === true) throw failure;
      return this.#containerDied(container);
    }
    if (!this.#heldOpen && Date.now() - this.#startedAt >= ENGINE_WAIT_MS)
      this.#heldOpen = await this.#leftProcesses(pid);
    if (exitCode !== SIGKILL_EXIT) {
      return { kind: 'exited', exitCode, oomKilled: false, outputHeldOpen: this.#heldOpen };
    }
    const { oom, killed, died } = await this.#eventsSinceStart();
    const container = await (killed && !died ? this.#waitUntilStopped(STOP_WAIT_MS) : this.#inspectContainer());
    // It may have been started again since.
    if (died || container?.State.Running !== true) return this.#containerDied(container);
    return { kind: 'exited', exitCode, oomKilled: oom, outputHeldOpen: this.#heldOpen };
  }

  /**
   * Whether something in the session of the command lives on. Newer engines wait two seconds for held-open output, and
   * then end it as if it had ended by itself.
   */
  async #leftProcesses(pid: number): Promise<boolean> {
    try {
      const listed = await this.#connection.call(
        { doing: 'list processes of', container: this.#container, deadlineMs: INSPECT_DEADLINE_MS, idempotent: true },
        (docker, abortSignal) => docker.getContainer(this.#container).top({ ps_args: '-eo pid,sid', abortSignal }),
      );
      const rows = (listed as { Processes?: string[][] }).Processes ?? [];
      return rows.some(([, session]) => Number(session) === pid);
    } catch {
      return false; // an engine without a ps that can tell; the command's own end is known
    }
  }

  /** What is killed shows as running for a moment yet. */
  async #waitUntilStopped(forMs: number): Promise<Docker.ContainerInspectInfo | undefined> {
    const until = Date.now() + forMs;
    for (;;) {
      const container = await this.#inspectContainer();
      if (container?.State.Running !== true || Date.now() > until) return container;
      await sleep(EVENT_WAIT_MS / 10);
    }
  }

  /** The engine may end the output a moment before it says that the command has ended. */
  async #inspectEnded(): Promise<Docker.ExecInspectInfo> {
    const until = Date.now() + END_WAIT_MS;
    for (let waitMs = 10; ; waitMs = Math.min(waitMs * 2, 200)) {
      const found = await this.#inspect();
      if (!found.Running || Date.now() > until) return found;
      await sleep(waitMs);
    }
  }

  /** The output ended and the engine doesn't say that the command did. */
  async #lost(): Promise<ExecEnd> {
    const container = await this.#inspectContainer();
    if (container?.State.Running !== true) return this.#containerDied(container);
    throw new SandyardError('engine_unavailable', `The connection to ${this.#spec.command[0]} broke while it ran.`, {
      hint: 'The command may still be running in the sandbox.',
    });
  }

  async #containerDied(known?: Docker.ContainerInspectInfo): Promise<ExecEnd> {
    const container = known ?? (await this.#inspectContainer());
    return { kind: 'container_died', oomKilled: container?.State.OOMKilled ?? false };
  }

  #startFailure(printed: OutputChunk | undefined): SandyardError {
    const text = Buffer.from(printed?.data ?? [])
      .toString('utf8')
      .trim();
    const program = this.#spec.command[0];
    if (/chdir to cwd \(/.test(text)) {
      return new SandyardError('workdir_not_found', `The working directory ${this.#spec.workdir} can't be used.`, {
        hint: 'Make the directory first, or name one that exists.',
        cause: new Error(text),
      });
    }
    if (/permission denied|exec format error|is a directory/i.test(text)) {
      return new SandyardError('command_not_executable', `${program} can't be executed in the sandbox.`, {
        hint: 'It must be a program or a script with a "#!" line, and be executable (chmod +x).',
        cause: new Error(text),
      });
    }
    if (/no such file|not found/i.test(text) && !CONTAINER_GONE.test(text)) {
      return new SandyardError('command_not_found', `There is no ${program} in the sandbox.`, {
        hint: 'Install it, or pass a string instead of an array to have a shell run it.',
        cause: new Error(text),
      });
    }
    return translateEngineError(
      { statusCode: 500, message: text || 'it could not be started' },
      { doing: `run ${program}` },
    );
  }

  #inspect(): Promise<Docker.ExecInspectInfo> {
    return this.#connection.call(
      { doing: 'inspect an exec', container: this.#container, deadlineMs: INSPECT_DEADLINE_MS, idempotent: true },
      (_docker, abortSignal) => this.#exec.inspect({ abortSignal }),
    );
  }

  async #inspectContainer(): Promise<Docker.ContainerInspectInfo | undefined> {
    const settings = {
      doing: 'inspect',
      container: this.#container,
      deadlineMs: INSPECT_DEADLINE_MS,
      idempotent: true,
    };
    try {
      return await this.#connection.call(settings, (docker, abortSignal) =>
        docker.getContainer(this.#container).inspect({ abortSignal }),
      );
    } catch (error) {
      if (error instanceof SandyardError && error.code === 'sandbox_not_found') return undefined;
      throw error;
    }
  }

  /**
   * What happened to the container since this exec was started, by the engine's own events: the order is theirs, so that
   * no two clocks are compared.
   */
  async #eventsSinceStart(): Promise<{ oom: boolean; killed: boolean; died: boolean }> {
    let oom = false;
    let killed = false;
    let died = false;
    try {
      const { docker } = await this.#connection.connected();
      const events = await docker.getEvents({
        since: 1,
        filters: { container: [this.#container], event: ['oom', 'kill', 'die', 'exec_start'] },
        abortSignal: AbortSignal.timeout(EVENT_WAIT_MS),
      });
      events.on('error', () => {}); // thrown by the loop as well
      let started = false;
      let rest = '';
      for await (const chunk of events) {
        const lines = `${rest}${String(chunk)}`.split('\n');
        rest = lines.pop() ?? '';
        for (const line of lines.filter(Boolean)) {
          const event = JSON.parse(line) as { Action?: string; Actor?: { Attributes?: { execID?: string } } };
          // What was before our start doesn't count. The engine keeps some hundred events: where our start is no longer
          // among them, all that are left are younger.
          if (event.Actor?.Attributes?.execID === this.id) {
            started = true;
            oom = killed = died = false;
          }
          oom ||= event.Action === 'oom';
          killed ||= event.Action === 'kill';
          died ||= event.Action === 'die';
        }
        if (started && (oom || died)) break;
      }
    } catch {
      // The wait is over, or the engine is gone, which the next call will say.
    }
    return { oom, killed, died };
  }
}
