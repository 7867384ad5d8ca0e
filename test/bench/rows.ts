import { callRows } from './call-rows.js';
import { createRows } from './create-rows.js';
import { footprintRows } from './footprint-rows.js';
import { poolRows } from './pool-rows.js';
import type { Row } from './row.js';
import { transferRows } from './transfer-rows.js';

export const rows: readonly Row[] = [
  ...callRows,
  ...[64, 256].flatMap((size) => transferRows(size)),
  ...createRows,
  ...poolRows,
  ...footprintRows,
];
