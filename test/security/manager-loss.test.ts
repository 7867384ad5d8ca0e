import { afterEach, beforeEach, describe, expect } from 'vitest';

import type { ManagerOptions, SandboxManager } from '../../src/index.js';
import { DyingManager, killHard } from '../fixtures/manager-process.js';
import { countProcesses, dockerClient, eventually, newOwner, removeAll, testManager } from '../fixtures/run.js';
import { attemptsOn } from './attempts.js';

const SMALL = { memoryLimit: '64m', pidsLimit: 64 };

describe('what a manager leaves that is killed', () => {
  const attempt = attemptsOn('runc');
  const docker = dockerClient();
  let owner: string;
  const managers: SandboxManager[] = [];
  beforeEach(() => {
    owner = newOwner();
  });
  afterEach(async () => {
    await Promise.all(managers.splice(0).map((manager) => manager.close()));
    await removeAll(await testManager({ owner }));
    for (const { Id } of await ours())
      await docker
        .getContainer(Id)
        .remove({ force: true })
        .catch(() => {});
  });

  const open = async (options: ManagerOptions = {}) => {
    const manager = await testManager({ owner, pool: [], ...options });
    managers.push(manager);
    return manager;
  };
  /** Whatever it is called, and whoever has made it. */
  const ours = () => docker.listContainers({ all: true, filters: { label: [`sandyard.owner=${owner}`] } });
  const names = async () => (await ours()).map(({ Names }) => (Names[0] ?? '').slice(1)).toSorted();

  attempt(36, async () => {
    const command = 'trap "" TERM; sleep 400001 & while :; do sleep 400001; done';
    const create = { ...SMALL, ttlMs: 600_000 };
    const sandboxes = [
      ...[1, 2, 3].map(() => ({ create, command })),
      { create },
      { create: { ...SMALL, ttlMs: 2000 } },
    ];
    const dying = new DyingManager(owner, 'hold', { sandboxes });
    const made = JSON.parse(await dying.line()) as string[];
    await killHard(dying.process);
    const kept = made.slice(0, 4);

    const manager = await open({ reaper: { schedule: '* * * * * *' } });
    const listed = async () => (await manager.list()).sandboxes.map(({ id }) => id).toSorted();
    await eventually(async () => ((await listed()).length === kept.length ? true : undefined));
    expect(await listed()).toEqual(kept.toSorted());
    await eventually(async () => ((await names()).length === kept.length ? true : undefined));
    for (const id of kept.slice(0, 3)) {
      const sandbox = await manager.get(id);
      expect(await sandbox.processes.list()).toMatchObject([
        { id: 'held', state: 'running', outcome: null, exitCode: null },
      ]);
      const held = await sandbox.processes.get('held');
      await held.kill('SIGKILL');
      expect(await held.wait()).toMatchObject({ outcome: 'killed' });
      expect(await countProcesses(sandbox, 'sleep 400001')).toBe(0);
    }
    return `${kept.length} adopted, their commands still running, and ended with all that they started; ${made.length - kept.length} removed`;
  });

  attempt(43, async () => {
    const bystanders = await open();
    const own = await bystanders.create(SMALL);
    const steps = ['createContainer', 'attachTunnel', 'startContainer', 'verifyContainer'].flatMap((method) => [
      `before ${method}`,
      `after ${method}`,
    ]);
    const dying = new DyingManager(owner, 'halt', { steps: [...steps, 'never'], create: { ...SMALL, ttlMs: 6000 } });
    const made = JSON.parse(await dying.line()) as (string | null)[];
    await killHard(dying.process);
    expect(made).toEqual([...steps.map(() => null), expect.any(String)]);
    const left = (await ours()).map(({ State }) => State);
    expect(left.filter((state) => state === 'created').length).toBe(4);
    expect(left.length).toBe(9); // all but the one before the first step, and the bystander
    const reaping = await open({ reaper: { schedule: '* * * * * *', halfCreatedAfterMs: 5000 } });
    await reaping.renew(made.at(-1) ?? '', { ttlMs: 60_000 });
    const kept = [`sandyard-${own.id}`, `sandyard-${made.at(-1)}`].toSorted();
    await eventually(async () => ((await names()).length === 2 ? true : undefined));
    expect(await names()).toEqual(kept);
    expect((await reaping.exec(own.id, ['echo', 'here'])).stdout).toBe('here\n');
    return `nothing left of ${steps.length} steps; what was whole is there`;
  });
});
