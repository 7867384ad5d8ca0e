import { isLoopback, isOpen, type ServiceConfig } from '../config.js';
import { isSandyardError } from '../errors.js';
import { toCheck, type DoctorCheck } from './checks.js';

/** Judges the settings of the REST service. `read` gives them, or throws what is wrong with them. */
export function checkService(read: () => ServiceConfig): DoctorCheck[] {
  let config: ServiceConfig;
  try {
    config = read();
  } catch (error) {
    if (!isSandyardError(error, 'config_invalid')) throw error;
    const { message, hint = 'See .env.example.' } = error;
    const expected = 'the service can start with them';
    return [toCheck('service settings', { expected, found: message, ok: false, otherwise: 'fail', fix: hint })];
  }
  const { host, port, webhooks, warnings } = config;
  const open = isOpen(config);
  const plain = (webhooks?.urls ?? []).filter((url) => isPlain(url)).length;
  return [
    toCheck('service address', {
      expected: 'loopback, or a token is needed',
      found: `${host}:${port}, ${open ? 'no token needed' : 'a token needed'}`,
      ok: !open || isLoopback(host),
      otherwise: 'fail',
      fix: 'Set SANDBOX_TOKEN_FILE or SANDBOX_API_KEYS_FILE, or HOST to 127.0.0.1.',
    }),
    ...(webhooks === undefined
      ? []
      : [
          toCheck('service webhooks', {
            expected: 'go to https, or stay on this machine',
            found: plain === 0 ? 'they do' : `${plain} of ${webhooks.urls.length} go to http elsewhere`,
            ok: plain === 0,
            otherwise: 'warn' as const,
            fix: 'Have SANDBOX_WEBHOOK_URLS begin with https:.',
          }),
        ]),
    ...warnings.map((found) =>
      toCheck('service variables', {
        expected: 'those that it knows',
        found,
        ok: false,
        otherwise: 'warn',
        fix: 'Correct the name, or remove it: what it was meant to set is as by default.',
      }),
    ),
  ];
}

function isPlain(url: string): boolean {
  const { protocol, hostname } = new URL(url);
  return protocol === 'http:' && !isLoopback(hostname);
}
