import { setTimeout as sleep } from 'node:timers/promises';
import type Docker from 'dockerode';

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
 * - Output is counted as it comes, without taking the two streams apart: the least that can be done with it.
 */

const USER = '1000:1000';

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
  /** Of both streams, with the 8 bytes of header that the engine puts before each piece. */
  readonly bytes: number;
}

export async function execByHand(container: Docker.Container, command: string[]): Promise<ExecByHand> {
  const exec = await container.exec({ Cmd: command, User: USER, AttachStdout: true, AttachStderr: true });
  const stream = await exec.start({});
  let bytes = 0;
  for await (const chunk of stream as AsyncIterable<Buffer>) bytes += chunk.length;
  const { ExitCode } = await exec.inspect();
  return { exitCode: ExitCode, bytes };
}

/** Removes what carries the label, also what is just being made. */
export async function removeLabelled(docker: Docker, label: string): Promise<void> {
  for (let attempt = 0; attempt < 5; attempt += 1) {
    const containers = await docker.listContainers({ all: true, filters: { label: [label] } });
    if (containers.length === 0) return;
    await Promise.all(containers.map(({ Id }) => docker.getContainer(Id).remove({ force: true }).catch(ignoreGone)));
    await sleep(200);
  }
}

function ignoreGone(error: unknown): void {
  const status = error instanceof Error && 'statusCode' in error ? error.statusCode : undefined;
  // Gone already, or being removed by an earlier call
  if (status !== 404 && status !== 409) throw error;
}
