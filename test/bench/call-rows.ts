import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import tarFs from 'tar-fs';
import { pack } from 'tar-stream';

import { execByHand, getArchive } from './by-hand.js';
import { drain, interleave, throughput, timed, withoutPair, type Samples } from './measure.js';
import { containerOf, needed, type Bench, type Row } from './row.js';

const WORKERS = 16;
/** How often the quick side of a comparison is run before it is measured: a program that has just started is compiled as it runs. */
const WARM_UP_CALLS = 200;
/** So is each by hand followed by several: the first of them shares the machine with what the engine does after its answer. */
const QUICK = { warmUpCalls: WARM_UP_CALLS, oursPerRound: 4 } as const;

const LOOP_COMMANDS = 100;
/** Starts the same program again and again, which with this path isn't the shell's own: little can be quicker. */
const LOOP = `i=0; while [ $i -lt ${LOOP_COMMANDS} ]; do /bin/true; i=$((i+1)); done`;

/** Calls that a sandbox which is there already answers. */
export const callRows: readonly Row[] = [
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
      return interleave(pair, { rounds: quick ? 15 : 60, ...QUICK });
    },
  },
  {
    name: 'exec-inside',
    title: "exec(['true']), against a shell's own loop inside the sandbox",
    unit: 'ms',
    bar: { kind: 'slower', value: 3 },
    async measure({ sandboxes: [sandbox], quick }) {
      const pair = {
        ours: () => timed(() => needed(sandbox).exec(['true'])),
        byHand: async () => (await timed(() => needed(sandbox).exec(LOOP))) / LOOP_COMMANDS,
      };
      return withoutPair(await interleave(pair, { rounds: quick ? 15 : 60, ...QUICK }));
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
      return interleave(pair, { rounds: quick ? 15 : 60, ...QUICK });
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
      let made = 0;
      // New each time: replacing a file has some file systems write it to the disk at once, whoever does it
      const nextName = () => `file-${(made += 1)}.txt`;
      const pair = {
        ours: () => {
          const path = `/workspace/${nextName()}`;
          return timed(async () => {
            await files.write(path, content);
            await files.read(path);
          });
        },
        byHand: () => {
          const name = nextName();
          return timed(async () => {
            const tar = pack();
            tar.entry({ name, uid: 1000, gid: 1000 }, content);
            tar.finalize();
            await container.putArchive(Readable.from(tar), { path: '/workspace' });
            await drain(await getArchive(container, `/workspace/${name}`));
          });
        },
      };
      return interleave(pair, { rounds: quick ? 15 : 40, ...QUICK });
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
      return interleave(pair, { rounds: quick ? 5 : 30, warmUpCalls: quick ? 2 : 10 });
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
      return interleave(pair, { rounds: quick ? 3 : 30, warmUps: 0, ...QUICK });
    },
  },
];

/** A sample is of so many execs that it takes about a second, or two. */
async function measureExecRate({ docker, sandboxes, quick }: Bench, count: number): Promise<Samples> {
  const used = sandboxes.slice(0, count);
  const containers = await Promise.all(used.map((sandbox) => containerOf(docker, sandbox)));
  const ours = (total: number) =>
    throughput((index) => needed(used[index % count]).exec(['true']), { total, atOnce: WORKERS });
  await ours(WARM_UP_CALLS);
  const callsPerSample = { ours: 40 * WORKERS, byHand: 2 * WORKERS };
  const pair = {
    ours: () => ours(callsPerSample.ours),
    byHand: () =>
      throughput((index) => execByHand(needed(containers[index % count]), ['true']), {
        total: callsPerSample.byHand,
        atOnce: WORKERS,
      }),
    callsPerSample,
  };
  return interleave(pair, { rounds: quick ? 3 : 30, warmUps: 0 });
}

async function writeManyFiles(directory: string, count: number): Promise<void> {
  await mkdir(directory, { recursive: true });
  const content = Buffer.alloc(1024, 'x');
  await Promise.all(
    Array.from({ length: count }, (_, index) => writeFile(join(directory, `file-${index}.txt`), content)),
  );
}
