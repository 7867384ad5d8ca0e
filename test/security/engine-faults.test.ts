import { describe, expect } from 'vitest';

import { DockerEngine } from '../../src/engine/docker-engine.js';
import { isSandyardError, SandboxManager } from '../../src/index.js';
import { FakeDaemon, json, type DaemonHandler } from '../fixtures/fake-daemon.js';
import { newOwner } from '../fixtures/run.js';
import { attemptsOn } from './attempts.js';

/** The longest that any of these calls may take: an answer is waited for 15 s, and asked for twice at the most. */
const LONGEST_MS = 60_000;

/** It is found, and then it is of no use. */
const isFound = (path: string) => path === '/_ping' || path === '/version';

const FAULTS: Readonly<Record<string, DaemonHandler>> = {
  'breaks off': ({ response, path }) => {
    if (isFound(path)) return false;
    response.writeHead(200, { 'content-type': 'application/json', 'content-length': '1000' });
    response.write('{');
    setTimeout(() => response.destroy(), 50);
    return true;
  },
  'never answers': ({ path }) => !isFound(path),
  'fails with 500': ({ response, path }) => !isFound(path) && json(response, 500, { message: 'out of order' }),
};

describe('an engine with faults', () => {
  const attempt = attemptsOn('runc');

  attempt(
    39,
    async () => {
      const codes = await Promise.all(Object.entries(FAULTS).map(([what, fault]) => meet(what, fault)));
      return codes.map(({ what, found }) => `${what}: ${found}`).join('; ');
    },
    2 * LONGEST_MS,
  );

  /** What each call to such an engine ends with. */
  async function meet(what: string, fault: DaemonHandler): Promise<{ what: string; found: string }> {
    await using daemon = await FakeDaemon.make();
    daemon.handler = fault;
    await daemon.listen();
    const engine = new DockerEngine({ env: daemon.env });
    const manager = new SandboxManager({ engine, owner: newOwner(), pool: [], reaper: false });
    try {
      const began = performance.now();
      const calls = [
        manager.list(),
        manager.create({ memoryLimit: '64m' }),
        manager.get('nobody'),
        manager.destroy('nobody'),
        manager.engineInfo(),
        manager.prune(),
      ];
      const codes = await Promise.all(
        calls.map((call: Promise<unknown>) =>
          call.then(
            () => `${what}: a call succeeded`,
            (error: unknown) => (isSandyardError(error) ? error.code : String(error)),
          ),
        ),
      );
      expect(performance.now() - began).toBeLessThan(LONGEST_MS);
      for (const code of codes) expect(code, what).toMatch(/^engine_\w+$/);
      return {
        what,
        found: [...new Set(codes)]
          .toSorted()
          .map((code) => `\`${code}\``)
          .join(' '),
      };
    } finally {
      await manager.close();
    }
  }
});
