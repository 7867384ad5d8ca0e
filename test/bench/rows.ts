import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type Docker from 'dockerode';
import tarFs from 'tar-fs';
import { pack } from 'tar-stream';

import type { Sandbox, SandboxManager } from '../../src/index.js';
import { createByHand, execByHand, type ByHandOptions } from './by-hand.js';
import { drain, interleave, percentile, throughput, timed, type Pair, type Samples } from './measure.js';
import type { ServiceProcess } from './services.js';

const MIB = 1024 * 1024;
const WORKERS = 16;

/** What the rows work with. The sandboxes are there already, and by hand the same containers are used. */
export interface Bench {
  readonly docker: Docker;
  readonly manager: SandboxManager;
  readonly sandboxes: readonly Sandbox[];
  readonly byHand: ByHandOptions;
  readonly service: ServiceProcess;
  readonly rawService: ServiceProcess;
  /** An empty directory of the host. */
  readonly directory: string;
  readonly quick: boolean;
}

/**
 * What a row is held to. `faster`: by hand takes at least so many times as long, or has at most that part of the
 * throughput. `slower`: it takes at most so many times as long as by hand. `below`: it is below the value.
 */
export type Bar = { readonly kind: 'faster' | 'slower' | 'below'; readonly value: number };

export interface Row {
  readonly name: string;
  readonly title: string;
  readonly unit: 'ms' | '/s' | 'MiB/s';
  readonly bar: Bar;
  /** How far the samples are told by their median, or by their 99th percentile. */
  readonly part?: number;
  measure(bench: Bench): Promise<Samples>;
}

export const rows: readonly Row[] = [
  {
    name: 'exec',
    title: "exec(['true'])",
    unit: 'ms',
    bar: { kind: 'faster', value: 40 },
    async measure({ docker, sandboxes: [sandbox], quick }) {
      const container = await containerOf(docker, sandbox);
      const pair = {
        ours: () => timed(() => needed(sandbox).exec(['true'])),
        byHand: () => timed(() => execByHand(container, ['true'])),
      };
      return interleave(pair, { rounds: quick ? 10 : 40, warmUps: 3 });
    },
  },
  {
    name: 'exec-rest',
    title: 'the same through REST',
    unit: 'ms',
    bar: { kind: 'faster', value: 25 },
    async measure({ docker, sandboxes: [sandbox], service, rawService, quick }) {
      const { id } = needed(sandbox);
      const container = await containerOf(docker, sandbox);
      const body = { command: ['true'] };
      const pair = {
        ours: () => timed(() => service.send('POST', `/api/sandboxes/${id}/execute`, body)),
        byHand: () => timed(() => rawService.send('POST', `/api/sandboxes/${container.id}/execute`, body)),
      };
      return interleave(pair, { rounds: quick ? 10 : 40, warmUps: 3 });
    },
  },
  {
    name: 'exec-16-in-1',
    title: '16 execs at once, one sandbox',
    unit: '/s',
    bar: { kind: 'faster', value: 60 },
    measure: (bench) => measureExecRate(bench, 1),
  },
  {
    name: 'exec-16-in-8',
    title: '16 execs at once, eight sandboxes',
    unit: '/s',
    bar: { kind: 'faster', value: 40 },
    measure: (bench) => measureExecRate(bench, 8),
  },
  {
    name: 'file-1k',
    title: 'write + read a file of 1 KB',
    unit: 'ms',
    bar: { kind: 'faster', value: 60 },
    async measure({ docker, sandboxes: [sandbox], quick }) {
      const { files } = needed(sandbox);
      const container = await containerOf(docker, sandbox);
      const content = Buffer.alloc(1024, 'x');
      const pair = {
        ours: () =>
          timed(async () => {
            await files.write('/workspace/ours.txt', content);
            await files.read('/workspace/ours.txt');
          }),
        byHand: () =>
          timed(async () => {
            const tar = pack();
            tar.entry({ name: 'hand.txt', uid: 1000, gid: 1000 }, content);
            tar.finalize();
            await container.putArchive(Readable.from(tar), { path: '/workspace' });
            await drain(await getArchive(container, '/workspace/hand.txt'));
          }),
      };
      return interleave(pair, { rounds: quick ? 10 : 40, warmUps: 2 });
    },
  },
  {
    name: 'files-200-up',
    title: '200 files of 1 KB up',
    unit: 'ms',
    bar: { kind: 'faster', value: 2 },
    async measure({ docker, sandboxes: [sandbox], directory, quick }) {
      const container = await containerOf(docker, sandbox);
      const source = join(directory, 'many');
      await writeManyFiles(source, 200);
      await needed(sandbox).exec(['mkdir', '-p', '/workspace/hand', '/workspace/ours']);
      const pair = {
        ours: () => timed(() => needed(sandbox).copyTo(source, '/workspace/ours')),
        byHand: () => timed(() => container.putArchive(Readable.from(tarFs.pack(source)), { path: '/workspace/hand' })),
      };
      return interleave(pair, { rounds: quick ? 5 : 30 });
    },
  },
  ...[64, 256].flatMap((size) => transferRows(size)),
  {
    name: 'create-cold',
    title: 'create (cold) to the first output',
    unit: 'ms',
    bar: { kind: 'slower', value: 1 },
    async measure({ docker, manager, byHand, quick }) {
      const pair: Pair = {
        async ours() {
          const start = performance.now();
          await using sandbox = await manager.create();
          await sandbox.exec(['echo', 'ready']);
          return performance.now() - start;
        },
        async byHand() {
          const start = performance.now();
          const container = await createByHand(docker, byHand);
          await execByHand(container, ['echo', 'ready']);
          const ms = performance.now() - start;
          await container.remove({ force: true });
          return ms;
        },
      };
      return interleave(pair, { rounds: quick ? 5 : 30 });
    },
  },
  {
    name: 'create-10',
    title: '10 creates at once, cold',
    unit: 'ms',
    bar: { kind: 'slower', value: 1.1 },
    async measure({ docker, manager, byHand, quick }) {
      const ten = Array.from({ length: 10 });
      const pair: Pair = {
        async ours() {
          const start = performance.now();
          const made = await Promise.all(ten.map(() => manager.create()));
          const ms = performance.now() - start;
          await Promise.all(made.map((sandbox) => sandbox.destroy()));
          return ms;
        },
        async byHand() {
          const start = performance.now();
          const made = await Promise.all(ten.map(() => createByHand(docker, byHand)));
          const ms = performance.now() - start;
          await Promise.all(made.map((container) => container.remove({ force: true })));
          return ms;
        },
      };
      return interleave(pair, { rounds: quick ? 2 : 8, warmUps: 0 });
    },
  },
  {
    name: 'healthz',
    title: 'GET /healthz during 10 creates, p99',
    unit: 'ms',
    part: 0.99,
    bar: { kind: 'below', value: 50 },
    async measure({ service, quick }) {
      const ours: number[] = [];
      for (let round = 0; round < (quick ? 1 : 4); round += 1) ours.push(...(await pollDuringCreates(service)));
      return { ours, byHand: [] };
    },
  },
  {
    name: 'stats',
    title: 'usage of one sandbox',
    unit: 'ms',
    bar: { kind: 'faster', value: 200 },
    async measure({ docker, sandboxes: [sandbox], quick }) {
      const container = await containerOf(docker, sandbox);
      const pair = {
        ours: () => timed(() => needed(sandbox).stats()),
        // Without one-shot the engine waits for a second sample, for a percentage that isn't asked for
        byHand: () => timed(() => container.stats({ stream: false, 'one-shot': true })),
      };
      return interleave(pair, { rounds: quick ? 3 : 30, warmUps: 0 });
    },
  },
];

/** The bytes of a file go up, down, and through standard output. */
function transferRows(size: number): Row[] {
  const bytes = size * MIB;
  const bar = { kind: 'faster', value: 1 } as const;
  const rate = async (work: () => Promise<unknown>) => (size * 1000) / (await timed(work));
  const check = (found: number) => {
    if (found < bytes) throw new Error(`${found} of ${bytes} bytes arrived.`);
  };
  return [
    {
      name: `up-${size}m`,
      title: `${size} MB up`,
      unit: 'MiB/s',
      bar,
      async measure({ docker, sandboxes: [sandbox], quick }) {
        const { files } = needed(sandbox);
        const container = await containerOf(docker, sandbox);
        const pair = {
          ours: () => rate(() => files.write('/workspace/ours.bin', noise(bytes))),
          byHand: () => rate(() => container.putArchive(tarOf('hand.bin', bytes), { path: '/workspace' })),
        };
        const samples = await interleave(pair, transferRounds(quick));
        for (const name of ['ours.bin', 'hand.bin']) check((await files.stat(`/workspace/${name}`)).sizeBytes);
        return samples;
      },
    },
    {
      name: `down-${size}m`,
      title: `${size} MB down`,
      unit: 'MiB/s',
      bar,
      async measure({ docker, sandboxes: [sandbox], quick }) {
        const { files } = needed(sandbox);
        const container = await containerOf(docker, sandbox);
        await files.write('/workspace/down.bin', noise(bytes));
        const pair = {
          ours: () => rate(async () => check(await drain(await files.readStream('/workspace/down.bin')))),
          byHand: () => rate(async () => check(await drain(await getArchive(container, '/workspace/down.bin')))),
        };
        return interleave(pair, transferRounds(quick));
      },
    },
    {
      name: `stdout-${size}m`,
      title: `${size} MB through stdout`,
      unit: 'MiB/s',
      bar,
      async measure({ docker, sandboxes: [sandbox], quick }) {
        const container = await containerOf(docker, sandbox);
        const command = ['head', '-c', String(bytes), '/dev/zero'];
        const pair = {
          ours: () =>
            rate(async () => {
              const process = await needed(sandbox).spawn(command);
              let read = 0;
              for await (const { data } of process.output()) read += data.byteLength;
              await process.wait();
              check(read);
            }),
          byHand: () => rate(async () => check((await execByHand(container, command)).bytes)),
        };
        return interleave(pair, transferRounds(quick));
      },
    },
  ];
}

/** How long each `GET /healthz` takes while ten sandboxes are made. */
async function pollDuringCreates(service: ServiceProcess): Promise<number[]> {
  const took: number[] = [];
  const made = new AbortController();
  const polling = (async () => {
    while (!made.signal.aborted) {
      took.push(await timed(() => service.send('GET', '/healthz')));
      await sleep(2);
    }
  })();
  const ten = Array.from({ length: 10 }, () => service.send('POST', '/api/sandboxes', {}));
  const sandboxes = await Promise.all(ten).finally(() => made.abort());
  await polling;
  const ids = sandboxes.map((sandbox) => (sandbox as { id: string }).id);
  await Promise.all(ids.map((id) => service.send('DELETE', `/api/sandboxes/${id}`)));
  return took;
}

function transferRounds(quick: boolean): { rounds: number } {
  return { rounds: quick ? 2 : 7 };
}

async function measureExecRate({ docker, sandboxes, quick }: Bench, count: number): Promise<Samples> {
  const used = sandboxes.slice(0, count);
  const containers = await Promise.all(used.map((sandbox) => containerOf(docker, sandbox)));
  const load = { total: quick ? 32 : 96, atOnce: WORKERS };
  const pair = {
    ours: () => throughput((index) => needed(used[index % count]).exec(['true']), load),
    byHand: () => throughput((index) => execByHand(needed(containers[index % count]), ['true']), load),
  };
  return interleave(pair, { rounds: quick ? 2 : 5, warmUps: 0 });
}

async function containerOf(docker: Docker, sandbox: Sandbox | undefined): Promise<Docker.Container> {
  const { containerId } = await needed(sandbox).inspect();
  return docker.getContainer(containerId);
}

async function getArchive(container: Docker.Container, path: string): Promise<AsyncIterable<Uint8Array>> {
  return (await container.getArchive({ path })) as unknown as AsyncIterable<Uint8Array>;
}

async function writeManyFiles(directory: string, count: number): Promise<void> {
  await mkdir(directory, { recursive: true });
  const content = Buffer.alloc(1024, 'x');
  await Promise.all(
    Array.from({ length: count }, (_, index) => writeFile(join(directory, `file-${index}.txt`), content)),
  );
}

// oxlint-disable-next-line require-await
async function* noise(bytes: number): AsyncGenerator<Uint8Array> {
  const block = Buffer.alloc(256 * 1024, 'sandyard ');
  for (let left = bytes; left > 0; left -= block.length) yield block.subarray(0, left);
}

function tarOf(name: string, bytes: number): Readable {
  const tar = pack();
  const entry = tar.entry({ name, size: bytes, uid: 1000, gid: 1000 }, () => tar.finalize());
  Readable.from(noise(bytes)).pipe(entry);
  return Readable.from(tar, { objectMode: false });
}

function needed<T>(value: T | undefined): T {
  if (value === undefined) throw new Error('The bench has too few sandboxes.');
  return value;
}

/** What stands for the samples. */
export function summarize({ part = 0.5 }: Pick<Row, 'part'>, values: readonly number[]): number | undefined {
  return values.length === 0 ? undefined : percentile(values, part);
}
