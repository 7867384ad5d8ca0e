import type { CallOptions, EngineInfo } from '../engine/engine.js';
import type { EngineFacts } from '../engine/facts.js';
import { SandyardError } from '../errors.js';
import { checkAllowed, isGvisor, kindOfNetwork, notAllowed, type IsolationSettings } from '../isolation.js';
import type { ParsedCreateOptions } from '../schemas.js';
import type { DiskBounding, DiskBounds } from './disk-bounds.js';

/** gVisor's own threads are what the engine counts: about eight for each process in a sandbox, and a hundred of its own. */
const THREADS_PER_PROCESS = 8;
const LEAST_THREADS = 2048;

interface IsolatingParts {
  readonly facts: EngineFacts;
  readonly disk: DiskBounds;
  readonly settings: IsolationSettings;
  readonly defaultImage: string;
}

/** What was asked for, with all in it that isn't the caller's to say. */
export type SettledOptions = ParsedCreateOptions & { readonly bounding?: DiskBounding | undefined };

/** How many processes the engine is to hold a sandbox to that may have `pids`. */
export function toPidsLimit(pids: number, runtime: string | null): number {
  return isGvisor(runtime) ? Math.max(LEAST_THREADS, pids * THREADS_PER_PROCESS) : pids;
}

/** Settles how a sandbox is isolated: by what was asked for, what the operator allows, and what the engine has. */
export class Isolating {
  readonly #parts: IsolatingParts;

  constructor(parts: IsolatingParts) {
    this.#parts = parts;
  }

  /** Puts in the profile, and checks all that can be without the engine. Throws `forbidden`, naming the setting. */
  check<Given extends ParsedCreateOptions>(given: Given): Given & { readonly profile: IsolationSettings['profile'] } {
    const { settings, defaultImage } = this.#parts;
    const { profile = settings.profile, image = defaultImage } = given;
    checkAllowed({ profile, network: kindOfNetwork(given.network ?? 'none'), image }, { ...settings, defaultImage });
    return { ...given, profile };
  }

  /**
   * The same with the runtime that it is to have; without one it is the engine's own default. `auto`, which is also what
   * `strict` has unless a runtime is named, is gVisor where the engine has it with the network that is wanted. Throws
   * `forbidden`, and `validation_failed` when the engine hasn't the runtime that is named, or that has no network and one
   * is wanted.
   */
  async settle(given: ParsedCreateOptions, options: CallOptions = {}): Promise<SettledOptions> {
    const checked = this.check(given);
    const [settled, bounding] = await Promise.all([
      this.#settleRuntime(checked, options).then((chosen) => this.#checkNetwork(chosen, options)),
      // What is in memory is on no disk.
      checked.profile === 'strict'
        ? undefined
        : this.#parts.disk.read(checked.image ?? this.#parts.defaultImage, options),
    ]);
    return { ...settled, bounding };
  }

  async #settleRuntime(
    checked: ReturnType<typeof this.check>,
    options: CallOptions,
  ): Promise<ReturnType<typeof this.check>> {
    const { profile, network = 'none' } = checked;
    const { runtime, allowedRuntimes } = this.#parts.settings;
    const asked = checked.runtime ?? runtime ?? (profile === 'strict' ? 'auto' : undefined);
    if (asked === undefined && allowedRuntimes === undefined) return checked;
    if (asked === 'auto') return { ...checked, runtime: await this.#strongest(kindOfNetwork(network), options) };
    if (asked !== undefined) {
      this.#checkRuntime(asked);
      await this.#checkThere(asked, options);
      return { ...checked, runtime: asked };
    }
    this.#checkRuntime((await this.#parts.facts.read(options)).defaultRuntime);
    return checked;
  }

  async #strongest(network: string, options: CallOptions): Promise<string | undefined> {
    const { runtimes, runtimesWithoutNetwork, defaultRuntime } = await this.#parts.facts.read(options);
    const fitting = runtimes
      .filter((name) => isGvisor(name) && this.#allows(name))
      .filter((name) => network === 'none' || !runtimesWithoutNetwork.includes(name))
      .toSorted((one, other) => one.length - other.length || one.localeCompare(other));
    if (fitting[0] === undefined) this.#checkRuntime(defaultRuntime);
    return fitting[0];
  }

  /** A sandbox that asks for a network and has none, without being told, would look like one whose network is broken. */
  async #checkNetwork<Given extends ParsedCreateOptions>(chosen: Given, options: CallOptions): Promise<Given> {
    const { network = 'none', runtime } = chosen;
    if (network === 'none') return chosen;
    const hasNetwork = ({ runtimesWithoutNetwork, defaultRuntime }: EngineInfo) =>
      !runtimesWithoutNetwork.includes(runtime ?? defaultRuntime);
    if (hasNetwork(await this.#parts.facts.read(options))) return chosen;
    const info = await this.#parts.facts.readAnew(options); // it may have been registered anew since
    if (hasNetwork(info)) return chosen;
    const name = runtime ?? info.defaultRuntime;
    const others = info.runtimes.filter((other) => this.#allows(other) && !info.runtimesWithoutNetwork.includes(other));
    const choice = others.length === 0 ? '' : `Use one of ${others.join(', ')}, or auto for the strongest. `;
    const message = `The runtime ${name} has no network, and "${kindOfNetwork(network)}" is asked for.`;
    throw new SandyardError('validation_failed', message, {
      hint: `${choice}For gVisor with a network, have the operator register runsc once more, with --network=host.`,
      issues: [{ path: ['runtime'], message: 'has no network' }],
    });
  }

  async #checkThere(runtime: string, options: CallOptions): Promise<void> {
    if ((await this.#parts.facts.read(options)).runtimes.includes(runtime)) return;
    const { runtimes } = await this.#parts.facts.readAnew(options); // it may have been registered since
    if (runtimes.includes(runtime)) return;
    throw new SandyardError('validation_failed', `The engine has no runtime ${runtime}.`, {
      hint: `It has ${runtimes.join(', ')}. Use one of these, or register it in the daemon.json of the engine.`,
      issues: [{ path: ['runtime'], message: 'is not a runtime of the engine' }],
    });
  }

  #allows(runtime: string): boolean {
    return this.#parts.settings.allowedRuntimes?.includes(runtime) !== false;
  }

  #checkRuntime(runtime: string): void {
    if (this.#allows(runtime)) return;
    throw notAllowed(`the runtime ${runtime}`, 'SANDBOX_ALLOWED_RUNTIMES', this.#parts.settings.allowedRuntimes ?? []);
  }
}
