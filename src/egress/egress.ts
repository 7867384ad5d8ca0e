import type { EgressSettings } from '../egress-settings.js';
import type { CallOptions, EgressEndpoint, Engine } from '../engine/engine.js';
import { isSandyardError } from '../errors.js';
import type { Log } from '../log.js';
import { containerName, ownedBy, type SandboxTraits } from '../record/record.js';
import { checkCeiling } from './ceiling.js';
import { writeSecrets } from './secret-files.js';
import type { PlannedSecret } from './secrets.js';
import { PROXY_NAME, PROXY_PREFIX, subnetsOf, toEndpoint } from './endpoint.js';
import { readProgram } from './program.js';
import { ProxyContainer, proxyLabel, sharedName } from './proxy-container.js';
import { removeStale, removeState, writePolicy } from './state.js';

/** Marks the network of a sandbox, so that the reaper knows whose it is. */
const LABEL_SANDBOX = 'sandyard.id';
const LABEL_KIND = 'sandyard.network=egress';
/** How often it is looked whether what has egress has a proxy, and the proxy anybody who has egress. */
const TEND_MS = 60_000;
const RETRY_MS = 1000;
/** The proxy outlives every sandbox by so much. */
const LEASE_MARGIN_MS = 3_600_000;

interface EgressParts {
  readonly engine: Engine;
  readonly owner: string;
  readonly log: Log;
  readonly settings: EgressSettings;
  readonly images: readonly string[];
  readonly maxLifetimeMs: number;
}

/** What is to be connected. */
interface Wanting {
  readonly id: string;
  readonly traits: Pick<SandboxTraits, 'network' | 'secrets'>;
  readonly secrets: readonly PlannedSecret[];
  readonly maxLifetimeMs: number;
}

/** What is connected, and what it has to trust where TLS is opened for its secrets. */
interface Prepared {
  readonly endpoint: EgressEndpoint;
  readonly authority: string | undefined;
}

/**
 * The networks of sandboxes with egress, and the proxy that is in all of them. Whatever fails, fails closed: a sandbox
 * without a proxy, and a proxy without a policy, lead nowhere.
 */
export class Egress {
  readonly #parts: EgressParts;
  #opening: Promise<ProxyContainer> | undefined;
  #timer: NodeJS.Timeout | undefined;
  readonly #releasing = new Map<string, Promise<void>>();
  #used = false;
  #idleSince: number | undefined;
  #closed = false;

  constructor(parts: EgressParts) {
    this.#parts = parts;
  }

  get settings(): EgressSettings {
    return this.#parts.settings;
  }

  /** Looks after what there is, from now on. */
  start(): void {
    this.#timer ??= setInterval(() => void this.#tend(), TEND_MS).unref();
    void this.#tend();
  }

  /**
   * Makes the network of a sandbox that is to have egress, with the proxy in it; `undefined` where it is to have none.
   * Throws `limit_exceeded` where it may not.
   */
  async prepare({ id, traits, secrets, maxLifetimeMs }: Wanting): Promise<Prepared | undefined> {
    const { network } = traits;
    if (typeof network === 'string') return undefined;
    const { engine, owner, settings } = this.#parts;
    checkCeiling(network.egress, settings);
    const name = containerName(id);
    const labels = { ...toLabels(owner), [LABEL_SANDBOX]: id };
    this.#used = true;
    // First, so that nobody takes the proxy for one that nobody uses.
    const subnet = await engine.createNetwork({ name, labels, subnets: subnetsOf(settings.subnets), isolated: true });
    try {
      const endpoint = toEndpoint(name, subnet);
      const authority = await this.#withProxy(async (proxy) => {
        await writePolicy(proxy.files, { id, endpoint, policy: network.egress, settings });
        const issued = await writeSecrets(proxy.files, { id, endpoint, secrets, lifetimeMs: maxLifetimeMs });
        await this.#connect(proxy, endpoint);
        await proxy.renew(this.#leaseMs);
        return issued;
      });
      return { endpoint, authority };
    } catch (error) {
      await this.release(id, traits);
      throw error;
    }
  }

  /**
   * Removes the network of a sandbox that is gone, and what is kept of it: of one with secrets also where that takes
   * connecting to the proxy. Never throws: the reaper tries again.
   */
  release(id: string, { secrets = {} }: Partial<Pick<SandboxTraits, 'secrets'>> = {}): Promise<void> {
    const known = this.#releasing.get(id);
    if (known !== undefined) return known;
    const released = this.#release(id, Object.keys(secrets).length > 0).finally(() => this.#releasing.delete(id));
    this.#releasing.set(id, released);
    return released;
  }

  async #release(id: string, hasSecrets: boolean): Promise<void> {
    const { engine, log } = this.#parts;
    const name = containerName(id);
    try {
      const subnet = await engine.findSubnet(name);
      if (subnet === undefined) return;
      this.#used = true;
      const proxy = await (hasSecrets ? this.#open() : this.#opening)?.catch(() => undefined);
      // First, as nobody else has the address while there is the network.
      if (proxy !== undefined) await removeState(proxy.files, { id, address: toEndpoint(name, subnet).address });
      await engine.removeNetwork(name, { disconnect: PROXY_PREFIX });
    } catch (error) {
      log.warn({ sandbox: id, error }, 'could not remove the network of a sandbox that is gone; the reaper will');
    }
  }

  /** Runs something with the proxy, and where that turns out to be gone, with the one that is then made. */
  async withProxy<Result>(id: string, act: (proxy: ProxyContainer, endpoint: EgressEndpoint) => Promise<Result>) {
    const name = containerName(id);
    const subnet = await this.#parts.engine.findSubnet(name);
    if (subnet === undefined) return undefined;
    return this.#withProxy((proxy) => act(proxy, toEndpoint(name, subnet)));
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#timer);
    await Promise.all(this.#releasing.values());
    const { log } = this.#parts;
    await this.#removeUnused().catch((error: unknown) => {
      log.warn({ error }, 'could not remove the egress proxy, which nobody uses any more');
    });
    const proxy = await this.#opening?.catch(() => undefined);
    await proxy?.close();
  }

  get #leaseMs(): number {
    return this.#parts.maxLifetimeMs + LEASE_MARGIN_MS;
  }

  async #withProxy<Result>(act: (proxy: ProxyContainer) => Promise<Result>): Promise<Result> {
    const opening = this.#open();
    try {
      return await act(await opening);
    } catch (error) {
      if (!isGone(error)) throw error;
      this.#forget(opening);
    }
    return act(await this.#open());
  }

  #open(): Promise<ProxyContainer> {
    if (this.#opening !== undefined) return this.#opening;
    const opening = this.#openOnce();
    this.#opening = opening;
    opening.then(
      (proxy) => void proxy.ended().then((how) => this.#lost(opening, how)),
      () => this.#forget(opening),
    );
    return opening;
  }

  async #openOnce(): Promise<ProxyContainer> {
    const { engine, owner, settings, images, log } = this.#parts;
    const program = await readProgram(settings);
    const proxy = await ProxyContainer.open({ engine, owner, settings, images, leaseMs: this.#leaseMs }, program);
    const networks = await this.#networks();
    for (const { name } of networks) {
      const subnet = await engine.findSubnet(name);
      if (subnet !== undefined)
        await this.#connect(proxy, toEndpoint(name, subnet)).catch((error: unknown) => {
          log.warn({ network: name, error }, 'could not connect the egress proxy to a network');
        });
    }
    await removeStale(proxy.files, () => this.#connected());
    log.info({ owner, networks: networks.length }, 'the egress proxy runs');
    return proxy;
  }

  async #connect(proxy: ProxyContainer, { network, proxy: { address } }: EgressEndpoint): Promise<void> {
    await this.#parts.engine.connectNetwork(network, { container: proxy.id, address, aliases: [PROXY_NAME] });
  }

  /** Until there is another one, nothing gets out. */
  #lost(opening: Promise<ProxyContainer>, how: unknown): void {
    if (this.#closed || this.#opening !== opening) return;
    this.#forget(opening);
    this.#parts.log.warn({ how }, 'the egress proxy has ended; another one is made where it is needed');
    setTimeout(() => void this.#tend(), RETRY_MS).unref();
  }

  #forget(opening: Promise<ProxyContainer>): void {
    if (this.#opening !== opening) return;
    this.#opening = undefined;
    void opening.then((proxy) => proxy.close()).catch(() => {});
  }

  async #tend(): Promise<void> {
    if (this.#closed) return;
    try {
      if ((await this.#networks()).length > 0) {
        this.#idleSince = undefined;
        const { files } = await this.#open();
        await removeStale(files, () => this.#connected());
      } else if (this.#used) {
        this.#idleSince ??= performance.now();
        if (performance.now() - this.#idleSince > TEND_MS * 5) await this.#removeUnused();
      }
    } catch (error) {
      this.#parts.log.warn({ error }, 'could not look after the egress proxy; will try again');
    }
  }

  /** The ids of those that have a network. */
  async #connected(): Promise<Set<string | undefined>> {
    return new Set((await this.#networks()).map(({ labels }) => labels[LABEL_SANDBOX]));
  }

  #networks(options: CallOptions = {}) {
    return this.#parts.engine.listNetworks([...ownedBy(this.#parts.owner), LABEL_KIND], options);
  }

  /** Removes the owner's proxies, when there is nobody who has egress. */
  async #removeUnused(): Promise<void> {
    const { engine, owner } = this.#parts;
    if (!this.#used || (await this.#networks()).length > 0) return;
    const opening = this.#opening;
    const proxies = await engine.listContainers([proxyLabel(owner)]);
    if (opening !== undefined) this.#forget(opening);
    for (const { id } of proxies) await engine.removeContainer(id);
    await engine.removeVolume(sharedName(owner));
    await engine.removeNetwork(sharedName(owner));
    this.#used = false;
  }
}

function toLabels(owner: string): Record<string, string> {
  return Object.fromEntries([...ownedBy(owner), LABEL_KIND].map((label) => label.split('=') as [string, string]));
}

/** Whether the proxy was removed or has ended under us. */
function isGone(error: unknown): boolean {
  return ['sandbox_not_found', 'sandbox_died', 'wrong_state'].some((code) =>
    isSandyardError(error, code as 'sandbox_died'),
  );
}
