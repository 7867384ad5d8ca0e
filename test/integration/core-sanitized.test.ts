import type Docker from 'dockerode';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { sanitizedImage } from '../fixtures/images.js';
import { dockerClient, newOwner, testManager } from '../fixtures/run.js';
import { describeCore } from './core-cases.js';

const BUILD_MS = 600_000;
/** A stop, the end of a lease, the end of an idle time, a removal. A sanitizer that finds a fault ends PID 1 with 1 or 134. */
const GOOD_ENDS = new Set(['0', '137', '143', '90', '91']);

/*
 * What holds of the warden as it is run holds of one that ends at the first fault of its own that it finds: which would
 * end PID 1, and with it the sandbox, or the built-in operation, and with it the call.
 */
describe('with a warden that finds its own faults', () => {
  const owner = newOwner();
  const ends: string[] = [];
  let image: string;
  let events: NodeJS.ReadableStream & { destroy?: () => void };

  beforeAll(async () => {
    image = await sanitizedImage();
  }, BUILD_MS);
  beforeAll(async () => {
    const filters = { type: ['container'], event: ['die'], label: [`sandyard.owner=${owner}`] };
    events = await dockerClient().getEvents({ filters } as Docker.GetEventsOptions);
    let rest = '';
    events.on('data', (chunk: Buffer) => {
      const lines = (rest + chunk.toString()).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines.filter(Boolean)) ends.push(JSON.parse(line).Actor.Attributes.exitCode as string);
    });
  });
  afterAll(() => events?.destroy?.());

  describeCore('the sanitizer build', () => testManager({ owner, image }));

  it('no sandbox has ended but as it was asked to', () => {
    expect(ends.length).toBeGreaterThan(0);
    expect(ends.filter((code) => !GOOD_ENDS.has(code))).toEqual([]);
  });
});
