import type { CallOptions, Engine, EngineInfo } from './engine.js';

/** For so long what an engine has is taken to be what it has: it changes with its configuration. */
const FRESH_MS = 60_000;

/** What an engine has, known for a while: Docker runs other programs to answer that. Not for its time. */
export class EngineFacts {
  readonly #engine: Pick<Engine, 'info'>;
  #known: { readonly info: EngineInfo; readonly until: number } | undefined;

  constructor(engine: Pick<Engine, 'info'>) {
    this.#engine = engine;
  }

  async read(options: CallOptions = {}): Promise<EngineInfo> {
    if (this.#known !== undefined && this.#known.until > performance.now()) return this.#known.info;
    return this.readAnew(options);
  }

  async readAnew(options: CallOptions = {}): Promise<EngineInfo> {
    const info = await this.#engine.info(options);
    this.#known = { info, until: performance.now() + FRESH_MS };
    return info;
  }
}
