import { Readable } from 'node:stream';
import { pack } from 'tar-stream';

import { execByHand, getArchive } from './by-hand.js';
import { drain, interleave, timed } from './measure.js';
import { containerOf, needed, type Row } from './row.js';

const MIB = 1024 * 1024;

/** The bytes of a file go up, down, and through standard output. Each sample is a transfer of its own. */
export function transferRows(size: number): Row[] {
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
        for (const name of ['ours.bin', 'hand.bin']) {
          check((await files.stat(`/workspace/${name}`)).sizeBytes);
          await files.remove(`/workspace/${name}`);
        }
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
          byHand: () => rate(async () => check((await execByHand(container, command)).stdoutBytes)),
        };
        return interleave(pair, transferRounds(quick));
      },
    },
  ];
}

function transferRounds(quick: boolean): { rounds: number } {
  return { rounds: quick ? 3 : 30 };
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
