import { readSecret } from './access-settings.js';
import { SandyardError } from './errors.js';
import type { Values } from './variables.js';
import { MIN_WEBHOOK_SECRET, toWebhookKey } from './variable-schemas.js';

/** Whom to tell of what happens to sandboxes, and with which secret to sign that. */
export interface WebhookSettings {
  readonly urls: readonly string[];
  readonly key: Uint8Array;
}

/** Throws `config_invalid` for URLs without a secret. */
export function readWebhooks(values: Values): WebhookSettings | undefined {
  const urls = values.SANDBOX_WEBHOOK_URLS ?? [];
  if (urls.length === 0) return undefined;
  const secret = readSecret(values, { name: 'SANDBOX_WEBHOOK_SECRET', what: 'secret', min: MIN_WEBHOOK_SECRET });
  const key = secret === undefined ? undefined : toWebhookKey(secret);
  if (key !== undefined) return { urls, key };
  const fault = secret === undefined ? 'there is no secret' : 'the secret is not 24 bytes or more in base64';
  throw new SandyardError('config_invalid', `SANDBOX_WEBHOOK_URLS is set, and ${fault}.`, {
    hint: 'Set SANDBOX_WEBHOOK_SECRET, such as to: echo "whsec_$(openssl rand -base64 32)"',
  });
}
