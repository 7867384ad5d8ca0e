import type { Scope } from '../access-settings.js';

/** Who asks, and what that is good for. */
export interface Caller {
  /** Whose sandboxes it makes, and, unless it is an admin, whose it sees. */
  readonly owner: string;
  readonly scopes: readonly Scope[];
  /** The only sandbox that it may reach. */
  readonly sandbox?: string | undefined;
  /** By what it is known. `open`: nobody needs a token here. */
  readonly via: 'open' | 'key' | 'token' | 'ticket' | 'link';
  /** The name of its key or the id of its token: for the log. */
  readonly name: string;
  /** Good for one request only. */
  readonly once?: { readonly id: string; readonly expiresAt: Date } | undefined;
  /** Good for one file only. */
  readonly file?: FileAccess | undefined;
}

export interface FileAccess {
  readonly method: 'GET' | 'PUT';
  readonly path: string;
}

export function hasScope({ scopes }: Caller, scope: Scope): boolean {
  return scopes.includes(scope) || scopes.includes('admin');
}

/** The tenant to whose sandboxes it is confined; `undefined` when it may see all. */
export function confinedTo(caller: Caller): string | undefined {
  return caller.scopes.includes('admin') ? undefined : caller.owner;
}
