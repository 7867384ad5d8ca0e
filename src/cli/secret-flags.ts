import { readFile } from 'node:fs/promises';

import { SandyardError } from '../errors.js';
import type { CreateOptions } from '../index.js';
import type { Context } from './context.js';

/* Secrets come from the caller's own environment or from files: what is in arguments, everybody on the machine can see. */

export interface SecretFlags {
  readonly secret?: Record<string, string>;
  readonly secretFile?: Record<string, string>;
  readonly interceptTls?: boolean;
}

/** As the library takes them; `undefined` where there are none. */
export async function toSecrets(
  { secret, secretFile = {}, interceptTls = false }: SecretFlags,
  context: Context,
): Promise<CreateOptions['secrets']> {
  const astray = Object.keys(secretFile).find((name) => secret?.[name] === undefined);
  if (astray !== undefined) {
    throw new SandyardError('validation_failed', `--secret-file names ${astray}, and no --secret does.`, {
      hint: `Say which hosts it is for: --secret ${astray}=api.example.com`,
    });
  }
  if (secret === undefined) return undefined;
  const entries = Object.entries(secret).map(async ([name, hosts]) => {
    const value = await readSecret(name, secretFile[name], context);
    return [name, { value, hosts: hosts.split(',').map((host) => host.trim()), interceptTls }] as const;
  });
  return Object.fromEntries(await Promise.all(entries));
}

/** From a file, without the line break at its end, or else from the variable of its name. */
export async function readSecret(name: string, file: string | undefined, context: Context): Promise<string> {
  if (file !== undefined) return (await readFile(file, 'utf8').catch(unreadable(file))).replace(/\r?\n$/, '');
  const value = await context.readVariable(name);
  if (value !== undefined && value !== '') return value;
  throw new SandyardError('validation_failed', `There is no variable ${name} here, whose value would be the secret.`, {
    hint: 'Export it before, or name a file that has it.',
  });
}

function unreadable(file: string) {
  return (error: unknown): never => {
    throw new SandyardError('validation_failed', `The file ${file} with a secret can't be read.`, { cause: error });
  };
}
