import { afterEach, beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import pLimit from 'p-limit';

import { buildImage } from '../../scripts/images.mjs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ManagerOptions, SandboxManager } from '../../src/index.js';
import { DyingManager, killHard } from '../fixtures/manager-process.js';
import { dockerClient, eventually, IMAGE, newOwner, removeAll, RUN_SUFFIX, testManager } from '../fixtures/run.js';

const SMALL = { memoryLimit: '64m', pidsLimit: 64 };
const docker = dockerClient();

let owner: string;
const managers: SandboxManager[] = [];

beforeEach(() => {
  owner = newOwner();
});
/** Whatever it is called, and whoever has made it. */
afterEach(async () => {
  await Promise.all(managers.splice(0).map((manager) => manager.close()));
  await removeAll(await testManager({ owner }));
  const left = await docker.listContainers({ all: true, filters: { label: [`sandyard.owner=${owner}`] } });
  await Promise.all(
    left.map(({ Id }) =>
      docker
        .getContainer(Id)
        .remove({ force: true })
        .catch(() => {}),
    ),
  );
});

async function open(options: ManagerOptions = {}): Promise<SandboxManager> {
  const manager = await testManager({ owner, pool: [], ...options });
  managers.push(manager);
  return manager;
}

const containers = async () => {
  const found = await docker.listContainers({ all: true, filters: { label: [`sandyard.owner=${owner}`] } });
  return found.map(({ Names, State, ImageID }) => ({ name: (Names[0] ?? '').slice(1), state: State, image: ImageID }));
};
const names = async () => (await containers()).map(({ name }) => name);
const isWarm = (name: string) => name.startsWith('sandyard-pool-');
/** Within the second that others have to learn of it. */
const soon = (probe: () => Promise<boolean>) =>
  eventually(async () => ((await probe()) ? true : undefined), { timeoutMs: 1000, everyMs: 20 });
const ids = async (manager: SandboxManager) => (await manager.list({ limit: 1000 })).sandboxes.map(({ id }) => id);

describe('managers of one owner', () => {
  it('have each a way in of their own by the engine: its maker by PID 1, another by a command', async () => {
    const byEngine = () => open({ socketDirectory: 'none' });
    const [maker, other] = [await byEngine(), await byEngine()];
    const { id } = await maker.create(SMALL);
    const execs = async () => ((await docker.getContainer(`sandyard-${id}`).inspect()).ExecIDs ?? []).length;
    expect((await maker.exec(id, ['echo', 'first'])).stdout).toBe('first\n');
    expect(await execs()).toBe(0);
    expect((await other.exec(id, ['echo', 'second'])).stdout).toBe('second\n');
    expect(await execs()).toBe(1);
    await maker.close();
    expect((await other.exec(id, ['echo', 'third'])).stdout).toBe('third\n');
    expect(await execs()).toBe(1);
    const again = await byEngine();
    expect((await again.exec(id, ['echo', 'fourth'])).stdout).toBe('fourth\n');
    expect(await execs()).toBe(2);
  });

  it('adopt what the others have made', async () => {
    const first = await open();
    const sandbox = await first.create({ ...SMALL, ttlMs: 60_000 });
    const job = await sandbox.spawn('i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done', {
      id: 'job',
      whenUnread: 'run',
    });
    let [text, seq] = ['', 0];
    for await (const piece of job.output()) {
      text += Buffer.from(piece.data).toString();
      seq = piece.seq;
      if (text.includes('20\n')) break;
    }
    await first.close();
    const second = await open();
    expect(await ids(second)).toEqual([sandbox.id]);
    const adopted = await second.get(sandbox.id);
    expect((await adopted.exec(['echo', 'adopted'])).stdout).toBe('adopted\n');
    for await (const piece of (await adopted.processes.get('job')).output({ after: seq })) {
      expect(piece.seq).toBe(seq + 1);
      text += Buffer.from(piece.data).toString();
      seq = piece.seq;
      if (text.includes('80\n')) break;
    }
    const lines = text.split('\n').slice(0, 80).map(Number);
    expect(lines).toEqual(lines.map((_, index) => index + 1));
    const { expiresAt } = await adopted.renew({ ttlMs: 600_000 });
    expect(expiresAt.getTime()).toBeGreaterThan(Date.now() + 500_000);
    expect((await adopted.stop({ graceMs: 0 })).state).toBe('exited');
  });

  it('see what the others make, claim, stop and remove, within a second', async () => {
    const [one, two] = [await open({ pool: { size: 1, ...SMALL } }), await open()];
    await eventually(async () => ((await one.gauges()).pool.ready > 0 ? true : undefined));
    expect(await ids(two)).toEqual([]);
    const claimed = await one.create(SMALL);
    await soon(async () => (await ids(two)).includes(claimed.id));
    const made = await two.create({ ...SMALL, workdir: '/workspace/other' });
    await soon(async () => (await ids(one)).includes(made.id));
    await one.stop(made.id, { graceMs: 0 });
    await soon(async () => (await two.list({ state: 'exited' })).sandboxes.some(({ id }) => id === made.id));
    await two.destroy(claimed.id);
    await soon(async () => !(await ids(one)).includes(claimed.id));
    await expect(one.get(claimed.id)).rejects.toMatchObject({ code: 'sandbox_not_found' });
  });
});

describe('claims', () => {
  it('of two managers never give the same sandbox to both', async () => {
    const looking = await open();
    const options = { pool: { size: 20, max: 20, ...SMALL }, create: SMALL };
    const children = [new DyingManager(owner, 'claim', options), new DyingManager(owner, 'claim', options)];
    expect(await Promise.all(children.map((child) => child.line()))).toEqual(['ready', 'ready']);
    const warm = (await names()).filter(isWarm).map((name) => name.slice('sandyard-pool-'.length));
    expect(warm.length).toBeGreaterThanOrEqual(20);
    const given = (await Promise.all(children.map((child) => child.create(30)))).flat();
    expect(new Set(given).size).toBe(60);
    expect(given.filter((id) => warm.includes(id)).length).toBeGreaterThanOrEqual(20);
    await Promise.all(children.map((child) => killHard(child.process)));
    await eventually(async () => ((await ids(looking)).length === 60 ? true : undefined), { what: 'all in the list' });
    expect((await ids(looking)).toSorted()).toEqual(given.toSorted());
    const limit = pLimit(8);
    const said = await Promise.all(given.map((id) => limit(() => looking.exec(id, ['hostname']))));
    expect(said.map(({ stdout }) => stdout.trim())).toEqual(given);
    const named = (await names()).filter((name) => !isWarm(name)).toSorted();
    expect(named).toEqual(given.map((id) => `sandyard-${id}`).toSorted());
  });

  it('outlive a manager that is killed before the sandbox has its name', async () => {
    const options = { pool: { size: 1, ...SMALL }, create: { ...SMALL, ttlMs: 120_000 }, haltRename: true };
    const child = new DyingManager(owner, 'claim', options);
    await child.line();
    const [id = ''] = await child.create(1);
    await killHard(child.process);
    expect(await names()).toContain(`sandyard-pool-${id}`);
    const without = await open();
    const left = (await without.inspect(id)).expiresAt.getTime() - Date.now();
    expect(left).toBeGreaterThan(60_000);
    expect(left).toBeLessThanOrEqual(120_000);
    expect((await without.exec(id, ['echo', 'mine'])).stdout).toBe('mine\n');
    expect(await ids(without)).toEqual([]); // nobody has told of the claim
    await without.prune();
    expect(await ids(without)).toEqual([id]);
    expect(await names()).toContain(`sandyard-${id}`);
  });
});

describe('a pool', () => {
  it('is rebuilt when its image is another, and is gone when its manager is closed', async () => {
    const image = `sandyard-moving:${RUN_SUFFIX}`;
    const [repo = ''] = image.split(':');
    await docker.getImage(IMAGE).tag({ repo, tag: RUN_SUFFIX });
    onTestFinished(() => docker.getImage(image).remove({ force: true }));
    const manager = await open({ image, pool: { size: 2, ...SMALL } });
    const ready = async () => ((await manager.gauges()).pool.ready === 2 ? true : undefined);
    await eventually(ready);
    const claimed = await manager.create(SMALL);
    const context = await mkdtemp(join(tmpdir(), 'sandyard-test-'));
    await writeFile(join(context, 'Dockerfile'), `FROM ${IMAGE}\nLABEL sandyard.test-moved=${RUN_SUFFIX}\n`);
    await buildImage(docker, { context, dockerfile: 'Dockerfile', tag: image });
    await rm(context, { recursive: true });
    const { Id } = await docker.getImage(image).inspect();
    const isRebuilt = async () => {
      const warm = (await containers()).filter(({ name }) => isWarm(name));
      return warm.length === 2 && warm.every((found) => found.image === Id) ? ready() : undefined;
    };
    await eventually(isRebuilt, { what: 'a pool of the new image' });
    expect((await claimed.exec(['echo', 'still here'])).stdout).toBe('still here\n');
    await manager.close();
    expect(await names()).toEqual([`sandyard-${claimed.id}`]);
  });
});
