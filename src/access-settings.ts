import { accessSync, constants, readFileSync, statSync } from 'node:fs';

import { SandyardError } from './errors.js';
import type { OriginPattern } from './origins.js';
import { OWNER_PATTERN } from './schemas.js';
import { MIN_TOKEN_SECRET } from './variable-schemas.js';
import type { Values, VariableName } from './variables.js';

/*
 * Who may use the service, as it is configured: what its keys are and what each is good for.
 */

/** What a caller may do. Each route needs one of these; `admin` is good for all of them, and for the sandboxes of all owners. */
export const SCOPES = ['read', 'exec', 'files', 'lifecycle', 'admin'] as const;
export type Scope = (typeof SCOPES)[number];

export interface ApiKey {
  readonly name: string;
  readonly owner: string;
  readonly scopes: readonly Scope[];
  /** SHA-256 of the key. */
  readonly digest: Buffer;
}

export interface TokenSettings {
  /** What tokens and links are signed with; without one there are none. */
  readonly tokenSecret: Uint8Array | undefined;
  readonly maxTokenMs: number;
  /** Where it is noted, over a restart, which tokens have been used; without one there are none for a single use. */
  readonly stateDirectory: string | undefined;
}

export interface AccessSettings extends TokenSettings {
  readonly apiKeys: readonly ApiKey[];
  readonly allowOrigins: readonly string[];
  readonly allowOriginPattern: OriginPattern | undefined;
  /** Whose `X-Forwarded-For` is believed. */
  readonly trustedProxies: readonly string[];
  /** Requests a minute; `undefined` for as many as come. */
  readonly ratePerOwner: number | undefined;
  readonly ratePerAddress: number | undefined;
}

export function toAccess(values: Values): AccessSettings {
  return {
    ...toTokenSettings(values),
    apiKeys: readApiKeys(values.SANDBOX_API_KEYS_FILE),
    allowOrigins: values.SANDBOX_ALLOW_ORIGINS ?? [],
    allowOriginPattern: values.SANDBOX_ALLOW_ORIGIN_REGEX,
    trustedProxies: values.SANDBOX_TRUSTED_PROXIES ?? [],
    ratePerOwner: values.SANDBOX_RATE_LIMIT_OWNER,
    ratePerAddress: values.SANDBOX_RATE_LIMIT_ADDRESS,
  };
}

export function toTokenSettings(values: Values): TokenSettings {
  const secret = readSecret(values, { name: 'SANDBOX_TOKEN_SECRET', what: 'secret', min: MIN_TOKEN_SECRET });
  return {
    tokenSecret: secret === undefined ? undefined : Buffer.from(secret),
    maxTokenMs: required(values, 'SANDBOX_TOKEN_MAX_AGE'),
    stateDirectory: checkStateDirectory(values.SANDBOX_STATE_DIR),
  };
}

const KEY_LINE = /^(\S+)\s+(\S+)\s+(\S+)\s+sha256:([0-9a-f]{64})$/i;
const KEY_NAME = /^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$/;

/** The keys in a file: a line for each, `NAME OWNER SCOPE[,SCOPE…] sha256:HEX`. Throws `config_invalid`, naming file and line. */
function readApiKeys(file: string | undefined): readonly ApiKey[] {
  if (file === undefined) return [];
  const keys: ApiKey[] = [];
  for (const [at, line] of readText('SANDBOX_API_KEYS_FILE', file).split('\n').entries()) {
    const text = line.trim();
    if (text === '' || text.startsWith('#')) continue;
    const key = parseKey(text, (fault) => keyFault(file, at + 1, fault));
    if (keys.some(({ name }) => name === key.name)) throw keyFault(file, at + 1, `the name ${key.name} is used twice`);
    if (keys.some(({ digest }) => digest.equals(key.digest))) throw keyFault(file, at + 1, 'the key is used twice');
    keys.push(key);
  }
  return keys;
}

function parseKey(text: string, fault: (what: string) => SandyardError): ApiKey {
  const match = KEY_LINE.exec(text);
  // The line isn't repeated: whoever has put the key itself there should not find it in a log.
  if (match === null) throw fault('it is not "NAME OWNER SCOPE[,SCOPE] sha256:HEX"');
  const [, name = '', owner = '', list = '', hex = ''] = match;
  if (!KEY_NAME.test(name)) throw fault('the name is not up to 63 letters, digits and "._@-"');
  if (!OWNER_PATTERN.test(owner)) throw fault('the owner is not up to 63 lower-case letters, digits and "._-"');
  const scopes = list.split(',');
  const unknown = scopes.find((scope) => !SCOPES.some((known) => known === scope));
  if (unknown !== undefined) throw fault(`"${unknown}" is none of ${SCOPES.join(', ')}`);
  return { name, owner, scopes: scopes as Scope[], digest: Buffer.from(hex, 'hex') };
}

function keyFault(file: string, line: number, what: string): SandyardError {
  return new SandyardError('config_invalid', `SANDBOX_API_KEYS_FILE is ${file}, and in line ${line} ${what}.`, {
    hint: 'Write a line for each key, such as: ci team-a read,exec sha256:$(printf %s "$KEY" | sha256sum | cut -c1-64)',
  });
}

/** Throws `config_invalid` where it is no directory that can be written to. */
function checkStateDirectory(directory: string | undefined): string | undefined {
  if (directory === undefined) return undefined;
  try {
    if (!statSync(directory).isDirectory()) throw new Error('it is no directory');
    accessSync(directory, constants.W_OK | constants.X_OK);
    return directory;
  } catch (error) {
    throw new SandyardError('config_invalid', `SANDBOX_STATE_DIR is ${directory}, which can't be written to.`, {
      hint: 'Make it, and give it to the user that the service runs as.',
      cause: error,
    });
  }
}

/** Throws `config_invalid` where it is not set. */
export function required<Name extends VariableName>(values: Values, name: Name): NonNullable<Values[Name]> {
  const value = values[name];
  if (value === undefined || value === null) throw new SandyardError('config_invalid', `${name} is not set.`);
  return value;
}

type SecretName = 'SANDBOX_TOKEN' | 'SANDBOX_TOKEN_SECRET' | 'SANDBOX_WEBHOOK_SECRET';

/** A secret, by its variable or from the file that the other one names. Throws `config_invalid`. */
export function readSecret(
  values: Values,
  { name, what, min }: { name: SecretName; what: string; min: number },
): string | undefined {
  const file = values[`${name}_FILE`];
  if (file === undefined) return values[name];
  const secret = readText(`${name}_FILE`, file).trim();
  if (secret.length < min) {
    throw new SandyardError('config_invalid', `${name}_FILE is ${file}, whose ${what} has under ${min} characters.`);
  }
  return secret;
}

/** The text of a file that a variable names. Throws `config_invalid`. */
export function readText(name: string, file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw new SandyardError('config_invalid', `${name} is ${file}, which can't be read.`, { cause: error });
  }
}
