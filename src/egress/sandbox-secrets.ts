import type { CallOptions, EgressEndpoint } from '../engine/engine.js';
import { SandyardError } from '../errors.js';
import type { SecretEntry } from '../proxy/secrets.js';
import type { SandboxRecord } from '../record/record.js';
import { parseInput } from '../schemas.js';
import { secretValueSchema, type SecretTraits } from '../secret-schemas.js';
import type { Egress } from './egress.js';
import type { ProxyContainer } from './proxy-container.js';
import { changeSecrets, secretsAt } from './secret-files.js';

/** The secrets that a sandbox was made with, as they are now. What they are can be set, and never be had. */
export class SandboxSecrets {
  readonly #egress: Egress;
  readonly #record: SandboxRecord;

  /** @internal Made by a sandbox. */
  constructor(egress: Egress, record: SandboxRecord) {
    this.#egress = egress;
    this.#record = record;
  }

  /** Where each goes, by its name; those that were removed are gone. */
  async list(_options: CallOptions = {}): Promise<SecretTraits> {
    const found = await this.#ask((proxy, { address }) => secretsAt(proxy.files, { id: this.#record.id, address }));
    return Object.fromEntries(
      (found ?? []).map(({ name, hosts, interceptTls }) => [name, { hosts: [...hosts], interceptTls }]),
    );
  }

  /**
   * Gives one another value, from the next request on; what stands for it inside stays. Throws `validation_failed` for a
   * name that the sandbox wasn't made with, or whose secret was removed.
   */
  async set(name: string, { value, signal: _signal }: CallOptions & { value: string }): Promise<void> {
    const concealed = parseInput(secretValueSchema, value, 'secret');
    await this.#change((secrets) => {
      if (secrets.every((secret) => secret.name !== name)) throw this.#unknown(name, secrets);
      return secrets.map((secret) => (secret.name === name ? { ...secret, value: concealed.reveal() } : secret));
    });
  }

  /** Takes one away: from the next request on its host gets the placeholder. Succeeds where there is none. */
  async remove(name: string, _options: CallOptions = {}): Promise<void> {
    await this.#change((secrets) => secrets.filter((secret) => secret.name !== name));
  }

  async #change(change: (secrets: readonly SecretEntry[]) => readonly SecretEntry[]): Promise<void> {
    const { id } = this.#record;
    const changed = await this.#ask(async (proxy, { address }) => {
      await changeSecrets(proxy.files, { id, address }, change);
      return true;
    });
    if (changed === undefined) change([]);
  }

  /** `undefined` where it has no egress, and so no secrets. */
  async #ask<Answer>(act: (proxy: ProxyContainer, endpoint: EgressEndpoint) => Promise<Answer>) {
    const { id, network, secrets } = this.#record;
    if (typeof network === 'string' || Object.keys(secrets).length === 0) return undefined;
    return this.#egress.withProxy(id, act);
  }

  #unknown(name: string, secrets: readonly SecretEntry[]): SandyardError {
    const names = secrets.map((secret) => secret.name).join(', ');
    const message = `The sandbox ${this.#record.id} has no secret ${JSON.stringify(name.slice(0, 128))}.`;
    return new SandyardError('validation_failed', message, {
      hint: `${names === '' ? 'It has none' : `It has ${names}`}; others have to be given when a sandbox is made.`,
      issues: [{ path: ['name'], message: 'is not the name of a secret of this sandbox' }],
    });
  }
}
