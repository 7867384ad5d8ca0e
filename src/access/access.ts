import { createHash, timingSafeEqual } from 'node:crypto';

import type { AccessSettings, ApiKey } from '../access-settings.js';
import { isOpen } from '../config.js';
import type { Caller } from './caller.js';
import { refused, Tokens } from './tokens.js';
import { UsedTokens } from './used-tokens.js';

export interface AccessOptions {
  readonly settings: AccessSettings;
  /** The one key that is good for everything. */
  readonly token: string | undefined;
  /** Whose the service is. */
  readonly owner: string;
}

/** Who may use a service: by the key that it has always had, by its other keys, and by tokens that it has signed. */
export class Access {
  readonly tokens: Tokens;
  /** Whether nobody needs a token. */
  readonly isOpen: boolean;
  readonly #keys: readonly ApiKey[];
  readonly #owner: string;
  readonly #used: UsedTokens | undefined;

  constructor({ settings, token, owner }: AccessOptions) {
    const { apiKeys, stateDirectory } = settings;
    const master = token === undefined ? [] : [masterKey(token, owner)];
    this.tokens = new Tokens(settings, owner);
    this.isOpen = isOpen({ token, access: settings });
    this.#keys = [...master, ...apiKeys];
    this.#owner = owner;
    this.#used = stateDirectory === undefined ? undefined : new UsedTokens(stateDirectory);
  }

  /** Who asks where nobody needs a token. */
  get anybody(): Caller {
    return { owner: this.#owner, scopes: ['admin'], via: 'open', name: 'anybody' };
  }

  /** Who has that key or token. Throws `unauthorized`. */
  async identify(given: string): Promise<Caller> {
    const key = this.#findKey(given);
    if (key !== undefined) return { owner: key.owner, scopes: key.scopes, via: 'key', name: key.name };
    if (!this.tokens.enabled || given.split('.').length !== 3) throw refused('unknown', 'The token is not valid.');
    return this.tokens.read(given);
  }

  /** Has a token that is good for one request be good for no other. Throws `unauthorized` when it was used. */
  async spend({ once }: Caller): Promise<void> {
    if (once === undefined) return;
    if ((await this.#used?.spend(once)) === true) return;
    throw refused('replayed', 'The token was good for one request, and has been used.');
  }

  /** Looks at all of them, and compares digests, which have one length: the time that it takes tells nothing of a key. */
  #findKey(given: string): ApiKey | undefined {
    const digest = sha256(given);
    let found: ApiKey | undefined;
    for (const key of this.#keys) if (timingSafeEqual(key.digest, digest)) found ??= key;
    return found;
  }
}

function masterKey(token: string, owner: string): ApiKey {
  return { name: 'SANDBOX_TOKEN', owner, scopes: ['admin'], digest: sha256(token) };
}

function sha256(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}
