import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';

import { currentContext, parseTraceparent, withContext } from '../../src/context.js';

const TRACE = '0af7651916cd43dd8448eb211c80319c';
const SPAN = 'b7ad6b7169203331';

describe('the context of a call', () => {
  it('goes along through what is waited for, and is nobody else’s', async () => {
    const seen = async (requestId: string) =>
      withContext({ requestId }, async () => {
        await sleep(1);
        return currentContext().requestId;
      });
    expect(await Promise.all([seen('a'), seen('b')])).toEqual(['a', 'b']);
    expect(currentContext()).toEqual({});
  });

  it('adds to the one that it is called in', () => {
    const inner = withContext({ requestId: 'a', actor: 'rest' }, () => withContext({ actor: 'pool' }, currentContext));
    expect(inner).toEqual({ requestId: 'a', actor: 'pool' });
  });
});

describe('traceparent', () => {
  it.each([
    `00-${TRACE}-${SPAN}-01`,
    `00-${TRACE}-${SPAN}-00`,
    `01-${TRACE}-${SPAN}-01`,
    `cc-${TRACE}-${SPAN}-01-more`,
  ])('of %s its ids are taken', (header) => {
    expect(parseTraceparent(header)).toEqual({ traceId: TRACE, spanId: SPAN });
  });

  it.each([
    undefined,
    '',
    ['00', TRACE, SPAN, '01'],
    `ff-${TRACE}-${SPAN}-01`,
    `00-${TRACE}-${SPAN}-01-more`,
    `00-${TRACE}-${SPAN}-01 `,
    `00-${TRACE}-${SPAN}-0`,
    `00-${TRACE}-${SPAN}`,
    `0-${TRACE}-${SPAN}-01`,
    `00-${TRACE.toUpperCase()}-${SPAN}-01`,
    `00-${'0'.repeat(32)}-${SPAN}-01`,
    `00-${TRACE}-${'0'.repeat(16)}-01`,
    `01-${TRACE}-${SPAN}-01more`,
    `00-${TRACE}-${SPAN}-01, 00-${TRACE}-${SPAN}-01`,
    `00-${TRACE}-${SPAN}-01\n`,
  ])('%j is no trace, and no fault', (header) => {
    expect(parseTraceparent(header)).toEqual({});
  });
});
