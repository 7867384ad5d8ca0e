import { setTimeout as sleep } from 'node:timers/promises';
import type Docker from 'dockerode';
import pLimit from 'p-limit';

/*
 * What a person would write who has dockerode and no Sandyard. It is the fair other side of a comparison:
 *
 * - It speaks to the same engine over the same kind of client, which keeps its connections open.
 * - What runs in a sandbox, or is copied to or from one, goes by hand to that very container: same image, limits,
 *   seccomp profile and disk.
 * - What makes containers gives them the limits, the lack of a network and of capabilities, and the log driver that a
 *   sandbox has: whoever runs code that isn't trusted has to. It skips what only Sandyard does: checking the input, looking
 *   at the image's labels, reading the settings back.
 * - An exec is created, started, read to its end, and inspected for its exit code: without any of these there is no result.
 * - The two streams of its output are taken apart in the quickest way there is, which is more than twice as quick as that of
 *   the client, and what comes is counted and not kept.
 */

const USER = '1000:1000';
const REMOVED_AT_ONCE = 8;

export interface ByHandOptions {
  readonly image: string;
  readonly labels: Readonly<Record<string, string>>;
}

/** Creates a container and starts it. */
export async function createByHand(docker: Docker, { image, labels }: ByHandOptions): Promise<Docker.Container> {
  const memory = 1024 ** 3;
  const container = await docker.createContainer({
    Image: image,
    Entrypoint: ['sleep', 'infinity'],
    Labels: { ...labels },
    WorkingDir: '/workspace',
    HostConfig: {
      Init: true,
      NetworkMode: 'none',
      CapDrop: ['ALL'],
      SecurityOpt: ['no-new-privileges:true'],
      LogConfig: { Type: 'none', Config: {} },
      Memory: memory,
      MemorySwap: memory,
      NanoCpus: 1e9,
      PidsLimit: 256,
    },
  });
  await container.start();
  return container;
}

export interface ExecByHand {
  readonly exitCode: number | null;
  readonly stdoutBytes: number;
  /** When the first of them came, by `performance.now()`. */
  readonly firstOutputAt: number | null;
}

export async function execByHand(container: Docker.Container, command: string[]): Promise<ExecByHand> {
  const exec = await container.exec({ Cmd: command, User: USER, AttachStdout: true, AttachStderr: true });
  const stream = await exec.start({});
  let stdoutBytes = 0;
  let firstOutputAt: number | null = null;
  const split = splitter((kind, data) => {
    if (kind !== STDOUT) return;
    firstOutputAt ??= performance.now();
    stdoutBytes += data.length;
  });
  for await (const chunk of stream as AsyncIterable<Buffer>) split(chunk);
  const { ExitCode } = await exec.inspect();
  return { exitCode: ExitCode, stdoutBytes, firstOutputAt };
}

const STDOUT = 1;
const HEADER_BYTES = 8;

/** Takes apart what the engine sends: before each piece there are 8 bytes with its stream and its length. */
function splitter(take: (kind: number, data: Buffer) => void): (chunk: Buffer) => void {
  const header = Buffer.alloc(HEADER_BYTES);
  let headerHas = 0;
  let left = 0;
  return (chunk) => {
    for (let at = 0; at < chunk.length;) {
      if (left > 0) {
        const end = Math.min(chunk.length, at + left);
        take(header.readUInt8(0), chunk.subarray(at, end));
        left -= end - at;
        at = end;
        continue;
      }
      const copied = chunk.copy(header, headerHas, at, at + HEADER_BYTES - headerHas);
      headerHas += copied;
      at += copied;
      if (headerHas < HEADER_BYTES) return;
      headerHas = 0;
      left = header.readUInt32BE(4);
    }
  };
}

/** A tar of what the path names. */
export async function getArchive(container: Docker.Container, path: string): Promise<AsyncIterable<Uint8Array>> {
  return (await container.getArchive({ path })) as unknown as AsyncIterable<Uint8Array>;
}

/** Removes what carries the label, also what is just being made. */
export async function removeLabelled(docker: Docker, label: string): Promise<void> {
  for (let attempt = 0; attempt < 5; attempt += 1) {
    const containers = await docker.listContainers({ all: true, filters: { label: [label] } });
    if (containers.length === 0) return;
    // Not all at once: Docker 20.10 has been seen to lock up over the end of four hundred.
    const limit = pLimit(REMOVED_AT_ONCE);
    const remove = ({ Id }: { Id: string }) => docker.getContainer(Id).remove({ force: true }).catch(ignoreGone);
    await Promise.all(containers.map((container) => limit(() => remove(container))));
    await sleep(200);
  }
}

function ignoreGone(error: unknown): void {
  const status = error instanceof Error && 'statusCode' in error ? error.statusCode : undefined;
  // Gone already, or being removed by an earlier call
  if (status !== 404 && status !== 409) throw error;
}
