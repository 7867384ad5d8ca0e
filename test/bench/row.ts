import type Docker from 'dockerode';

import type { ManagerOptions, Sandbox, SandboxManager } from '../../src/index.js';
import type { ByHandOptions } from './by-hand.js';
import type { Samples } from './measure.js';
import type { ServiceProcess } from './services.js';

/** What the rows work with. The sandboxes are there already, and by hand the same containers are used. */
export interface Bench {
  readonly docker: Docker;
  readonly manager: SandboxManager;
  /** Makes another manager, of the same owner. */
  readonly newManager: (options: ManagerOptions) => SandboxManager;
  readonly sandboxes: readonly Sandbox[];
  /** Many small ones, which are made when they are first asked for, and stay until the end. */
  readonly many: () => Promise<readonly Sandbox[]>;
  readonly byHand: ByHandOptions;
  readonly service: ServiceProcess;
  readonly rawService: ServiceProcess;
  /** An empty directory of the host. */
  readonly directory: string;
  readonly quick: boolean;
}

/**
 * What a row is held to. `faster`: by hand takes at least so many times as long, or has at most that part of the
 * throughput. `slower`: it takes at most so many times as long as by hand. `below`: it is below the value, whatever it is by
 * hand.
 */
export interface Bar {
  readonly kind: 'faster' | 'slower' | 'below';
  readonly value: number;
}

export type Unit = 'ms' | '/s' | 'MiB/s' | 'MiB';

export interface Row {
  readonly name: string;
  readonly title: string;
  readonly unit: Unit;
  readonly bar: Bar;
  /** How far the samples are told by their median, or by their 99th percentile. */
  readonly part?: number;
  /** Takes minutes: a quick look leaves it out. */
  readonly long?: boolean;
  /** No samples: it can't be measured here. */
  measure(bench: Bench): Promise<Samples>;
}

/** Whether more of it is better. */
export function isRate(unit: Unit): boolean {
  return unit === '/s' || unit === 'MiB/s';
}

export async function openManager(bench: Bench, options: ManagerOptions): Promise<SandboxManager> {
  const manager = bench.newManager(options);
  await manager.open();
  return manager;
}

export async function containerOf(docker: Docker, sandbox: Sandbox | undefined): Promise<Docker.Container> {
  const { containerId } = await needed(sandbox).inspect();
  return docker.getContainer(containerId);
}

export function needed<T>(value: T | undefined): T {
  if (value === undefined) throw new Error('The bench has too few sandboxes.');
  return value;
}
