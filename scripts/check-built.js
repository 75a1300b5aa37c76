/** npm runs it before `npm start`: without a build it says what to do and ends with exit code 78. */
import { buildSequence, isBuilt } from './build-state.js';

if (!isBuilt()) {
  console.error(`summing-counters: not built. ${buildSequence}`);
  process.exitCode = 78;
}
