import { testManager } from '../fixtures/run.js';
import { describeCore } from './core-cases.js';

describeCore('the default engine', () => testManager());
