import { constants } from 'node:os';
import { describe, expect, it } from 'vitest';

import { SIGNAL_NAMES, signalName, signalNumber } from '../../src/signals.js';

describe('signals', () => {
  it.runIf(process.platform === 'linux').each(SIGNAL_NAMES)('%s has the number that Linux gives it', (name) => {
    expect(signalNumber(name)).toBe(constants.signals[name as keyof typeof constants.signals]);
  });

  it.each(SIGNAL_NAMES)('%s is named by its number', (name) => {
    expect(signalName(signalNumber(name))).toBe(name);
  });

  it('have a name also where they have none of their own', () => {
    expect(signalName(34)).toBe('SIG34');
  });
});
